//! Debian's archive through an apt root of our own, so that suites other than the host's serve without a change to the host.
//!
//! apt checks what it downloads against the archive's signed index; [`Archive::fetch`] then compares the digest with the pin.
//! A pinned version that the archive no longer has is replaced by the suite's current one, aloud: a [`Fetched`] says which of
//! the two it is. A file that *has* the pinned version and another digest is refused. Deliberately absent: the archive's
//! address, which the host's own apt configuration knows.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kiln_formats::digest::Sha256Digest;
use serde::Serialize;

use crate::cache::{Cache, Inputs};
use crate::command::{CommandError, Tool};
use crate::files::{self, FileError};
use crate::lock::{Kind, Pin, is_word};
use crate::progress::Progress;

/// The suites that we take packages from: the release, its updates, and what newer releases lend to older ones.
const SUITES: [&str; 3] = ["trixie", "trixie-backports", "bookworm-backports"];
/// The keys that Debian signs its index with. Source: package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// A file of ours could not be handled.
    #[error(transparent)]
    File(#[from] FileError),
    /// An apt program failed; without a network it says so in its lines.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The host's apt knows no archive of Debian's.
    #[error(
        "apt on this host lists no archive of Debian's (is this Debian, and was `apt-get update` run once as root?)"
    )]
    NoArchive,
    /// The suite no longer has that version.
    #[error("{suite} no longer has {package} {version}")]
    Vanished {
        /// The suite.
        suite: String,
        /// The package.
        package: String,
        /// The version that was asked for.
        version: String,
    },
    /// Neither the package nor one of its series is in the suite.
    #[error("{suite} has no package {package} and none of its series")]
    Unknown {
        /// The suite.
        suite: String,
        /// The package.
        package: String,
    },
    /// The archive serves other bytes for the pinned version.
    #[error("{package} {version} should have the SHA-256 {expected} and has {found}")]
    Differs {
        /// The package.
        package: String,
        /// The pinned version.
        version: String,
        /// The pinned digest.
        expected: Sha256Digest,
        /// The digest of what came.
        found: Sha256Digest,
    },
    /// apt said it succeeded and left no file.
    #[error("apt left no file for {package}")]
    NoFile {
        /// The package.
        package: String,
    },
}

/// A package file that is in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct Fetched {
    /// The package; of another series than pinned if [`Self::pinned`] is false and the series is gone.
    pub package: String,
    /// The suite that it came from.
    pub suite: String,
    /// Its version.
    pub version: String,
    /// The digest of the file.
    pub sha256: Sha256Digest,
    /// Whether it is what the lock names. If not, what is made from it is not the pinned image.
    pub pinned: bool,
    /// The file.
    pub path: PathBuf,
    /// Whether it was there before it was asked for.
    #[serde(skip)]
    pub cached: bool,
}

/// A package in a version; its digest counts only if it is pinned.
struct Wanted {
    pin: Pin,
    pinned: bool,
}

/// Debian's archive, with its downloads kept in the cache.
pub struct Archive<'a> {
    cache: &'a Cache,
    progress: &'a dyn Progress,
    root: PathBuf,
    refreshed: Mutex<bool>,
}

impl<'a> Archive<'a> {
    /// The archive with its state in `cache`. Asks the network for nothing yet.
    #[must_use]
    pub fn new(cache: &'a Cache, progress: &'a dyn Progress) -> Self {
        Self { cache, progress, root: cache.root().join("apt"), refreshed: Mutex::new(false) }
    }

    /// The file that `pin` names, or the current one of its suite if that version is gone.
    ///
    /// # Errors
    /// [`AptError::Differs`] if the archive serves other bytes for the pinned version; [`AptError::Unknown`] if nothing can
    /// stand in; the others if apt or a file fails.
    pub fn fetch(&self, pin: &Pin) -> Result<Fetched, AptError> {
        let (version, list) = match self.fetch_pinned(std::slice::from_ref(pin)) {
            Err(AptError::Vanished { .. }) => {
                let (package, version) = self.stand_in(pin)?;
                (version.clone(), self.fetch_versions(pin.kind, &pin.suite, &[(package, version)])?)
            }
            list => (pin.version.clone(), list?),
        };
        let fetched = list.into_iter().next().ok_or_else(|| AptError::NoFile { package: pin.package.clone() })?;
        if !fetched.pinned {
            self.progress.note(&format!(
                "{} {} is no longer in {}: taking {} {version} instead; what is made from it is not the pinned one",
                pin.package, pin.version, pin.suite, fetched.package
            ));
        }
        Ok(fetched)
    }

