//! The two event logs and the register values that they claim together.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::eventlog::EventLog;
use kiln_formats::manifest::path;
use kiln_formats::pcr::{Bank, PcrIndex, PcrValues};
use kiln_formats::runtime_log::RuntimeLog;

use super::events;
use crate::finding::{Finding, Findings, Gate};

/// Registers that must be untouched: nothing may be loaded or passed beside the image.
///
/// Source: UAPI.7 (Linux TPM PCR Registry): 8 boot loader commands, 12 overrides and credentials, 13 system extensions, 14 MOK.
pub(crate) const UNTOUCHED: [u8; 4] = [8, 12, 13, 14];

/// Both logs, well-formed. What they claim counts only where a quote agrees.
#[derive(Debug)]
pub(crate) struct Logs<'a> {
    firmware: Option<EventLog<'a>>,
    firmware_values: PcrValues,
    pub(crate) runtime: RuntimeLog,
}

/// One event of a register, as a log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedEvent {
    /// In words.
    pub(crate) text: String,
    /// What was extended in the SHA-256 bank, if anything.
    pub(crate) sha256: Option<Sha256Digest>,
}

impl<'a> Logs<'a> {
    /// Reads both logs. An absent or empty firmware log claims that nothing was measured before PID 1.
    pub(crate) fn read(firmware: Option<&'a [u8]>, runtime: &[u8]) -> Result<Self, Finding> {
        let firmware = match firmware {
            None | Some([]) => None,
            Some(bytes) => Some(
                EventLog::parse(bytes)
                    .map_err(|e| Finding::new(Gate::Boot, "firmware_log", path::FIRMWARE_LOG, e.to_string()))?,
            ),
        };
        let runtime = RuntimeLog::parse(runtime)
            .map_err(|e| Finding::new(Gate::Boot, "runtime_log", path::RUNTIME_LOG, e.to_string()))?;
        let firmware_values = firmware.as_ref().map(EventLog::replay).unwrap_or_default();
        Ok(Self { firmware, firmware_values, runtime })
    }

    /// How many records of the runtime log are the boot part.
    pub(crate) fn boot_events(&self) -> usize {
        events::boot_events(self.runtime.records())
    }

    /// The register values after the firmware's log and the first `count` records of the runtime log.
    pub(crate) fn values(&self, count: usize) -> PcrValues {
        let mut values = self.firmware_values.clone();
        self.runtime.fold_into(&mut values, count);
        values
    }

    /// The events of one register, for PCR 15 those of the boot part.
    pub(crate) fn events(&self, index: PcrIndex) -> Vec<LoggedEvent> {
        let firmware = self.firmware.iter().flat_map(|log| log.events()).filter(|event| event.extends() == Some(index));
        let mut events: Vec<LoggedEvent> = firmware
            .map(|event| LoggedEvent {
                text: event.to_string(),
                sha256: event
                    .digest(Bank::Sha256)
                    .and_then(|d| d.as_bytes().try_into().ok())
                    .map(Sha256Digest::from_bytes),
            })
            .collect();
        if index == PcrIndex::RUNTIME {
            events.extend(self.runtime.records().iter().take(self.boot_events()).map(|record| {
                let text = record.event.to_string();
                LoggedEvent { sha256: Some(Sha256Digest::of(text.as_bytes())), text }
            }));
        }
        events
    }

    /// Nothing but PID 1 wrote to PCR 15, and nothing at all to those that stay untouched.
    pub(crate) fn check_registers(&self) -> Result<(), Findings> {
        let mut findings = Vec::new();
        for event in self.firmware.iter().flat_map(|log| log.events()) {
            let Some(index) = event.extends() else { continue };
            if UNTOUCHED.contains(&index.get()) || index == PcrIndex::RUNTIME {
                let object = format!("{index}: {event}");
                findings.push(Finding::new(
                    Gate::Boot,
                    "register_touched",
                    object,
                    "no boot of ours extends this register",
                ));
            }
        }
        if findings.is_empty() { Ok(()) } else { Err(Findings(findings)) }
    }
}
