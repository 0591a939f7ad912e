//! What this program itself says to people. Whether anybody takes it changes nothing else: `eprintln!` would panic, and the
//! command's own status be lost, where standard error is full or closed.

use std::fmt::Display;
use std::io::{self, Write as _};

/// One line on standard error, if it can be written.
pub(crate) fn say(line: impl Display) {
    // In one piece, so that no line of somebody else's comes in between; there is nobody to tell if it fails.
    let _ = io::stderr().write_all(format!("kiln-confine: {line}\n").as_bytes());
}

/// What was asked for, on standard output.
///
/// # Errors
/// If it cannot be written whole.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout();
    output.write_all(text.as_bytes()).and_then(|()| output.flush())
}
