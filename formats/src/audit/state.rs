//! What a boot's logs say by themselves: whether they are whole, whether Secure Boot was on, what was loaded.

use super::{FINDINGS_MAX, Finding, Severity, Worth, event, explain, words};
use crate::boot::{Boot, BootEvent};
use crate::cel::CelLog;
use crate::eventlog::decode::{Decoded, Loader, Separator, VariableValue, plain};
use crate::eventlog::{Content, EventType};
use crate::pcr::Bank;

/// How many characters of a text are quoted.
const QUOTE_CHARS_MAX: usize = 160;

/// What the firmware says when the system takes over.
///
/// Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.4.
const EXIT: &str = "Exit Boot Services Invocation";

/// Words of the firmware that a careful person wants to know of.
///
/// Source: TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4.8 and 10.4.4; Microsoft `DMA Protection Disabled`.
const ALARMS: &[(&str, &str)] = &[
    ("UEFI Debug Mode", "the firmware was in debug mode: whoever holds the debugger holds the machine"),
    ("DMA Protection Disabled", "devices could write to memory while the machine started (DMA protection was off)"),
];

/// What was seen of the events so far.
pub(super) struct State<'c> {
    context: &'c words::Context<'c>,
    findings: Vec<Finding>,
    secure_boot_is_known: bool,
    firmware_measures: bool,
    firmware_hands_over: bool,
    firmware_ends: bool,
    marks_trust_domain: bool,
}

impl<'c> State<'c> {
    pub(super) fn new(context: &'c words::Context<'c>) -> Self {
        Self {
            context,
            findings: Vec::new(),
            secure_boot_is_known: false,
            firmware_measures: false,
            firmware_hands_over: false,
            firmware_ends: false,
            marks_trust_domain: false,
        }
    }

    /// Looks at the next event.
    pub(super) fn see(&mut self, number: usize, event: &BootEvent<'_>, content: Option<&Content<'_>>) {
        let fact = content.and_then(Content::fact);
        self.firmware_measures |= !event.is_runtime() && event.extends().is_some();
        self.firmware_hands_over |= event.event_type() == Some(EventType::SEPARATOR);
        self.marks_trust_domain |= explain::marks_trust_domain(content);
        match fact {
            Some(Decoded::Text(text)) => self.firmware_ends |= text == EXIT,
            Some(Decoded::Variable(variable)) => self.secure_boot_is_known |= variable.name == "SecureBoot",
            _ => {}
        }
        if self.findings.len() >= FINDINGS_MAX {
            return;
        }
        if event::worth_of(event, content) == Worth::Mismatched {
            let words = format!(
                "event {number} does not hash to its digest: it was altered, or its writer is at fault; what it says is no fact"
            );
            let finding = Finding::new(Severity::Failure, "content_altered", words).at(event.extends(), Some(number));
            let expected = event.digests().first().map(|digest| format!("{digest:?}")).unwrap_or_default();
            self.findings.push(finding.values(expected, plain(&event.to_string(), QUOTE_CHARS_MAX)));
            return;
        }
        let said = match (fact, content) {
            (Some(fact), _) => said(fact),
            (None, Some(Content::NotHashed(claim))) => match claim.alleged() {
                Decoded::Image(image) if event.event_type() != Some(EventType::BOOT_SERVICES_APPLICATION) => {
                    let what = words::loaded(image, event.event_type(), self.context);
                    let severity =
                        if image.path.firmware_file().is_some() { Severity::Note } else { Severity::Warning };
                    Some((severity, "driver_loaded", format!("{what} was loaded")))
                }
                _ => None,
            },
            _ => None,
        };
        let known_line = words::known_line(event, self.context).map(|line| {
            let words = format!("the kernel command line is `{}`", plain(line, QUOTE_CHARS_MAX));
            (Severity::Note, "command_line", words)
        });
        for (severity, code, words) in known_line.into_iter().chain(said) {
            self.findings.push(Finding::new(severity, code, words).at(event.extends(), Some(number)));
        }
    }

    /// Whether the events are of a trust domain, whose registers have other numbers: SHA-384 alone, and what only its firmware
    /// writes.
    pub(super) fn is_trust_domain(&self, banks: &[Bank]) -> bool {
        self.marks_trust_domain && *banks == [Bank::Sha384]
    }

    /// What there is to say, when all events were seen.
    pub(super) fn findings(self, boot: &Boot<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let torn = boot.runtime.as_ref().map(CelLog::damaged_count).filter(|damaged| *damaged > 0);
        if let Some(damaged) = torn {
            let words =
                format!("the runtime log is torn: {damaged} records of it cannot be read, and more may be missing");
            findings.push(Finding::new(Severity::Failure, "runtime_log_torn", words));
        }
        if self.firmware_hands_over && !self.firmware_ends {
            let words = "the log does not say that the firmware ended (Exit Boot Services): it may be cut off, or the firmware is old";
            findings.push(Finding::new(Severity::Warning, "exit_missing", words));
        }
        if self.firmware_measures && !self.firmware_hands_over {
            let words = "the log has no separator: it does not say where the firmware ended, and whoever came before the system could have added to it; it may lack its beginning or its end";
            findings.push(Finding::new(Severity::Warning, "separator_missing", words));
        }
        findings.extend(self.findings);
        if !self.secure_boot_is_known && boot.firmware.is_some() {
            let words = "the log does not say whether Secure Boot was on";
            findings.push(Finding::new(Severity::Warning, "secure_boot_unknown", words));
        }
        findings
    }
}

/// What one fact says that is worth a sentence.
fn said(fact: &Decoded<'_>) -> Option<(Severity, &'static str, String)> {
    match fact {
        Decoded::Variable(variable) => match (variable.name.as_str(), &variable.value) {
            ("SecureBoot", VariableValue::Switch(true)) => {
                Some((Severity::Note, "secure_boot_on", "Secure Boot is on".to_owned()))
            }
            ("SecureBoot", _) => Some((Severity::Warning, "secure_boot_off", "Secure Boot is off".to_owned())),
            ("SetupMode", VariableValue::Switch(true)) => Some((
                Severity::Warning,
                "setup_mode",
                "Secure Boot is in setup mode: anyone may enrol keys".to_owned(),
            )),
            ("MokSBState", VariableValue::Switch(true)) => {
                Some((Severity::Warning, "shim_unchecked", "shim does not check what it starts".to_owned()))
            }
            _ => None,
        },
        Decoded::Separator(Separator::Error(code)) => {
            let words = format!("the firmware reports error {code:#x}: it handed over without having measured");
            Some((Severity::Failure, "firmware_error", words))
        }
        Decoded::Loader(Loader::Grub { word: crate::eventlog::decode::Word::KernelCommandLine, text }) => {
            let words = format!("the kernel command line is `{}`", plain(text, QUOTE_CHARS_MAX));
            Some((Severity::Note, "command_line", words))
        }
        Decoded::Text(text) => {
            let alarm = ALARMS.iter().find(|(word, _)| word == text)?;
            Some((Severity::Warning, "firmware_alarm", alarm.1.to_owned()))
        }
        _ => None,
    }
}
