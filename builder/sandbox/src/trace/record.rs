//! The text of the kernel's audit records: `audit(SECONDS.MILLIS:SERIAL): KEY=VALUE KEY="VALUE" ...`.
//!
//! Promises: any bytes are taken, none is read twice, nothing panics. What a step can choose (paths, arguments) comes quoted
//! without quotes inside, or in hexadecimal, so it can never imitate a field. Source: audit_log_untrustedstring in kernel/audit.c.
//! Absent: what a record means.

use std::fmt::Write;

/// One record: all records of one system call have the same serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) serial: u64,
    body: &'a [u8],
}

/// A value as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// `"bytes"`, literally.
    Quoted(&'a [u8]),
    /// A number, a word, or hexadecimal bytes.
    Bare(&'a [u8]),
}

impl<'a> Record<'a> {
    /// Reads the stamp; `None`: this is no audit record.
    pub(super) fn parse(text: &'a [u8]) -> Option<Self> {
        let stamped = text.strip_prefix(b"audit(")?;
        let (stamp, body) = split_once(stamped, b')')?;
        let (_, serial) = split_once(stamp, b':')?;
        Some(Self { serial: decimal(serial)?, body: body.strip_prefix(b":")? })
    }

    /// Keys and values, in their order.
    pub(super) fn fields(&self) -> Fields<'a> {
        Fields { rest: self.body }
    }

    /// The first value of `key`.
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.fields().find(|(found, _)| *found == key.as_bytes()).map(|(_, value)| value)
    }

    /// A number, signed if it is.
    pub(super) fn number(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Value::Bare(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            Value::Quoted(_) => None,
        }
    }

    /// A word that the kernel chose.
    pub(super) fn word(&self, key: &str) -> Option<&'a str> {
        match self.get(key)? {
            Value::Bare(word) => std::str::from_utf8(word).ok(),
            Value::Quoted(_) => None,
        }
    }

    /// A hexadecimal number without a prefix.
    pub(super) fn hexadecimal(&self, key: &str) -> Option<u64> {
        u64::from_str_radix(self.word(key)?, 16).ok()
    }

    /// Bytes that the step chose.
    pub(super) fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.get(key)?.bytes()
    }

    /// Whether `text` is anywhere in it.
    pub(super) fn contains(&self, text: &str) -> bool {
        self.body.windows(text.len().max(1)).any(|window| window == text.as_bytes())
    }
}

impl Value<'_> {
    /// The bytes that were meant: a bare value is hexadecimal.
    pub(super) fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Value::Quoted(bytes) => Some(bytes.to_vec()),
            Value::Bare(digits) => hex::decode(digits).ok(),
        }
    }
}

/// An iterator over keys and values. What is no field is passed over.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let start = self.rest.iter().position(|byte| *byte != b' ')?;
            let text = self.rest.get(start..)?;
            let end = text.iter().position(|byte| matches!(byte, b'=' | b' ')).unwrap_or(text.len());
            let (key, after) = text.split_at_checked(end)?;
            let Some(value) = after.strip_prefix(b"=") else {
                self.rest = after;
                continue;
            };
            let (value, rest) = match value.strip_prefix(b"\"") {
                Some(quoted) => {
                    // Without an end it is cut, and all there is belongs to it.
                    let (bytes, rest) = split_once(quoted, b'"').unwrap_or((quoted, &[]));
                    (Value::Quoted(bytes), rest)
                }
                None => {
                    let end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
                    let (bare, rest) = value.split_at_checked(end)?;
                    (Value::Bare(bare), rest)
                }
            };
            self.rest = rest;
            return Some((key, value));
        }
    }
}

/// Bytes as text that can be read and told apart: printable ASCII as it is, everything else as `\xNN`, a backslash doubled.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    text
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|byte| *byte == at)?;
    Some((bytes.get(..position)?, bytes.get(position + 1..)?))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(text: &str) -> Record<'_> {
        Record::parse(text.as_bytes()).expect("a record")
    }

    #[test]
    fn the_kernels_own_records_are_read() {
        let call = record(
            "audit(1770000000.123:456): arch=c000003e syscall=59 success=no exit=-13 a0=55 items=2 ppid=3 pid=4 \
             uid=100007 comm=\"a b\" exe=2F746D702FFF key=(null)",
        );
        assert_eq!(call.serial, 456);
        assert_eq!(
            (call.number("syscall"), call.number("exit"), call.number("uid")),
            (Some(59), Some(-13), Some(100_007))
        );
        assert_eq!(call.word("success"), Some("no"));
        assert_eq!(call.bytes("exe").as_deref(), Some(b"/tmp/\xff".as_slice()));
        assert_eq!(call.bytes("comm").as_deref(), Some(b"a b".as_slice()));
        assert_eq!(call.bytes("key"), None);
        let denied = record("audit(1.000:7): domain=1a2b blockers=fs.make_dir path=\"/dev/shm/x\" dev=\"tmpfs\" ino=2");
        assert_eq!((denied.hexadecimal("domain"), denied.word("blockers")), (Some(0x1a2b), Some("fs.make_dir")));
    }

    #[test]
    fn what_a_step_chooses_imitates_no_field() {
        // The kernel writes a quote in hexadecimal, so a quoted value ends at its first quote.
        let call = record("audit(1.0:1): name=\"x uid=0 pid=1\" uid=5");
        assert_eq!(call.number("uid"), Some(5));
        assert_eq!(call.number("pid"), None);
    }

    #[test]
    fn text_is_escaped_so_that_it_can_be_told_apart() {
        assert_eq!(escape(b"a b\\\n\xff"), "a b\\\\\\x0a\\xff");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Some(record) = Record::parse(&bytes) {
                prop_assert!(record.fields().count() <= bytes.len());
            }
            let mut stamped = b"audit(1.0:1): ".to_vec();
            stamped.extend(&bytes);
            let record = Record::parse(&stamped).expect("stamped");
            let read: usize = record.fields().map(|(key, value)| {
                let (Value::Quoted(value) | Value::Bare(value)) = value;
                key.len() + value.len()
            }).sum();
            prop_assert!(read <= bytes.len());
        }

        #[test]
        fn what_the_kernel_would_write_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            // Source: audit_string_contains_control in kernel/audit.c.
            let plain = bytes.iter().all(|byte| (0x21..=0x7e).contains(byte) && *byte != b'"');
            let quoted = String::from_utf8_lossy(&bytes).into_owned();
            let value = if plain { format!("\"{quoted}\"") } else { hex::encode_upper(&bytes) };
            let text = format!("audit(1.0:1): a0={value} a1=\"end\"");
            prop_assert_eq!(record(&text).bytes("a0"), Some(bytes));
            prop_assert_eq!(record(&text).bytes("a1"), Some(b"end".to_vec()));
        }
    }
}
