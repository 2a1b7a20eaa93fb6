//! CLOSE (MS-SMB2 3.3.5.10): what was written is durable before the answer.

use sluice_smb_wire::cmd::close::{CloseRequest, POSTQUERY_ATTRIB, encode_response};

use super::{Answer, OpContext, OpReply};
use crate::op::facts::stamp;
use crate::open::Opened;
use sluice_smb_wire::NtStatus;

/// Handles CLOSE.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = CloseRequest::decode(&ctx.message)?;
    let id = ctx.open(request.file_id)?.id;
    let open = ctx.session.opens.remove(id).ok_or(NtStatus::FILE_CLOSED)?;
    open.closed.cancel();
    let attributes = match &open.kind {
        Opened::Disk(disk) => disk.open.close().await?,
        Opened::Pipe(_) => None,
    };
    let wanted = request.flags & POSTQUERY_ATTRIB != 0;
    let stamp = attributes.filter(|_| wanted).map(|a| stamp(&a));
    Ok(OpReply::ok(encode_response(stamp)).file(id))
}
