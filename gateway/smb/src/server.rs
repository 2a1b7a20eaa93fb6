//! The server as a whole: options, tables that span connections, start and stop.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use sluice_vfs::Vfs;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Users;
use crate::auth::spnego::ServerNames;
use crate::conn::Connection;
use crate::crypto;
use crate::open::OpenRegistry;
use crate::session::{Session, SessionId};

/// What an administrator may set for the SMB head.
#[derive(Debug, Clone)]
pub struct SmbOptions {
    /// Clients must sign (or encrypt) everything.
    pub signing_required: bool,
    /// Clients must encrypt everything; dialects before 3.0 can't come in then.
    pub encryption_required: bool,
    /// Most connections at a time.
    pub connections_max: usize,
    /// Most sessions on one connection.
    pub sessions_per_connection_max: usize,
    /// Most tree connects of one session.
    pub trees_per_session_max: usize,
    /// Most bytes of requests and replies in memory for one connection.
    pub inflight_bytes_max: u32,
    /// Largest READ, WRITE and transact buffer in bytes.
    pub io_bytes_max: u32,
    /// How long a connection may go without a login.
    pub login_timeout: Duration,
    /// Load balancers whose connections begin with a PROXY protocol header.
    pub proxies: sluice_proxy::Proxies,
    /// DNS name of this host, told to clients in the NTLM challenge.
    pub host_name: String,
}

impl Default for SmbOptions {
    fn default() -> Self {
        SmbOptions {
            signing_required: false,
            encryption_required: false,
            connections_max: 4096,
            sessions_per_connection_max: 1024,
            trees_per_session_max: 1024,
            inflight_bytes_max: 128 << 20,
            io_bytes_max: 8 << 20,
            login_timeout: Duration::from_secs(60),
            proxies: sluice_proxy::Proxies::default(),
            host_name: "sluice".to_owned(),
        }
    }
}

/// State shared by all connections.
pub struct Server {
    /// This server's GUID.
    pub guid: [u8; 16],
    /// The file layer.
    pub vfs: Vfs,
    /// Handle numbers, and the durable opens that wait for their clients.
    pub opens: OpenRegistry,
    /// When this server started.
    pub started: SystemTime,
    /// The options.
    pub options: SmbOptions,
    pub(crate) names: Arc<ServerNames>,
    pub(crate) users: Arc<dyn Users>,
    /// Every session, for previous-session and binding look-ups; guarded for single map operations.
    sessions: RwLock<HashMap<SessionId, Arc<Session>>>,
    next_session: AtomicU64,
    connections: AtomicUsize,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    fn new(vfs: Vfs, options: SmbOptions) -> Arc<Server> {
        let netbios = options.host_name.split('.').next().unwrap_or("SLUICE");
        let names = ServerNames {
            netbios: netbios.chars().take(15).collect::<String>().to_uppercase(),
            dns: options.host_name.clone(),
        };
        Arc::new(Server {
            guid: vfs.server_guid(),
            users: Arc::new(vfs.accounts()),
            vfs,
            opens: OpenRegistry::default(),
            started: SystemTime::now(),
            options,
            names: Arc::new(names),
            sessions: RwLock::default(),
            // Session ids of an earlier run must not be met again by clients that still know them. Some clients
            // keep 32 bits only.
            next_session: AtomicU64::new((u32::from_le_bytes(crypto::random()) >> 2 | 1).into()),
            connections: AtomicUsize::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// A session id that was never used.
    pub(crate) fn new_session_id(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds an authenticated session.
    pub(crate) fn add_session(&self, session: &Arc<Session>) {
        self.sessions.write().insert(session.id, session.clone());
    }

    /// Takes a session out; true if it was there, so that only one caller tears it down.
    pub(crate) fn remove_session(&self, id: SessionId) -> bool {
        self.sessions.write().remove(&id).is_some()
    }

    /// A live session by id.
    pub fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        self.sessions.read().get(&id).cloned()
    }

    /// Number of connections.
    pub fn connection_count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Number of sessions.
    pub fn session_count(&self) -> usize {
        self.sessions.read().len()
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    async fn accept(self: Arc<Server>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.clone().admit(stream, peer),
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to come back instead of spinning.
                    tracing::warn!(%error, "cannot accept an SMB connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admit(self: Arc<Server>, mut stream: TcpStream, peer: SocketAddr) {
        if self.connections.fetch_add(1, Ordering::Relaxed) >= self.options.connections_max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%peer, limit = self.options.connections_max, "too many SMB connections; one was refused");
            return;
        }
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            match self.options.proxies.ends(&mut stream, peer).await {
                Ok(ends) => Connection::serve(&self, stream, ends.client).await,
                Err(error) => tracing::warn!(%peer, %error, "SMB connection refused"),
            }
            self.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// A running SMB head.
pub struct SmbServer {
    server: Arc<Server>,
    addresses: Vec<SocketAddr>,
}

impl SmbServer {
    /// Listens on all of `listen` and serves until [`SmbServer::stop`].
    ///
    /// # Errors
    /// The address that can't be listened on, with the reason.
    pub async fn start(
        vfs: Vfs,
        listen: &[SocketAddr],
        options: SmbOptions,
    ) -> Result<SmbServer, ListenFailed> {
        let server = Server::new(vfs, options);
        let mut listeners = Vec::with_capacity(listen.len());
        for address in listen {
            let failed = |error| ListenFailed {
                address: *address,
                error,
            };
            listeners.push(TcpListener::bind(address).await.map_err(failed)?);
        }
        let addresses = listeners
            .iter()
            .filter_map(|l| l.local_addr().ok())
            .collect();
        for listener in listeners {
            server.tasks.spawn(server.clone().accept(listener));
        }
        Ok(SmbServer { server, addresses })
    }

    /// Where it listens, with the ports that the system chose for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The shared state, for listings.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Stops: no new connections, then every session ends with its opens flushed and closed, durable ones too.
    pub async fn stop(&self) {
        self.server.stop.cancel();
        self.server.tasks.close();
        self.server.tasks.wait().await;
        self.server.opens.close_all().await;
    }
}

/// A socket could not be opened for listening.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}")]
pub struct ListenFailed {
    /// The address.
    pub address: SocketAddr,
    /// The reason.
    #[source]
    pub error: std::io::Error,
}

/// Now as a FILETIME: units of 100 ns since 1601.
pub(crate) fn filetime_now() -> u64 {
    const UNIX_EPOCH_FILETIME: u64 = 116_444_736_000_000_000;
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UNIX_EPOCH_FILETIME + (since.as_nanos() / 100) as u64
}
