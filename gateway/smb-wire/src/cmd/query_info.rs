//! QUERY_INFO (MS-SMB2 2.2.37, 2.2.38).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, slice_at};
use crate::error::Result;
use crate::header::FileId;

/// InfoType SMB2_0_INFO_FILE.
pub const INFO_FILE: u8 = 1;
/// InfoType SMB2_0_INFO_FILESYSTEM.
pub const INFO_FILESYSTEM: u8 = 2;
/// InfoType SMB2_0_INFO_SECURITY.
pub const INFO_SECURITY: u8 = 3;
/// InfoType SMB2_0_INFO_QUOTA.
pub const INFO_QUOTA: u8 = 4;

/// A QUERY_INFO request.
#[derive(Clone, Debug)]
pub struct QueryInfoRequest {
    /// InfoType.
    pub info_type: u8,
    /// FileInfoClass.
    pub class: u8,
    /// Most bytes to return.
    pub output_len: u32,
    /// AdditionalInformation: security parts.
    pub additional: u32,
    /// Flags: restart, single entry, index, for EA and quota lists.
    pub flags: u32,
    /// The handle.
    pub file_id: FileId,
    /// Input: the EA names or SIDs asked for.
    pub input: Bytes,
}

impl QueryInfoRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 41)?;
        let info_type = r.u8()?;
        let class = r.u8()?;
        let output_len = r.u32()?;
        let at = r.u16()?;
        r.skip(2)?;
        let len = r.u32()?;
        let additional = r.u32()?;
        let flags = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        let input = slice_at(message, usize::from(at), len as usize)?;
        Ok(Self {
            info_type,
            class,
            output_len,
            additional,
            flags,
            file_id,
            input,
        })
    }
}

/// The fixed part of a QUERY_DIRECTORY, QUERY_INFO or CHANGE_NOTIFY response: its buffer follows directly.
pub fn encode_buffer_head(len: u32) -> BytesMut {
    let mut w = BytesMut::with_capacity(8);
    w.put_u16_le(9);
    w.put_u16_le(if len == 0 {
        0
    } else {
        crate::header::HEADER_LEN as u16 + 8
    });
    w.put_u32_le(len);
    w
}
