//! One short line on the console for each phase, for whoever watches the machine's serial port.
//!
//! Only this package's events are shown, as `kiln: <seconds> <message> <fields>`, bounded and with control characters escaped.
//! Deliberately absent: levels, filters, spans. What counts is in the evidence; nobody verifies a console.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::fault::line;

/// The longest line in bytes: three rows of a terminal.
const LINE_BYTES_MAX: usize = 240;

/// Writes lines to standard error.
#[derive(Debug)]
pub(crate) struct Console {
    start: Instant,
}

impl Console {
    /// Makes this the process's subscriber. A second call changes nothing.
    pub(crate) fn install() {
        // Only fails if there already is one, which is then as good.
        let _ = tracing::subscriber::set_global_default(Self { start: Instant::now() });
    }
}

impl Subscriber for Console {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with(env!("CARGO_CRATE_NAME"))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(format!("kiln: {:.3}", self.start.elapsed().as_secs_f64()));
        event.record(&mut text);
        // A console that is gone is no reason to stop a build: nothing is decided by what it shows.
        let _ = writeln!(std::io::stderr(), "{}", line(&text.0, LINE_BYTES_MAX));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
