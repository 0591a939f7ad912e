//! `kiln logs`: what the steps of a build wrote, as a person can look at it.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kiln_formats::dsse::Envelope;
use kiln_formats::log::{Content, Log, Stream, split_first};
use kiln_formats::manifest::FILE_BYTES_MAX;
use kiln_formats::names::Name;
use kiln_formats::record::LogSeen;
use kiln_formats::statement::Statement;
use serde::{Deserialize, Serialize};

use crate::document;
use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::lines::{Lines, Row, Style, word};
use crate::screen::columns;

/// What a step is called whose log does not say.
const NAMELESS: &str = "log";

/// Show what steps wrote, so that no byte of it can do anything to the terminal or pass for something else.
///
/// A row is `STEP STREAM| TEXT`. Rows that go on from the row before have `+` for `|`, and a row whose line does not end there ends
/// in a single backslash. Control bytes, invisible characters and bytes that are no UTF-8 are escaped, as are backslashes.
///
/// A log that lies in a bundle is held against its step's record first; one that differs is not shown, and the answer is 13.
/// That the record is the machine's is for `kiln verify` to say.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln logs out
  kiln logs out --step compile --stream err --timestamps
  kiln logs out/evidence/logs/00-compile.log --json
  kiln logs out --step compile --stream out --raw >compile.txt")]
pub(crate) struct Logs {
    /// The directory that `kiln run` made, or one log
    path: PathBuf,
    /// Only this step
    #[arg(long, value_name = "NAME")]
    step: Option<Name>,
    /// Only this stream
    #[arg(long, value_enum)]
    stream: Option<Which>,
    /// Say when each line was begun, in seconds since the step's start
    #[arg(long)]
    timestamps: bool,
    /// Print the bytes as they are; never to a terminal
    #[arg(long, conflicts_with_all = ["json", "timestamps"])]
    raw: bool,
    /// Print one JSON object for each row
    #[arg(long)]
    json: bool,
}

/// One of a step's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// Standard output
    Out,
    /// Standard error
    Err,
}

/// One log, and what is said of it.
struct Found {
    step: Name,
    bytes: Vec<u8>,
    /// What the record beside it says; `None` if there is none.
    seen: Option<LogSeen>,
}

impl Logs {
    pub(crate) fn run(self) -> Result {
        let stdout = io::stdout();
        if self.raw && stdout.is_terminal() {
            return Err(Problem::Terminal).or_exit(Exit::Usage);
        }
        let in_bundle = self.path.is_dir();
        let mut files = if in_bundle { files(&self.path)? } else { vec![self.path.clone()] };
        files.retain(|file| self.step.as_ref().is_none_or(|step| step_of(file).as_ref() == Some(step)));
        if files.is_empty() {
            return Err(Problem::NoLog { path: self.path }).or_exit(Exit::Usage);
        }
        let mut to = BufWriter::new(stdout.lock());
        let mut exit = Exit::Done;
        for file in &files {
            let found = read(file, in_bundle)?;
            let Found { step, bytes, seen } = &found;
            let checked = match seen {
                Some(seen) => Log::of_record(bytes, seen).map_err(|unlike| unlike.to_string()),
                None => Log::parse(bytes).map_err(|error| error.to_string()),
            };
            match checked {
                Ok(log) if self.print(&found, &log, &mut to).and_then(|()| to.flush()).is_err() => {
                    // Whoever read it has had enough.
                    return Ok(exit);
                }
                Ok(_) => {}
                Err(why) => {
                    eprintln!("kiln: {step}: not shown: {why}");
                    exit = if seen.is_some() { Exit::NotVerified } else { Exit::Usage };
                }
            }
        }
        Ok(exit)
    }

    fn print(&self, found: &Found, log: &Log, to: &mut impl Write) -> io::Result<()> {
        let Found { step, bytes, seen } = found;
        let vouched = match seen {
            Some(_) => "the log is the one of its record",
            None => "there is no record beside it: nothing says whose log this is",
        };
        if self.json {
            let (missing, recorded) = (log.missing.frames, seen.is_some());
            json(to, &Head { step, recorded, frames: log.frames, missing_frames: missing })?;
        } else {
            eprintln!("kiln: {step}: {vouched}");
        }
        let columns = if self.raw { None } else { columns(io::stdout()) };
        let mut lines = Lines::new(step.clone(), Style { columns, times: self.timestamps, live: false });
        let mut rest = bytes.as_slice();
        while let Ok(Some((frame, after))) = split_first(rest) {
            rest = after;
            match frame.content {
                Content::Wrote { stream, .. } if !self.wants(stream) => {}
                Content::Wrote { bytes, .. } if self.raw => to.write_all(bytes)?,
                Content::Gap(missing) if self.raw => {
                    eprintln!("kiln: {step}: {} frames are missing in the middle", missing.frames);
                }
                _ => self.rows(&lines.take(&frame), &lines, step, to)?,
            }
        }
        let end = lines.finish();
        self.rows(&end, &lines, step, to)
    }