    /// The files that `pins` name, in that order, fetched at once.
    ///
    /// # Errors
    /// [`AptError::Vanished`] if the archive no longer has one of them; otherwise as [`Self::fetch`].
    pub fn fetch_pinned(&self, pins: &[Pin]) -> Result<Vec<Fetched>, AptError> {
        self.obtain(pins.iter().map(|pin| Wanted { pin: pin.clone(), pinned: true }).collect())
    }

    /// Packages of one suite in versions that it has now, whatever their digests.
    pub(crate) fn fetch_versions(
        &self,
        kind: Kind,
        suite: &str,
        packages: &[(String, String)],
    ) -> Result<Vec<Fetched>, AptError> {
        let wanted = |(package, version): &(String, String)| {
            let (suite, package, version) = (suite.to_owned(), package.clone(), version.clone());
            Wanted {
                pin: Pin { kind, suite, package, version, sha256: Sha256Digest::from_bytes([0; 32]) },
                pinned: false,
            }
        };
        self.obtain(packages.iter().map(wanted).collect())
    }

    fn obtain(&self, wanted: Vec<Wanted>) -> Result<Vec<Fetched>, AptError> {
        let key = wanted.iter().fold(Inputs::of("packages", 1), |inputs, want| {
            inputs.text("pin", &want.pin.to_string()).text("pinned", if want.pinned { "yes" } else { "no" })
        });
        let entry = self.cache.entry("packages", key.key(), |dir| self.download(&wanted, dir))?;
        let fetched = |want: Wanted| {
            let path = file_of(&entry.path, &want.pin)?;
            let sha256 = if want.pinned { want.pin.sha256 } else { files::digest(&path)?.0 };
            let Pin { suite, package, version, .. } = want.pin;
            Ok(Fetched { package, suite, version, sha256, pinned: want.pinned, path, cached: entry.cached })
        };
        wanted.into_iter().map(fetched).collect()
    }

    fn download(&self, wanted: &[Wanted], dir: &Path) -> Result<(), AptError> {
        self.refresh()?;
        self.require(wanted)?;
        let _lock = self.cache.lock("apt/root")?;
        let of = |kind| wanted.iter().map(|want| &want.pin).filter(move |pin| pin.kind == kind);
        let name = |pin: &Pin| format!("{}={}", pin.package, pin.version);
        if of(Kind::Binary).next().is_some() {
            self.tool("apt-get").dir(dir).arg("download").args(of(Kind::Binary).map(name)).run(self.progress)?;
        }
        if of(Kind::Source).next().is_some() {
            let tool = self.tool("apt-get").dir(dir).args(["source", "--download-only", "--only-source"]);
            tool.args(of(Kind::Source).map(name)).run(self.progress)?;
        }
        for file in files::list(dir)?.into_iter().filter(|file| !is_package(file)) {
            files::remove(&file)?;
        }
        for want in wanted.iter().filter(|want| want.pinned) {
            let found = files::digest(&file_of(dir, &want.pin)?)?.0;
            if found != want.pin.sha256 {
                let Pin { package, version, sha256, .. } = want.pin.clone();
                return Err(AptError::Differs { package, version, expected: sha256, found });
            }
        }
        Ok(())
    }

    /// Checks that the archive has every version that is wanted.
    fn require(&self, wanted: &[Wanted]) -> Result<(), AptError> {
        let said = self.tool("apt-cache").arg("madison").args(wanted.iter().map(|want| &want.pin.package));
        let said = said.output(self.progress)?;
        for Wanted { pin, .. } in wanted {
            let mut versions = said.lines().filter_map(|line| version_in(line, pin.kind, &pin.suite, &pin.package));
            if !versions.any(|version| version == pin.version) {
                let Pin { suite, package, version, .. } = pin.clone();
                return Err(AptError::Vanished { suite, package, version });
            }
        }
        Ok(())
    }

