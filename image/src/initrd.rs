//! The initrd: one program and one name, as a compressed cpio archive that mkosi makes.
//!
//! mkosi runs on a copy of its configuration with fixed modes, so that neither a `mkosi.local.conf` in the checkout nor the
//! umask of whoever cloned it has a say.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::appliance::Program;
use crate::cache::Inputs;
use crate::command::CommandError;
use crate::files::{self, FileError, failed};
use crate::progress::phase;
use crate::tools::ImageTools;
use crate::workshop::Workshop;

/// What mkosi reads of the checkout.
const CONFIGURATION: [&str; 3] = ["mkosi.conf", "image/mkosi.conf", "image/mkosi.skeleton/usr/lib/os-release"];
/// The link by which programs find the os-release file.
const OS_RELEASE_LINK: &str = "image/mkosi.skeleton/etc/os-release";
/// The kernel's stub measures the initrd as padded to this. Source: systemd, src/boot/initrd.c (issue 35439).
const ALIGNMENT_BYTES: usize = 4;

/// How an initrd begins that zstd packed. Source: RFC 8878, section 3.1.1.
pub const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The largest initrd, unpacked: ours has some megabytes, and it is held in memory.
const UNPACKED_BYTES_MAX: u64 = 256 << 20;

/// The initrd could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitrdError {
    /// A file could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// mkosi failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// zstd could not be run.
    #[error("cannot run zstd")]
    Zstd(#[from] io::Error),
    /// The archive is damaged, or larger than any initrd.
    #[error("the initrd cannot be unpacked")]
    Packed,
}

/// Makes the initrd with `program` as `/init`, or takes it from the cache. Returns the file; its length is a multiple of 4.
///
/// # Errors
/// [`InitrdError`] by cause.
pub fn build(shop: &Workshop<'_>, tools: &ImageTools, program: &Program) -> Result<PathBuf, InitrdError> {
    phase(shop.progress, "initrd", || {
        let mut inputs = tools.inputs(Inputs::of("initrd", 1)).text("init", &program.sha256.to_string());
        for name in CONFIGURATION {
            inputs = inputs.file(name, &shop.checkout.path(name))?;
        }
        let entry = shop.cache.entry("initrd", inputs.key(), |dir| make(shop, tools, program, dir))?;
        Ok((entry.path.join("initrd.cpio.zst"), entry.cached))
    })
}

fn make(shop: &Workshop<'_>, tools: &ImageTools, program: &Program, dir: &Path) -> Result<(), InitrdError> {
    let work = dir.join("work");
    let tree = stage(shop, program, &work)?;
    for name in ["output", "workspace", "cache"] {
        files::make_dir(&work.join(name))?;
    }
    let mkosi = tools.mkosi().arg_path("--directory=", &tree).arg_path("--output-dir=", &work.join("output"));
    let mkosi =
        mkosi.arg_path("--workspace-dir=", &work.join("workspace")).arg_path("--cache-dir=", &work.join("cache"));
    mkosi.args(["--force", "build"]).run(shop.progress)?;
    let mut initrd = files::read(&work.join("output/initrd.cpio.zst"))?;
    // Zeros after the compressed archive are skipped. Source: Linux, init/initramfs.c.
    initrd.resize(initrd.len().next_multiple_of(ALIGNMENT_BYTES), 0);
    files::write(&dir.join("initrd.cpio.zst"), &initrd)?;
    files::remove(&work)?;
    Ok(())
}

/// Unpacks an initrd with the host's zstd, which takes no bytes behind an archive: the zeros that fill it up to a multiple of 4 go
/// first, as many of them as are none of its own.
///
/// # Errors
/// [`InitrdError::Zstd`], [`InitrdError::Packed`].
pub fn unpack(initrd: &[u8]) -> Result<Vec<u8>, InitrdError> {
    let zeros = initrd.iter().rev().take(ALIGNMENT_BYTES - 1).take_while(|byte| **byte == 0).count();
    for kept in 0..=zeros {
        let packed = initrd.get(..initrd.len() - (zeros - kept)).unwrap_or(initrd);
        if let Some(archive) = zstd(packed)? {
            return Ok(archive);
        }
    }
    Err(InitrdError::Packed)
}

/// What zstd makes of it; none if it is not exactly an archive.
fn zstd(packed: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut child = Command::new("zstd")
        .args(["-dcq"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut archive = Vec::new();
    let read = std::thread::scope(|scope| {
        // A program that has seen enough closes its input: what counts is how it ends.
        scope.spawn(move || input.map(|mut input| input.write_all(packed)));
        output.map_or(Ok(0), |output| output.take(UNPACKED_BYTES_MAX + 1).read_to_end(&mut archive))
    });
    let status = child.wait()?;
    read?;
    Ok((status.success() && archive.len() as u64 <= UNPACKED_BYTES_MAX).then_some(archive))
}

/// Copies configuration and program into a tree of their own; returns the tree.
fn stage(shop: &Workshop<'_>, program: &Program, work: &Path) -> Result<PathBuf, FileError> {
    let tree = work.join("tree");
    let put = |name: &str, from: &Path, mode: u32| {
        let to = tree.join(name);
        let above = to.parent().unwrap_or(&tree);
        files::make_dir(above)?;
        files::copy(from, &to, mode)
    };
    for name in CONFIGURATION {
        put(name, &shop.checkout.path(name), 0o644)?;
    }
    put("image/mkosi.extra/init", &program.path, 0o755)?;
    let link = tree.join(OS_RELEASE_LINK);
    files::make_dir(link.parent().unwrap_or(&tree))?;
    std::os::unix::fs::symlink("../usr/lib/os-release", &link).map_err(failed("make the link", &link))?;
    open_directories(&tree)?;
    Ok(tree)
}

/// Gives every directory of a tree the mode that it shall have in the image.
fn open_directories(dir: &Path) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(failed("set the mode of", dir))?;
    for path in files::list(dir)?.into_iter().filter(|path| path.is_dir()) {
        open_directories(&path)?;
    }
    Ok(())
}
