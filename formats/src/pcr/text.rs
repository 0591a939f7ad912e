//! Register values as other programs write them: `tpm2_pcrread`, JSON, the kernel's old `pcrs` file.
//!
//! Reading is strict: a line, a name or a number that is none of theirs is an error, so that no register is passed over.
//! Deliberately absent: `tpm2_pcrread --output`, whose bytes do not say which registers they are of.

use serde_json::{Map, Value};

use super::{Bank, BankDigest, PcrIndex, PcrValues};

/// The largest file of values in bytes: five banks of 24 registers take less than 20 KiB, an audit in JSON some more.
pub const VALUES_BYTES_MAX: usize = 4 << 20;

/// Why bytes are not register values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// More than [`VALUES_BYTES_MAX`].
    #[error("the register values have {bytes} bytes, more than the {VALUES_BYTES_MAX} that are read")]
    TooLarge {
        /// Bytes of the input.
        bytes: usize,
    },
    /// Not UTF-8.
    #[error("the register values are not text; `tpm2_pcrread` without --output writes text")]
    NotText,
    /// No value at all.
    #[error("there is no register value in it")]
    Empty,
    /// A line that is neither a bank nor a register of one.
    #[error("line {line} is neither the name of a bank nor a register and its value")]
    Line {
        /// From 1.
        line: usize,
    },
    /// JSON of another form.
    #[error(
        "the JSON does not hold register values: it should be {{\"sha256\": {{\"0\": \"hex\"}}}}, with or without \"pcrs\" around"
    )]
    Json,
    /// One register twice.
    #[error("{index} of the {bank} bank is there twice")]
    Repeated {
        /// The bank.
        bank: Bank,
        /// The register.
        index: PcrIndex,
    },
}

