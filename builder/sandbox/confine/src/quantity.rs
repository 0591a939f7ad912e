//! Sizes and durations as people write them. Whole numbers with one unit; nothing is rounded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Units of a size, largest first: powers of 1024.
const SIZES: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];
/// Units of a duration in milliseconds. `ms` stands before `s`, of which it would be taken for one otherwise.
const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("ms", 1), ("s", 1000)];

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Error {
    #[error("not a size: write bytes, or a whole number with K, M, G or T, which are powers of 1024")]
    Size,
    #[error("not a duration: write seconds, or a whole number with ms, s, m, h or d")]
    Duration,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size {
    /// How many.
    pub(crate) bytes: u64,
}

/// A time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Duration {
    /// How many milliseconds.
    pub(crate) ms: u64,
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (digits, unit) = split(text, &SIZES, 1);
        number(digits).and_then(|number| number.checked_mul(unit)).map(|bytes| Self { bytes }).ok_or(Error::Size)
    }
}

impl FromStr for Duration {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (digits, unit) = split(text, &DURATIONS[..], 1000);
        number(digits).and_then(|number| number.checked_mul(unit)).map(|ms| Self { ms }).ok_or(Error::Duration)
    }
}

/// Takes the unit off the end of `text`; without one it is `plain`.
fn split<'a>(text: &'a str, units: &[(&str, u64)], plain: u64) -> (&'a str, u64) {
    let longest = units.iter().filter(|(unit, _)| text.ends_with(unit)).max_by_key(|(unit, _)| unit.len());
    longest.and_then(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor))).unwrap_or((text, plain))
}

/// Digits only: `u64::from_str` would take a sign.
fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES.iter().find(|(_, factor)| self.bytes > 0 && self.bytes.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.bytes / factor),
            None => write!(f, "{}", self.bytes),
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.ms > 0 && self.ms.is_multiple_of(*factor);
        match DURATIONS.iter().filter(fits).max_by_key(|(_, factor)| *factor) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.ms / factor),
            None => write!(f, "{}", self.ms),
        }
    }
}

/// Text or a plain number, in a document.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

fn read<'de, D: Deserializer<'de>, T: FromStr<Err = Error>>(deserializer: D) -> Result<T, D::Error> {
    let text = match Written::deserialize(deserializer)? {
        Written::Number(number) => number.to_string(),
        Written::Text(text) => text,
    };
    text.parse().map_err(|error| de::Error::custom(format_args!("{text:?} is {error}")))
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_what_the_manual_says() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.bytes);
        assert_eq!([size("0"), size("4096"), size("1K"), size("2G")], [Ok(0), Ok(4096), Ok(1024), Ok(2 << 30)]);
        let duration = |text: &str| text.parse::<Duration>().map(|duration| duration.ms);
        assert_eq!([duration("5"), duration("5s"), duration("5ms")], [Ok(5000), Ok(5000), Ok(5)]);
        assert_eq!([duration("5m"), duration("2h"), duration("1d")], [Ok(300_000), Ok(7_200_000), Ok(86_400_000)]);
        assert_eq!(Duration { ms: 0 }.to_string(), "0");
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in
            ["", "K", "-1", "+1", "1.5G", "1 G", "1g", "1KB", "1GiB", "0x10", "99999999999999999999", "16777216T", "１"]
        {
            assert_eq!(text.parse::<Size>(), Err(Error::Size), "{text:?}");
        }
        for text in ["", "s", "ms", "-1s", "1.5h", "1 s", "1S", "1sec", "300000000000d", "1m30s"] {
            assert_eq!(text.parse::<Duration>(), Err(Error::Duration), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bytes: u64, ms in 0_u64..u64::MAX / 1000) {
            prop_assert_eq!(Size { bytes }.to_string().parse(), Ok(Size { bytes }));
            prop_assert_eq!(Duration { ms }.to_string().parse(), Ok(Duration { ms }));
        }

        #[test]
        fn any_text_is_a_quantity_or_refused(text in "\\PC{0,24}") {
            if let Ok(size) = text.parse::<Size>() {
                prop_assert!(text.starts_with(|c: char| c.is_ascii_digit()));
                prop_assert_eq!(size.to_string().parse(), Ok(size));
            }
            let _ = text.parse::<Duration>();
        }
    }
}
