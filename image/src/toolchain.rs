//! Toolchain images: the read-only trees that steps run on.
//!
//! A [`ToolchainImage`] is one file: an EROFS file system and, right behind it, its dm-verity tree. Whoever knows the root hash
//! needs to trust nobody for the rest; `image/toolchain/README.md` says how a machine opens it. Packages are unpacked, none of
//! their scripts is run. The file's bytes depend on the locked packages and the two programs that make it, on nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_formats::digest::Sha256Digest;
use serde::Serialize;

use crate::apt::{AptError, Fetched};
use crate::cache::Inputs;
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError, failed};
use crate::lock::{self, Kind, LockError, Pin};
use crate::packages;
use crate::progress::phase;
use crate::uki::EPOCH;
use crate::workshop::Workshop;

/// The suite that toolchain images are resolved from.
const SUITE: &str = "trixie";
/// Bytes of a block, of data and of hashes alike: the page size, so that one page fault reads one block.
const BLOCK_BYTES: u64 = 4096;
/// Where EROFS keeps its number of blocks: its superblock begins at 1024. Source: Linux, fs/erofs/erofs_fs.h.
const EROFS_BLOCKS_OFFSET: usize = 1024 + 36;
/// Packing takes some seconds; a busy machine gets much more.
const PACK_TIMEOUT: Duration = Duration::from_secs(1800);
/// The directories of a merged `/usr`, which no package brings.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// Empty directories for a machine to mount things on.
const MOUNT_POINTS: [&str; 8] = ["dev", "proc", "sys", "tmp", "run", "home", "inputs", "work"];
/// What a package's script would have linked, where the target is there.
const ALTERNATIVES: [(&str, &str); 2] = [("cc", "gcc"), ("awk", "mawk")];
/// What no build reads: half of the files, a tenth of the bytes.
const UNREAD: [&str; 6] = ["doc", "info", "lintian", "locale", "man", "bash-completion"];

/// A toolchain image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// The image's lock cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A package could not be had.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A program failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The file system is not as long as it says.
    #[error("the file system says it has {blocks} blocks and has {bytes} bytes")]
    Length {
        /// What its superblock says.
        blocks: u64,
        /// The length of the file.
        bytes: u64,
    },
    /// veritysetup named no root hash.
    #[error("veritysetup named no root hash")]
    NoRootHash,
}

/// A toolchain image.
#[derive(Debug, Clone, Serialize)]
pub struct ToolchainImage {
    /// Its name, such as `c`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// The digest of the file.
    pub sha256: Sha256Digest,
    /// The dm-verity root hash: what a job names.
    pub root_hash: Sha256Digest,
    /// How many blocks of 4096 bytes the file system has; the verity superblock follows.
    pub data_blocks: u64,
    /// Whether every package is the one that the lock names.
    pub pinned: bool,
    /// The packages in it.
    pub packages: Vec<Fetched>,
}

/// Makes the toolchain image `name`, or takes it from the cache.
///
/// # Errors
/// [`ToolchainError`] by cause.
pub fn build(shop: &Workshop<'_>, name: &str) -> Result<ToolchainImage, ToolchainError> {
    let packages = phase(shop.progress, "toolchain packages", || {
        let packages = fetch(shop, name)?;
        let cached = packages.iter().all(|package| package.cached);
        Ok::<_, ToolchainError>((packages, cached))
    })?;
    phase(shop.progress, "toolchain image", || {
        let tools = packages::versions(shop.progress, &["erofs-utils", "cryptsetup-bin"])?;
        let inputs = Inputs::of("toolchain", 2).text("name", name).text("tools", &tools);
        let inputs = packages.iter().fold(inputs, |inputs, p| inputs.text(&p.package, &p.sha256.to_string()));
        let entry = shop.cache.entry("toolchain", inputs.key(), |dir| make(shop, name, &packages, dir))?;
        let path = entry.path.join("image");
        let (sha256, bytes) = files::digest(&path)?;
        let root_hash = files::read_text(&entry.path.join("root-hash"))?;
        let root_hash = root_hash.trim().parse().map_err(|_| ToolchainError::NoRootHash)?;
        let data_blocks = erofs_blocks(&path)?;
        let pinned = packages.iter().all(|package| package.pinned);
        let name = name.to_owned();
        Ok((ToolchainImage { name, path, bytes, sha256, root_hash, data_blocks, pinned, packages }, entry.cached))
    })
}

