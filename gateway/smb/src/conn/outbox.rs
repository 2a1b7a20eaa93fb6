//! Frames on their way to the socket: written at once by whoever finishes a reply while the socket takes them,
//! by the connection's writer task when it does not.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::outgoing::Frame;

/// Frames that may wait; the connection's memory budget bounds their bytes.
const QUEUE_MAX: usize = 1024;
/// Parts that one system call writes at most, well below the system's limit.
const PARTS_MAX: usize = 64;
/// How long a peer may take to accept the last replies of a closing connection.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection takes no more frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are written already.
    written: usize,
    closed: bool,
}

/// The writing end of a connection.
pub struct Outbox {
    stream: OwnedWriteHalf,
    /// Taken for one non-blocking write or queue operation; keeps frames whole and in order.
    queue: Mutex<Queue>,
    /// Told when frames wait for the writer task.
    filled: Notify,
    /// Told when there is room again.
    drained: Notify,
}

impl Outbox {
    /// Writes to `stream`.
    pub fn new(stream: OwnedWriteHalf) -> Outbox {
        Outbox {
            stream,
            queue: Mutex::default(),
            filled: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// Writes the frame, or queues what the socket does not take now. Never blocks; the queue may grow past its
    /// limit by frames that come this way, which are few and small.
    pub fn send_now(&self, frame: Frame) -> Result<(), Closed> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(Closed);
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
        Ok(())
    }

    /// As [`Outbox::send_now`], but waits while too many frames are queued.
    pub async fn send(&self, frame: Frame) -> Result<(), Closed> {
        while self.queue.lock().frames.len() >= QUEUE_MAX {
            let room = self.drained.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.queue.lock().frames.len() >= QUEUE_MAX {
                room.await;
            }
        }
        self.send_now(frame)
    }

    /// Writes as much as the socket takes. A failed socket closes the queue.
    fn write_some(&self, queue: &mut Queue) {
        while !queue.frames.is_empty() {
            let written = self.stream.try_write_vectored(&slices(queue));
            match written {
                Ok(0) => return close(queue),
                Ok(count) => advance(queue, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, "a reply could not be written");
                    return close(queue);
                }
            }
        }
    }

    /// The writer task: carries on where the socket was full, until `finished` fires and the queue is empty, or
    /// the socket fails; then `closing` is fired.
    pub async fn run(&self, closing: &CancellationToken, finished: &CancellationToken) {
        loop {
            let (idle, closed) = {
                let mut queue = self.queue.lock();
                self.write_some(&mut queue);
                (queue.frames.is_empty(), queue.closed)
            };
            self.drained.notify_waiters();
            if closed {
                break;
            }
            let ready = tokio::select! {
                () = self.filled.notified(), if idle => Ok(()),
                () = finished.cancelled(), if idle => break,
                ready = self.stream.writable(), if !idle => ready,
                () = overdue(closing), if !idle => break,
            };
            if ready.is_err() {
                break;
            }
        }
        close(&mut self.queue.lock());
        self.drained.notify_waiters();
        closing.cancel();
        // The peer may be gone already.
        let _ = socket2::SockRef::from(self.stream.as_ref()).shutdown(std::net::Shutdown::Write);
    }
}

/// Waits until the connection has been closing for as long as the last replies may take.
async fn overdue(closing: &CancellationToken) {
    closing.cancelled().await;
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}

fn close(queue: &mut Queue) {
    queue.closed = true;
    queue.frames.clear();
    queue.written = 0;
}

/// What is to be written next, without empty parts.
fn slices(queue: &Queue) -> SmallVec<[io::IoSlice<'_>; PARTS_MAX]> {
    let mut skip = queue.written;
    let mut out = SmallVec::new();
    for part in queue.frames.iter().flat_map(|frame| &frame.parts) {
        let cut = skip.min(part.len());
        skip -= cut;
        if cut < part.len() {
            out.push(io::IoSlice::new(&part[cut..]));
        }
        if out.len() == PARTS_MAX {
            break;
        }
    }
    out
}

/// Drops the frames that `count` further bytes complete.
fn advance(queue: &mut Queue, count: usize) {
    queue.written += count;
    while let Some(first) = queue.frames.front() {
        let len = first.parts.iter().map(|part| part.len()).sum();
        if queue.written < len {
            return;
        }
        queue.written -= len;
        queue.frames.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    fn frame(parts: &[&'static [u8]]) -> Frame {
        Frame {
            parts: parts.iter().map(|part| Bytes::from_static(part)).collect(),
            permit: None,
        }
    }

    async fn pair() -> (Arc<Outbox>, TcpStream, tokio::net::tcp::OwnedReadHalf) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (read, write) = server.into_split();
        (Arc::new(Outbox::new(write)), client, read)
    }

    #[test]
    fn writing_goes_on_within_a_part_and_across_frames() {
        let mut queue = Queue::default();
        queue
            .frames
            .extend([frame(&[b"abc", b"", b"de"]), frame(&[b"f"])]);
        advance(&mut queue, 4);
        let rest: Vec<u8> = slices(&queue).iter().flat_map(|s| s.to_vec()).collect();
        assert_eq!(rest, b"ef");
        advance(&mut queue, 2);
        assert!(queue.frames.is_empty());
    }

    #[tokio::test]
    async fn a_frame_that_the_socket_takes_needs_no_task() {
        let (outbox, mut client, _read) = pair().await;
        outbox.send_now(frame(&[b"hello"])).unwrap();
        let mut got = [0; 5];
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    }

    #[tokio::test]
    async fn frames_beyond_the_sockets_room_arrive_whole_and_in_order() {
        static BIG: [u8; 1 << 20] = [7; 1 << 20];
        let (outbox, mut client, _read) = pair().await;
        let (closing, finished) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn({
            let (outbox, closing, finished) = (outbox.clone(), closing.clone(), finished.clone());
            async move { outbox.run(&closing, &finished).await }
        });
        for _ in 0..16 {
            outbox.send(frame(&[&BIG, b"end"])).await.unwrap();
        }
        finished.cancel();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        task.await.unwrap();
        assert_eq!(got.len(), 16 * (BIG.len() + 3));
        assert!(
            got.chunks(BIG.len() + 3)
                .all(|chunk| chunk.ends_with(b"\x07end"))
        );
        assert_eq!(outbox.send_now(frame(&[b"late"])), Err(Closed));
    }
}
