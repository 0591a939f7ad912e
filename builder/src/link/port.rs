//! The virtio-serial port that the link runs over.
//!
//! There is no udev in the machine: the port is found by its name in sysfs, and devtmpfs has made its node. While nobody is at
//! the host's end, reading yields nothing and polling a hang-up. Source: drivers/char/virtio_console.c (`port_fops_read`,
//! `port_fops_poll`), Linux 6.12.

use std::fs::{File, OpenOptions, read_dir, read_to_string};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kiln_formats::link::PORT;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

use super::LinkError;

/// How long the port may take to appear and its other end to be there, in milliseconds: the driver learns both from the host
/// after the machine has started, which takes seconds without KVM.
const PORT_MS_MAX: u64 = 30_000;
/// How often it is looked for, in milliseconds.
const PORT_LOOK_MS: u64 = 5;

/// An open port, as a stream of bytes. Its end of file means that the host has gone.
///
/// A read takes one buffer of the driver's, so less than was asked for does not mean that there is no more: only `EAGAIN` does.
/// That is why this is no tokio pipe, which would wait there for ever (`fill_readbuf`).
#[derive(Debug)]
pub struct Port(AsyncFd<File>);

impl Port {
    /// Finds the port by its name and waits for the host to be there.
    ///
    /// # Errors
    /// [`LinkError::Missing`] after 30 seconds, [`LinkError::Port`] if the node cannot be opened.
    pub async fn open() -> Result<Self, LinkError> {
        let failed = |source| LinkError::Port { source };
        let deadline = Instant::now() + Duration::from_millis(PORT_MS_MAX);
        let mut opened: Option<File> = None;
        while Instant::now() < deadline {
            if opened.is_none() {
                let node = find(Path::new("/sys/class/virtio-ports"), Path::new("/dev")).map_err(failed)?;
                opened = node.map(|node| open(&node)).transpose().map_err(failed)?;
            }
            match opened.take_if(|port| host_is_there(port)) {
                Some(port) => return Self::from_fd(port.into()).map_err(failed),
                None => sleep(Duration::from_millis(PORT_LOOK_MS)).await,
            }
        }
        Err(LinkError::Missing { name: PORT })
    }

    /// Takes a stream that somebody else carries to the host.
    ///
    /// # Errors
    /// [`LinkError::Port`] if the kernel will not watch it.
    pub fn from_stream(stream: UnixStream) -> Result<Self, LinkError> {
        let watched = stream.set_nonblocking(true).and_then(|()| Self::from_fd(stream.into()));
        watched.map_err(|source| LinkError::Port { source })
    }

    /// Takes a descriptor that is already non-blocking.
    ///
    /// # Errors
    /// What the kernel says to watching it.
    #[expect(
        deprecated,
        reason = "its successor is unsafe; a File keeps its descriptor, which is all that is asked of it"
    )]
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        AsyncFd::new(File::from(fd)).map(Self)
    }
}

/// The node of the port called [`PORT`].
fn find(ports: &Path, devices: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match read_dir(ports) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // The attribute is not there before the host has named the port.
        if read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim_end() == PORT) {
            return Ok(Some(devices.join(entry.file_name())));
        }
    }
    Ok(None)
}

fn open(node: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY).bits();
    OpenOptions::new().read(true).write(true).custom_flags(flags.cast_signed()).open(node)
}

fn host_is_there(port: &File) -> bool {
    let mut ask = [PollFd::new(port, PollFlags::OUT)];
    let asked = poll(&mut ask, Some(&Timespec::default()));
    asked.is_ok() && ask.iter().all(|answer| !answer.revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match ready.try_io(|port| port.get_ref().read(unfilled)) {
                Ok(read) => return Poll::Ready(read.map(|bytes| buf.advance(bytes))),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match ready.try_io(|port| port.get_ref().write(bytes)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A port has no half-close: the end comes with the machine's.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn the_port_is_found_by_its_name() {
        let sys = tempfile::tempdir().unwrap();
        assert_eq!(find(&sys.path().join("none"), Path::new("/dev")).unwrap(), None);
        for (node, name) in [("vport0p1", Some("org.qemu.other\n")), ("vport0p2", None)] {
            std::fs::create_dir(sys.path().join(node)).unwrap();
            if let Some(name) = name {
                std::fs::write(sys.path().join(node).join("name"), name).unwrap();
            }
        }
        assert_eq!(find(sys.path(), Path::new("/dev")).unwrap(), None);
        std::fs::write(sys.path().join("vport0p2/name"), format!("{PORT}\n")).unwrap();
        assert_eq!(find(sys.path(), Path::new("/dev")).unwrap(), Some("/dev/vport0p2".into()));
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_is_seen() {
        let (port, host) = UnixStream::pair().unwrap();
        port.set_nonblocking(true).unwrap();
        assert!(host_is_there(&File::from(OwnedFd::from(port.try_clone().unwrap()))));
        let mut port = Port::from_fd(port.into()).unwrap();
        host.set_nonblocking(true).unwrap();
        let mut host = tokio::net::UnixStream::from_std(host).unwrap();
        let large = vec![7; 1 << 20];
        let (sent, received) = tokio::join!(port.write_all(&large), async {
            let mut received = vec![0; 1 << 20];
            host.read_exact(&mut received).await.map(|_| received)
        });
        sent.unwrap();
        assert!(received.unwrap() == large);
        host.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        port.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        drop(host);
        assert_eq!(port.read(&mut answer).await.unwrap(), 0);
    }
}
