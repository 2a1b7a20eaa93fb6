//! The socket: options, reading one frame, and the writer task.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use sluice_smb_wire::framing::{POSITIVE_SESSION_RESPONSE, PREFIX_LEN, Prefix};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::outgoing::Frame;

/// Room that is kept for small frames, so that many of them arrive with one system call.
const READ_CHUNK_BYTES: usize = 64 * 1024;
/// Frames that one system call writes at most.
const WRITE_BATCH: usize = 16;
/// How long a peer may take to accept the last replies of a closing connection.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Sets what every SMB connection wants; a socket that refuses still works.
pub fn tune(stream: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "socket options were not set");
    }
}

/// Cuts a stream into frames. Large frames land in memory of their own size; what is received is never
/// copied again.
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    /// Longest frame, in bytes.
    pub limit: usize,
}

/// What came in.
pub enum Incoming {
    /// An SMB message.
    Message(BytesMut),
    /// A NetBIOS session request; answer with [`POSITIVE_SESSION_RESPONSE`].
    SessionRequest,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames of at most `limit` bytes from `stream`.
    pub fn new(stream: R, limit: usize) -> Self {
        FrameReader {
            stream,
            buffer: BytesMut::new(),
            limit,
        }
    }

    /// Makes `len` bytes available; false at the end of the stream.
    async fn fill(&mut self, len: usize) -> io::Result<bool> {
        while self.buffer.len() < len {
            self.buffer
                .reserve((len - self.buffer.len()).max(READ_CHUNK_BYTES));
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// Those of the stream, and `InvalidData` for a prefix that is none or too long.
    pub async fn next(&mut self) -> io::Result<Option<Incoming>> {
        loop {
            if !self.fill(PREFIX_LEN).await? {
                return Ok(None);
            }
            let mut prefix = [0; PREFIX_LEN];
            self.buffer.copy_to_slice(&mut prefix);
            let prefix = Prefix::decode(prefix, self.limit)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match prefix {
                Prefix::KeepAlive => {}
                Prefix::Message(len) => {
                    return Ok(self
                        .fill(len)
                        .await?
                        .then(|| Incoming::Message(self.buffer.split_to(len))));
                }
                Prefix::SessionRequest(len) => {
                    let complete = self.fill(len).await?;
                    self.buffer.advance(len.min(self.buffer.len()));
                    return Ok(complete.then_some(Incoming::SessionRequest));
                }
            }
        }
    }
}

/// The frame that answers a NetBIOS session request.
pub fn session_response() -> Frame {
    Frame {
        parts: SmallVec::from_elem(bytes::Bytes::from_static(&POSITIVE_SESSION_RESPONSE), 1),
        permit: None,
    }
}

/// Writes frames in order, many with one system call when the queue is long, until `finished` fires and the
/// queue is empty, or the peer takes no more; then `closing` is fired.
pub async fn write_frames(
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Frame>,
    closing: CancellationToken,
    finished: CancellationToken,
) {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    loop {
        batch.clear();
        tokio::select! {
            biased;
            count = queue.recv_many(&mut batch, WRITE_BATCH) => {
                if count == 0 {
                    break;
                }
            }
            () = finished.cancelled() => break,
        }
        let written = tokio::select! {
            biased;
            written = write_batch(&mut stream, &batch) => written,
            () = overdue(&closing) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = written {
            tracing::debug!(%error, "a reply could not be written");
            closing.cancel();
            return;
        }
    }
    // The peer may be gone already.
    let _ = stream.shutdown().await;
}

/// Waits until the connection has been closing for as long as the last replies may take.
async fn overdue(closing: &CancellationToken) {
    closing.cancelled().await;
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}

async fn write_batch<W: AsyncWrite + Unpin>(stream: &mut W, batch: &[Frame]) -> io::Result<()> {
    let mut slices: SmallVec<[io::IoSlice<'_>; 2 * WRITE_BATCH]> = batch
        .iter()
        .flat_map(|frame| &frame.parts)
        .map(|part| io::IoSlice::new(part))
        .collect();
    let mut rest = &mut slices[..];
    // Empty parts would look like a peer that takes nothing.
    io::IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let written = stream.write_vectored(rest).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        io::IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frames(raw: &[u8], limit: usize) -> (Vec<Vec<u8>>, Option<io::ErrorKind>) {
        let mut reader = FrameReader::new(raw, limit);
        let mut out = Vec::new();
        loop {
            match reader.next().await {
                Ok(Some(Incoming::Message(m))) => out.push(m.to_vec()),
                Ok(Some(Incoming::SessionRequest)) => out.push(b"session request".to_vec()),
                Ok(None) => return (out, None),
                Err(error) => return (out, Some(error.kind())),
            }
        }
    }

    #[tokio::test]
    async fn frames_are_cut_and_keep_alives_skipped() {
        let raw = b"\0\0\0\x03abc\x85\0\0\0\0\0\0\x01d\0\0\0\x05cut";
        assert_eq!(
            frames(raw, 10).await,
            (vec![b"abc".to_vec(), b"d".to_vec()], None)
        );
    }

    #[tokio::test]
    async fn a_netbios_session_request_is_consumed() {
        let raw = b"\x81\0\0\x02xy\0\0\0\x01d";
        assert_eq!(
            frames(raw, 10).await,
            (vec![b"session request".to_vec(), b"d".to_vec()], None)
        );
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        assert_eq!(
            frames(b"\0\x7f\xff\xff", 100).await,
            (vec![], Some(io::ErrorKind::InvalidData))
        );
    }

    #[tokio::test]
    async fn a_batch_is_written_in_order() {
        let frame = |parts: &[&'static [u8]]| Frame {
            parts: parts.iter().map(|p| bytes::Bytes::from_static(p)).collect(),
            permit: None,
        };
        let mut out = Vec::new();
        write_batch(&mut out, &[frame(&[b"", b"ab", b""]), frame(&[b"c"])])
            .await
            .unwrap();
        assert_eq!(out, b"abc");
    }
}
