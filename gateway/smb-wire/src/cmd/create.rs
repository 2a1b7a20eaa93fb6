//! CREATE (MS-SMB2 2.2.13 request, 2.2.14 response): layouts and flag values.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, slice_at};
use crate::error::Result;
use crate::header::FileId;

/// FILE_DIRECTORY_FILE: the target must be or become a directory.
pub const OPT_DIRECTORY_FILE: u32 = 0x0000_0001;
/// FILE_WRITE_THROUGH: every write of this open is durable before its answer.
pub const OPT_WRITE_THROUGH: u32 = 0x0000_0002;
/// FILE_SEQUENTIAL_ONLY, a hint.
pub const OPT_SEQUENTIAL_ONLY: u32 = 0x0000_0004;
/// FILE_NO_INTERMEDIATE_BUFFERING.
pub const OPT_NO_INTERMEDIATE_BUFFERING: u32 = 0x0000_0008;
/// FILE_SYNCHRONOUS_IO_ALERT.
pub const OPT_SYNCHRONOUS_IO_ALERT: u32 = 0x0000_0010;
/// FILE_SYNCHRONOUS_IO_NONALERT.
pub const OPT_SYNCHRONOUS_IO_NONALERT: u32 = 0x0000_0020;
/// FILE_NON_DIRECTORY_FILE: the target must not be a directory.
pub const OPT_NON_DIRECTORY_FILE: u32 = 0x0000_0040;
/// FILE_CREATE_TREE_CONNECTION, never allowed over the wire.
pub const OPT_CREATE_TREE_CONNECTION: u32 = 0x0000_0080;
/// FILE_COMPLETE_IF_OPLOCKED: answer at once instead of waiting for a break.
pub const OPT_COMPLETE_IF_OPLOCKED: u32 = 0x0000_0100;
/// FILE_NO_EA_KNOWLEDGE.
pub const OPT_NO_EA_KNOWLEDGE: u32 = 0x0000_0200;
/// FILE_DELETE_ON_CLOSE.
pub const OPT_DELETE_ON_CLOSE: u32 = 0x0000_1000;
/// FILE_OPEN_BY_FILE_ID.
pub const OPT_OPEN_BY_FILE_ID: u32 = 0x0000_2000;
/// FILE_OPEN_FOR_BACKUP_INTENT.
pub const OPT_OPEN_FOR_BACKUP_INTENT: u32 = 0x0000_4000;
/// FILE_NO_COMPRESSION.
pub const OPT_NO_COMPRESSION: u32 = 0x0000_8000;
/// FILE_OPEN_REQUIRING_OPLOCK.
pub const OPT_OPEN_REQUIRING_OPLOCK: u32 = 0x0001_0000;
/// FILE_DISALLOW_EXCLUSIVE.
pub const OPT_DISALLOW_EXCLUSIVE: u32 = 0x0002_0000;
/// FILE_RESERVE_OPFILTER.
pub const OPT_RESERVE_OPFILTER: u32 = 0x0010_0000;
/// FILE_OPEN_REPARSE_POINT.
pub const OPT_OPEN_REPARSE_POINT: u32 = 0x0020_0000;
/// FILE_OPEN_NO_RECALL.
pub const OPT_OPEN_NO_RECALL: u32 = 0x0040_0000;
/// FILE_OPEN_FOR_FREE_SPACE_QUERY.
pub const OPT_FREE_SPACE_QUERY: u32 = 0x0080_0000;

/// CreateDisposition (MS-SMB2 2.2.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Replace if there, create otherwise.
    Supersede,
    /// Open if there, fail otherwise.
    Open,
    /// Fail if there, create otherwise.
    Create,
    /// Open if there, create otherwise.
    OpenIf,
    /// Overwrite if there, fail otherwise.
    Overwrite,
    /// Overwrite if there, create otherwise.
    OverwriteIf,
}

impl Disposition {
    /// The disposition with this value.
    pub fn from_code(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::Supersede,
            1 => Self::Open,
            2 => Self::Create,
            3 => Self::OpenIf,
            4 => Self::Overwrite,
            5 => Self::OverwriteIf,
            _ => return None,
        })
    }

    /// True if the open drops the content of what is there.
    pub fn truncates(self) -> bool {
        matches!(self, Self::Supersede | Self::Overwrite | Self::OverwriteIf)
    }
}

