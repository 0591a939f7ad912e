//! One view for everybody: the same root, the same mounts, the same programs.
//!
//! Twelve mounts: `/`, one writable workspace, six read-only inputs (`/usr` of the host is one of them where it exists), a private
//! `/tmp`, `/proc`, `/dev` and `/dev/shm`. The directory of the scene is the only thing that a cold start is told.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use kiln_sandbox::{Access, Draft, Limits, Mount, Policy, Source, Temporary};
use rustix::fs::{FileType, Mode, makedev, mknodat};
use tempfile::TempDir;

use crate::options::Part;

/// Where the six inputs are mounted.
pub(crate) const INPUTS: [&str; 6] = ["/inputs/a", "/inputs/b", "/inputs/c", "/inputs/d", "/inputs/e", "/usr"];
/// The writable directory.
pub(crate) const OUT: &str = "/work/out";
/// Bytes of a private file system.
pub(crate) const TEMPORARY_BYTES: u64 = 256 << 20;
/// Its files.
pub(crate) const TEMPORARY_INODES: u64 = 4096;
/// How many translation units one compilation has: about a second of work.
const UNITS: usize = 8;

/// A whole static program for x86-64: the headers and `exit_group(0)`. No compiler is needed where the benchmark runs.
const NOOP: [u8; 129] = {
    let mut file = [0_u8; 129];
    let parts: [(usize, &[u8]); 15] = [
        (0, b"\x7fELF\x02\x01\x01"),
        (16, &[2, 0, 62, 0, 1]),
        (24, &[0x78, 0, 0x40]), // entry: 0x400078
        (32, &[64]),            // program headers
        (52, &[64, 0, 56, 0, 1]),
        (64, &[1]),          // PT_LOAD
        (68, &[5]),          // read, execute
        (80, &[0, 0, 0x40]), // at 0x400000
        (88, &[0, 0, 0x40]),
        (96, &[129]),
        (104, &[129]),
        (112, &[0, 0x10]),
        (120, &[0x31, 0xff]),          // xor edi, edi
        (122, &[0xb8, 0xe7, 0, 0, 0]), // mov eax, 231
        (127, &[0x0f, 0x05]),          // syscall
    ];
    let mut part = 0;
    while part < parts.len() {
        let (at, bytes) = parts[part];
        let mut byte = 0;
        while byte < bytes.len() {
            file[at + byte] = bytes[byte];
            byte += 1;
        }
        part += 1;
    }
    file
};

/// What is run.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) name: &'static str,
    /// As a sandbox sees it.
    pub(crate) argv: Vec<String>,
    /// As a plain process sees it.
    pub(crate) outside: Option<Vec<String>>,
    /// Takes so long that few runs are enough.
    pub(crate) long: bool,
    /// The only contenders that it is for; empty: all.
    pub(crate) only: &'static [&'static str],
}

impl Payload {
    pub(crate) fn noop() -> Self {
        Self { name: "static no-op", argv: vec!["/noop".into()], outside: None, long: false, only: &[] }
    }

    /// The payload of a part that has one; `None` too if this machine has not what it needs, which is said.
    pub(crate) fn of(part: Part, scene: &Scene, source: Option<&Path>) -> Option<Self> {
        match part {
            Part::Noop => Some(Self::noop()),
            Part::Dynamic if Path::new("/usr/bin/true").exists() => {
                Some(Self { name: "dynamic /usr/bin/true", argv: vec!["/usr/bin/true".into()], ..Self::noop() })
            }
            Part::Compile if Path::new("/usr/bin/gcc").exists() => Self::compile(scene, source),
            Part::Dynamic | Part::Compile => {
                eprintln!("left out: {part:?}: this machine has not the program");
                None
            }
            Part::Filter | Part::Layers | Part::Together | Part::Growth => None,
        }
    }

