//! Bytes from the client, and the one place that decides whether their end was a clean one.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::DataStream;
use crate::context::Progress;
use crate::reply::{self, Reply};

/// First buffer: small documents are many, and most fit, their end included. What is not written to costs nothing.
const BUFFER_FIRST_BYTES: usize = 128 * 1024;
/// Every later buffer.
const BUFFER_BYTES: usize = 256 * 1024;
/// A buffer with less room than this is replaced.
const ROOM_MIN_BYTES: usize = 16 * 1024;

/// A document that came in one piece of at most this size is whole: no client writes less than this at once unless it has
/// no more, and what one call has written comes as a whole even if its program dies.
const ONE_PIECE_BYTES_MAX: usize = 4 * 1024;
/// And it came at once, not from a source that gives little by little.
const ONE_PIECE_TIME: Duration = Duration::from_millis(5);

/// How far the clean end of an upload can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client has said so itself (TLS close_notify, or the length ahead), or it came in one piece.
    Certain,
    /// The connection was closed in order at this moment, perhaps by the system because the client died.
    Likely(Instant),
}

/// The receiving end of one data connection.
pub(crate) struct Receiver<'a> {
    stream: DataStream,
    progress: &'a Progress,
    stall: Duration,
    /// Whether a TLS connection must end with close_notify.
    strict_end: bool,
    buffer: BytesMut,
    begun: Instant,
    reads: usize,
    bytes: usize,
    close_notify: bool,
}

impl<'a> Receiver<'a> {
    pub(crate) fn new(
        stream: DataStream,
        progress: &'a Progress,
        stall: Duration,
        strict_end: bool,
    ) -> Receiver<'a> {
        Receiver {
            stream,
            progress,
            stall,
            strict_end,
            buffer: BytesMut::with_capacity(BUFFER_FIRST_BYTES),
            begun: Instant::now(),
            reads: 0,
            bytes: 0,
            close_notify: false,
        }
    }

    /// The next bytes, as slices of the receive buffer; `None` at the clean end. A reset, silence, or TLS without
    /// close_notify is no clean end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Reply> {
        if self.buffer.capacity() < ROOM_MIN_BYTES {
            self.buffer = BytesMut::with_capacity(BUFFER_BYTES);
        }
        let read = tokio::time::timeout(self.stall, self.stream.read_buf(&mut self.buffer)).await;
        match read {
            Ok(Ok(0)) => {
                self.close_notify = self.stream.is_tls();
                Ok(None)
            }
            Ok(Ok(count)) => {
                self.reads += 1;
                self.bytes += count;
                self.progress.add(count);
                Ok(Some(self.buffer.split().freeze()))
            }
            Ok(Err(error))
                if error.kind() == io::ErrorKind::UnexpectedEof && self.stream.is_tls() =>
            {
                if self.strict_end {
                    Err(reply::data_lost(true, "closed without TLS close_notify"))
                } else {
                    Ok(None)
                }
            }
            Ok(Err(error)) => Err(reply::data_lost(true, &error.to_string())),
            Err(_) => Err(reply::data_lost(true, "no progress for too long")),
        }
    }

    /// Answers the client's end with ours: clients wait for our close_notify before they look for the reply. `announced`: so many bytes
    /// the client has said that it would send.
    pub(crate) async fn finish(mut self, announced: Option<u64>) -> End {
        let ended = Instant::now();
        let one_piece = self.reads == 1
            && self.bytes <= ONE_PIECE_BYTES_MAX
            && self.begun.elapsed() < ONE_PIECE_TIME;
        if self.stream.is_tls() {
            // The bytes are here already; whether the client still listens on this connection changes nothing.
            let _ = tokio::time::timeout(self.stall, self.stream.shutdown()).await;
        }
        let as_announced = announced == Some(self.bytes as u64);
        if self.close_notify || one_piece || as_announced {
            End::Certain
        } else {
            End::Likely(ended)
        }
    }
}