/// What a CREATE did (MS-SMB2 2.2.14 CreateAction).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateAction {
    /// FILE_SUPERSEDED.
    Superseded = 0,
    /// FILE_OPENED.
    Opened = 1,
    /// FILE_CREATED.
    Created = 2,
    /// FILE_OVERWRITTEN.
    Overwritten = 3,
}

/// A decoded CREATE request; the contexts stay undecoded until [`crate::create_ctx::CreateContexts::decode`].
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// RequestedOplockLevel: 0 none, 1 level II, 8 exclusive, 9 batch, 0xFF lease.
    pub oplock_level: u8,
    /// ImpersonationLevel, 0 to 3 when valid.
    pub impersonation_level: u32,
    /// DesiredAccess.
    pub desired_access: u32,
    /// FileAttributes for a new document.
    pub file_attributes: u32,
    /// ShareAccess: 1 read, 2 write, 4 delete.
    pub share_access: u32,
    /// CreateDisposition; `None` is a value that does not exist, which a reconnect may carry.
    pub disposition: Option<Disposition>,
    /// CreateOptions, the `OPT_` values.
    pub options: u32,
    /// The name, UTF-16LE, relative to the share.
    pub name: Bytes,
    /// The create contexts' bytes.
    pub contexts: Bytes,
}

impl CreateRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 57)?;
        r.skip(1)?;
        let oplock_level = r.u8()?;
        let impersonation_level = r.u32()?;
        r.skip(16)?;
        let desired_access = r.u32()?;
        let file_attributes = r.u32()?;
        let share_access = r.u32()?;
        let disposition = r.u32()?;
        let options = r.u32()?;
        let (name_at, name_len) = (r.u16()?, r.u16()?);
        let (ctx_at, ctx_len) = (r.u32()?, r.u32()?);
        Ok(Self {
            oplock_level,
            impersonation_level,
            desired_access,
            file_attributes,
            share_access,
            disposition: Disposition::from_code(disposition),
            options,
            name: slice_at(message, usize::from(name_at), usize::from(name_len))?,
            contexts: slice_at(message, ctx_at as usize, ctx_len as usize)?,
        })
    }

    /// True if the option bit is set.
    pub fn has(&self, option: u32) -> bool {
        self.options & option != 0
    }
}

/// The times, sizes and attributes that CREATE, CLOSE and NetworkOpen information share; times in 100 ns since 1601.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStamp {
    /// CreationTime.
    pub created: u64,
    /// LastAccessTime.
    pub accessed: u64,
    /// LastWriteTime.
    pub written: u64,
    /// ChangeTime.
    pub changed: u64,
    /// AllocationSize in bytes.
    pub allocation: u64,
    /// EndOfFile in bytes.
    pub size: u64,
    /// FileAttributes.
    pub attributes: u32,
}

impl FileStamp {
    /// Four times, allocation, size, attributes: 52 bytes.
    pub fn encode(&self, w: &mut BytesMut) {
        w.put_u64_le(self.created);
        w.put_u64_le(self.accessed);
        w.put_u64_le(self.written);
        w.put_u64_le(self.changed);
        w.put_u64_le(self.allocation);
        w.put_u64_le(self.size);
        w.put_u32_le(self.attributes);
    }
}

/// A CREATE response.
#[derive(Clone, Debug)]
pub struct CreateResponse {
    /// Granted oplock level, 0xFF for a lease.
    pub oplock_level: u8,
    /// What happened.
    pub action: CreateAction,
    /// Times, sizes, attributes.
    pub stamp: FileStamp,
    /// The handle.
    pub file_id: FileId,
    /// Encoded response contexts, or empty.
    pub contexts: BytesMut,
}

impl CreateResponse {
    /// The body after the SMB2 header.
    pub fn encode(&self) -> BytesMut {
        let mut w = BytesMut::with_capacity(88 + self.contexts.len());
        w.put_u16_le(89);
        w.put_u8(self.oplock_level);
        w.put_u8(0);
        w.put_u32_le(self.action as u32);
        self.stamp.encode(&mut w);
        w.put_u32_le(0);
        self.file_id.encode(&mut w);
        let at = if self.contexts.is_empty() {
            0
        } else {
            crate::header::HEADER_LEN + 88
        };
        w.put_u32_le(at as u32);
        w.put_u32_le(self.contexts.len() as u32);
        w.put_slice(&self.contexts);
        w
    }
}
