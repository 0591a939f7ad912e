//! Both logs of a boot as one canonical event log, for auditors with other tools.

use super::{CelLog, Record, RecordContent, Target};
use crate::eventlog::{Event, EventLog, EventType};
use crate::pcr::{Bank, BankDigest, PCR_COUNT};

/// One JSON array: the firmware's records, its header among them, then the runtime's; `recnum` counts in each register.
///
/// What a runtime log has damaged is left out: check [`CelLog::damaged_count`] first. The output has at most eight bytes for each
/// byte of a firmware log, and some more for each record.
///
/// Source: TCG Canonical Event Log Format 1.0, section 4 (JSON); `recnum` starts at 0 in each register, section 3.2.1.
#[must_use]
pub fn export(firmware: Option<&EventLog<'_>>, runtime: Option<&CelLog<'_>>) -> String {
    let mut writer = Writer { text: "[".to_owned(), numbers: [0; PCR_COUNT as usize], others: 0 };
    if let Some(log) = firmware {
        if let Some(header) = log.header() {
            writer.firmware(0, &[("sha1".to_owned(), "00".repeat(20))], EventType::NO_ACTION, header);
        }
        for event in log.events() {
            writer.firmware(event.register, &named_digests(&event), event.event_type, event.data);
        }
    }
    for record in runtime.into_iter().flat_map(CelLog::records) {
        writer.runtime(&record);
    }
    writer.text.push_str("\n]\n");
    writer.text
}

/// The digests of an event, those of algorithms without a name by their number.
fn named_digests(event: &Event<'_>) -> Vec<(String, String)> {
    let name = |algorithm| {
        Bank::from_algorithm(algorithm).map_or_else(|| format!("{algorithm:#06x}"), |bank| bank.name().to_owned())
    };
    event.raw_digests().map(|(algorithm, bytes)| (name(algorithm), hex::encode(bytes))).collect()
}

struct Writer {
    text: String,
    numbers: [u64; PCR_COUNT as usize],
    /// Records of no register: they count among themselves.
    others: u64,
}

impl Writer {
    fn firmware(&mut self, register: u32, digests: &[(String, String)], event_type: EventType, data: &[u8]) {
        let event_type = event_type.name().map_or_else(|| event_type.0.to_string(), |name| format!("\"{name}\""));
        let content = format!("{{\"event_type\":{event_type},\"event_data\":\"{}\"}}", hex::encode(data));
        self.record(Target::Register(register), digests, "pcclient_std", &content);
    }

    fn runtime(&mut self, record: &Record) {
        let named = |digest: &BankDigest| (digest.bank().name().to_owned(), digest.to_string());
        let digests: Vec<_> = record.digests.iter().map(named).collect();
        match &record.content {
            RecordContent::Systemd { text, boot_id, timestamp_us, event_type } => {
                let timestamp = timestamp_us.map(|us| format!(",\"timestamp\":{us}")).unwrap_or_default();
                let content = format!(
                    "{{\"string\":{},\"bootId\":{}{timestamp},\"eventType\":{}}}",
                    quoted(text),
                    quoted(boot_id),
                    quoted(event_type)
                );
                self.record(record.target, &digests, "systemd", &content);
            }
            RecordContent::Firmware { event_type, data } => match record.target {
                Target::Register(register) => self.firmware(register, &digests, *event_type, data),
                Target::NvIndex(_) => self.record(record.target, &digests, "pcclient_std", "{}"),
            },
            RecordContent::Other { content_type } => self.record(record.target, &digests, content_type, "{}"),
        }
    }

    fn record(&mut self, target: Target, digests: &[(String, String)], content_type: &str, content: &str) {
        let (field, number) = match target {
            Target::Register(register) => {
                let counter = usize::try_from(register).ok().and_then(|at| self.numbers.get_mut(at));
                (format!("\"pcr\":{register}"), counter.unwrap_or(&mut self.others))
            }
            Target::NvIndex(index) => (format!("\"nv_index\":{index}"), &mut self.others),
        };
        let recnum = *number;
        *number = number.saturating_add(1);
        let digests: Vec<_> =
            digests.iter().map(|(name, hex)| format!("{{\"hashAlg\":\"{name}\",\"digest\":\"{hex}\"}}")).collect();
        let start = if self.text.len() > 1 { ",\n" } else { "\n" };
        let digests = digests.join(",");
        let content_type = quoted(content_type);
        let record = format!(
            "{start}{{\"recnum\":{recnum},{field},\"digests\":[{digests}],\"content_type\":{content_type},\"content\":{content}}}"
        );
        self.text.push_str(&record);
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
