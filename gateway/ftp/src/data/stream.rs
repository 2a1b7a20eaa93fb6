//! A data connection, plain or under TLS. The control connection uses the same type.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::watch::Watch;

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
        Ok(Watch::new(socket.into()))
    }

    /// Breaks the connection off, so that the peer can't take what it got for the whole.
    pub(crate) fn break_off(self) {
        // With no linger time the close becomes a reset. If that fails, the reply on the control connection still tells.
        let _ = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
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
