//! WRITE (MS-SMB2 3.3.5.13): the payload stays the slice of the received frame.

use std::sync::atomic::Ordering::Relaxed;

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::write::{WRITE_THROUGH, WriteRequest, encode_response};
use sluice_vfs::{AccessMask, Stability};

use super::{Answer, OpContext, OpReply, need_any};
use crate::open::{DiskOpen, Opened};

/// The offset that means "at the end", for handles that may only append (MS-FSA 2.1.5.3).
const APPEND: u64 = u64::MAX;

/// Handles WRITE.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = WriteRequest::decode(&ctx.message)?;
    if request.data.len() > ctx.max_io() as usize || request.channel != 0 {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    let open = ctx.open(request.file_id)?;
    let count = request.data.len() as u32;
    match &open.kind {
        Opened::Disk(disk) => write_document(ctx, &open.closed, disk, request).await?,
        Opened::Pipe(pipe) => pipe.write(&ctx.server, &request.data)?,
    }
    Ok(OpReply::ok(encode_response(count)).file(open.id))
}

async fn write_document(
    ctx: &OpContext,
    closed: &tokio_util::sync::CancellationToken,
    disk: &DiskOpen,
    request: WriteRequest,
) -> Result<(), OpReply> {
    if disk.is_folder() {
        return Err(NtStatus::INVALID_DEVICE_REQUEST.into());
    }
    need_any(disk, AccessMask::WRITE_DATA | AccessMask::APPEND_DATA)?;
    ctx.check_channel_sequence(disk)?;
    let durable = disk.write_through || request.flags & WRITE_THROUGH != 0;
    let stability = match durable {
        true => Stability::Durable,
        false => Stability::Unstable,
    };
    let len = request.data.len() as u64;
    let only_appends = !disk.open.access().has(AccessMask::WRITE_DATA);
    let end = if request.offset == APPEND && only_appends {
        let append = disk.open.append(request.data, stability);
        let at = ctx.interruptible(closed, NtStatus::FILE_CLOSED, append);
        at.await? + len
    } else {
        let end = request.offset.checked_add(len);
        let end = end.filter(|end| *end <= i64::MAX as u64);
        let end = end.ok_or(NtStatus::INVALID_PARAMETER)?;
        if len > 0 {
            let write = disk.open.write(request.offset, request.data, stability);
            ctx.interruptible(closed, NtStatus::FILE_CLOSED, write)
                .await?;
        }
        end
    };
    disk.position.store(end, Relaxed);
    Ok(())
}
