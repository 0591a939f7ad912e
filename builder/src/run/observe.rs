//! Turns what was observed of a step into its record. Pure.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::job::{Access, Job, Step};
use kiln_formats::names::{Name, PREDICATE_RECORD, ParseNameError};
use kiln_formats::record::{self, InputSeen, LogSeen, StepRecord, WorkspaceSeen};
use kiln_formats::statement::{Statement, Subject};
use kiln_sandbox::{Exit, Outcome, Usage};

/// Source: signal(7).
const SIGKILL: i32 = 9;

/// A record's place in the chain of records.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The build.
    pub(super) build_id: Name,
    /// How many steps ran before.
    pub(super) sequence: u32,
    /// The payload digest of the record before; that of the decision for the first.
    pub(super) previous: Sha256Digest,
}

/// What the machine saw of one step.
#[derive(Debug)]
pub(super) struct Observed {
    /// The digest of its text, as measured before it started.
    pub(super) step_sha256: Sha256Digest,
    /// Its workspaces, in the order in which the step names them.
    pub(super) workspaces: Vec<WorkspaceSeen>,
    /// What its statements are about.
    pub(super) subjects: Vec<Subject>,
    /// How it ended, what it used, how it was confined.
    pub(super) outcome: Outcome,
    /// Whether every output in the workspaces that it wrote is there, regular and within its limit.
    pub(super) outputs_as_declared: bool,
    /// Its log.
    pub(super) log: LogSeen,
    /// The payload digest of its trace, which is signed by now.
    pub(super) trace: Sha256Digest,
}

/// Why an observation has no record.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// What the sandbox reports has no JSON form.
    #[error("the sandbox's report cannot be written")]
    Enforced {
        /// What the encoder said.
        #[from]
        source: serde_json::Error,
    },
    /// A word of this module that is no name.
    #[error(transparent)]
    Word(#[from] ParseNameError),
    /// The step names something that the job does not have.
    #[error("the job has no {what} as the step names it")]
    Undeclared {
        /// What.
        what: &'static str,
    },
}

/// A step's workspaces, with what each held before the step and after it.
pub(super) fn workspaces(
    step: &Step,
    before: Vec<Sha256Digest>,
    after: Vec<Option<Sha256Digest>>,
) -> Vec<WorkspaceSeen> {
    let digests = before.into_iter().zip(after);
    let seen = step.workspaces.iter().zip(digests);
    seen.map(|(used, (before, after))| WorkspaceSeen { name: used.name.clone(), access: used.access, before, after })
        .collect()
}

/// What a step's statements are about: the workspaces that it wrote, as far as they can be digested, and its log.
pub(super) fn subjects(step: &Step, workspaces: &[WorkspaceSeen], log: &LogSeen) -> Vec<Subject> {
    let written = workspaces.iter().filter(|seen| seen.access == Access::Rw);
    let written = written.filter_map(|seen| Some(Subject::new(format!("workspace/{}", seen.name), seen.after?)));
    written.chain([Subject::new(format!("log/{}", step.name), log.sha256)]).collect()
}

/// The statement of a step's record: about the workspaces that it wrote, and its log.
///
/// # Errors
/// [`ObserveError`]; none of them for a step of a checked job.
pub(super) fn record(
    place: &Place,
    job: &Job,
    step: &Step,
    observed: Observed,
) -> Result<Statement<StepRecord>, ObserveError> {
    let Observed { step_sha256, workspaces, subjects, outcome, outputs_as_declared, log, trace } = observed;
    let image = job.image.iter().find(|image| image.name == step.image);
    let image = image.ok_or(ObserveError::Undeclared { what: "image" })?;
    let inputs = step.inputs.iter().map(|name| {
        let input = job.input.iter().find(|input| input.name == *name);
        let sha256 = input.ok_or(ObserveError::Undeclared { what: "input" })?.sha256;
        Ok(InputSeen { name: name.clone(), sha256 })
    });
    let record = StepRecord {
        build_id: place.build_id.clone(),
        sequence: place.sequence,
        previous: place.previous,
        step: step.name.clone(),
        step_sha256,
        image_root_hash: image.root_hash,
        argv: step.argv.clone(),
        env: step.env.clone(),
        workdir: step.workdir.clone(),
        inputs: inputs.collect::<Result<_, ObserveError>>()?,
        workspaces,
        profile: step.profile,
        proc: step.proc,
        limits: step.limits.clone(),
        exit: exit(outcome.exit, outputs_as_declared)?,
        usage: usage(&outcome.usage),
        log,
        trace,
        enforced: serde_json::to_value(&outcome.enforced)?,
    };
    Ok(Statement::new(PREDICATE_RECORD, subjects, record))
}

