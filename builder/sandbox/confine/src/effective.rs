//! What policy file and flags add up to on this host: [`effective`] is the only maker of an [`Effective`].
//!
//! The rules. A flag with one value replaces the file's. Mounts, temporary file systems and environment entries are added; one at
//! the same place or of the same name replaces the file's. Layers given up are added. What neither says has the default.
//! A relative source is meant from where the person stands, or from where the policy file lies. Every source is looked up once,
//! links and all; what is found is what the policy says from then on, so that a link which changes later changes nothing.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use kiln_sandbox::{Draft, LayerError, Limits, Proc, Profile, Requirements, Source};
use rustix::fs::FileType;
use thiserror::Error;

use crate::document::{self, Access, Document, Mount, Temporary};
use crate::kind;
use crate::quantity::{Duration, Size};

/// Where programs are looked for unless the policy says otherwise. Source: Debian's `/etc/profile` for users.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Host name that the step sees unless the policy says otherwise: outputs must not depend on the host's.
const HOSTNAME: &str = "localhost";
/// Bytes of a temporary file system for each of its files, and the least number of files: what mke2fs gives small disks.
const TEMPORARY_BYTES_PER_FILE: u64 = 4096;
const TEMPORARY_FILES_MIN: u64 = 1024;

/// A policy with every default filled in and every source found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Effective(Document);

