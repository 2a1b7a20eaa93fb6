//! One TCP connection: framing, credits, signing, encryption, compounds, async ids.
//!
//! Owns the socket and the order of its life: accept, negotiate, requests in parallel, teardown. Must
//! never await an operation in line with the next request, and never hold a guard across an await.

pub mod chain;
pub mod credits;
pub mod inflight;
pub mod negotiate;
pub mod outbox;
pub mod outgoing;
pub mod receive;
pub mod transport;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use sluice_smb_wire::cmd::negotiate::{Cipher, Dialect, SigningAlgorithm};
use sluice_smb_wire::{Command, Flags, Header};
use sluice_vfs::Client;
use smallvec::SmallVec;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::credits::CreditWindow;
use self::inflight::Inflight;
use self::outbox::Outbox;
use self::outgoing::{Frame, Message};
use crate::crypto::preauth::PreauthHash;
use crate::server::Server;
use crate::session::setup::Logins;
use crate::session::{Channel, ClientHome, Session, SessionEnd, SessionId, Terms};

/// Sessions that ended but are still known to the connection, so that late requests hear of it signed.
const ENDED_CHANNELS_MAX: usize = 64;

/// What negotiation settled for a connection (MS-SMB2 3.3.1.7).
#[derive(Debug, Clone)]
pub struct Negotiated {
    /// The dialect of all further messages.
    pub dialect: Dialect,
    /// The client's GUID; zero for dialect 2.0.2.
    pub client_guid: [u8; 16],
    /// Capabilities that the client sent.
    pub client_capabilities: u32,
    /// Security mode that the client sent.
    pub client_security_mode: u16,
    /// Dialects that the client offered.
    pub client_dialects: Vec<u16>,
    /// Capabilities that this server answered with.
    pub server_capabilities: u32,
    /// Security mode that this server answered with.
    pub server_security_mode: u16,
    /// Largest READ, WRITE and transact buffer in bytes.
    pub max_io: u32,
    /// How sessions of this connection encrypt, if they can.
    pub cipher: Option<Cipher>,
    /// How they sign.
    pub signing: SigningAlgorithm,
}

