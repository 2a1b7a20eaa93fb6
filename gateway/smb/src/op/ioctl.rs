//! IOCTL (MS-SMB2 3.3.5.15): the control codes that clients use, and clean refusals of the others.

use bytes::{BufMut, Bytes, BytesMut};
use sluice_smb_wire::cmd::ioctl::{self as wire, IoctlRequest, NetworkInterface};
use sluice_smb_wire::codec::Reader;
use sluice_smb_wire::fscc::REPARSE_TAG_SYMLINK;
use sluice_smb_wire::{FileId, NtStatus};
use sluice_vfs::{AccessMask, AttributeChange, DosAttributes, NodeKind};

use super::create::put_symlink;
use super::{Answer, OpContext, OpReply, copychunk, disk_of, need_any};
use crate::open::{DiskOpen, Opened};

/// Handles IOCTL.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = IoctlRequest::decode(&ctx.message)?;
    if request.flags & wire::IS_FSCTL == 0 {
        return Err(NtStatus::NOT_SUPPORTED.into());
    }
    let most = ctx.max_io();
    if request.max_output > most || request.max_input > most || request.input.len() > most as usize
    {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    if is_without_file(request.code) && request.file_id != FileId::RELATED {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    match request.code {
        wire::VALIDATE_NEGOTIATE_INFO => validate_negotiate(ctx, &request),
        wire::QUERY_NETWORK_INTERFACE_INFO => network_interfaces(ctx, &request),
        // There is no DFS here: a client that asks must work with the share as it is.
        wire::DFS_GET_REFERRALS | wire::DFS_GET_REFERRALS_EX => Err(NtStatus::NOT_FOUND.into()),
        wire::PIPE_WAIT => Ok(reply(&request, FileId::RELATED, Bytes::new())),
        _ => on_open(ctx, &request).await,
    }
}

/// Codes that concern no file: their FileId must be all ones (MS-SMB2 3.3.5.15).
fn is_without_file(code: u32) -> bool {
    matches!(
        code,
        wire::VALIDATE_NEGOTIATE_INFO
            | wire::QUERY_NETWORK_INTERFACE_INFO
            | wire::DFS_GET_REFERRALS
            | wire::DFS_GET_REFERRALS_EX
            | wire::PIPE_WAIT
    )
}

/// The answer with its output.
pub(super) fn reply(request: &IoctlRequest, id: FileId, output: impl Into<Bytes>) -> OpReply {
    let output = output.into();
    let head = wire::encode_response_head(request.code, id, output.len() as u32);
    OpReply::ok(head).payload(output)
}

async fn on_open(ctx: &OpContext, request: &IoctlRequest) -> Answer {
    let open = ctx.open(request.file_id)?;
    let disk = match &open.kind {
        Opened::Disk(disk) => disk,
        Opened::Pipe(pipe) => {
            if request.code != wire::PIPE_TRANSCEIVE {
                return Err(NtStatus::INVALID_DEVICE_REQUEST.into());
            }
            let (status, output) =
                pipe.transceive(&ctx.server, &request.input, request.max_output as usize)?;
            let answer = reply(request, open.id, output).file(open.id);
            return Ok(OpReply { status, ..answer });
        }
    };
    ctx.check_channel_sequence(disk)?;
    let output = match request.code {
        wire::SRV_REQUEST_RESUME_KEY => resume_key(request, open.id)?,
        wire::SRV_COPYCHUNK | wire::SRV_COPYCHUNK_WRITE => {
            return copychunk::handle(ctx, request, &open).await;
        }
        wire::SET_SPARSE => set_sparse(disk, &request.input).await?,
        wire::SET_ZERO_DATA => zero_data(disk, &request.input).await?,
        wire::QUERY_ALLOCATED_RANGES => {
            let (status, output) = allocated_ranges(disk, request).await?;
            let answer = reply(request, open.id, output).file(open.id);
            return Ok(OpReply { status, ..answer });
        }
        wire::GET_COMPRESSION => {
            let mut none = BytesMut::new();
            none.put_u16_le(0);
            none
        }
        wire::SET_COMPRESSION => set_compression(&request.input)?,
        wire::CREATE_OR_GET_OBJECT_ID | wire::GET_OBJECT_ID => object_id(ctx, disk),
        wire::GET_REPARSE_POINT => reparse_point(ctx, disk).await?,
        wire::SRV_ENUMERATE_SNAPSHOTS => no_snapshots(request)?,
        wire::IS_PATHNAME_VALID => BytesMut::new(),
        _ => return Err(NtStatus::INVALID_DEVICE_REQUEST.into()),
    };
    if output.len() > request.max_output as usize {
        return Err(NtStatus::BUFFER_TOO_SMALL.into());
    }
    Ok(reply(request, open.id, output).file(open.id))
}

/// A key that names the open as the source of a copy: its handle (MS-SMB2 3.3.5.15.5).
fn resume_key(request: &IoctlRequest, id: FileId) -> Result<BytesMut, NtStatus> {
    const ANSWER_LEN: u32 = 32;
    if request.max_output < ANSWER_LEN {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    let mut key = [0; wire::RESUME_KEY_LEN];
    key[..8].copy_from_slice(&id.persistent.to_le_bytes());
    key[8..16].copy_from_slice(&id.volatile.to_le_bytes());
    Ok(wire::encode_resume_key_response(&key))
}

/// Repeats what was negotiated over a signed exchange; a difference means that somebody changed the
/// negotiation on its way, and the connection ends (MS-SMB2 3.3.5.15.12).
fn validate_negotiate(ctx: &OpContext, request: &IoctlRequest) -> Answer {
    let n = ctx.conn.negotiated().ok_or(NtStatus::FILE_CLOSED)?;
    let asked = wire::ValidateNegotiate::decode(&request.input);
    let same = asked.is_ok_and(|a| {
        a.capabilities == n.client_capabilities
            && a.client_guid == n.client_guid
            && a.security_mode == n.client_security_mode
            && a.dialects == n.client_dialects
    });
    if !same {
        ctx.conn.terminate();
        return Err(NtStatus::ACCESS_DENIED.into());
    }
    let output = wire::encode_validate_negotiate(
        n.server_capabilities,
        &ctx.server.guid,
        n.server_security_mode,
        n.dialect.code(),
    );
    if output.len() > request.max_output as usize {
        return Err(NtStatus::BUFFER_TOO_SMALL.into());
    }
    Ok(reply(request, FileId::RELATED, output))
}

/// The address that the client already talks to.
fn network_interfaces(ctx: &OpContext, request: &IoctlRequest) -> Answer {
    const GIGABIT: u64 = 1_000_000_000;
    let own = NetworkInterface {
        index: 1,
        link_speed: GIGABIT,
        address: ctx.conn.local.ip().to_canonical(),
    };
    let output = wire::encode_network_interfaces(&[own]);
    if output.len() > request.max_output as usize {
        return Err(NtStatus::BUFFER_TOO_SMALL.into());
    }
    Ok(reply(request, FileId::RELATED, output))
}

/// FSCTL_SET_SPARSE; an empty buffer means true (MS-FSCC 2.3.69).
async fn set_sparse(disk: &DiskOpen, input: &Bytes) -> Result<BytesMut, OpReply> {
    const WRITING: u32 =
        AccessMask::WRITE_DATA | AccessMask::APPEND_DATA | AccessMask::WRITE_ATTRIBUTES;
    need_any(disk, WRITING)?;
    if disk.is_folder() {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    let sparse = input.first().is_none_or(|b| *b != 0);
    let now = disk.open.attributes().await?.dos.0;
    let dos = match sparse {
        true => now | DosAttributes::SPARSE,
        false => now & !DosAttributes::SPARSE,
    };
    let change = AttributeChange {
        dos: Some(DosAttributes(dos)),
        ..AttributeChange::default()
    };
    if dos != now {
        // A handle that may write may do this, even without the right to attributes.
        let node = disk.open.content().node;
        disk.tree.set_attributes(node, change, None, None).await?;
    }
    Ok(BytesMut::new())
}

async fn zero_data(disk: &DiskOpen, input: &Bytes) -> Result<BytesMut, OpReply> {
    need_any(disk, AccessMask::WRITE_DATA)?;
    let (from, to) = wire::decode_zero_data(input)?;
    let size = disk.open.attributes().await?.size;
    let to = to.min(size);
    if from < to {
        disk.open.zero_range(from, to - from).await?;
    }
    Ok(BytesMut::new())
}

/// Ranges with data, as many as fit (MS-FSCC 2.3.52).
async fn allocated_ranges(
    disk: &DiskOpen,
    request: &IoctlRequest,
) -> Result<(NtStatus, BytesMut), OpReply> {
    const ENTRY_LEN: usize = 16;
    need_any(disk, AccessMask::READ_DATA)?;
    let (from, len) = wire::decode_allocated_range(&request.input)?;
    let attributes = disk.open.attributes().await?;
    let ranges = if attributes.dos.has(DosAttributes::SPARSE) {
        disk.open.allocated_ranges(from, len).await?
    } else {
        // Only sparse documents have holes to tell of.
        let end = attributes.size.min(from.saturating_add(len));
        let whole = (from < end).then(|| (from, end - from));
        whole.into_iter().collect()
    };
    let room = request.max_output as usize / ENTRY_LEN;
    if room == 0 && !ranges.is_empty() {
        return Err(NtStatus::BUFFER_TOO_SMALL.into());
    }
    let mut out = BytesMut::with_capacity(ranges.len().min(room) * ENTRY_LEN);
    for (offset, length) in ranges.iter().take(room) {
        out.put_u64_le(*offset);
        out.put_u64_le(*length);
    }
    match ranges.len() > room {
        true => Ok((NtStatus::BUFFER_OVERFLOW, out)),
        false => Ok((NtStatus::SUCCESS, out)),
    }
}

/// Nothing is compressed, and nothing can be; asking for that state succeeds.
fn set_compression(input: &Bytes) -> Result<BytesMut, OpReply> {
    match Reader::new(input).u16()? {
        0 => Ok(BytesMut::new()),
        _ => Err(NtStatus::NOT_SUPPORTED.into()),
    }
}

/// FILE_OBJECTID_BUFFER (MS-FSCC 2.1.3): made of the document's own id and the server's, so it needs no store.
fn object_id(ctx: &OpContext, disk: &DiskOpen) -> BytesMut {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&disk.open.content().node.0.to_le_bytes());
    id[8..].copy_from_slice(&ctx.server.guid[..8]);
    let mut out = BytesMut::with_capacity(64);
    out.put_slice(&id);
    out.put_slice(&ctx.server.guid);
    out.put_slice(&id);
    out.put_bytes(0, 16);
    out
}

async fn reparse_point(ctx: &OpContext, disk: &DiskOpen) -> Result<BytesMut, OpReply> {
    let attributes = disk.open.attributes().await?;
    if attributes.kind != NodeKind::Symlink {
        return Err(NtStatus::NOT_A_REPARSE_POINT.into());
    }
    let target = ctx.share()?.read_link(attributes.id).await?;
    let mut data = BytesMut::new();
    put_symlink(&mut data, &target);
    let mut out = BytesMut::with_capacity(data.len() + 8);
    out.put_u32_le(REPARSE_TAG_SYMLINK);
    out.put_u16_le(data.len() as u16);
    out.put_u16_le(0);
    out.put_slice(&data);
    Ok(out)
}

/// SRV_SNAPSHOT_ARRAY without snapshots (MS-SMB2 2.2.32.2).
fn no_snapshots(request: &IoctlRequest) -> Result<BytesMut, OpReply> {
    const ANSWER_LEN: usize = 16;
    if (request.max_output as usize) < ANSWER_LEN {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    Ok(BytesMut::zeroed(ANSWER_LEN))
}

/// The disk open that a copy source key names, in this session.
pub(super) fn source_of(
    ctx: &OpContext,
    key: &[u8; wire::RESUME_KEY_LEN],
) -> Result<std::sync::Arc<crate::open::SmbOpen>, NtStatus> {
    let key = Bytes::copy_from_slice(key);
    let id = FileId::decode(&mut Reader::new(&key)).map_err(|_| NtStatus::OBJECT_NAME_NOT_FOUND)?;
    let open = ctx.session.opens.get(id);
    let open = open.ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?;
    disk_of(&open)?;
    Ok(open)
}
