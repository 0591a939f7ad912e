//! The rules that every job obeys, wherever it is read: on the desk by `kiln lint`, in the machine before it is admitted.

use std::collections::{BTreeMap, BTreeSet};

use super::{Access, Job, Name, OutputKind, Step, VERSION, WORKSPACES};

/// The most steps, images, inputs, workspaces, outputs a job may have, each. A job is a build, not a fleet.
pub const ITEMS_MAX: usize = 128;
/// The most arguments of a step.
pub const ARGUMENTS_MAX: usize = 1024;
/// The most variables of a step's environment.
pub const VARIABLES_MAX: usize = 256;
/// The longest argument, variable, path or URI in bytes. Linux takes up to 128 KiB per argument (MAX_ARG_STRLEN).
pub const TEXT_BYTES_MAX: usize = 32 << 10;
/// The largest size or limit in bytes that a job may name: 1 TiB.
pub const BYTES_MAX: u64 = 1 << 40;
/// The longest that a step may run, in milliseconds: a day.
pub const WALL_MS_MAX: u64 = 86_400_000;
/// The most processes of a step.
pub const PIDS_MAX: u32 = 32_768;
/// The most processor time of a step, in hundredths of one processor: more processors than any build machine has.
pub const CPU_PERCENT_MAX: u32 = 100 * 4096;
/// The longest that a step whose time is over may take to end, in milliseconds: five minutes, to write down where it was.
pub const GRACE_MS_MAX: u64 = 300_000;

/// How the file beside an artifact ends that holds the statements about it.
const STATEMENTS: &str = ".intoto.jsonl";

/// A rule that a job breaks: which, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Violation {
    /// A stable code.
    pub code: &'static str,
    /// The field, as `step[1].workspaces[0].name`.
    pub field: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

/// A job that obeys every rule, its steps in an order in which each workspace is written before it is read.
///
/// It does not say that anyone signed it or that it may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedJob {
    job: Job,
    order: Vec<usize>,
}

impl CheckedJob {
    /// Checks a job against every rule.
    ///
    /// # Errors
    /// All rules that it breaks, in the order of its fields.
    pub fn new(job: Job) -> Result<Self, Vec<Violation>> {
        let mut found = Violations(Vec::new());
        let names = check_items(&job, &mut found);
        for (at, step) in job.step.iter().enumerate() {
            check_step(at, step, &names, &mut found);
        }
        check_workspaces(&job, &mut found);
        check_outputs(&job, &names, &mut found);
        let order = order(&job, &mut found);
        if found.0.is_empty() { Ok(Self { job, order }) } else { Err(found.0) }
    }

    /// The job as it was written.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The steps in the order in which they run.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &Step> {
        self.order.iter().filter_map(|&at| self.job.step.get(at)).collect::<Vec<_>>().into_iter()
    }
}

struct Violations(Vec<Violation>);

impl Violations {
    fn add(&mut self, code: &'static str, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Violation { code, field: field.into(), problem: problem.into() });
    }

    /// Checks that a list has a reasonable length and names each thing once, and hands out the names.
    fn unique<'a>(&mut self, list: &str, names: impl Iterator<Item = &'a Name>) -> BTreeSet<&'a Name> {
        let mut seen = BTreeSet::new();
        for (at, name) in names.enumerate() {
            if at == ITEMS_MAX {
                self.add("too_many", list, format!("more than {ITEMS_MAX}; split the job"));
            }
            if !seen.insert(name) {
                self.add(
                    "duplicate_name",
                    format!("{list}[{at}].name"),
                    format!("`{name}` is already taken; give it another name"),
                );
            }
        }
        seen
    }

    fn text(&mut self, field: String, text: &str) {
        if text.contains('\0') {
            self.add("nul", field, "a NUL byte cannot be passed to a program");
        } else if text.len() > TEXT_BYTES_MAX {
            self.add("too_long", field, format!("longer than {TEXT_BYTES_MAX} bytes"));
        }
    }

    fn range(&mut self, field: String, value: u64, max: u64) {
        if value == 0 || value > max {
            self.add("out_of_range", field, format!("{value} is outside 1..={max}"));
        }
    }
}

