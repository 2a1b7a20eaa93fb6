//! OPLOCK_BREAK: notifications, acknowledgments and responses, oplock and lease form (MS-SMB2 2.2.23 to 2.2.25).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::Reader;
use crate::error::{DecodeError, Result};
use crate::header::FileId;

/// SMB2_NOTIFY_BREAK_LEASE_FLAG_ACK_REQUIRED.
pub const ACK_REQUIRED: u32 = 0x0000_0001;

/// An acknowledgment; the structure size tells the two forms apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakAck {
    /// Of an oplock break.
    Oplock {
        /// The handle.
        file_id: FileId,
        /// The level that the client goes down to.
        level: u8,
    },
    /// Of a lease break.
    Lease {
        /// The lease key.
        key: [u8; 16],
        /// The state that the client goes down to.
        state: u32,
    },
}

impl BreakAck {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::at(message, crate::header::HEADER_LEN);
        match r.u16()? {
            24 => {
                let level = r.u8()?;
                r.skip(5)?;
                Ok(Self::Oplock {
                    file_id: FileId::decode(&mut r)?,
                    level,
                })
            }
            36 => {
                r.skip(6)?;
                let key = r.array()?;
                let state = r.u32()?;
                r.skip(8)?;
                Ok(Self::Lease { key, state })
            }
            _ => Err(DecodeError::Invalid("StructureSize")),
        }
    }

    /// The response body, which repeats what was acknowledged.
    pub fn encode_response(&self) -> BytesMut {
        match *self {
            Self::Oplock { file_id, level } => encode_oplock(file_id, level),
            Self::Lease { key, state } => {
                let mut w = BytesMut::with_capacity(36);
                w.put_u16_le(36);
                w.put_u16_le(0);
                w.put_u32_le(0);
                w.put_slice(&key);
                w.put_u32_le(state);
                w.put_u64_le(0);
                w
            }
        }
    }
}

/// An oplock break notification body; also the layout of its response.
pub fn encode_oplock(file_id: FileId, level: u8) -> BytesMut {
    let mut w = BytesMut::with_capacity(24);
    w.put_u16_le(24);
    w.put_u8(level);
    w.put_u8(0);
    w.put_u32_le(0);
    file_id.encode(&mut w);
    w
}

/// A lease break notification (MS-SMB2 2.2.23.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseBreak {
    /// Epoch after the break; zero for version 1 leases.
    pub epoch: u16,
    /// The client must acknowledge.
    pub ack_required: bool,
    /// The lease key.
    pub key: [u8; 16],
    /// State held now.
    pub current: u32,
    /// State after the break.
    pub new: u32,
}

impl LeaseBreak {
    /// The notification body.
    pub fn encode(&self) -> BytesMut {
        let mut w = BytesMut::with_capacity(44);
        w.put_u16_le(44);
        w.put_u16_le(self.epoch);
        w.put_u32_le(if self.ack_required { ACK_REQUIRED } else { 0 });
        w.put_slice(&self.key);
        w.put_u32_le(self.current);
        w.put_u32_le(self.new);
        w.put_u32_le(0);
        w.put_u32_le(0);
        w.put_u32_le(0);
        w
    }
}
