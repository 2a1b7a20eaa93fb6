//! LOCK (MS-SMB2 3.3.5.14): arrays, blocking locks, replay by lock sequence.

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::flush::encode_response;
use sluice_smb_wire::cmd::lock::{
    EXCLUSIVE, FAIL_IMMEDIATELY, LockElement, LockRequest, SHARED, UNLOCK,
};
use sluice_smb_wire::cmd::negotiate::Dialect;
use sluice_vfs::{ConflictKind, RangeLock, VfsError};

use super::{Answer, OpContext, OpReply, disk_of};
use crate::open::{DiskOpen, SmbOpen};
use crate::status::status_of;

/// Handles LOCK.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = LockRequest::decode(&ctx.message)?;
    let open = ctx.open(request.file_id)?;
    let disk = disk_of(&open)?;
    let slot = sequence_slot(ctx, disk, request.sequence);
    if let Some((index, number)) = slot {
        let mut seen = disk.lock_sequence.lock();
        if seen[index] == number {
            return Ok(OpReply::ok(encode_response()).file(open.id));
        }
        seen[index] = 0;
    }
    if disk.is_folder() {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    if request.locks[0].flags & UNLOCK != 0 {
        unlock_all(disk, &request.locks).await?;
    } else {
        lock_all(ctx, &open, disk, &request.locks).await?;
    }
    if let Some((index, number)) = slot {
        disk.lock_sequence.lock()[index] = number;
    }
    Ok(OpReply::ok(encode_response()).file(open.id))
}

/// Where the result of this request is remembered: bucket and number plus one. Only opens that may be
/// replayed keep it (durable ones, and all of 3.x since sessions may have several channels).
fn sequence_slot(ctx: &OpContext, disk: &DiskOpen, sequence: u32) -> Option<(usize, u8)> {
    let replayable = ctx.conn.dialect() >= Dialect::Smb300 || disk.durable.lock().is_some();
    if !replayable || ctx.conn.dialect() == Dialect::Smb202 {
        return None;
    }
    let index = (sequence >> 4) as usize;
    let number = (sequence & 0xF) as u8 + 1;
    (1..=64).contains(&index).then_some((index, number))
}

/// Unlocks in order; what was unlocked before a failure stays unlocked.
async fn unlock_all(disk: &DiskOpen, locks: &[LockElement]) -> Result<(), OpReply> {
    for lock in locks {
        if lock.flags != UNLOCK {
            return Err(NtStatus::INVALID_PARAMETER.into());
        }
        if lock.offset.checked_add(lock.length).is_none() && lock.length > 0 && !ends_at_top(lock) {
            return Err(NtStatus::INVALID_LOCK_RANGE.into());
        }
        disk.open.unlock(lock.offset, lock.length).await?;
    }
    Ok(())
}

/// A range may end at 2^64 exactly.
fn ends_at_top(lock: &LockElement) -> bool {
    lock.length > 0 && lock.offset.checked_add(lock.length - 1).is_some()
}

async fn lock_all(
    ctx: &OpContext,
    open: &SmbOpen,
    disk: &DiskOpen,
    locks: &[LockElement],
) -> Result<(), OpReply> {
    let ranges = ranges(locks)?;
    match disk.open.lock(&ranges, false).await {
        Ok(()) => return Ok(()),
        Err(error) if may_wait(&error, locks) => {}
        Err(error) => return Err(error.into()),
    }
    ctx.pending();
    let wait = disk.open.lock(&ranges, true);
    ctx.interruptible(&open.closed, NtStatus::RANGE_NOT_LOCKED, wait)
        .await
        .map_err(OpReply::from)
}

/// One range that another holds, and a client that asked to wait for it.
fn may_wait(error: &VfsError, locks: &[LockElement]) -> bool {
    let held = matches!(error, VfsError::Conflict(c) if c.kind == ConflictKind::RangeLock);
    held && locks.len() == 1
        && locks[0].flags & FAIL_IMMEDIATELY == 0
        && status_of(error) == NtStatus::LOCK_NOT_GRANTED
}

/// Validates flags: lock elements only; several at once must not block (3.3.5.14.2).
fn ranges(locks: &[LockElement]) -> Result<Vec<RangeLock>, NtStatus> {
    let several = locks.len() > 1;
    let mut out = Vec::with_capacity(locks.len());
    for lock in locks {
        let exclusive = match lock.flags & !FAIL_IMMEDIATELY {
            SHARED => false,
            EXCLUSIVE => true,
            _ => return Err(NtStatus::INVALID_PARAMETER),
        };
        if several && lock.flags & FAIL_IMMEDIATELY == 0 {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        if lock.length > 0 && !ends_at_top(lock) {
            return Err(NtStatus::INVALID_LOCK_RANGE);
        }
        out.push(RangeLock {
            offset: lock.offset,
            length: lock.length,
            exclusive,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(flags: u32, offset: u64, length: u64) -> LockElement {
        LockElement {
            offset,
            length,
            flags,
        }
    }

    #[test]
    fn flags_must_name_one_kind_of_lock() {
        assert!(ranges(&[element(SHARED | EXCLUSIVE, 0, 1)]).is_err());
        assert!(ranges(&[element(0, 0, 1)]).is_err());
        assert!(ranges(&[element(EXCLUSIVE | FAIL_IMMEDIATELY, 0, 1)]).is_ok());
    }

    #[test]
    fn several_ranges_may_not_block() {
        let two = [element(EXCLUSIVE, 0, 1), element(EXCLUSIVE, 5, 1)];
        assert_eq!(ranges(&two), Err(NtStatus::INVALID_PARAMETER));
    }

    #[test]
    fn a_range_may_end_at_the_top_but_not_wrap() {
        assert!(ranges(&[element(SHARED, u64::MAX, 1)]).is_ok());
        assert_eq!(
            ranges(&[element(SHARED, u64::MAX, 2)]),
            Err(NtStatus::INVALID_LOCK_RANGE)
        );
        assert!(ranges(&[element(SHARED, u64::MAX, 0)]).is_ok());
    }
}
