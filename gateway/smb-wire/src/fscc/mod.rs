//! Information classes of MS-FSCC 2.4 and 2.5: what QUERY_DIRECTORY, QUERY_INFO and SET_INFO carry.
//!
//! Owns layouts; which class needs which access, and what a value means, is the head's.

pub mod directory;
pub mod ea;
pub mod file;
pub mod fs;
pub mod set;
pub mod wildcard;

/// FILE_ATTRIBUTE_READONLY.
pub const ATTR_READONLY: u32 = 0x0001;
/// FILE_ATTRIBUTE_HIDDEN.
pub const ATTR_HIDDEN: u32 = 0x0002;
/// FILE_ATTRIBUTE_SYSTEM.
pub const ATTR_SYSTEM: u32 = 0x0004;
/// FILE_ATTRIBUTE_DIRECTORY.
pub const ATTR_DIRECTORY: u32 = 0x0010;
/// FILE_ATTRIBUTE_ARCHIVE.
pub const ATTR_ARCHIVE: u32 = 0x0020;
/// FILE_ATTRIBUTE_NORMAL: no other bit is set.
pub const ATTR_NORMAL: u32 = 0x0080;
/// FILE_ATTRIBUTE_TEMPORARY.
pub const ATTR_TEMPORARY: u32 = 0x0100;
/// FILE_ATTRIBUTE_SPARSE_FILE.
pub const ATTR_SPARSE: u32 = 0x0200;
/// FILE_ATTRIBUTE_REPARSE_POINT.
pub const ATTR_REPARSE: u32 = 0x0400;
/// FILE_ATTRIBUTE_COMPRESSED.
pub const ATTR_COMPRESSED: u32 = 0x0800;
/// FILE_ATTRIBUTE_OFFLINE.
pub const ATTR_OFFLINE: u32 = 0x1000;
/// FILE_ATTRIBUTE_NOT_CONTENT_INDEXED.
pub const ATTR_NOT_INDEXED: u32 = 0x2000;
/// FILE_ATTRIBUTE_ENCRYPTED.
pub const ATTR_ENCRYPTED: u32 = 0x4000;

/// IO_REPARSE_TAG_SYMLINK.
pub const REPARSE_TAG_SYMLINK: u32 = 0xA000_000C;
