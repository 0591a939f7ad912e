//! What a TPM is made of, as the site that enrols it says: who can make it answer what.
//!
//! It is the site's word and nothing that a quote shows: a program that is a TPM answers like one that is a chip. So each builder id
//! stands for machines of one class, and a machine of the other one is never certified under it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{BUILDER_DIRECT, BUILDER_FIRMWARE, BUILDER_HOSTED, BUILDER_METAL, BUILDER_SECURE_BOOT};

/// A class of TPMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TpmClass {
    /// A program: whoever runs it can make it say anything.
    Virtual,
    /// A device that its maker vouches for and nobody who runs the machine can change.
    Hardware,
}

/// Text that is no [`TpmClass`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a class of TPMs is `hardware` or `virtual`")]
pub struct ParseTpmClassError;

impl TpmClass {
    /// Both; the one that says less first.
    pub const ALL: [Self; 2] = [Self::Virtual, Self::Hardware];

    /// The class as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
            Self::Hardware => "hardware",
        }
    }

    /// The one class of machines that a builder id stands for; `None` for an id that is not one of ours.
    #[must_use]
    pub fn of_builder(builder_id: &str) -> Option<Self> {
        match builder_id {
            BUILDER_METAL => Some(Self::Hardware),
            BUILDER_FIRMWARE | BUILDER_SECURE_BOOT | BUILDER_HOSTED | BUILDER_DIRECT => Some(Self::Virtual),
            _ => None,
        }
    }

    /// Checks that machines of this class may be certified under a builder id.
    ///
    /// # Errors
    /// [`OtherClass`], also for an id that is not one of ours.
    pub fn check(self, builder_id: &str) -> Result<(), OtherClass> {
        let expected = Self::of_builder(builder_id);
        if expected == Some(self) { Ok(()) } else { Err(OtherClass { found: self, expected }) }
    }
}

/// A TPM of another class than the builder id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TPM is enrolled as {found}, and the builder id stands for {}", expected.map_or("no class that is known", TpmClass::as_str))]
pub struct OtherClass {
    /// How the site enrols the TPM.
    pub found: TpmClass,
    /// What the builder id stands for.
    pub expected: Option<TpmClass>,
}

impl fmt::Display for TpmClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TpmClass {
    type Err = ParseTpmClassError;

    fn from_str(text: &str) -> Result<Self, ParseTpmClassError> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or(ParseTpmClassError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_builder_id_stands_for_one_class() {
        for (builder_id, expected) in [
            (BUILDER_METAL, Some(TpmClass::Hardware)),
            (BUILDER_FIRMWARE, Some(TpmClass::Virtual)),
            (BUILDER_SECURE_BOOT, Some(TpmClass::Virtual)),
            (BUILDER_DIRECT, Some(TpmClass::Virtual)),
            ("https://kiln.example/builders/metal/v2", None),
        ] {
            for found in TpmClass::ALL {
                let wrong = (expected != Some(found)).then_some(OtherClass { found, expected });
                assert_eq!(found.check(builder_id).err(), wrong, "{builder_id}");
            }
        }
    }

    #[test]
    fn text_and_json_are_one_word() {
        for class in TpmClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{class}\""));
        }
        assert_eq!("Hardware".parse::<TpmClass>(), Err(ParseTpmClassError));
    }
}