/// A step that succeeded and left an output that is not as declared, or a workspace that cannot be digested, has met the output's
/// limit.
fn exit(exit: Exit, outputs_as_declared: bool) -> Result<record::Exit, ParseNameError> {
    let met = |word: &str, code, target, in_grace| {
        word.parse().map(|limit| record::Exit::Limit { limit, code, target, in_grace })
    };
    let limit = |word: &str| met(word, None, None, false);
    Ok(match exit {
        Exit::Code { code: 0 } if !outputs_as_declared => limit("output")?,
        Exit::Code { code } => record::Exit::Code { code },
        Exit::Signal { signal } => record::Exit::Signal { signal },
        Exit::Timeout { in_grace } => met("wall", None, None, in_grace)?,
        Exit::OutOfMemory => limit("memory")?,
        Exit::PidLimit { code } => met("pids", code, None, false)?,
        Exit::DiskLimit { target, code } => met("disk", code, Some(target), false)?,
        Exit::FileLimit => limit("file")?,
        Exit::PolicyViolation => limit("policy")?,
        Exit::NotExecutable { errno } => record::Exit::NotExecuted { errno },
        Exit::Killed => record::Exit::Signal { signal: SIGKILL },
    })
}

/// What the kernel did not count is zero; a machine that vouches for its steps counts everything.
fn usage(usage: &Usage) -> record::Usage {
    record::Usage {
        wall_ms: usage.wall_ms,
        cpu_us: usage.cpu_us,
        memory_peak_bytes: usage.memory_peak_bytes.unwrap_or(0),
        pids_peak: usage.pids_peak.unwrap_or(0),
        io_read_bytes: usage.io_read_bytes.unwrap_or(0),
        io_written_bytes: usage.io_written_bytes.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_word_and_only_one_is_success() {
        let ends = [
            (Exit::Code { code: 0 }, true, r#"{"code":0,"kind":"code"}"#),
            (Exit::Code { code: 0 }, false, r#"{"kind":"limit","limit":"output"}"#),
            (Exit::Code { code: 3 }, false, r#"{"code":3,"kind":"code"}"#),
            (Exit::Signal { signal: 11 }, true, r#"{"kind":"signal","signal":11}"#),
            (Exit::Timeout { in_grace: false }, true, r#"{"kind":"limit","limit":"wall"}"#),
            (Exit::Timeout { in_grace: true }, true, r#"{"in_grace":true,"kind":"limit","limit":"wall"}"#),
            (Exit::OutOfMemory, true, r#"{"kind":"limit","limit":"memory"}"#),
            (Exit::PidLimit { code: Some(0) }, true, r#"{"code":0,"kind":"limit","limit":"pids"}"#),
            (
                Exit::DiskLimit { target: "/tmp".into(), code: None },
                true,
                r#"{"kind":"limit","limit":"disk","target":"/tmp"}"#,
            ),
            (Exit::FileLimit, true, r#"{"kind":"limit","limit":"file"}"#),
            (Exit::PolicyViolation, true, r#"{"kind":"limit","limit":"policy"}"#),
            (Exit::NotExecutable { errno: 2 }, true, r#"{"errno":2,"kind":"not_executed"}"#),
            (Exit::NotExecutable { errno: 8 }, true, r#"{"errno":8,"kind":"not_executed"}"#),
            (Exit::Killed, true, r#"{"kind":"signal","signal":9}"#),
        ];
        for (at, (from, as_declared, text)) in ends.into_iter().enumerate() {
            let to = exit(from, as_declared).unwrap();
            assert_eq!(kiln_formats::canonical::to_vec(&to).unwrap(), text.as_bytes());
            assert_eq!(to.is_success(), at == 0, "{text}");
        }
    }
}
