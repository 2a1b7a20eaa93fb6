//! The sending half of a connection: a reply is written by whoever has made it while the socket takes it, and by the connection's
//! writer task when it does not. Payloads are never copied.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use sluice_nfs_wire::record::single_fragment_header;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

/// A client that takes no byte for this long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Segments handed to the kernel at once.
const SLICES_MAX: usize = 64;

/// Segments of one reply that are not sent yet, and the call's part of the budget, given back when all are.
struct Frame {
    segments: VecDeque<Bytes>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    closed: bool,
}

/// Replies of one connection on their way out. The connection's budget of bytes bounds what waits here.
pub(crate) struct Outbox {
    stream: OwnedWriteHalf,
    /// Taken for one non-blocking write or queue operation; keeps replies whole.
    queue: Mutex<Queue>,
    /// Told when replies wait for the writer task.
    filled: Notify,
    /// Fires when the socket takes nothing any more.
    broken: CancellationToken,
}

impl Outbox {
    pub(crate) fn new(stream: OwnedWriteHalf) -> Outbox {
        Outbox {
            stream,
            queue: Mutex::default(),
            filled: Notify::new(),
            broken: CancellationToken::new(),
        }
    }

    /// Sends an RPC message, given without its record mark; after the end of the connection it goes nowhere.
    pub(crate) fn send(&self, segments: Vec<Bytes>, permit: OwnedSemaphorePermit) {
        let len = segments.iter().map(Bytes::len).sum();
        let mark = Bytes::copy_from_slice(&single_fragment_header(len));
        let frame = Frame {
            segments: std::iter::once(mark)
                .chain(segments.into_iter().filter(|s| !s.is_empty()))
                .collect(),
            _permit: permit,
        };
        let mut queue = self.queue.lock();
        if queue.closed {
            return;
        }
        queue.frames.push_back(frame);
        if queue.frames.len() == 1 {
            self.write_some(&mut queue);
        }
        let waiting = !queue.frames.is_empty();
        drop(queue);
        if waiting {
            self.filled.notify_one();
        }
    }

    /// Waits until the socket has failed.
    pub(crate) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    /// The writer task: carries on where the socket was full, until `finished` fires and nothing is left, or the socket fails.
    pub(crate) async fn run(&self, finished: &CancellationToken) {
        loop {
            let (idle, closed) = {
                let mut queue = self.queue.lock();
                self.write_some(&mut queue);
                (queue.frames.is_empty(), queue.closed)
            };
            if closed {
                break;
            }
            let ready = tokio::select! {
                () = self.filled.notified(), if idle => Ok(Ok(())),
                () = finished.cancelled(), if idle => break,
                ready = tokio::time::timeout(STALL_TIMEOUT, self.stream.writable()), if !idle => ready,
            };
            if !matches!(ready, Ok(Ok(()))) {
                break;
            }
        }
        self.close(&mut self.queue.lock());
        // The client may be gone already.
        let _ = socket2::SockRef::from(self.stream.as_ref()).shutdown(std::net::Shutdown::Write);
    }

    /// Writes as much as the socket takes. A failed socket closes the queue.
    fn write_some(&self, queue: &mut Queue) {
        while !queue.frames.is_empty() {
            let slices: Vec<IoSlice<'_>> = queue
                .frames
                .iter()
                .flat_map(|frame| &frame.segments)
                .take(SLICES_MAX)
                .map(|segment| IoSlice::new(segment))
                .collect();
            match self.stream.try_write_vectored(&slices) {
                Ok(0) => return self.close(queue),
                Ok(count) => advance(&mut queue.frames, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(queue),
            }
        }
    }

    fn close(&self, queue: &mut Queue) {
        queue.closed = true;
        queue.frames.clear();
        self.broken.cancel();
    }
}

/// Takes `written` bytes off the front.
fn advance(frames: &mut VecDeque<Frame>, mut written: usize) {
    while let Some(frame) = frames.front_mut() {
        while let Some(front) = frame.segments.front_mut() {
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            frame.segments.pop_front();
        }
        frames.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;

    async fn pair() -> (Arc<Outbox>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let client = TcpStream::connect(listener.local_addr().expect("address"))
            .await
            .expect("connect");
        let (server, _) = listener.accept().await.expect("accept");
        let (_, write) = server.into_split();
        (Arc::new(Outbox::new(write)), client)
    }

    async fn permit(budget: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        budget.clone().acquire_owned().await.expect("budget")
    }

    #[tokio::test]
    async fn replies_beyond_the_sockets_room_arrive_whole_and_give_their_budget_back() {
        static BIG: [u8; 1 << 20] = [7; 1 << 20];
        let (outbox, mut client) = pair().await;
        let budget = Arc::new(Semaphore::new(100));
        let finished = CancellationToken::new();
        let task = tokio::spawn({
            let (outbox, finished) = (outbox.clone(), finished.clone());
            async move { outbox.run(&finished).await }
        });
        for _ in 0..16 {
            let parts = vec![Bytes::from_static(&BIG), Bytes::from_static(b"end")];
            outbox.send(parts, permit(&budget).await);
        }
        finished.cancel();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.expect("read");
        task.await.expect("writer");
        let frame = 4 + BIG.len() + 3;
        assert_eq!(got.len(), 16 * frame);
        for reply in got.chunks(frame) {
            assert_eq!(&reply[..4], single_fragment_header(BIG.len() + 3));
            assert!(reply.ends_with(b"\x07end"));
        }
        assert_eq!(budget.available_permits(), 100);
    }

    #[tokio::test]
    async fn a_reply_that_the_socket_takes_needs_no_task() {
        let (outbox, mut client) = pair().await;
        let budget = Arc::new(Semaphore::new(1));
        outbox.send(vec![Bytes::from_static(b"reply")], permit(&budget).await);
        let mut got = [0; 9];
        client.read_exact(&mut got).await.expect("read");
        assert_eq!(&got[4..], b"reply");
        assert_eq!(budget.available_permits(), 1);
    }
}
