//! Busy polling: where a client on this machine asks one thing after the other, its next request comes within a few microseconds
//! of the reply, but a thread that went to sleep meanwhile is woken on a processor that went to sleep as well, which takes longer
//! than the request. So the reading task of such a connection looks again for a moment before it sleeps.
//!
//! Owns the rule when that is worth a processor: for one connection of the process at a time, and not while requests come over another
//! one that is read here (those of remote clients and of FTP are not); never where there is only one processor; never beyond [`LOOK_MAX`]
//! after what came last was taken; and not again after it was in vain until the client has proved quick anew. Other tasks of the thread,
//! and the driver of all sockets and timers, run between any two looks. A balancer on this machine is a client like any other.

use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::yield_now;

use crate::local::are_one_machine;

/// For how long is looked. The client's own wake-up is half of it.
const LOOK_MAX: Duration = Duration::from_micros(60);
/// What came within this time was quick: it includes the wake-up that looking saves.
const QUICK_MAX: Duration = Duration::from_micros(100);
/// That many quick requests in a row, with none of another client between them, before the first look.
const QUICK_MIN: u32 = 8;

/// The connection of which something was read here last, of all in this process.
static TALKING: AtomicU64 = AtomicU64::new(0);
/// The number of the next connection; 0 is none.
static NEXT: AtomicU64 = AtomicU64::new(1);
static HAS_SPARE_PROCESSOR: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|count| count.get() > 1));

/// The receiving half of a connection, with busy polling if the other end is on this machine.
pub struct BusyPollReader {
    stream: OwnedReadHalf,
    /// `None` without busy polling.
    pace: Option<Pace>,
}

impl BusyPollReader {
    /// Reads from `stream`.
    pub fn new(stream: OwnedReadHalf) -> Self {
        let is_near = match (stream.peer_addr(), stream.local_addr()) {
            (Ok(peer), Ok(local)) => are_one_machine(peer.ip(), local.ip()),
            _ => false,
        };
        let pace = (is_near && *HAS_SPARE_PROCESSOR)
            .then(|| Pace::new(NEXT.fetch_add(1, Ordering::Relaxed)));
        Self { stream, pace }
    }
}

impl AsyncRead for BusyPollReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(pace) = &mut self.pace {
            match read {
                Poll::Ready(_) => pace.came(&TALKING, Instant::now),
                // The first poll asks for the next one, after all else that the thread has to do.
                Poll::Pending if pace.looks_again(&TALKING, Instant::now) => {
                    let _ = pin!(yield_now()).poll(cx);
                }
                Poll::Pending => {}
            }
        }
        read
    }
}

/// Decides whether to look again.
struct Pace {
    id: u64,
    /// Since when something has been waited for.
    waiting: Option<Instant>,
    /// Quick requests in a row.
    quick: u32,
}

impl Pace {
    fn new(id: u64) -> Self {
        Self {
            id,
            waiting: None,
            quick: 0,
        }
    }

    /// Something came.
    fn came(&mut self, talking: &AtomicU64, now: impl Fn() -> Instant) {
        let waited = self.waiting.take().map(|since| now() - since);
        let alone = talking.load(Ordering::Relaxed) == self.id;
        if !alone {
            talking.store(self.id, Ordering::Relaxed);
        }
        match waited {
            // More of what is being received already.
            None if alone => {}
            Some(waited) if alone && waited <= QUICK_MAX => {
                self.quick = (self.quick + 1).min(QUICK_MIN);
            }
            _ => self.quick = 0,
        }
    }

