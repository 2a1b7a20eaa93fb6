//! Bytes to the client.

use std::time::Duration;

use bytes::Buf;
use tokio::io::AsyncWriteExt;

use super::parts::Parts;
use super::stream::DataStream;
use crate::context::Progress;
use crate::reply::{self, Reply};

/// The sending end of one data connection.
pub(crate) struct Sender<'a> {
    stream: DataStream,
    progress: &'a Progress,
    stall: Duration,
}

impl<'a> Sender<'a> {
    pub(crate) fn new(stream: DataStream, progress: &'a Progress, stall: Duration) -> Sender<'a> {
        Sender {
            stream,
            progress,
            stall,
        }
    }

    /// Sends all of `parts`. A slow client is fine, one that takes nothing for too long is not.
    pub(crate) async fn send(&mut self, mut parts: Parts) -> Result<(), Reply> {
        while parts.has_remaining() {
            match tokio::time::timeout(self.stall, self.stream.write_buf(&mut parts)).await {
                Ok(Ok(0)) => return Err(reply::data_lost(false, "closed by the client")),
                Ok(Ok(count)) => self.progress.add(count),
                Ok(Err(error)) => return Err(reply::data_lost(false, &error.to_string())),
                Err(_) => return Err(reply::data_lost(false, "no progress for too long")),
            }
        }
        Ok(())
    }

    /// Ends the connection in order (close_notify under TLS) and tells how many bytes went out.
    pub(crate) async fn finish(mut self) -> Result<u64, Reply> {
        match tokio::time::timeout(self.stall, self.stream.shutdown()).await {
            Ok(Ok(())) => Ok(self.progress.bytes()),
            Ok(Err(error)) => Err(reply::data_lost(false, &error.to_string())),
            Err(_) => Err(reply::data_lost(false, "no progress for too long")),
        }
    }

    /// Breaks the connection off after a failure.
    pub(crate) fn fail(self) {
        self.stream.break_off();
    }
}
