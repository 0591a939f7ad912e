//! What the process answers to its caller, and how an error gets there.

use std::error::Error;
use std::process::ExitCode;

use miette::{IntoDiagnostic as _, Report};

/// How a command ended. The numbers are stable; scripts may rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done, and if something was built or judged: well.
    Done = 0,
    /// The arguments, or a file that they name, cannot be used. Also what `clap` answers.
    Usage = 2,
    /// The machine refused the job, in a signed decision.
    JobRefused = 10,
    /// The authority refused the machine: its first quote does not hold.
    NotAttested = 11,
    /// A step failed; the evidence says how.
    StepFailed = 12,
    /// The evidence does not hold.
    NotVerified = 13,
    /// Nothing contradicts a boot's logs, and there was nothing to prove all of them with.
    Unproven = 14,
    /// The image was not started: no producer whom the site trusts made it, or it was altered since.
    ImageRefused = 15,
    /// This host, its programs, or the machine failed. There is no evidence.
    Infrastructure = 20,
    /// The person pressed Ctrl-C. Source: POSIX shells add 128 to the signal's number.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the process answers.
    pub(crate) exit: Exit,
    /// What is printed, with its whole chain of causes.
    pub(crate) report: Report,
}

/// What most commands return.
pub(crate) type Result<T = Exit> = std::result::Result<T, Failure>;

/// Says which exit an error leads to.
pub(crate) trait OrExit<T> {
    /// Turns an error into a [`Failure`] with this exit.
    fn or_exit(self, exit: Exit) -> Result<T>;
}

impl<T, E: Error + Send + Sync + 'static> OrExit<T> for std::result::Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T> {
        self.into_diagnostic().map_err(|report| Failure { exit, report })
    }
}

