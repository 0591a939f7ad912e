//! The view, read back: exactly the planned mounts, each with its attributes, its file system and its source.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::Receiver;

use rustix::fs::{OFlags, fstatvfs};

use super::table::{MountReader, Mounted};
use super::{Error, Ordered, Process, expect};
use crate::enforced::MountFact;
use crate::layer::Layer::View;
use crate::policy::{NO_ID, Proc};
use crate::running::Space;
use crate::sys::attr;
use crate::view::{Identity, Kind, Place, SHM_BYTES_MAX, SHM_INODES_MAX, TreeAccess, hidden_in_proc, lookup};

/// `MS_PRIVATE`. Source: include/uapi/linux/mount.h.
const PRIVATE: u64 = 1 << 18;
/// `SB_RDONLY`, as `MS_RDONLY`. Source: as above.
const SB_RDONLY: u32 = 1;
/// The attributes that a policy decides about, and their names.
const NAMED: [(u64, &str); 4] =
    [(attr::RDONLY, "ro"), (attr::NOSUID, "nosuid"), (attr::NODEV, "nodev"), (attr::NOEXEC, "noexec")];

/// A place of the view, opened from the step's own root, and found to show what was ordered.
#[derive(Debug)]
pub(super) struct Shown {
    target: String,
    pub(super) at: OwnedFd,
    writable: bool,
    pub(super) executable: bool,
}

impl Shown {
    /// The file system, if the step can fill it.
    pub(super) fn space(self) -> Option<Space> {
        self.writable.then_some(Space { target: self.target, at: self.at })
    }
}

/// A mount table that has been asked for.
pub(super) type Asked = Receiver<io::Result<Vec<Mounted>>>;

/// Asks for the step's mount table.
pub(super) fn ask(step: &Process, mounts: &MountReader) -> Result<Asked, Error> {
    let namespace = step.at("ns/mnt", OFlags::RDONLY)?;
    mounts.ask(namespace.into()).map_err(|source| Error::Read { path: "the step's mounts".into(), source })
}

/// Compares the whole mount table with the plan. Returns it, and what the step sees of the policy's sources.
pub(super) fn check(
    step: &Process,
    mounts: Asked,
    ordered: &Ordered<'_>,
) -> Result<(Vec<MountFact>, Vec<Shown>), Error> {
    let mounts = mounts.recv().unwrap_or_else(|_| Err(io::Error::from_raw_os_error(libc::EFAULT)));
    let mounts = mounts.map_err(|source| Error::Read { path: "the step's mounts".into(), source })?;
    let mut found: Vec<&str> = mounts.iter().map(|mount| mount.target.as_str()).collect();
    let mut planned: Vec<&str> = ordered.places.iter().map(|place| place.target.as_str()).collect();
    found.sort_unstable();
    planned.sort_unstable();
    expect(View, "the mount table", &found, &planned)?;
    let root = step.at("root", OFlags::PATH | OFlags::DIRECTORY)?;
    if ordered.policy.proc == Proc::Masked {
        proc_is_covered(&root, ordered.places)?;
    }
    let mut shown = Vec::new();
    for (place, mount) in pairs(ordered.places, &mounts) {
        mount_matches(place, mount, &mounts, ordered)?;
        shown.extend(source_matches(place, &root, ordered)?);
    }
    Ok((mounts.into_iter().map(fact).collect(), shown))
}

fn pairs<'a>(places: &'a [Place], mounts: &'a [Mounted]) -> impl Iterator<Item = (&'a Place, &'a Mounted)> {
    places
        .iter()
        .flat_map(|place| mounts.iter().filter(|mount| mount.target == place.target).map(move |mount| (place, mount)))
}

