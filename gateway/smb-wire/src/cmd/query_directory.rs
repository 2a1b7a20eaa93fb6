//! QUERY_DIRECTORY (MS-SMB2 2.2.33, 2.2.34).

use bytes::Bytes;

use crate::codec::{Reader, slice_at};
use crate::error::Result;
use crate::header::FileId;

/// SMB2_RESTART_SCANS.
pub const RESTART_SCANS: u8 = 0x01;
/// SMB2_RETURN_SINGLE_ENTRY.
pub const RETURN_SINGLE_ENTRY: u8 = 0x02;
/// SMB2_INDEX_SPECIFIED.
pub const INDEX_SPECIFIED: u8 = 0x04;
/// SMB2_REOPEN.
pub const REOPEN: u8 = 0x10;

/// A QUERY_DIRECTORY request.
#[derive(Clone, Debug)]
pub struct QueryDirectoryRequest {
    /// FileInformationClass.
    pub class: u8,
    /// Flags.
    pub flags: u8,
    /// FileIndex.
    pub file_index: u32,
    /// The directory's handle.
    pub file_id: FileId,
    /// Search pattern, UTF-16LE; may be empty.
    pub pattern: Bytes,
    /// Most bytes to return.
    pub output_len: u32,
}

impl QueryDirectoryRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 33)?;
        let class = r.u8()?;
        let flags = r.u8()?;
        let file_index = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        let (at, len) = (r.u16()?, r.u16()?);
        let output_len = r.u32()?;
        Ok(Self {
            class,
            flags,
            file_index,
            file_id,
            pattern: slice_at(message, usize::from(at), usize::from(len))?,
            output_len,
        })
    }
}
