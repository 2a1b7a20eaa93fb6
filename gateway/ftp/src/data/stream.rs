//! A data connection, plain or under TLS. The control connection uses the same type.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Bytes both ways.
pub(crate) enum DataStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl DataStream {
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, DataStream::Tls(_))
    }

    fn socket(&self) -> &TcpStream {
        match self {
            DataStream::Plain(stream) => stream,
            DataStream::Tls(stream) => stream.get_ref().0,
        }
    }

    /// A second handle on the connection that can tell whether the peer has ended it.
    pub(crate) fn watch(&self) -> io::Result<Watch> {
        let socket = SockRef::from(self.socket()).try_clone()?;
        Ok(Watch(Arc::new(socket.into())))
    }

    /// Breaks the connection off, so that the peer can't take what it got for the whole.
    pub(crate) fn break_off(self) {
        // With no linger time the close becomes a reset. If that fails, the reply on the control connection still tells.
        let _ = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
    }
}

/// A wait that ends so much too late tells that programs stand in line for the processor here, perhaps that of the peer, too.
const BUSY_LATENESS: Duration = Duration::from_micros(200);
/// How much longer an end is waited for then.
const BUSY_PATIENCE: Duration = Duration::from_millis(2);

/// Sees the end of a connection whether or not there is something to be read before it.
#[derive(Clone)]
pub(crate) struct Watch(Arc<OwnedFd>);

impl Watch {
    /// Waits for the end of the connection until `deadline`, somewhat longer on a busy machine; more exact than the runtime's clock. Says
    /// whether it came.
    pub(crate) async fn ended_by(&self, deadline: Instant) -> bool {
        let now = Instant::now();
        if deadline <= now {
            return self.ended(now);
        }
        let watch = self.clone();
        let ended = tokio::task::spawn_blocking(move || watch.ended(deadline));
        // Without an answer nobody knows that the peer is there.
        ended.await.unwrap_or(true)
    }

    fn ended(&self, mut deadline: Instant) -> bool {
        let last = deadline + BUSY_PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or_default(),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut watched = [PollFd::new(&*self.0, PollFlags::RDHUP)];
            match poll(&mut watched, Some(&timeout)) {
                Ok(0) if deadline < last && deadline.elapsed() > BUSY_LATENESS => deadline = last,
                Ok(ready) => return ready > 0,
                Err(Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }
}

impl AsyncRead for DataStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            DataStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            DataStream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for DataStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            DataStream::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            DataStream::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            DataStream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            DataStream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            DataStream::Plain(stream) => stream.is_write_vectored(),
            DataStream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            DataStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            DataStream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            DataStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            DataStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    const LONG: Duration = Duration::from_secs(20);

    async fn pair() -> io::Result<(DataStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = TcpStream::connect(listener.local_addr()?).await?;
        Ok((DataStream::Plain(listener.accept().await?.0), client))
    }

    #[tokio::test]
    async fn a_peer_that_is_there_is_waited_for_and_one_that_leaves_is_seen_at_once()
    -> io::Result<()> {
        let (server, client) = pair().await?;
        let watch = server.watch()?;
        let deadline = Instant::now() + Duration::from_micros(300);
        assert!(!watch.ended_by(deadline).await);
        assert!(Instant::now() >= deadline);
        assert!(!watch.ended_by(deadline).await);
        let waiting = tokio::spawn({
            let watch = watch.clone();
            async move { watch.ended_by(Instant::now() + LONG).await }
        });
        drop(client);
        assert!(waiting.await?);
        assert!(watch.ended_by(Instant::now()).await);
        Ok(())
    }

    #[tokio::test]
    async fn bytes_that_nobody_has_read_do_not_hide_the_end() -> io::Result<()> {
        let (server, mut client) = pair().await?;
        let watch = server.watch()?;
        client.write_all(b"NOOP\r\n").await?;
        assert!(!watch.ended_by(Instant::now()).await);
        drop(client);
        assert!(watch.ended_by(Instant::now() + LONG).await);
        Ok(())
    }
}