fn mount_matches(place: &Place, mount: &Mounted, mounts: &[Mounted], ordered: &Ordered<'_>) -> Result<(), Error> {
    let what = |fact: &str| format!("{fact} of {}", place.target);
    expect(View, &what("propagation"), &mount.propagation, &PRIVATE)?;
    for (bit, name) in NAMED {
        expect(View, &what(name), &(mount.attributes & bit != 0), &(place.kind.attributes().bits() & bit != 0))?;
    }
    let below = |path: &str| place.target.strip_prefix(path).is_some_and(|rest| path == "/" || rest.starts_with('/'));
    let above = mounts.iter().filter(|other| other.target != place.target && below(&other.target));
    if let Some(above) = above.max_by_key(|other| other.target.len()) {
        expect(View, &what("parent"), &mount.parent, &above.id)?;
    }
    let mapped = |id: u32| vec![format!("{id} {} 1", ordered.policy.host_id())];
    let (owners, groups) = match place.kind {
        Kind::Tree { access: TreeAccess::ReadWrite, .. } => (mapped(0), mapped(0)),
        Kind::Tree { access: TreeAccess::ReadOnly, .. } => (mapped(0), mapped(NO_ID)),
        Kind::Root => (mapped(NO_ID), mapped(NO_ID)),
        _ => (Vec::new(), Vec::new()),
    };
    expect(View, &what("owner map"), &mount.owners, &owners)?;
    expect(View, &what("owner map of groups"), &mount.groups, &groups)?;
    match &place.kind {
        Kind::Root | Kind::Tree { .. } => Ok(()),
        Kind::Temporary { .. } | Kind::SharedMemory | Kind::Scaffold { .. } | Kind::Devices => {
            expect(View, &what("file system"), &mount.kind.as_str(), &"tmpfs")
        }
        Kind::Cover { directory } => {
            expect(View, &what("file system"), &mount.kind.as_str(), &"tmpfs")?;
            expect(View, &what("cover"), &mount.root.as_str(), &if *directory { "/directory" } else { "/file" })
        }
        Kind::Proc { masked } => {
            expect(View, &what("file system"), &mount.kind.as_str(), &"proc")?;
            expect(View, &what("root"), &mount.root.as_str(), &"/")?;
            for (option, wanted) in [("subset=pid", !*masked), ("hidepid=ptraceable", true)] {
                let has = mount.options.split(',').any(|word| word == option);
                expect(View, &what(option), &has, &wanted)?;
            }
            Ok(())
        }
    }
}

/// Everything in a masked `/proc` that is not on the list is covered: its own listing is compared with the covers.
fn proc_is_covered(root: &OwnedFd, places: &[Place]) -> Result<(), Error> {
    let covered = places.iter().filter_map(|place| match place.kind {
        Kind::Cover { directory } => Some((place.target.strip_prefix("/proc/")?.to_owned(), directory)),
        _ => None,
    });
    let covered: Vec<_> = covered.collect();
    let failed = |source: rustix::io::Errno| Error::Read { path: "/proc of the step".into(), source: source.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let proc = lookup(root.as_fd(), "/proc", flags)?.ok_or_else(|| failed(rustix::io::Errno::NOENT))?;
    expect(View, "what is covered in /proc", &covered, &hidden_in_proc(&proc).map_err(failed)?)
}

/// What is mounted is what was handed over, or as large as was ordered.
fn source_matches(place: &Place, root: &OwnedFd, ordered: &Ordered<'_>) -> Result<Option<Shown>, Error> {
    let number = match place.kind {
        Kind::Root => Some(0),
        Kind::Tree { number, .. } => Some(number),
        _ => None,
    };
    let sizes = match place.kind {
        Kind::Temporary { size_bytes_max, inodes_max } => Some((size_bytes_max, inodes_max)),
        Kind::SharedMemory => Some((SHM_BYTES_MAX, SHM_INODES_MAX)),
        Kind::Tree { access: TreeAccess::ReadWrite, .. } | Kind::Root => None,
        _ if number.is_none() => return Ok(None),
        _ => None,
    };
    let read = |source: rustix::io::Errno| Error::Read { path: place.target.clone(), source: source.into() };
    let at = lookup(root.as_fd(), &place.target, OFlags::PATH)?;
    let at = at.ok_or_else(|| read(rustix::io::Errno::NOENT))?;
    if let Some(number) = number {
        let found = Identity::of(at.as_fd()).map_err(read)?;
        expect(View, &format!("source of {}", place.target), &Some(&found), &ordered.identities.get(number))?;
    }
    if let Some((bytes, inodes)) = sizes {
        let found = fstatvfs(&at).map_err(read)?;
        let blocks = bytes.div_ceil(found.f_frsize.max(1));
        let expected = (blocks, inodes);
        expect(View, &format!("size of {}", place.target), &(found.f_blocks, found.f_files), &expected)?;
    }
    let attributes = place.kind.attributes();
    let (writable, executable) = (!attributes.read_only, !attributes.no_exec);
    Ok(Some(Shown { target: place.target.clone(), at, writable, executable }))
}

fn fact(mount: Mounted) -> MountFact {
    let writable = (mount.attributes & attr::RDONLY == 0).then_some("rw");
    let named = NAMED.iter().filter(|(bit, _)| mount.attributes & bit != 0).map(|(_, name)| *name);
    MountFact {
        attributes: writable.into_iter().chain(named).map(str::to_owned).collect(),
        device: format!("{}:{}", mount.device.0, mount.device.1),
        read_only: mount.superblock & SB_RDONLY != 0,
        target: mount.target,
        id: mount.id,
        parent: mount.parent,
        root: mount.root,
        kind: mount.kind,
        options: mount.options,
        owners: mount.owners,
    }
}
