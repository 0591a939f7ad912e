//! `kiln audit`: what boots measured, whether it holds, and what differs, in words.

mod held;
mod problem;
mod source;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use kiln_formats::audit::{
    Against, Member, Report, Severity, Style, Subject, Summary, Unread, Verdict, audit, compare, summarise,
};
use kiln_formats::boot::Boot;
use kiln_formats::cel::export;
use kiln_image::across::across;

use crate::document;
use crate::exit::{Exit, OrExit as _, Result};
use crate::published::Expected;
use held::Held;
use problem::Problem;
use source::{Source, Taken};

/// How much many boots may have in all: ten thousand real ones have half of it.
const TOTAL_BYTES_MAX: usize = 1 << 30;

/// Audit boots: replay the logs of firmware and running system together, hold them against what the TPM says, and name what differs.
///
/// PATH is a directory that `kiln run` made, a log (binary_bios_measurements, CCEL, tpm2-measure.log, CEL-JSON), a directory with the
/// logs of one machine, or a directory of boots. One boot is audited. Two are compared. More, or a directory of boots, are
/// summarised: how many distinct ones there are, and which stand out.
///
/// Answers 0 if everything agrees; 13 if something does not hold, differs or stands out; 14 if nothing contradicts a log and there was
/// nothing to prove it with; 2 if a file is no log. What the JSON holds: docs/audit.md.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln audit out                                              evidence of a build, against its own quote
  kiln audit binary_bios_measurements --pcrs pcrs.yaml        a foreign machine: tpm2_pcrread >pcrs.yaml
  kiln audit binary_bios_measurements --runtime-log tpm2-measure.log --quote q.msg --signature q.sig --key ak.pem
  kiln audit --live --html boot.html                          this machine, as a page
  kiln audit monday/ tuesday/                                 what differs between two boots
  kiln audit fleet/ --json                                    many boots: which machines stand out")]
pub(crate) struct AuditCommand {
    /// Boots: evidence, logs, directories of them
    #[arg(required_unless_present = "live", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Audit the machine that this runs on
    #[arg(long, conflicts_with = "paths")]
    live: bool,
    /// Where the machine's file systems are
    #[arg(long, value_name = "DIR", default_value = "/", requires = "live", hide = true)]
    live_root: PathBuf,
    /// The log that the running system kept (tpm2-measure.log)
    #[arg(long, value_name = "FILE")]
    runtime_log: Option<PathBuf>,
    #[command(flatten)]
    held: held::HeldArguments,
    /// A command line that may have been measured; a log has only its digest
    #[arg(long = "command-line", value_name = "TEXT")]
    command_lines: Vec<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Write the report to this new file, as one page for a browser
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write both logs to this new file, as one canonical event log (CEL-JSON)
    #[arg(long, value_name = "FILE")]
    cel: Option<PathBuf>,
}

impl AuditCommand {
    pub(crate) fn run(self) -> Result {
        if self.live {
            let taken = source::live(&self.live_root)?;
            return self.one(taken);
        }
        let mut sources = Vec::new();
        for path in &self.paths {
            sources.push(Source::of(path)?);
        }
        match &sources[..] {
            [Source::Boot(path)] => {
                let taken = source::take(path, self.runtime_log.as_deref())?;
                self.one(taken)
            }
            [Source::Boot(before), Source::Boot(after)] => {
                self.only_one()?;
                self.two(&source::take(before, None)?, &source::take(after, None)?)
            }
            _ => {
                self.only_one()?;
                self.many(sources.into_iter().flat_map(Source::boots).collect())
            }
        }
    }

    /// What is about one boot has no meaning for several.
    fn only_one(&self) -> Result<()> {
        let is_for_one = self.runtime_log.is_some() || self.cel.is_some() || self.held.is_for_one();
        if is_for_one { Err(Problem::ForOne).or_exit(Exit::Usage) } else { Ok(()) }
    }

    fn lines(&self) -> Vec<&str> {
        self.command_lines.iter().map(String::as_str).collect()
    }

