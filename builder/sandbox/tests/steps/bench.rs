//! The bench that every test works on: launchers, an image directory with the probe in it, a workspace, an input.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use kiln_sandbox::{
    Access, Draft, Launcher, Layer, Limits, Mount, Outcome, Policy, Proc, Profile, Requirements, Source, Temporary,
};
use tempfile::TempDir;

use crate::mutations::{MUTANTS, SABOTAGED};

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
}

/// Shared by all tests.
pub(crate) struct Bench {
    pub(crate) launcher: Launcher,
    mutants: Vec<(&'static [Layer], Launcher)>,
    /// Launchers that leave one layer out and still insist on it.
    pub(crate) saboteurs: Vec<(Layer, Launcher)>,
    image: TempDir,
    scratch: TempDir,
}

impl Bench {
    /// Starts every launcher. `limits`: also insist on cgroup controllers. `probe`: one compiled before.
    pub(crate) fn new(limits: bool, probe: Option<&Path>) -> Self {
        let without = |requirements: Requirements, layer| requirements.without(layer).expect("a layer to give up");
        let requirements = || if limits { Requirements::all() } else { without(Requirements::all(), Layer::Limits) };
        let start = |requirements| Launcher::start_with(requirements).expect("a launcher (needs root and one thread)");
        let launcher = start(requirements());
        let mutant = |layers: &[Layer]| start(layers.iter().copied().fold(requirements(), without));
        let mutants = MUTANTS.iter().map(|off| (off.off, mutant(off.off))).collect();
        let saboteurs = SABOTAGED.map(|layer| (layer, start(requirements().sabotage(layer)))).into();
        let image = tempfile::tempdir().expect("directory");
        for directory in ["proc", "dev", "tmp", "work", "inputs"] {
            fs::create_dir(image.path().join(directory)).expect("directory of the image");
        }
        match probe {
            Some(probe) => drop(fs::copy(probe, image.path().join("probe")).expect("probe")),
            None => compile_probe(&image.path().join("probe")),
        }
        open_to_all(image.path());
        let scratch = tempfile::tempdir().expect("directory");
        fs::write(scratch.path().join("data"), "input\n").expect("input");
        Self { launcher, mutants, saboteurs, image, scratch }
    }

    pub(crate) fn mutant(&self, off: &[Layer]) -> &Launcher {
        &self.mutants.iter().find(|(without, _)| *without == off).expect("a mutant").1
    }

    /// A policy that runs the probe with `arguments`, with a fresh workspace at `/work/out`.
    pub(crate) fn draft(&self, arguments: &[&str]) -> Draft {
        let workspace = self.workspace();
        fs::remove_dir_all(&workspace).ok();
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
            ],
            temporaries: vec![Temporary { target: "/tmp".into(), size_bytes_max: 16 << 20, inodes_max: 1024 }],
            argv: [&["/probe"], arguments].concat().into_iter().map(str::to_owned).collect(),
            env: BTreeMap::from([("LANG".to_owned(), "C".to_owned())]),
            workdir: "/work/out".into(),
            limits: Limits { wall_ms: 20_000, ..Limits::default() },
            profile: Profile::Strict,
            proc: Proc::Minimal,
            hostname: "localhost".into(),
            slot: 7,
        }
    }

    /// Where the workspace of the latest draft lies on the host.
    pub(crate) fn workspace(&self) -> std::path::PathBuf {
        self.scratch.path().join("workspace")
    }

    /// Runs the probe with `arguments` under every layer.
    pub(crate) fn probe(&self, arguments: &[&str]) -> Ran {
        run(&self.launcher, self.draft(arguments))
    }
}

/// Runs a draft to its end and reads all it said.
pub(crate) fn run(launcher: &Launcher, draft: Draft) -> Ran {
    let policy = Policy::new(draft).expect("a policy");
    let (reader, writer) = pipe();
    let errors = writer.try_clone().expect("dup");
    let step = launcher.spawn(&policy, writer, errors).expect("a step");
    let reading = std::thread::spawn(move || {
        let mut said = String::new();
        reader.take(1 << 20).read_to_string(&mut said).expect("text");
        said
    });
    let outcome = step.wait().expect("an outcome");
    Ran { outcome, said: reading.join().expect("reader") }
}

pub(crate) fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("pipe");
    (File::from(OwnedFd::from(reader)), writer.into())
}

fn compile_probe(to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/steps/probe.c");
    let status = Command::new("cc").args(["-static", "-O1", "-Wall", "-Werror", "-o"]).arg(to).arg(source).status();
    assert!(status.expect("cc is needed to build the probe").success(), "the probe must compile");
}

fn open_to_all(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("mode");
}
