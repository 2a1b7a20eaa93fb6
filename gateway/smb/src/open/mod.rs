//! Opens of a session and what outlives one connection.
//!
//! Owns the map from a client's handle to the file layer's open. Must never decide about sharing or
//! locks: the file layer's open is the proof of that.

pub mod durable;
mod listener;
pub mod replay;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use sluice_smb_wire::FileId;
use sluice_smb_wire::cmd::create::CreateAction;
use sluice_vfs::{LeaseKey, Open, Watch};
use tokio_util::sync::CancellationToken;

use crate::op::query_directory::Scan;
use crate::rpc::Pipe;
use crate::session::TreeId;
use durable::{DurableState, DurableTable};
use replay::{ReplayEntry, ReplayTable};

pub use listener::{OpenListener, wire_level};

/// Most handles of one session; as many as an NTFS server allows per session by default.
const OPENS_MAX: usize = 16_384;

/// Handle numbers, and the durable opens that wait for their clients. One per server.
pub struct OpenRegistry {
    next: AtomicU64,
    /// Opens whose client is gone and may come back.
    pub durable: DurableTable,
    /// CREATE requests that may be replayed.
    pub replays: Arc<ReplayTable>,
}

impl Default for OpenRegistry {
    fn default() -> Self {
        // Handles of an earlier run of the server must not name opens of this one.
        let mut seed = [0; 4];
        let start = match getrandom::fill(&mut seed) {
            Ok(()) => u64::from(u32::from_le_bytes(seed)) << 20,
            Err(_) => 1,
        };
        Self {
            next: AtomicU64::new(start | 1),
            durable: DurableTable::default(),
            replays: Arc::default(),
        }
    }
}

impl OpenRegistry {
    /// A handle that this server never gave out.
    pub fn new_file_id(&self) -> FileId {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        FileId {
            persistent: n,
            volatile: n,
        }
    }
}

impl OpenRegistry {
    /// The server stops: opens that wait for their clients close.
    pub async fn close_all(&self) {
        finish_all(self.durable.drain()).await;
    }
}

/// What a handle leads to.
pub enum Opened {
    /// A document, folder or stream.
    Disk(Box<DiskOpen>),
    /// A named pipe of IPC$.
    Pipe(Pipe),
}

/// State of an open on a disk share that the file layer has no word for.
pub struct DiskOpen {
    /// The open itself.
    pub open: Arc<Open>,
    /// The tree that it was opened through.
    pub tree: sluice_vfs::Tree,
    /// CurrentByteOffset (MS-FSCC 2.4.35).
    pub position: AtomicU64,
    /// Mode bits (MS-FSCC 2.4.31).
    pub mode: AtomicU32,
    /// Every write is durable before its answer.
    pub write_through: bool,
    /// The lease that it was opened with.
    pub lease: Option<LeaseKey>,
    /// Where a listing stands; the lock makes requests on one handle take turns.
    pub scan: tokio::sync::Mutex<Scan>,
    /// The watch behind CHANGE_NOTIFY; made by the first request, waiters take turns.
    pub watch: tokio::sync::Mutex<Option<Watch>>,
    /// Buffer size of the first CHANGE_NOTIFY, which bounds the later ones; zero before it.
    pub notify_len: AtomicU32,
    /// Bytes that the client reserved through this handle (AllocationSize, MS-FSCC 2.4.4).
    pub reserved: AtomicU64,
    /// LockSequenceArray (MS-SMB2 3.3.1.10): number plus one by index, zero is invalid.
    pub lock_sequence: Mutex<[u8; 65]>,
    /// Durability, if granted.
    pub durable: Mutex<Option<DurableState>>,
    /// ChannelSequence (MS-SMB2 3.3.1.10): the newest that a request on the handle carried.
    pub channel_sequence: AtomicU16,
    /// How the CREATE that made it is answered again.
    pub replay: Option<Replay>,
    /// What calls back; knows which session holds the open now.
    pub listener: Arc<OpenListener>,
}

impl DiskOpen {
    /// True for a folder itself; a stream of a folder is content like any other.
    pub fn is_folder(&self) -> bool {
        self.open.is_directory() && self.open.content().stream == 0
    }
}

