//! Why a boot cannot be audited.

use std::path::PathBuf;

use kiln_formats::audit::BOOTS_MAX;
use kiln_formats::cel::CelError;
use kiln_formats::eventlog::EventLogError;
use kiln_formats::pcr::ValuesError;
use kiln_formats::quote::ForeignQuoteError;

/// What is wrong with what was named.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// A file that is empty.
    #[error(
        "{} is empty: this firmware keeps no log, or the kernel was not given it (some clouds have an empty one)",
        path.display()
    )]
    Empty { path: PathBuf },
    /// A file that is no log of the firmware.
    #[error("{} is no event log", path.display())]
    Firmware { path: PathBuf, source: EventLogError },
    /// A file that is no log in JSON.
    #[error("{} is no event log in JSON", path.display())]
    Runtime { path: PathBuf, source: CelError },
    /// A log in JSON of which nothing can be read.
    #[error("{} is JSON, and no record of an event log is in it", path.display())]
    NoRecord { path: PathBuf },
    /// The main log is in JSON already.
    #[error("{} has the running system's records itself; --runtime-log belongs to a firmware log", path.display())]
    TwoRuntimeLogs { path: PathBuf },
    /// A path that is neither a file nor a directory.
    #[error("{} is neither a file nor a directory", path.display())]
    Kind { path: PathBuf },
    /// A directory in which nothing could be a boot.
    #[error("there is no boot in {}", path.display())]
    NoBoot { path: PathBuf },
    /// Too many entries.
    #[error("{} has more than {BOOTS_MAX} entries", path.display())]
    TooMany { path: PathBuf },
    /// Too many bytes.
    #[error("these boots have more than 1 GiB together")]
    TooMuch,
    /// Register values that cannot be read.
    #[error("{} holds no register values", path.display())]
    Values { path: PathBuf, source: ValuesError },
    /// A quote's key that cannot be used.
    #[error("{} is no key of a quote", path.display())]
    Key { path: PathBuf, source: ForeignQuoteError },
    /// Reference values that are of other machines.
    #[error("the reference values have none for this kind of machine{}", builder_id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default())]
    NoMachine { builder_id: Option<String> },
    /// An option for one boot, and several boots.
    #[error("--runtime-log, --pcrs, --quote, --signature, --key and --cel are for one boot")]
    ForOne,
    /// A torn log would be exported.
    #[error("the runtime log of {name} is torn: what is left of it is not exported as if it were whole")]
    Torn { name: String },
    /// This machine has no TPM, no measured boot, or both.
    #[error(
        "this machine has no TPM that Linux knows: {} has no PCR values and no log; audit a log by naming its file",
        path.display()
    )]
    NoTpm { path: PathBuf },
}