    /// Nothing has come yet: true to look again at once.
    fn looks_again(&mut self, talking: &AtomicU64, now: impl Fn() -> Instant) -> bool {
        let Some(since) = self.waiting else {
            self.waiting = Some(now());
            return self.quick == QUICK_MIN;
        };
        if self.quick < QUICK_MIN {
            return false;
        }
        let goes_on = now() - since <= LOOK_MAX && talking.load(Ordering::Relaxed) == self.id;
        if !goes_on {
            self.quick = 0;
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    /// What takes this long has no end.
    const HANGS: Duration = Duration::from_secs(10);

    /// Connections that share what is known about who talks, and a clock.
    struct Machine {
        talking: AtomicU64,
        now: Cell<Instant>,
    }

    impl Machine {
        fn new() -> Self {
            Self {
                talking: AtomicU64::new(0),
                now: Cell::new(Instant::now()),
            }
        }

        /// Nothing has come after `wait`: whether it is looked again.
        fn looks(&self, pace: &mut Pace, wait: Duration) -> bool {
            self.now.set(self.now.get() + wait);
            pace.looks_again(&self.talking, || self.now.get())
        }

        /// The thread sleeps until something comes after `wait`.
        fn comes(&self, pace: &mut Pace, wait: Duration) {
            self.looks(pace, Duration::ZERO);
            self.now.set(self.now.get() + wait);
            pace.came(&self.talking, || self.now.get());
        }

        /// The first request of a connection and as many quick ones as it takes.
        fn prove_quick(&self, pace: &mut Pace) {
            for _ in 0..=QUICK_MIN {
                assert!(!self.looks(pace, Duration::ZERO));
                self.comes(pace, QUICK_MAX);
            }
        }
    }

    #[test]
    fn a_quick_client_is_looked_for_again_until_once_in_vain() {
        let machine = Machine::new();
        let mut pace = Pace::new(1);
        machine.prove_quick(&mut pace);
        assert!(machine.looks(&mut pace, Duration::ZERO));
        assert!(machine.looks(&mut pace, LOOK_MAX));
        machine.comes(&mut pace, Duration::ZERO);
        assert!(machine.looks(&mut pace, Duration::ZERO));
        assert!(!machine.looks(&mut pace, LOOK_MAX + Duration::from_nanos(1)));
        // What comes a moment later counts as any other, but from the start.
        for _ in 0..QUICK_MIN {
            assert!(!machine.looks(&mut pace, Duration::ZERO));
            machine.comes(&mut pace, Duration::ZERO);
        }
        assert!(machine.looks(&mut pace, Duration::ZERO));
    }

    #[test]
    fn one_slow_request_must_be_made_good() {
        let machine = Machine::new();
        let mut pace = Pace::new(1);
        machine.prove_quick(&mut pace);
        machine.comes(&mut pace, QUICK_MAX + Duration::from_nanos(1));
        for _ in 0..QUICK_MIN {
            assert!(!machine.looks(&mut pace, Duration::ZERO));
            machine.comes(&mut pace, Duration::ZERO);
        }
        assert!(machine.looks(&mut pace, Duration::ZERO));
    }

    #[test]
    fn of_two_that_talk_none_is_looked_for() {
        let machine = Machine::new();
        let (mut one, mut other) = (Pace::new(1), Pace::new(2));
        for _ in 0..3 * QUICK_MIN {
            machine.comes(&mut one, Duration::ZERO);
            machine.comes(&mut other, Duration::ZERO);
            assert!(!machine.looks(&mut one, Duration::ZERO));
            assert!(!machine.looks(&mut other, Duration::ZERO));
        }
        machine.prove_quick(&mut one);
        assert!(machine.looks(&mut one, Duration::ZERO));
        assert!(machine.looks(&mut one, Duration::ZERO));
        machine.comes(&mut other, Duration::ZERO);
        assert!(!machine.looks(&mut one, Duration::ZERO));
        // The same if the next request is there before the reply of the last one.
        machine.prove_quick(&mut one);
        machine.comes(&mut other, Duration::ZERO);
        one.came(&machine.talking, || machine.now.get());
        assert!(!machine.looks(&mut one, Duration::ZERO));
    }

    async fn pair() -> (BusyPollReader, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address = listener.local_addr().expect("address");
        let client = TcpStream::connect(address).await.expect("connect");
        let (server, _) = listener.accept().await.expect("accept");
        (BusyPollReader::new(server.into_split().0), client)
    }

    #[tokio::test]
    async fn what_comes_after_the_last_look_wakes_the_reader() {
        let (mut reader, mut client) = pair().await;
        let Some(pace) = &mut reader.pace else {
            // This machine has one processor.
            return;
        };
        pace.quick = QUICK_MIN;
        TALKING.store(pace.id, Ordering::Relaxed);
        let (tell, told) = tokio::sync::oneshot::channel();
        let writing = tokio::spawn(async move {
            told.await.expect("looking ends");
            client.write_all(b"later").await.expect("write");
            client
        });
        let mut looked_in_vain = Some(tell);
        let reading = poll_fn(|cx| {
            let mut room = [0; 8];
            let mut room = ReadBuf::new(&mut room);
            let read = Pin::new(&mut reader).poll_read(cx, &mut room);
            if reader.pace.as_ref().is_some_and(|pace| pace.quick == 0)
                && let Some(tell) = looked_in_vain.take()
            {
                assert!(read.is_pending(), "nothing was sent");
                tell.send(()).expect("the client waits");
            }
            read.map(|done| done.map(|()| room.filled().to_vec()))
        });
        let began = Instant::now();
        let got = timeout(HANGS, reading).await.expect("it is woken");
        assert_eq!(got.expect("read"), b"later");
        assert!(began.elapsed() < HANGS, "each look asks for the next one");
        writing.await.expect("client");
    }

    #[tokio::test]
    async fn requests_and_the_end_come_through() {
        let (mut reader, mut client) = pair().await;
        for number in 0..200u32 {
            client
                .write_all(&number.to_be_bytes())
                .await
                .expect("write");
            assert_eq!(reader.read_u32().await.expect("read"), number);
        }
        drop(client);
        assert_eq!(reader.read(&mut [0; 4]).await.expect("end"), 0);
    }
}
