//! Reading and writing through an open: access, byte ranges and caches of others, then the shared working content.
//! No database, no copy, no lock of the whole node.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use sluice_lockmgr as lm;
use sluice_repo::DOCUMENT_BYTES_MAX;

use crate::error::{ConflictKind, VfsError};
use crate::lock_bridge::denied;
use crate::open::filter;
use crate::open::{Open, OpenState, ReadData, Stability};
use crate::request::AccessMask;
use crate::working::{Change, Changed, Working};

const WRITES: u32 = AccessMask::WRITE_DATA | AccessMask::APPEND_DATA;
/// Server-side copies go in pieces of this size.
const COPY_BYTES: u32 = 1 << 20;

impl Open {
    /// Reads up to `length` bytes at `offset`. Needs READ_DATA or EXECUTE; meets mandatory ranges of others.
    pub async fn read(&self, offset: u64, length: u32) -> Result<ReadData, VfsError> {
        let state = &self.state;
        let working = state.bytes(AccessMask::READ_DATA | AccessMask::EXECUTE)?;
        let range = lm::ByteRange::clamped(offset, u64::from(length));
        state.pass(lm::IoKind::Read(range)).await?;
        let data = state.inner.read_working(working, offset, length).await?;
        let protocol = self.caller().client.protocol;
        state.inner.metrics.reads.add(protocol, 1);
        state
            .inner
            .metrics
            .bytes_read
            .add(protocol, data.len as u64);
        Ok(data)
    }

    /// Writes `data` at `offset`, extending the content if needed. Needs WRITE_DATA (or APPEND_DATA at or beyond the end).
    pub async fn write(
        &self,
        offset: u64,
        data: Bytes,
        stability: Stability,
    ) -> Result<(), VfsError> {
        let state = &self.state;
        let working = state.bytes(WRITES)?;
        if !self.access().has(AccessMask::WRITE_DATA)
            && offset < state.inner.length(working).await?
        {
            return Err(VfsError::AccessDenied);
        }
        let change = Change::Write(offset, data);
        state.write(working, offset, change, stability).await?;
        Ok(())
    }

    /// Appends atomically with regard to other appends; returns the offset at which the data went.
    pub async fn append(&self, data: Bytes, stability: Stability) -> Result<u64, VfsError> {
        let state = &self.state;
        let working = state.bytes(WRITES)?;
        let end = state.inner.length(working).await?;
        let change = Change::Append(data);
        let changed = state.write(working, end, change, stability).await?;
        Ok(changed.offset)
    }

    /// Sets the length: truncates or extends with zeros.
    pub async fn set_size(&self, size: u64) -> Result<(), VfsError> {
        let state = &self.state;
        let working = state.bytes(AccessMask::WRITE_DATA)?;
        if size > DOCUMENT_BYTES_MAX {
            return Err(VfsError::TooLarge);
        }
        let from = state.inner.length(working).await?.min(size);
        state
            .pass(lm::IoKind::SetSize(lm::ByteRange::to_end(from)))
            .await?;
        if state.change(working, Change::SetLen(size)).await?.any {
            state.told(filter::SIZE);
        }
        state.settle(working, Stability::Unstable).await
    }

    /// Reserves `allocation` bytes; below the length it truncates (MS-FSA 2.1.5.14.1).
    pub async fn set_allocation(&self, allocation: u64) -> Result<(), VfsError> {
        let state = &self.state;
        let working = state.bytes(AccessMask::WRITE_DATA)?;
        if allocation > DOCUMENT_BYTES_MAX {
            return Err(VfsError::NoSpace);
        }
        if allocation < state.inner.length(working).await? {
            return self.set_size(allocation).await;
        }
        // Nothing changes, but who caches must hear of it (MS-FSA 2.1.5.14.1).
        let tail = lm::ByteRange::to_end(allocation);
        state.pass(lm::IoKind::SetSize(tail)).await
    }

    /// Makes `[offset, offset + length)` zeros without changing the length (FSCTL_SET_ZERO_DATA).
    pub async fn zero_range(&self, offset: u64, length: u64) -> Result<(), VfsError> {
        let state = &self.state;
        let working = state.bytes(AccessMask::WRITE_DATA)?;
        let left = state.inner.length(working).await?.saturating_sub(offset);
        let length = length.min(left);
        if length == 0 {
            return Ok(());
        }
        state
            .pass(lm::IoKind::Write(lm::ByteRange::clamped(offset, length)))
            .await?;
        state.change(working, Change::Punch(offset, length)).await?;
        state.settle(working, Stability::Unstable).await
    }

    /// Ranges that hold data, within `[offset, offset + length)`.
    pub async fn allocated_ranges(
        &self,
        offset: u64,
        length: u64,
    ) -> Result<Vec<(u64, u64)>, VfsError> {
        let working = self.state.bytes(AccessMask::READ_DATA)?;
        let content = self.state.inner.present(working).await?;
        Ok(content.allocated_ranges(offset, length))
    }

    /// Makes all that was written so far durable: content and metadata.
    pub async fn flush(&self) -> Result<(), VfsError> {
        self.state.alive()?;
        if let Some(working) = &self.state.working {
            self.state.inner.flush(working).await?;
        }
        self.state.settle_creation().await
    }