/// Why flags and file add up to nothing that can be tried here.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("there is no root: name the directory that is the command's read-only root")]
    NoRoot,
    #[error("cannot find {path:?}")]
    Find { path: String, source: io::Error },
    #[error("{} is not UTF-8 text", path.display())]
    NotText { path: PathBuf },
    #[error("{path:?} is a {kind}, which cannot be shown")]
    Kind { path: String, kind: &'static str },
    #[error("{path:?} is to be written and belongs to user {uid}")]
    Owner { path: String, uid: u32 },
    #[error(transparent)]
    Layer(#[from] LayerError),
}

/// Puts file and flags together. `here`: where the person stands.
///
/// # Errors
/// If there is no root, or a source cannot be found or cannot be written by the step.
pub(crate) fn effective(file: Option<(&Path, Document)>, flags: Document, here: &Path) -> Result<Effective, Error> {
    let flags = found(flags, here)?;
    let file = match file {
        Some((path, document)) => found(document, here.join(path).parent().unwrap_or(here))?,
        None => Document::default(),
    };
    let document = defaults(added(file, flags));
    if document.root.is_none() {
        return Err(Error::NoRoot);
    }
    Ok(Effective(document))
}

impl Effective {
    /// The policy as it could have been written down.
    pub(crate) fn document(&self) -> &Document {
        &self.0
    }

    /// The layers that are insisted on.
    ///
    /// # Errors
    /// If one that cannot be given up was given up.
    pub(crate) fn requirements(&self) -> Result<Requirements, Error> {
        let mut given_up = self.0.without.iter();
        Ok(given_up.try_fold(Requirements::all(), |requirements, layer| requirements.without(*layer))?)
    }

    /// A draft for `argv` in `slot`.
    pub(crate) fn draft(&self, argv: Vec<String>, slot: u16) -> Draft {
        let document = &self.0;
        let temporary = |temporary: &Temporary| kiln_sandbox::Temporary {
            target: temporary.target.clone(),
            size_bytes_max: temporary.size.bytes,
            inodes_max: temporary.files.unwrap_or_else(|| files(temporary.size)),
        };
        Draft {
            root: Source::Path(document.root.clone().unwrap_or_default().into()),
            mounts: document.mounts.iter().map(mount).collect(),
            temporaries: document.temporaries.iter().map(temporary).collect(),
            argv,
            env: document.env.clone(),
            workdir: document.chdir.clone().unwrap_or_default(),
            limits: limits(document),
            profile: document.profile.unwrap_or_default(),
            proc: document.proc.unwrap_or_default(),
            hostname: document.hostname.clone().unwrap_or_default(),
            slot,
        }
    }
}

/// Looks up every source, from `base` if it is relative.
fn found(document: Document, base: &Path) -> Result<Document, Error> {
    let find = |path: &str| {
        let resolved =
            fs::canonicalize(base.join(path)).map_err(|source| Error::Find { path: path.to_owned(), source })?;
        resolved.into_os_string().into_string().map_err(|path| Error::NotText { path: path.into() })
    };
    let mount = |mount: Mount| {
        let source = find(&mount.source)?;
        let uid = shown(&source, &[FileType::Directory, FileType::RegularFile])?.uid();
        if mount.access == Access::Rw && uid != 0 {
            return Err(Error::Owner { path: source, uid });
        }
        let target = Some(mount.target.unwrap_or_else(|| source.clone()));
        Ok(Mount { source, target, access: mount.access })
    };
    let root = document.root.as_deref().map(find).transpose()?;
    root.as_deref().map(|root| shown(root, &[FileType::Directory])).transpose()?;
    let mounts = document.mounts.into_iter().map(mount).collect::<Result<_, _>>()?;
    Ok(Document { root, mounts, ..document })
}

/// What is known of a source, which must be of one of these kinds. A socket, FIFO or device would be a way to whoever is behind it.
fn shown(path: &str, kinds: &[FileType]) -> Result<fs::Metadata, Error> {
    let found = fs::metadata(path).map_err(|source| Error::Find { path: path.to_owned(), source })?;
    let kind = FileType::from_raw_mode(found.mode());
    if kinds.contains(&kind) { Ok(found) } else { Err(Error::Kind { path: path.to_owned(), kind: kind::name(kind) }) }
}

/// The file's document with the flags'.
fn added(mut file: Document, flags: Document) -> Document {
    file.mounts.retain(|mount| flags.mounts.iter().all(|other| other.target != mount.target));
    file.mounts.extend(flags.mounts);
    file.temporaries.retain(|temporary| flags.temporaries.iter().all(|other| other.target != temporary.target));
    file.temporaries.extend(flags.temporaries);
    file.env.extend(flags.env);
    file.without.extend(flags.without);
    Document {
        root: flags.root.or(file.root),
        chdir: flags.chdir.or(file.chdir),
        profile: flags.profile.or(file.profile),
        proc: flags.proc.or(file.proc),
        hostname: flags.hostname.or(file.hostname),
        timeout: flags.timeout.or(file.timeout),
        grace: flags.grace.or(file.grace),
        limits: document::Limits {
            memory: flags.limits.memory.or(file.limits.memory),
            pids: flags.limits.pids.or(file.limits.pids),
            cpu_percent: flags.limits.cpu_percent.or(file.limits.cpu_percent),
            io_per_second: flags.limits.io_per_second.or(file.limits.io_per_second),
            file_size: flags.limits.file_size.or(file.limits.file_size),
            open_files: flags.limits.open_files.or(file.limits.open_files),
        },
        ..file
    }
}

fn defaults(document: Document) -> Document {
    let limits = Limits::default();
    let size = |bytes| Some(Size { bytes });
    let fill = |temporary: Temporary| Temporary { files: temporary.files.or(Some(files(temporary.size))), ..temporary };
    let mut env = document.env;
    env.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    Document {
        chdir: document.chdir.or_else(|| Some("/".to_owned())),
        profile: document.profile.or(Some(Profile::Strict)),
        proc: document.proc.or(Some(Proc::Minimal)),
        hostname: document.hostname.or_else(|| Some(HOSTNAME.to_owned())),
        timeout: document.timeout.or(Some(Duration { ms: limits.wall_ms })),
        grace: document.grace.or(Some(Duration { ms: limits.grace_ms })),
        limits: document::Limits {
            memory: document.limits.memory.or(size(limits.memory_bytes)),
            pids: document.limits.pids.or(Some(limits.pids)),
            file_size: document.limits.file_size.or(size(limits.file_bytes)),
            open_files: document.limits.open_files.or(Some(limits.open_files)),
            ..document.limits
        },
        env,
        temporaries: document.temporaries.into_iter().map(fill).collect(),
        ..document
    }
}

fn files(size: Size) -> u64 {
    (size.bytes / TEMPORARY_BYTES_PER_FILE).max(TEMPORARY_FILES_MIN)
}

fn mount(mount: &Mount) -> kiln_sandbox::Mount {
    kiln_sandbox::Mount {
        source: Source::Path(mount.source.clone().into()),
        target: mount.target.clone().unwrap_or_default(),
        access: match mount.access {
            Access::Ro => kiln_sandbox::Access::ReadOnly,
            Access::Rw => kiln_sandbox::Access::ReadWrite,
        },
    }
}

/// The library's limits. [`defaults`] has filled in all that have a default; the library's own stand in for them otherwise.
fn limits(document: &Document) -> Limits {
    let (default, written) = (Limits::default(), &document.limits);
    let bytes = |size: Option<Size>, default| size.map_or(default, |size| size.bytes);
    let ms = |duration: Option<Duration>, default| duration.map_or(default, |duration| duration.ms);
    Limits {
        memory_bytes: bytes(written.memory, default.memory_bytes),
        pids: written.pids.unwrap_or(default.pids),
        cpu_percent: written.cpu_percent,
        io_bytes_per_second: written.io_per_second.map(|size| size.bytes),
        wall_ms: ms(document.timeout, default.wall_ms),
        grace_ms: ms(document.grace, default.grace_ms),
        file_bytes: bytes(written.file_size, default.file_bytes),
        open_files: written.open_files.unwrap_or(default.open_files),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn parsed(text: &str) -> Document {
        toml::from_str(text).expect("a document")
    }

    fn together(file: &str, flags: &str) -> Document {
        effective(Some((Path::new("/tmp/policy.toml"), parsed(file))), parsed(flags), Path::new("/"))
            .expect("effective")
            .0
    }

    #[test]
    fn a_flag_replaces_a_value_and_adds_to_a_list() {
        let file = "root='/usr'\nhostname='a'\nwithout=['limits']\n[limits]\npids=7\nmemory='1G'\n[env]\nA='1'\nB='1'\n\
            [[mount]]\nsource='/etc'\ntarget='/x'\naccess='ro'\n[[mount]]\nsource='/etc'\ntarget='/y'\naccess='ro'\n\
            [[tmp]]\ntarget='/tmp'\nsize='1M'\n[[tmp]]\ntarget='/t'\nsize='1M'";
        let flags = "root='/'\nwithout=['landlock']\n[limits]\npids=9\n[env]\nB='2'\n\
            [[mount]]\nsource='/usr'\ntarget='/y'\naccess='ro'\n[[tmp]]\ntarget='/tmp'\nsize='2M'";
        let document = together(file, flags);
        assert_eq!((document.root.as_deref(), document.hostname.as_deref()), (Some("/"), Some("a")));
        assert_eq!((document.limits.pids, document.limits.memory), (Some(9), Some(Size { bytes: 1 << 30 })));
        assert_eq!(document.without.len(), 2);
        assert_eq!(
            document.env,
            BTreeMap::from([("A", "1"), ("B", "2"), ("PATH", PATH)].map(|(n, v)| (n.into(), v.into())))
        );
        let mounts: Vec<_> = document.mounts.iter().map(|m| (m.source.as_str(), m.target.as_deref())).collect();
        assert_eq!(mounts, [("/etc", Some("/x")), ("/usr", Some("/y"))]);
        let temporaries: Vec<_> = document.temporaries.iter().map(|t| (t.target.as_str(), t.size.bytes)).collect();
        assert_eq!(temporaries, [("/t", 1 << 20), ("/tmp", 2 << 20)]);
    }

    #[test]
    fn what_is_printed_means_the_same() {
        let document = together("root='/'\ntimeout='5m'", "[[mount]]\nsource='etc'\naccess='ro'");
        let printed = toml::to_string(&document).expect("TOML");
        assert_eq!(together(&printed, ""), document);
        assert_eq!(document.mounts.first().and_then(|mount| mount.target.as_deref()), Some("/etc"));
    }

    #[test]
    fn a_relative_source_is_meant_from_the_file_or_from_the_person() {
        let scratch = tempfile::tempdir().expect("directory");
        let scratch = scratch.path().canonicalize().expect("path");
        for directory in ["here/src", "there/src"] {
            fs::create_dir_all(scratch.join(directory)).expect("directory");
        }
        std::os::unix::fs::symlink("src", scratch.join("here/link")).expect("link");
        let mount = |source: &str| parsed(&format!("root='/'\n[[mount]]\nsource='{source}'\naccess='ro'"));
        let source = |file, flags| {
            let effective = effective(file, flags, &scratch.join("here")).expect("effective");
            effective.0.mounts.first().map(|mount| PathBuf::from(&mount.source))
        };
        let file = Path::new("../there/policy.toml");
        assert_eq!(source(Some((file, mount("src"))), Document::default()), Some(scratch.join("there/src")));
        assert_eq!(source(None, mount("src")), Some(scratch.join("here/src")));
        assert_eq!(source(None, mount("link")), Some(scratch.join("here/src")));
    }

    #[test]
    fn what_cannot_be_tried_is_refused() {
        let refused = |flags: &str| effective(None, parsed(flags), Path::new("/")).expect_err("must be refused");
        assert!(matches!(refused(""), Error::NoRoot));
        assert!(matches!(refused("root='/not/there'"), Error::Find { .. }));
        assert!(matches!(refused("root='/'\n[[mount]]\nsource='/not/there'\naccess='ro'"), Error::Find { .. }));
        assert!(matches!(refused("root='/etc/passwd'"), Error::Kind { kind: "regular file", .. }));
        let node = refused("root='/'\n[[mount]]\nsource='/dev/null'\naccess='ro'");
        assert!(matches!(node, Error::Kind { kind: "character device", .. }));
        let essential = effective(None, parsed("root='/'\nwithout=['namespaces']"), Path::new("/")).expect("effective");
        assert!(matches!(essential.requirements(), Err(Error::Layer(_))));
    }
}
