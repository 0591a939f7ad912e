//! in-toto runtime-trace v0.1: what a step did, as heard from the kernel while it ran. Predicate of a signed statement per step.
//!
//! Source: in-toto attestation framework, `spec/predicates/runtime-trace.md`; how ours is filled in, and what an empty `network`
//! proves: `docs/predicates/runtime-trace/v0.1.md`. Deliberately absent: `fileAccess`. What a step read is bounded by its image,
//! inputs and workspaces, which its record names by digest; files are not listed one by one.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::canonical;
use crate::job::Profile;
use crate::link::MESSAGE_BYTES_MAX;
use crate::names::{MONITOR, Name, PREDICATE_RUNTIME_TRACE};
use crate::statement::{ResourceDescriptor, Statement};
use crate::timestamp::Timestamp;

/// The largest statement with a trace, in bytes of its payload.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// What the list of executions may take of it, in bytes of canonical text: some ten thousand compiler calls.
pub const EXECUTIONS_BYTES_MAX: usize = 3 << 20;
/// What the list of denials may take of it, likewise.
pub const DENIALS_BYTES_MAX: usize = 512 << 10;
// Base64 in a message to PID 1, and again in an envelope on the link: four bytes for three.
const _: () = assert!(PAYLOAD_BYTES_MAX / 3 * 4 + (64 << 10) < MESSAGE_BYTES_MAX);

/// The predicate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RuntimeTrace {
    /// Who watched, and how.
    pub monitor: Monitor,
    /// What was watched.
    pub monitored_process: MonitoredProcess,
    /// What was seen.
    pub monitor_log: MonitorLog,
    /// When.
    pub metadata: Metadata,
}

/// Who watched, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Monitor {
    /// Always [`MONITOR`]: the sandbox that the step ran in.
    #[serde(rename = "type")]
    pub kind: String,
    /// In which way.
    pub trace_policy: TracePolicy,
}

/// In which way a step was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracePolicy {
    /// What the step was allowed beyond its own files: what an empty or absent `network` means follows from it.
    pub profile: Profile,
    /// Executions are heard before the program begins, which waits for it.
    pub executions: Timing,
    /// Denials are heard after the step was told no.
    pub denials: Timing,
}

impl TracePolicy {
    /// How every step of this profile is watched.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        Self { profile, executions: Timing::Synchronous, denials: Timing::Asynchronous }
    }
}

/// Whether what was watched waited for whoever watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timing {
    /// It waited.
    Synchronous,
    /// It went on.
    Asynchronous,
}

/// What was watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitoredProcess {
    /// The kind of machine: its builder id.
    #[serde(rename = "hostID")]
    pub host_id: String,
    /// The build type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which step of which build: [`event`].
    pub event: String,
}

/// How a trace names its step, unique among all steps of all builds.
#[must_use]
pub fn event(build_id: &Name, step: &Name) -> String {
    format!("urn:kiln:build:{build_id}:step:{step}")
}

/// What was seen. Names that begin with `kiln_` are extensions of ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorLog {
    /// The programs that the step's processes executed, in the order in which the kernel allowed them; its own program first.
    pub process: Vec<Execution>,
    /// Connections. Empty where none is possible; absent in the profile `loopback`, where a step may talk to itself unseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Vec<Value>>,
    /// What the step tried and was denied.
    pub kiln_denials: Vec<Denial>,
    /// How much more there was than is listed.
    pub kiln_unlisted: Unlisted,
}

/// What `network` says in this profile: nothing in [`Profile::Loopback`]; in all others that there was none, because no socket
/// but of the family AF_UNIX can exist.
#[must_use]
pub fn network(profile: Profile) -> Option<Vec<Value>> {
    match profile {
        Profile::Strict | Profile::Debug => Some(Vec::new()),
        Profile::Loopback => None,
    }
}

