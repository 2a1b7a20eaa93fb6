//! The end of an open: bytes durable first, then every lock given back, then what the last close has to delete.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_repo::Attributes;

use crate::carry::carry_through;
use crate::error::VfsError;
use crate::lock_bridge::denied;
use crate::open::{Open, OpenState};
use crate::request::AccessMask;

impl Open {
    /// Closes: makes written data durable, gives back every lock and caching right, deletes if so marked. Idempotent.
    /// The attributes are those after the close (`None` if the node was deleted).
    pub async fn close(&self) -> Result<Option<Attributes>, VfsError> {
        let state = self.state.clone();
        // A caller that goes away must not leave half a close behind.
        let work = async move { state.close().await };
        carry_through(&self.state.inner.runtime, work).await
    }

    /// The node stops, and the client will take this open again elsewhere: dropping it does not close it. It ends with the node, right
    /// when the others begin to keep the document for that client, so that nobody comes in between.
    pub fn end_with_node(&self) {
        self.state.ends_with_node.store(true, Ordering::Release);
    }

    /// Marks the node (or this stream) for deletion at its last close, or takes the mark back. Needs DELETE.
    pub async fn set_delete_pending(&self, delete: bool) -> Result<(), VfsError> {
        let state = &self.state;
        state.needs(AccessMask::DELETE)?;
        if delete {
            state.may_delete().await?;
            state
                .inner
                .locks
                .break_caches_before_move(state.lock.resource, &state.actor, Some(state.lock))
                .await
                .map_err(|denial| denied(denial, crate::ConflictKind::Sharing))?;
        }
        state
            .inner
            .locks
            .set_delete_pending(state.lock, delete)
            .await
            .map_err(|denial| denied(denial, crate::ConflictKind::Sharing))?;
        if delete && self.is_directory() {
            state.inner.notify_dir_gone(state.content.node);
        }
        Ok(())
    }
}

impl OpenState {
    /// Whether deletion could be carried out at all: not the root, not read-only, not a folder with entries.
    pub(super) async fn may_delete(&self) -> Result<(), VfsError> {
        if self.content.stream != 0 {
            return Ok(());
        }
        let node = self.inner.repo.get(self.content.node).await?;
        if node.id == self.tree.root() {
            return Err(VfsError::AccessDenied);
        }
        if node.dos.has(sluice_repo::DosAttributes::READONLY) {
            return Err(VfsError::CannotDelete);
        }
        if node.kind == sluice_repo::NodeKind::Directory {
            let page = self
                .inner
                .repo
                .read_dir(node.id, sluice_repo::Cookie(0), 1)
                .await?;
            if !page.entries.is_empty() {
                return Err(VfsError::NotEmpty);
            }
        }
        Ok(())
    }

    pub(super) async fn close(self: &Arc<Self>) -> Result<Option<Attributes>, VfsError> {
        self.closing
            .get_or_init(|| async { self.close_once().await })
            .await
            .clone()
    }

    async fn close_once(&self) -> Result<Option<Attributes>, VfsError> {
        let delete =
            self.delete_on_close.load(Ordering::Acquire) && self.may_delete().await.is_ok();
        let flushed = match &self.working {
            Some(working) if self.wrote.load(Ordering::Acquire) && !self.doomed().await => {
                self.inner.flush(working).await
            }
            _ => Ok(()),
        };
        let flushed = match flushed {
            Ok(()) if !delete => self.settle_creation().await,
            other => other,
        };
        if delete {
            // Whoever only keeps a cached handle closes it, so that the name is free. Others keep the document until they close.
            let _ = self
                .inner
                .locks
                .break_caches_before_move(self.lock.resource, &self.actor, Some(self.lock))
                .await;
        }
        // A failed flush does not keep the lock: the bytes stay in the working content and are tried again.
        let closed = if delete {
            if self.kind == sluice_repo::NodeKind::Directory {
                self.inner.notify_dir_gone(self.content.node);
            }
            self.inner.locks.close_deleting(self.lock).await
        } else {
            self.inner.locks.close(self.lock).await
        };
        self.pin.lock().take();
        self.inner.opens.remove(self.id);
        if delete && self.kind == sluice_repo::NodeKind::Directory {
            // Others may hold it open still: who watches it is told that it goes.
            self.inner.notify_dir_gone(self.content.node);
        }
        let gone = self.inner.finish_close(self.lock.resource, closed).await;
        flushed?;
        if gone {
            return Ok(None);
        }
        match self.tree.node_attributes(self.content).await {
            Ok(attributes) => Ok(Some(attributes)),
            Err(VfsError::Stale | VfsError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the creation of the node durable, whoever has made it.
    pub(super) async fn settle_creation(&self) -> Result<(), VfsError> {
        Ok(self
            .inner
            .repo
            .settle_seen(self.seen.load(Ordering::Acquire))
            .await?)
    }

    /// Whether this is the last open of a document marked for deletion: then nothing needs to be committed.
    async fn doomed(&self) -> bool {
        let marked = self
            .inner
            .locks
            .state(self.lock)
            .await
            .is_some_and(|s| s.delete_pending);
        marked && self.inner.opens_of(self.content.node).await <= 1
    }
}
