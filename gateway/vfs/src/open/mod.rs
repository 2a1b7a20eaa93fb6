//! One successful open: the proof of a lock decision through which bytes are read and written.

mod change;
mod close;
mod empty;
mod grant;
mod io;
mod rename;
mod sink;
mod start;
mod stream;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_lockmgr as lm;
use sluice_repo::{Attributes, ContentId, NodeId, NodeKind};
use smallvec::SmallVec;

use crate::coherent::Pin;
use crate::error::VfsError;
use crate::identity::Caller;
use crate::listener::CacheListener;
use crate::lock_bridge::{ack_error, denied};
use crate::request::{AccessMask, LeaseKey, LeaseState, OplockLevel, ShareMode};
use crate::share::Share;
use crate::tree::Tree;
use crate::vfs::Inner;
use crate::working::{Working, Writer};

pub(crate) use start::WRITE_RIGHTS;

/// Identifies an open in the cluster while it lives; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenId(pub u64);

/// What a write promises before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stability {
    /// Visible to all; durable after a flush, close or commit.
    Unstable,
    /// Durable in the shared stores, content and metadata.
    Durable,
}

/// The caching right that an open was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantedCache {
    /// None.
    None,
    /// An oplock.
    Oplock(OplockLevel),
    /// A lease, shared with the client's other opens under the key.
    Lease {
        /// Its key.
        key: LeaseKey,
        /// What it has now.
        state: LeaseState,
        /// Its epoch (version 2).
        epoch: u16,
        /// Whether a break of it is under way.
        breaking: bool,
    },
}

/// Bytes read: slices of what the store holds, in order, without copying.
#[derive(Clone, Debug, Default)]
pub struct ReadData {
    /// The bytes.
    pub parts: SmallVec<[Bytes; 2]>,
    /// Their sum in bytes.
    pub len: usize,
    /// Whether the read touched the end of the content.
    pub eof: bool,
}

/// One element of an SMB lock request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLock {
    /// First byte.
    pub offset: u64,
    /// Length in bytes; may be zero.
    pub length: u64,
    /// Exclusive or shared.
    pub exclusive: bool,
}

/// Opens of this node by id: for listings and for the check before a folder moves.
#[derive(Default)]
pub(crate) struct OpenTable(Mutex<HashMap<OpenId, Weak<OpenState>>>);

impl OpenTable {
    fn add(&self, open: &Arc<OpenState>) {
        self.0.lock().insert(open.id, Arc::downgrade(open));
    }

    fn remove(&self, open: OpenId) {
        self.0.lock().remove(&open);
    }

    /// Documents and folders that are open now, each once.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        let table = self.0.lock();
        let mut nodes: Vec<NodeId> = table
            .values()
            .filter_map(Weak::upgrade)
            .map(|open| open.content.node)
            .collect();
        drop(table);
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// What one open knows. Lives on until its close is done, even if its handle was dropped.
pub(crate) struct OpenState {
    inner: Arc<Inner>,
    tree: Tree,
    id: OpenId,
    lock: lm::OpenRef,
    content: ContentId,
    kind: NodeKind,
    access: AccessMask,
    share_mode: ShareMode,
    write_through: bool,
    stream: Mutex<Option<String>>,
    /// Present if the open reads or writes bytes.
    working: Option<Arc<Working>>,
    writer: Writer,
    actor: lm::Actor,
    /// The caching right as it was told at the open.
    granted: GrantedCache,
    /// Has written, so that its close commits.
    wrote: AtomicBool,
    /// For one that may change the node, or has made it: what could be seen then. The node, whoever has created it just before, is to be durable when
    /// this is flushed or closed. 0: nothing, as whoever only reads was promised nothing.
    seen: AtomicU64,
    /// Content time was set by hand or frozen: its writes leave it alone.
    keeps_times: AtomicBool,
    /// Dropping it does not close it.
    ends_with_node: AtomicBool,
    /// The open's own wish: its close marks the node.
    delete_on_close: AtomicBool,
    lost: AtomicBool,
    closing: tokio::sync::OnceCell<Result<Option<Attributes>, VfsError>>,
    listener: Arc<Mutex<Option<Arc<dyn CacheListener>>>>,
    /// The client may keep writes to itself: other nodes ask before they show the document.
    pin: Mutex<Option<Pin>>,
}

/// A granted open. All methods may be called concurrently; each checks what the access granted at open allows.
/// None blocks the caller's thread; those that may wait for others (breaks, locks, storage) are cancelled by dropping the future.
pub struct Open {
    state: Arc<OpenState>,
}

impl Open {
    /// Its id, unique in the cluster.
    pub fn id(&self) -> OpenId {
        self.state.id
    }

    /// The node and stream.
    pub fn content(&self) -> ContentId {
        self.state.content
    }

    /// The access that was granted: generic bits resolved, MAXIMUM_ALLOWED computed.
    pub fn access(&self) -> AccessMask {
        self.state.access
    }

    /// What it lets others do.
    pub fn share_mode(&self) -> ShareMode {
        self.state.share_mode
    }

    /// Whether it is a folder.
    pub fn is_directory(&self) -> bool {
        self.state.kind == NodeKind::Directory
    }

    /// Who opened it.
    pub fn caller(&self) -> &Caller {
        self.state.tree.caller()
    }

    /// The share through which it was opened.
    pub fn share(&self) -> &Arc<Share> {
        self.state.tree.share()
    }

    /// The path from the share's root at the moment (renames by others included), `/`-separated, empty for the root,
    /// without the stream.
    pub async fn path(&self) -> Result<String, VfsError> {
        self.state.tree.path_of(self.state.content.node).await
    }

