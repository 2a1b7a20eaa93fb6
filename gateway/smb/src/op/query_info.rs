//! QUERY_INFO (MS-SMB2 3.3.5.20): file, file system and security information.

use bytes::{Bytes, BytesMut};
use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::negotiate::Dialect;
use sluice_smb_wire::cmd::query_info::{
    INFO_FILE, INFO_FILESYSTEM, INFO_QUOTA, INFO_SECURITY, QueryInfoRequest, encode_buffer_head,
};
use sluice_smb_wire::fscc::{ea, file, fs};
use sluice_vfs::{AccessMask, NodeKind};

use super::facts::file_facts;
use super::{Answer, OpContext, OpReply, disk_of, need_any, security};
use crate::open::{DiskOpen, Opened};

/// Handles QUERY_INFO.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = QueryInfoRequest::decode(&ctx.message)?;
    if request.output_len > ctx.max_io() {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    let open = ctx.open(request.file_id)?;
    if let Opened::Pipe(pipe) = &open.kind {
        let body = pipe.query_info(request.info_type, request.class)?;
        return Ok(fitted(body, request.output_len).file(open.id));
    }
    let disk = disk_of(&open)?;
    let reply = match request.info_type {
        INFO_FILE => {
            // Clients older than 3.1.1 don't expect this class (MS-SMB2 3.3.5.20.1).
            let normalized = request.class == file::NORMALIZED_NAME;
            if normalized && ctx.conn.dialect() < Dialect::Smb311 {
                return Err(NtStatus::NOT_SUPPORTED.into());
            }
            file_info(disk, &request).await?
        }
        INFO_FILESYSTEM => fs_info(ctx, disk, &request).await?,
        INFO_SECURITY => security_info(disk, &request).await?,
        INFO_QUOTA => return Err(NtStatus::INVALID_DEVICE_REQUEST.into()),
        _ => return Err(NtStatus::INVALID_PARAMETER.into()),
    };
    Ok(reply.file(open.id))
}

/// The buffer, cut with STATUS_BUFFER_OVERFLOW if the client's is smaller.
fn fitted(body: BytesMut, limit: u32) -> OpReply {
    let mut body = body.freeze();
    let mut status = NtStatus::SUCCESS;
    if body.len() > limit as usize {
        body.truncate(limit as usize);
        status = NtStatus::BUFFER_OVERFLOW;
    }
    OpReply::with_status(status, encode_buffer_head(body.len() as u32)).payload(body)
}

async fn file_info(disk: &DiskOpen, request: &QueryInfoRequest) -> Answer {
    let fixed = file::fixed_len(request.class).ok_or(NtStatus::INVALID_INFO_CLASS)?;
    if (request.output_len as usize) < fixed {
        return Err(NtStatus::INFO_LENGTH_MISMATCH.into());
    }
    match request.class {
        file::BASIC | file::ALL | file::NETWORK_OPEN | file::ATTRIBUTE_TAG => {
            need_any(disk, AccessMask::READ_ATTRIBUTES)?;
        }
        file::FULL_EA => need_any(disk, AccessMask::READ_EA)?,
        _ => {}
    }
    match request.class {
        file::FULL_EA => full_ea(disk, request).await,
        file::STREAM => streams(disk, request).await,
        file::PIPE | file::PIPE_LOCAL => Err(NtStatus::INVALID_PARAMETER.into()),
        class => {
            let facts = file_facts(disk).await?;
            let body = file::encode(class, &facts).ok_or(NtStatus::INVALID_INFO_CLASS)?;
            Ok(fitted(body, request.output_len))
        }
    }
}

/// Lists or picks extended attributes. A list that doesn't fit is cut after the last whole entry.
async fn full_ea(disk: &DiskOpen, request: &QueryInfoRequest) -> Answer {
    let all = disk.open.eas().await?;
    let names = ea::decode_names(&request.input).map_err(|_| NtStatus::INVALID_PARAMETER)?;
    let empty: &[u8] = &[];
    let picked: Vec<(&str, &[u8])> = if names.is_empty() {
        all.iter()
            .map(|e| (e.name.as_str(), e.value.as_slice()))
            .collect()
    } else {
        let value = |name: &str| {
            let found = all.iter().find(|e| e.name.eq_ignore_ascii_case(name));
            found.map_or(empty, |e| e.value.as_slice())
        };
        names.iter().map(|n| (n.as_str(), value(n))).collect()
    };
    if picked.is_empty() {
        return Err(NtStatus::NO_EAS_ON_FILE.into());
    }
    let body = ea::encode_full(picked.into_iter());
    if body.len() > request.output_len as usize {
        return Err(NtStatus::BUFFER_TOO_SMALL.into());
    }
    Ok(fitted(body, request.output_len))
}

async fn streams(disk: &DiskOpen, request: &QueryInfoRequest) -> Answer {
    let attributes = disk.tree.attributes(disk.open.content().node, true).await?;
    let named = disk.open.streams().await?;
    let mut list = Vec::with_capacity(named.len() + 1);
    if attributes.kind != NodeKind::Directory {
        list.push(("::$DATA".to_owned(), attributes.size, attributes.allocated));
    }
    for stream in named {
        let name = &stream.name;
        list.push((format!(":{name}:$DATA"), stream.size, stream.allocated));
    }
    let body = file::encode_streams(list.iter().map(|(n, s, a)| (n.as_str(), *s, *a)));
    Ok(fitted(body, request.output_len))
}

async fn fs_info(ctx: &OpContext, disk: &DiskOpen, request: &QueryInfoRequest) -> Answer {
    let fixed = fs::fixed_len(request.class).ok_or(NtStatus::INVALID_INFO_CLASS)?;
    if (request.output_len as usize) < fixed {
        return Err(NtStatus::INFO_LENGTH_MISMATCH.into());
    }
    let space = disk.tree.space().await?;
    let share = disk.open.share();
    let root = disk.tree.attributes(disk.tree.root(), false).await?;
    let facts = fs::VolumeFacts {
        created: super::facts::filetime(root.created),
        serial: share.id.0.wrapping_mul(0x9E37_79B1) | 1,
        label: &share.name,
        total: space.total,
        free: space.free,
        object_id: ctx.server.guid,
    };
    let body = fs::encode(request.class, &facts).ok_or(NtStatus::INVALID_INFO_CLASS)?;
    Ok(fitted(body, request.output_len))
}

/// Security information is never cut: a small buffer gets the length that is needed (3.3.5.20.3).
async fn security_info(disk: &DiskOpen, request: &QueryInfoRequest) -> Answer {
    let body = security::query(disk, request.additional).await?;
    if body.len() > request.output_len as usize {
        let needed = Bytes::copy_from_slice(&(body.len() as u32).to_le_bytes());
        return Err(OpReply::error_with(NtStatus::BUFFER_TOO_SMALL, needed));
    }
    Ok(fitted(body, request.output_len))
}