/// A program that began to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Execution {
    /// When, in microseconds since the step began.
    pub time_us: u64,
    /// Which process, by the machine's own numbers.
    pub pid: u32,
    /// The process that had started it; 0: it was gone already.
    pub parent: u32,
    /// The file that ran, by its path in the step's view and its digest; of a script, the script.
    pub binary: ResourceDescriptor,
    /// Its arguments, whatever is not text escaped.
    pub argv: Vec<String>,
    /// Whether arguments were left out or cut for their length.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub argv_cut: bool,
}

/// Something that was tried and denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// Which layer of the sandbox said no.
    pub layer: Name,
    /// What was tried: a system call, an access right, or a limit.
    pub operation: String,
    /// On what.
    pub object: String,
    /// How often.
    pub count: u64,
}

/// How much more there was than is listed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unlisted {
    /// Programs executed.
    pub executions: u64,
    /// Denials, each counted.
    pub denials: u64,
}

/// When, by the authority's time at the challenge plus the time since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Metadata {
    /// When the step began.
    pub build_started_on: Timestamp,
    /// When nothing of it was left.
    pub build_finished_on: Timestamp,
}

/// Bytes as a trace tells them: printable ASCII as it is, a backslash doubled, everything else as `\xNN`.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

/// Why bytes are no trace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More than any machine writes.
    #[error("a trace of {bytes} bytes, more than {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// Their number.
        bytes: usize,
    },
    /// No canonical JSON of this form.
    #[error(transparent)]
    Syntax(#[from] canonical::Error),
    /// A statement with another predicate, without a subject, or of another monitor.
    #[error("it is no statement with a runtime trace of this kind of machine")]
    Kind,
}

/// Reads the payload of a verified envelope.
///
/// # Errors
/// [`Error`]; a value that comes back was made by this monitor and is not larger than one writes.
pub fn read(payload: &[u8]) -> Result<Statement<RuntimeTrace>, Error> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Error::TooLarge { bytes: payload.len() });
    }
    let statement: Statement<RuntimeTrace> = canonical::from_slice_exact(payload)?;
    let ours = statement.is(PREDICATE_RUNTIME_TRACE) && statement.predicate.monitor.kind == MONITOR;
    if ours { Ok(statement) } else { Err(Error::Kind) }
}

