//! Points in time, to the second.
//!
//! Holding a [`Timestamp`] says nothing about the clock that it came from; the field that carries it does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The last second of the year 9999: the end of what RFC 3339 can write.
const SECONDS_MAX: i64 = 253_402_300_799;

/// Whole seconds of UTC since 1970. Text form: RFC 3339, always with `Z` and without a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Text that is not `YYYY-MM-DDTHH:MM:SSZ`, or a time before 1970 or after 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time is written as YYYY-MM-DDTHH:MM:SSZ and lies between 1970 and 9999")]
pub struct ParseTimestampError;

impl Timestamp {
    /// The given second.
    ///
    /// # Errors
    /// [`ParseTimestampError`] before 1970 or after 9999.
    pub fn from_unix(seconds: i64) -> Result<Self, ParseTimestampError> {
        if (0..=SECONDS_MAX).contains(&seconds) { Ok(Self(seconds)) } else { Err(ParseTimestampError) }
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn unix(self) -> i64 {
        self.0
    }

    /// This time and so many seconds, at most the end of 9999.
    #[must_use]
    pub fn plus_seconds(self, seconds: u32) -> Self {
        Self((self.0 + i64::from(seconds)).min(SECONDS_MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp(self.0).map_err(|_| fmt::Error)?;
        f.write_str(&at.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, ParseTimestampError> {
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| ParseTimestampError)?;
        let timestamp = Self::from_unix(at.unix_timestamp())?;
        if timestamp.to_string() == text { Ok(timestamp) } else { Err(ParseTimestampError) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_has_one_spelling() {
        let second = Timestamp::from_unix(1_700_000_000).unwrap();
        assert_eq!(second.to_string(), "2023-11-14T22:13:20Z");
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(second));
        for other in
            ["2023-11-14T22:13:20+00:00", "2023-11-14t22:13:20z", "2023-11-14T22:13:20.0Z", "1969-12-31T23:59:59Z", ""]
        {
            assert_eq!(other.parse::<Timestamp>(), Err(ParseTimestampError), "{other}");
        }
        assert_eq!(Timestamp::from_unix(SECONDS_MAX).unwrap().to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(Timestamp::from_unix(SECONDS_MAX).unwrap().plus_seconds(1).unix(), SECONDS_MAX);
    }
}
