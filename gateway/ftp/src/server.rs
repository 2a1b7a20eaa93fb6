//! Listeners, the bounds on connections, and the graceful stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluice_vfs::Vfs;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::admission::Admission;
use crate::control::{Control, ControlEnds, canonical};
use crate::options::{FtpOptions, TlsMode};
use crate::reply::{self, Reply};

/// Pause after a failed accept (no file descriptors left), so that the loop doesn't spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Why the head did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be bound.
    #[error("FTP can't listen on {address}: {source}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// TLS is wanted but no certificate was given.
    #[error("FTP: TLS is switched on but there is no certificate")]
    NoCertificate,
    /// The range of passive ports is empty or begins with 0.
    #[error("FTP: the range of passive ports is empty or begins with 0")]
    PassivePorts,
}

/// What all control connections share.
pub(crate) struct Shared {
    pub(crate) vfs: Vfs,
    pub(crate) options: Arc<FtpOptions>,
    pub(crate) acceptor: Option<TlsAcceptor>,
    /// No new work.
    pub(crate) stop: CancellationToken,
    /// Running transfers end too.
    pub(crate) hard_stop: CancellationToken,
    sessions: AtomicU64,
}

struct Door {
    listener: TcpListener,
    implicit_tls: bool,
}

/// The FTP head, listening.
pub struct FtpServer {
    vfs: Vfs,
    options: Arc<FtpOptions>,
    doors: Vec<Door>,
}

impl FtpServer {
    /// Binds all addresses; serves nobody yet.
    ///
    /// # Errors
    /// [`StartError`], with nothing left bound.
    pub async fn bind(options: FtpOptions, vfs: Vfs) -> Result<FtpServer, StartError> {
        let wants_tls = options.tls_mode != TlsMode::Off || !options.listen_implicit_tls.is_empty();
        if wants_tls && options.tls.is_none() {
            return Err(StartError::NoCertificate);
        }
        if options
            .passive_ports
            .as_ref()
            .is_some_and(|ports| ports.is_empty() || *ports.start() == 0)
        {
            return Err(StartError::PassivePorts);
        }
        let plain = options.listen.iter().map(|address| (*address, false));
        let implicit = options
            .listen_implicit_tls
            .iter()
            .map(|address| (*address, true));
        let mut doors = Vec::new();
        for (address, implicit_tls) in plain.chain(implicit) {
            match TcpListener::bind(address).await {
                Ok(listener) => doors.push(Door {
                    listener,
                    implicit_tls,
                }),
                Err(source) => return Err(StartError::Listen { address, source }),
            }
        }
        Ok(FtpServer {
            vfs,
            options: Arc::new(options),
            doors,
        })
    }

    /// The addresses in use, plain ones first: with port 0 in the options, the system's choice.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.doors
            .iter()
            .filter_map(|door| door.listener.local_addr().ok())
            .collect()
    }

    /// Serves until `stop`, then lets running transfers end within the grace time, cuts the rest and returns.
    pub async fn serve(self, stop: CancellationToken) {
        let grace = self.options.limits.stop_grace;
        let admission = Admission::new(&self.options.limits);
        let shared = Arc::new(Shared {
            vfs: self.vfs,
            acceptor: self.options.tls.clone().map(TlsAcceptor::from),
            options: self.options,
            stop,
            hard_stop: CancellationToken::new(),
            sessions: AtomicU64::new(0),
        });
        let sessions = TaskTracker::new();
        for door in self.doors {
            sessions.spawn(accept_loop(
                door,
                Arc::clone(&shared),
                Arc::clone(&admission),
                sessions.clone(),
            ));
        }
        sessions.close();
        shared.stop.cancelled().await;
        if tokio::time::timeout(grace, sessions.wait()).await.is_err() {
            tracing::warn!("transfers were cut off at the end of the stop's grace time");
            shared.hard_stop.cancel();
            sessions.wait().await;
        }
    }
}

async fn accept_loop(
    door: Door,
    shared: Arc<Shared>,
    admission: Arc<Admission>,
    sessions: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = door.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                sessions.spawn(welcome(
                    stream,
                    peer,
                    door.implicit_tls,
                    Arc::clone(&shared),
                    Arc::clone(&admission),
                ));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn welcome(
    mut stream: TcpStream,
    peer: SocketAddr,
    implicit_tls: bool,
    shared: Arc<Shared>,
    admission: Arc<Admission>,
) {
    let ends = match shared.options.proxies.ends(&mut stream, peer).await {
        Ok(ends) => ends,
        Err(error) => return tracing::warn!(%peer, %error, "FTP connection refused"),
    };
    let (from, peer) = (canonical(peer), canonical(ends.client));
    let _ticket = match admission.admit(peer.ip()) {
        Ok(ticket) => ticket,
        Err(refusal) => {
            tracing::warn!(client = %peer.ip(), "too many FTP connections");
            return turn_away(
                stream,
                Reply::from(refusal),
                implicit_tls,
                shared.options.limits.reply_timeout,
            )
            .await;
        }
    };
    let local = match set_up(&stream) {
        Ok(local) => canonical(local),
        Err(error) => return tracing::debug!(%error, "connection lost before it began"),
    };
    let session = shared.sessions.fetch_add(1, Ordering::Relaxed);
    let span = tracing::info_span!("ftp", node = shared.vfs.node_name(), protocol = "ftp", session, client = %peer.ip());
    let ends = ControlEnds {
        peer,
        local,
        called: ends.called.map_or(local, canonical),
        same_machine: from == peer
            && ends.called.is_none()
            && sluice_proxy::are_one_machine(peer.ip(), local.ip()),
    };
    let vfs = shared.vfs.clone();
    tokio::select! {
        () = Control::run(shared, stream, ends, implicit_tls).instrument(span) => {}
        () = vfs.abandoned() => {}
    }
}

fn set_up(stream: &TcpStream) -> io::Result<SocketAddr> {
    // Two small replies follow each other at every transfer: waiting for an acknowledgement between them costs 40 ms.
    stream.set_nodelay(true)?;
    // Telnet's synch before ABOR comes as urgent data; in line, the decoder sees it whole (RFC 959 4.1.3).
    SockRef::from(stream).set_out_of_band_inline(true)?;
    stream.local_addr()
}

async fn turn_away(mut stream: TcpStream, refusal: Reply, implicit_tls: bool, limit: Duration) {
    if implicit_tls {
        return;
    }
    let mut text = bytes::BytesMut::new();
    refusal.encode(&mut text);
    // The client is refused either way; whether it reads why is its business.
    let _ = tokio::time::timeout(limit, stream.write_all(&text)).await;
}

impl From<crate::admission::Full> for Reply {
    fn from(full: crate::admission::Full) -> Reply {
        match full {
            crate::admission::Full::Server => reply::FULL,
            crate::admission::Full::Address => reply::FULL_ADDRESS,
        }
    }
}
