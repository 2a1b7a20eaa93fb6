//! What a content is at this moment: loading it, comparing it with the repository when this node is not alone, reading it,
//! and showing its size and times. Changes nothing but what is remembered of the repository.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use sluice_repo::{
    Attributes, ContentId, Head, Manifest, NodeId, RepoError, Version, WorkingContent,
};

use super::{NO_TERM, Working};
use crate::error::VfsError;
use crate::lock_bridge::main;
use crate::open::ReadData;
use crate::vfs::Inner;

/// Times that a reader looks again because the document went from node to node under it.
const LOOKS_MAX: usize = 8;

impl Inner {
    /// The term since which this node alone acts on the document, if it does now.
    pub(crate) fn resident(&self, node: NodeId) -> Option<u64> {
        if self.is_frozen() {
            return None;
        }
        self.locks.residence(node.0)
    }

    /// The shared working content, loaded from the repository if nobody has it.
    pub(crate) async fn load(&self, id: ContentId) -> Result<Arc<Working>, VfsError> {
        let working = self.working.slot(id)?;
        working
            .content
            .get_or_try_init(|| async {
                let before = self.resident(id.node);
                let head: Head = self.repo.head(id).await?;
                let content = self.store.working(head.manifest.clone());
                let mut state = working.state.lock();
                state.base = head.version;
                state.manifest = head.manifest;
                if let Some(term) = before.filter(|_| self.resident(id.node) == before) {
                    working.term.store(term, Ordering::Release);
                }
                Ok::<_, RepoError>(content)
            })
            .await?;
        if working.doubtful.load(Ordering::Acquire) {
            let _turn = working.turn.lock().await;
            self.settle_doubt(&working).await?;
        }
        Ok(working)
    }

