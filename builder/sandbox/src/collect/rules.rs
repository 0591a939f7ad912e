//! What of a tree may leave it. The rules, each with a test of its name in `tests/rules.rs`:
//!
//! | what is found | what becomes of it |
//! |---|---|
//! | a regular file with one name | its bytes, mode 0755 if anyone may execute it, else 0644 |
//! | a file with several names (hard links) | refused: they are one file here and would be several outside |
//! | a directory | mode 0755 |
//! | a symbolic link to a relative target inside the tree: `..` only at its beginning, and no more of them than it is deep | the target's text; it need not exist |
//! | any other symbolic link | refused |
//! | a device, fifo, socket | refused |
//! | a mount, or anything on one | refused |
//! | set-user-id, set-group-id or sticky bits | refused |
//! | extended attributes, of these POSIX access lists and file capabilities | refused; labels of the machine's security modules (`security.*` but `security.capability`) are the machine's, and dropped |
//! | owner, group, times, inode numbers, link counts, order on disk, holes | not kept |
//! | a size above the bound, by what is stated (a sparse file is as large as it says) or by what has come so far | refused before it is read |
//! | a file that gives more or fewer bytes than it stated | refused |
//! | more entries, more levels, a longer path than the bounds | refused |
//! | a name that is no UTF-8 | refused: an archive's reader would guess |
//! | a name with control characters, with characters that are invisible or turn the direction of text, or that begins with `-` | refused: it passes for something else in a listing or a command line |
//! | two names of one directory that are the same text in Unicode's normal form C | refused: one would hide the other |
//! | two names that differ in upper and lower case only | taken: real software has them (terminfo, netfilter's headers), and they look different |
//!
//! No user attributes can be on symbolic links, and the kernel gives none of the others to an unprivileged process: they are not
//! looked for there. Source: xattr(7).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{flistxattr, flistxattr_query};
use rustix::io::Errno;
use unicode_normalization::UnicodeNormalization as _;

use super::{Error, join, refused};

/// The longest list of an inode's attributes, in bytes. Source: XATTR_LIST_MAX, linux/limits.h.
const ATTRIBUTES_BYTES_MAX: usize = 65_536;

/// Refuses special bits of a mode; `special` has no others.
pub(super) fn mode(path: &[u8], special: u32) -> Result<(), Error> {
    if special == 0 { Ok(()) } else { Err(Error::SpecialMode { path: path.to_vec(), mode: special }) }
}

/// Refuses a file that has more than one name.
pub(super) fn one_name(path: &[u8], count: u64) -> Result<(), Error> {
    // None at all: it was removed while it was looked at.
    if count == 1 { Ok(()) } else { Err(Error::Names { path: path.to_vec(), count }) }
}

/// Refuses extended attributes.
pub(super) fn no_attributes(path: &[u8], file: impl AsFd) -> Result<(), Error> {
    let failed = |error| refused("look at the attributes of", path, error);
    match flistxattr_query(&file) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(failed(error)),
    }
    let mut list = vec![0; ATTRIBUTES_BYTES_MAX];
    let length = flistxattr(&file, list.as_mut_slice()).map_err(failed)?;
    let names = list.get(..length).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let carried = |name: &&[u8]| !name.starts_with(b"security.") || *name == b"security.capability";
    match names.into_iter().find(carried) {
        Some(name) => Err(Error::Attribute { path: path.to_vec(), name: name.to_vec() }),
        None => Ok(()),
    }
}

/// Refuses names that a listing cannot show as they are, and twins among them.
pub(super) fn names(directory: &[u8], names: &[OsString]) -> Result<(), Error> {
    let mut normal = BTreeSet::new();
    for name in names {
        let path = || join(directory, name);
        let text = plain(name.as_bytes()).map_err(|why| Error::Name { path: path(), why })?;
        if text.is_ascii() {
            continue;
        }
        let form: String = text.nfc().collect();
        // A name in normal form is its own; what has another's as its normal form is that one's twin.
        let taken = form != text && names.binary_search_by(|other| other.as_bytes().cmp(form.as_bytes())).is_ok();
        if taken || !normal.insert(form) {
            return Err(Error::Twin { path: path() });
        }
    }
    Ok(())
}

/// The text of a name or a target, if it shows what it is.
fn plain(bytes: &[u8]) -> Result<&str, &'static str> {
    let text = str::from_utf8(bytes).map_err(|_| "it is no UTF-8")?;
    if text.starts_with('-') {
        return Err("it begins with a dash");
    }
    if text.chars().any(char::is_control) {
        return Err("it has control characters");
    }
    if text.chars().any(is_hidden) {
        return Err("it has invisible characters or such as turn the direction of text");
    }
    Ok(text)
}

/// Source: Unicode 16, `Default_Ignorable_Code_Point` without variation selectors (emoji have them), and line separators.
fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Refuses a symbolic link that leads, or could lead, out of the tree. Its directory is `depth` levels below the root.
///
/// The way to the link has no other link on it. From there the target goes up at most to the root, and then only down: by names,
/// or by links that obey the same rule. `..` behind a name could go up from wherever a link of that name leads.
pub(super) fn target(path: &[u8], depth: usize, target: &[u8]) -> Result<(), Error> {
    let out = || Error::Target { path: path.to_vec(), target: target.to_vec() };
    plain(target).map_err(|why| Error::Name { path: path.to_vec(), why })?;
    if target.starts_with(b"/") {
        return Err(out());
    }
    let mut parts = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").peekable();
    let mut up = 0;
    while parts.next_if(|part| *part == b"..").is_some() {
        up += 1;
    }
    if up > depth || parts.any(|part| part == b"..") { Err(out()) } else { Ok(()) }
}
