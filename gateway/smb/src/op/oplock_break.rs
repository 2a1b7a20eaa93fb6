//! OPLOCK_BREAK acknowledgments of oplocks and leases (MS-SMB2 3.3.5.22.1, 3.3.5.22.2).

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::oplock_break::BreakAck;
use sluice_vfs::{GrantedCache, LeaseKey, LeaseState, OplockLevel, VfsError};

use super::{Answer, OpContext, OpReply, disk_of};

/// Handles an acknowledgment.
pub async fn handle(ctx: &OpContext) -> Answer {
    let ack = BreakAck::decode(&ctx.message)?;
    match ack {
        BreakAck::Oplock { file_id, level } => {
            let open = ctx.open(file_id)?;
            let disk = disk_of(&open)?;
            let held = match disk.open.cache().await {
                GrantedCache::Oplock(level) => level,
                GrantedCache::None => OplockLevel::None,
                GrantedCache::Lease { .. } => return Err(NtStatus::INVALID_PARAMETER.into()),
            };
            let level = match level {
                0x00 => OplockLevel::None,
                0x01 if held != OplockLevel::LevelTwo => OplockLevel::LevelTwo,
                0x01 | 0x08 | 0x09 => return Err(NtStatus::INVALID_OPLOCK_PROTOCOL.into()),
                _ => return Err(NtStatus::INVALID_PARAMETER.into()),
            };
            match disk.open.acknowledge_break(level).await {
                Ok(level) => {
                    let level = crate::open::wire_level(level);
                    let file_id = open.id;
                    let body = BreakAck::Oplock { file_id, level }.encode_response();
                    Ok(OpReply::ok(body).file(open.id))
                }
                Err(VfsError::Invalid(_)) => Err(NtStatus::INVALID_OPLOCK_PROTOCOL.into()),
                Err(error) => Err(error.into()),
            }
        }
        BreakAck::Lease { key, state } => acknowledge_lease(ctx, key, state).await,
    }
}

async fn acknowledge_lease(ctx: &OpContext, key: [u8; 16], state: u32) -> Answer {
    let guid = ctx.conn.client_guid();
    let answer = ctx
        .server
        .vfs
        .acknowledge_lease_break(guid, LeaseKey(key), LeaseState(state))
        .await;
    match answer {
        Ok(kept) => {
            let body = BreakAck::Lease { key, state: kept.0 }.encode_response();
            Ok(OpReply::ok(body))
        }
        Err(VfsError::NotFound) => Err(NtStatus::OBJECT_NAME_NOT_FOUND.into()),
        Err(VfsError::Invalid("no break is under way")) => Err(NtStatus::UNSUCCESSFUL.into()),
        Err(VfsError::Invalid(_)) => Err(NtStatus::REQUEST_NOT_ACCEPTED.into()),
        Err(error) => Err(error.into()),
    }
}
