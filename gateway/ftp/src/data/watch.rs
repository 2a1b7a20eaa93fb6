//! Whether the client is still there when its upload has ended: the system closes both connections of a program that dies, data before
//! control, and the first looks like the end of a whole document.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::machine;

/// A wait that ends so much too late tells that programs stand in line for the processor here, perhaps that of the peer, too.
const BUSY_LATENESS: Duration = Duration::from_micros(200);
/// How much longer an end is waited for then.
const BUSY_PATIENCE: Duration = Duration::from_millis(2);
/// Time before the next look whether the machine is at rest; twice as long after each, as those who look are not at rest themselves.
const LOOK_TIME: Duration = Duration::from_micros(100);
/// Looks at once, each after everybody else had a chance to run.
const LOOKS_AT_ONCE: usize = 4;

/// How long a client that has ended its data connection is not believed to mean it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doubt {
    /// When it ended the data connection.
    pub(crate) since: Instant,
    /// Time in which the end of the control connection tells that it died.
    pub(crate) longest: Duration,
    /// The client is a program on this machine: between the ends of its two connections it runs or wants to. So there is no doubt left
    /// once nothing else does on the machine.
    pub(crate) same_machine: bool,
}

/// Sees the end of a connection whether or not there is something to be read before it.
#[derive(Clone)]
pub(crate) struct Watch(Arc<OwnedFd>);

impl Watch {
    pub(super) fn new(connection: OwnedFd) -> Watch {
        Watch(Arc::new(connection))
    }

    /// Waits for the end of the connection while there is doubt, somewhat longer on a busy machine; more exact than the runtime's clock.
    /// Says whether it came.
    pub(crate) async fn ended_by(&self, doubt: Doubt) -> bool {
        for _ in 0..if doubt.same_machine { LOOKS_AT_ONCE } else { 1 } {
            if let Some(ended) = self.look(&doubt, Duration::ZERO, doubt.longest) {
                return ended;
            }
            // It may be this very thread that keeps the client from going on.
            std::thread::yield_now();
        }
        let watch = self.clone();
        let ended = tokio::task::spawn_blocking(move || watch.wait(&doubt));
        // Without an answer nobody knows that the peer is there.
        ended.await.unwrap_or(true)
    }

    fn wait(&self, doubt: &Doubt) -> bool {
        let (mut longest, mut pause) = (doubt.longest, LOOK_TIME);
        loop {
            let left = longest.saturating_sub(doubt.since.elapsed());
            let step = match doubt.same_machine {
                true => left.min(pause),
                false => left,
            };
            pause *= 2;
            if let Some(ended) = self.look(doubt, step, longest) {
                return ended;
            }
            if doubt.since.elapsed() > doubt.longest + BUSY_LATENESS {
                longest = doubt.longest + BUSY_PATIENCE;
            }
        }
    }

    /// Waits for the end of the connection so long: whether it came, or `None` if there is doubt still.
    fn look(&self, doubt: &Doubt, step: Duration, longest: Duration) -> Option<bool> {
        // In this order: who ran before the threads were counted may have ended the connection by then.
        let age = doubt.since.elapsed();
        let at_rest = doubt.same_machine && machine::runnable() == Some(1);
        let step = if at_rest { Duration::ZERO } else { step };
        let timeout = Timespec {
            tv_sec: step.as_secs().try_into().unwrap_or_default(),
            tv_nsec: step.subsec_nanos().into(),
        };
        let mut watched = [PollFd::new(&*self.0, PollFlags::RDHUP)];
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) => (at_rest || age >= longest).then_some(false),
            Err(Errno::INTR) => None,
            Ok(_) | Err(_) => Some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataStream;
    use std::io;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> io::Result<(DataStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        Ok((DataStream::Plain(listener.accept().await?.0), client))
    }

    fn doubt(longest: Duration, same_machine: bool) -> Doubt {
        Doubt {
            since: Instant::now(),
            longest,
            same_machine,
        }
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_peer_that_is_there_is_waited_for_and_one_that_leaves_is_seen_at_once()
    -> io::Result<()> {
        let (server, client) = pair().await?;
        let watch = server.watch()?;
        let short = doubt(Duration::from_micros(300), false);
        assert!(!watch.ended_by(short).await);
        assert!(short.since.elapsed() >= short.longest);
        assert!(!watch.ended_by(short).await);
        let waiting = tokio::spawn({
            let watch = watch.clone();
            async move { watch.ended_by(doubt(LONG, false)).await }
        });
        drop(client);
        assert!(waiting.await?);
        assert!(watch.ended_by(doubt(Duration::ZERO, false)).await);
        Ok(())
    }

    #[tokio::test]
    async fn bytes_that_nobody_has_read_do_not_hide_the_end() -> io::Result<()> {
        let (server, mut client) = pair().await?;
        let watch = server.watch()?;
        client.write_all(b"NOOP\r\n").await?;
        assert!(!watch.ended_by(doubt(Duration::ZERO, false)).await);
        drop(client);
        assert!(watch.ended_by(doubt(LONG, false)).await);
        assert!(watch.ended_by(doubt(LONG, true)).await);
        Ok(())
    }

    #[tokio::test]
    async fn a_program_on_a_busy_machine_is_not_believed_early() -> io::Result<()> {
        let (server, _client) = pair().await?;
        let watch = server.watch()?;
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let busy = std::thread::spawn({
            let done = done.clone();
            move || while !done.load(std::sync::atomic::Ordering::Relaxed) {}
        });
        // Not before it runs.
        while machine::runnable().is_some_and(|count| count < 2) {}
        let told = doubt(Duration::from_millis(5), true);
        assert!(!watch.ended_by(told).await);
        let age = told.since.elapsed();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        busy.join().expect("ended");
        assert!(age >= told.longest, "{age:?}");
        Ok(())
    }
}
