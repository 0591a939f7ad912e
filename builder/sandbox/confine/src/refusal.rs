//! Every reason for not running the command, or for not knowing how it ended; which status that is; and what to do about it.

use std::io;

use kiln_sandbox::{CgroupError, ContactError, Layer, PolicyError, ReadBackError, SpawnError, ViewError, WaitError};
use rustix::io::Errno;
use thiserror::Error;

use crate::{document, effective, end, place, slot, status};

/// Why there is no end of the command to tell.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("this needs root: the layers are put around the command from outside")]
    NotRoot,
    #[error("argument {number} of the command is not UTF-8 text: {text:?}")]
    NotText { number: usize, text: std::ffi::OsString },
    #[error("cannot find out where this process stands")]
    Here { source: io::Error },
    #[error("cannot print the policy")]
    Print { source: toml::ser::Error },
    #[error("cannot write the policy to standard output")]
    Say { source: io::Error },
    #[error("cannot switch audit on")]
    Audit { source: io::Error },
    #[error(transparent)]
    Document(#[from] document::Error),
    #[error(transparent)]
    Effective(#[from] effective::Error),
    #[error("the policy contradicts itself or is out of bounds")]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Slot(#[from] slot::Error),
    #[error(transparent)]
    Status(#[from] status::Error),
    #[error("cannot put the report into words")]
    Report { source: serde_json::Error },
    #[error(transparent)]
    Place(#[from] place::Error),
    #[error("cannot make ready for signals")]
    Signals { source: io::Error },
    #[error("cannot make the pipes for what the command says")]
    Pipe { source: io::Error },
    #[error("the command was not started")]
    Spawn(#[from] SpawnError),
    #[error("it is not known how the command ended")]
    Wait(#[from] WaitError),
    #[error("what the command wrote to standard {stream} could not be passed on")]
    Output { stream: &'static str, source: io::Error },
}

impl Refusal {
    /// What the process answers.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::NotText { .. } | Self::Document(_) | Self::Policy(_) => end::USAGE,
            Self::Effective(
                effective::Error::NoRoot | effective::Error::NotText { .. } | effective::Error::Layer(_),
            ) => end::USAGE,
            _ => end::REFUSED,
        }
    }

    /// The layer that it is about, if it is about one.
    pub(crate) fn layer(&self) -> Option<Layer> {
        match self {
            Self::Spawn(error) => spawn_layer(error),
            _ => None,
        }
    }

    /// The error and what caused it, outermost first.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut causes = vec![self.to_string()];
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let text = error.to_string().trim_end().to_owned();
            // A transparent error says what its source says.
            if causes.last() != Some(&text) {
                causes.push(text);
            }
            source = error.source();
        }
        causes
    }

    /// What the person can do, if there is something to say.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Self::NotRoot => Some("run it as root, in the initial user namespace".to_owned()),
            Self::Audit { .. } => Some(
                "it needs CONFIG_AUDIT, root in the initial namespaces, and rules that are not fixed (audit=0, auditctl -e 2)".to_owned(),
            ),
            Self::Effective(error) => effective_help(error),
            Self::Status(status::Error::Unread) => {
                Some("read the descriptor while this runs, or give it a file".to_owned())
            }
            Self::Place(place::Error::Taken { .. }) => {
                Some("name a file that is not there yet, or a regular file: it is replaced".to_owned())
            }
            Self::Slot(slot::Error::Full) => Some("wait until a step has ended".to_owned()),
            Self::Spawn(error) => spawn_help(error),
            Self::Wait(WaitError::Lost) => {
                Some("something else on this host killed it (the host's own lack of memory, for example)".to_owned())
            }
            _ => None,
        }
    }
}

fn effective_help(error: &effective::Error) -> Option<String> {
    Some(match error {
        effective::Error::NoRoot => {
            "give --root DIR, or root in the policy file; --root / is this host's own".to_owned()
        }
        effective::Error::Owner { path, .. } => {
            format!(
                "the command's own user stands for root on disk: chown -R root: {path}, or name a directory of root's"
            )
        }
        effective::Error::Kind { .. } => {
            "name a directory, or a regular file of one; the root is a directory".to_owned()
        }
        effective::Error::Layer(_) => "everything else rests on it".to_owned(),
        _ => return None,
    })
}