    fn rows(&self, rows: &[Row], lines: &Lines, step: &Name, to: &mut impl Write) -> io::Result<()> {
        for row in rows {
            match row {
                _ if !self.json => writeln!(to, "{}", lines.show(row))?,
                Row::Text { stream, time_us, continues, ends, text } => {
                    let (stream, time_us, continues, ends) = (word(*stream), *time_us, *continues, *ends);
                    json(to, &Text { step, stream, time_us, continues, ends, text })?;
                }
                Row::Gap(missing) => {
                    let (frames, out, err) = (missing.frames, missing.out, missing.err);
                    let out = Counts { bytes: out.bytes, lines: out.lines };
                    let err = Counts { bytes: err.bytes, lines: err.lines };
                    json(to, &Gap { step, missing: MissingCounts { frames, out, err } })?;
                }
                Row::Held => {}
            }
        }
        Ok(())
    }

    fn wants(&self, stream: Stream) -> bool {
        match self.stream {
            None => true,
            Some(Which::Out) => stream == Stream::Out,
            Some(Which::Err) => stream == Stream::Err,
        }
    }
}

/// The first object of a log: what it is.
#[derive(Serialize)]
struct Head<'a> {
    step: &'a Name,
    /// Whether there is a record beside it, which it agrees with.
    recorded: bool,
    frames: u64,
    missing_frames: u64,
}

/// A line, or a part of it. The text is escaped.
#[derive(Serialize)]
struct Text<'a> {
    step: &'a Name,
    stream: &'static str,
    time_us: u64,
    continues: bool,
    ends: bool,
    text: &'a str,
}

/// What is missing here.
#[derive(Serialize)]
struct Gap<'a> {
    step: &'a Name,
    missing: MissingCounts,
}

#[derive(Serialize)]
struct MissingCounts {
    frames: u64,
    out: Counts,
    err: Counts,
}

#[derive(Serialize)]
struct Counts {
    bytes: u64,
    lines: u64,
}

fn json<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    to.write_all(b"\n")
}

/// The logs of a bundle, in the order of its steps.
fn files(out: &Path) -> Result<Vec<PathBuf>> {
    let directory = out.join("evidence/logs");
    let failed = |source| Problem::Io { action: "read", path: directory.clone(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed).or_exit(Exit::Usage)? {
        let entry = entry.map_err(failed).or_exit(Exit::Infrastructure)?;
        let plain = entry.file_type().map_err(failed).or_exit(Exit::Infrastructure)?.is_file();
        if !plain || step_of(&entry.path()).is_none() {
            let why = "it is no plain file called NN-STEP.log";
            return Err(Problem::Bundle { path: entry.path(), why }).or_exit(Exit::NotVerified);
        }
        files.push(entry.path());
    }
    files.sort();
    Ok(files)
}

/// The step that a log's file name names.
fn step_of(file: &Path) -> Option<Name> {
    let (_, step) = file.file_name()?.to_str()?.strip_suffix(".log")?.split_once('-')?;
    step.parse().ok()
}

fn read(file: &Path, in_bundle: bool) -> Result<Found> {
    let bytes = document::read(file, FILE_BYTES_MAX as usize)?;
    let record = record_of(file);
    let seen = match record {
        Some(record) if record.is_file() => Some(alleged(&record)?),
        _ if in_bundle => {
            let why = "there is no record of its step";
            return Err(Problem::Bundle { path: file.to_owned(), why }).or_exit(Exit::NotVerified);
        }
        _ => None,
    };
    let step = step_of(file).or_else(|| NAMELESS.parse().ok()).ok_or(Problem::NoLog { path: file.to_owned() });
    Ok(Found { step: step.or_exit(Exit::Usage)?, bytes, seen })
}

/// Where the record of a log lies, if the log lies in a bundle.
fn record_of(file: &Path) -> Option<PathBuf> {
    let directory = file.parent().filter(|directory| directory.file_name() == Some(OsStr::new("logs")))?;
    let name = file.file_name()?.to_str()?.strip_suffix(".log")?;
    Some(directory.parent()?.join("records").join(format!("{name}.dsse.json")))
}

/// What of a step's record matters here; the rest is for the verifier.
#[derive(Deserialize)]
struct Recorded {
    log: LogSeen,
}

/// What a record says of its log. Nobody has checked who signed it.
fn alleged(record: &Path) -> Result<LogSeen> {
    let bytes = document::read(record, FILE_BYTES_MAX as usize)?;
    let no_record = || Problem::Bundle { path: record.to_owned(), why: "it is no record of a step" };
    let payload = Envelope::from_slice_exact(&bytes).and_then(|envelope| envelope.alleged_payload());
    let statement = payload.ok().and_then(|payload| serde_json::from_slice::<Statement<Recorded>>(&payload).ok());
    Ok(statement.ok_or_else(no_record).or_exit(Exit::NotVerified)?.predicate.log)
}
