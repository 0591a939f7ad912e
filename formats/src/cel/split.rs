//! Where the records of a log lie, without reading them.

use super::{CelError, Form};

/// What starts a record of a sequence. Source: RFC 7464, section 2.2.
const RECORD_START: u8 = 0x1e;

pub(super) fn form(bytes: &[u8]) -> Result<Form, CelError> {
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => Err(CelError::Empty),
        Some(&RECORD_START) => Ok(Form::Sequence),
        Some(b'[') => Ok(Form::Array),
        Some(b'{') => Ok(Form::Lines),
        // A sequence whose first record lost its start.
        Some(_) if bytes.contains(&RECORD_START) => Ok(Form::Sequence),
        Some(_) => Err(CelError::UnknownForm),
    }
}

/// The text of each record and where it starts; what is no text of a record comes as it is, and will not read as one.
pub(super) fn pieces(bytes: &[u8], form: Form) -> impl Iterator<Item = (usize, &[u8])> {
    let mut pieces = Pieces { bytes, form, at: 0 };
    if form == Form::Array {
        pieces.at = bytes.iter().position(|byte| *byte == b'[').map_or(bytes.len(), |start| start.saturating_add(1));
    }
    pieces
}

struct Pieces<'a> {
    bytes: &'a [u8],
    form: Form,
    at: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
            let (piece_bytes, skipped) = match self.form {
                Form::Sequence => sequence_record(rest),
                Form::Array => array_element(rest),
                Form::Lines => until(rest, b'\n'),
            };
            let offset = self.at;
            self.at = offset.saturating_add(piece_bytes).saturating_add(skipped);
            let piece = rest.get(..piece_bytes).unwrap_or_default();
            if !piece.trim_ascii().is_empty() {
                return Some((offset, piece));
            }
        }
    }
}

/// Up to the next start of a record; the start itself is skipped.
fn sequence_record(rest: &[u8]) -> (usize, usize) {
    until(rest, RECORD_START)
}

fn until(rest: &[u8], end: u8) -> (usize, usize) {
    match rest.iter().position(|byte| *byte == end) {
        Some(at) => (at, 1),
        None => (rest.len(), 0),
    }
}

/// Up to the comma behind the element, or the array's end; both are skipped. Knows strings and depth, nothing else.
fn array_element(rest: &[u8]) -> (usize, usize) {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in rest.iter().enumerate() {
        if in_string {
            (in_string, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth = depth.saturating_add(1),
            b',' if depth == 0 => return (at, 1),
            b']' if depth == 0 => return (at, 1),
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    (rest.len(), 0)
}
