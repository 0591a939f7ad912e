//! What is expensive to make is kept, under the digest of everything that went into it.
//!
//! An [`Entry`] that a caller holds was complete when it was made and has, at this moment, the content it was made with: a
//! digest of its tree lies beside it and is computed again on every use. A damaged entry is made again, never used. A lock file
//! keeps two processes from making the same entry. Deliberately absent: an index, and any clean-up by age.
//!
//! ```text
//! ROOT/KIND/KEY/            the entry
//! ROOT/KIND/KEY.sha256      the digest of its tree
//! ROOT/KIND/KEY.lock        held by whoever makes or checks it
//! ROOT/KIND/KEY.making/     what an interrupted run left; removed by the next
//! ```

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kiln_formats::digest::{Digester, Sha256Digest};

use crate::files::{self, FileError, failed};

/// How deep the tree of an entry may be: unpacked packages are about ten deep.
const TREE_DEPTH_MAX: usize = 64;

/// The directory below which everything lies that was made once.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Something that was made before, or just now, and is intact.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The directory that holds it.
    pub path: PathBuf,
    /// Whether it was there already.
    pub cached: bool,
}

/// The digest of all inputs of an entry. Whoever forgets an input gets a stale entry: name everything that is read.
pub struct Inputs {
    digester: Digester,
}

impl Inputs {
    /// Begins with the recipe: its name and a number that changes when the steps do.
    #[must_use]
    pub fn of(recipe: &str, version: u32) -> Self {
        let inputs = Self { digester: Digester::new() };
        inputs.text("recipe", recipe).text("version", &version.to_string())
    }

    /// Adds a named text. Name and text are framed by their lengths, so that no two lists of inputs look alike.
    #[must_use]
    pub fn text(self, name: &str, text: &str) -> Self {
        self.bytes(name, text.as_bytes())
    }

    /// Adds named bytes.
    #[must_use]
    pub fn bytes(mut self, name: &str, bytes: &[u8]) -> Self {
        for part in [name.as_bytes(), bytes] {
            self.digester.update(&(part.len() as u64).to_le_bytes());
            self.digester.update(part);
        }
        self
    }

    /// Adds the content of a file under its name.
    ///
    /// # Errors
    /// [`FileError`] if it cannot be read.
    pub fn file(self, name: &str, path: &Path) -> Result<Self, FileError> {
        let (digest, _) = files::digest(path)?;
        Ok(self.text(name, &digest.to_string()))
    }

    /// The key of the entry.
    #[must_use]
    pub fn key(self) -> Sha256Digest {
        self.digester.finish()
    }
}

impl Cache {
    /// The cache in the directory `root`, which is made if it is not there.
    ///
    /// # Errors
    /// [`FileError`] if the directory cannot be made.
    pub fn open(root: &Path) -> Result<Self, FileError> {
        files::make_dir(root)?;
        let root = root.canonicalize().map_err(failed("resolve", root))?;
        Ok(Self { root })
    }

