//! File system information classes (MS-FSCC 2.5).

use bytes::{BufMut, BytesMut};

use crate::codec::{put_utf16le, to_utf16le};

/// FileFsVolumeInformation.
pub const VOLUME: u8 = 1;
/// FileFsSizeInformation.
pub const SIZE: u8 = 3;
/// FileFsDeviceInformation.
pub const DEVICE: u8 = 4;
/// FileFsAttributeInformation.
pub const ATTRIBUTE: u8 = 5;
/// FileFsControlInformation.
pub const CONTROL: u8 = 6;
/// FileFsFullSizeInformation.
pub const FULL_SIZE: u8 = 7;
/// FileFsObjectIdInformation.
pub const OBJECT_ID: u8 = 8;
/// FileFsSectorSizeInformation.
pub const SECTOR_SIZE: u8 = 11;

/// Bytes of a sector as clients see it.
const SECTOR: u32 = 512;
/// Sectors of an allocation unit.
const SECTORS_PER_UNIT: u32 = 8;
/// Bytes of an allocation unit.
pub const UNIT: u64 = (SECTOR * SECTORS_PER_UNIT) as u64;

/// What the classes draw from.
#[derive(Clone, Debug)]
pub struct VolumeFacts<'a> {
    /// Creation time, 100 ns since 1601.
    pub created: u64,
    /// Serial number.
    pub serial: u32,
    /// Label.
    pub label: &'a str,
    /// All bytes.
    pub total: u64,
    /// Free bytes.
    pub free: u64,
    /// Volume object id.
    pub object_id: [u8; 16],
}

/// Smallest output buffer of a class, `None` if it is not answered.
pub fn fixed_len(class: u8) -> Option<usize> {
    Some(match class {
        VOLUME => 24,
        SIZE => 24,
        DEVICE => 8,
        ATTRIBUTE => 16,
        CONTROL => 48,
        FULL_SIZE => 32,
        OBJECT_ID => 64,
        SECTOR_SIZE => 28,
        _ => return None,
    })
}

/// FileFsAttributeInformation bits: case sensitive search, case preserved names, Unicode on disk, persistent
/// ACLs, sparse files, named streams, extended attributes, hard links, object ids kept out.
const FS_ATTRIBUTES: u32 =
    0x0000_0001 | 0x0000_0002 | 0x0000_0004 | 0x0000_0008 | 0x0000_0040 | 0x0004_0000 | 0x0080_0000;

/// Longest name of one component.
const MAX_COMPONENT: u32 = 255;

/// Encodes a class.
pub fn encode(class: u8, v: &VolumeFacts<'_>) -> Option<BytesMut> {
    let mut w = BytesMut::with_capacity(64);
    match class {
        VOLUME => {
            w.put_u64_le(v.created);
            w.put_u32_le(v.serial);
            w.put_u32_le(v.label.encode_utf16().count() as u32 * 2);
            w.put_u16_le(0);
            put_utf16le(&mut w, v.label);
        }
        SIZE => {
            w.put_u64_le(v.total / UNIT);
            w.put_u64_le(v.free / UNIT);
            w.put_u32_le(SECTORS_PER_UNIT);
            w.put_u32_le(SECTOR);
        }
        DEVICE => {
            const FILE_DEVICE_DISK: u32 = 7;
            const FILE_DEVICE_IS_MOUNTED: u32 = 0x20;
            w.put_u32_le(FILE_DEVICE_DISK);
            w.put_u32_le(FILE_DEVICE_IS_MOUNTED);
        }
        ATTRIBUTE => {
            let name = to_utf16le("NTFS");
            w.put_u32_le(FS_ATTRIBUTES);
            w.put_u32_le(MAX_COMPONENT);
            w.put_u32_le(name.len() as u32);
            w.put_slice(&name);
        }
        CONTROL => {
            w.put_bytes(0, 24);
            w.put_u64_le(u64::MAX);
            w.put_u64_le(u64::MAX);
            w.put_u64_le(0);
        }
        FULL_SIZE => {
            w.put_u64_le(v.total / UNIT);
            w.put_u64_le(v.free / UNIT);
            w.put_u64_le(v.free / UNIT);
            w.put_u32_le(SECTORS_PER_UNIT);
            w.put_u32_le(SECTOR);
        }
        OBJECT_ID => {
            w.put_slice(&v.object_id);
            w.put_bytes(0, 48);
        }
        SECTOR_SIZE => put_sector_size(&mut w),
        _ => return None,
    }
    Some(w)
}

fn put_sector_size(w: &mut BytesMut) {
    const ALIGNED_AND_NO_SEEK_PENALTY: u32 = 0x03;
    w.put_u32_le(SECTOR);
    w.put_u32_le(UNIT as u32);
    w.put_u32_le(UNIT as u32);
    w.put_u32_le(UNIT as u32);
    w.put_u32_le(ALIGNED_AND_NO_SEEK_PENALTY);
    w.put_u32_le(0);
    w.put_u32_le(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_holds_its_fixed_part() {
        let v = VolumeFacts {
            created: 1,
            serial: 2,
            label: "docs",
            total: 1 << 40,
            free: 1 << 39,
            object_id: [1; 16],
        };
        for class in 0..=20 {
            match (encode(class, &v), fixed_len(class)) {
                (Some(out), Some(fixed)) => assert!(out.len() >= fixed.min(18), "class {class}"),
                (None, None) => {}
                other => panic!("class {class}: {other:?}"),
            }
        }
        assert_eq!(encode(FULL_SIZE, &v).unwrap().len(), 32);
        assert_eq!(encode(VOLUME, &v).unwrap().len(), 18 + 8);
    }
}
