//! Attributes between the file layer's words and NFSv3's.

use std::time::{SystemTime, UNIX_EPOCH};

use sluice_nfs_wire::nfs3::{
    Attributes as WireAttributes, FileType, SetAttributes, SetTime, SpecData, Time, WccAttr,
    WccData,
};
use sluice_vfs::{AttributeChange, Attributes, NodeKind, ShareId, Timestamp};

const NANOS: i64 = 1_000_000_000;

/// A time as NFSv3 can say it: what lies before 1970 or after 2106 becomes the nearest that it can.
pub(crate) fn time(timestamp: Timestamp) -> Time {
    let seconds = timestamp.0.div_euclid(NANOS);
    match u32::try_from(seconds) {
        Ok(seconds) => Time {
            seconds,
            nanos: timestamp.0.rem_euclid(NANOS) as u32,
        },
        Err(_) => Time {
            seconds: if seconds < 0 { 0 } else { u32::MAX },
            nanos: 0,
        },
    }
}

/// The time that a client states; `None` if its nanoseconds are over a second.
pub(crate) fn timestamp(seconds: u32, nanos: u32) -> Option<Timestamp> {
    (i64::from(nanos) < NANOS).then(|| Timestamp(i64::from(seconds) * NANOS + i64::from(nanos)))
}

/// The present.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// The `fattr3` of a node. Each share is a file system of its own to clients.
pub(crate) fn wire(share: ShareId, a: &Attributes) -> WireAttributes {
    WireAttributes {
        file_type: file_type(a.kind),
        mode: a.mode & 0o7777,
        nlink: a.link_count,
        uid: a.uid,
        gid: a.gid,
        size: a.size,
        used: a.allocated,
        rdev: SpecData {
            major: a.device.0,
            minor: a.device.1,
        },
        fsid: u64::from(share.0),
        fileid: a.id.0,
        atime: time(a.accessed),
        mtime: time(a.modified),
        ctime: time(a.changed),
    }
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::Regular,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Fifo => FileType::Fifo,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Weak cache consistency data. The attributes before are told only if no other committed change can have come between
/// them and those after; otherwise the client would take another's change for its own (RFC 1813 2.6, wcc_data). Uncommitted
/// writes don't count as changes here: the writer's place keeps those of others away.
pub(crate) fn wcc(
    share: ShareId,
    before: Option<&Attributes>,
    after: Option<&Attributes>,
) -> WccData {
    let atomic = match (before, after) {
        (Some(before), Some(after)) => after.change_id.wrapping_sub(before.change_id) <= 1,
        _ => false,
    };
    WccData {
        before: before.filter(|_| atomic).map(|b| WccAttr {
            size: b.size,
            mtime: time(b.modified),
            ctime: time(b.changed),
        }),
        after: after.map(|a| wire(share, a)),
    }
}

/// What a client wants set, without the length. `None` if a time is malformed.
pub(crate) fn change(set: &SetAttributes) -> Option<AttributeChange> {
    Some(AttributeChange {
        mode: set.mode.map(|m| m & 0o7777),
        uid: set.uid,
        gid: set.gid,
        accessed: set_time(set.atime)?,
        modified: set_time(set.mtime)?,
        ..AttributeChange::default()
    })
}

fn set_time(set: SetTime) -> Option<Option<Timestamp>> {
    match set {
        SetTime::Keep => Some(None),
        SetTime::ServerNow => Some(Some(now())),
        SetTime::To(seconds, nanos) => timestamp(seconds, nanos).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_what_nfs_can_say_become_the_nearest() {
        assert_eq!(
            time(Timestamp(-1)),
            Time {
                seconds: 0,
                nanos: 0
            }
        );
        assert_eq!(
            time(Timestamp(i64::MAX)),
            Time {
                seconds: u32::MAX,
                nanos: 0
            }
        );
        assert_eq!(
            time(Timestamp(1_500_000_007)),
            Time {
                seconds: 1,
                nanos: 500_000_007
            }
        );
        assert_eq!(timestamp(1, 500_000_007), Some(Timestamp(1_500_000_007)));
        assert_eq!(timestamp(1, 1_000_000_000), None);
    }
}
