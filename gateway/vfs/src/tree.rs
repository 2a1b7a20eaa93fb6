//! A caller's view of one share: the operations that need no open, and the door to those that do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_repo::{
    Acl, AttributeChange, Attributes, Cookie, DirEntry, ExtendedAttribute, NodeId, Space, Timestamp,
};

use crate::error::{HolderInfo, VfsError};
use crate::identity::Caller;
use crate::open::{ReadData, Stability};
use crate::path::RelPath;
use crate::request::{AccessMask, NewNode, OpenRequest, Opened};
use crate::share::Share;
use crate::upload::{Download, Upload, UploadMode};
use crate::watch::{ChangeFilter, Watch};

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
    inner: Arc<crate::vfs::Inner>,
}

impl Tree {
    /// The share.
    pub fn share(&self) -> &Arc<Share> {
        todo!()
    }

    /// The caller.
    pub fn caller(&self) -> &Caller {
        todo!()
    }

    /// The folder at its root.
    pub fn root(&self) -> NodeId {
        todo!()
    }

    /// Attributes of the node at `path`; symbolic links on the way are refused with [`VfsError::IsSymlink`], a last one is not followed.
    pub async fn resolve(&self, path: &RelPath) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// As [`Tree::resolve`], following symbolic links inside the share (at most 40), as FTP users expect.
    pub async fn resolve_following(&self, path: &RelPath) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// The entry `name` of folder `dir`, in the caller's case mode. Needs EXECUTE on `dir`.
    pub async fn lookup(&self, dir: NodeId, name: &str) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// The folder above `node`; the share's root is its own parent.
    pub async fn parent(&self, node: NodeId) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// Attributes, uncommitted writes included. Fails with [`VfsError::Stale`] for a node that is gone or outside the share.
    /// Breaks nobody's cache but asks a write-caching holder to give its data back first if `exact`.
    pub async fn attributes(&self, node: NodeId, exact: bool) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// Which bits of `wanted` the caller would be granted.
    pub async fn access(&self, node: NodeId, wanted: AccessMask) -> Result<AccessMask, VfsError> {
        todo!()
    }

    /// Changes attributes and, with `size`, the length (checked like a write). `guard`: refuse with [`VfsError::NotSame`]
    /// unless the change time is this (RFC 1813 3.3.2 sattrguard3). Returns the attributes after.
    pub async fn set_attributes(
        &self,
        node: NodeId,
        change: AttributeChange,
        size: Option<u64>,
        guard: Option<Timestamp>,
    ) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// Opens (and perhaps creates). May wait: for breaks always, for conflicting opens as the policy says.
    pub async fn open(&self, request: OpenRequest) -> Result<Opened, VfsError> {
        todo!()
    }

    /// NFS CREATE: makes a document without keeping an open.
    pub async fn create(
        &self,
        dir: NodeId,
        name: &str,
        mode: CreateMode,
        new: NewNode,
    ) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// Makes a folder, symbolic link or special file: `new.kind` says which.
    pub async fn make_node(
        &self,
        dir: NodeId,
        name: &str,
        new: NewNode,
    ) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// Removes an entry. Meets opens that deny deleting; open documents that allow it live on until their last close.
    pub async fn remove(&self, dir: NodeId, name: &str, kind: RemoveKind) -> Result<(), VfsError> {
        todo!()
    }

    /// Renames or moves; with `replace` an existing target of the same sort is replaced in the same commit.
    pub async fn rename(
        &self,
        from_dir: NodeId,
        from: &str,
        to_dir: NodeId,
        to: &str,
        replace: bool,
    ) -> Result<(), VfsError> {
        todo!()
    }

    /// Makes a hard link. Returns the attributes of the document after.
    pub async fn link(
        &self,
        node: NodeId,
        dir: NodeId,
        name: &str,
    ) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// Target of a symbolic link.
    pub async fn read_link(&self, node: NodeId) -> Result<String, VfsError> {
        todo!()
    }

    /// Up to `limit` entries of `dir` after `after`, with attributes. Needs READ_DATA on `dir`.
    pub async fn read_dir(
        &self,
        dir: NodeId,
        after: Cookie,
        limit: usize,
    ) -> Result<DirPage, VfsError> {
        todo!()
    }

    /// A momentary read: checked like an open of that moment (NFSv3 READ).
    pub async fn read(&self, node: NodeId, offset: u64, length: u32) -> Result<ReadData, VfsError> {
        todo!()
    }

    /// A momentary write (NFSv3 WRITE): takes or renews the caller's writer's place unless the policy or its own range lock frees it.
    /// Answers [`VfsError::Delay`] while it must wait.
    pub async fn write(
        &self,
        node: NodeId,
        offset: u64,
        data: Bytes,
        stability: Stability,
    ) -> Result<WriteReceipt, VfsError> {
        todo!()
    }

    /// Makes all momentary writes to `node` durable (NFSv3 COMMIT).
    pub async fn commit(&self, node: NodeId) -> Result<(), VfsError> {
        todo!()
    }

    /// Begins a transfer that replaces, appends to or patches a document and becomes visible as a whole at its commit (FTP STOR, APPE).
    /// Waits for other writers as the policy says.
    pub async fn upload(&self, path: &RelPath, mode: UploadMode) -> Result<Upload, VfsError> {
        todo!()
    }

    /// Opens a document for one transfer out (FTP RETR): the bytes are those of one moment, whatever is written meanwhile.
    pub async fn download(&self, path: &RelPath) -> Result<Download, VfsError> {
        todo!()
    }

    /// The security descriptor. Needs READ_CONTROL.
    pub async fn acl(&self, node: NodeId) -> Result<Acl, VfsError> {
        todo!()
    }

    /// Extended attributes.
    pub async fn eas(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>, VfsError> {
        todo!()
    }

    /// Locks a range for an NFS owner. With `wait` it queues (the future is dropped to cancel); without, a conflict is told at once.
    /// An owner's own overlapping locks are replaced, split and merged as POSIX does.
    pub async fn lock(&self, node: NodeId, lock: NfsLock, wait: bool) -> Result<(), VfsError> {
        todo!()
    }

    /// Unlocks a range of an NFS owner; unlocking what is not locked is fine.
    pub async fn unlock(
        &self,
        node: NodeId,
        owner: &[u8],
        offset: u64,
        length: u64,
    ) -> Result<(), VfsError> {
        todo!()
    }

    /// Whether a lock would be granted.
    pub async fn test_lock(&self, node: NodeId, lock: NfsLock) -> Result<NfsLockAnswer, VfsError> {
        todo!()
    }

    /// Room in the share: the store's, or what the quota leaves.
    pub async fn space(&self) -> Result<Space, VfsError> {
        todo!()
    }

    /// Watches a folder (and all below it if `recursive`) for changes by anybody through any door.
    pub async fn watch(
        &self,
        dir: NodeId,
        filter: ChangeFilter,
        recursive: bool,
    ) -> Result<Watch, VfsError> {
        todo!()
    }

    /// How long a polling caller may be held before it gets [`VfsError::Delay`].
    pub fn poll_hold() -> Duration {
        Duration::from_millis(50)
    }
}
