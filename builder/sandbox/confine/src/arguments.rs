//! What a person types. Every flag that says something about the policy fills in a [`Document`]; the others are about this run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use kiln_sandbox::{Layer, Proc, Profile};
use thiserror::Error;

use crate::bind::Bind;
use crate::document::{self, Access, Document, Limits, Mount, Temporary};
use crate::quantity::{Duration, Size};

/// Run one command confined: no network, nothing of the host but what is named, no privilege, limited, and told about.
///
/// Every layer is required and read back from the kernel before the command's first instruction. What this kernel cannot give is
/// refused, unless it was given up by name with --without. Standard input is /dev/null; output and errors are passed on.
#[derive(Debug, Parser)]
#[command(
    name = "kiln-confine",
    version,
    max_term_width = 110,
    after_help = "\
Examples:
  Once for each boot of this machine, so that what commands do can be told:
    kiln-confine --switch-audit-on
  Compile under the host's own root, which is read-only:
    kiln-confine --root / --rw .:/mnt --chdir /mnt --tmp 1G --timeout 10m -- make
  Turn flags into a file, and use it:
    kiln-confine --root / --tmp 1G --memory 4G --print-policy > build.toml
    kiln-confine --policy build.toml --rw .:/mnt --chdir /mnt --report report.json -- make

Exit status: the command's own; 128+N if signal N ended it; 119 a forbidden system call interface, 120 memory, 121 processes,
122 disk, 123 file size, 124 time; 125 refused or not set up, 126 not executable, 127 not found; 2 a mistake in the arguments
or in the policy file. docs/kiln-confine.md has the rest."
)]
pub(crate) struct Arguments {
    /// Policy: JSON if the name ends in .json, else TOML; flags add to it and override it
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Directory that is the command's read-only root
    #[arg(long, value_name = "DIR")]
    root: Option<String>,
    /// Show SRC at DEST (or at its own place), read-only; repeatable
    #[arg(long, value_name = "SRC[:DEST]")]
    ro: Vec<Bind>,
    /// Show SRC at DEST (or at its own place), to be written; not below a private /tmp; repeatable
    #[arg(long, value_name = "SRC[:DEST]")]
    rw: Vec<Bind>,
    /// Private /tmp in memory of this size
    #[arg(long, value_name = "SIZE")]
    tmp: Option<Size>,
    /// Environment entry; nothing is inherited, and without this there is only a PATH; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<Entry>,
    /// Where the command starts [default: /]
    #[arg(long, value_name = "DIR")]
    chdir: Option<String>,
    /// strict, loopback (127.0.0.1 inside) or debug (may trace its own processes) [default: strict]
    #[arg(long, value_name = "NAME", value_parser = document::named::<Profile>)]
    profile: Option<Profile>,
    /// minimal (its own processes) or masked (also cpuinfo, meminfo and the like) [default: minimal]
    #[arg(long, value_name = "NAME", value_parser = document::named::<Proc>)]
    proc: Option<Proc>,
    /// Memory of all its processes and temporary files [default: 2G]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Processes and threads at one time [default: 512]
    #[arg(long, value_name = "N")]
    pids: Option<u32>,
    /// Processor time in hundredths of one processor [default: no limit]
    #[arg(long, value_name = "PERCENT")]
    cpu: Option<u32>,
    /// Bytes a second from each block device, and to each [default: no limit]
    #[arg(long, value_name = "SIZE")]
    io: Option<Size>,
    /// Size of one file [default: 1G]
    #[arg(long, value_name = "SIZE")]
    file_size: Option<Size>,
    /// Open descriptors of one process [default: 1024]
    #[arg(long, value_name = "N")]
    open_files: Option<u64>,
    /// Time until it is asked to end (SIGTERM), or killed if there is no grace [default: 1h]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// Time between being asked to end and being killed [default: 0]
    #[arg(long, value_name = "DURATION")]
    grace: Option<Duration>,
    /// Host name that it sees [default: localhost]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Give a layer up by name; the report says so, and standard error does; repeatable
    #[arg(long, value_name = "LAYER", value_parser = document::named::<Layer>)]
    without: Vec<Layer>,
    /// Write what was enforced, executed, denied and used, and how it ended, to FILE (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write one JSON line at the start and one at the end to this inherited descriptor
    #[arg(long, value_name = "N")]
    pub(crate) status_fd: Option<u32>,
    /// Print the policy that flags and file add up to, as TOML, and run nothing
    #[arg(long)]
    pub(crate) print_policy: bool,
    /// Switch the kernel's audit on until it reboots, with rules that all runs share and so start sooner, and run nothing
    #[arg(long, exclusive = true)]
    pub(crate) switch_audit_on: bool,
    /// Command and its arguments
    #[arg(last = true, value_name = "COMMAND", required_unless_present_any = ["print_policy", "switch_audit_on"])]
    pub(crate) command: Vec<OsString>,
}

impl Arguments {
    /// What the flags say of the policy; sources are as written.
    pub(crate) fn document(&self) -> Document {
        let mount =
            |access| move |bind: &Bind| Mount { source: bind.source.clone(), target: bind.target.clone(), access };
        let tmp = |size: &Size| Temporary { target: "/tmp".to_owned(), size: *size, files: None };
        Document {
            root: self.root.clone(),
            chdir: self.chdir.clone(),
            profile: self.profile,
            proc: self.proc,
            hostname: self.hostname.clone(),
            timeout: self.timeout,
            grace: self.grace,
            without: self.without.iter().copied().collect(),
            limits: Limits {
                memory: self.memory,
                pids: self.pids,
                cpu_percent: self.cpu,
                io_per_second: self.io,
                file_size: self.file_size,
                open_files: self.open_files,
            },
            env: self.env.iter().map(|entry| (entry.name.clone(), entry.value.clone())).collect(),
            mounts: self.ro.iter().map(mount(Access::Ro)).chain(self.rw.iter().map(mount(Access::Rw))).collect(),
            temporaries: self.tmp.iter().map(tmp).collect(),
        }
    }
}

/// An environment entry.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    value: String,
}

/// A text without `=`.
#[derive(Clone, Copy, Debug, Error)]
#[error("write NAME=VALUE: nothing is taken over from the caller's environment (--env \"NAME=$NAME\" does it by hand)")]
struct NoValue;

impl FromStr for Entry {
    type Err = NoValue;

    fn from_str(text: &str) -> Result<Self, NoValue> {
        let (name, value) = text.split_once('=').ok_or(NoValue)?;
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}
