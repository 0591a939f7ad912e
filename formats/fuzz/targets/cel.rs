//! Runtime logs and canonical event logs of any writer: parse, export, read back.
#![no_main]

use kiln_formats::boot::Boot;
use kiln_formats::cel::{CelLog, export};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(log) = CelLog::parse(bytes) else { return };
    let text = export(None, Some(&log));
    let boot = Boot { firmware: None, runtime: Some(log) };
    let values = boot.replay();
    if boot.runtime.as_ref().is_some_and(|log| log.record_count() > 0) {
        let read = CelLog::parse(text.as_bytes()).expect("what we write we read");
        assert_eq!(Boot { firmware: None, runtime: Some(read) }.replay(), values);
    }
});
