//! Who is compared, and what each of them lacks beside us.
//!
//! Each gets the same root, the same mounts where it can, no network and an unprivileged user where it has one. What it cannot do
//! is said in [`Contender::lacks`] and shown by [`crate::facts`]: none of them does all that we do.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_sandbox::{Launcher, Layer, Outcome, Policy, Requirements, SpawnError};

use crate::command;
use crate::options::{Options, Part};
use crate::scene::{Payload, Scene};

/// First argument of a cold start.
pub(crate) const COLD: &str = "start-one-step";
/// First argument of a process that installs the filter and says how long it took.
pub(crate) const FILTER: &str = "install-the-filter";
/// Layers whose price is shown by giving them up.
const PRICED: [(Layer, &str); 5] = [
    (Layer::Landlock, "without landlock"),
    (Layer::Seccomp, "without seccomp"),
    (Layer::Capabilities, "without capabilities"),
    (Layer::NestedNamespaces, "without nested_namespaces"),
    (Layer::Trace, "without trace"),
];

/// One that starts a payload.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    /// In words, beside what [`crate::facts`] shows.
    pub(crate) lacks: &'static str,
    scene: &'a Scene,
    how: How,
}

/// How it starts it.
enum How {
    /// A resident launcher of ours.
    Warm(Box<Launcher>),
    /// A program that is executed for this one step.
    Program(command::Line),
    /// No sandbox.
    Plain,
}

impl Contender<'_> {
    /// A start, ready to be timed: whatever a caller would prepare once is prepared.
    pub(crate) fn start(&self, payload: &Payload, slot: u16) -> Start<'_> {
        match &self.how {
            How::Warm(launcher) => Start::Step(launcher, Box::new(self.scene.policy(&payload.argv, slot))),
            How::Program(line) => Start::Process(line.of(self.scene, &payload.argv, slot)),
            How::Plain => {
                let program = self.scene.root().join("noop").display().to_string();
                let inside = || if payload.argv == ["/noop"] { vec![program.clone()] } else { payload.argv.clone() };
                Start::Process(command::Ready::new(payload.outside.clone().unwrap_or_else(inside), self.scene, slot))
            }
        }
    }
}

/// A start, ready to be timed.
pub(crate) enum Start<'a> {
    Step(&'a Launcher, Box<Policy>),
    Process(command::Ready),
}

impl Start<'_> {
    /// From before the start until all of it is gone: process, namespaces, mounts and, with us, the cgroup.
    pub(crate) fn time(&self) -> Duration {
        let begin = Instant::now();
        match self {
            Self::Step(launcher, policy) => {
                let outcome = step(launcher, policy, null(), null());
                assert!(outcome.exit.is_success(), "{:?}", outcome.exit);
            }
            Self::Process(ready) => ready.run(),
        }
        begin.elapsed()
    }
}

/// Runs one step to its end; the cgroup is gone when this returns.
pub(crate) fn step(launcher: &Launcher, policy: &Policy, stdout: OwnedFd, stderr: OwnedFd) -> Outcome {
    launcher.spawn(policy, stdout, stderr).expect("a step").wait().expect("an outcome")
}

fn null() -> OwnedFd {
    std::fs::File::options().write(true).open("/dev/null").expect("/dev/null").into()
}

/// Every layer that this kernel has: controllers of cgroup v2 are the only thing that may be missing.
pub(crate) fn requirements() -> Requirements {
    match Launcher::start() {
        Ok(_) => Requirements::all(),
        Err(SpawnError::Unavailable { layer: Layer::Limits, .. }) => without_limits(),
        Err(error) => panic!("no launcher: {error:?}"),
    }
}

fn without_limits() -> Requirements {
    Requirements::all().without(Layer::Limits).expect("limits can be given up")
}

