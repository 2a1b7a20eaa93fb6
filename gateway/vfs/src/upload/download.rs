//! A transfer out of a document.

use std::sync::Arc;

use bytes::Bytes;
use sluice_lockmgr as lm;
use sluice_repo::{Attributes, NodeKind, WorkingContent};

use crate::error::VfsError;
use crate::lock_bridge::{Held, main, on_conflict, resource};
use crate::open::ReadData;
use crate::path::RelPath;
use crate::request::AccessMask;
use crate::tree::Tree;

const RACES_MAX: usize = 16;

/// A transfer out of a document: an open for read that denies nobody, fixed on the content of one moment.
pub struct Download {
    tree: Tree,
    held: Held,
    attributes: Attributes,
    /// Keeps the objects of that moment from being collected.
    snapshot: Arc<dyn WorkingContent>,
}

impl Tree {
    /// Opens a document for one transfer out (FTP RETR): the bytes are those of one moment, whatever is written meanwhile.
    pub async fn download(&self, path: &RelPath) -> Result<Download, VfsError> {
        for _ in 0..RACES_MAX {
            let spot = self.spot_following(path).await?;
            let node = spot.node.clone().ok_or(VfsError::NotFound)?;
            match node.kind {
                NodeKind::File => {}
                NodeKind::Directory => return Err(VfsError::IsDirectory),
                _ => return Err(VfsError::Invalid("not a document")),
            }
            self.require(&node, AccessMask::READ_DATA).await?;
            let policy = self.policy_at(&spot, Some(node.id)).await?;
            let rule = policy.rule.as_deref();
            let actor = self.inner().actor(self.caller(), &spot.name, rule);
            let content = main(node.id);
            let mut request = lm::OpenRequest::new(resource(content), actor, lm::Access::READ);
            request.touches_ranges = true;
            request.on_conflict = on_conflict(&policy, self.polls());
            let held = self.inner().hold(request).await?;
            if self.still_there(&spot, &node).await?.is_none() {
                held.release().await;
                continue;
            }
            let working = self.inner().load(content).await?;
            let (_, manifest) = self.inner().committed(&working).await?;
            let mut attributes = self.node_attributes(content).await?;
            attributes.size = manifest.size;
            let protocol = self.caller().client.protocol;
            self.inner().metrics.opens.add(protocol, 1);
            return Ok(Download {
                snapshot: self.inner().store.working(manifest),
                tree: self.clone(),
                held,
                attributes,
            });
        }
        Err(VfsError::NotFound)
    }
}

impl Download {
    /// The document's attributes at that moment.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Reads up to `length` bytes at `offset`.
    pub async fn read(&self, offset: u64, length: u32) -> Result<ReadData, VfsError> {
        let parts = self.snapshot.read(offset, length).await?;
        let len = parts.iter().map(Bytes::len).sum::<usize>();
        let protocol = self.tree.caller().client.protocol;
        let metrics = &self.tree.inner().metrics;
        metrics.reads.add(protocol, 1);
        metrics.bytes_read.add(protocol, len as u64);
        Ok(ReadData {
            parts: parts.into(),
            len,
            eof: len < length as usize || offset.saturating_add(len as u64) >= self.attributes.size,
        })
    }

    /// Ends the open.
    pub async fn close(self) {
        self.held.release().await;
    }
}