fn spawn_layer(error: &SpawnError) -> Option<Layer> {
    match error {
        SpawnError::Unavailable { layer, .. }
        | SpawnError::Setup { layer, .. }
        | SpawnError::ReadBack(ReadBackError::NotEnforced { layer, .. }) => Some(*layer),
        SpawnError::Cgroup(_) => Some(Layer::Limits),
        SpawnError::Trace(_) => Some(Layer::Trace),
        SpawnError::View(_) | SpawnError::Contact(_) | SpawnError::Source { .. } => Some(Layer::View),
        _ => None,
    }
}

fn spawn_help(error: &SpawnError) -> Option<String> {
    Some(match error {
        SpawnError::View(ViewError::ParentInUse { target, parent }) => format!(
            "choose a directory that is there (/mnt), or a place that the view can make: in a directory of the root that is empty, as \
             {parent} is not, or, to be read only, below a temporary file system (--tmp 1G and SRC:/tmp/NAME); or make {target} yourself"
        ),
        SpawnError::View(ViewError::Missing { target }) => {
            format!("make an empty directory {target} in the root: the view cannot make one there")
        }
        SpawnError::View(ViewError::Look { target, source }) if *source == Errno::LOOP => {
            format!("there is a symbolic link on the way to {target} in the root: name the place that it leads to")
        }
        SpawnError::Contact(ContactError::Found { path, .. }) => {
            format!(
                "remove {path:?} or move it elsewhere; or hand the directory over with --ro: there nobody can reach it"
            )
        }
        SpawnError::Source { source, .. } if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            "the source became a symbolic link just now: something on this host changes it".to_owned()
        }
        SpawnError::Setup { layer: Layer::View, operation, errno } if operation.starts_with("mount_setattr of /") => {
            format!(
                "its file system must allow owner-mapped mounts ({}): ext4, XFS, Btrfs, EROFS, tmpfs do; overlay, NFS, an \
                 initramfs do not. Copy the source to one that does",
                io::Error::from_raw_os_error(*errno)
            )
        }
        SpawnError::Setup { layer: Layer::View, operation, .. } if operation.starts_with("chdir") => {
            "it must be a directory of the view that user 1000 may enter".to_owned()
        }
        SpawnError::Cgroup(CgroupError::NotMounted) => {
            "mount it: mount -t cgroup2 none /sys/fs/cgroup. It cannot be given up: by its cgroup a step is killed"
                .to_owned()
        }
        SpawnError::Threads { .. } => return None,
        error => layer_help(spawn_layer(error)?)?,
    })
}

/// What a layer needs of the kernel, and how it is given up.
pub(crate) fn layer_help(layer: Layer) -> Option<String> {
    let needs = match layer {
        Layer::Limits => {
            "the cgroup v2 controllers cpu, memory, pids and io, not taken by cgroup v1 (kernel parameter cgroup_no_v1=all, or \
             systemd.unified_cgroup_hierarchy=1)"
        }
        Layer::Trace => {
            "CONFIG_AUDIT with auditing switched on (kiln-confine --switch-audit-on) and CONFIG_FANOTIFY with \
             CONFIG_FANOTIFY_ACCESS_PERMISSIONS"
        }
        Layer::Namespaces => {
            return Some(
                "it needs every namespace type of Linux 5.6 or newer and user.max_*_namespaces above 0, and root in the initial \
                 user namespace; it cannot be given up"
                    .to_owned(),
            );
        }
        Layer::NestedNamespaces => "CONFIG_USER_NS and a writable /proc/sys/user",
        Layer::AnonymousExec => "Linux 6.3 or newer (vm.memfd_noexec)",
        Layer::Landlock => {
            "Linux 6.15 or newer with CONFIG_SECURITY_LANDLOCK and landlock among its security modules (lsm=)"
        }
        Layer::Seccomp => "CONFIG_SECCOMP_FILTER",
        Layer::Capabilities | Layer::NoNewPrivileges | Layer::ProcessLimits | Layer::Descriptors => "nothing but root",
        _ => return None,
    };
    Some(format!("it needs {needs}; or give it up by name: --without {layer}"))
}