    /// Copies `length` bytes from `source` at `source_offset` into this open at `offset` (server side). Returns bytes copied.
    pub async fn copy_from(
        &self,
        source: &Open,
        source_offset: u64,
        offset: u64,
        length: u64,
    ) -> Result<u64, VfsError> {
        let mut copied = 0;
        while copied < length {
            let piece = u32::try_from(length - copied).unwrap_or(u32::MAX);
            let data = source
                .read(source_offset.saturating_add(copied), piece.min(COPY_BYTES))
                .await?;
            if data.len == 0 {
                break;
            }
            for part in data.parts {
                let bytes = part.len() as u64;
                let at = offset.checked_add(copied).ok_or(VfsError::TooLarge)?;
                self.write(at, part, Stability::Unstable).await?;
                copied += bytes;
            }
        }
        Ok(copied)
    }

    /// Locks ranges, all or none. `wait`: queue behind conflicting locks (only with one element) until granted or the future is dropped.
    pub async fn lock(&self, locks: &[crate::open::RangeLock], wait: bool) -> Result<(), VfsError> {
        let state = &self.state;
        state.alive()?;
        let on_conflict = match (wait, locks.len()) {
            (false, _) => lm::OnConflict::Reject,
            (true, 1) => lm::OnConflict::Wait(None),
            (true, _) => return Err(VfsError::Invalid("only one range may be waited for")),
        };
        let mut ranges = Vec::with_capacity(locks.len());
        for lock in locks {
            ranges.push(lm::RangeLock {
                range: lm::ByteRange::new(lock.offset, lock.length)
                    .ok_or(VfsError::RangeInvalid)?,
                exclusive: lock.exclusive,
            });
        }
        let request = lm::RangeRequest {
            open: state.lock,
            locks: ranges,
            on_conflict,
        };
        let answer = state.inner.locks.lock(request).await;
        answer.map_err(|denial| state.refused(denial, ConflictKind::RangeLock))
    }

    /// Unlocks one range, which must be one that this open locked exactly so. [`VfsError::RangeNotLocked`] otherwise.
    pub async fn unlock(&self, offset: u64, length: u64) -> Result<(), VfsError> {
        self.state.alive()?;
        let range = lm::ByteRange::new(offset, length).ok_or(VfsError::RangeInvalid)?;
        let unlocked = self.state.inner.locks.unlock(self.state.lock, range).await;
        unlocked.map_err(|_| VfsError::RangeNotLocked)
    }
}

impl OpenState {
    /// Passes the lock table: ranges refuse, caches of others are waited for.
    pub(super) async fn pass(&self, kind: lm::IoKind) -> Result<(), VfsError> {
        let answer = match self.inner.locks.try_io(self.lock, kind) {
            Some(answer) => answer,
            None => self.inner.locks.io(self.lock, kind).await,
        };
        answer.map_err(|denial| self.refused(denial, ConflictKind::RangeIo))
    }

    pub(super) fn refused(&self, denial: lm::Denial, range: ConflictKind) -> VfsError {
        let protocol = self.tree.caller().client.protocol;
        self.inner.refused(protocol, denied(denial, range))
    }

    /// Writes bytes, at `offset` or at the end (which is at `offset` as far as is known).
    async fn write(
        &self,
        working: &Arc<Working>,
        offset: u64,
        change: Change,
        stability: Stability,
    ) -> Result<Changed, VfsError> {
        let bytes = match &change {
            Change::Write(_, data) | Change::Append(data) => data.len() as u64,
            Change::SetLen(_) | Change::Punch(..) => 0,
        };
        let end = offset.checked_add(bytes).ok_or(VfsError::TooLarge)?;
        if end > DOCUMENT_BYTES_MAX {
            return Err(VfsError::TooLarge);
        }
        let range = lm::ByteRange::clamped(offset, bytes);
        self.pass(lm::IoKind::Write(range)).await?;
        let changed = self.change(working, change).await?;
        if changed.any {
            self.told(if changed.resized {
                filter::LAST_WRITE | filter::SIZE
            } else {
                filter::LAST_WRITE
            });
        }
        let protocol = self.tree.caller().client.protocol;
        self.inner.metrics.writes.add(protocol, 1);
        self.inner.metrics.bytes_written.add(protocol, bytes);
        self.settle(working, stability).await?;
        Ok(changed)
    }

    /// Changes the bytes; the lock table was passed.
    pub(super) async fn change(
        &self,
        working: &Arc<Working>,
        change: Change,
    ) -> Result<Changed, VfsError> {
        // Noted first: the close of an open that changed something commits it.
        self.wrote.store(true, Ordering::Release);
        let moves = !self.keeps_times.load(Ordering::Acquire);
        self.inner
            .change(working, &self.writer, moves, change)
            .await
    }

    /// Keeps the promise of a write.
    async fn settle(&self, working: &Arc<Working>, stability: Stability) -> Result<(), VfsError> {
        if stability == Stability::Durable || self.write_through {
            return self.inner.flush(working).await;
        }
        Ok(())
    }

    fn told(&self, bits: u32) {
        let stream = self.stream.lock().clone();
        self.inner
            .notify_content(self.content, stream.as_deref(), bits);
    }
}