struct Names<'a> {
    images: BTreeSet<&'a Name>,
    inputs: BTreeSet<&'a Name>,
    workspaces: BTreeSet<&'a Name>,
}

fn check_items<'a>(job: &'a Job, found: &mut Violations) -> Names<'a> {
    if job.version != VERSION {
        found.add("version", "version", format!("{} is not known; this is version {VERSION}", job.version));
    }
    let names = Names {
        images: found.unique("image", job.image.iter().map(|image| &image.name)),
        inputs: found.unique("input", job.input.iter().map(|input| &input.name)),
        workspaces: found.unique("workspace", job.workspace.iter().map(|workspace| &workspace.name)),
    };
    found.unique("step", job.step.iter().map(|step| &step.name));
    found.unique("output", job.output.iter().map(|output| &output.name));
    for (list, empty) in [("step", job.step.is_empty()), ("output", job.output.is_empty())] {
        if empty {
            found.add("empty", list, "a job has at least one");
        }
    }
    for (at, input) in job.input.iter().enumerate() {
        found.text(format!("input[{at}].uri"), &input.uri);
        if input.size > BYTES_MAX {
            found.add("out_of_range", format!("input[{at}].size"), format!("larger than {BYTES_MAX}"));
        }
    }
    for (at, workspace) in job.workspace.iter().enumerate() {
        found.range(format!("workspace[{at}].size_bytes_max"), workspace.size_bytes_max, BYTES_MAX);
    }
    names
}

fn check_step(at: usize, step: &Step, names: &Names<'_>, found: &mut Violations) {
    let field = |name: &str| format!("step[{at}].{name}");
    if !names.images.contains(&step.image) {
        found.add(
            "undeclared_image",
            field("image"),
            format!("`{}` is not declared; add an [[image]] of that name", step.image),
        );
    }
    if step.argv.first().is_none_or(String::is_empty) || step.argv.len() > ARGUMENTS_MAX {
        found.add("argv", field("argv"), format!("needs a program and at most {ARGUMENTS_MAX} words"));
    }
    for (word, text) in step.argv.iter().enumerate() {
        found.text(field(&format!("argv[{word}]")), text);
    }
    if step.env.len() > VARIABLES_MAX {
        found.add("too_many", field("env"), format!("more than {VARIABLES_MAX} variables"));
    }
    for (key, value) in &step.env {
        if key.is_empty() || key.contains('=') || key.contains('\0') || key.len() > Name::BYTES_MAX {
            found.add("env_name", field("env"), format!("{key:?} is no name for a variable"));
        }
        found.text(field(&format!("env.{key}")), value);
    }
    if !is_plain_path(step.workdir.strip_prefix('/').unwrap_or("..")) {
        found.add("path", field("workdir"), "must be an absolute path without `.`, `..` and empty parts");
    }
    for (input, name) in step.inputs.iter().enumerate() {
        if !names.inputs.contains(name) {
            let problem = format!("`{name}` is not declared; add an [[input]] of that name");
            found.add("undeclared_input", field(&format!("inputs[{input}]")), problem);
        }
    }
    let mut seen = BTreeSet::new();
    for (usage, workspace) in step.workspaces.iter().enumerate() {
        let name = field(&format!("workspaces[{usage}].name"));
        if !names.workspaces.contains(&workspace.name) {
            let problem = format!("`{}` is not declared; add a [[workspace]] of that name", workspace.name);
            found.add("undeclared_workspace", name, problem);
        } else if !seen.insert(&workspace.name) {
            found.add("duplicate_name", name, format!("`{}` is already mounted in this step", workspace.name));
        }
    }
    let limits = &step.limits;
    found.range(field("limits.memory_bytes"), limits.memory_bytes, BYTES_MAX);
    found.range(field("limits.tmp_bytes"), limits.tmp_bytes, BYTES_MAX);
    found.range(field("limits.log_bytes"), limits.log_bytes, BYTES_MAX);
    found.range(field("limits.wall_ms"), limits.wall_ms, WALL_MS_MAX);
    found.range(field("limits.pids"), u64::from(limits.pids), u64::from(PIDS_MAX));
    if let Some(percent) = limits.cpu_percent {
        found.range(field("limits.cpu_percent"), percent.into(), CPU_PERCENT_MAX.into());
    }
    if let Some(bytes) = limits.io_bytes_per_second {
        found.range(field("limits.io_bytes_per_second"), bytes, BYTES_MAX);
    }
    if limits.grace_ms > GRACE_MS_MAX {
        found.add(
            "out_of_range",
            field("limits.grace_ms"),
            format!("{} is outside 0..={GRACE_MS_MAX}", limits.grace_ms),
        );
    }
}

