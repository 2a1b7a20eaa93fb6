//! WRITE (MS-SMB2 2.2.21, 2.2.22).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, slice_at};
use crate::error::Result;
use crate::header::FileId;

/// SMB2_WRITEFLAG_WRITE_THROUGH: durable before the answer.
pub const WRITE_THROUGH: u32 = 0x0000_0001;
/// SMB2_WRITEFLAG_WRITE_UNBUFFERED.
pub const WRITE_UNBUFFERED: u32 = 0x0000_0002;

/// A WRITE request; `data` is a slice of the received buffer.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// To this byte; all ones appends.
    pub offset: u64,
    /// The handle.
    pub file_id: FileId,
    /// Channel: 0, or an RDMA kind.
    pub channel: u32,
    /// Flags.
    pub flags: u32,
    /// The payload.
    pub data: Bytes,
}

impl WriteRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 49)?;
        let data_offset = r.u16()?;
        let length = r.u32()?;
        let offset = r.u64()?;
        let file_id = FileId::decode(&mut r)?;
        let channel = r.u32()?;
        r.skip(8)?;
        let flags = r.u32()?;
        Ok(Self {
            offset,
            file_id,
            channel,
            flags,
            data: slice_at(message, usize::from(data_offset), length as usize)?,
        })
    }
}

/// The WRITE response body.
pub fn encode_response(count: u32) -> BytesMut {
    let mut w = BytesMut::with_capacity(16);
    w.put_u16_le(17);
    w.put_u16_le(0);
    w.put_u32_le(count);
    w.put_u32_le(0);
    w.put_u32_le(0);
    w
}
