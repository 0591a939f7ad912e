//! The command lines of those that are programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::contenders::{COLD, find};
use crate::scene::{INPUTS, OUT, Scene, TEMPORARY_BYTES};

/// How to get Bazel's linux-sandbox without Bazel.
const GET_LINUX_SANDBOX: &str = "not found: `apt-get install --no-install-recommends libprotoc32 && apt-get download bazel-bootstrap && \
     dpkg-deb -x bazel-bootstrap_*.deb bazel`, then --linux-sandbox bazel/usr/libexec/x86_64-linux-gnu/bazel/linux-sandbox";

/// A program and what it needs to start a payload.
pub(crate) struct Line {
    program: PathBuf,
    arguments: fn(&Scene, u16) -> Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
}

/// A command that is ready to run.
pub(crate) struct Ready {
    argv: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    /// None: where we are, which keeps this a posix_spawn.
    directory: Option<PathBuf>,
}

impl Line {
    /// This program, executed again for one step.
    pub(crate) fn cold(limits: bool) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let environment = if limits { vec![] } else { vec![("GIVEN_UP", "limits")] };
        let arguments = |scene: &Scene, _| vec![COLD.to_owned(), scene.directory().display().to_string()];
        Ok(Self { program, arguments, environment })
    }

    /// The program that this package comes with.
    pub(crate) fn confine(named: Option<&Path>, limits: bool) -> Result<Self, String> {
        let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.parent()?.join("kiln-confine")));
        let places: Vec<_> = named.map(Path::to_owned).into_iter().chain(beside).collect();
        let program = find(&places).ok_or("not built: `cargo confine`")?;
        let arguments = if limits { confine_arguments } else { confine_without_limits };
        Ok(Self { program, arguments, environment: vec![] })
    }

    pub(crate) fn bwrap() -> Result<Self, String> {
        let program = find(&["/usr/bin/bwrap".into()]).ok_or("not found: `apt-get install bubblewrap`")?;
        Ok(Self { program, arguments: bwrap_arguments, environment: vec![] })
    }

    pub(crate) fn linux_sandbox(named: Option<&Path>) -> Result<Self, String> {
        let installed = "/usr/libexec/x86_64-linux-gnu/bazel/linux-sandbox".into();
        let places: Vec<_> = named.map(Path::to_owned).into_iter().chain([installed]).collect();
        let program = find(&places).ok_or(GET_LINUX_SANDBOX)?;
        Ok(Self { program, arguments: linux_sandbox_arguments, environment: vec![] })
    }

    pub(crate) fn unshare() -> Result<Self, String> {
        let program = find(&["/usr/bin/unshare".into()]).ok_or("not found: `apt-get install util-linux`")?;
        Ok(Self { program, arguments: unshare_arguments, environment: vec![] })
    }

    /// The command for one payload.
    pub(crate) fn of(&self, scene: &Scene, payload: &[String], slot: u16) -> Ready {
        let mut argv = vec![self.program.display().to_string()];
        argv.extend((self.arguments)(scene, slot));
        // linux-sandbox and unshare see the host's names: the same file by its path there.
        let own_root = !["linux-sandbox", "unshare"].iter().any(|name| self.program.ends_with(name));
        match payload {
            [noop] if noop == "/noop" && !own_root => argv.push(scene.root().join("noop").display().to_string()),
            payload => argv.extend_from_slice(payload),
        }
        Ready { argv, environment: self.environment.clone(), directory: None }
    }
}

impl Ready {
    /// A payload with nothing around it, in its workspace if that matters.
    pub(crate) fn new(argv: Vec<String>, scene: &Scene, slot: u16) -> Self {
        let directory = (argv.len() > 1).then(|| scene.workspace(slot));
        Self { argv, environment: vec![("PATH", "/usr/bin"), ("TMPDIR", "/dev/shm")], directory }
    }

    pub(crate) fn command(&self) -> Command {
        let (program, arguments) = self.argv.split_first().expect("a program");
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(self.environment.iter().copied()).stdin(Stdio::null());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self) {
        let status = self.command().stdout(Stdio::null()).stderr(Stdio::null()).status().expect("a process");
        assert!(status.success(), "{:?}: {status}", self.argv);
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The strictest that its options give without a program for seccomp: every namespace it has, another user, no capabilities.
fn bwrap_arguments(scene: &Scene, slot: u16) -> Vec<String> {
    let mut line = words([
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup",
        "--disable-userns",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--hostname",
        "localhost",
        "--new-session",
        "--die-with-parent",
        "--cap-drop",
        "ALL",
        "--clearenv",
        "--setenv",
        "PATH",
        "/usr/bin",
    ]);
    line.extend(words(["--ro-bind", &text(&scene.root()), "/", "--bind", &text(&scene.workspace(slot)), OUT]));
    for (number, target) in INPUTS.iter().enumerate() {
        line.extend(words(["--ro-bind", &text(&scene.input(number)), target]));
    }
    line.extend(words(["--size", &TEMPORARY_BYTES.to_string(), "--tmpfs", "/tmp", "--proc", "/proc"]));
    line.extend(words(["--dev-bind", &text(&scene.devices()), "/dev", "--size", "67108864", "--tmpfs", "/dev/shm"]));
    line.extend(words(["--chdir", OUT, "--"]));
    line
}

/// It has no root of its own: the host's table stays, remounted read-only, and what is given comes on top.
fn linux_sandbox_arguments(scene: &Scene, slot: u16) -> Vec<String> {
    let workspace = text(&scene.workspace(slot));
    words(["-W", &workspace, "-w", &workspace, "-e", "/dev/shm", "-N", "-H", "-U", "--"])
}

/// The same namespaces as ours, one user, and nothing more.
fn unshare_arguments(_: &Scene, _: u16) -> Vec<String> {
    words([
        "--user",
        "--map-user=1000",
        "--map-group=1000",
        "--mount",
        "--pid",
        "--fork",
        "--net",
        "--ipc",
        "--uts",
        "--cgroup",
        "--time",
        "--",
    ])
}

fn confine_arguments(scene: &Scene, slot: u16) -> Vec<String> {
    let mut line = words(["--root", &text(&scene.root()), "--rw", &format!("{}:{OUT}", text(&scene.workspace(slot)))]);
    for (number, target) in INPUTS.iter().enumerate() {
        line.extend(words(["--ro", &format!("{}:{target}", text(&scene.input(number)))]));
    }
    line.extend(words(["--tmp", &TEMPORARY_BYTES.to_string(), "--env", "PATH=/usr/bin", "--chdir", OUT, "--"]));
    line
}

fn confine_without_limits(scene: &Scene, slot: u16) -> Vec<String> {
    [words(["--without", "limits"]), confine_arguments(scene, slot)].concat()
}
