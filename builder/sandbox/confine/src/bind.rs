//! `SRC[:DEST]`: what of the host a step sees, and where.
//!
//! One colon at most. A path with a colon in it is written in a policy file, where nothing is split.

use std::str::FromStr;

use thiserror::Error;

/// A source of the host and a place in the view, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    /// Any path, not looked up yet.
    pub(crate) source: String,
    /// Where; `None`: at the source's own resolved path.
    pub(crate) target: Option<String>,
}

/// Why a text is no [`Bind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Error {
    #[error("there is no source: write SRC or SRC:DEST")]
    NoSource,
    #[error("there is no destination behind the colon: write SRC or SRC:DEST")]
    NoTarget,
    #[error("there is more than one colon: a path with a colon in it can be written in a policy file")]
    Colons,
}

impl FromStr for Bind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (source, target) = match text.split_once(':') {
            Some((_, target)) if target.contains(':') => return Err(Error::Colons),
            Some((_, "")) => return Err(Error::NoTarget),
            Some((source, target)) => (source, Some(target.to_owned())),
            None => (text, None),
        };
        if source.is_empty() { Err(Error::NoSource) } else { Ok(Self { source: source.to_owned(), target }) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bind_has_one_colon_at_most() {
        let bind =
            |source: &str, target: Option<&str>| Ok(Bind { source: source.into(), target: target.map(Into::into) });
        assert_eq!(".".parse(), bind(".", None));
        assert_eq!("src:/work".parse(), bind("src", Some("/work")));
        assert_eq!("a:b:c".parse::<Bind>(), Err(Error::Colons));
        assert_eq!("a:".parse::<Bind>(), Err(Error::NoTarget));
        assert_eq!(":/a".parse::<Bind>(), Err(Error::NoSource));
        assert_eq!("".parse::<Bind>(), Err(Error::NoSource));
    }

    proptest! {
        #[test]
        fn a_bind_says_what_was_written(text in "\\PC{0,40}") {
            if let Ok(Bind { source, target }) = text.parse() {
                let again = target.map_or(source.clone(), |target| format!("{source}:{target}"));
                prop_assert_eq!(again, text);
            }
        }
    }
}