    fn one(self, taken: Taken) -> Result {
        let Held { values, quoted, reference, said } = self.held.read(&taken)?;
        let boot = taken.boot()?;
        if let Some(path) = &self.cel {
            document::write_new(path, cel(&taken.subject, &boot)?.as_bytes())?;
        }
        let lines = self.lines();
        let against = Against {
            values: values.as_ref(),
            quoted: quoted.as_ref(),
            reference: reference.as_ref(),
            other: None,
            command_lines: &lines,
            said: &said.findings,
        };
        let audit = audit(&boot, &against);
        self.tell(&Report::Audit(&said.subject, &audit))
    }

    fn two(self, before: &Taken, after: &Taken) -> Result {
        let comparison = compare(&before.boot()?, &after.boot()?, &self.lines());
        self.tell(&Report::Diff(&before.subject, &after.subject, &comparison))
    }

    fn many(self, paths: Vec<PathBuf>) -> Result {
        let reference = self.held.reference()?;
        let bytes = AtomicUsize::new(0);
        let taken = across(&paths, |path| {
            if bytes.load(Ordering::Relaxed) > TOTAL_BYTES_MAX {
                return Err(Problem::TooMuch).or_exit(Exit::Usage);
            }
            let taken = source::take_plain(path)?;
            bytes.fetch_add(taken.bytes(), Ordering::Relaxed);
            Ok(taken)
        });
        if bytes.into_inner() > TOTAL_BYTES_MAX {
            return Err(Problem::TooMuch).or_exit(Exit::Usage);
        }
        let (mut members, mut unread) = (Vec::new(), Vec::new());
        let audited = across(&taken, |taken| match taken {
            Ok(taken) => member(taken, reference.as_deref()).map_err(|failure| failure.report.to_string()),
            Err(failure) => Err(failure.report.to_string()),
        });
        for (path, audited) in paths.iter().zip(audited) {
            match audited {
                Ok(member) => members.push(member),
                Err(reason) => unread.push(Unread { name: name(path), reason }),
            }
        }
        let summary: Summary = summarise(&members, unread);
        self.tell(&Report::Summary(&summary))
    }

    fn tell(self, report: &Report<'_>) -> Result {
        if let Some(path) = &self.html {
            document::write_new(path, report.html().as_bytes())?;
        }
        if self.json {
            document::print(report.json().or_exit(Exit::Infrastructure)?.as_bytes())?;
        } else {
            document::print_exact(report.text(style()).as_bytes())?;
        }
        Ok(match report.verdict() {
            Verdict::Holds => Exit::Done,
            Verdict::Unproven => Exit::Unproven,
            Verdict::Fails => Exit::NotVerified,
        })
    }
}

/// One boot of many, held against what it brings itself.
fn member<'a>(taken: &'a Taken, reference: Option<&[Expected]>) -> Result<Member<'a>> {
    let boot = taken.boot()?;
    let machine = reference.map(|reference| held::machine(reference, taken)).transpose()?;
    let said = held::evidence(taken);
    let against = Against {
        values: taken.values.as_ref(),
        quoted: said.quoted.as_ref(),
        reference: machine.as_ref(),
        said: &said.findings,
        ..Against::default()
    };
    let audit = audit(&boot, &against);
    let failed = audit.findings.iter().filter(|finding| finding.severity == Severity::Failure);
    let failures: Vec<_> = failed.map(|finding| finding.words.clone()).collect();
    let (name, verdict) = (taken.subject.name.clone(), audit.verdict());
    Ok(Member { name, boot, verdict, values: audit.replayed, failures })
}

/// Both logs as one. A torn log is not handed on as if it were whole.
fn cel(subject: &Subject, boot: &Boot<'_>) -> Result<String> {
    if boot.runtime.as_ref().is_some_and(|log| log.damaged_count() > 0) {
        return Err(Problem::Torn { name: subject.name.clone() }).or_exit(Exit::NotVerified);
    }
    Ok(export(boot.firmware.as_ref(), boot.runtime.as_ref()))
}

/// Colour on a terminal, unless the person wants none. Source: no-color.org.
fn style() -> Style {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    if std::io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb { Style::Colour } else { Style::Plain }
}

fn name(path: &Path) -> String {
    Subject::new(&path.display().to_string()).name
}
