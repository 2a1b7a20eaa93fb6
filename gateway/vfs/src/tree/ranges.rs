//! Byte ranges of NFS owners (NLM, NFSv4): POSIX rules, in the same table as everybody's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sluice_lockmgr as lm;
use sluice_repo::NodeId;

use crate::error::{Conflict, ConflictKind, HolderInfo, VfsError};
use crate::lock_bridge::{RETRY_AFTER, denied, holder_info};
use crate::lock_notes::LockNote;
use crate::request::AccessMask;
use crate::tree::{NfsLock, NfsLockAnswer, NfsLockHow, Tree};
use crate::vfs::Inner;

const OWNER_BYTES_MAX: usize = 1024;
/// Owners whose bytes are remembered for answers to tests.
const OWNERS_MAX: usize = 65_536;

/// Owner bytes by the number that the lock table knows them by.
#[derive(Default)]
pub(crate) struct RangeOwners(Mutex<HashMap<u128, Arc<[u8]>>>);

impl RangeOwners {
    fn number(&self, owner: &[u8]) -> Result<lm::RangeOwner, VfsError> {
        if owner.len() > OWNER_BYTES_MAX {
            return Err(VfsError::Invalid("the lock owner is too long"));
        }
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, owner);
        let mut bytes = [0u8; 16];
        for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Ok(lm::RangeOwner(u128::from_le_bytes(bytes)))
    }

    fn remember(&self, number: lm::RangeOwner, owner: &[u8]) {
        let mut known = self.0.lock();
        if known.len() >= OWNERS_MAX {
            // Only answers to tests lose the owner's name by this.
            known.clear();
        }
        known.entry(number.0).or_insert_with(|| Arc::from(owner));
    }

    fn bytes(&self, number: lm::RangeOwner) -> Vec<u8> {
        let known = self.0.lock();
        known.get(&number.0).map_or_else(Vec::new, |b| b.to_vec())
    }
}

impl Tree {
    /// Locks a range for an NFS owner, whose own overlapping locks are replaced, split and merged as POSIX does. The note is to be kept
    /// as long as the owner may have something locked on the document. [`VfsError::Delay`]: it is kept for those who take locks again
    /// that were lost with a node, and nobody who has done so stands in the way.
    pub async fn lock(
        &self,
        node: NodeId,
        lock: NfsLock,
        how: NfsLockHow,
    ) -> Result<LockNote, VfsError> {
        let attributes = self.document(node).await?;
        let policy = self.policy_of(node).await?;
        if lock.exclusive {
            self.require_write(&attributes, &policy).await?;
        } else if self.caller().identity.uid != attributes.uid {
            self.require(&attributes, AccessMask::READ_DATA).await?;
        }
        let mut request = self.owned_range(node, &lock)?;
        match how {
            NfsLockHow::AtOnce => {}
            NfsLockHow::Wait => request.on_conflict = lm::OnConflict::Wait(None),
            NfsLockHow::Reclaim => request.reclaim = true,
        }
        let protocol = self.caller().client.protocol;
        if !request.reclaim && self.inner().is_awaited(node) {
            let error = self.instead_of_kept(request).await;
            return Err(self.inner().refused(protocol, error));
        }
        let (notes, repo) = (&self.inner().lock_notes, &self.inner().repo);
        let note = notes.note(repo.as_ref(), node).await?;
        self.inner()
            .range_owners
            .remember(request.owner, &lock.owner);
        let error = match self.inner().locks.lock_owned(request.clone()).await {
            Ok(()) => return Ok(note),
            Err(lm::Denial::Conflict(conflict))
                if conflict.holder.is_kept() && !request.reclaim =>
            {
                self.instead_of_kept(request).await
            }
            Err(denial) => denied(denial, ConflictKind::RangeLock),
        };
        Err(self.inner().refused(protocol, error))
    }

    /// What a lock is told that what is kept is in the way of.
    async fn instead_of_kept(&self, request: lm::OwnedRangeRequest) -> VfsError {
        match self.taken_again(request).await {
            Some(held) => VfsError::Conflict(Box::new(Conflict {
                kind: ConflictKind::RangeLock,
                holder: range_holder(&held),
                retry_after: RETRY_AFTER,
            })),
            None => VfsError::Delay,
        }
    }

    /// What stands in a lock's way beside what is kept for those who take locks again.
    async fn taken_again(&self, request: lm::OwnedRangeRequest) -> Option<lm::RangeHolder> {
        let request = lm::OwnedRangeRequest {
            reclaim: true,
            ..request
        };
        self.inner().locks.test_owned(&request).await
    }

    /// Unlocks a range of an NFS owner; unlocking what is not locked is fine.
    pub async fn unlock(
        &self,
        node: NodeId,
        owner: &[u8],
        offset: u64,
        length: u64,
    ) -> Result<(), VfsError> {
        let number = self.inner().range_owners.number(owner)?;
        let range = lm::ByteRange::new(offset, length).ok_or(VfsError::RangeInvalid)?;
        self.inner()
            .locks
            .unlock_owned(
                lm::ResourceId::main(node.0),
                Inner::lock_client(self.caller()),
                number,
                range,
            )
            .await;
        self.inner().sweep_orphan(node).await;
        Ok(())
    }

    /// Whether a document is kept for NFS clients that may take again what they had on it: nobody reserves it anew.
    pub async fn is_kept(&self, node: NodeId) -> Result<bool, VfsError> {
        // What is kept is kept as a whole; others seldom have the last of all bytes.
        let last = NfsLock {
            owner: Vec::new(),
            offset: u64::MAX - 1,
            length: 1,
            exclusive: false,
        };
        let request = self.owned_range(node, &last)?;
        let held = self.inner().locks.test_owned(&request).await;
        Ok(held.is_some_and(|held| held.holder.is_kept()) || self.inner().is_awaited(node))
    }

    /// Whether a lock would be granted. [`VfsError::Delay`] as of [`Self::lock`]: nobody knows yet who will have it.
    pub async fn test_lock(&self, node: NodeId, lock: NfsLock) -> Result<NfsLockAnswer, VfsError> {
        self.document(node).await?;
        let request = self.owned_range(node, &lock)?;
        let mut held = self.inner().locks.test_owned(&request).await;
        let kept = held.as_ref().is_some_and(|held| held.holder.is_kept());
        if kept {
            held = self.taken_again(request).await;
        }
        let Some(held) = held else {
            return match kept || self.inner().is_awaited(node) {
                true => Err(VfsError::Delay),
                false => Ok(NfsLockAnswer::Free),
            };
        };
        Ok(NfsLockAnswer::Held {
            lock: NfsLock {
                owner: self.inner().range_owners.bytes(held.owner),
                offset: held.range.offset(),
                length: held.range.length(),
                exclusive: held.exclusive,
            },
            holder: Box::new(range_holder(&held)),
        })
    }

    fn owned_range(&self, node: NodeId, lock: &NfsLock) -> Result<lm::OwnedRangeRequest, VfsError> {
        let range = lm::ByteRange::new(lock.offset, lock.length).ok_or(VfsError::RangeInvalid)?;
        Ok(lm::OwnedRangeRequest {
            resource: lm::ResourceId::main(node.0),
            actor: self.inner().actor(self.caller(), "", None),
            owner: self.inner().range_owners.number(&lock.owner)?,
            lock: lm::RangeLock {
                range,
                exclusive: lock.exclusive,
            },
            on_conflict: lm::OnConflict::Reject,
            reclaim: false,
        })
    }
}

fn range_holder(held: &lm::RangeHolder) -> HolderInfo {
    holder_info(&held.holder, format!("lock on bytes {}", held.range))
}
