//! Sessions, their channels and tree connects (MS-SMB2 3.3.1.8, 3.3.1.9).
//!
//! Owns who is logged on and what they are connected to. A session ends exactly once, whoever ends it:
//! LOGOFF, its last connection, its client's next session, or the server's stop.

pub mod setup;
pub mod tree;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use parking_lot::{Mutex, RwLock};
use sluice_smb_wire::cmd::negotiate::{Cipher, Dialect, SigningAlgorithm};
use sluice_vfs::{Caller, Client};
use tokio_util::sync::CancellationToken;

use crate::conn::Connection;
use crate::conn::outgoing::Sealing;
use crate::crypto::signing::Signer;
use crate::open::OpenTable;
use crate::server::Server;

/// Most connections of one session (MS-SMB2 3.3.5.5, as Windows limits them).
const CHANNELS_MAX: usize = 32;

/// A session's id on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// A tree connect's id within its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreeId(pub u32);

/// An authenticated session (MS-SMB2 3.3.1.8).
pub struct Session {
    /// Id on the wire.
    pub id: SessionId,
    /// Account name as the user database spells it.
    pub user: String,
    /// The user at the client that made the session.
    pub caller: Caller,
    /// The session's opens.
    pub opens: OpenTable,
    /// Fires when the session ends.
    pub ended: CancellationToken,
    /// Every request must be signed or encrypted.
    pub(crate) signing_required: bool,
    /// Every request must be encrypted.
    pub(crate) encryption_required: bool,
    /// Keys for encryption, if the client can encrypt.
    pub(crate) sealing: Option<Sealing>,
    /// The key that signs the binding of further channels: that of the first.
    pub(crate) signer: Arc<Signer>,
    /// What every channel must have in common.
    pub(crate) terms: Terms,
    /// Counts this session among the users of its client.
    pub(crate) home: Arc<ClientHome>,
    /// Connections that carry the session; the first is the one that made it. Guarded for list operations only.
    channels: Mutex<Vec<Arc<Connection>>>,
    /// Tree connects; guarded for single map operations.
    trees: RwLock<Trees>,
}

#[derive(Default)]
struct Trees {
    by_id: HashMap<TreeId, Arc<Tree>>,
    last_id: u32,
}

/// What a connection must have negotiated to carry a session as another channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub dialect: Dialect,
    pub cipher: Option<Cipher>,
    pub signing: SigningAlgorithm,
}

/// The client of a connection as the file layer knows it. It is gone when the connection and all sessions
/// that it made are: a session may live on over another channel.
pub(crate) struct ClientHome {
    pub client: Arc<Client>,
    /// The connection and its sessions.
    users: AtomicUsize,
}

impl ClientHome {
    /// A client with one user, its connection.
    pub fn new(client: Arc<Client>) -> Arc<ClientHome> {
        Arc::new(ClientHome {
            client,
            users: AtomicUsize::new(1),
        })
    }

    /// One more user.
    pub fn retain(self: &Arc<Self>) -> Arc<ClientHome> {
        self.users.fetch_add(1, Ordering::Relaxed);
        self.clone()
    }

    /// One user less; the last one tells the file layer that the client is gone.
    pub async fn release(&self, server: &Server) {
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            server.vfs.client_gone(&self.client).await;
        }
    }
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// Every open is closed.
    Close,
    /// Durable opens stay for their client to come back.
    Disconnect,
}

/// One session on one connection, with the key that signs there.
pub struct Channel {
    /// The session.
    pub session: Arc<Session>,
    /// Signs and verifies on this connection.
    pub(crate) signer: Arc<Signer>,
}

impl Session {
    /// Sends an OPLOCK_BREAK notification (`body` from message offset 64 on) over a live connection of the
    /// session. False if there is none: the holder cannot answer, so the break must not wait for it.
    pub fn send_break(&self, body: BytesMut) -> bool {
        // The list is cloned because sending may wait for room and must not hold the guard.
        let channels = self.channels.lock().clone();
        channels
            .iter()
            .any(|conn| conn.send_break(self, body.clone()))
    }

    /// The connections that carry the session.
    pub fn channels(&self) -> Vec<Arc<Connection>> {
        self.channels.lock().clone()
    }

    /// Adds a connection; false if there are too many.
    pub(crate) fn add_channel(&self, conn: &Arc<Connection>) -> bool {
        let mut channels = self.channels.lock();
        let room = channels.len() < CHANNELS_MAX;
        if room {
            channels.push(conn.clone());
        }
        room
    }

    /// Takes a lost connection out; true if it was the last.
    pub(crate) fn remove_channel(&self, conn: &Arc<Connection>) -> bool {
        let mut channels = self.channels.lock();
        channels.retain(|c| !Arc::ptr_eq(c, conn));
        channels.is_empty()
    }

    /// A tree connect by id.
    pub fn tree(&self, id: TreeId) -> Option<Arc<Tree>> {
        self.trees.read().by_id.get(&id).cloned()
    }

    /// Adds a tree connect unless there are `limit` already.
    fn add_tree(&self, limit: usize, make: impl FnOnce(TreeId) -> Tree) -> Option<Arc<Tree>> {
        let mut trees = self.trees.write();
        if trees.by_id.len() >= limit {
            return None;
        }
        let id = loop {
            trees.last_id = trees.last_id.wrapping_add(1);
            let id = TreeId(trees.last_id);
            // 0 means "no tree" and all ones is the related placeholder.
            if !matches!(id.0, 0 | u32::MAX) && !trees.by_id.contains_key(&id) {
                break id;
            }
        };
        let tree = Arc::new(make(id));
        trees.by_id.insert(id, tree.clone());
        Some(tree)
    }

    /// Ends a tree connect: its waiting requests are cancelled, its opens closed. False if there is none.
    pub(crate) async fn end_tree(&self, id: TreeId) -> bool {
        let Some(tree) = self.trees.write().by_id.remove(&id) else {
            return false;
        };
        tree.ended.cancel();
        self.opens.close_tree(id).await;
        true
    }

    /// Ends the session once: it can't be found any more, waiting requests are cancelled, opens go.
    pub(crate) async fn end(&self, server: &Server, how: SessionEnd) {
        if !server.remove_session(self.id) {
            return;
        }
        self.ended.cancel();
        self.channels.lock().clear();
        match how {
            SessionEnd::Close => self.opens.close_all().await,
            SessionEnd::Disconnect => self.opens.disconnect(&server.opens).await,
        }
        self.trees.write().by_id.clear();
        self.home.release(server).await;
        tracing::debug!(session = self.id.0, user = self.user, ?how, "session ended");
    }
}

/// What a tree connect leads to.
pub enum TreeKind {
    /// A share with documents, as this session's user sees it.
    Disk(Box<sluice_vfs::Tree>),
    /// The named pipes of IPC$.
    Pipe,
}

/// A tree connect (MS-SMB2 3.3.1.9).
pub struct Tree {
    /// Id within the session.
    pub id: TreeId,
    /// Share name as configured.
    pub share_name: String,
    /// Disk or pipe.
    pub kind: TreeKind,
    /// MaximalAccess that the TREE_CONNECT response stated.
    pub maximal_access: u32,
    /// Every request must be encrypted.
    pub(crate) encryption_required: bool,
    /// Fires when the tree connect ends.
    pub ended: CancellationToken,
}
