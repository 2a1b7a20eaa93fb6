//! Listening, accepting, stopping. Owns the state that all connections share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sluice_vfs::Vfs;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::clients::Clients;
use crate::conn;
use crate::drc::ReplyCache;
use crate::handle::HandleCodec;
use crate::nlm::{self, LockManager, Recovery};

/// The portmapper's well-known port: a listener there only tells where the others are.
pub(crate) const PORTMAP_PORT: u16 = 111;

/// How long calls under way may take once the head is told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// What the head needs to know to run.
#[derive(Debug, Clone)]
pub struct NfsOptions {
    /// Addresses to listen on; each serves all programs.
    pub listen: Vec<SocketAddr>,
    /// Most connections at a time; further ones are closed at once.
    pub connections_max: usize,
    /// Load balancers whose connections begin with a PROXY protocol header.
    pub proxies: sluice_proxy::Proxies,
    /// Where clients' portmappers are asked for the port to tell about granted locks; 111 but in tests.
    pub client_portmap_port: u16,
}

impl NfsOptions {
    /// Listens on these addresses, with the usual limits.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            connections_max: 4096,
            proxies: sluice_proxy::Proxies::default(),
            client_portmap_port: PORTMAP_PORT,
        }
    }
}

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("NFS can't listen on {address}: {source}")]
pub struct BindError {
    /// Which address.
    pub address: SocketAddr,
    /// Why.
    pub source: std::io::Error,
}

/// What all connections share.
pub(crate) struct Head {
    pub(crate) vfs: Vfs,
    pub(crate) handles: HandleCodec,
    pub(crate) replies: ReplyCache,
    pub(crate) clients: Clients,
    pub(crate) locks: LockManager,
    pub(crate) recovery: Recovery,
    pub(crate) proxies: sluice_proxy::Proxies,
    /// The port that portmapper answers name, for connections that come in on port 111.
    pub(crate) main_port: u16,
}

/// A bound but not yet serving NFS head.
pub struct NfsHead {
    head: Arc<Head>,
    listeners: Vec<TcpListener>,
    datagrams: Vec<UdpSocket>,
    connections_max: usize,
}

impl NfsHead {
    /// Binds all addresses, or none.
    ///
    /// # Errors
    /// [`BindError`] with the first address that failed.
    pub async fn bind(vfs: Vfs, options: NfsOptions) -> Result<Self, BindError> {
        let mut listeners = Vec::with_capacity(options.listen.len());
        for address in options.listen {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|source| BindError { address, source })?;
            listeners.push(listener);
        }
        let mut datagrams = Vec::new();
        for address in listeners.iter().filter_map(|l| l.local_addr().ok()) {
            match UdpSocket::bind(address).await {
                Ok(socket) => datagrams.push(socket),
                Err(error) => {
                    warn!(%address, %error, "NFS can't receive datagrams: restarts of clients may not be heard");
                }
            }
        }
        let ports = || {
            listeners
                .iter()
                .filter_map(|l| l.local_addr().ok())
                .map(|a| a.port())
        };
        let main_port = ports()
            .find(|p| *p != PORTMAP_PORT)
            .or_else(|| ports().next())
            .unwrap_or(0);
        let recovery = Recovery::begin(&vfs).await;
        let head = Arc::new(Head {
            handles: HandleCodec::new(&vfs.handle_key()),
            replies: ReplyCache::new(),
            clients: Clients::new(vfs.clone()),
            locks: LockManager::new(options.client_portmap_port),
            recovery,
            proxies: options.proxies,
            vfs,
            main_port,
        });
        Ok(Self {
            head,
            listeners,
            datagrams,
            connections_max: options.connections_max,
        })
    }

    /// The addresses that were bound (with the real ports where 0 was asked for).
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|l| l.local_addr().ok())
            .collect()
    }

    /// Serves until `stop`; then takes no more requests, finishes those under way and returns.
    pub async fn serve(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let room = Arc::new(Semaphore::new(self.connections_max));
        for listener in self.listeners {
            tasks.spawn(accept_loop(
                self.head.clone(),
                listener,
                room.clone(),
                tasks.clone(),
                stop.clone(),
            ));
        }
        tasks.spawn(nlm::recover(self.head.clone(), stop.clone()));
        for socket in self.datagrams {
            tasks.spawn(crate::datagram::serve(
                self.head.clone(),
                socket,
                stop.clone(),
            ));
        }
        stop.cancelled().await;
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            warn!(
                connections = tasks.len(),
                "NFS stops with requests unanswered"
            );
        }
        self.head.locks.stop();
        info!("NFS stopped");
    }
}

async fn accept_loop(
    head: Arc<Head>,
    listener: TcpListener,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (mut stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or the like: the next accept fails at once again, so give others a moment.
                warn!(%error, "NFS can't accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            warn!(%peer, "NFS connection refused: too many connections");
            continue;
        };
        if let Err(error) = prepare(&stream) {
            debug!(%peer, %error, "NFS connection lost at once");
            continue;
        }
        let (head, stop) = (head.clone(), stop.clone());
        tasks.spawn(async move {
            match head.proxies.ends(&mut stream, peer).await {
                Ok(ends) => conn::run(head, stream, ends, stop).await,
                Err(error) => warn!(%peer, %error, "NFS connection refused"),
            }
            drop(place);
        });
    }
}

/// No delay for small replies, and probes so that dead peers are noticed.
fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    sluice_proxy::send_unpaced_within_machine(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
