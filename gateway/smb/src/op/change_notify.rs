//! CHANGE_NOTIFY (MS-SMB2 3.3.5.19): waits on the folder's watch, which lasts as long as the handle.

use std::sync::atomic::Ordering::Relaxed;

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::change_notify::{
    ChangeNotifyRequest, NotifyAction, WATCH_TREE, encode_changes,
};
use sluice_smb_wire::cmd::query_info::encode_buffer_head;
use sluice_smb_wire::names::to_wire_name;
use sluice_vfs::{AccessMask, Change, ChangeAction, ChangeFilter, VfsError};

use super::{Answer, OpContext, OpReply, disk_of, need_any};
use crate::open::DiskOpen;

/// Handles CHANGE_NOTIFY. The first request of a handle settles filter and depth; changes between two
/// requests are kept by the watch.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = ChangeNotifyRequest::decode(&ctx.message)?;
    if request.output_len > ctx.max_io() {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    let open = ctx.open(request.file_id)?;
    let disk = disk_of(&open)?;
    if !disk.open.is_directory() {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    need_any(disk, AccessMask::READ_DATA)?;
    start_watch(disk, &request).await?;
    ctx.pending();
    let changes = ctx.interruptible(&open.closed, NtStatus::NOTIFY_CLEANUP, next_changes(disk));
    let changes = match changes.await {
        Ok(changes) => changes,
        Err(status) => return Err(status.into()),
    };
    let first = disk.notify_len.load(Relaxed);
    let limit = request.output_len.min(first) as usize;
    match changes.and_then(|c| encode(&c, limit)) {
        Some(body) if !body.is_empty() => {
            let head = encode_buffer_head(body.len() as u32);
            Ok(OpReply::ok(head).payload(body).file(open.id))
        }
        _ => Err(NtStatus::NOTIFY_ENUM_DIR.into()),
    }
}

/// Makes the watch before the client hears STATUS_PENDING: what it changes after that must be told. A lock that
/// is taken belongs to an earlier request, which has made the watch.
async fn start_watch(disk: &DiskOpen, request: &ChangeNotifyRequest) -> Result<(), VfsError> {
    if let Ok(mut watch) = disk.watch.try_lock()
        && watch.is_none()
    {
        let filter = ChangeFilter(request.filter);
        let deep = request.flags & WATCH_TREE != 0;
        let made = disk.tree.watch(disk.open.content().node, filter, deep);
        *watch = Some(made.await?);
        disk.notify_len.store(request.output_len, Relaxed);
    }
    Ok(())
}

async fn next_changes(disk: &DiskOpen) -> Result<Option<Vec<Change>>, VfsError> {
    match &mut *disk.watch.lock().await {
        Some(watch) => watch.next().await,
        None => Err(VfsError::Cancelled),
    }
}

fn encode(changes: &[Change], limit: usize) -> Option<bytes::Bytes> {
    let named: Vec<(NotifyAction, String)> = changes
        .iter()
        .map(|c| (action(c.action), wire_relative(c)))
        .collect();
    let list = named.iter().map(|(action, path)| (*action, path.as_str()));
    encode_changes(list, limit).map(bytes::BytesMut::freeze)
}

/// `a/b` as `a\b`, each name mapped; changes of a stream keep the colon before its name.
fn wire_relative(change: &Change) -> String {
    let of_stream = matches!(
        change.action,
        ChangeAction::StreamAdded | ChangeAction::StreamRemoved | ChangeAction::StreamModified
    );
    let (path, stream) = match change.path.rsplit_once(':') {
        Some((path, stream)) if of_stream => (path, Some(stream)),
        _ => (change.path.as_str(), None),
    };
    let parts: Vec<String> = path.split('/').map(to_wire_name).collect();
    let mut out = parts.join("\\");
    if let Some(stream) = stream {
        out.push(':');
        out.push_str(stream);
    }
    out
}

fn action(action: ChangeAction) -> NotifyAction {
    match action {
        ChangeAction::Added => NotifyAction::Added,
        ChangeAction::Removed => NotifyAction::Removed,
        ChangeAction::Modified => NotifyAction::Modified,
        ChangeAction::RenamedFrom => NotifyAction::RenamedOld,
        ChangeAction::RenamedTo => NotifyAction::RenamedNew,
        ChangeAction::StreamAdded => NotifyAction::AddedStream,
        ChangeAction::StreamRemoved => NotifyAction::RemovedStream,
        ChangeAction::StreamModified => NotifyAction::ModifiedStream,
    }
}
