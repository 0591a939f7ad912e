//! A policy as it is written: in a file, or by flags, or printed by `--print-policy`. One shape for all three.
//!
//! Strict: a key that is not known, a key given twice and a value of another type are errors with line and column. A document is
//! what somebody wants; what it means on this host is found out by [`crate::effective`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use kiln_sandbox::{Layer, Proc, Profile};
use serde::de::{self, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::quantity::{Duration, Size};

/// Bytes of a policy file: far more than the mounts and the text that a policy can have.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A policy, as far as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chdir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<Profile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proc: Option<Proc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grace: Option<Duration>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) without: BTreeSet<Layer>,
    pub(crate) limits: Limits,
    #[serde(deserialize_with = "once")]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(rename = "mount", skip_serializing_if = "Vec::is_empty")]
    pub(crate) mounts: Vec<Mount>,
    #[serde(rename = "tmp", skip_serializing_if = "Vec::is_empty")]
    pub(crate) temporaries: Vec<Temporary>,
}

/// What the step may use up, as far as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pids: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) io_per_second: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file_size: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) open_files: Option<u64>,
}

/// A source of the host at a place in the view.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mount {
    pub(crate) source: String,
    /// Where; without it, at the source's own resolved path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    pub(crate) access: Access,
}

/// Whether the step may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Access {
    Ro,
    Rw,
}

/// A private file system in memory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Temporary {
    pub(crate) target: String,
    pub(crate) size: Size,
    /// Files and directories that it can hold; without it, one for each 4 KiB, and at least 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<u64>,
}

/// Why a policy file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("cannot read the policy file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the policy file {} has more than {FILE_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error("the policy file {} is not UTF-8 text", path.display())]
    NotText { path: PathBuf },
    #[error("the policy file {} is no policy", path.display())]
    Toml { path: PathBuf, source: toml::de::Error },
    #[error("the policy file {} is no policy", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
}

impl Document {
    /// Reads a policy file: JSON if its name ends in `.json`, else TOML.
    ///
    /// # Errors
    /// If it cannot be read, is too large, or is no policy.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(path).map_err(failed)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(Error::TooLarge { path: path.to_owned() });
        }
        let text = String::from_utf8(bytes).map_err(|_| Error::NotText { path: path.to_owned() })?;
        if path.extension().is_some_and(|extension| extension == "json") {
            return serde_json::from_str(&text).map_err(|source| Error::Json { path: path.to_owned(), source });
        }
        toml::from_str(&text).map_err(|source| Error::Toml { path: path.to_owned(), source })
    }
}

/// Finds a layer, profile or `/proc` mode by the name that documents, records and messages use.
///
/// # Errors
/// A sentence with the names that there are.
pub(crate) fn named<T: for<'de> Deserialize<'de>>(name: &str) -> Result<T, de::value::Error> {
    T::deserialize(name.into_deserializer())
}

/// A map in which no key stands twice: JSON would let the last one win.
fn once<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Once;

    impl<'de> Visitor<'de> for Once {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("names with texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((name, value)) = entries.next_entry::<String, String>()? {
                if map.contains_key(&name) {
                    return Err(de::Error::custom(format_args!("{name:?} is given twice")));
                }
                map.insert(name, value);
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Once)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = r#"
root = "/"
chdir = "/mnt/work"
profile = "loopback"
proc = "masked"
hostname = "builder"
timeout = "10m"
grace = 5
without = ["limits"]

[limits]
memory = "2G"
pids = 100
cpu_percent = 150
io_per_second = "10M"
file_size = 4096
open_files = 256

[env]
LANG = "C"

[[mount]]
source = "src"
target = "/mnt/work"
access = "rw"

[[tmp]]
target = "/tmp"
size = "1G"
"#;

    #[test]
    fn a_whole_policy_is_read_and_printed_and_read() {
        let document: Document = toml::from_str(WHOLE).expect("a policy");
        assert_eq!(document.grace, Some(Duration { ms: 5000 }));
        assert_eq!(document.without, BTreeSet::from([Layer::Limits]));
        let printed = toml::to_string(&document).expect("TOML");
        assert_eq!(toml::from_str::<Document>(&printed).expect("what was printed"), document);
        let json = serde_json::to_string(&document).expect("JSON");
        assert_eq!(serde_json::from_str::<Document>(&json).expect("what was printed"), document);
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        for (text, place, what) in [
            ("root = '/'\nnetwork = true", "line 2, column 1", "network"),
            ("[limits]\nram = 1", "line 2, column 1", "ram"),
            ("[[mount]]\nsource='/a'\naccess='rx'", "line 3, column 8", "rx"),
            ("[[mount]]\nsource='/a'", "line 1, column 1", "access"),
            ("root = 1", "line 1, column 8", "string"),
            ("root = '/'\nroot = '/a'", "line 2, column 1", "duplicate"),
            ("timeout = '1 week'", "line 1, column 11", "duration"),
            ("without = ['walls']", "line 1, column 12", "walls"),
            ("profile = 'lax'", "line 1, column 11", "lax"),
        ] {
            let said = toml::from_str::<Document>(text).expect_err(text).to_string();
            assert!(said.contains(place) && said.contains(what), "{text}: {said}");
        }
        for (text, place, what) in [
            ("{\"root\": \"/\",\n \"network\": true}", "line 2 column", "network"),
            ("{\"env\": {\"A\": \"1\",\n \"A\": \"2\"}}", "line 2 column", "twice"),
            ("{\"root\": \"/\",\n \"root\": \"/a\"}", "line 2 column", "duplicate"),
        ] {
            let said = serde_json::from_str::<Document>(text).expect_err(text).to_string();
            assert!(said.contains(place) && said.contains(what), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_policy_or_refused(text in "\\PC{0,200}") {
            let _ = toml::from_str::<Document>(&text);
            let _ = serde_json::from_str::<Document>(&text);
        }

        /// A policy with one byte changed is read or refused, and what is read can be printed and read again.
        #[test]
        fn a_damaged_policy_is_read_or_refused(at in 0..WHOLE.len(), byte in 0x20_u8..0x7f) {
            let mut bytes = WHOLE.as_bytes().to_vec();
            bytes[at] = byte;
            let text = String::from_utf8(bytes).expect("ASCII");
            if let Ok(document) = toml::from_str::<Document>(&text) {
                let printed = toml::to_string(&document).expect("TOML");
                prop_assert_eq!(toml::from_str::<Document>(&printed).expect("what was printed"), document);
            }
        }
    }
}