    /// Where a person's cache is: `kiln` below `$XDG_CACHE_HOME`, or below `~/.cache`. `None` if neither variable is set.
    ///
    /// Source: XDG Base Directory Specification 0.8 (a relative `XDG_CACHE_HOME` is to be ignored).
    #[must_use]
    pub fn default_root(env: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
        let named = env("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        let base = named.or_else(|| env("HOME").filter(|path| path.is_absolute()).map(|home| home.join(".cache")))?;
        Some(base.join("kiln"))
    }

    /// The directory of the cache.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the lock of that name, waiting for whoever holds it. It is free again when the file is dropped.
    pub(crate) fn lock(&self, name: &str) -> Result<fs::File, FileError> {
        let path = self.root.join(format!("{name}.lock"));
        if let Some(parent) = path.parent() {
            files::make_dir(parent)?;
        }
        let file = fs::File::create(&path).map_err(failed("make the lock", &path))?;
        file.lock().map_err(failed("lock", &path))?;
        Ok(file)
    }

    /// The entry `key` of that kind. `make` fills an empty directory if there is no intact one.
    ///
    /// # Errors
    /// What `make` says, or [`FileError`] from the cache itself.
    pub fn entry<E: From<FileError>>(
        &self,
        kind: &str,
        key: Sha256Digest,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Entry, E> {
        let dir = self.root.join(kind);
        let path = dir.join(key.to_string());
        let seal = dir.join(format!("{key}.sha256"));
        let making = dir.join(format!("{key}.making"));
        let _lock = self.lock(&format!("{kind}/{key}"))?;
        files::remove(&making)?;
        if is_intact(&path, &seal) {
            return Ok(Entry { path, cached: true });
        }
        files::remove(&seal)?;
        files::remove(&path)?;
        files::make_dir(&making)?;
        if let Err(error) = make(&making) {
            files::remove(&making)?;
            return Err(error);
        }
        let digest = tree_digest(&making)?;
        fs::rename(&making, &path).map_err(failed("rename", &making))?;
        // Last: an entry without its digest is no entry.
        files::write(&seal, format!("{digest}\n").as_bytes())?;
        Ok(Entry { path, cached: false })
    }
}

/// Whether the tree at `path` has the digest that `seal` holds.
fn is_intact(path: &Path, seal: &Path) -> bool {
    let Ok(sealed) = files::read_text(seal) else { return false };
    let Ok(sealed) = sealed.trim_end().parse::<Sha256Digest>() else { return false };
    tree_digest(path).is_ok_and(|found| found == sealed)
}

/// One digest over a tree: of every file, in the order of names, its path, kind, whether it can be executed, and content.
pub(crate) fn tree_digest(root: &Path) -> Result<Sha256Digest, FileError> {
    let mut digester = Digester::new();
    feed_tree(root, root, 0, &mut digester)?;
    Ok(digester.finish())
}

fn feed_tree(root: &Path, path: &Path, depth: usize, digester: &mut Digester) -> Result<(), FileError> {
    let metadata = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    let name = path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes();
    let feed = |digester: &mut Digester, kind: u8, length: u64| {
        digester.update(&[kind]);
        digester.update(&(name.len() as u64).to_le_bytes());
        digester.update(name);
        digester.update(&length.to_le_bytes());
    };
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(failed("read the link", path))?;
        let target = target.as_os_str().as_bytes();
        feed(digester, b'l', target.len() as u64);
        digester.update(target);
    } else if metadata.is_dir() && depth < TREE_DEPTH_MAX {
        let entries = files::list(path)?;
        feed(digester, b'd', entries.len() as u64);
        for entry in entries {
            feed_tree(root, &entry, depth + 1, digester)?;
        }
    } else if metadata.is_file() {
        let executable = metadata.permissions().mode() & 0o100 != 0;
        feed(digester, if executable { b'x' } else { b'f' }, metadata.len());
        files::feed(path, digester)?;
    } else {
        let odd = std::io::Error::from(std::io::ErrorKind::Unsupported);
        return Err(failed("digest", path)(odd));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        (dir, cache)
    }

    fn make(dir: &Path) -> Result<(), FileError> {
        files::make_dir(&dir.join("sub"))?;
        files::write(&dir.join("sub/file"), b"content")
    }

    fn key() -> Sha256Digest {
        Inputs::of("test", 1).text("a", "b").key()
    }

    #[test]
    fn makes_once() {
        let (_dir, cache) = cache();
        assert!(!cache.entry("kind", key(), make).unwrap().cached);
        let again = cache.entry("kind", key(), |_| -> Result<(), FileError> { panic!("made twice") }).unwrap();
        assert!(again.cached);
        assert_eq!(files::read(&again.path.join("sub/file")).unwrap(), b"content");
    }

    #[test]
    fn never_uses_a_damaged_entry() {
        type Damage = fn(&Path);
        let damages: [Damage; 6] = [
            |path| fs::write(path.join("sub/file"), b"cOntent").unwrap(),
            |path| fs::write(path.join("more"), b"").unwrap(),
            |path| fs::remove_file(path.join("sub/file")).unwrap(),
            |path| fs::set_permissions(path.join("sub/file"), fs::Permissions::from_mode(0o755)).unwrap(),
            |path| fs::write(path.with_extension("sha256"), b"0").unwrap(),
            |path| fs::remove_file(path.with_extension("sha256")).unwrap(),
        ];
        for damage in damages {
            let (_dir, cache) = cache();
            let entry = cache.entry("kind", key(), make).unwrap();
            damage(&entry.path);
            let again = cache.entry("kind", key(), make).unwrap();
            assert!(!again.cached);
            assert_eq!(files::read(&again.path.join("sub/file")).unwrap(), b"content");
        }
    }

    #[test]
    fn leaves_nothing_of_a_failure_or_an_interruption() {
        let (_dir, cache) = cache();
        let stale = cache.root().join(format!("kind/{}.making", key()));
        files::make_dir(&stale).unwrap();
        files::write(&stale.join("half"), b"").unwrap();
        let fails = |_: &Path| -> Result<(), FileError> { Err(FileError::NotText { path: PathBuf::new() }) };
        cache.entry("kind", key(), fails).unwrap_err();
        assert!(!stale.exists());
        let entry = cache.entry("kind", key(), make).unwrap();
        assert!(!entry.path.join("half").exists());
    }

    #[test]
    fn inputs_are_framed() {
        let together = Inputs::of("test", 1).text("a", "bc").key();
        assert_ne!(together, Inputs::of("test", 1).text("ab", "c").key());
        assert_ne!(together, Inputs::of("test", 2).text("a", "bc").key());
        assert_ne!(Inputs::of("test", 1).text("a", "").text("b", "").key(), Inputs::of("test", 1).text("a", "b").key());
    }

    #[test]
    fn finds_a_persons_cache() {
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/a"));
        assert_eq!(Cache::default_root(home), Some(PathBuf::from("/home/a/.cache/kiln")));
        let xdg = |name: &str| Some(PathBuf::from(if name == "HOME" { "/home/a" } else { "/cache" }));
        assert_eq!(Cache::default_root(xdg), Some(PathBuf::from("/cache/kiln")));
        let relative = |name: &str| Some(PathBuf::from(if name == "HOME" { "/home/a" } else { "cache" }));
        assert_eq!(Cache::default_root(relative), Some(PathBuf::from("/home/a/.cache/kiln")));
        assert_eq!(Cache::default_root(|_| None), None);
    }
}
