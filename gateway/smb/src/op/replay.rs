//! CREATE with a CreateGuid that is in use: a replay is answered again, anything else refused
//! (MS-SMB2 3.3.5.9.10).

use sluice_smb_wire::cmd::create::CreateRequest;
use sluice_smb_wire::create_ctx::CreateContexts;
use sluice_smb_wire::{Flags, NtStatus};
use sluice_vfs::{GrantedCache, OplockLevel};

use super::create::Granted;
use super::{Answer, OpContext, OpReply};
use crate::open::SmbOpen;
use crate::open::replay::{Found, ReplayEntry};

/// Takes the guid for this CREATE; `Err` is the final answer. `None`: the guid's handle is in use already, and the
/// CREATE is carried out without being replayable itself.
pub(super) async fn begin(
    ctx: &OpContext,
    tree: &sluice_vfs::Tree,
    request: &CreateRequest,
    contexts: &CreateContexts,
    guid: [u8; 16],
) -> Result<Option<ReplayEntry>, Box<Answer>> {
    let replayed = ctx.header.flags.has(Flags::REPLAY);
    let client = ctx.conn.client_guid();
    let refuse = |status: NtStatus| Err(Box::new(Err(OpReply::error(status))));
    match ctx.server.opens.replays.begin(client, guid) {
        Ok(entry) => Ok(Some(entry)),
        Err(Found::Pending) if replayed => refuse(NtStatus::FILE_NOT_AVAILABLE),
        Err(Found::Open(open)) if replayed && was_used(&open) => Ok(None),
        Err(Found::Open(open)) if replayed => {
            Err(Box::new(again(ctx, tree, request, contexts, &open).await))
        }
        Err(_) => refuse(NtStatus::DUPLICATE_OBJECTID),
    }
}

fn was_used(open: &SmbOpen) -> bool {
    let replay = open.disk().and_then(|disk| disk.replay.as_ref());
    replay.is_some_and(|r| r.used.load(std::sync::atomic::Ordering::Acquire))
}

/// The first answer once more: same handle and action, the caching right as it is now.
async fn again(
    ctx: &OpContext,
    tree: &sluice_vfs::Tree,
    request: &CreateRequest,
    contexts: &CreateContexts,
    open: &std::sync::Arc<SmbOpen>,
) -> Answer {
    let mine = ctx.session.opens.get(open.id);
    let Some(disk) = mine.as_ref().and_then(|o| o.disk()) else {
        return Err(NtStatus::DUPLICATE_OBJECTID.into());
    };
    let asked = contexts.lease.map(|lease| lease.key);
    if asked.is_some() && asked != disk.lease.map(|held| held.0) {
        return Err(NtStatus::ACCESS_DENIED.into());
    }
    let cache = cache_told(request.oplock_level, disk.open.cache().await, contexts);
    let keeps = match cache {
        GrantedCache::Oplock(level) => level == OplockLevel::Batch,
        GrantedCache::Lease { .. } => true,
        GrantedCache::None => false,
    };
    let attributes = disk.open.attributes().await?;
    let action = disk.replay.as_ref().map(|r| r.action);
    let granted = Granted {
        file_id: open.id,
        action: action.ok_or(NtStatus::DUPLICATE_OBJECTID)?,
        attributes: &attributes,
        reserved: disk.reserved.load(std::sync::atomic::Ordering::Relaxed),
        cache,
        durable: (*disk.durable.lock()).filter(|_| keeps),
    };
    Ok(granted.reply(tree, contexts).await)
}

/// A replay that asks for less is told less, as Windows does; the open keeps what it has.
fn cache_told(level: u8, held: GrantedCache, contexts: &CreateContexts) -> GrantedCache {
    match held {
        GrantedCache::Oplock(held) => {
            let asked = match level {
                0x09 => OplockLevel::Batch,
                0x08 => OplockLevel::Exclusive,
                0x01 => OplockLevel::LevelTwo,
                _ => OplockLevel::None,
            };
            GrantedCache::Oplock(asked.min(held))
        }
        GrantedCache::Lease { .. } if contexts.lease.is_none() => GrantedCache::None,
        other => other,
    }
}
