//! SET_INFO (MS-SMB2 2.2.39, 2.2.40).

use bytes::{Bytes, BytesMut};

use crate::codec::{Reader, slice_at};
use crate::error::Result;
use crate::header::FileId;

/// A SET_INFO request.
#[derive(Clone, Debug)]
pub struct SetInfoRequest {
    /// InfoType, as in QUERY_INFO.
    pub info_type: u8,
    /// FileInfoClass.
    pub class: u8,
    /// AdditionalInformation: security parts.
    pub additional: u32,
    /// The handle.
    pub file_id: FileId,
    /// The information.
    pub data: Bytes,
}

impl SetInfoRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 33)?;
        let info_type = r.u8()?;
        let class = r.u8()?;
        let len = r.u32()?;
        let at = r.u16()?;
        r.skip(2)?;
        let additional = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        Ok(Self {
            info_type,
            class,
            additional,
            file_id,
            data: slice_at(message, usize::from(at), len as usize)?,
        })
    }
}

/// The SET_INFO response body.
pub fn encode_response() -> BytesMut {
    BytesMut::from(&[2u8, 0][..])
}
