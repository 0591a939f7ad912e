//! The bench that every test works on: launchers, an image directory with the probe in it, workspaces, inputs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use kiln_sandbox::collect::Leftovers;
use kiln_sandbox::{
    Access, AuditBefore, Draft, Exit, Launcher, Layer, Limits, Mount, Outcome, Policy, Proc, Profile, Requirements,
    Source, Temporary,
};
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;

use crate::mutations::{MUTANTS, SABOTAGED};

/// Desks: so many steps run at one time at most.
const DESKS: usize = 8;
/// Where tests work that run one step at a time.
const FIRST_DESK: u16 = 7;

/// Bytes that are kept of what a probe says; the rest is read and forgotten.
const SAID_BYTES_MAX: u64 = 1 << 20;

/// What a run left: how it ended and what it said.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) said: String,
}

impl Ran {
    /// What the probe said to one attack.
    pub(crate) fn answer(&self, attack: &str) -> &str {
        let line = self.said.lines().find_map(|line| line.strip_prefix(attack)?.strip_prefix(' '));
        line.unwrap_or("(nothing)")
    }

    /// What came of one attack in one phrase: what the probe said, or else how the step ended.
    pub(crate) fn verdict(&self, attack: &str) -> String {
        match &self.outcome.exit {
            Exit::Code { code: 0 } => self.answer(attack).to_owned(),
            Exit::Code { code } => format!("{} exit {code}", self.answer(attack)),
            Exit::Signal { signal } => format!("signal {signal}"),
            Exit::PolicyViolation => "killed".into(),
            Exit::Timeout { .. } => "timeout".into(),
            Exit::OutOfMemory => "out of memory".into(),
            Exit::PidLimit { .. } => "pid limit".into(),
            Exit::DiskLimit { .. } => "disk limit".into(),
            Exit::FileLimit => "file limit".into(),
            other => format!("{other:?}"),
        }
    }
}

/// Audit, which traces need, switched on for the whole machine; as it was before once the last test program on it has ended.
pub(crate) struct AuditOn {
    users: File,
    before: Option<AuditBefore>,
}

impl AuditOn {
    pub(crate) fn now() -> Self {
        let users = File::create(std::env::temp_dir().join("kiln-audit.lock")).expect("lock file");
        users.lock_shared().expect("lock");
        let before = kiln_sandbox::switch_audit_on().expect("audit (needs root in the initial namespaces)");
        Self { users, before: Some(before) }
    }
}

impl Drop for AuditOn {
    fn drop(&mut self) {
        // Another program on this machine may still trace.
        if self.users.try_lock().is_ok() {
            self.before.take().expect("once").restore().expect("audit as it was");
        }
    }
}

/// Shared by all tests.
pub(crate) struct Bench {
    pub(crate) launcher: Launcher,
    /// Without limits, whatever the others have.
    pub(crate) unlimited: Launcher,
    mutants: Vec<(&'static [Layer], Launcher)>,
    /// Desks that nobody works at: slots of steps and names of workspaces.
    desks: Mutex<Vec<u16>>,
    /// Launchers that leave one layer out and still insist on it.
    pub(crate) saboteurs: Vec<(Layer, Launcher)>,
    image: TempDir,
    scratch: TempDir,
    /// Services of the host in an input and in the image.
    _services: [UnixListener; 2],
}

impl Bench {
    /// Starts every launcher. `limits`: also insist on cgroup controllers. `probe`: one compiled before.
    pub(crate) fn new(limits: bool, probe: Option<&Path>) -> Self {
        let without = |requirements: Requirements, layer| requirements.without(layer).expect("a layer to give up");
        let requirements = || if limits { Requirements::all() } else { without(Requirements::all(), Layer::Limits) };
        let start = |requirements| Launcher::start_with(requirements).expect("a launcher (needs root and one thread)");
        let launcher = start(requirements());
        let unlimited = start(without(Requirements::all(), Layer::Limits));
        let mutant = |layers: &[Layer]| start(layers.iter().copied().fold(requirements(), without));
        let mutants = MUTANTS.iter().map(|off| (*off, mutant(off))).collect();
        let saboteurs = SABOTAGED.map(|layer| (layer, start(requirements().sabotage(layer)))).into();
        let image = tempfile::tempdir().expect("directory");
        for directory in ["proc", "dev", "tmp", "work", "inputs", "etc", "usr/bin"] {
            fs::create_dir_all(image.path().join(directory)).expect("directory of the image");
        }
        match probe {
            Some(probe) => drop(fs::copy(probe, image.path().join("probe")).expect("probe")),
            None => compile("probe", &image.path().join("probe")),
        }
        for name in ["traced", "ask"] {
            match probe.map(|probe| probe.with_file_name(name)) {
                Some(program) => drop(fs::copy(program, image.path().join(name)).expect("program")),
                None => compile(name, &image.path().join(name)),
            }
        }
        fs::write(image.path().join("usr/bin/tool"), "tool\n").expect("tool of the image");
        let scratch = tempfile::tempdir().expect("directory");
        fs::write(scratch.path().join("data"), "input\n").expect("input");
        fs::create_dir(scratch.path().join("tree")).expect("input");
        fs::write(scratch.path().join("tree/file"), "input\n").expect("input");
        let services = [scratch.path().join("tree"), image.path().to_owned()].map(|place| serve(&place));
        for set_id in [image.path().join("usr/bin/set-id"), scratch.path().join("tree/set-id")] {
            fs::copy(image.path().join("probe"), &set_id).expect("set-id program");
            fs::set_permissions(&set_id, fs::Permissions::from_mode(0o6755)).expect("mode");
        }
        open_to_all(image.path());
        let desks = Mutex::new((FIRST_DESK..FIRST_DESK + DESKS as u16).rev().collect());
        Self { launcher, unlimited, mutants, saboteurs, desks, image, scratch, _services: services }
    }

