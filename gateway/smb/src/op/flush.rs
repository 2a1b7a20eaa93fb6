//! FLUSH (MS-SMB2 3.3.5.11): answered when content and metadata are durable.

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::flush::{FlushRequest, encode_response};
use sluice_vfs::AccessMask;

use super::{Answer, OpContext, OpReply, need_any};
use crate::open::Opened;

/// Handles FLUSH. Folders take ADD_FILE and ADD_SUBDIRECTORY, which are the bits of write and append.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = FlushRequest::decode(&ctx.message)?;
    let open = ctx.open(request.file_id)?;
    if let Opened::Disk(disk) = &open.kind {
        need_any(disk, AccessMask::WRITE_DATA | AccessMask::APPEND_DATA)?;
        let flush = disk.open.flush();
        ctx.interruptible(&open.closed, NtStatus::FILE_CLOSED, flush)
            .await?;
    }
    Ok(OpReply::ok(encode_response()).file(open.id))
}
