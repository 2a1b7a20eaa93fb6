//! Bytes from the client, and the one place that decides whether their end was a clean one.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::DataStream;
use crate::context::Progress;
use crate::reply::{self, Reply};

/// First buffer: small documents are many, and most fit.
const BUFFER_FIRST_BYTES: usize = 32 * 1024;
/// Every later buffer.
const BUFFER_BYTES: usize = 256 * 1024;
/// A buffer with less room than this is replaced.
const ROOM_MIN_BYTES: usize = 16 * 1024;

/// The receiving end of one data connection.
pub(crate) struct Receiver<'a> {
    stream: DataStream,
    progress: &'a Progress,
    stall: Duration,
    /// Whether a TLS connection must end with close_notify.
    strict_end: bool,
    buffer: BytesMut,
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
            Ok(Ok(0)) => Ok(None),
            Ok(Ok(count)) => {
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

    /// Answers the client's end with ours: clients wait for our close_notify before they look for the reply.
    pub(crate) async fn finish(mut self) {
        // The bytes are here already; whether the client still listens on this connection changes nothing.
        let _ = tokio::time::timeout(self.stall, self.stream.shutdown()).await;
    }
}
