//! CHANGE_NOTIFY (MS-SMB2 2.2.35, 2.2.36) and FILE_NOTIFY_INFORMATION (MS-FSCC 2.7.1).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, pad_to, patch_u32, to_utf16le};
use crate::error::Result;
use crate::header::FileId;

/// SMB2_WATCH_TREE: report changes below subdirectories too.
pub const WATCH_TREE: u16 = 0x0001;

/// A CHANGE_NOTIFY request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeNotifyRequest {
    /// Flags.
    pub flags: u16,
    /// Most bytes to return.
    pub output_len: u32,
    /// The directory's handle.
    pub file_id: FileId,
    /// FILE_NOTIFY_CHANGE_ bits.
    pub filter: u32,
}

impl ChangeNotifyRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 32)?;
        Ok(Self {
            flags: r.u16()?,
            output_len: r.u32()?,
            file_id: FileId::decode(&mut r)?,
            filter: r.u32()?,
        })
    }
}

/// FILE_ACTION values (MS-FSCC 2.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyAction {
    /// FILE_ACTION_ADDED.
    Added = 1,
    /// FILE_ACTION_REMOVED.
    Removed = 2,
    /// FILE_ACTION_MODIFIED.
    Modified = 3,
    /// FILE_ACTION_RENAMED_OLD_NAME.
    RenamedOld = 4,
    /// FILE_ACTION_RENAMED_NEW_NAME.
    RenamedNew = 5,
    /// FILE_ACTION_ADDED_STREAM.
    AddedStream = 6,
    /// FILE_ACTION_REMOVED_STREAM.
    RemovedStream = 7,
    /// FILE_ACTION_MODIFIED_STREAM.
    ModifiedStream = 8,
}

/// Encodes change records, or `None` if they don't fit into `max_len` bytes (STATUS_NOTIFY_ENUM_DIR).
pub fn encode_changes<'a>(
    changes: impl Iterator<Item = (NotifyAction, &'a str)>,
    max_len: usize,
) -> Option<BytesMut> {
    let mut w = BytesMut::new();
    let mut previous = None;
    for (action, path) in changes {
        pad_to(&mut w, 4);
        let start = w.len();
        if let Some(at) = previous {
            patch_u32(&mut w, at, (start - at) as u32);
        }
        previous = Some(start);
        let name = to_utf16le(path);
        w.put_u32_le(0);
        w.put_u32_le(action as u32);
        w.put_u32_le(name.len() as u32);
        w.put_slice(&name);
        if w.len() > max_len {
            return None;
        }
    }
    Some(w)
}
