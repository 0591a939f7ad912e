//! What a step writes, as lines on a person's screen. The step chooses the bytes: none of them may do anything to the terminal.

use kiln_formats::log::Stream;

/// The longest line that is shown, in characters; the rest is in the evidence.
const SHOWN_MAX: usize = 400;

/// The lines of one step's two streams, as far as they have come.
#[derive(Debug, Default)]
pub(crate) struct StepLog {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl StepLog {
    /// Takes what a step wrote and returns the lines that it completes.
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8]) -> Vec<String> {
        let begun = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        let mut lines = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => lines.push(shown(&std::mem::take(begun))),
                // Four bytes make one character at most; what is beyond is not shown, so it need not be kept.
                byte if begun.len() < 4 * SHOWN_MAX => begun.push(*byte),
                _ => {}
            }
        }
        lines
    }

    /// What was begun and not ended.
    pub(crate) fn finish(self) -> Vec<String> {
        [self.out, self.err].iter().filter(|begun| !begun.is_empty()).map(|begun| shown(begun)).collect()
    }
}

fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| !c.is_control()).take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_harmless() {
        let mut log = StepLog::default();
        assert_eq!(log.take(Stream::Out, b"a\x1b[2Jb\r\nc"), ["a[2Jb"]);
        assert_eq!(log.take(Stream::Err, b"error\n"), ["error"]);
        assert_eq!(log.take(Stream::Out, b"d\n"), ["cd"]);
        log.take(Stream::Out, &[b'x'; 1 << 20]);
        assert_eq!(log.out.len(), 4 * SHOWN_MAX);
        assert_eq!(log.finish(), ["x".repeat(SHOWN_MAX)]);
    }
}