    fn stand_in(&self, pin: &Pin) -> Result<(String, String), AptError> {
        let same = self.versions(pin.kind, &pin.suite, &pin.package)?;
        if let Some(version) = same.into_iter().next() {
            return Ok((pin.package.clone(), version));
        }
        let unknown = || AptError::Unknown { suite: pin.suite.clone(), package: pin.package.clone() };
        let (stem, _) = series(&pin.package).ok_or_else(unknown)?;
        let names = self.tool("apt-cache").args(["pkgnames", stem]).output(self.progress)?;
        let mut newest: Vec<(&str, (u32, u32))> =
            names.lines().filter_map(|name| Some((name, series(name)?.1))).collect();
        newest.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        for (name, _) in newest {
            if let Some(version) = self.versions(pin.kind, &pin.suite, name)?.into_iter().next() {
                return Ok((name.to_owned(), version));
            }
        }
        Err(unknown())
    }

    /// Every package that `packages` need, themselves included, by name and version, as the release has them now.
    ///
    /// # Errors
    /// [`AptError::Command`] if apt cannot satisfy them.
    pub(crate) fn closure(&self, packages: &[String]) -> Result<Vec<(String, String)>, AptError> {
        self.refresh()?;
        let tool = self.tool("apt-get").args(["install", "--simulate", "-y", "--no-install-recommends"]);
        let said = tool.args(packages).output(self.progress)?;
        let mut closure: Vec<(String, String)> = said.lines().filter_map(installed).collect();
        closure.sort();
        Ok(closure)
    }

    /// Brings our copy of the archive's index up to date, once for each value of this type.
    fn refresh(&self) -> Result<(), AptError> {
        let mut refreshed = self.refreshed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *refreshed {
            return Ok(());
        }
        let _lock = self.cache.lock("apt/root")?;
        for dir in ["lists/partial", "archives/partial", "state"] {
            files::make_dir(&self.root.join(dir))?;
        }
        let archive = self.address()?;
        let mut sources = String::new();
        for suite in SUITES {
            for kind in ["deb", "deb-src"] {
                sources.push_str(&format!("{kind} [signed-by={KEYRING}] {archive} {suite} main\n"));
            }
        }
        files::write(&self.root.join("sources.list"), sources.as_bytes())?;
        self.tool("apt-get").args(["update", "--error-on=any"]).run(self.progress)?;
        *refreshed = true;
        Ok(())
    }

    /// Where the host's own apt gets Debian from.
    fn address(&self) -> Result<String, AptError> {
        let filters = ["Created-By: Packages", "Origin: Debian", "Label: Debian"];
        let said = Tool::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).args(filters);
        let said = said.output(self.progress)?;
        said.lines().next().map(str::to_owned).ok_or(AptError::NoArchive)
    }

    /// The versions of a package in a suite, newest first.
    fn versions(&self, kind: Kind, suite: &str, package: &str) -> Result<Vec<String>, AptError> {
        let said = self.tool("apt-cache").args(["madison", package]).output(self.progress)?;
        Ok(said.lines().filter_map(|line| version_in(line, kind, suite, package)).collect())
    }

    /// An apt program that looks at our root alone.
    fn tool(&self, program: &str) -> Tool {
        let tool = Tool::new(program)
            .args(["-q", "-o", "Dir::Etc::SourceParts=/dev/null", "-o", "Dir::State::Status=/dev/null"])
            .args(["-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root", "-o", "APT::Architecture=amd64"])
            .args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"])
            .args(["-o", "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false"]);
        let places = [
            ("Dir::Etc::SourceList=", "sources.list"),
            ("Dir::State=", "state"),
            ("Dir::State::Lists=", "lists"),
            ("Dir::Cache=", ""),
        ];
        places.into_iter().fold(tool, |tool, (option, place)| tool.arg("-o").arg_path(option, &self.root.join(place)))
    }
}

/// The stem and the number of a package whose name ends in its series: `linux-source-7.3` is `linux-source-` and 7.3.
fn series(package: &str) -> Option<(&str, (u32, u32))> {
    let (stem, number) = package.split_at(package.rfind('-')? + 1);
    let (major, minor) = number.split_once('.')?;
    Some((stem, (major.parse().ok()?, minor.parse().ok()?)))
}

