//! Found against expected, register by register and event by event.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::names::{BUILDER_DIRECT, BUILDER_FIRMWARE};
use kiln_formats::pcr::{Bank, BankDigest, PcrIndex, PcrValues};
use kiln_formats::reference::{self, EventReference, MachineReference, PcrReference, Reference};

use super::logs::{LoggedEvent, Logs};
use crate::finding::{Finding, Findings, Gate};

/// What must be predicted of a boot through measuring firmware: loader and kernel (4), command line and initrd (9), the image's
/// sections (11), and PID 1 with what it was given (15).
const FIRMWARE_REGISTERS: [u8; 4] = [4, 9, 11, 15];
/// The same where the firmware enforces Secure Boot: its state and keys (7) as well.
const SECURE_BOOT_REGISTERS: [u8; 5] = [4, 7, 9, 11, 15];
/// What must be predicted when QEMU loads the kernel itself: nothing but PID 1 vouches for anything.
const DIRECT_REGISTERS: [u8; 1] = [15];

fn wrong(code: &'static str, object: impl Into<String>, reason: impl Into<String>) -> Finding {
    Finding::new(Gate::Boot, code, object, reason)
}

/// The reference values for one kind of start; they must cover what that kind of start is predicted by.
pub(crate) fn machine<'a>(reference: &'a Reference, builder_id: &str) -> Result<&'a MachineReference, Finding> {
    if reference.version != reference::VERSION {
        return Err(wrong("reference_values", "version", "the version of the reference values is not known"));
    }
    let machine = reference.machines.iter().find(|machine| machine.builder_id == builder_id).ok_or_else(|| {
        wrong("reference_values", builder_id, "there are no reference values for this kind of machine")
    })?;
    let required = match builder_id {
        BUILDER_DIRECT => &DIRECT_REGISTERS[..],
        BUILDER_FIRMWARE => &FIRMWARE_REGISTERS[..],
        _ => &SECURE_BOOT_REGISTERS[..],
    };
    match required.iter().find(|register| !machine.pcrs.contains_key(&register.to_string())) {
        Some(register) => {
            let object = format!("{builder_id}: PCR {register}");
            Err(wrong("reference_values", object, "the reference values leave this register out"))
        }
        None => Ok(machine),
    }
}

/// Compares every register that the reference values name. Names each event that differs.
pub(crate) fn check(machine: &MachineReference, logs: &Logs<'_>) -> Result<(), Findings> {
    let values = logs.values(logs.boot_events());
    let mut findings = Vec::new();
    for (register, expected) in &machine.pcrs {
        match register_number(register) {
            Some(index) => compare(index, expected, &logs.events(index), &values, &mut findings),
            None => findings.push(wrong("reference_values", register, "it is not the number of a quoted register")),
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(Findings(findings)) }
}

fn register_number(text: &str) -> Option<PcrIndex> {
    let index = PcrIndex::new(text.parse().ok()?).ok()?;
    (index.get() <= 15 && index.get().to_string() == text).then_some(index)
}

fn compare(
    index: PcrIndex,
    expected: &PcrReference,
    found: &[LoggedEvent],
    values: &PcrValues,
    findings: &mut Vec<Finding>,
) {
    let before = findings.len();
    for at in 0..expected.events.len().max(found.len()) {
        match (expected.events.get(at), found.get(at)) {
            (Some(expected), Some(found)) if found.sha256 == Some(expected.sha256) => {}
            (Some(expected), Some(found)) => findings.push(differs(index, at, expected, found)),
            (Some(expected), None) => {
                let object = format!("{index} event {at}: {}", expected.name);
                findings.push(wrong(
                    "event_missing",
                    object,
                    "this event is expected, and the log has none in its place",
                ));
            }
            (None, Some(found)) => {
                let object = format!("{index} event {at}: {}", found.text);
                findings.push(wrong(
                    "event_unexpected",
                    object,
                    "nothing is expected here, and the log has this event",
                ));
            }
            (None, None) => {}
        }
    }
    let value = values.get_or_reset(Bank::Sha256, index);
    if findings.len() == before && BankDigest::new(Bank::Sha256, expected.value.as_bytes()) != Some(value) {
        let reason =
            format!("the value is {value}, expected is {}, though every event is the expected one", expected.value);
        findings.push(wrong("value_differs", index.to_string(), reason));
    }
}

fn differs(index: PcrIndex, at: usize, expected: &EventReference, found: &LoggedEvent) -> Finding {
    let measured =
        found.sha256.map_or_else(|| "nothing in the SHA-256 bank".to_owned(), |d: Sha256Digest| d.to_string());
    let reason = format!("expected {}, the boot measured {measured} (logged as {})", expected.sha256, found.text);
    wrong("event_differs", format!("{index} event {at}: {}", expected.name), reason)
}