/// Each workspace exists for the steps that exchange its data: one writer and its readers.
fn check_workspaces(job: &Job, found: &mut Violations) {
    for (at, workspace) in job.workspace.iter().enumerate() {
        let field = format!("workspace[{at}].name");
        let writers: Vec<_> = writers(job, &workspace.name).map(|(_, step)| step.name.as_str()).collect();
        match writers.as_slice() {
            [] => found.add(
                "no_writer",
                field,
                format!("no step writes `{}`; remove it or give one step access = \"rw\"", workspace.name),
            ),
            [_] => {}
            many => {
                let problem =
                    format!("`{}` is written by {}; one step writes, others read", workspace.name, many.join(", "));
                found.add("two_writers", field, problem);
            }
        }
    }
}

fn writers<'a>(job: &'a Job, workspace: &'a Name) -> impl Iterator<Item = (usize, &'a Step)> {
    let writes = move |step: &Step| step.workspaces.iter().any(|w| w.name == *workspace && w.access == Access::Rw);
    job.step.iter().enumerate().filter(move |(_, step)| writes(step))
}

fn check_outputs(job: &Job, names: &Names<'_>, found: &mut Violations) {
    for (at, output) in job.output.iter().enumerate() {
        if !names.workspaces.contains(&output.workspace) {
            let problem = format!("`{}` is not declared; add a [[workspace]] of that name", output.workspace);
            found.add("undeclared_workspace", format!("output[{at}].workspace"), problem);
        }
        if output.name.as_str().ends_with(STATEMENTS) {
            let problem = format!("names that end in {STATEMENTS} are those of the statements beside an artifact");
            found.add("reserved_name", format!("output[{at}].name"), problem);
        }
        let whole = output.kind == OutputKind::Tree && output.path == ".";
        if !whole && !is_plain_path(&output.path) {
            let problem =
                format!("must be a path below {WORKSPACES}/{} without `.`, `..` and empty parts", output.workspace);
            found.add("path", format!("output[{at}].path"), problem);
        }
        found.range(format!("output[{at}].size_bytes_max"), output.size_bytes_max, BYTES_MAX);
    }
}

fn is_plain_path(path: &str) -> bool {
    path.len() <= 4096
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
}

/// The first order of the steps, by their places in the job, in which each workspace is written before it is read.
fn order(job: &Job, found: &mut Violations) -> Vec<usize> {
    let mut waits: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (at, step) in job.step.iter().enumerate().take(ITEMS_MAX) {
        let reads = step.workspaces.iter().filter(|usage| usage.access == Access::Ro);
        let after =
            reads.flat_map(|usage| writers(job, &usage.name)).map(|(writer, _)| writer).filter(|&writer| writer != at);
        waits.insert(at, after.collect());
    }
    let mut order = Vec::new();
    while let Some(next) = waits.iter().find(|(_, after)| after.is_empty()).map(|(&at, _)| at) {
        waits.remove(&next);
        waits.values_mut().for_each(|after| {
            after.remove(&next);
        });
        order.push(next);
    }
    if let Some(&at) = waits.keys().next() {
        let names: Vec<_> = waits.keys().filter_map(|&at| job.step.get(at)).map(|step| step.name.as_str()).collect();
        let problem = format!("the steps {} wait for each other's workspaces; break the cycle", names.join(", "));
        found.add("cycle", format!("step[{at}].workspaces"), problem);
    }
    order
}
