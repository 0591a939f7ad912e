//! What a boot's logs say by themselves: whether they are whole, whether Secure Boot was on, what was loaded.

use super::{Against, FINDINGS_MAX, Finding, Severity, event, words};
use crate::boot::{Boot, BootEvent};
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

pub(super) fn findings(boot: &Boot<'_>, events: &[BootEvent<'_>], against: &Against<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    wholeness(boot, events, &mut findings);
    let network_devices = event::network_devices(events);
    let context =
        words::Context { bank: Bank::Sha256, command_lines: against.command_lines, network_devices: &network_devices };
    let mut secure_boot_is_known = false;
    for (number, event) in events.iter().enumerate() {
        if findings.len() >= FINDINGS_MAX {
            break;
        }
        let content = event.content();
        if event::worth_of(event, content.as_ref()) == super::Worth::Mismatched {
            let words = format!(
                "event {number} does not hash to its digest: it was altered, or its writer is at fault; what it says is no fact"
            );
            let finding = Finding::new(Severity::Failure, "content_altered", words).at(event.extends(), Some(number));
            let expected = event.digests().first().map(|digest| format!("{digest:?}")).unwrap_or_default();
            findings.push(finding.values(expected, plain(&event.to_string(), QUOTE_CHARS_MAX)));
            continue;
        }
        let fact = content.as_ref().and_then(Content::fact);
        if let Some(Decoded::Variable(variable)) = fact {
            secure_boot_is_known |= variable.name == "SecureBoot";
        }
        let said = match (fact, &content) {
            (Some(fact), _) => said(fact),
            (None, Some(Content::NotHashed(claim))) => match claim.alleged() {
                Decoded::Image(image) if event.event_type() != Some(EventType::BOOT_SERVICES_APPLICATION) => {
                    let what = words::loaded(image, event.event_type(), &context);
                    let severity =
                        if image.path.firmware_file().is_some() { Severity::Note } else { Severity::Warning };
                    Some((severity, "driver_loaded", format!("{what} was loaded")))
                }
                _ => None,
            },
            _ => None,
        };
        if let Some(line) = words::known_line(event, &context) {
            let words = format!("the kernel command line is `{}`", plain(line, QUOTE_CHARS_MAX));
            findings.push(Finding::new(Severity::Note, "command_line", words).at(event.extends(), Some(number)));
        }
        if let Some((severity, code, words)) = said {
            findings.push(Finding::new(severity, code, words).at(event.extends(), Some(number)));
        }
    }
    if !secure_boot_is_known && boot.firmware.is_some() {
        let words = "the log does not say whether Secure Boot was on";
        findings.push(Finding::new(Severity::Warning, "secure_boot_unknown", words));
    }
    findings
}

/// Whether the logs are all there.
fn wholeness(boot: &Boot<'_>, events: &[BootEvent<'_>], findings: &mut Vec<Finding>) {
    if let Some(damaged) = boot.runtime.as_ref().map(crate::cel::CelLog::damaged_count).filter(|damaged| *damaged > 0) {
        let words = format!("the runtime log is torn: {damaged} records of it cannot be read, and more may be missing");
        findings.push(Finding::new(Severity::Failure, "runtime_log_torn", words));
    }
    let is_exit = |event: &BootEvent<'_>| {
        let content = event.content();
        matches!(content.as_ref().and_then(Content::fact), Some(Decoded::Text(text)) if text == EXIT)
    };
    let has_firmware_events = events.iter().any(|event| event.event_type() == Some(EventType::SEPARATOR));
    if has_firmware_events && !events.iter().any(is_exit) {
        let words = "the log does not say that the firmware ended (Exit Boot Services): it may be cut off, or the firmware is old";
        findings.push(Finding::new(Severity::Warning, "exit_missing", words));
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
