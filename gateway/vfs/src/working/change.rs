//! Changes of the bytes: in memory while this node is alone on the document, as a transaction otherwise.

use std::sync::Arc;

use bytes::Bytes;
use sluice_repo::WorkingContent;

use super::{Working, Writer};
use crate::coherent::Pin;
use crate::error::VfsError;
use crate::quota::Charge;
use crate::vfs::Inner;

/// Times that a change looks again where it belongs, because the document went from node to node.
const LOOKS_MAX: usize = 8;

/// One change of a content. Made again as it is if another node's change came in between.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Bytes at an offset.
    Write(u64, Bytes),
    /// Bytes at the end, wherever that is then.
    Append(Bytes),
    /// Another length.
    SetLen(u64),
    /// Zeros, within the length.
    Punch(u64, u64),
}

/// What a change did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    /// Where bytes went.
    pub(crate) offset: u64,
    /// Whether the length is another one.
    pub(crate) resized: bool,
    /// Whether there was anything to do.
    pub(crate) any: bool,
    /// Committed as a transaction, because other nodes act on the document.
    pub(crate) shared: bool,
}

impl Change {
    /// Whether it would do nothing to a content as it is.
    fn is_idle(&self, content: &dyn WorkingContent) -> bool {
        match self {
            Change::Write(_, data) | Change::Append(data) => data.is_empty(),
            Change::SetLen(len) => content.len() == *len,
            Change::Punch(offset, len) => *len == 0 || *offset >= content.len(),
        }
    }

    /// Makes it. `note` is called before, if there is something to do: bytes that arrive although the call reports a failure are
    /// committed like others.
    pub(super) async fn apply(
        &self,
        content: &dyn WorkingContent,
        note: impl FnOnce(),
    ) -> Result<Changed, VfsError> {
        let before = content.len();
        let mut changed = Changed {
            offset: before,
            resized: false,
            any: false,
            shared: false,
        };
        if self.is_idle(content) {
            return Ok(changed);
        }
        note();
        changed.any = true;
        match self {
            Change::Write(offset, data) => {
                content.write(*offset, data.clone()).await?;
                changed.offset = *offset;
                changed.resized = offset.saturating_add(data.len() as u64) > before;
            }
            Change::Append(data) => {
                changed.offset = content.append(data.clone()).await?;
                changed.resized = true;
            }
            Change::SetLen(len) => {
                content.set_len(*len).await?;
                changed.resized = true;
            }
            Change::Punch(offset, len) => content.punch(*offset, *len).await?,
        }
        Ok(changed)
    }
}

impl Inner {
    /// What other nodes must know before something of the content is in memory only.
    async fn pinned(&self, working: &Working) -> Result<Option<Pin>, VfsError> {
        let pin = working.state.lock().pin.clone();
        match pin {
            Some(pin) => Ok(Some(pin)),
            None => Ok(self.pin(working.id.node).await?),
        }
    }

    /// Reserves room for what a change adds, if the share has a quota.
    async fn charge(
        self: &Arc<Self>,
        working: &Arc<Working>,
        writer: &Writer,
        change: &Change,
    ) -> Result<(), VfsError> {
        let Some(account) = &writer.account else {
            return Ok(());
        };
        let len = self.length(working).await?;
        let end = match change {
            Change::Write(_, data) if data.is_empty() => return Ok(()),
            Change::Write(offset, data) => offset.saturating_add(data.len() as u64),
            Change::Append(data) => len.saturating_add(data.len() as u64),
            Change::SetLen(len) => *len,
            Change::Punch(..) => return Ok(()),
        };
        let paid = |working: &Working| working.state.lock().charge.as_ref().map(|c| c.upto);
        let from = len.max(paid(working).unwrap_or(0));
        if end <= from {
            return Ok(());
        }
        let more = account.take(self, end - from).await?;
        let mut state = working.state.lock();
        match &mut state.charge {
            Some(charge) => charge.extend(more, end),
            None => state.charge = Some(Charge::new(more, end)),
        }
        Ok(())
    }

    /// Changes the bytes. Whoever calls has passed the lock table. `move_times`: the content time moves with it.
    pub(crate) async fn change(
        self: &Arc<Self>,
        working: &Arc<Working>,
        writer: &Writer,
        move_times: bool,
        change: Change,
    ) -> Result<Changed, VfsError> {
        let node = working.id.node;
        self.charge(working, writer, &change).await?;
        for _ in 0..LOOKS_MAX {
            {
                let _inside = working.door.read().await;
                let alone = working
                    .term()
                    .filter(|term| self.resident(node) == Some(*term));
                if alone.is_some() || working.is_dead() {
                    let pin = self.pinned(working).await?;
                    let note = || self.note_write(working, writer, move_times);
                    let changed = change.apply(working.content()?.as_ref(), note).await;
                    if working.is_dirty() {
                        // Again, if what was there before was committed meanwhile; after a failure too.
                        working.state.lock().pin = pin;
                    }
                    let changed = changed?;
                    working.right()?;
                    if self.resident(node) == alone || working.is_dead() {
                        return Ok(changed);
                    }
                    drop(_inside);
                    // Given up meanwhile, or the node may not act: nothing is promised that is not committed.
                    self.flush(working).await?;
                    return Ok(changed);
                }
            }
            if self.resident(node).is_none() {
                let cuts = matches!(change, Change::SetLen(_));
                let changed = self
                    .change_shared(working, writer, move_times, change)
                    .await?;
                if let Some(charge) = working.state.lock().charge.take() {
                    charge.book();
                }
                if cuts {
                    self.working.note_shrunk();
                }
                return Ok(changed);
            }
            self.begin_term(working).await?;
        }
        Err(VfsError::Unavailable(
            "the document goes from node to node too often".to_owned(),
        ))
    }
}
