//! Byte ranges of NFS owners (NLM, NFSv4): POSIX rules, in the same table as everybody's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sluice_lockmgr as lm;
use sluice_repo::NodeId;

use crate::error::{ConflictKind, VfsError};
use crate::lock_bridge::{denied, holder_info};
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
    /// as long as the owner may have something locked on the document.
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
        let (notes, repo) = (&self.inner().lock_notes, &self.inner().repo);
        let note = notes.note(repo.as_ref(), node).await?;
        self.inner()
            .range_owners
            .remember(request.owner, &lock.owner);
        let answer = self.inner().locks.lock_owned(request).await;
        answer.map(|()| note).map_err(|denial| {
            let protocol = self.caller().client.protocol;
            self.inner()
                .refused(protocol, denied(denial, ConflictKind::RangeLock))
        })
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

    /// Whether a lock would be granted.
    pub async fn test_lock(&self, node: NodeId, lock: NfsLock) -> Result<NfsLockAnswer, VfsError> {
        self.document(node).await?;
        let request = self.owned_range(node, &lock)?;
        let Some(held) = self.inner().locks.test_owned(&request).await else {
            return Ok(NfsLockAnswer::Free);
        };
        let what = format!("lock on bytes {}", held.range);
        Ok(NfsLockAnswer::Held {
            lock: NfsLock {
                owner: self.inner().range_owners.bytes(held.owner),
                offset: held.range.offset(),
                length: held.range.length(),
                exclusive: held.exclusive,
            },
            holder: Box::new(holder_info(&held.holder, what)),
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
