//! The machine's serial console as bounded lines that are safe to print. Pure.
//!
//! The guest writes what it likes here, and a person's terminal shows it: so only printable ASCII is kept, escape
//! sequences are dropped, long lines are split, empty lines are left out, and the oldest lines go when there are too many.
//! A console proves nothing; it is for people who look for a reason.

use std::collections::VecDeque;
use std::time::Duration;

/// Longer lines are split: a terminal's width many times over.
const LINE_BYTES_MAX: usize = 1024;
/// Lines that are kept: the kernel's boot and a builder's log, and at most 4 MiB.
const LINES_MAX: usize = 4096;

/// One line of the serial console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleLine {
    /// When its end was read by the host, since power-on.
    pub at: Duration,
    /// Printable ASCII.
    pub text: String,
}

/// The last lines of a console.
#[derive(Debug, Default)]
pub(crate) struct Console {
    lines: VecDeque<ConsoleLine>,
    begun: String,
    state: State,
}

/// Where in an escape sequence the input is. Source: ECMA-48, 5.4 (control sequences) and 5.6 (control strings).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Escape,
    ControlSequence,
    ControlString,
}

impl Console {
    /// Takes what was read and returns the lines that it completes.
    pub(crate) fn take(&mut self, bytes: &[u8], at: Duration) -> Vec<ConsoleLine> {
        let mut completed = Vec::new();
        for byte in bytes {
            if self.keep(*byte) {
                completed.extend(self.finish(at));
            }
        }
        completed
    }

    /// Ends the line that is begun, if there is something in it.
    pub(crate) fn finish(&mut self, at: Duration) -> Option<ConsoleLine> {
        let text = std::mem::take(&mut self.begun).trim_end().to_owned();
        if text.is_empty() {
            return None;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let line = ConsoleLine { at, text };
        self.lines.push_back(line.clone());
        Some(line)
    }

    /// The lines that are kept, oldest first.
    pub(crate) fn lines(&self) -> impl DoubleEndedIterator<Item = &ConsoleLine> {
        self.lines.iter()
    }

    /// Whether the line ends with this byte.
    fn keep(&mut self, byte: u8) -> bool {
        self.state = match (self.state, byte) {
            (_, b'\n') => State::Text,
            (State::Text, 0x1b) => State::Escape,
            (State::Escape, b'[') => State::ControlSequence,
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => State::ControlString,
            (State::Escape, 0x20..=0x2f) => State::Escape,
            (State::ControlSequence, 0x20..=0x3f) => State::ControlSequence,
            (State::ControlString, 0x07) => State::Text,
            (State::ControlString, 0x1b) => State::Escape,
            (State::ControlString, _) => State::ControlString,
            (State::Escape | State::ControlSequence, _) => State::Text,
            (State::Text, _) => {
                match byte {
                    b'\t' => self.begun.push(' '),
                    0x20..=0x7e => self.begun.push(char::from(byte)),
                    0x80.. => self.begun.push('?'),
                    _ => {}
                }
                State::Text
            }
        };
        byte == b'\n' || self.begun.len() >= LINE_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]]) -> Vec<String> {
        let mut console = Console::default();
        let mut completed: Vec<_> = chunks.iter().flat_map(|chunk| console.take(chunk, Duration::ZERO)).collect();
        completed.extend(console.finish(Duration::ZERO));
        assert_eq!(completed, console.lines().cloned().collect::<Vec<_>>());
        completed.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_kept() {
        assert_eq!(read(&[b"\x1b[2J\x1b[31mred\x1b[0m\r\n"]), ["red"]);
        assert_eq!(read(&[b"a\x1b]0;title\x07b\n", b"c\x1b]52;c;x\x1b\\d\n"]), ["ab", "cd"]);
        assert_eq!(read(&[b"a\x1b", b"[1;1", b"Hb\x08\x00\x9b1m\n"]), ["ab?1m"]);
        assert_eq!(read(&[b"\x1b]never closed\nnext\n"]), ["next"]);
    }

    proptest! {
        /// Whatever a guest writes and however it comes, only what is safe to print is kept, and the cuts between reads do not show.
        #[test]
        fn a_guest_cannot_write_anything_else(bytes: Vec<u8>, cut in 0_usize..100) {
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let lines = read(&[head, tail]);
            prop_assert!(lines.iter().all(|line| !line.is_empty() && line.len() <= LINE_BYTES_MAX));
            prop_assert!(lines.iter().flat_map(|line| line.bytes()).all(|byte| (0x20..=0x7e).contains(&byte)));
            prop_assert_eq!(lines, read(&[&bytes]));
        }
    }

    #[test]
    fn an_unfinished_line_is_not_lost_and_empty_ones_are_left_out() {
        assert_eq!(read(&[b"one\n\n  \r\ntw", b"o"]), ["one", "two"]);
    }

    #[test]
    fn lines_and_their_number_are_bounded() {
        let long = vec![b'x'; LINE_BYTES_MAX * 3];
        assert!(read(&[&long]).iter().all(|line| line.len() <= LINE_BYTES_MAX));
        let mut console = Console::default();
        for number in 0..LINES_MAX + 7 {
            console.take(format!("{number}\n").as_bytes(), Duration::ZERO);
        }
        assert_eq!(console.lines().count(), LINES_MAX);
        assert_eq!(console.lines().next().map(|line| line.text.as_str()), Some("7"));
    }
}
