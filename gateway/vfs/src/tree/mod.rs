//! A caller's view of one share: the operations that need no open, and the door to those that do.

mod attributes;
mod fork;
mod momentary;
mod names;
mod ranges;
mod rename;
mod rules;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use sluice_repo::{DirEntry, NodeId};

use crate::error::{HolderInfo, VfsError};
use crate::identity::Caller;
use crate::open::Stability;
use crate::share::Share;
use crate::vfs::Inner;
use crate::watch::{ChangeFilter, Watch};

pub(crate) use fork::Forks;
pub(crate) use ranges::RangeOwners;
pub(crate) use rename::Move;
pub(crate) use rules::join;
pub(crate) use walk::Spot;

/// A part of a folder's listing, in cookie order. `.` and `..` are not in it.
#[derive(Clone, Debug, Default)]
pub struct DirPage {
    /// The entries.
    pub entries: Vec<DirEntry>,
    /// Whether the listing ends here.
    pub end: bool,
}

/// How an NFS CREATE treats an existing name (RFC 1813 3.3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateMode {
    /// Take the existing document; a size of zero in the attributes truncates it.
    Unchecked {
        /// Truncate an existing document.
        truncate: bool,
    },
    /// Fail if it exists.
    Guarded,
    /// Fail if it exists unless it was made with this verifier.
    Exclusive([u8; 8]),
}

/// What REMOVE-like calls insist on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveKind {
    /// Anything but a folder.
    NotDirectory,
    /// An empty folder.
    Directory,
}

/// Answer to a momentary write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteReceipt {
    /// What it promises by now (at least what was asked).
    pub stability: Stability,
}

/// A byte-range lock of an NFS client (NLM, NFSv4): the owner is the client together with these bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NfsLock {
    /// Owner bytes (NLM: caller name, oh and svid; NFSv4: lock owner), at most 1,024.
    pub owner: Vec<u8>,
    /// First byte.
    pub offset: u64,
    /// Length; `u64::MAX` or 0 in NLM's sense (to the end) is passed as `u64::MAX - offset`.
    pub length: u64,
    /// Exclusive or shared.
    pub exclusive: bool,
}

/// What becomes of a request for an NFS lock that others stand in the way of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NfsLockHow {
    /// It is refused.
    AtOnce,
    /// It waits; the future is dropped to cancel.
    Wait,
    /// It is refused; but the owner had the lock before its node was lost, and passes what is kept for such.
    Reclaim,
}

/// Answer to a test for an NFS lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NfsLockAnswer {
    /// It would be granted.
    Free,
    /// This lock is in the way.
    Held {
        /// The lock (owner bytes empty if it isn't an NFS client's).
        lock: NfsLock,
        /// Who.
        holder: Box<HolderInfo>,
    },
}

/// A caller's view of one share. Cheap to make and to clone: NFS makes one per call, SMB one per tree connect, FTP one per command.
///
/// Every operation checks, in this order: name and existence, permissions, share and policy, locks (breaking caches first), and only then acts.
#[derive(Clone)]
pub struct Tree {
    inner: Arc<Inner>,
    share: Arc<Share>,
    caller: Caller,
}

impl Tree {
    pub(crate) fn new(inner: Arc<Inner>, share: Arc<Share>, caller: Caller) -> Tree {
        Tree {
            inner,
            share,
            caller,
        }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The share.
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// The caller.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The folder at its root.
    pub fn root(&self) -> NodeId {
        self.share.root
    }

    /// Watches a folder (and all below it if `recursive`) for changes by anybody through any door.
    pub async fn watch(
        &self,
        dir: NodeId,
        filter: ChangeFilter,
        recursive: bool,
    ) -> Result<Watch, VfsError> {
        self.inner.watch(&self.share, dir, filter, recursive).await
    }

    /// How long a polling caller may be held before it gets [`VfsError::Delay`].
    pub fn poll_hold() -> Duration {
        Duration::from_millis(50)
    }

    /// Whether this caller is told to come back instead of waiting.
    pub(crate) fn polls(&self) -> bool {
        use crate::identity::Protocol;
        matches!(self.caller.client.protocol, Protocol::Nfs3 | Protocol::Nfs4)
    }
}
