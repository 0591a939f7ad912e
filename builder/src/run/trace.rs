//! Turns what the sandbox heard of a step into its runtime-trace statement. Pure.

use kiln_formats::canonical;
use kiln_formats::digest::ParseDigestError;
use kiln_formats::job::Step;
use kiln_formats::names::{BUILD_TYPE, MONITOR, Name, PREDICATE_RUNTIME_TRACE, ParseNameError};
use kiln_formats::runtime_trace::{
    self, DENIALS_BYTES_MAX, Denial, EXECUTIONS_BYTES_MAX, Execution, Metadata, Monitor, MonitorLog, MonitoredProcess,
    RuntimeTrace, TracePolicy, Unlisted, fitting,
};
use kiln_formats::statement::{ResourceDescriptor, Statement, Subject};
use kiln_formats::timestamp::Timestamp;
use kiln_sandbox::Trace;

/// Why a trace cannot be stated.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The sandbox gave the trace up, which this machine never asks of it.
    #[error("nothing was heard of what it did")]
    GivenUp,
    /// An executed file without a digest.
    #[error("an executed file has no digest")]
    Digest(#[from] ParseDigestError),
    /// A layer whose word is no name.
    #[error(transparent)]
    Layer(#[from] ParseNameError),
    /// A number that has no canonical form.
    #[error(transparent)]
    Number(#[from] canonical::Error),
}

/// Of which step, on which machine, and when.
#[derive(Debug)]
pub(super) struct Occasion<'a> {
    /// The build.
    pub(super) build_id: &'a Name,
    /// The machine's builder id.
    pub(super) builder_id: &'a str,
    /// The step.
    pub(super) step: &'a Step,
    /// When it began.
    pub(super) started: Timestamp,
    /// When nothing of it was left.
    pub(super) finished: Timestamp,
}

/// The statement of what a step did, about the same things as its record. What does not fit is counted.
///
/// # Errors
/// [`TraceError`]: the machine cannot vouch for the step.
pub(super) fn statement(
    occasion: &Occasion<'_>,
    subjects: Vec<Subject>,
    trace: Option<Trace>,
) -> Result<Statement<RuntimeTrace>, TraceError> {
    let Trace { executions, executions_unlisted, denials, denials_unlisted } = trace.ok_or(TraceError::GivenUp)?;
    let executions: Vec<_> = executions.into_iter().map(execution).collect::<Result<_, _>>()?;
    let denials: Vec<_> = denials.into_iter().map(denial).collect::<Result<_, _>>()?;
    let (process, left_out) = fitting(executions, EXECUTIONS_BYTES_MAX)?;
    let (kiln_denials, denials_left_out) = fitting(denials, DENIALS_BYTES_MAX)?;
    let kiln_unlisted = Unlisted {
        executions: executions_unlisted.saturating_add(left_out.len() as u64),
        denials: denials_left_out.iter().fold(denials_unlisted, |sum, denial| sum.saturating_add(denial.count)),
    };
    let Occasion { build_id, builder_id, step, started, finished } = *occasion;
    let predicate = RuntimeTrace {
        monitor: Monitor { kind: MONITOR.to_owned(), trace_policy: TracePolicy::of(step.profile) },
        monitored_process: MonitoredProcess {
            host_id: builder_id.to_owned(),
            kind: BUILD_TYPE.to_owned(),
            event: runtime_trace::event(build_id, &step.name),
        },
        monitor_log: MonitorLog { process, network: runtime_trace::network(step.profile), kiln_denials, kiln_unlisted },
        metadata: Metadata { build_started_on: started, build_finished_on: finished },
    };
    Ok(Statement::new(PREDICATE_RUNTIME_TRACE, subjects, predicate))
}

fn execution(heard: kiln_sandbox::Execution) -> Result<Execution, TraceError> {
    let binary = ResourceDescriptor::new(heard.path, heard.sha256.parse()?);
    let (pid, parent) = (heard.pid.unsigned_abs(), heard.parent.unsigned_abs());
    Ok(Execution { time_us: heard.time_us, pid, parent, binary, argv: heard.argv, argv_cut: heard.argv_cut })
}

fn denial(heard: kiln_sandbox::Denial) -> Result<Denial, TraceError> {
    let layer = heard.layer.to_string().parse()?;
    Ok(Denial { layer, operation: heard.operation, object: heard.object, count: heard.count })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_formats::digest::Sha256Digest;
    use kiln_formats::job::{Limits, Proc, Profile};
    use kiln_sandbox::Layer;

    fn step(profile: Profile) -> Step {
        Step {
            name: "build".parse().unwrap(),
            image: "c".parse().unwrap(),
            argv: vec!["make".into()],
            env: std::collections::BTreeMap::new(),
            workdir: "/work/out".into(),
            inputs: vec![],
            workspaces: vec![],
            profile,
            proc: Proc::Minimal,
            limits: Limits::default(),
        }
    }

    fn stated(profile: Profile, trace: Option<Trace>) -> Result<Statement<RuntimeTrace>, TraceError> {
        let at = Timestamp::from_unix(1_790_000_000).unwrap();
        let (build_id, step) = ("00".repeat(16).parse().unwrap(), step(profile));
        let occasion =
            Occasion { build_id: &build_id, builder_id: "x", step: &step, started: at, finished: at.plus_seconds(1) };
        statement(&occasion, vec![Subject::new("log/build", Sha256Digest::of(b""))], trace)
    }

    fn ran(argument: &str) -> kiln_sandbox::Execution {
        kiln_sandbox::Execution {
            time_us: 1,
            pid: 7,
            parent: 3,
            path: "/usr/bin/make".into(),
            sha256: Sha256Digest::of(b"make").to_string(),
            argv: vec!["make".into(), argument.into()],
            argv_cut: false,
        }
    }

    #[test]
    fn what_was_heard_is_stated_and_fits_whatever_it_was() {
        let denied = |object: String| kiln_sandbox::Denial {
            layer: Layer::NestedNamespaces,
            operation: "unshare".into(),
            object,
            count: 3,
        };
        let trace = Trace {
            executions: (0..20_000).map(|n| ran(&format!("{n:0300}\u{1}"))).collect(),
            executions_unlisted: 2,
            denials: (0..2000).map(|n| denied(format!("{n:01000}\u{1}"))).collect(),
            denials_unlisted: 5,
        };
        let statement = stated(Profile::Strict, Some(trace)).unwrap();
        let log = &statement.predicate.monitor_log;
        assert_eq!(log.process.len() as u64 + log.kiln_unlisted.executions, 20_002);
        assert_eq!(log.kiln_denials.len() as u64 * 3 + log.kiln_unlisted.denials, 6005);
        assert!(log.process.len() > 5000 && log.kiln_denials.len() > 400);
        assert_eq!((log.process[1].pid, log.process[1].binary.name.as_str()), (7, "/usr/bin/make"));
        assert_eq!(log.kiln_denials[0].layer.as_str(), "nested_namespaces");
        let payload = canonical::to_vec(&statement).unwrap();
        assert_eq!(runtime_trace::read(&payload).unwrap(), statement);
    }

    #[test]
    fn no_network_is_said_where_it_is_so() {
        for (profile, network) in
            [(Profile::Strict, Some(vec![])), (Profile::Debug, Some(vec![])), (Profile::Loopback, None)]
        {
            let statement = stated(profile, Some(Trace::default())).unwrap();
            assert_eq!(statement.predicate.monitor_log.network, network);
        }
    }

    #[test]
    fn a_trace_that_is_not_whole_is_none() {
        assert!(matches!(stated(Profile::Strict, None), Err(TraceError::GivenUp)));
        let undigested = kiln_sandbox::Execution { sha256: String::new(), ..ran("") };
        let trace = Trace { executions: vec![undigested], ..Trace::default() };
        assert!(matches!(stated(Profile::Strict, Some(trace)), Err(TraceError::Digest(_))));
    }
}