    /// The stream's name, `None` for the main content.
    pub fn stream_name(&self) -> Option<String> {
        self.state.stream.lock().clone()
    }

    /// The caching right that it holds now.
    pub async fn cache(&self) -> GrantedCache {
        let Some(state) = self.state.inner.locks.state(self.state.lock).await else {
            return GrantedCache::None;
        };
        match self.state.granted {
            GrantedCache::Lease { key, epoch, .. } => GrantedCache::Lease {
                key,
                state: LeaseState(state.cache.bits()),
                epoch,
                breaking: false,
            },
            _ => told_oplock(state.cache),
        }
    }

    /// The client's answer to an oplock break: it keeps `level`. [`VfsError::Invalid`] if no break is under way or the level is higher.
    pub async fn acknowledge_break(&self, level: OplockLevel) -> Result<OplockLevel, VfsError> {
        let state = match level {
            OplockLevel::None => lm::CacheState::NONE,
            OplockLevel::LevelTwo => lm::OplockLevel::II.state(),
            OplockLevel::Exclusive => lm::OplockLevel::Exclusive.state(),
            OplockLevel::Batch => lm::OplockLevel::Batch.state(),
        };
        let kept = self
            .state
            .inner
            .locks
            .acknowledge_break(lm::BreakAck::Oplock {
                open: self.state.lock,
                state,
            })
            .await
            .map_err(ack_error)?;
        Ok(oplock_level(kept))
    }

    /// Whether it is marked for deletion.
    pub async fn delete_pending(&self) -> bool {
        let state = self.state.inner.locks.state(self.state.lock).await;
        state.is_some_and(|s| s.delete_pending)
    }

    /// Keeps the open without its client for at most `timeout` (durable handles): it goes away earlier if it stands in somebody's way.
    pub async fn disconnect(&self, timeout: Duration) {
        *self.state.listener.lock() = None;
        if self
            .state
            .inner
            .locks
            .disconnect(self.state.lock, timeout)
            .await
            .is_err()
        {
            self.state.lost.store(true, Ordering::Release);
        }
    }

    /// Gives a disconnected open to the same client's new connection. [`VfsError::OpenLost`] if it is gone.
    pub async fn reconnect(
        &self,
        caller: Caller,
        listener: Arc<dyn CacheListener>,
    ) -> Result<(), VfsError> {
        let state = &self.state;
        if state.closing.initialized() || state.lost.load(Ordering::Acquire) {
            return Err(VfsError::OpenLost);
        }
        if caller.identity.sid != state.tree.caller().identity.sid {
            return Err(VfsError::AccessDenied);
        }
        *state.listener.lock() = Some(listener);
        let actor = state.inner.actor(
            &caller,
            &state.actor.holder.path,
            state.actor.holder.rule.as_deref(),
        );
        let sink = sink::sink_of(state);
        state
            .inner
            .locks
            .reclaim(state.lock, actor, Some(sink))
            .await
            .map_err(|denial| denied(denial, crate::ConflictKind::Sharing))?;
        Ok(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let state = self.state.clone();
        if !state.closing.initialized() && !state.ends_with_node.load(Ordering::Acquire) {
            self.state.inner.runtime.spawn(async move {
                if let Err(error) = state.close().await {
                    tracing::warn!(node = state.content.node.0, %error, "closing a dropped open failed");
                }
            });
        }
    }
}

impl OpenState {
    /// The bytes, if the access allows one of `rights`.
    fn bytes(&self, rights: u32) -> Result<&Arc<Working>, VfsError> {
        if self.lost.load(Ordering::Acquire) || self.closing.initialized() {
            return Err(VfsError::OpenLost);
        }
        if self.kind == NodeKind::Directory && self.content.stream == 0 {
            return Err(VfsError::IsDirectory);
        }
        if !self.access.any(rights) {
            return Err(VfsError::AccessDenied);
        }
        self.working.as_ref().ok_or(VfsError::AccessDenied)
    }

    fn mark_on_close(&self) {
        self.delete_on_close.store(true, Ordering::Release);
    }

    fn alive(&self) -> Result<(), VfsError> {
        if self.lost.load(Ordering::Acquire) || self.closing.initialized() {
            return Err(VfsError::OpenLost);
        }
        Ok(())
    }

    fn needs(&self, rights: u32) -> Result<(), VfsError> {
        self.alive()?;
        if self.access.has(rights) {
            Ok(())
        } else {
            Err(VfsError::AccessDenied)
        }
    }
}

/// A caching right in oplock words.
fn oplock_level(state: lm::CacheState) -> OplockLevel {
    match lm::OplockLevel::of(state) {
        None => OplockLevel::None,
        Some(lm::OplockLevel::II) => OplockLevel::LevelTwo,
        Some(lm::OplockLevel::Exclusive) => OplockLevel::Exclusive,
        Some(lm::OplockLevel::Batch) => OplockLevel::Batch,
    }
}

fn told_oplock(state: lm::CacheState) -> GrantedCache {
    match oplock_level(state) {
        OplockLevel::None => GrantedCache::None,
        level => GrantedCache::Oplock(level),
    }
}

/// What changed, as watchers select it (MS-SMB2 2.2.35 CompletionFilter).
pub(crate) mod filter {
    pub(crate) const ATTRIBUTES: u32 = 0x4;
    pub(crate) const SIZE: u32 = 0x8;
    pub(crate) const LAST_WRITE: u32 = 0x10;
    pub(crate) const EA: u32 = 0x80;
    pub(crate) const SECURITY: u32 = 0x100;
    pub(crate) const STREAM_NAME: u32 = 0x200;
}
