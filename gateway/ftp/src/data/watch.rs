//! Whether the client is still there when its upload has ended: the system closes both connections of a program that dies, data before
//! control, and the first looks like the end of a whole document.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::keeper;
use super::machine;

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
        if self.has_ended() == Some(true) {
            return true;
        }
        if doubt.same_machine && keeper::waiting() == 0 {
            for _ in 0..LOOKS_AT_ONCE {
                // In this order: who ran before the threads were counted may have ended the connection by then.
                let at_rest = machine::runnable() == Some(1);
                if at_rest && let Some(ended) = self.has_ended() {
                    return ended;
                }
                // It may be this very thread that keeps the client from going on.
                std::thread::yield_now();
            }
        }
        keeper::wait(self.clone(), doubt).await
    }

    /// Whether the connection has ended; `None` if the system did not say.
    pub(super) fn has_ended(&self) -> Option<bool> {
        let mut watched = [PollFd::new(&*self.0, PollFlags::RDHUP)];
        match poll(&mut watched, Some(&Timespec::default())) {
            Ok(0) => Some(false),
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
    async fn a_peer_that_is_there_is_waited_for_and_one_that_leaves_is_seen() -> io::Result<()> {
        let (server, client) = pair().await?;
        let watch = server.watch()?;
        let short = doubt(Duration::from_micros(300), false);
        assert!(!watch.ended_by(short).await);
        assert!(short.since.elapsed() >= short.longest);
        assert!(!watch.ended_by(short).await);
        let waiting = tokio::spawn({
            let watch = watch.clone();
            async move {
                watch
                    .ended_by(doubt(Duration::from_millis(300), false))
                    .await
            }
        });
        // It looks, and waits.
        tokio::task::yield_now().await;
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
