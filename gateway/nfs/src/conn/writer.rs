//! The sending half of a connection: replies as they come, several in one vectored write, payloads never copied.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use bytes::{Buf, Bytes};
use sluice_nfs_wire::record::single_fragment_header;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// A client that takes no byte for this long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Replies gathered for one round of writing.
const BATCH_REPLIES: usize = 64;
/// Segments handed to the kernel at once.
const SLICES_MAX: usize = 64;

/// A reply to be sent.
pub(crate) struct Outgoing {
    /// The RPC message, without record mark.
    pub(crate) segments: Vec<Bytes>,
    /// The call's part of the budget, given back when the reply has been sent.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// Sends until every sender is gone or the client is.
pub(crate) async fn run(mut stream: OwnedWriteHalf, mut replies: mpsc::Receiver<Outgoing>) {
    let mut batch = Vec::with_capacity(BATCH_REPLIES);
    let mut queue = VecDeque::new();
    while replies.recv_many(&mut batch, BATCH_REPLIES).await > 0 {
        let mut permits = Vec::with_capacity(batch.len());
        for reply in batch.drain(..) {
            let len = reply.segments.iter().map(Bytes::len).sum();
            queue.push_back(Bytes::copy_from_slice(&single_fragment_header(len)));
            queue.extend(reply.segments.into_iter().filter(|s| !s.is_empty()));
            permits.push(reply.permit);
        }
        if write_all(&mut stream, &mut queue).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}

async fn write_all(
    stream: &mut OwnedWriteHalf,
    queue: &mut VecDeque<Bytes>,
) -> std::io::Result<()> {
    while !queue.is_empty() {
        let slices: Vec<IoSlice<'_>> = queue
            .iter()
            .take(SLICES_MAX)
            .map(|s| IoSlice::new(s))
            .collect();
        let written = tokio::time::timeout(STALL_TIMEOUT, stream.write_vectored(&slices))
            .await
            .map_err(|_| std::io::ErrorKind::TimedOut)??;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        advance(queue, written);
    }
    Ok(())
}

/// Takes `written` bytes off the front.
fn advance(queue: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(front) = queue.front_mut() {
        if front.len() > written {
            front.advance(written);
            return;
        }
        written -= front.len();
        queue.pop_front();
    }
}
