//! SHARE and UNSHARE (RFC 1813 II.3.15): DOS share reservations become opens of the file layer.

use std::time::Instant;

use sluice_nfs_wire::nlm::{ShareArgs, Stat};
use sluice_vfs::{
    AccessMask, CacheRequest, Disposition, NewNode, NodeType, OpenFlags, OpenRequest, ShareMode,
    Target,
};

use super::held::ShareKey;
use super::{failure, owner};
use crate::call::{Call, Place};
use crate::status;

/// Bit of reading in `fsh4_mode` and `fsh4_access`.
const READ: u32 = 1;
/// Bit of writing.
const WRITE: u32 = 2;

fn enter(call: &Call<'_>, args: &ShareArgs) -> Result<(Place, ShareKey), Stat> {
    let place = call.place(&args.file).map_err(status::nlm)?;
    let owner = owner::owner_bytes(&args.caller_name.0, 0, &args.owner.0)?;
    let key = ShareKey {
        node: place.node,
        owner,
    };
    Ok((place, key))
}

pub(super) async fn share(call: &Call<'_>, args: &ShareArgs) -> Stat {
    let (place, key) = match enter(call, args) {
        Ok(entered) => entered,
        Err(stat) => return stat,
    };
    let recovery = &call.head.recovery;
    if !args.reclaim {
        // Before the write policy is asked what becomes of a conflict: this is with nobody.
        match place.tree.is_kept(place.node).await {
            Ok(false) => {}
            Ok(true) => return Stat::DeniedGracePeriod,
            Err(error) => return failure(&error),
        }
    }
    if let Err(error) = recovery.remember(call).await {
        return failure(&error);
    }
    let note = match call.head.vfs.note_lock(place.node).await {
        Ok(note) => note,
        Err(error) => return failure(&error),
    };
    let (vfs, since) = (&call.head.vfs, Instant::now());
    let opened = loop {
        match place.tree.open(request(&place, args)).await {
            Err(error) if args.reclaim && recovery.once_more(vfs, &error, since).await => {}
            answer => break answer,
        }
    };
    let opened = match opened {
        Ok(opened) => opened.open,
        Err(error) => return failure(&error),
    };
    match call
        .head
        .locks
        .keep_share(&call.caller.client, key, opened.clone(), note)
    {
        Ok(replaced) => {
            if let Some(replaced) = replaced {
                let _ = replaced.close().await;
            }
            Stat::Granted
        }
        Err(stat) => {
            let _ = opened.close().await;
            stat
        }
    }
}

fn request(place: &Place, args: &ShareArgs) -> OpenRequest {
    let mut access = 0;
    if args.access & READ != 0 {
        access |= AccessMask::READ_DATA;
    }
    if args.access & WRITE != 0 {
        access |= AccessMask::WRITE_DATA;
    }
    OpenRequest {
        target: Target::Node(place.node),
        stream: None,
        access: AccessMask(access),
        share: ShareMode {
            read: args.mode & READ == 0,
            write: args.mode & WRITE == 0,
            delete: args.mode & WRITE == 0,
        },
        disposition: Disposition::Open,
        node_type: NodeType::NotDirectory,
        new: NewNode::default(),
        flags: OpenFlags {
            poll: true,
            reclaim: args.reclaim,
            ..OpenFlags::default()
        },
        cache: CacheRequest::None,
        listener: None,
    }
}

pub(super) async fn unshare(call: &Call<'_>, args: &ShareArgs) -> Stat {
    let (_, key) = match enter(call, args) {
        Ok(entered) => entered,
        Err(stat) => return stat,
    };
    if let Some(open) = call.head.locks.take_share(&call.caller.client, &key) {
        let _ = open.close().await;
    }
    Stat::Granted
}
