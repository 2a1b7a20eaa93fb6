//! File information classes that SET_INFO takes (MS-FSCC 2.4).

use bytes::Bytes;

use crate::codec::{Reader, slice_at};
use crate::error::{DecodeError, Result};

/// FileRenameInformation.
pub const RENAME: u8 = 10;
/// FileLinkInformation.
pub const LINK: u8 = 11;
/// FileDispositionInformation.
pub const DISPOSITION: u8 = 13;
/// FileAllocationInformation.
pub const ALLOCATION: u8 = 19;
/// FileEndOfFileInformation.
pub const END_OF_FILE: u8 = 20;
/// FileValidDataLengthInformation.
pub const VALID_DATA_LENGTH: u8 = 39;
/// FileShortNameInformation.
pub const SHORT_NAME: u8 = 40;
/// FileDispositionInformationEx.
pub const DISPOSITION_EX: u8 = 64;
/// FileRenameInformationEx.
pub const RENAME_EX: u8 = 65;

/// FILE_DISPOSITION_DELETE.
pub const DISPOSITION_DELETE: u32 = 0x01;
/// FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE.
pub const DISPOSITION_IGNORE_READONLY: u32 = 0x10;

/// What a SET does to one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// Zero: leave it.
    Keep,
    /// Minus one: this open's own operations stop changing it.
    Freeze,
    /// Minus two: they change it again.
    Thaw,
    /// A time, 100 ns since 1601.
    Set(u64),
}

impl TimeChange {
    fn decode(raw: u64) -> Result<Self> {
        Ok(match raw as i64 {
            0 => Self::Keep,
            -1 => Self::Freeze,
            -2 => Self::Thaw,
            t if t < 0 => return Err(DecodeError::Invalid("a time")),
            _ => Self::Set(raw),
        })
    }
}

/// FileBasicInformation as a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BasicChange {
    /// CreationTime.
    pub created: TimeChange,
    /// LastAccessTime.
    pub accessed: TimeChange,
    /// LastWriteTime.
    pub written: TimeChange,
    /// ChangeTime.
    pub changed: TimeChange,
    /// FileAttributes; zero leaves them.
    pub attributes: u32,
}

impl BasicChange {
    /// Decodes 40 bytes, of which the last four are reserved.
    pub fn decode(data: &Bytes) -> Result<Self> {
        let mut r = Reader::new(data);
        let times = [r.u64()?, r.u64()?, r.u64()?, r.u64()?];
        let attributes = r.u32()?;
        Ok(Self {
            created: TimeChange::decode(times[0])?,
            accessed: TimeChange::decode(times[1])?,
            written: TimeChange::decode(times[2])?,
            changed: TimeChange::decode(times[3])?,
            attributes,
        })
    }
}

/// A rename or link target (MS-FSCC 2.4.37.2, 2.4.27.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewName {
    /// Replace what is there.
    pub replace: bool,
    /// RootDirectory; must be zero over the wire.
    pub root: u64,
    /// The name, UTF-16LE.
    pub name: Bytes,
}

impl NewName {
    /// Decodes the classes 10 and 11, and 65 whose first field is a set of flags with the same low bit.
    pub fn decode(data: &Bytes) -> Result<Self> {
        let mut r = Reader::new(data);
        let replace = r.u8()? & 1 != 0;
        r.skip(7)?;
        let root = r.u64()?;
        let len = r.u32()? as usize;
        Ok(Self {
            replace,
            root,
            name: slice_at(data, r.pos(), len)?,
        })
    }
}

/// Decodes a size that must not be negative (end of file, allocation, position, valid data length).
pub fn decode_size(data: &Bytes) -> Result<u64> {
    let size = Reader::new(data).u64()?;
    if size > i64::MAX as u64 {
        return Err(DecodeError::Invalid("a size"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn minus_one_and_minus_two_freeze_and_thaw_a_time() {
        let mut raw = vec![0xFF; 8];
        raw.extend((-2i64).to_le_bytes());
        raw.extend([0; 8]);
        raw.extend(7u64.to_le_bytes());
        raw.extend([0x20, 0, 0, 0, 0, 0, 0, 0]);
        let change = BasicChange::decode(&Bytes::from(raw)).unwrap();
        assert_eq!(change.created, TimeChange::Freeze);
        assert_eq!(change.accessed, TimeChange::Thaw);
        assert_eq!(change.written, TimeChange::Keep);
        assert_eq!(change.changed, TimeChange::Set(7));
        assert_eq!(change.attributes, 0x20);
    }

    #[test]
    fn a_negative_size_is_refused() {
        assert!(decode_size(&Bytes::from_static(&[0xFF; 8])).is_err());
    }

    proptest! {
        #[test]
        fn decoders_never_panic(raw in prop::collection::vec(any::<u8>(), 0..60)) {
            let raw = Bytes::from(raw);
            let _ = BasicChange::decode(&raw);
            let _ = NewName::decode(&raw);
            let _ = decode_size(&raw);
        }
    }
}
