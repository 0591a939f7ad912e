//! What a step writes, as rows that a person can look at. The step chooses the bytes: none of them may do anything to a terminal,
//! hide, or pass for something that is not the step's.
//!
//! A row is `STEP STREAM[ SECONDS]MARK TEXT`. STREAM is `out` or `err`; `log` is our own word about the log. MARK is `|` where a line
//! begins and `+` where it goes on, or may: after a gap nobody knows. A row whose line has no end there ends in a single `\`. TEXT
//! is `escape`d, so it has no line feed and cannot begin a row, and every byte can be told from it. On a terminal no row is
//! longer than the screen is wide: a terminal that wraps would begin a row with the step's text.

mod escape;

use kiln_formats::log::{Content, Frame, Missing, Stream};
use kiln_formats::names::Name;

use escape::pieces;

/// The most of one line that is held back until it ends, in bytes. Then it is shown in parts.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The narrowest screen that is served, in columns.
const COLUMNS_MIN: usize = 48;

/// How rows are to look.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// How wide the screen is; `None` where nothing wraps.
    pub(crate) columns: Option<usize>,
    /// Whether each row says when its line began.
    pub(crate) times: bool,
    /// Whether the step may still be running: then a log that is full is worth a word.
    pub(crate) live: bool,
}

/// One row's worth of a step's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Row {
    /// A line that the step wrote, or a part of it.
    Text {
        stream: Stream,
        /// When it was begun.
        time_us: u64,
        /// Whether it goes on from a row before, or may.
        continues: bool,
        /// Whether the line ends here.
        ends: bool,
        /// Escaped.
        text: String,
    },
    /// What is missing here.
    Gap(Missing),
    /// The log is full; its end comes later.
    Held,
}

/// The lines of one step's two streams, as far as they have come.
#[derive(Debug)]
pub(crate) struct Lines {
    step: Name,
    style: Style,
    out: Begun,
    err: Begun,
}

/// A line without its end.
#[derive(Debug, Default)]
struct Begun {
    bytes: Vec<u8>,
    time_us: u64,
    continues: bool,
}

impl Lines {
    /// Nothing of this step so far.
    pub(crate) fn new(step: Name, style: Style) -> Self {
        Self { step, style, out: Begun::default(), err: Begun::default() }
    }

    /// Takes the next frame and returns the rows that it completes.
    pub(crate) fn take(&mut self, frame: &Frame<'_>) -> Vec<Row> {
        match frame.content {
            Content::Wrote { stream, bytes } => self.wrote(stream, frame.time_us, bytes),
            Content::Held if self.style.live => vec![Row::Held],
            Content::Held => Vec::new(),
            Content::Gap(missing) => {
                let mut rows = self.finish();
                rows.push(Row::Gap(missing));
                self.out.continues = missing.out.bytes > 0;
                self.err.continues = missing.err.bytes > 0;
                rows
            }
        }
    }

    /// What was begun and not ended.
    pub(crate) fn finish(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        for stream in [Stream::Out, Stream::Err] {
            let begun = std::mem::take(self.begun(stream));
            if !begun.bytes.is_empty() {
                self.rows(stream, &begun, false, &mut rows);
            }
        }
        rows
    }

    fn begun(&mut self, stream: Stream) -> &mut Begun {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        }
    }

    fn wrote(&mut self, stream: Stream, time_us: u64, bytes: &[u8]) -> Vec<Row> {
        let mut rows = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let begun = self.begun(stream);
            if begun.bytes.is_empty() {
                begun.time_us = time_us;
            }
            begun.bytes.extend_from_slice(text);
            if ends || begun.bytes.len() >= LINE_BYTES_MAX {
                let begun = std::mem::take(begun);
                self.begun(stream).continues = !ends;
                self.rows(stream, &begun, ends, &mut rows);
            }
        }
        rows
    }

    /// Breaks a line where the screen ends.
    fn rows(&self, stream: Stream, line: &Begun, ends: bool, rows: &mut Vec<Row>) {
        let room = self.room();
        let (mut text, mut width, mut continues) = (String::new(), 0, line.continues);
        for piece in pieces(&line.bytes) {
            if width + piece.columns > room {
                let text = std::mem::take(&mut text);
                rows.push(Row::Text { stream, time_us: line.time_us, continues, ends: false, text });
                (width, continues) = (0, true);
            }
            width += piece.columns;
            text.push_str(&piece.text);
        }
        rows.push(Row::Text { stream, time_us: line.time_us, continues, ends, text });
    }

    /// How much text fits into a row beside what is ours.
    fn room(&self) -> usize {
        let Some(columns) = self.style.columns else { return usize::MAX };
        let longest = self.prefix("out", u64::MAX).len() + "| \\".len();
        columns.max(COLUMNS_MIN).saturating_sub(longest)
    }

    fn prefix(&self, stream: &str, time_us: u64) -> String {
        let mut step = self.step.as_str().to_owned();
        let at_most = self.style.columns.map_or(usize::MAX, |columns| columns.max(COLUMNS_MIN) / 5);
        if step.len() > at_most {
            // A name is ASCII, and a dot is a part of names: three of them show the cut well enough.
            step.truncate(at_most);
            step.push_str("...");
        }
        if self.style.times {
            // No step runs longer than a day, which has 86400 seconds.
            let (seconds, micros) = ((time_us / 1_000_000).min(99_999), time_us % 1_000_000);
            return format!("{step} {stream} {seconds:>5}.{micros:06}");
        }
        format!("{step} {stream}")
    }

    /// A row as it is printed.
    pub(crate) fn show(&self, row: &Row) -> String {
        match row {
            Row::Text { stream, time_us, continues, ends, text } => {
                let stream = word(*stream);
                let mark = if *continues { '+' } else { '|' };
                let open = if *ends { "" } else { "\\" };
                format!("{}{mark} {text}{open}", self.prefix(stream, *time_us))
            }
            Row::Gap(Missing { frames, out, err }) => format!(
                "{} log| {frames} frames are missing here: {} bytes and {} lines of output, {} bytes and {} lines of error output",
                self.step, out.bytes, out.lines, err.bytes, err.lines
            ),
            Row::Held => {
                format!("{} log| full; the step goes on, and the end of its log follows when it has ended", self.step)
            }
        }
    }
}

/// What a stream is called.
pub(crate) fn word(stream: Stream) -> &'static str {
    match stream {
        Stream::Out => "out",
        Stream::Err => "err",
    }
}

#[cfg(test)]
mod tests;