    pub(crate) fn mutant(&self, off: &[Layer]) -> &Launcher {
        &self.mutants.iter().find(|(without, _)| *without == off).expect("a mutant").1
    }

    /// A policy that runs the probe with `arguments`, with a fresh workspace at `/work/out`.
    pub(crate) fn draft(&self, arguments: &[&str]) -> Draft {
        self.draft_at(FIRST_DESK, arguments)
    }

    /// The same at one of several desks.
    pub(crate) fn draft_at(&self, desk: u16, arguments: &[&str]) -> Draft {
        let workspace = self.workspace_at(desk);
        // A probe may have put a link where the workspace was.
        fs::remove_file(&workspace).ok();
        if workspace.exists() {
            Leftovers::in_directory(&workspace).and_then(Leftovers::remove).expect("an empty workspace");
            fs::remove_dir(&workspace).expect("no workspace");
        }
        fs::create_dir(&workspace).expect("workspace");
        let mount = |path: &Path, target: &str, access| Mount {
            source: Source::Path(path.to_owned()),
            target: target.into(),
            access,
        };
        Draft {
            root: Source::Path(self.image.path().to_owned()),
            mounts: vec![
                mount(&workspace, "/work/out", Access::ReadWrite),
                mount(&self.scratch.path().join("data"), "/inputs/data", Access::ReadOnly),
                mount(&self.scratch.path().join("tree"), "/inputs/tree", Access::ReadOnly),
            ],
            temporaries: vec![Temporary { target: "/tmp".into(), size_bytes_max: 16 << 20, inodes_max: 1024 }],
            argv: [&["/probe"], arguments].concat().into_iter().map(str::to_owned).collect(),
            env: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
            workdir: "/work/out".into(),
            limits: Limits { wall_ms: 60_000, ..Limits::default() },
            profile: Profile::Strict,
            proc: Proc::Minimal,
            hostname: "localhost".into(),
            slot: desk,
        }
    }

    /// Where the workspace of the latest draft lies on the host.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.workspace_at(FIRST_DESK)
    }

    pub(crate) fn workspace_at(&self, desk: u16) -> PathBuf {
        self.scratch.path().join(format!("workspace-{desk}"))
    }

    /// Does `work` with every item, at as many desks as there are processors.
    pub(crate) fn with_each<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(u16, &T) -> R + Sync) -> Vec<R> {
        let hands = std::thread::available_parallelism().map_or(1, usize::from).min(DESKS);
        let next = std::sync::atomic::AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..hands {
                scope.spawn(|| {
                    let desk = self.desks.lock().expect("desks").pop().expect("a free desk");
                    loop {
                        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let Some(item) = items.get(at) else { break };
                        let result = work(desk, item);
                        done.lock().expect("results").push((at, result));
                    }
                    self.desks.lock().expect("desks").push(desk);
                });
            }
        });
        let mut done = done.into_inner().expect("results");
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// Where a file of the image lies on the host.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.image.path().join(name)
    }

    /// Runs the probe with `arguments` under every layer.
    pub(crate) fn probe(&self, arguments: &[&str]) -> Ran {
        run(&self.launcher, self.draft(arguments))
    }
}

/// A socket that somebody listens at, and a fifo, both of which everybody may write to.
fn serve(place: &Path) -> UnixListener {
    let (socket, fifo) = (place.join("service"), place.join("fifo"));
    let service = UnixListener::bind(&socket).expect("socket");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::empty(), 0).expect("fifo");
    for path in [socket, fifo] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("mode");
    }
    service
}

/// Runs a draft to its end and reads all it said.
pub(crate) fn run(launcher: &Launcher, draft: Draft) -> Ran {
    let policy = Policy::new(draft).expect("a policy");
    let (reader, writer) = pipe();
    let errors = writer.try_clone().expect("dup");
    let step = launcher.spawn(&policy, writer, errors).expect("a step");
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        let mut reader = reader;
        (&mut reader).take(SAID_BYTES_MAX).read_to_end(&mut said).expect("bytes");
        std::io::copy(&mut reader, &mut std::io::sink()).expect("the rest");
        String::from_utf8_lossy(&said).into_owned()
    });
    let outcome = step.wait().expect("an outcome");
    Ran { outcome, said: reading.join().expect("reader") }
}

pub(crate) fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("pipe");
    (File::from(OwnedFd::from(reader)), writer.into())
}

/// Compiles the C sources in `directory` of this test to one program.
fn compile(directory: &str, to: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/steps").join(directory);
    let names = fs::read_dir(sources).expect("the probe's sources").map(|entry| entry.expect("entry").path());
    let mut files: Vec<_> = names.filter(|path| path.extension().is_some_and(|end| end == "c")).collect();
    files.sort();
    let cc = ["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"];
    let status = Command::new("cc").args(cc).arg(to).args(files).status();
    assert!(status.expect("cc is needed to build the probe").success(), "the probe must compile");
}

fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("mode");
}
