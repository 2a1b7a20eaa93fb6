//! A data connection before its first byte: prepared by PASV or PORT, coming about while the file layer decides.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use sluice_proxy::Proxies;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::receiver::Receiver;
use super::sender::Sender;
use super::stream::DataStream;
use crate::context::Context;
use crate::reply::{self, Reply};

/// What PASV, EPSV, PORT or EPRT left for the next transfer.
pub(crate) enum Prepared {
    /// Listening.
    Passive(TcpListener),
    /// To be called, from our end of the control connection.
    Active { to: SocketAddr, from: IpAddr },
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// A data connection that comes about.
pub(crate) struct DataLink {
    connecting: Option<Connecting>,
    connected: Option<io::Result<TcpStream>>,
}

impl DataLink {
    /// Only `peer` is let in, by itself or through a balancer.
    pub(crate) fn new(prepared: Prepared, peer: IpAddr, proxies: Proxies) -> DataLink {
        let connecting: Connecting = match prepared {
            Prepared::Passive(listener) => Box::pin(accept(listener, peer, proxies)),
            Prepared::Active { to, from } => Box::pin(call(to, from)),
        };
        DataLink {
            connecting: Some(connecting),
            connected: None,
        }
    }

    /// Runs `work` while the connection comes about.
    pub(crate) async fn during<F: Future>(&mut self, work: F) -> F::Output {
        tokio::pin!(work);
        loop {
            let Some(connecting) = self.connecting.as_mut() else {
                return work.await;
            };
            tokio::select! {
                biased;
                output = &mut work => return output,
                result = connecting => {
                    self.connecting = None;
                    self.connected = Some(result);
                }
            }
        }
    }

    async fn connect(mut self) -> io::Result<TcpStream> {
        match (self.connected.take(), self.connecting.take()) {
            (Some(result), _) => result,
            (None, Some(connecting)) => connecting.await,
            (None, None) => Err(io::Error::from(io::ErrorKind::NotConnected)),
        }
    }

    async fn open(self, cx: &Context) -> Result<DataStream, Reply> {
        let limit: Duration = cx.options.limits.data_connect_timeout;
        let stream = match tokio::time::timeout(limit, self.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(reply::no_data_connection(&error.to_string())),
            Err(_) => return Err(reply::no_data_connection("it was not opened in time")),
        };
        let Some(acceptor) = &cx.data_tls else {
            return Ok(DataStream::Plain(stream));
        };
        match tokio::time::timeout(limit, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Ok(DataStream::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(reply::data_tls_failed(&error.to_string())),
            Err(_) => Err(reply::data_tls_failed("the handshake took too long")),
        }
    }

    /// The connection, for bytes to the client.
    pub(crate) async fn open_sender<'a>(self, cx: &'a Context) -> Result<Sender<'a>, Reply> {
        let stream = self.open(cx).await?;
        Ok(Sender::new(
            stream,
            &cx.progress,
            cx.options.limits.transfer_stall_timeout,
        ))
    }

    /// The connection, for bytes from the client.
    pub(crate) async fn open_receiver<'a>(self, cx: &'a Context) -> Result<Receiver<'a>, Reply> {
        let stream = self.open(cx).await?;
        let limits = &cx.options.limits;
        let strict_end = cx.options.tls_uploads_need_close_notify;
        Ok(Receiver::new(
            stream,
            &cx.progress,
            limits.transfer_stall_timeout,
            strict_end,
        ))
    }
}

/// Takes the first connection from `peer`; anybody else who found the port is hung up on.
async fn accept(listener: TcpListener, peer: IpAddr, proxies: Proxies) -> io::Result<TcpStream> {
    loop {
        let (mut stream, from) = listener.accept().await?;
        let client = match proxies.ends(&mut stream, from).await {
            Ok(ends) => ends.client.ip().to_canonical(),
            Err(error) => {
                tracing::warn!(%from, %error, "data connection refused");
                continue;
            }
        };
        if client == peer.to_canonical() {
            prepare(&stream)?;
            return Ok(stream);
        }
        tracing::warn!(from = %client, "a stranger tried to take a data connection");
    }
}

async fn call(to: SocketAddr, from: IpAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Families can differ (an IPv4 client on an IPv6 listener); then the system chooses the address.
    if from.is_ipv4() == to.is_ipv4() {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    let stream = TcpSocket::from_std_stream(socket.into())
        .connect(to)
        .await?;
    prepare(&stream)?;
    Ok(stream)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    sluice_proxy::send_unpaced_within_machine(stream);
    stream.set_nodelay(true)
}
