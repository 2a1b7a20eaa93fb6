//! One successful open: the proof of a lock decision through which bytes are read and written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_repo::{Acl, AttributeChange, Attributes, ContentId, ExtendedAttribute, StreamInfo};
use smallvec::SmallVec;

use crate::error::VfsError;
use crate::identity::Caller;
use crate::listener::CacheListener;
use crate::request::{AccessMask, LeaseKey, LeaseState, OplockLevel, ShareMode, Target};
use crate::share::Share;

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

/// A granted open. All methods may be called concurrently; each checks what the access granted at open allows.
/// None blocks the caller's thread; those that may wait for others (breaks, locks, storage) are cancelled by dropping the future.
pub struct Open {
    inner: Arc<crate::vfs::Inner>,
}

impl Open {
    /// Its id, unique in the cluster.
    pub fn id(&self) -> OpenId {
        todo!()
    }

    /// The node and stream.
    pub fn content(&self) -> ContentId {
        todo!()
    }

    /// The access that was granted: generic bits resolved, MAXIMUM_ALLOWED computed.
    pub fn access(&self) -> AccessMask {
        todo!()
    }

    /// What it lets others do.
    pub fn share_mode(&self) -> ShareMode {
        todo!()
    }

    /// Whether it is a folder.
    pub fn is_directory(&self) -> bool {
        todo!()
    }

    /// Who opened it.
    pub fn caller(&self) -> &Caller {
        todo!()
    }

    /// The share through which it was opened.
    pub fn share(&self) -> &Arc<Share> {
        todo!()
    }

    /// The path from the share's root at the moment (renames by others included), `/`-separated, empty for the root,
    /// without the stream.
    pub async fn path(&self) -> Result<String, VfsError> {
        todo!()
    }

    /// The stream's name, `None` for the main content.
    pub fn stream_name(&self) -> Option<String> {
        todo!()
    }

    /// Current attributes; size and times include writes that are not committed yet. For a named stream, `size` and
    /// `allocated` are the stream's.
    pub async fn attributes(&self) -> Result<Attributes, VfsError> {
        todo!()
    }

    /// Reads up to `length` bytes at `offset`. Needs READ_DATA or EXECUTE; meets mandatory ranges of others.
    pub async fn read(&self, offset: u64, length: u32) -> Result<ReadData, VfsError> {
        todo!()
    }

    /// Writes `data` at `offset`, extending the content if needed. Needs WRITE_DATA (or APPEND_DATA at or beyond the end).
    pub async fn write(
        &self,
        offset: u64,
        data: Bytes,
        stability: Stability,
    ) -> Result<(), VfsError> {
        todo!()
    }

    /// Appends atomically with regard to other appends; returns the offset at which the data went.
    pub async fn append(&self, data: Bytes, stability: Stability) -> Result<u64, VfsError> {
        todo!()
    }

    /// Sets the length: truncates or extends with zeros.
    pub async fn set_size(&self, size: u64) -> Result<(), VfsError> {
        todo!()
    }

    /// Reserves `allocation` bytes; below the length it truncates (MS-FSA 2.1.5.14.1).
    pub async fn set_allocation(&self, allocation: u64) -> Result<(), VfsError> {
        todo!()
    }

    /// Makes `[offset, offset + length)` zeros without changing the length (FSCTL_SET_ZERO_DATA).
    pub async fn zero_range(&self, offset: u64, length: u64) -> Result<(), VfsError> {
        todo!()
    }

    /// Ranges that hold data, within `[offset, offset + length)`.
    pub async fn allocated_ranges(
        &self,
        offset: u64,
        length: u64,
    ) -> Result<Vec<(u64, u64)>, VfsError> {
        todo!()
    }

    /// Makes all that was written so far durable: content and metadata.
    pub async fn flush(&self) -> Result<(), VfsError> {
        todo!()
    }

    /// Changes attributes of the node. Needs WRITE_ATTRIBUTES for times and DOS attributes; breaks others' caches first.
    /// Times set here stick for this open: its later writes don't move `modified` (as Windows does).
    pub async fn set_attributes(&self, change: AttributeChange) -> Result<(), VfsError> {
        todo!()
    }