/// The version in a line of `apt-cache madison` (`package | version | address suite/main … Packages`), if it is about that
/// package in that suite.
fn version_in(line: &str, kind: Kind, suite: &str, package: &str) -> Option<String> {
    let mut columns = line.split('|').map(str::trim);
    let (name, version, place) = (columns.next()?, columns.next()?, columns.next()?);
    let index = if kind == Kind::Binary { "Packages" } else { "Sources" };
    let component = format!("{suite}/main");
    let fits =
        name == package && place.ends_with(index) && place.split_ascii_whitespace().any(|word| word == component);
    (fits && is_word(version)).then(|| version.to_owned())
}

/// The package and version in a line of `apt-get install --simulate`: `Inst gcc (4:14.2.0-1 Debian:13.2/stable [amd64])`.
fn installed(line: &str) -> Option<(String, String)> {
    let mut words = line.strip_prefix("Inst ")?.split_ascii_whitespace();
    let (package, version) = (words.next()?, words.next()?.strip_prefix('(')?);
    (is_word(package) && is_word(version)).then(|| (package.to_owned(), version.to_owned()))
}

/// Whether a file is a package, or the upstream tarball of one; not its description, signature or patches.
fn is_package(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".deb") || (name.contains(".orig.tar.") && !name.ends_with(".asc"))
}

/// The file of a package among those that were downloaded.
fn file_of(dir: &Path, pin: &Pin) -> Result<PathBuf, AptError> {
    let prefix = format!("{}_", pin.package);
    let is_it =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(&prefix));
    files::list(dir)?.into_iter().find(is_it).ok_or_else(|| AptError::NoFile { package: pin.package.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever an archive says, what becomes an argument of a program is a word.
        #[test]
        fn what_is_read_of_apt_is_a_word(line in "Inst [ -~]{0,40}|[ -~|]{0,60}", place in "[ -~]{0,20}") {
            let of_suite = format!("{line} | x | {place} trixie/main Packages");
            let version = version_in(&of_suite, Kind::Binary, "trixie", line.trim());
            let (package, installed) = installed(&line).unzip();
            for word in [version, package, installed].into_iter().flatten() {
                prop_assert!(is_word(&word) && !word.starts_with('-') && !word.contains('/'), "{}", word);
            }
        }
    }

    #[test]
    fn reads_versions_of_one_suite_and_kind() {
        let line = "linux-source-7.3 | 7.3.4-1~bpo13+1 | http://archive/debian trixie-backports/main amd64 Packages";
        let found = version_in(line, Kind::Binary, "trixie-backports", "linux-source-7.3");
        assert_eq!(found.as_deref(), Some("7.3.4-1~bpo13+1"));
        assert_eq!(version_in(line, Kind::Binary, "trixie", "linux-source-7.3"), None);
        assert_eq!(version_in(line, Kind::Source, "trixie-backports", "linux-source-7.3"), None);
        assert_eq!(version_in(line, Kind::Binary, "trixie-backports", "linux-source"), None);
        assert_eq!(
            version_in("  zlib |  1:1 | x trixie/main Sources", Kind::Source, "trixie", "zlib").as_deref(),
            Some("1:1")
        );
    }

    #[test]
    fn reads_what_would_be_installed() {
        let line = "Inst gcc-14 (14.2.0-19 Debian:13.2/stable [amd64])";
        assert_eq!(installed(line), Some(("gcc-14".into(), "14.2.0-19".into())));
        assert_eq!(installed("Conf gcc-14 (14.2.0-19 Debian:13.2/stable [amd64])"), None);
    }

    #[test]
    fn orders_series_by_number() {
        assert_eq!(series("linux-source-6.12"), Some(("linux-source-", (6, 12))));
        assert!(series("linux-source-7.3").unwrap().1 > series("linux-source-6.12").unwrap().1);
        assert_eq!(series("mkosi"), None);
        assert_eq!(series("tpm2-tss"), None);
    }

    #[test]
    fn takes_the_tarball_and_not_its_signature() {
        assert!(is_package(Path::new("zlib_1.3.dfsg+really1.3.1.orig.tar.gz")));
        assert!(!is_package(Path::new("zlib_1.3.1.orig.tar.gz.asc")));
        assert!(!is_package(Path::new("zlib_1.3.1-1.debian.tar.xz")));
        assert!(is_package(Path::new("make_4.4.1-2_amd64.deb")));
    }
}
