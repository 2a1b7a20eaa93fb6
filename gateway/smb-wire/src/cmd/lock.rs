//! LOCK (MS-SMB2 2.2.26, 2.2.27).

use bytes::Bytes;

use crate::codec::Reader;
use crate::error::{DecodeError, Result};
use crate::header::FileId;

/// SMB2_LOCKFLAG_SHARED_LOCK.
pub const SHARED: u32 = 0x0000_0001;
/// SMB2_LOCKFLAG_EXCLUSIVE_LOCK.
pub const EXCLUSIVE: u32 = 0x0000_0002;
/// SMB2_LOCKFLAG_UNLOCK.
pub const UNLOCK: u32 = 0x0000_0004;
/// SMB2_LOCKFLAG_FAIL_IMMEDIATELY.
pub const FAIL_IMMEDIATELY: u32 = 0x0000_0010;

/// Most ranges in one request; more than any client sends, and bounds what one request can cost.
pub const MAX_LOCKS: usize = 1024;

/// One range of a LOCK request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockElement {
    /// First byte.
    pub offset: u64,
    /// Length in bytes; zero is allowed.
    pub length: u64,
    /// Flags, the constants of this module.
    pub flags: u32,
}

/// A LOCK request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// LockSequenceNumber (low 4 bits) and LockSequenceIndex (28 bits), dialects 2.1 and later.
    pub sequence: u32,
    /// The handle.
    pub file_id: FileId,
    /// The ranges; never empty.
    pub locks: Vec<LockElement>,
}

impl LockRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 48)?;
        let count = usize::from(r.u16()?);
        let sequence = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        if count == 0 || count > MAX_LOCKS {
            return Err(DecodeError::Invalid("LockCount"));
        }
        if r.remaining() < count * 24 {
            return Err(DecodeError::Truncated);
        }
        let mut locks = Vec::with_capacity(count);
        for _ in 0..count {
            locks.push(LockElement {
                offset: r.u64()?,
                length: r.u64()?,
                flags: r.u32()?,
            });
            r.skip(4)?;
        }
        Ok(Self {
            sequence,
            file_id,
            locks,
        })
    }
}