/// What a replayed CREATE needs (MS-SMB2 3.3.5.9.10).
pub struct Replay {
    /// Keeps the guid taken while the handle lives.
    pub entry: ReplayEntry,
    /// CreateAction of the first answer.
    pub action: CreateAction,
    /// The client has used the handle, so it knows the answer: a replay is a new CREATE (IsReplayEligible).
    pub used: AtomicBool,
}

/// One handle of a session.
pub struct SmbOpen {
    /// The handle.
    pub id: FileId,
    /// The tree connect ([`TreeId`]) that it belongs to; changes when a durable open is reconnected.
    pub tree: AtomicU32,
    /// What it leads to.
    pub kind: Opened,
    /// Fires when the handle is closed, so that whoever waits on it stops.
    pub closed: CancellationToken,
}

impl SmbOpen {
    /// The disk open, if it is one.
    pub fn disk(&self) -> Option<&DiskOpen> {
        match &self.kind {
            Opened::Disk(disk) => Some(disk),
            Opened::Pipe(_) => None,
        }
    }

    /// Ends it: waiters stop, the file layer's open closes.
    async fn finish(&self) {
        self.closed.cancel();
        if let Opened::Disk(disk) = &self.kind
            && let Err(error) = disk.open.close().await
        {
            tracing::warn!(open = disk.open.id().0, %error, "closing an open of a session that ended failed");
        }
    }
}

/// The opens of one session, by the volatile half of their handle.
#[derive(Default)]
pub struct OpenTable {
    /// Held only to look up or change the map.
    opens: RwLock<HashMap<u64, Arc<SmbOpen>>>,
}

impl OpenTable {
    /// The open with this handle.
    pub fn get(&self, id: FileId) -> Option<Arc<SmbOpen>> {
        let opens = self.opens.read();
        opens
            .get(&id.volatile)
            .filter(|open| open.id == id)
            .cloned()
    }

    /// Adds an open; gives it back if the session has too many.
    pub fn insert(&self, open: Arc<SmbOpen>) -> Result<(), Arc<SmbOpen>> {
        let mut opens = self.opens.write();
        if opens.len() >= OPENS_MAX {
            return Err(open);
        }
        opens.insert(open.id.volatile, open);
        Ok(())
    }

    /// Takes an open out; the second of two closers finds nothing.
    pub fn remove(&self, id: FileId) -> Option<Arc<SmbOpen>> {
        let mut opens = self.opens.write();
        match opens.get(&id.volatile) {
            Some(open) if open.id == id => opens.remove(&id.volatile),
            _ => None,
        }
    }

    /// Number of opens.
    pub fn len(&self) -> usize {
        self.opens.read().len()
    }

    /// True without opens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&self, mut wanted: impl FnMut(&SmbOpen) -> bool) -> Vec<Arc<SmbOpen>> {
        let mut opens = self.opens.write();
        let ids: Vec<u64> = opens
            .iter()
            .filter(|(_, open)| wanted(open))
            .map(|(id, _)| *id)
            .collect();
        ids.iter().filter_map(|id| opens.remove(id)).collect()
    }

    /// Closes every open of a tree connect that ends (TREE_DISCONNECT).
    pub async fn close_tree(&self, tree: TreeId) {
        finish_all(self.take(|open| open.tree.load(Ordering::Relaxed) == tree.0)).await;
    }

    /// Closes every open: LOGOFF, or the session was replaced by its client (previous session id).
    pub async fn close_all(&self) {
        finish_all(self.take(|_| true)).await;
    }

    /// The session's last connection is gone: durable opens are kept for their timeout, others are closed.
    pub async fn disconnect(&self, registry: &OpenRegistry) {
        let all = self.take(|_| true);
        let mut rest = Vec::with_capacity(all.len());
        for open in all {
            if !registry.durable.keep(&open).await {
                rest.push(open);
            }
        }
        finish_all(rest).await;
    }
}

/// Closes at most this many opens at once, so that a session with thousands doesn't flood the stores.
const CLOSES_AT_ONCE: usize = 32;

async fn finish_all(opens: Vec<Arc<SmbOpen>>) {
    use futures::StreamExt;
    // Waiters stop before the first close: none of them may be granted what another open gives back.
    opens.iter().for_each(|open| open.closed.cancel());
    futures::stream::iter(opens)
        .for_each_concurrent(CLOSES_AT_ONCE, |open| async move { open.finish().await })
        .await;
}
