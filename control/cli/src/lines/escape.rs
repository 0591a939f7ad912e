//! Foreign bytes as text that does nothing and hides nothing.
//!
//! Shown as they are: characters that everybody sees and that take up room. Everything else is escaped: `\\` for a backslash, `\t`
//! and `\r`, `\xHH` for other control bytes and for bytes that are no UTF-8, `\u{H}` for characters that are invisible, turn the
//! direction of text, or combine with what stands before them. No two texts are escaped to the same.

use unicode_width::UnicodeWidthChar as _;

/// Characters that unicode-width gives a width and that show nothing, or move what others show: soft hyphen, Hangul fillers, line
/// and paragraph separator, interlinear annotations. Source: Unicode 16, `Default_Ignorable_Code_Point` and general category.
const HIDDEN: [char; 11] = [
    '\u{ad}', '\u{115f}', '\u{1160}', '\u{2028}', '\u{2029}', '\u{3164}', '\u{ffa0}', '\u{fff9}', '\u{fffa}',
    '\u{fffb}', '\u{fffc}',
];

/// What cannot be broken over two rows, and how many columns it takes at most.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) columns: usize,
}

/// Escapes bytes, piece by piece.
pub(super) fn pieces(bytes: &[u8]) -> impl Iterator<Item = Piece> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let invalid = chunk.invalid().iter().map(|byte| ascii(format!("\\x{byte:02x}")));
        chunk.valid().chars().map(piece).chain(invalid)
    })
}

fn piece(c: char) -> Piece {
    match c {
        '\\' => ascii("\\\\".into()),
        '\t' => ascii("\\t".into()),
        '\r' => ascii("\\r".into()),
        ' '..='~' => ascii(c.to_string()),
        '\0'..='\u{7f}' => ascii(format!("\\x{:02x}", u32::from(c))),
        _ if c.width().is_none_or(|width| width == 0) || HIDDEN.contains(&c) => ascii(c.escape_unicode().to_string()),
        // Terminals differ in what they take to be wide; none takes more than two columns.
        c => Piece { text: c.to_string(), columns: 2 },
    }
}

fn ascii(text: String) -> Piece {
    Piece { columns: text.len(), text }
}
