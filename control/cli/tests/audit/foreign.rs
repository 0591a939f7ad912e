//! The logs of real machines beside the workspace: registers as their machines had them, and as `tpm2_eventlog` has them.

use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_formats::pcr::{Bank, PcrIndex, PcrValues};
use serde_json::Value;

use super::report;

/// Where `tpm2_eventlog` 5.4 has another value, and why: it passes over the locality that PCR 0 starts from, and it extends what
/// SP 800-155 events announce. The machines' own values, which the index has, are ours.
const PEER_IS_WRONG_ABOUT_PCR_0: [&str; 2] =
    ["keylime__binary_bios_measurements.bin", "go-tpm-tools__eventlogwithsp800155.bin"];
/// What `tpm2_eventlog` 5.4 cannot read: events of no register as Windows and CCEL write them, padding, and logs without a header.
const PEER_CANNOT_READ: [&str; 6] = [
    "go-attestation__option_rom_eventlog.bin",
    "go-attestation__short_no_action_eventlog.bin",
    "go-eventlog__cos-113-intel-tdx.bin",
    "python3-uefi-eventlog__p511.bin",
    "trustee__CCEL_data.bin",
    "trustee__CCEL_data_grub.bin",
];

/// The folder of logs and its index; said aloud if it is not there.
fn logs(test: &str) -> Option<(PathBuf, Vec<Value>)> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap().join("shared/data/event-logs");
    let folder = std::env::var_os("KILN_EVENT_LOGS").map_or_else(beside, PathBuf::from);
    let Ok(index) = std::fs::read(folder.join("index.json")) else {
        println!("LEFT OUT: {test}: there are no event logs in KILN_EVENT_LOGS or ../shared/data/event-logs");
        return None;
    };
    Some((folder, serde_json::from_slice::<Vec<Value>>(&index).unwrap()))
}

#[test]
fn real_logs_lead_to_their_machines_values() {
    let Some((folder, index)) = logs("real_logs_lead_to_their_machines_values") else { return };
    let mut compared = 0;
    for entry in &index {
        let file = entry["file"].as_str().unwrap();
        let (audit, answer) = report(&[file], &folder);
        assert_eq!(answer, 14, "{file}");
        for (bank, registers) in entry["pcrs"].as_object().into_iter().flatten() {
            for (register, value) in registers.as_object().unwrap() {
                // The kernel's IMA extends PCR 10 after the firmware's log has ended.
                if file == "own__ovmf-sdstub-uki.bin" && register == "10" {
                    continue;
                }
                let found = audit["pcrs"][bank][register].as_str().unwrap_or_default();
                let untouched = found.is_empty() && value.as_str().unwrap().bytes().all(|byte| byte == b'0');
                assert!(found == value || untouched, "{file}: {bank} {register}: {found}");
                compared += 1;
            }
        }
    }
    println!("{compared} values of {} logs", index.len());
    assert!(compared > 300);
}

#[test]
fn tpm2_eventlog_has_the_same_values() {
    let Some((folder, index)) = logs("tpm2_eventlog_has_the_same_values") else { return };
    let (mut compared, mut unread) = (0, Vec::new());
    for entry in &index {
        let file = entry["file"].as_str().unwrap();
        let peer = Command::new("tpm2_eventlog").arg(folder.join(file)).output().unwrap();
        let text = String::from_utf8_lossy(&peer.stdout).into_owned();
        let Some((_, values)) = text.rsplit_once("\npcrs:\n") else {
            unread.push(file);
            continue;
        };
        let peer = PcrValues::from_text(values.as_bytes()).unwrap();
        let (audit, _) = report(&[file], &folder);
        let pcr_0 = PcrIndex::new(0).unwrap();
        for (bank, index, value) in peer.iter() {
            let found = audit["pcrs"][bank.name()][index.get().to_string()].as_str().unwrap_or_default();
            let is_untouched = found.is_empty() && value.is_zero();
            let is_wrong = index == pcr_0 && PEER_IS_WRONG_ABOUT_PCR_0.contains(&file);
            assert_eq!(found == value.to_string() || is_untouched, !is_wrong, "{file}: {bank} {index}");
            compared += 1;
        }
    }
    println!("{compared} values agree; tpm2_eventlog cannot read {unread:?}");
    assert_eq!(unread, PEER_CANNOT_READ);
    assert!(compared > 200 && Bank::ALL.len() == 5);
}

#[test]
fn real_logs_hold_against_their_machines_values_and_export() {
    let Some((folder, index)) = logs("real_logs_hold_against_their_machines_values_and_export") else { return };
    let directory = tempfile::tempdir().unwrap();
    for entry in index.iter().filter(|entry| entry["pcrs"].is_object()) {
        let file = entry["file"].as_str().unwrap();
        let (pcrs, cel) = (directory.path().join(file).with_extension("json"), directory.path().join(file));
        let (audit, _) = report(&[file], &folder);
        std::fs::write(&pcrs, serde_json::to_vec(&audit).unwrap()).unwrap();
        let arguments = ["--pcrs", pcrs.to_str().unwrap(), "--cel", cel.to_str().unwrap()];
        let (held, answer) = report(&[&[file], &arguments[..]].concat(), &folder);
        assert_eq!(answer, 0, "{file}: {:#}", held["findings"]);
        // What was exported leads to the same values, and is read without its extension.
        let (exported, _) = report(&[cel.to_str().unwrap()], &folder);
        assert_eq!(exported["pcrs"], audit["pcrs"], "{file}");
    }
}
