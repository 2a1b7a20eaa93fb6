//! Reconnects to durable opens (MS-SMB2 3.3.5.9.7, 3.3.5.9.12).

use std::sync::atomic::Ordering::Relaxed;

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::create::{self as wire, CreateRequest};
use sluice_smb_wire::create_ctx::{CreateContexts, LeaseContext};

use super::create::Granted;
use super::{Answer, OpContext, OpReply};
use crate::open::{DiskOpen, SmbOpen};

/// Answers a CREATE that wants an old open back; `None` if this one doesn't.
pub(super) async fn try_reconnect(
    ctx: &OpContext,
    request: &CreateRequest,
    contexts: &CreateContexts,
) -> Option<Answer> {
    let (file_id, guid) = match (contexts.reconnect_v2, contexts.reconnect) {
        (Some(v2), None) if !contexts.durable && contexts.durable_v2.is_none() => {
            (v2.file_id, Some(v2.create_guid))
        }
        (Some(_), _) => return Some(Err(NtStatus::INVALID_PARAMETER.into())),
        (None, Some(_)) if contexts.durable_v2.is_some() => {
            return Some(Err(NtStatus::INVALID_PARAMETER.into()));
        }
        (None, Some(file_id)) => (file_id, None),
        (None, None) if contexts.durable && contexts.durable_v2.is_some() => {
            return Some(Err(NtStatus::INVALID_PARAMETER.into()));
        }
        (None, None) => return None,
    };
    let Some(open) = ctx.server.opens.durable.find(file_id) else {
        return Some(Err(NtStatus::OBJECT_NAME_NOT_FOUND.into()));
    };
    let disk = open.disk()?;
    let checked = check(ctx, disk, guid, contexts.lease);
    Some(match checked {
        Ok(()) => match resume(ctx, request, contexts, &open, disk).await {
            Ok(reply) => Ok(reply),
            Err(reply) => Err(reply),
        },
        Err(status) => Err(status.into()),
    })
}

/// The same user, client, create guid and lease as when the open was made.
fn check(
    ctx: &OpContext,
    disk: &DiskOpen,
    guid: Option<[u8; 16]>,
    lease: Option<LeaseContext>,
) -> Result<(), NtStatus> {
    let not_found = Err(NtStatus::OBJECT_NAME_NOT_FOUND);
    let Some(state) = *disk.durable.lock() else {
        return not_found;
    };
    // An open may be claimed in the words of either version: version 1 knows no guid, which is zero in version 2.
    let other = guid.is_some_and(|guid| guid != state.create_guid.unwrap_or_default());
    if other || disk.lease.map(|k| k.0) != lease.map(|l| l.key) {
        return not_found;
    }
    if disk.lease.is_some() && state.client_guid != ctx.conn.client_guid() {
        return not_found;
    }
    if state.user != ctx.session.caller.identity.user {
        return Err(NtStatus::ACCESS_DENIED);
    }
    Ok(())
}

async fn resume(
    ctx: &OpContext,
    request: &CreateRequest,
    contexts: &CreateContexts,
    open: &std::sync::Arc<SmbOpen>,
    disk: &DiskOpen,
) -> Result<OpReply, OpReply> {
    let share = ctx.share()?;
    if disk.lease.is_some() && !same_path(disk, request).await {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    let gone = || OpReply::error(NtStatus::OBJECT_NAME_NOT_FOUND);
    if ctx.server.opens.durable.take(open.id).is_none() {
        return Err(gone());
    }
    let caller = ctx.session.caller.clone();
    disk.listener.attach(&ctx.session);
    if disk
        .open
        .reconnect(caller, disk.listener.clone())
        .await
        .is_err()
    {
        return Err(gone());
    }
    open.tree.store(ctx.tree.id.0, Relaxed);
    let attributes = disk.open.attributes().await?;
    if ctx.session.opens.insert(open.clone()).is_err() {
        return Err(NtStatus::INSUFFICIENT_RESOURCES.into());
    }
    let granted = Granted {
        file_id: open.id,
        action: wire::CreateAction::Opened,
        attributes: &attributes,
        reserved: disk.reserved.load(std::sync::atomic::Ordering::Relaxed),
        cache: disk.open.cache().await,
        durable: None,
    };
    Ok(granted.reply(share, contexts).await)
}

async fn same_path(disk: &DiskOpen, request: &CreateRequest) -> bool {
    let wanted = sluice_smb_wire::names::SmbPath::decode(&request.name);
    let Ok(held) = disk.open.path().await else {
        return false;
    };
    wanted.is_ok_and(|w| w.components.join("/").to_lowercase() == held.to_lowercase())
}