/// As many of `all` as fit into `bytes_max` of canonical text, from the first on, and those that do not.
///
/// # Errors
/// Those of [`canonical::to_vec`], for a number that no machine counts to.
pub fn fitting<T: Serialize>(mut all: Vec<T>, bytes_max: usize) -> Result<(Vec<T>, Vec<T>), canonical::Error> {
    let mut bytes = 0;
    for (at, one) in all.iter().enumerate() {
        // And a comma.
        bytes += canonical::to_vec(one)?.len() + 1;
        if bytes > bytes_max {
            let rest = all.split_off(at);
            return Ok((all, rest));
        }
    }
    Ok((all, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256Digest;
    use crate::statement::Subject;
    use proptest::prelude::*;

    fn execution(argument: &str) -> Execution {
        Execution {
            time_us: 7,
            pid: 12,
            parent: 11,
            binary: ResourceDescriptor::new("/usr/bin/cc", Sha256Digest::of(b"cc")),
            argv: vec!["cc".into(), argument.into()],
            argv_cut: false,
        }
    }

    fn statement(profile: Profile) -> Statement<RuntimeTrace> {
        let at = Timestamp::from_unix(1_790_000_000).unwrap();
        let (build_id, step) = ("00".repeat(16).parse().unwrap(), "build".parse().unwrap());
        let predicate = RuntimeTrace {
            monitor: Monitor { kind: MONITOR.into(), trace_policy: TracePolicy::of(profile) },
            monitored_process: MonitoredProcess {
                host_id: crate::names::BUILDER_FIRMWARE.into(),
                kind: crate::names::BUILD_TYPE.into(),
                event: event(&build_id, &step),
            },
            monitor_log: MonitorLog {
                process: vec![execution("-c")],
                network: network(profile),
                kiln_denials: vec![Denial {
                    layer: "seccomp".parse().unwrap(),
                    operation: "socket".into(),
                    object: "AF_INET".into(),
                    count: 3,
                }],
                kiln_unlisted: Unlisted { executions: 0, denials: 2 },
            },
            metadata: Metadata { build_started_on: at, build_finished_on: at.plus_seconds(5) },
        };
        Statement::new(PREDICATE_RUNTIME_TRACE, vec![Subject::new("log/build", Sha256Digest::of(b""))], predicate)
    }

    /// The names of the specification's fields, as others read them.
    #[test]
    fn fields_are_those_of_the_specification() {
        let payload = canonical::to_vec(&statement(Profile::Strict)).unwrap();
        assert_eq!(read(&payload).unwrap(), statement(Profile::Strict));
        let tree: Value = serde_json::from_slice(&payload).unwrap();
        let predicate = &tree["predicate"];
        assert_eq!(tree["predicateType"], "https://in-toto.io/attestation/runtime-trace/v0.1");
        assert_eq!(predicate["monitor"]["tracePolicy"]["executions"], "synchronous");
        for field in ["hostID", "type", "event"] {
            assert!(predicate["monitoredProcess"][field].is_string(), "{field}");
        }
        assert_eq!(predicate["monitorLog"]["network"], serde_json::json!([]));
        assert!(predicate["monitorLog"]["process"][0]["binary"]["digest"]["sha256"].is_string());
        assert!(predicate["metadata"]["buildStartedOn"].as_str().unwrap().ends_with('Z'));
        let loopback: Value = serde_json::to_value(statement(Profile::Loopback)).unwrap();
        assert!(loopback["predicate"]["monitorLog"].get("network").is_none());
    }

    #[test]
    fn what_no_machine_writes_is_refused() {
        let mut other = statement(Profile::Strict);
        other.predicate.monitor.kind = "https://other.example/monitor".into();
        assert!(matches!(read(&canonical::to_vec(&other).unwrap()), Err(Error::Kind)));
        let mut other = statement(Profile::Strict);
        other.predicate_type = crate::names::PREDICATE_RECORD.into();
        assert!(matches!(read(&canonical::to_vec(&other).unwrap()), Err(Error::Kind)));
        let mut long = statement(Profile::Strict);
        long.predicate.monitor_log.process = vec![execution(&"x".repeat(1000)); 5000];
        assert!(matches!(read(&canonical::to_vec(&long).unwrap()), Err(Error::TooLarge { .. })));
        assert!(matches!(read(b"{}"), Err(Error::Syntax(_))));
    }

    #[test]
    fn what_is_not_text_is_escaped() {
        for (bytes, text) in [
            (&b"a b\xc3\xa9~"[..], r"a b\xc3\xa9~"),
            (b"a\nb\\", r"a\x0ab\\"),
            (b"\xff\x7f", r"\xff\x7f"),
            (br"\x0a", r"\\x0a"),
        ] {
            assert_eq!(escaped(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            prop_assert!(read(&bytes).is_err());
        }

        /// One byte changed is another trace or none, never the same.
        #[test]
        fn a_changed_byte_is_noticed(at: prop::sample::Index, byte: u8) {
            let good = statement(Profile::Strict);
            let mut payload = canonical::to_vec(&good).unwrap();
            let at = at.index(payload.len());
            prop_assume!(payload[at] != byte);
            payload[at] = byte;
            if let Ok(other) = read(&payload) {
                prop_assert_ne!(other, good);
            }
        }

        #[test]
        fn a_list_is_cut_at_its_bound_and_nowhere_else(arguments: Vec<String>, bytes_max in 0_usize..2000) {
            let all: Vec<_> = arguments.iter().map(|argument| execution(argument)).collect();
            let (listed, left) = fitting(all.clone(), bytes_max).unwrap();
            prop_assert_eq!([&listed[..], &left[..]].concat(), all);
            // Brackets, less the comma behind the last one.
            prop_assert!(listed.is_empty() || canonical::to_vec(&listed).unwrap().len() <= bytes_max + 1);
            let more: Vec<_> = listed.iter().chain(left.first()).collect();
            prop_assert!(left.is_empty() || canonical::to_vec(&more).unwrap().len() > bytes_max);
        }
    }
}