impl PcrValues {
    /// Reads register values as `tpm2_pcrread` prints them, as JSON by bank and number, or as Linux shows those of a TPM 1.2.
    ///
    /// # Errors
    /// [`ValuesError`].
    ///
    /// Source: tpm2-tools 5.4 `tools/tpm2_pcrread.c`; Linux `drivers/char/tpm/tpm-sysfs.c` (`pcrs_show`).
    pub fn from_text(bytes: &[u8]) -> Result<Self, ValuesError> {
        if bytes.len() > VALUES_BYTES_MAX {
            return Err(ValuesError::TooLarge { bytes: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ValuesError::NotText)?;
        let values = if text.trim_start().starts_with('{') { json(text)? } else { lines(text)? };
        if values.values.is_empty() { Err(ValuesError::Empty) } else { Ok(values) }
    }

    /// Puts a register at a value that nothing else gave it.
    fn add(&mut self, index: PcrIndex, value: BankDigest) -> Result<(), ValuesError> {
        match self.values.insert((value.bank(), index), value) {
            None => Ok(()),
            Some(_) => Err(ValuesError::Repeated { bank: value.bank(), index }),
        }
    }
}

fn lines(text: &str) -> Result<PcrValues, ValuesError> {
    let (mut values, mut bank) = (PcrValues::new(), None);
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.trim();
        let wrong = ValuesError::Line { line };
        if content.is_empty() || content == "---" || content.starts_with('#') {
            continue;
        }
        let (name, value) = content.split_once(':').map(|(name, value)| (name.trim(), value.trim())).ok_or(wrong)?;
        if value.is_empty() {
            // The line above the banks, or a bank. One that we do not know the algorithm of has no value that we could read.
            bank = if name == "pcrs" { None } else { Some(bank_of(name).ok_or(wrong)?) };
            continue;
        }
        let (index, value) = match name.strip_prefix("PCR-") {
            Some(number) => (index(number), BankDigest::from_hex(Bank::Sha1, &value.replace(' ', ""))),
            None => (index(name), bank.and_then(|bank| BankDigest::from_hex(bank, value))),
        };
        let (index, value) = index.zip(value).ok_or(wrong)?;
        values.add(index, value)?;
    }
    Ok(values)
}

fn json(text: &str) -> Result<PcrValues, ValuesError> {
    let document: Value = serde_json::from_str(text).map_err(|_| ValuesError::Json)?;
    let banks = document.get("pcrs").unwrap_or(&document).as_object().ok_or(ValuesError::Json)?;
    let mut values = PcrValues::new();
    for (name, registers) in banks {
        let bank = bank_of(name).ok_or(ValuesError::Json)?;
        let registers: &Map<String, Value> = registers.as_object().ok_or(ValuesError::Json)?;
        for (number, value) in registers {
            let value = value.as_str().and_then(|digits| BankDigest::from_hex(bank, digits));
            let (index, value) = index(number).zip(value).ok_or(ValuesError::Json)?;
            values.add(index, value)?;
        }
    }
    Ok(values)
}

/// The bank of a name, in the spellings of tpm2-tools, the kernel and others.
fn bank_of(name: &str) -> Option<Bank> {
    let name = name.to_ascii_lowercase();
    if matches!(name.as_str(), "sm3_256" | "sm3-256") { Some(Bank::Sm3) } else { Bank::from_name(&name) }
}

fn index(number: &str) -> Option<PcrIndex> {
    let digits = number.len() <= 2 && number.bytes().all(|byte| byte.is_ascii_digit());
    PcrIndex::new(number.parse().ok().filter(|_| digits)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_reads_to_the_same_values() {
        let digits = "ab".repeat(32);
        let yaml = format!("  sha1:\n  sha256:\n    0 : 0x{}\n    15: 0x{digits}\n", digits.to_uppercase());
        let json = format!("{{\"pcrs\":{{\"sha256\":{{\"0\":\"{digits}\",\"15\":\"0x{digits}\"}}}}}}");
        let values = PcrValues::from_text(yaml.as_bytes()).unwrap();
        assert_eq!(values.iter().count(), 2);
        assert_eq!(PcrValues::from_text(json.as_bytes()), Ok(values.clone()));
        assert_eq!(
            PcrValues::from_text(json.replace("\"pcrs\":{", "").replacen("}}}", "}}", 1).as_bytes()),
            Ok(values)
        );
        let old = format!("PCR-00: {}\nPCR-01: {}\n", "3A ".repeat(20), "00 ".repeat(20));
        let old = PcrValues::from_text(old.as_bytes()).unwrap();
        assert_eq!(old.get(Bank::Sha1, PcrIndex(0)).unwrap().as_bytes(), [0x3a; 20]);
    }

    #[test]
    fn what_is_no_value_is_an_error() {
        let read = |text: &str| PcrValues::from_text(text.as_bytes()).unwrap_err();
        assert_eq!(read(""), ValuesError::Empty);
        assert_eq!(read("sha256:\n"), ValuesError::Empty);
        assert_eq!(read("0: 0x00\n"), ValuesError::Line { line: 1 });
        assert_eq!(read("sha256:\n 0: 0x00\n"), ValuesError::Line { line: 2 });
        assert_eq!(read("sha256:\n 24: 0x00\n"), ValuesError::Line { line: 2 });
        assert_eq!(read("md5:\n"), ValuesError::Line { line: 1 });
        let twice = format!("sha1:\n 0: {0}\n 0: {0}\n", "00".repeat(20));
        assert!(matches!(read(&twice), ValuesError::Repeated { bank: Bank::Sha1, .. }));
        for bad in ["{", "{\"sha256\":1}", "{\"sha256\":{\"0\":\"00\"}}", "{\"version\":1}"] {
            assert_eq!(read(bad), ValuesError::Json, "{bad}");
        }
        assert_eq!(PcrValues::from_text(&[0xff]), Err(ValuesError::NotText));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}", lines in "(sha1|sha256|[0-9]{1,3}| |:|\n|0x[0-9a-f]{38,42}){0,40}") {
            let _ = PcrValues::from_text(text.as_bytes());
            let _ = PcrValues::from_text(lines.as_bytes());
        }
    }
}
