//! The socket's options, and cutting what comes in into frames.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use sluice_smb_wire::framing::{POSITIVE_SESSION_RESPONSE, PREFIX_LEN, Prefix};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use super::outgoing::Frame;

/// Room that is kept for small frames, so that many of them arrive with one system call.
const READ_CHUNK_BYTES: usize = 64 * 1024;
/// With less room than this for small frames, there is made more.
const ROOM_MIN_BYTES: usize = 4 * 1024;

/// Sets what every SMB connection wants; a socket that refuses still works.
pub fn tune(stream: &TcpStream) {
    sluice_proxy::send_unpaced_within_machine(stream);
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

    /// Room for `len` bytes in all. A large frame gets exactly its own memory, once: growing it would copy it.
    fn make_room(&mut self, len: usize) {
        let missing = len - self.buffer.len();
        let wanted = if len > READ_CHUNK_BYTES {
            missing
        } else {
            missing.max(ROOM_MIN_BYTES)
        };
        if self.buffer.capacity() - self.buffer.len() < wanted {
            self.buffer.reserve(missing.max(READ_CHUNK_BYTES));
        }
    }

    /// Makes `len` bytes available; false at the end of the stream.
    async fn fill(&mut self, len: usize) -> io::Result<bool> {
        while self.buffer.len() < len {
            self.make_room(len);
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
        parts: SmallVec::from_elem(Bytes::from_static(&POSITIVE_SESSION_RESPONSE), 1),
        permit: None,
    }
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

    #[test]
    fn a_large_frame_gets_its_memory_once_and_small_ones_come_many_at_a_time() {
        const LARGE: usize = 1 << 20;
        let mut reader = FrameReader::new(&b""[..], LARGE);
        reader.make_room(PREFIX_LEN);
        assert!(reader.buffer.capacity() >= READ_CHUNK_BYTES);
        reader.make_room(LARGE);
        let room = reader.buffer.capacity();
        reader.buffer.resize(LARGE - 10, 0);
        reader.make_room(LARGE);
        assert_eq!(reader.buffer.capacity(), room, "it grew, and was copied");
        drop(reader.buffer.split_to(LARGE - 10).freeze());
        reader.make_room(PREFIX_LEN);
        assert!(reader.buffer.capacity() - reader.buffer.len() >= ROOM_MIN_BYTES);
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        assert_eq!(
            frames(b"\0\x7f\xff\xff", 100).await,
            (vec![], Some(io::ErrorKind::InvalidData))
        );
    }
}
