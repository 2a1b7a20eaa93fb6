//! FLUSH (MS-SMB2 2.2.17, 2.2.18).

use bytes::{Bytes, BytesMut};

use crate::codec::Reader;
use crate::error::Result;
use crate::header::FileId;

/// A FLUSH request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushRequest {
    /// The handle.
    pub file_id: FileId,
    /// Reserved1; 0xFFFF from macOS asks for a full sync of the device.
    pub full_sync: bool,
}

impl FlushRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 24)?;
        let full_sync = r.u16()? == 0xFFFF;
        r.skip(4)?;
        Ok(Self {
            file_id: FileId::decode(&mut r)?,
            full_sync,
        })
    }
}

/// The FLUSH response body; LOCK's has the same layout.
pub fn encode_response() -> BytesMut {
    BytesMut::from(&[4u8, 0, 0, 0][..])
}
