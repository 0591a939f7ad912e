//! Everything that ends the machine without evidence, and the line on the console that says so.

use rustix::io::Errno;

use crate::child::ChildError;
use crate::custody::CustodyError;
use crate::features::FeatureError;
use crate::measure::MeasureError;
use crate::metal::MetalError;
use crate::mounts::MountError;
use crate::supervise::SuperviseError;
use crate::sysctl::SysctlError;

/// The longest line on the console in bytes, because the builder chooses a part of it.
const LINE_BYTES_MAX: usize = 1024;

/// Why the machine cannot go on. [`Fault::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// PID 1 could not protect itself.
    #[error("cannot {what}")]
    Harden {
        /// From what.
        what: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// The file systems.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel's settings.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The kernel's features.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// The TPM, PCR 15, the logs.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// A server's way to its authority.
    #[error(transparent)]
    Metal(#[from] MetalError),
    /// What the builder asked for.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The builder as a process.
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    /// The builder's process before it is the builder.
    #[error(transparent)]
    Child(#[from] ChildError),
}

impl Fault {
    /// Stable; scripts may rely on it.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Harden { .. } => "harden",
            Self::Mount(_) => "mount",
            Self::Sysctl(_) => "sysctl",
            Self::Feature(_) => "feature",
            Self::Measure(error) | Self::Custody(CustodyError::Measure(error)) => measure_code(error),
            Self::Metal(error) => error.code(),
            Self::Custody(CustodyError::Order(_)) => "order",
            Self::Custody(CustodyError::Builder { code, .. }) => code.as_str(),
            Self::Custody(CustodyError::Random { .. } | CustodyError::Encoding) => "statement_key",
            Self::Custody(CustodyError::Identity { .. }) => "identity",
            Self::Supervise(SuperviseError::Ended { .. }) => "builder_ended",
            Self::Supervise(SuperviseError::Lifetime) => "lifetime",
            Self::Supervise(_) => "builder_io",
            Self::Child(_) => "builder_start",
        }
    }

    /// `kiln: fault: <code>: <text>`, on one line whatever the builder said.
    pub(crate) fn line(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors repeat their source in their own text.
            if !text.ends_with(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        line(self.code(), &text)
    }
}

fn measure_code(error: &MeasureError) -> &'static str {
    match error {
        MeasureError::NoTpm | MeasureError::Tpm(_) => "tpm",
        MeasureError::NotZero { .. } => "pcr_not_zero",
        _ => "measure",
    }
}

/// A fault as the host reads it on the console: printable ASCII, bounded.
pub(crate) fn line(code: &str, text: &str) -> String {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    format!("kiln: fault: {code}: {text}").chars().map(printable).take(LINE_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_line_with_a_code_and_its_causes() {
        let source = std::io::Error::from_raw_os_error(2);
        let fault = Fault::from(FeatureError::Io { path: "/proc/x", source });
        assert_eq!(fault.line(), "kiln: fault: feature: cannot use /proc/x: No such file or directory (os error 2)");
    }

    #[test]
    fn the_builder_cannot_forge_a_second_line() {
        let code = "link".parse().unwrap();
        let text = format!("gone\nkiln: fault: tpm: \u{1b}[2J{}", "x".repeat(2000));
        let line = Fault::from(CustodyError::Builder { code, text }).line();
        assert!(line.starts_with("kiln: fault: link: gone?kiln: fault: tpm: ?[2Jxxx"));
        assert_eq!(line.len(), LINE_BYTES_MAX);
    }
}
