//! Canonical JSON: RFC 8785 (JCS).
//!
//! One value has one encoding, so that a digest names a value and not a spelling. [`from_slice_exact`] refuses every other
//! spelling: added white space, another order of keys, a key twice, a field that the type does not have.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The largest integer that every JSON reader keeps exactly. Source: RFC 8785, section 3.2.2.3 (IEEE 754 doubles).
pub const INTEGER_MAX: u64 = 1 << 53;

/// Why a value has no canonical form, or bytes are not one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value cannot be written as JSON.
    #[error("no JSON form: {source}")]
    Encode {
        /// What the encoder said.
        source: serde_json::Error,
    },
    /// An integer that JSON readers would round.
    #[error("the integer {value} is larger than 2^53 and would be rounded")]
    IntegerTooLarge {
        /// The integer.
        value: String,
    },
    /// The bytes are not JSON of this type: syntax, an unknown or missing field, or a value out of its range.
    #[error("{source}")]
    Decode {
        /// What the decoder said, with line and column.
        source: serde_json::Error,
    },
    /// The bytes are JSON of this type, written in another way than the canonical one.
    #[error("not in canonical form (RFC 8785)")]
    NotCanonical,
}

/// The canonical bytes of `value`.
///
/// # Errors
/// [`Error::Encode`] for maps with keys that are no strings and the like; [`Error::IntegerTooLarge`].
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let tree = serde_json::to_value(value).map_err(|source| Error::Encode { source })?;
    check_integers(&tree)?;
    serde_json_canonicalizer::to_vec(&tree).map_err(|source| Error::Encode { source })
}

/// Reads a value whose bytes are its canonical form.
///
/// # Errors
/// [`Error::Decode`] if the bytes are not of this type, [`Error::NotCanonical`] if they are another spelling of it.
pub fn from_slice_exact<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let value: T = serde_json::from_slice(bytes).map_err(|source| Error::Decode { source })?;
    if to_vec(&value)? == bytes { Ok(value) } else { Err(Error::NotCanonical) }
}

fn check_integers(tree: &Value) -> Result<(), Error> {
    match tree {
        Value::Number(number) => {
            let exact = match (number.as_u64(), number.as_i64()) {
                (Some(n), _) => n <= INTEGER_MAX,
                (None, Some(n)) => n.unsigned_abs() <= INTEGER_MAX,
                (None, None) => true,
            };
            if exact { Ok(()) } else { Err(Error::IntegerTooLarge { value: number.to_string() }) }
        }
        Value::Array(items) => items.iter().try_for_each(check_integers),
        Value::Object(fields) => fields.values().try_for_each(check_integers),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        b: u64,
        a: String,
    }

    #[test]
    fn one_value_has_one_spelling() {
        let pair = Pair { b: 1, a: "é\u{1}".into() };
        let bytes = to_vec(&pair).unwrap();
        assert_eq!(bytes, "{\"a\":\"é\\u0001\",\"b\":1}".as_bytes());
        assert_eq!(from_slice_exact::<Pair>(&bytes).unwrap(), pair);
        for other in [r#"{"b":1,"a":"x"}"#, r#"{"a":"x", "b":1}"#, r#"{"a":"\u0078","b":1}"#, r#"{"a":"x","b":1.0}"#] {
            assert!(from_slice_exact::<Pair>(other.as_bytes()).is_err(), "{other}");
        }
        for broken in [r#"{"a":"x","b":1,"c":2}"#, r#"{"a":"x","a":"x","b":1}"#, r#"{"a":"x"}"#] {
            assert!(matches!(from_slice_exact::<Pair>(broken.as_bytes()), Err(Error::Decode { .. })), "{broken}");
        }
    }

    #[test]
    fn integers_that_would_be_rounded_are_refused() {
        assert!(to_vec(&Pair { b: INTEGER_MAX, a: String::new() }).is_ok());
        assert!(matches!(to_vec(&Pair { b: INTEGER_MAX + 1, a: String::new() }), Err(Error::IntegerTooLarge { .. })));
    }
}