    /// Stops this open's own operations from moving times (MS-FSCC 2.4.7: -1 freezes, -2 thaws). Order: accessed, modified, changed.
    pub fn freeze_times(
        &self,
        accessed: Option<bool>,
        modified: Option<bool>,
        changed: Option<bool>,
    ) {
        todo!()
    }

    /// The security descriptor. Needs READ_CONTROL.
    pub async fn acl(&self) -> Result<Acl, VfsError> {
        todo!()
    }

    /// Replaces parts of the security descriptor: which ones is said by what is `Some` (owner, group, dacl) in `acl`;
    /// `null_dacl` says that a `None` DACL is meant to be stored. Needs WRITE_OWNER or WRITE_DAC.
    pub async fn set_acl(&self, acl: Acl, null_dacl: bool) -> Result<(), VfsError> {
        todo!()
    }

    /// Extended attributes. Needs READ_EA.
    pub async fn eas(&self) -> Result<Vec<ExtendedAttribute>, VfsError> {
        todo!()
    }

    /// Sets extended attributes; an empty value removes one. Needs WRITE_EA.
    pub async fn set_eas(&self, eas: Vec<ExtendedAttribute>) -> Result<(), VfsError> {
        todo!()
    }

    /// Named streams of the node (without the main content).
    pub async fn streams(&self) -> Result<Vec<StreamInfo>, VfsError> {
        todo!()
    }

    /// Marks the node (or this stream) for deletion at its last close, or takes the mark back. Needs DELETE.
    pub async fn set_delete_pending(&self, delete: bool) -> Result<(), VfsError> {
        todo!()
    }

    /// Whether it is marked for deletion.
    pub fn delete_pending(&self) -> bool {
        todo!()
    }

    /// Renames or moves the open's node to `target` in the same share. Needs DELETE. With `replace` an existing document
    /// goes away in the same commit, if nobody's open stands against it.
    pub async fn rename(&self, target: Target, replace: bool) -> Result<(), VfsError> {
        todo!()
    }

    /// Renames the open's named stream, within the node.
    pub async fn rename_stream(&self, name: &str, replace: bool) -> Result<(), VfsError> {
        todo!()
    }

    /// Makes a further hard link to the open's document.
    pub async fn link(&self, target: Target, replace: bool) -> Result<(), VfsError> {
        todo!()
    }

    /// Locks ranges, all or none. `wait`: queue behind conflicting locks (only with one element) until granted or the future is dropped.
    pub async fn lock(&self, locks: &[RangeLock], wait: bool) -> Result<(), VfsError> {
        todo!()
    }

    /// Unlocks one range, which must be one that this open locked exactly so. [`VfsError::RangeNotLocked`] otherwise.
    pub async fn unlock(&self, offset: u64, length: u64) -> Result<(), VfsError> {
        todo!()
    }

    /// The client's answer to an oplock break: it keeps `level`. [`VfsError::Invalid`] if no break is under way or the level is higher.
    pub fn acknowledge_break(&self, level: OplockLevel) -> Result<OplockLevel, VfsError> {
        todo!()
    }

    /// The caching right that it holds now.
    pub fn cache(&self) -> GrantedCache {
        todo!()
    }

    /// Copies `length` bytes from `source` at `source_offset` into this open at `offset` (server side). Returns bytes copied.
    pub async fn copy_from(
        &self,
        source: &Open,
        source_offset: u64,
        offset: u64,
        length: u64,
    ) -> Result<u64, VfsError> {
        todo!()
    }

    /// Keeps the open without its client for at most `timeout` (durable handles): it goes away earlier if it stands in somebody's way.
    pub fn disconnect(&self, timeout: Duration) {
        todo!()
    }

    /// Gives a disconnected open to the same client's new connection. [`VfsError::OpenLost`] if it is gone.
    pub fn reconnect(
        &self,
        caller: Caller,
        listener: Arc<dyn CacheListener>,
    ) -> Result<(), VfsError> {
        todo!()
    }

    /// Closes: makes written data durable, gives back every lock and caching right, deletes if so marked. Idempotent.
    /// The attributes are those after the close (`None` if the node was deleted).
    pub async fn close(&self) -> Result<Option<Attributes>, VfsError> {
        todo!()
    }
}
