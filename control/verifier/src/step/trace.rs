//! Is what the step did told whole, and by the machine?
//!
//! The trace is held against the log (what was measured), the record (which names it) and the job (what was to run). What it lists
//! beyond that is an observation: a step may execute what its image and workspaces hold, and is told no where it may not go.

use kiln_formats::certificate::StepCertificate;
use kiln_formats::dsse::Envelope;
use kiln_formats::job::Step;
use kiln_formats::manifest::path;
use kiln_formats::names::{BUILD_TYPE, PAYLOAD_STATEMENT};
use kiln_formats::record::StepRecord;
use kiln_formats::runtime_trace::{self, Execution, MonitorLog, MonitoredProcess, RuntimeTrace, TracePolicy};
use kiln_formats::statement::Statement;

use super::{Chain, GATE};
use crate::boot::StepEvents;
use crate::finding::Finding;
use crate::job::AllowedJob;

/// Checks the trace of a step with this record; `None` if there is none to be believed.
pub(super) fn check(
    allowed: &AllowedJob<'_>,
    sequence: u32,
    step: &Step,
    event: &StepEvents,
    (record, signer): (&Statement<StepRecord>, &StepCertificate),
    chain: &mut Chain,
) -> Option<MonitorLog> {
    let file = path::trace(sequence, &event.name);
    let (trace, digest) = match read(allowed, &file, signer) {
        Ok(read) => read,
        Err(finding) => {
            chain.findings.push(finding);
            return None;
        }
    };
    if digest != event.trace {
        let object = format!("step-trace of {}", event.name);
        chain.add("step_event", object, format!("the machine measured another trace than {file}"));
    }
    let mut require = |holds: bool, field: &str, reason: &str| {
        if !holds {
            chain.add("trace", format!("{file}: {field}"), reason);
        }
    };
    require(digest == record.predicate.trace, "digest", "it is not the trace that the record names");
    require(trace.subject == record.subject, "subject", "it is about something else than the record");
    let RuntimeTrace { monitor, monitored_process, monitor_log, metadata } = trace.predicate;
    require(
        monitor.trace_policy == TracePolicy::of(step.profile),
        "tracePolicy",
        "no step of this profile is so watched",
    );
    let whole = &allowed.booted.quoted.whole;
    let expected = MonitoredProcess {
        host_id: allowed.booted.configuration.builder_id.clone(),
        kind: BUILD_TYPE.to_owned(),
        event: runtime_trace::event(&whole.binding.challenge.build_id, &step.name),
    };
    require(monitored_process == expected, "monitoredProcess", "it is another step, build or machine");
    let no_network = runtime_trace::network(step.profile);
    require(monitor_log.network == no_network, "network", "no step of this profile has a connection to list");
    require(
        starts_as_ordered(&monitor_log, step, &record.predicate),
        "process",
        "it does not begin with the job's program",
    );
    let times = [
        whole.binding.challenge.issued,
        metadata.build_started_on,
        metadata.build_finished_on,
        whole.manifest.finished,
    ];
    require(times.is_sorted(), "metadata", "its times are not in order, between the challenge and the manifest");
    Some(monitor_log)
}

fn read(
    allowed: &AllowedJob<'_>,
    file: &str,
    signer: &StepCertificate,
) -> Result<(Statement<RuntimeTrace>, kiln_formats::digest::Sha256Digest), Finding> {
    let whole = &allowed.booted.quoted.whole;
    let wrong = |e: &dyn std::fmt::Display| Finding::new(GATE, "trace", file, e.to_string());
    let bytes = crate::evidence::bytes(whole.bundle, GATE, file)?;
    let envelope = Envelope::from_slice_exact(bytes).map_err(|e| wrong(&e))?;
    let verified = envelope.verify(PAYLOAD_STATEMENT, &[signer.key]).map_err(|e| wrong(&e))?;
    let statement = runtime_trace::read(verified.payload()).map_err(|e| wrong(&e))?;
    Ok((statement, verified.digest()))
}

/// The first program is the job's: with its arguments, or as many of them as are listed. There is none only where none ran: a
/// program that could not be executed, or a step that ended before it was.
fn starts_as_ordered(log: &MonitorLog, step: &Step, record: &StepRecord) -> bool {
    let Some(first) = log.process.first() else {
        return !record.exit.is_success() && log.kiln_unlisted.executions == 0;
    };
    let ordered: Vec<String> = step.argv.iter().map(|word| runtime_trace::escaped(word.as_bytes())).collect();
    (0..=SCRIPT_WORDS_MAX).any(|before| is_started_as(first, &ordered, before))
}

/// What the kernel puts before a script's own path: its interpreter and one argument, five times at most, if the interpreter is a
/// script as well. Source: Linux, fs/exec.c (`exec_binprm`), fs/binfmt_script.c.
const SCRIPT_WORDS_MAX: usize = 10;

/// Whether the listed arguments, `before` words of interpreters aside, are those that were ordered. A script's first argument is the
/// path by which it was found.
fn is_started_as(first: &Execution, ordered: &[String], before: usize) -> bool {
    let file_name = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let (Some([program, listed @ ..]), [ordered_program, ordered @ ..]) = (first.argv.get(before..), ordered) else {
        return false;
    };
    let same_program = match before {
        0 => program == ordered_program,
        _ => file_name(program) == file_name(ordered_program),
    };
    let same_arguments = match listed.split_last() {
        Some((last, whole)) if first.argv_cut => {
            ordered.get(..whole.len()) == Some(whole)
                && ordered.get(whole.len()).is_some_and(|word| word.starts_with(last.as_str()))
        }
        None if first.argv_cut => true,
        _ => listed == ordered,
    };
    same_program && same_arguments
}
