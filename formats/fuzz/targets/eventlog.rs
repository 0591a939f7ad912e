//! Firmware event logs: parse, decode and weigh every event, replay.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = kiln_formats::eventlog::EventLog::parse(bytes) {
        let _ = log.replay();
        let events = log.events().filter(|event| !event.content().to_string().is_empty()).count();
        assert_eq!(events, log.event_count(), "the walks disagree about the events");
    }
});