    /// With the turn held: takes over what the repository has if a replacement was carried out unheard.
    pub(super) async fn settle_doubt(&self, working: &Working) -> Result<(), VfsError> {
        if working.doubtful.load(Ordering::Acquire) {
            self.take_head(working).await?;
            working.doubtful.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// With the turn held: puts the changes that are not committed on top of what is committed now.
    pub(super) async fn take_head(&self, working: &Working) -> Result<(), VfsError> {
        let head = self.repo.head(working.id).await?;
        working.adopt(head);
        Ok(())
    }

    /// Begins the term in which this node is alone on the document: from now on what is in memory is the truth.
    pub(super) async fn begin_term(&self, working: &Working) -> Result<(), VfsError> {
        let _door = working.door.write().await;
        let _turn = working.turn.lock().await;
        let Some(term) = self.resident(working.id.node) else {
            return Ok(());
        };
        if working.term() == Some(term) {
            return Ok(());
        }
        if !working.is_dead() {
            self.settle_unsure(working).await?;
            self.take_head(working).await?;
        }
        if self.resident(working.id.node) == Some(term) {
            working.term.store(term, Ordering::Release);
        }
        Ok(())
    }

    /// The bytes as they are now: what is in memory if this node is alone, what is committed otherwise.
    pub(crate) async fn present(
        self: &Arc<Self>,
        working: &Arc<Working>,
    ) -> Result<Arc<dyn WorkingContent>, VfsError> {
        for _ in 0..LOOKS_MAX {
            if working.is_dead() {
                break;
            }
            match self.resident(working.id.node) {
                Some(term) if working.term() == Some(term) => break,
                Some(_) => self.begin_term(working).await?,
                None => return self.shown(working).await,
            }
        }
        Ok(working.content()?.clone())
    }

    /// The committed bytes of a shared document. Never waits for a transaction that is under way.
    async fn shown(
        self: &Arc<Self>,
        working: &Arc<Working>,
    ) -> Result<Arc<dyn WorkingContent>, VfsError> {
        self.thawed().await?;
        let content = working.content()?;
        if content.is_dirty() {
            // Left over from a term whose end they could not be committed at: this node answered for them.
            let _turn = working.turn.lock().await;
            self.commit_working(working).await?;
        }
        let head = self.repo.head(working.id).await?;
        if working.state.lock().base >= head.version {
            return Ok(content.clone());
        }
        if let Ok(_turn) = working.turn.try_lock() {
            working.adopt(head);
            return Ok(content.clone());
        }
        Ok(self.store.working(head.manifest))
    }

    /// Length in bytes as it is now.
    pub(crate) async fn length(self: &Arc<Self>, working: &Arc<Working>) -> Result<u64, VfsError> {
        Ok(self.present(working).await?.len())
    }

    /// Reads, and says whether the end was touched.
    pub(crate) async fn read_working(
        self: &Arc<Self>,
        working: &Arc<Working>,
        offset: u64,
        length: u32,
    ) -> Result<ReadData, VfsError> {
        let node = working.id.node;
        for _ in 0..LOOKS_MAX {
            if let Some(term) = working.term() {
                let data = read_content(working.content()?.as_ref(), offset, length).await?;
                // Looked at afterwards: whatever happened since the call began, these bytes were the truth within it.
                if self.resident(node) == Some(term) || working.is_dead() {
                    return Ok(data);
                }
            }
            if self.resident(node).is_none() && !working.is_dead() {
                let content = self.shown(working).await?;
                return read_content(content.as_ref(), offset, length).await;
            }
            self.begin_term(working).await?;
        }
        Err(VfsError::Unavailable(
            "the document goes from node to node too often".to_owned(),
        ))
    }

    /// Version and place of the content with nothing uncommitted left.
    pub(crate) async fn committed(
        self: &Arc<Self>,
        working: &Arc<Working>,
    ) -> Result<(Version, Arc<Manifest>), VfsError> {
        self.present(working).await?;
        self.flush(working).await?;
        if self.resident(working.id.node).is_some() || working.is_dead() {
            return Ok(working.base());
        }
        let head = self.repo.head(working.id).await?;
        Ok((head.version, head.manifest))
    }

    /// Puts what is not committed yet into attributes that the repository gave.
    pub(crate) fn overlay(&self, attributes: &mut Attributes) {
        if attributes.kind != sluice_repo::NodeKind::File {
            return;
        }
        let Some(working) = self.working.peek(main(attributes.id)) else {
            return;
        };
        let Some(content) = working.content.get() else {
            return;
        };
        let state = working.state.lock();
        if attributes.version > state.base && !content.is_dirty() {
            // Committed elsewhere since this node looked.
            return;
        }
        let len = content.len();
        if attributes.size != len {
            attributes.size = len;
            attributes.allocated = len.next_multiple_of(4096);
        }
        if let Some(modified) = state.modified {
            attributes.modified = modified;
            attributes.changed = attributes.changed.max(state.changed.unwrap_or(modified));
        } else if attributes.version < state.base
            && let Some((modified, changed)) = state.committed
        {
            attributes.modified = modified;
            attributes.changed = attributes.changed.max(changed);
            attributes.version = state.base;
        }
    }
}

impl Working {
    /// With the turn held: what is committed now becomes the base; changes that are not committed go on top of it.
    pub(super) fn adopt(&self, head: Head) {
        let mut state = self.state.lock();
        if head.version == state.base {
            return;
        }
        state.base = head.version;
        state.manifest = head.manifest.clone();
        state.committed = None;
        if let Some(content) = self.content.get() {
            content.rebase(head.manifest);
        }
    }

    /// What is in memory is not the truth any more.
    pub(super) fn end_term(&self) {
        self.term.store(NO_TERM, Ordering::Release);
    }
}

/// Reads from a content and says whether the end was touched.
pub(crate) async fn read_content(
    content: &dyn WorkingContent,
    offset: u64,
    length: u32,
) -> Result<ReadData, VfsError> {
    let parts = content.read(offset, length).await?;
    let len = parts.iter().map(Bytes::len).sum::<usize>();
    let end = offset.saturating_add(len as u64);
    Ok(ReadData {
        parts: parts.into(),
        len,
        eof: len < length as usize || end >= content.len(),
    })
}
