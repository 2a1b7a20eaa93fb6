//! READ (MS-SMB2 3.3.5.12): a small header and the store's own bytes.

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::read::{ReadRequest, encode_response_head};
use sluice_vfs::{AccessMask, ReadData};

use super::{Answer, OpContext, OpReply, need_any};
use crate::open::{DiskOpen, Opened};

/// Handles READ.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = ReadRequest::decode(&ctx.message)?;
    if request.length > ctx.max_io() || request.channel != 0 {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    let open = ctx.open(request.file_id)?;
    let data = match &open.kind {
        Opened::Disk(disk) => read_document(ctx, &open.closed, disk, &request).await?,
        Opened::Pipe(pipe) => {
            let (status, data) = pipe.read(request.length as usize)?;
            let head = encode_response_head(data.len() as u32);
            return Ok(OpReply::with_status(status, head)
                .payload(data)
                .file(open.id));
        }
    };
    let mut reply = OpReply::ok(encode_response_head(data.len as u32)).file(open.id);
    reply.payload = data.parts;
    Ok(reply)
}

async fn read_document(
    ctx: &OpContext,
    closed: &tokio_util::sync::CancellationToken,
    disk: &DiskOpen,
    request: &ReadRequest,
) -> Result<ReadData, OpReply> {
    if disk.is_folder() {
        return Err(NtStatus::INVALID_DEVICE_REQUEST.into());
    }
    need_any(disk, AccessMask::READ_DATA | AccessMask::EXECUTE)?;
    let end = request.offset.checked_add(u64::from(request.length));
    if end.is_none_or(|end| end > i64::MAX as u64) {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    if request.length == 0 {
        // Nothing is touched, so no locked range is either.
        return match request.minimum_count {
            0 => Ok(ReadData::default()),
            _ => Err(NtStatus::END_OF_FILE.into()),
        };
    }
    let read = disk.open.read(request.offset, request.length);
    let data = ctx
        .interruptible(closed, NtStatus::FILE_CLOSED, read)
        .await?;
    let short = data.len < request.minimum_count as usize;
    if short || data.len == 0 {
        return Err(NtStatus::END_OF_FILE.into());
    }
    let moved = request.offset + data.len as u64;
    disk.position
        .store(moved, std::sync::atomic::Ordering::Relaxed);
    Ok(data)
}
