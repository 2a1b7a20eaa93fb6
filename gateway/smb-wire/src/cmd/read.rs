//! READ (MS-SMB2 2.2.19, 2.2.20).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::Reader;
use crate::error::Result;
use crate::header::FileId;

/// A READ request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// Flags: 1 is READ_UNBUFFERED.
    pub flags: u8,
    /// Wanted bytes.
    pub length: u32,
    /// From this byte.
    pub offset: u64,
    /// The handle.
    pub file_id: FileId,
    /// Fewer bytes than this is an error (STATUS_END_OF_FILE).
    pub minimum_count: u32,
    /// Channel: 0, or an RDMA kind.
    pub channel: u32,
}

impl ReadRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 49)?;
        r.skip(1)?;
        Ok(Self {
            flags: r.u8()?,
            length: r.u32()?,
            offset: r.u64()?,
            file_id: FileId::decode(&mut r)?,
            minimum_count: r.u32()?,
            channel: r.u32()?,
        })
    }
}

/// Where the data starts, from the SMB2 header: right behind the fixed part.
const DATA_OFFSET: u8 = 80;

/// The fixed part of a READ response; the data follows it on the wire as its own buffer.
pub fn encode_response_head(data_len: u32) -> BytesMut {
    let mut w = BytesMut::with_capacity(16);
    w.put_u16_le(17);
    w.put_u8(DATA_OFFSET);
    w.put_u8(0);
    w.put_u32_le(data_len);
    w.put_u32_le(0);
    w.put_u32_le(0);
    w
}
