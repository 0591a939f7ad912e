//! An input file as the body of an answer: read as the machine takes it, never more than was promised.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::fs::File;
use tokio::io::{AsyncRead, ReadBuf};

use crate::link::Body;

/// How much is read at once: enough to keep a virtio queue busy.
const PIECE_BYTES: usize = 64 << 10;

/// Opens a plain file as a body of at most `bytes_max` bytes.
pub(crate) async fn open(path: &Path, bytes_max: u64) -> io::Result<Body> {
    let metadata = tokio::fs::metadata(path).await?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    let file = File::open(path).await?;
    Ok(FileBody { file, left: metadata.len().min(bytes_max) }.boxed_unsync())
}

struct FileBody {
    file: File,
    left: u64,
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let wanted = usize::try_from(self.left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let mut piece = vec![0; wanted];
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.file).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        if read == 0 {
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"))));
        }
        piece.truncate(read);
        self.left -= read as u64;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