/// The lock of image `name`, made anew from `NAME.packages` and what the archive has now.
///
/// # Errors
/// [`ToolchainError`] by cause.
pub fn relock(shop: &Workshop<'_>, name: &str) -> Result<String, ToolchainError> {
    let header =
        "# Made from the list of packages beside it: kind, suite, package, version, SHA-256 of the package file.\n";
    let lines = resolve(shop, name)?.into_iter().map(|f| {
        let Fetched { suite, package, version, sha256, .. } = f;
        Pin { kind: Kind::Binary, suite, package, version, sha256 }.to_string() + "\n"
    });
    Ok(std::iter::once(header.to_owned()).chain(lines).collect())
}

/// The locked packages; all of them as they are now if the archive has lost one, for they belong together.
fn fetch(shop: &Workshop<'_>, name: &str) -> Result<Vec<Fetched>, ToolchainError> {
    let pins = lock::read(&place(shop, name, "lock"))?;
    match shop.archive.fetch_pinned(&pins) {
        Err(AptError::Vanished { suite, package, version }) => {
            shop.progress.note(&format!(
                "{suite} no longer has {package} {version}: making the image {name} from current packages; \
                 it is not the pinned one and has another root hash"
            ));
            resolve(shop, name)
        }
        packages => Ok(packages?),
    }
}

fn resolve(shop: &Workshop<'_>, name: &str) -> Result<Vec<Fetched>, ToolchainError> {
    let list = files::read_text(&place(shop, name, "packages"))?;
    let names: Vec<String> = list.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect();
    let closure = shop.archive.closure(&names)?;
    Ok(shop.archive.fetch_versions(Kind::Binary, SUITE, &closure)?)
}

fn place(shop: &Workshop<'_>, name: &str, kind: &str) -> PathBuf {
    shop.checkout.path(&format!("image/toolchain/{name}.{kind}"))
}

fn make(shop: &Workshop<'_>, name: &str, packages: &[Fetched], dir: &Path) -> Result<(), ToolchainError> {
    let (root, image) = (dir.join("root"), dir.join("image"));
    files::make_dir(&root)?;
    for package in packages {
        Tool::new("dpkg-deb").arg("-x").arg(&package.path).arg(&root).run(shop.progress)?;
    }
    finish_tree(&root)?;
    Tool::new("mkfs.erofs")
        .args(["--quiet", "-zlz4", "-x-1", "--all-root", &format!("-T{EPOCH}"), &format!("-U{}", uuid(name, "erofs"))])
        .arg(&image)
        .arg(&root)
        .within(PACK_TIMEOUT)
        .run(shop.progress)?;
    files::remove(&root)?;
    let root_hash = seal(shop, name, &image)?;
    files::write(&dir.join("root-hash"), format!("{root_hash}\n").as_bytes())?;
    Ok(())
}

/// Adds what packages leave to scripts, and takes away what no build reads.
fn finish_tree(root: &Path) -> Result<(), FileError> {
    let link =
        |target: &str, path: PathBuf| std::os::unix::fs::symlink(target, &path).map_err(failed("make the link", &path));
    for name in MERGED {
        make_open_dir(&root.join("usr").join(name))?;
        link(&format!("usr/{name}"), root.join(name))?;
    }
    for name in MOUNT_POINTS {
        make_open_dir(&root.join(name))?;
    }
    for (name, target) in ALTERNATIVES {
        let path = root.join("usr/bin").join(name);
        if root.join("usr/bin").join(target).exists() && !path.exists() {
            link(target, path)?;
        }
    }
    for name in UNREAD {
        files::remove(&root.join("usr/share").join(name))?;
    }
    // Whatever the umask was when the tree's own directory was made.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).map_err(failed("set the mode of", root))
}