/// The process of a cold start, to its end.
pub(crate) fn cold(scene: &Scene, payload: &[String]) -> i32 {
    let given_up = std::env::var_os("GIVEN_UP").is_some();
    let requirements = if given_up { without_limits() } else { Requirements::all() };
    let launcher = Launcher::start_with(requirements).expect("a launcher");
    let [stdout, stderr] = [rustix::io::dup(std::io::stdout()), rustix::io::dup(std::io::stderr())];
    let policy = scene.policy(payload, 0);
    let outcome = step(&launcher, &policy, stdout.expect("dup"), stderr.expect("dup"));
    i32::from(!outcome.exit.is_success())
}

/// The process that installs the filter of a step on itself: prints the nanoseconds.
pub(crate) fn filter() {
    let time = kiln_sandbox::time_filter_installation(Default::default()).expect("the filter");
    println!("{}", time.as_nanos());
}

/// All of them.
pub(crate) struct Contenders<'a> {
    everyone: Vec<Contender<'a>>,
    without_one_layer: Vec<Contender<'a>>,
    /// Why somebody is not among them.
    pub(crate) left_out: Vec<String>,
    /// What we gave up on this machine.
    pub(crate) given_up: Vec<String>,
}

impl<'a> Contenders<'a> {
    pub(crate) fn new(options: &Options, scene: &'a Scene, requirements: &Requirements) -> Self {
        let warm = |name, requirements| {
            let launcher = Launcher::start_with(requirements).expect("a launcher");
            Contender { name, lacks: "", scene, how: How::Warm(Box::new(launcher)) }
        };
        let mut everyone = vec![warm("kiln warm", requirements.clone())];
        let mut left_out = Vec::new();
        let priced = if options.has(Part::Layers) { &PRICED[..] } else { &[] };
        let without_one_layer = priced.iter().map(|(layer, name)| {
            warm(name, requirements.clone().without(*layer).expect("a layer that can be given up"))
        });
        let mut without_one_layer: Vec<_> = without_one_layer.collect();
        if !without_one_layer.is_empty() {
            without_one_layer.insert(0, warm("every layer", requirements.clone()));
        }
        let limits = requirements.require(Layer::Limits);
        let mut add = |name, lacks, line: Result<command::Line, String>| match line {
            Ok(line) => everyone.push(Contender { name, lacks, scene, how: How::Program(line) }),
            Err(why) => left_out.push(format!("{name}: {why}")),
        };
        add("kiln cold", "", command::Line::cold(limits));
        add("kiln-confine", "", command::Line::confine(options.confine.as_deref(), limits));
        let lacks = "one cgroup per step, time namespace, Landlock, seccomp (unless the caller brings a program), \
                     resource limits, memfd rule, per-step user, read-back, trace";
        add("bwrap", lacks, command::Line::bwrap());
        let lacks = "a root of its own (the host's table, remounted), pid 1 without privileges, empty capability bounding \
                     set, no_new_privs, cgroup, Landlock, seccomp, resource limits, time and cgroup namespaces, read-back, trace";
        add("linux-sandbox", lacks, command::Line::linux_sandbox(options.linux_sandbox.as_deref()));
        let lacks =
            "any view (no mount is made), no_new_privs, cgroup, Landlock, seccomp, resource limits, read-back, trace";
        add("unshare", lacks, command::Line::unshare());
        left_out.push("nsjail: Debian has no package of it".to_owned());
        everyone.push(Contender { name: "plain", lacks: "everything: posix_spawn and wait", scene, how: How::Plain });
        let given_up = requirements.given_up().iter().map(ToString::to_string).collect();
        Self { everyone, without_one_layer, left_out, given_up }
    }

    pub(crate) fn everyone(&self) -> impl Iterator<Item = &Contender<'a>> {
        self.everyone.iter()
    }

    pub(crate) fn without_one_layer(&self) -> impl Iterator<Item = &Contender<'a>> {
        self.without_one_layer.iter()
    }

    /// Our resident launcher.
    pub(crate) fn warm(&self) -> &Contender<'a> {
        self.everyone.first().expect("the first is ours")
    }
}

/// The first of `places` that is a file.
pub(crate) fn find(places: &[PathBuf]) -> Option<PathBuf> {
    places.iter().find(|place| Path::is_file(place)).cloned()
}
