//! What the file layer knows about a node, in the words of MS-FSCC: times, attributes, names.

use sluice_smb_wire::cmd::create::FileStamp;
use sluice_smb_wire::fscc::file::FileFacts;
use sluice_smb_wire::fscc::fs::UNIT;
use sluice_smb_wire::fscc::{ATTR_DIRECTORY, ATTR_NORMAL, ATTR_REPARSE, REPARSE_TAG_SYMLINK};
use sluice_smb_wire::names::to_wire_name;
use sluice_vfs::{Attributes, DosAttributes, NodeKind, Timestamp, VfsError};

use crate::open::DiskOpen;

/// 1970 on the clock of Windows, in 100 ns since 1601.
const EPOCH_1970: i64 = 116_444_736_000_000_000;

/// A time as FILETIME: 100 ns since 1601; times before that become its start.
pub fn filetime(time: Timestamp) -> u64 {
    let ticks = time.0.div_euclid(100).saturating_add(EPOCH_1970);
    u64::try_from(ticks).unwrap_or(0)
}

/// A FILETIME as time; what the years 1678 to 2262 don't hold becomes their end.
pub fn timestamp(filetime: u64) -> Timestamp {
    let ticks = i64::try_from(filetime).unwrap_or(i64::MAX);
    Timestamp(ticks.saturating_sub(EPOCH_1970).saturating_mul(100))
}

/// FileAttributes of a node (MS-FSCC 2.6).
pub fn wire_attributes(attributes: &Attributes) -> u32 {
    let kind = match attributes.kind {
        NodeKind::Directory => ATTR_DIRECTORY,
        NodeKind::Symlink => ATTR_REPARSE,
        _ => 0,
    };
    match attributes.dos.0 & DosAttributes::STORED | kind {
        0 => ATTR_NORMAL,
        bits => bits,
    }
}

/// Reparse tag of a node, zero if it is none.
pub fn reparse_tag(attributes: &Attributes) -> u32 {
    match attributes.kind {
        NodeKind::Symlink => REPARSE_TAG_SYMLINK,
        _ => 0,
    }
}

/// Times, sizes and attributes of a node; folders have no size.
pub fn stamp(attributes: &Attributes) -> FileStamp {
    let folder = attributes.kind == NodeKind::Directory;
    sized_stamp(attributes, !folder)
}

/// As [`stamp`], with at least the allocation that a handle reserved.
pub fn stamp_reserved(attributes: &Attributes, reserved: u64) -> FileStamp {
    let mut stamp = stamp(attributes);
    if attributes.kind != NodeKind::Directory {
        stamp.allocation = stamp.allocation.max(reserved.next_multiple_of(UNIT));
    }
    stamp
}

fn sized_stamp(attributes: &Attributes, sized: bool) -> FileStamp {
    FileStamp {
        created: filetime(attributes.created),
        accessed: filetime(attributes.accessed),
        written: filetime(attributes.modified),
        changed: filetime(attributes.changed),
        allocation: if sized { attributes.allocated } else { 0 },
        size: if sized { attributes.size } else { 0 },
        attributes: wire_attributes(attributes),
    }
}

/// Everything that the file information classes ask about an open.
pub async fn file_facts(disk: &DiskOpen) -> Result<FileFacts, VfsError> {
    use std::sync::atomic::Ordering::Relaxed;
    let attributes = disk.open.attributes().await?;
    let delete_pending = disk.open.delete_pending().await;
    let links = match attributes.kind {
        NodeKind::Directory => 1,
        _ => attributes.link_count,
    };
    let folder = disk.is_folder();
    let mut stamp = sized_stamp(&attributes, !folder);
    if !folder {
        let reserved = disk.reserved.load(Relaxed).next_multiple_of(UNIT);
        stamp.allocation = stamp.allocation.max(reserved);
    }
    Ok(FileFacts {
        stamp,
        links: links - u32::from(delete_pending && links > 0),
        delete_pending,
        directory: folder,
        file_id: attributes.id.0,
        volume_id: u64::from(disk.open.share().id.0),
        ea_size: attributes.ea_size,
        access: disk.open.access().0,
        position: disk.position.load(Relaxed),
        mode: disk.mode.load(Relaxed),
        reparse_tag: reparse_tag(&attributes),
        name: wire_path(disk).await?,
    })
}

/// The path of an open from its share's root, with a leading backslash, and its stream.
pub async fn wire_path(disk: &DiskOpen) -> Result<String, VfsError> {
    let path = disk.open.path().await?;
    let mut out = String::with_capacity(path.len() + 1);
    for part in path.split('/') {
        out.push('\\');
        out.push_str(&to_wire_name(part));
    }
    if let Some(stream) = disk.open.stream_name() {
        out.push(':');
        out.push_str(&stream);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epochs_meet_and_times_survive_the_round_trip() {
        assert_eq!(filetime(Timestamp(0)), 116_444_736_000_000_000);
        let now = Timestamp(1_700_000_000_123_456_700);
        assert_eq!(timestamp(filetime(now)), now);
        assert_eq!(
            filetime(Timestamp(-86_400_000_000_000)),
            116_443_872_000_000_000
        );
    }

    #[test]
    fn times_that_nothing_can_hold_are_clamped() {
        assert_eq!(timestamp(u64::MAX), Timestamp(i64::MAX));
        assert_eq!(timestamp(0).0, i64::MIN);
    }
}