    /// One `gcc -O2 -c` of many real files: a step that starts two programs for each of them.
    fn compile(scene: &Scene, source: Option<&Path>) -> Option<Self> {
        let units: Vec<PathBuf> = match source {
            Some(file) => vec![file.to_owned()],
            None => {
                let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/steps/probe");
                let entries = fs::read_dir(own).into_iter().flatten();
                let mut own: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
                own.retain(|path| path.extension().is_some_and(|extension| extension == "c" || extension == "h"));
                own.sort_unstable();
                own
            }
        };
        let mut names = Vec::new();
        for path in units {
            let name = path.file_name()?.to_str()?.to_owned();
            fs::copy(&path, scene.input(0).join(&name)).expect("a copy of a C file");
            if name.ends_with(".c") {
                names.push(name);
            }
        }
        if names.is_empty() {
            eprintln!("left out: Compile: no C file");
            return None;
        }
        let argv = |directory: &str| {
            let mut argv: Vec<String> = ["/usr/bin/gcc", "-O2", "-c"].map(str::to_owned).into();
            argv.extend(names.iter().cycle().take(UNITS).map(|name| format!("{directory}/{name}")));
            argv
        };
        let outside = argv(scene.input(0).to_str()?);
        Some(Self {
            name: "gcc -O2 -c",
            argv: argv(INPUTS[0]),
            outside: Some(outside),
            long: true,
            only: &["plain", "kiln warm", "bwrap"],
        })
    }

    pub(crate) fn suits(&self, contender: &str) -> bool {
        self.only.is_empty() || self.only.contains(&contender)
    }
}

/// The directory that everything is in.
#[derive(Debug)]
pub(crate) struct Scene {
    directory: PathBuf,
    _own: Option<TempDir>,
}

impl Scene {
    /// Makes one; gone when dropped.
    pub(crate) fn new() -> Self {
        let own = tempfile::tempdir().expect("a directory");
        let scene = Self { directory: own.path().to_owned(), _own: Some(own) };
        scene.furnish().expect("a scene: needs root");
        scene
    }

    /// One that another process made.
    pub(crate) fn at(directory: PathBuf) -> Self {
        Self { directory, _own: None }
    }

    fn furnish(&self) -> std::io::Result<()> {
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o755))?;
        let inside = ["proc", "dev", "tmp", OUT].into_iter().chain(INPUTS);
        for directory in inside.map(|place| self.root().join(place.trim_start_matches('/'))) {
            fs::create_dir_all(directory)?;
        }
        for name in ["bin", "lib", "lib64"] {
            if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
                symlink(target, self.root().join(name))?;
            }
        }
        let noop = self.root().join("noop");
        fs::write(&noop, NOOP)?;
        fs::set_permissions(&noop, fs::Permissions::from_mode(0o755))?;
        (0..INPUTS.len()).try_for_each(|number| fs::create_dir_all(self.directory.join(format!("input-{number}"))))?;
        for slot in 0..crate::rounds::TOGETHER_MAX {
            let workspace = self.workspace(slot as u16);
            fs::create_dir_all(&workspace)?;
            fs::set_permissions(&workspace, fs::Permissions::from_mode(0o777))?;
        }
        fs::create_dir_all(self.devices().join("shm"))?;
        for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
            let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
            mknodat(rustix::fs::CWD, self.devices().join(name), kind, mode, makedev(1, minor))?;
            fs::set_permissions(self.devices().join(name), fs::Permissions::from_mode(0o666))?;
        }
        Ok(())
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// A directory with the five device nodes, for those that mount one; ours brings its own.
    pub(crate) fn devices(&self) -> PathBuf {
        self.directory.join("devices")
    }

    pub(crate) fn workspace(&self, slot: u16) -> PathBuf {
        self.directory.join(format!("workspace-{slot}"))
    }

    pub(crate) fn input(&self, number: usize) -> PathBuf {
        let usr = INPUTS.get(number) == Some(&"/usr") && Path::new("/usr").exists();
        if usr { "/usr".into() } else { self.directory.join(format!("input-{number}")) }
    }

    /// The policy of one step in this view.
    pub(crate) fn policy(&self, argv: &[String], slot: u16) -> Policy {
        let mount = |source: PathBuf, target: &str, access| Mount {
            source: Source::Path(source),
            target: target.into(),
            access,
        };
        let mut mounts = vec![mount(self.workspace(slot), OUT, Access::ReadWrite)];
        let inputs = INPUTS.iter().enumerate();
        mounts.extend(inputs.map(|(number, target)| mount(self.input(number), target, Access::ReadOnly)));
        let draft = Draft {
            root: Source::Path(self.root()),
            mounts,
            temporaries: vec![Temporary {
                target: "/tmp".into(),
                size_bytes_max: TEMPORARY_BYTES,
                inodes_max: TEMPORARY_INODES,
            }],
            argv: argv.to_vec(),
            env: BTreeMap::from([("PATH".to_owned(), "/usr/bin".to_owned())]),
            workdir: OUT.into(),
            limits: Limits::default(),
            profile: Default::default(),
            proc: Default::default(),
            hostname: "localhost".into(),
            slot,
        };
        Policy::new(draft).expect("a policy")
    }
}