fn make_open_dir(path: &Path) -> Result<(), FileError> {
    files::make_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed("set the mode of", path))
}

/// Appends the dm-verity tree to a file system; returns the root hash.
fn seal(shop: &Workshop<'_>, name: &str, image: &Path) -> Result<Sha256Digest, ToolchainError> {
    let blocks = erofs_blocks(image)?;
    let bytes = files::digest(image)?.1;
    if blocks.checked_mul(BLOCK_BYTES) != Some(bytes) {
        return Err(ToolchainError::Length { blocks, bytes });
    }
    let salt = Sha256Digest::of(format!("kiln toolchain {name}").as_bytes());
    let tool =
        Tool::new("veritysetup").args(["format", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"]);
    let tool = tool.arg(format!("--salt={salt}")).arg(format!("--uuid={}", uuid(name, "verity")));
    let tool = tool.arg(format!("--data-blocks={blocks}")).arg(format!("--hash-offset={bytes}")).arg(image).arg(image);
    let said = tool.within(PACK_TIMEOUT).output(shop.progress)?;
    let hash = said.lines().find_map(|line| line.strip_prefix("Root hash:"));
    hash.and_then(|hash| hash.trim().parse().ok()).ok_or(ToolchainError::NoRootHash)
}

/// How many blocks the file system at the start of a file says it has.
fn erofs_blocks(image: &Path) -> Result<u64, FileError> {
    use std::io::Read as _;
    let mut start = [0; EROFS_BLOCKS_OFFSET + 4];
    let mut file = fs::File::open(image).map_err(failed("open", image))?;
    file.read_exact(&mut start).map_err(failed("read", image))?;
    let blocks = start.last_chunk().copied().unwrap_or_default();
    Ok(u64::from(u32::from_le_bytes(blocks)))
}

/// A fixed identifier for a part of image `name`: version 8, which leaves its bits to whoever makes it. Source: RFC 9562, section 5.8.
fn uuid(name: &str, part: &str) -> String {
    let digest = Sha256Digest::of(format!("kiln toolchain {name} {part}").as_bytes()).to_string();
    let piece = |range: std::ops::Range<usize>| digest.get(range).unwrap_or_default();
    format!("{}-{}-8{}-8{}-{}", piece(0..8), piece(8..12), piece(12..15), piece(15..18), piece(18..30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_covers_the_list() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("toolchain");
        let pins = lock::read(&dir.join("c.lock")).unwrap();
        let list = files::read_text(&dir.join("c.packages")).unwrap();
        for name in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            assert!(pins.iter().any(|pin| pin.package == name), "{name}");
        }
        assert!(pins.iter().all(|pin| pin.suite == SUITE && pin.kind == Kind::Binary));
    }

    #[test]
    fn identifiers_are_fixed_and_well_formed() {
        let id = uuid("c", "erofs");
        assert_eq!(id, uuid("c", "erofs"));
        assert_ne!(id, uuid("c", "verity"));
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }

    #[test]
    fn a_tree_gets_its_links_and_loses_its_manuals() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        files::make_dir(&root.join("usr/bin")).unwrap();
        files::make_dir(&root.join("usr/share/man/man1")).unwrap();
        files::write(&root.join("usr/bin/gcc"), b"").unwrap();
        finish_tree(root).unwrap();
        assert_eq!(fs::read_link(root.join("bin")).unwrap(), Path::new("usr/bin"));
        assert_eq!(fs::read_link(root.join("usr/bin/cc")).unwrap(), Path::new("gcc"));
        assert!(!root.join("usr/bin/awk").exists(), "mawk is not there");
        assert!(!root.join("usr/share/man").exists());
        assert!(root.join("proc").is_dir());
    }
}
