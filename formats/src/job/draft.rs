//! The job as people write it: TOML, with errors that name line and column.

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::{CheckedJob, Violation};
use super::{Image, Input, Job, Output, Step, Workspace};
use crate::names::Name;
use crate::timestamp::Timestamp;

/// The longest draft that is read, in bytes.
pub const DRAFT_BYTES_MAX: usize = 1 << 20;

/// Something wrong with a draft, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {field}: {problem}")]
pub struct Finding {
    /// A stable code.
    pub code: &'static str,
    /// The field, as `step[1].workspaces[0].name`; empty if the text is no TOML.
    pub field: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// [`Job`] with an expiry that may be left to the signer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    version: u32,
    name: Name,
    expires: Option<Timestamp>,
    #[serde(default)]
    image: Vec<Image>,
    #[serde(default)]
    input: Vec<Input>,
    #[serde(default)]
    workspace: Vec<Workspace>,
    #[serde(default)]
    step: Vec<Step>,
    #[serde(default)]
    output: Vec<Output>,
}

/// Reads a draft and checks it against every rule. A draft without `expires` gets `expires`.
///
/// # Errors
/// What is wrong with the draft: one finding if it cannot be read, otherwise every rule that it breaks.
pub fn parse(text: &str, expires: Timestamp) -> Result<CheckedJob, Vec<Finding>> {
    if text.len() > DRAFT_BYTES_MAX {
        return Err(vec![finding(text, 0, "too_large", "", format!("longer than {DRAFT_BYTES_MAX} bytes"))]);
    }
    let draft: Draft = toml::from_str(text).map_err(|error| vec![unreadable(text, &error)])?;
    let Draft { version, name, expires: written, image, input, workspace, step, output } = draft;
    let job = Job { version, name, expires: written.unwrap_or(expires), image, input, workspace, step, output };
    CheckedJob::new(job).map_err(|violations| {
        let tree = DeTable::parse(text).ok();
        violations.into_iter().map(|violation| locate(text, tree.as_ref(), violation)).collect()
    })
}

fn unreadable(text: &str, error: &toml::de::Error) -> Finding {
    let at = error.span().map_or(0, |span| span.start);
    let code = if error.message().starts_with("unknown field") { "unknown_field" } else { "syntax" };
    let field = DeTable::parse(text).ok().map(|tree| path_at(tree.get_ref(), at)).unwrap_or_default();
    finding(text, at, code, &field, error.message().to_owned())
}

fn locate(text: &str, tree: Option<&Spanned<DeTable<'_>>>, violation: Violation) -> Finding {
    let at = tree.map_or(0, |tree| offset_of(tree.get_ref(), &violation.field));
    finding(text, at, violation.code, &violation.field, violation.problem)
}

fn finding(text: &str, at: usize, code: &'static str, field: &str, problem: String) -> Finding {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    Finding { code, field: field.to_owned(), line, column, problem }
}

/// Where a field stands in the text: as near to it as the text goes.
fn offset_of(table: &DeTable<'_>, field: &str) -> usize {
    let mut best = 0;
    let mut here = Some(Place::Table(table));
    for part in field.split(['.', '[']) {
        let found = match (here, part.strip_suffix(']')) {
            (Some(Place::Array(items)), Some(index)) => index.parse().ok().and_then(|at: usize| items.get(at)),
            (Some(Place::Table(table)), None) => table.get(part),
            _ => None,
        };
        let Some(value) = found else { break };
        best = value.span().start;
        here = Place::of(value.get_ref());
    }
    best
}

/// The path of the innermost field that covers an offset.
fn path_at(table: &DeTable<'_>, at: usize) -> String {
    let inside = |value: &Spanned<DeValue<'_>>| value.span().contains(&at) || covers(value.get_ref(), at);
    let mut path = String::new();
    let mut here = Some(Place::Table(table));
    while let Some(place) = here {
        let found = match place {
            Place::Table(table) => {
                table.iter().find(|(key, value)| key.span().contains(&at) || inside(value)).map(|(key, value)| {
                    (if path.is_empty() { key.get_ref().to_string() } else { format!(".{}", key.get_ref()) }, value)
                })
            }
            Place::Array(items) => items
                .iter()
                .enumerate()
                .find(|(_, value)| inside(value))
                .map(|(index, value)| (format!("[{index}]"), value)),
        };
        here = found.and_then(|(part, value)| {
            path.push_str(&part);
            Place::of(value.get_ref())
        });
    }
    path
}

/// Whether something in a value holds the offset: the span of a table under a header of its own is that of the header.
fn covers(value: &DeValue<'_>, at: usize) -> bool {
    let inside = |value: &Spanned<DeValue<'_>>| value.span().contains(&at) || covers(value.get_ref(), at);
    match value {
        DeValue::Table(table) => table.iter().any(|(key, value)| key.span().contains(&at) || inside(value)),
        DeValue::Array(items) => items.iter().any(inside),
        _ => false,
    }
}

enum Place<'a> {
    Table(&'a DeTable<'a>),
    Array(&'a toml::de::DeArray<'a>),
}

