//! Whole-document transfers (FTP): an upload that is visible only once committed, a download of one moment's content.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_repo::{Attributes, Timestamp};

use crate::error::VfsError;
use crate::open::ReadData;

/// What an upload does to a document that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadMode {
    /// Replaces its content (STOR).
    Replace,
    /// Adds to its end (APPE).
    Append,
    /// Keeps the first bytes and goes on from there (REST, then STOR); refused if the document is shorter.
    ResumeAt(u64),
}

/// What a commit made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadReceipt {
    /// The document after the commit.
    pub attributes: Attributes,
    /// Path from the share's root under which the content went: another than asked if the policy said `fork`.
    pub path: String,
    /// Whether it is a conflicted copy.
    pub forked: bool,
}

/// A transfer into a document: an open for write that denies other writers until it commits or aborts. Dropping it aborts: the old content stays.
pub struct Upload {
    inner: Arc<crate::vfs::Inner>,
}

impl Upload {
    /// Adds bytes at the end of what came so far. Waits while too much is in flight to the store (backpressure).
    pub async fn write(&mut self, data: Bytes) -> Result<(), VfsError> {
        todo!()
    }

    /// Bytes taken so far, resumed or appended-to content not counted.
    pub fn len(&self) -> u64 {
        todo!()
    }

    /// Whether nothing came yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the whole durable and visible in one step.
    pub async fn commit(self, modified: Option<Timestamp>) -> Result<UploadReceipt, VfsError> {
        todo!()
    }

    /// Gives up: nothing changes, nobody has seen anything.
    pub async fn abort(self) {
        todo!()
    }
}

/// A transfer out of a document: an open for read that denies nobody, fixed on the content of one moment.
pub struct Download {
    inner: Arc<crate::vfs::Inner>,
}

impl Download {
    /// The document's attributes at that moment.
    pub fn attributes(&self) -> &Attributes {
        todo!()
    }

    /// Reads up to `length` bytes at `offset`.
    pub async fn read(&self, offset: u64, length: u32) -> Result<ReadData, VfsError> {
        todo!()
    }

    /// Ends the open.
    pub async fn close(self) {
        todo!()
    }
}

/// How long an upload waits for other writers when no rule says otherwise.
pub const UPLOAD_WAIT_DEFAULT: Duration = Duration::from_secs(30);