/// One client connection.
pub struct Connection {
    /// Where the client is.
    pub peer: SocketAddr,
    /// This server's end of the connection.
    pub local: SocketAddr,
    server: Arc<Server>,
    negotiated: OnceLock<Negotiated>,
    client: OnceLock<Arc<ClientHome>>,
    /// Guarded for single window operations.
    credits: Mutex<CreditWindow>,
    inflight: Inflight,
    /// Bytes that requests and their replies may take.
    budget: Arc<Semaphore>,
    /// By session id; guarded for single map operations.
    channels: RwLock<HashMap<SessionId, Arc<Channel>>>,
    logins: Logins,
    /// Hash over the negotiation; guarded for copying.
    preauth: Mutex<PreauthHash>,
    out: Outbox,
    /// Fires when the connection is to end.
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Connection {
    /// Serves one accepted connection until it ends.
    pub(crate) async fn serve(server: &Arc<Server>, stream: TcpStream, peer: SocketAddr) {
        let local = match stream.local_addr() {
            Ok(local) => local,
            // The peer is gone already.
            Err(_) => return,
        };
        transport::tune(&stream);
        let (read_half, write_half) = stream.into_split();
        let conn = Arc::new(Connection {
            peer,
            local,
            server: server.clone(),
            negotiated: OnceLock::new(),
            client: OnceLock::new(),
            credits: Mutex::default(),
            inflight: Inflight::default(),
            budget: Arc::new(Semaphore::new(server.options.inflight_bytes_max as usize)),
            channels: RwLock::default(),
            logins: Logins::default(),
            preauth: Mutex::default(),
            out: Outbox::new(write_half),
            closing: server.stopping().child_token(),
            tasks: TaskTracker::new(),
        });
        tracing::debug!(%peer, "SMB connection opened");
        let finished = CancellationToken::new();
        let writer = tokio::spawn({
            let (conn, finished) = (conn.clone(), finished.clone());
            async move { conn.out.run(&conn.closing, &finished).await }
        });
        receive::read_frames(&conn, read_half).await;
        tokio::select! {
            () = conn.tear_down() => {}
            // A request may wait for an answer that never comes; its client must not.
            () = server.vfs.abandoned() => {}
        }
        finished.cancel();
        // A writer that panicked has nothing left to send.
        let _ = writer.await;
        tracing::debug!(%peer, "SMB connection closed");
    }

    /// Ends what lived on the connection, in order: waiting requests are cancelled, sessions without another
    /// channel go and give up their opens, running requests finish, the client is forgotten.
    async fn tear_down(self: &Arc<Self>) {
        self.closing.cancel();
        let channels: Vec<_> = self.channels.write().drain().map(|(_, c)| c).collect();
        let stopping = self.server.stopping().is_cancelled();
        let how = if stopping {
            SessionEnd::Close
        } else {
            SessionEnd::Disconnect
        };
        for channel in channels {
            if channel.session.remove_channel(self) {
                channel.session.end(&self.server, how).await;
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(home) = self.client.get() {
            home.release(&self.server).await;
        }
    }

    /// What was negotiated; `None` before.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.get()
    }

    /// The dialect; before negotiation the oldest one.
    pub fn dialect(&self) -> Dialect {
        self.negotiated().map_or(Dialect::Smb202, |n| n.dialect)
    }

    /// The client's GUID; zero before negotiation.
    pub fn client_guid(&self) -> [u8; 16] {
        self.negotiated().map_or([0; 16], |n| n.client_guid)
    }

    /// Whether requests pay with several credits for large payloads (2.1 and later).
    pub fn multi_credit(&self) -> bool {
        self.dialect() > Dialect::Smb202
    }

    /// Drops the connection at once, as the specification demands after some faults.
    pub fn terminate(&self) {
        self.closing.cancel();
    }

    /// Waits until the connection ends.
    pub(crate) async fn closed(&self) {
        self.closing.cancelled().await;
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub(crate) fn logins(&self) -> &Logins {
        &self.logins
    }

    pub(crate) fn preauth(&self) -> PreauthHash {
        *self.preauth.lock()
    }

    pub(crate) fn cipher(&self) -> Option<Cipher> {
        self.negotiated().and_then(|n| n.cipher)
    }

    pub(crate) fn signing_algorithm(&self) -> SigningAlgorithm {
        self.negotiated()
            .map_or(SigningAlgorithm::HmacSha256, |n| n.signing)
    }

    /// What a session of this connection demands of its other channels.
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            dialect: self.dialect(),
            cipher: self.cipher(),
            signing: self.signing_algorithm(),
        }
    }

    /// The client as the file layer knows it, made at the first login.
    pub(crate) fn client_or_init(
        &self,
        make: impl FnOnce([u8; 16]) -> Arc<Client>,
    ) -> &Arc<ClientHome> {
        self.client
            .get_or_init(|| ClientHome::new(make(self.client_guid())))
    }

    pub(crate) fn channel(&self, id: SessionId) -> Option<Arc<Channel>> {
        self.channels.read().get(&id).cloned()
    }

    pub(crate) fn channel_count(&self) -> usize {
        self.channels.read().len()
    }

    /// Adds a channel, and forgets ended ones when there are many.
    pub(crate) fn add_channel(&self, channel: &Arc<Channel>) {
        let mut channels = self.channels.write();
        if channels.len() >= ENDED_CHANNELS_MAX {
            channels.retain(|_, c| !c.session.ended.is_cancelled());
        }
        channels.insert(channel.session.id, channel.clone());
    }

    /// Sends a frame; waits while too many are queued. Fails silently when the connection is closing.
    pub(crate) async fn send(&self, frame: Frame) {
        // The outbox is closed only if the connection ends; nobody is left to tell then.
        let _ = self.out.send(frame).await;
    }

    /// Sends an OPLOCK_BREAK notification. Must not block: it is called from the lock service.
    pub(crate) fn send_break(&self, session: &Session, body: BytesMut) -> bool {
        if self.closing.is_cancelled() {
            return false;
        }
        let message = Message {
            header: Header {
                credit_charge: 0,
                status: 0,
                command: Command::OplockBreak as u16,
                credits: 0,
                flags: Flags(Flags::RESPONSE),
                next_command: 0,
                message_id: u64::MAX,
                async_or_tree: 0,
                session_id: 0,
                signature: [0; 16],
            },
            body,
            payload: SmallVec::<[Bytes; 2]>::new(),
            signer: None,
        };
        // MS-SMB2 3.3.4.6: never signed; encrypted if the session is.
        let sealing = session
            .sealing
            .as_ref()
            .filter(|_| session.encryption_required);
        let Ok(frame) = outgoing::build(vec![message], sealing) else {
            return false;
        };
        self.out.send_now(frame).is_ok()
    }
}
