//! Attributes, security, extended attributes and streams through an open.

use std::sync::atomic::Ordering;

use sluice_lockmgr as lm;
use sluice_repo::{Acl, AttributeChange, Attributes, ExtendedAttribute, StreamInfo};

use crate::error::VfsError;
use crate::lock_bridge::main;
use crate::open::{Open, filter};
use crate::request::AccessMask;

impl Open {
    /// Current attributes; size and times include writes that are not committed yet. For a named stream, `size` and
    /// `allocated` are the stream's.
    pub async fn attributes(&self) -> Result<Attributes, VfsError> {
        self.state.alive()?;
        self.state.tree.node_attributes(self.content()).await
    }

    /// Changes attributes of the node. Needs WRITE_ATTRIBUTES for times and DOS attributes; breaks others' caches first.
    /// Times set here stick for this open: its later writes don't move `modified` (as Windows does).
    pub async fn set_attributes(&self, change: AttributeChange) -> Result<(), VfsError> {
        let state = &self.state;
        state.needs(AccessMask::WRITE_ATTRIBUTES)?;
        state.pass(lm::IoKind::Attributes).await?;
        let modified = change.modified;
        if modified.is_some() {
            // What was written before keeps its place in time: committed under its own, then the new one is set.
            if let Some(working) = &state.working {
                state.inner.flush(working).await?;
            }
        }
        let node = state.inner.repo.get(self.content().node).await?;
        state.inner.apply_change(&node, change, None).await?;
        if let Some(modified) = modified {
            state.keeps_times.store(true, Ordering::Release);
            if let Some(working) = state.inner.working.peek(main(node.id)) {
                working.set_modified(modified);
            }
        }
        state
            .inner
            .notify_content(main(node.id), None, filter::ATTRIBUTES);
        Ok(())
    }

    /// Stops this open's own operations from moving times (MS-FSCC 2.4.7: -1 freezes, -2 thaws). Order: accessed, modified, changed.
    pub fn freeze_times(
        &self,
        _accessed: Option<bool>,
        modified: Option<bool>,
        _changed: Option<bool>,
    ) {
        // Access times are not moved by reads, and the change time belongs to the repository: only the content time can freeze.
        if let Some(frozen) = modified {
            self.state.keeps_times.store(frozen, Ordering::Release);
        }
    }

    /// The security descriptor. Needs READ_CONTROL.
    pub async fn acl(&self) -> Result<Acl, VfsError> {
        self.state.needs(AccessMask::READ_CONTROL)?;
        let node = self.state.inner.repo.get(self.content().node).await?;
        self.state.inner.shown_acl(&node).await
    }

    /// Replaces parts of the security descriptor: which ones is said by what is `Some` (owner, group, dacl) in `acl`;
    /// `null_dacl` says that a `None` DACL is meant to be stored. Needs WRITE_OWNER or WRITE_DAC.
    pub async fn set_acl(&self, acl: Acl, null_dacl: bool) -> Result<(), VfsError> {
        let state = &self.state;
        if acl.owner.is_some() || acl.group.is_some() {
            state.needs(AccessMask::WRITE_OWNER)?;
        }
        if acl.dacl.is_some() || null_dacl {
            state.needs(AccessMask::WRITE_DAC)?;
        }
        if acl.sacl.is_some() {
            state.needs(AccessMask::ACCESS_SYSTEM_SECURITY)?;
        }
        state.pass(lm::IoKind::Attributes).await?;
        let node = state.inner.repo.get(self.content().node).await?;
        let who = self.caller().identity.clone();
        state.inner.store_acl(&who, &node, acl, null_dacl).await?;
        state
            .inner
            .notify_content(main(node.id), None, filter::SECURITY);
        Ok(())
    }

    /// Extended attributes. Needs READ_EA.
    pub async fn eas(&self) -> Result<Vec<ExtendedAttribute>, VfsError> {
        self.state.needs(AccessMask::READ_EA)?;
        Ok(self.state.inner.repo.eas(self.content().node).await?)
    }

    /// Sets extended attributes; an empty value removes one. Needs WRITE_EA.
    pub async fn set_eas(&self, eas: Vec<ExtendedAttribute>) -> Result<(), VfsError> {
        let state = &self.state;
        state.needs(AccessMask::WRITE_EA)?;
        state.pass(lm::IoKind::Attributes).await?;
        let node = self.content().node;
        state.inner.repo.set_eas(node, eas).await?;
        state.inner.notify_content(main(node), None, filter::EA);
        Ok(())
    }

    /// Named streams of the node (without the main content).
    pub async fn streams(&self) -> Result<Vec<StreamInfo>, VfsError> {
        self.state.alive()?;
        let node = self.content().node;
        let mut streams = self.state.inner.repo.streams(node).await?;
        for stream in &mut streams {
            let id = sluice_repo::ContentId {
                node,
                stream: stream.stream,
            };
            if let Some(working) = self.state.inner.working.peek(id) {
                stream.size = self.state.inner.length(&working).await?;
                stream.allocated = stream.size.next_multiple_of(4096);
            }
        }
        Ok(streams)
    }
}
