//! A process as the kernel shows it: its directory in `/proc`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::{Error, expect};
use crate::layer::Layer;

/// Bytes of one file of a process that has run nothing.
const BYTES_MAX: u64 = 64 * 1024;
/// Bytes that are made room for at once: most files are shorter than a page.
const BYTES_USUAL: usize = 4096;

/// Opened once: what is asked through it is never asked of another process with the same number.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    directory: OwnedFd,
}

impl Process {
    /// Opens the directory of the process that has this number now.
    pub(crate) fn open(pid: i32) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty());
        let directory =
            directory.map_err(|source| Error::Read { path: format!("/proc/{pid}"), source: source.into() })?;
        Ok(Self { pid, directory })
    }

    /// Its number in our pid namespace.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The text of one of its files.
    pub(crate) fn read(&self, name: &str) -> Result<String, Error> {
        let read = |file: File| {
            let mut text = Vec::with_capacity(BYTES_USUAL);
            file.take(BYTES_MAX + 1).read_to_end(&mut text).map(|_| text)
        };
        let file = self.at(name, OFlags::RDONLY)?;
        let text = read(file.into()).map_err(|source| Error::Read { path: self.path(name), source })?;
        expect(Layer::Process, "size of a procfs file within bounds", &(text.len() as u64 <= BYTES_MAX), &true)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Writes to one of its files what the kernel takes in one piece.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let file = openat(&self.directory, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes())?;
        Ok(())
    }

    /// Which namespace it is in: `net:[4026531840]`.
    pub(super) fn namespace(&self, name: &str) -> Result<String, Error> {
        let name = format!("ns/{name}");
        let link = readlinkat(&self.directory, &name, Vec::with_capacity(64)).map_err(self.failed(&name))?;
        Ok(link.to_string_lossy().into_owned())
    }

    /// Opens what one of its names leads to.
    pub(super) fn at(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        openat(&self.directory, name, flags | OFlags::CLOEXEC, Mode::empty()).map_err(self.failed(name))
    }

    /// Its open descriptors, in order.
    pub(super) fn descriptors(&self) -> Result<Vec<u32>, Error> {
        let directory = self.at("fd", OFlags::RDONLY | OFlags::DIRECTORY)?;
        let entries = Dir::new(directory).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = entries.map_err(self.failed("fd"))?;
        let mut found: Vec<u32> =
            entries.iter().filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok()).collect();
        found.sort_unstable();
        Ok(found)
    }

    fn failed(&self, name: &str) -> impl Fn(Errno) -> Error {
        let path = self.path(name);
        move |source| Error::Read { path: path.clone(), source: source.into() }
    }

    fn path(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid)
    }
}
