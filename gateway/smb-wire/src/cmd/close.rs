//! CLOSE (MS-SMB2 2.2.15, 2.2.16).

use bytes::{BufMut, Bytes, BytesMut};

use super::create::FileStamp;
use crate::codec::Reader;
use crate::error::Result;
use crate::header::FileId;

/// SMB2_CLOSE_FLAG_POSTQUERY_ATTRIB: the client wants the attributes after the close.
pub const POSTQUERY_ATTRIB: u16 = 0x0001;

/// A CLOSE request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseRequest {
    /// Flags.
    pub flags: u16,
    /// The handle.
    pub file_id: FileId,
}

impl CloseRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 24)?;
        let flags = r.u16()?;
        r.skip(4)?;
        Ok(Self {
            flags,
            file_id: FileId::decode(&mut r)?,
        })
    }
}

/// The CLOSE response body; all zero unless the client asked for attributes.
pub fn encode_response(stamp: Option<FileStamp>) -> BytesMut {
    let mut w = BytesMut::with_capacity(60);
    w.put_u16_le(60);
    w.put_u16_le(if stamp.is_some() { POSTQUERY_ATTRIB } else { 0 });
    w.put_u32_le(0);
    stamp.unwrap_or_default().encode(&mut w);
    w
}
