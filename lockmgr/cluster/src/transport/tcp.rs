//! Calls between nodes over TCP, authenticated and encrypted by [`super::handshake`].
//!
//! Somebody who may not talk to us costs little: a bounded number of handshakes at once, each bounded in time, and not a
//! byte of memory more than TLS needs before the proof of the secret. Must never hand out a stream without that proof.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::timeout;

use super::handshake::{Authenticator, HandshakeError};
use super::{DialError, Incoming, PeerStream, Stranger, Transport};

/// Handshakes of callers that go on at once; further callers are dropped.
const HANDSHAKES_MAX: usize = 64;
/// Time for a caller's or our own handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(3);
/// Time for a connection to come about.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// Time after which the system gives up on bytes that the other end does not acknowledge.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module's head.
pub struct TcpTransport {
    authenticator: Authenticator,
    local: SocketAddr,
    incoming: Mutex<mpsc::Receiver<Incoming>>,
    listener: tokio::task::JoinHandle<()>,
}

impl TcpTransport {
    /// Listens at an address.
    pub async fn bind(listen: &str, authenticator: Authenticator) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let local = listener.local_addr()?;
        let (found, incoming) = mpsc::channel(HANDSHAKES_MAX);
        let listener = tokio::spawn(listen_for_peers(listener, authenticator.clone(), found));
        Ok(Self {
            authenticator,
            local,
            incoming: Mutex::new(incoming),
            listener,
        })
    }

    /// Where it listens: with the port that the system chose if none was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn listen_for_peers(
    listener: TcpListener,
    authenticator: Authenticator,
    found: mpsc::Sender<Incoming>,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while !found.is_closed() {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: passes, but not at once.
                tracing::warn!(%error, "can't accept a call of a peer; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            tracing::warn!(%remote, "too many calls at once at the cluster port; one is dropped");
            continue;
        };
        let (authenticator, found) = (authenticator.clone(), found.clone());
        tokio::spawn(async move {
            if let Some(incoming) = receive_call(stream, remote, &authenticator).await {
                let _ = found.send(incoming).await;
            }
            drop(permit);
        });
    }
}

async fn receive_call(
    stream: TcpStream,
    remote: SocketAddr,
    authenticator: &Authenticator,
) -> Option<Incoming> {
    let remote = remote.to_string();
    tune(&stream);
    match timeout(HANDSHAKE_TIME, authenticator.answer(stream)).await {
        Ok(Ok(stream)) => Some(Incoming::Peer(PeerStream {
            io: Box::new(stream),
            remote,
        })),
        Ok(Err(error @ HandshakeError::WrongSecret)) => Some(Incoming::Stranger(Stranger {
            remote,
            reason: error.to_string(),
        })),
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "a call at the cluster port failed");
            None
        }
        Err(_) => {
            tracing::debug!(%remote, "a call at the cluster port did not finish its handshake");
            None
        }
    }
}

/// Small frames leave at once; a silent peer is noticed also without traffic.
fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(2))
        .with_interval(Duration::from_secs(1))
        .with_retries(3);
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
    if let Err(error) = tuned {
        tracing::debug!(%error, "can't tune a connection between nodes");
    }
}

#[async_trait]
impl Transport for TcpTransport {
    async fn dial(&self, address: &str) -> Result<PeerStream, DialError> {
        let stream = match timeout(CONNECT_TIME, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(DialError::Refused);
            }
            Ok(Err(e)) => return Err(DialError::Unreachable(e.to_string())),
            Err(_) => return Err(DialError::Unreachable("no answer in time".into())),
        };
        tune(&stream);
        match timeout(HANDSHAKE_TIME, self.authenticator.call(stream)).await {
            Ok(Ok(stream)) => Ok(PeerStream {
                io: Box::new(stream),
                remote: address.to_owned(),
            }),
            Ok(Err(error @ HandshakeError::WrongSecret)) => {
                Err(DialError::Rejected(error.to_string()))
            }
            Ok(Err(error)) => Err(DialError::Unreachable(error.to_string())),
            Err(_) => Err(DialError::Unreachable("no handshake in time".into())),
        }
    }

    async fn accept(&self) -> io::Result<Incoming> {
        let next = self.incoming.lock().await.recv().await;
        next.ok_or_else(|| io::Error::other("the listener has ended"))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::handshake::ClusterSecret;
    use super::*;

    async fn transport(secret: &[u8]) -> TcpTransport {
        let secret = ClusterSecret::new(secret).unwrap();
        TcpTransport::bind("127.0.0.1:0", Authenticator::new(secret).unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_peer_comes_in_and_a_stranger_is_named() {
        let (a, b) = (
            transport(b"the secret of this cluster").await,
            transport(b"the secret of this cluster").await,
        );
        let stranger = transport(b"another secret, long enough").await;
        let address = b.local_addr().to_string();
        let mut call = a.dial(&address).await.unwrap();
        call.io.write_all(b"x").await.unwrap();
        call.io.flush().await.unwrap();
        let Ok(Incoming::Peer(mut peer)) = b.accept().await else {
            panic!("a peer was not let in");
        };
        assert_eq!(peer.io.read_u8().await.unwrap(), b'x');
        assert!(matches!(
            stranger.dial(&address).await,
            Err(DialError::Rejected(_))
        ));
        assert!(matches!(b.accept().await, Ok(Incoming::Stranger(_))));
    }

    #[tokio::test]
    async fn a_port_without_listener_says_refused_at_once() {
        let a = transport(b"the secret of this cluster").await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = gone.local_addr().unwrap().to_string();
        drop(gone);
        assert!(matches!(a.dial(&address).await, Err(DialError::Refused)));
    }

    #[tokio::test]
    async fn callers_who_never_finish_do_not_keep_a_peer_out() {
        let (a, b) = (
            transport(b"the secret of this cluster").await,
            transport(b"the secret of this cluster").await,
        );
        let address = b.local_addr().to_string();
        let mut idle = Vec::new();
        for _ in 0..HANDSHAKES_MAX / 2 {
            idle.push(TcpStream::connect(&address).await.unwrap());
        }
        let mut noise = TcpStream::connect(&address).await.unwrap();
        noise.write_all(&[0x16; 4096]).await.unwrap();
        a.dial(&address).await.unwrap();
        assert!(matches!(b.accept().await, Ok(Incoming::Peer(_))));
    }
}