/// An error that only the tool itself finds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// The output directory, or the file, is there already.
    #[error("{} exists; kiln overwrites nothing", path.display())]
    Exists { path: std::path::PathBuf },
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: std::path::PathBuf, source: std::io::Error },
    /// A file larger than anything that it could be.
    #[error("{} is larger than {bytes_max} bytes", path.display())]
    TooLarge { path: std::path::PathBuf, bytes_max: u64 },
    /// A file whose name is not text.
    #[error("{} has a name that is not text: it is kept under that name", path.display())]
    NoName { path: std::path::PathBuf },
    /// A host that the site's policy does not name.
    #[error(
        "the site's policy names no host with the key that this TPM quotes with: see `kiln host enrol` and `kiln trust policy`"
    )]
    HostUnknown,
    /// A TPM that opened something else.
    #[error("the TPM did not open the credential: its attestation key is not where its endorsement key is")]
    HostUnproven,
    /// A draft with mistakes, which were printed.
    #[error("{} has {count} mistake(s)", path.display())]
    Draft { path: std::path::PathBuf, count: usize },
    /// A file that is not text.
    #[error("{} is not UTF-8 text", path.display())]
    NotText { path: std::path::PathBuf },
    /// A document that cannot be read.
    #[error("{} cannot be read", path.display())]
    Document { path: std::path::PathBuf, source: kiln_formats::canonical::Error },
    /// A JSON file of ours that cannot be read.
    #[error("{} cannot be read", path.display())]
    Json { path: std::path::PathBuf, source: serde_json::Error },
    /// A description of a machine that cannot be read.
    #[error("{} is no description of a machine", path.display())]
    Description { path: std::path::PathBuf, source: toml::de::Error },
    /// A certificate that cannot be read.
    #[error("{} cannot be read", path.display())]
    Certificate { path: std::path::PathBuf, source: kiln_formats::certificate::CertificateError },
    /// A site without reference values.
    #[error("the site {} has no reference values; `kiln reference IMAGE --site DIR --save` adds them", path.display())]
    NoReference { path: std::path::PathBuf },
    /// A signed document whose signer nobody named.
    #[error("{} is signed: name the public key of the image's producer with --publisher", path.display())]
    Publisher { path: std::path::PathBuf },
    /// A signed document of another signer than the one that the person named.
    #[error("publisher_refused: {} was not signed by the key that --publisher names", path.display())]
    OtherPublisher { path: std::path::PathBuf },
    /// A signed document that does not hold.
    #[error("{} does not hold", path.display())]
    Envelope { path: std::path::PathBuf, source: kiln_formats::dsse::Error },
    /// A signed document of another kind.
    #[error("{} is no {expected}", path.display())]
    Statement { path: std::path::PathBuf, expected: &'static str },
    /// Reference values that contradict themselves.
    #[error("{} cannot be used", path.display())]
    Prediction { path: std::path::PathBuf, source: kiln_formats::prediction::PredictionError },
    /// A part of the image that is not published.
    #[error("--check compares whole images: kiln build image --check FILE")]
    CheckPart,
    /// The description of another image than the one that was named.
    #[error("{} describes another image", path.display())]
    OtherImage { path: std::path::PathBuf },
    /// Neither a site nor its three parts.
    #[error("name the site with --site, or --root, --policy and --reference")]
    NoAnchors,
    /// Secure Boot without firmware to enforce it.
    #[error("a direct start has no firmware that could enforce Secure Boot: leave out --boot direct or --secure-boot")]
    NoFirmware,
    /// A bundle that no machine makes.
    #[error("{} is no evidence: {why}", path.display())]
    Bundle { path: std::path::PathBuf, why: &'static str },
    /// No log where one was named.
    #[error("{} holds no such log", path.display())]
    NoLog { path: std::path::PathBuf },
    /// A list of jobs that is too long.
    #[error("more than {jobs_max} jobs")]
    TooManyJobs { jobs_max: usize },
    /// An input that no job has.
    #[error("no job has an input {name}")]
    UnknownInput { name: kiln_formats::names::Name },
    /// Several images, and nobody said which.
    #[error("the site {} has several reference documents: name one with --reference", path.display())]
    WhichReference { path: std::path::PathBuf },
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    /// A ledger entry that is none.
    #[error("entry {sequence} of the ledger cannot be read")]
    Entry { sequence: u64, source: serde_json::Error },
    /// A build's evidence whose certificates the authority's ledger does not know.
    #[error("{} was not certified by any entry of the ledger: entries are gone, or another authority issued its certificates", path.display())]
    NotInLedger { path: std::path::PathBuf },
    /// Raw bytes of a step, and a terminal to take them.
    #[error("a step's raw bytes are not written to a terminal; send them to a file or a program")]
    Terminal,
    /// There is no cache directory to be had.
    #[error("set XDG_CACHE_HOME or HOME: there is no place for the cache")]
    NoCache,
    /// The clock of this host is before 1970 or after 9999.
    #[error("this host's clock is out of range")]
    Clock,
    /// The machine was started and did not bring its job to an end.
    #[error("the machine failed ({end}){said}")]
    Machine { end: String, said: String, source: kiln_attestor::Fault },
    /// The machine said that it was done and did not switch itself off.
    #[error("the machine did not switch itself off: {end}")]
    NotPoweredOff { end: String },
    /// The machine's files could not be removed.
    #[error("{} is left of the machine", path.display())]
    Left { path: std::path::PathBuf },
    /// A command that the tool ran did not succeed.
    #[error("`{command}` ended with {status}")]
    Command { command: String, status: std::process::ExitStatus },
    /// An image that nobody starts.
    #[error("the image is refused: {why}; {} says so", out.display())]
    ImageRefused { why: String, out: std::path::PathBuf },
    /// The site's own producer is not here, or does not count.
    #[error("{} has no image.key whose holder its policy names among its image_producers", path.display())]
    NoProducer { path: std::path::PathBuf },
    /// A machine that was to be measured did not build.
    #[error("there is nothing to measure: {outcome}")]
    NotMeasured { outcome: String },
    /// The demonstration's second half did not go as it must.
    #[error("a flipped bit was not noticed")]
    FlipNotNoticed,
}