impl<'a> Place<'a> {
    fn of(value: &'a DeValue<'a>) -> Option<Self> {
        match value {
            DeValue::Table(table) => Some(Self::Table(table)),
            DeValue::Array(items) => Some(Self::Array(items)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = include_str!("example.toml");

    fn expires() -> Timestamp {
        Timestamp::from_unix(4_000_000_000).unwrap()
    }

    fn findings(text: &str) -> Vec<(&'static str, String, usize)> {
        parse(text, expires())
            .map(|_| Vec::new())
            .unwrap_or_else(|f| f.into_iter().map(|f| (f.code, f.field, f.line)).collect())
    }

    /// Replaces text of the example and says what lint finds, with the line where the first replacement starts.
    fn after(from: &str, to: &str) -> (Vec<(&'static str, String, usize)>, usize) {
        assert!(GOOD.contains(from), "{from}");
        let line = GOOD[..GOOD.find(from).unwrap()].matches('\n').count() + 1;
        (findings(&GOOD.replacen(from, to, 1)), line)
    }

    #[test]
    fn the_example_is_a_job_and_its_steps_are_in_order() {
        let job = parse(GOOD, expires()).unwrap();
        assert_eq!(job.steps().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["unpack", "build"]);
        assert_eq!(job.job().expires, expires());
    }

    #[test]
    fn each_mistake_is_named_with_line_and_field() {
        let (found, line) = after("workdir = \"/work/src\"", "wrokdir = \"/work/src\"");
        assert_eq!(found, [("unknown_field", "step[0].wrokdir".into(), line)]);
        let (found, line) = after("inputs = [\"hello.tar\"]", "inputs = [\"hullo.tar\"]");
        assert_eq!(found, [("undeclared_input", "step[0].inputs[0]".into(), line)]);
        let (found, _) = after("{ name = \"src\", access = \"ro\" }", "{ name = \"src\", access = \"rw\" }");
        assert_eq!(found[0].0, "two_writers");
        assert_eq!(found[0].1, "workspace[0].name");
        let (found, _) = after(
            "{ name = \"src\", access = \"rw\" }",
            "{ name = \"src\", access = \"rw\" }, { name = \"out\", access = \"ro\" }",
        );
        assert_eq!(found[0].0, "cycle");
        let (found, line) = after("path = \"hello\"", "path = \"../hello\"");
        assert_eq!(found, [("path", "output[0].path".into(), line)]);
        let (found, _) = after("[[output]]\nname = \"hello\"", "[[output]]\nname = \"hello.intoto.jsonl\"");
        assert_eq!((found[0].0, found[0].1.as_str()), ("reserved_name", "output[0].name"));
        let (found, line) = after("image = \"c\"", "image = \"d\"");
        assert_eq!(found, [("undeclared_image", "step[0].image".into(), line)]);
        let (found, line) = after("size_bytes_max = 1048576", "size_bytes_max = 0");
        assert_eq!(found, [("out_of_range", "workspace[0].size_bytes_max".into(), line)]);
        for (from, to, field) in [
            ("cpu_percent = 200", "cpu_percent = 0", "cpu_percent"),
            ("grace_ms = 2000", "grace_ms = 300001", "grace_ms"),
            ("io_bytes_per_second = 104857600", "io_bytes_per_second = 0", "io_bytes_per_second"),
        ] {
            let (found, line) = after(from, to);
            assert_eq!(found, [("out_of_range", format!("step[1].limits.{field}"), line)]);
        }
        for (from, to, field) in [
            ("profile = \"strict\"", "profile = \"open\"", "step[1].profile"),
            ("proc = \"masked\"", "proc = \"whole\"", "step[1].proc"),
        ] {
            let (found, line) = after(from, to);
            assert_eq!(found, [("syntax", field.into(), line)]);
        }
        assert_eq!(after("version = 1", "version = 2").0, [("version", "version".into(), 1)]);
        assert_eq!(findings("version = ")[0].0, "syntax");
    }

    #[test]
    fn what_is_the_default_is_left_out_of_the_canonical_text() {
        let text = |job: &CheckedJob| String::from_utf8(crate::canonical::to_vec(job.job()).unwrap()).unwrap();
        let job = parse(GOOD, expires()).unwrap();
        let [unpack, build] = job.steps().collect::<Vec<_>>()[..] else { panic!("two steps") };
        let text_of = |step| String::from_utf8(crate::canonical::to_vec(step).unwrap()).unwrap();
        for word in ["profile", "proc", "grace_ms", "cpu_percent", "io_bytes_per_second"] {
            assert!(!text_of(unpack).contains(word), "{word}");
        }
        assert!(!text_of(build).contains("profile") && text_of(build).contains(r#""proc":"masked""#));
        // As with every other value: one text, and a job that spells out a default is not canonical.
        let spelled_out = text(&job).replacen(r#""proc":"masked""#, r#""proc":"masked","profile":"strict""#, 1);
        assert_ne!(spelled_out, text(&job));
        let read = crate::canonical::from_slice_exact::<Job>(spelled_out.as_bytes());
        assert!(matches!(read, Err(crate::canonical::Error::NotCanonical)));
        let debug = text(&parse(&GOOD.replace("\"strict\"", "\"debug\""), expires()).unwrap());
        assert!(debug.contains(r#""profile":"debug""#));
    }

    #[test]
    fn steps_written_backwards_run_forwards() {
        let (head, steps) = GOOD.split_once("[[step]]").unwrap();
        let (unpack, rest) = steps.split_once("[[step]]").unwrap();
        let (build, output) = rest.split_once("[[output]]").unwrap();
        let text = format!("{head}[[step]]{build}\n[[step]]{unpack}[[output]]{output}");
        let job = parse(&text, expires()).unwrap();
        assert_eq!(job.steps().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["unpack", "build"]);
    }

    proptest! {
        #[test]
        fn foreign_text_never_panics(text: String) {
            let _ = parse(&text, expires());
        }

        #[test]
        fn a_damaged_draft_never_panics(at in 0..GOOD.len(), byte: u8) {
            let mut bytes = GOOD.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = parse(&String::from_utf8_lossy(&bytes), expires());
        }
    }
}
