//! Firmware event logs: parse, describe, replay.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = kiln_formats::eventlog::EventLog::parse(bytes) {
        let _ = log.replay();
        for event in log.events() {
            let _ = kiln_formats::eventlog::describe(&event);
        }
    }
});
