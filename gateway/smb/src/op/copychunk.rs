//! Server-side copy, FSCTL_SRV_COPYCHUNK and its _WRITE twin (MS-SMB2 3.3.5.15.6).

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::ioctl::{self as wire, CopyChunk, CopyChunkRequest, IoctlRequest};
use sluice_vfs::{AccessMask, VfsError};

use super::ioctl::{reply, source_of};
use super::{Answer, OpContext, OpReply, disk_of, need_any};
use crate::open::{DiskOpen, SmbOpen};

/// ServerSideCopyMaxNumberofChunks, as Windows has it.
const MAX_CHUNKS: u32 = 256;
/// ServerSideCopyMaxChunkSize.
const MAX_CHUNK_BYTES: u32 = 1 << 20;
/// ServerSideCopyMaxDataSize.
const MAX_TOTAL_BYTES: u32 = 16 << 20;

/// Handles a copy into `open`.
pub async fn handle(ctx: &OpContext, request: &IoctlRequest, open: &SmbOpen) -> Answer {
    const ANSWER_LEN: u32 = 12;
    if request.max_output < ANSWER_LEN {
        return Err(NtStatus::INVALID_PARAMETER.into());
    }
    let copy = CopyChunkRequest::decode(&request.input, MAX_CHUNKS)?;
    if exceeds_limits(&copy) {
        let limits = wire::encode_copychunk_response(MAX_CHUNKS, MAX_CHUNK_BYTES, MAX_TOTAL_BYTES);
        let answer = reply(request, open.id, limits).file(open.id);
        return Ok(OpReply {
            status: NtStatus::INVALID_PARAMETER,
            ..answer
        });
    }
    let source = source_of(ctx, &copy.source_key)?;
    let (from, to) = (disk_of(&source)?, disk_of(open)?);
    check(request, from, to)?;
    let (status, chunks, bytes) = run(from, to, &copy.chunks).await;
    let output = wire::encode_copychunk_response(chunks, 0, bytes);
    let answer = reply(request, open.id, output).file(open.id);
    Ok(OpReply { status, ..answer })
}

fn exceeds_limits(copy: &CopyChunkRequest) -> bool {
    let total: u64 = copy.chunks.iter().map(|c| u64::from(c.length)).sum();
    copy.chunk_count > MAX_CHUNKS
        || total > u64::from(MAX_TOTAL_BYTES)
        || copy
            .chunks
            .iter()
            .any(|c| c.length == 0 || c.length > MAX_CHUNK_BYTES)
}

/// The source must be readable, the target writable; plain COPYCHUNK wants the target readable too.
fn check(request: &IoctlRequest, from: &DiskOpen, to: &DiskOpen) -> Result<(), NtStatus> {
    if from.is_folder() || to.is_folder() {
        return Err(NtStatus::INVALID_DEVICE_REQUEST);
    }
    need_any(from, AccessMask::READ_DATA | AccessMask::EXECUTE)?;
    need_any(to, AccessMask::WRITE_DATA | AccessMask::APPEND_DATA)?;
    if request.code == wire::SRV_COPYCHUNK {
        need_any(to, AccessMask::READ_DATA)?;
    }
    if from.open.share().id != to.open.share().id {
        return Err(NtStatus::OBJECT_NAME_NOT_FOUND);
    }
    Ok(())
}

/// Copies chunk after chunk; what was copied before a failure is told with it.
async fn run(from: &DiskOpen, to: &DiskOpen, chunks: &[CopyChunk]) -> (NtStatus, u32, u32) {
    let mut done = 0;
    let mut bytes = 0;
    for chunk in chunks {
        match copy_one(from, to, chunk).await {
            Ok(()) => {
                done += 1;
                bytes += chunk.length;
            }
            Err(status) => return (status, done, bytes),
        }
    }
    (NtStatus::SUCCESS, done, bytes)
}

async fn copy_one(from: &DiskOpen, to: &DiskOpen, chunk: &CopyChunk) -> Result<(), NtStatus> {
    let status = |error: VfsError| crate::status::status_of(&error);
    let size = from.open.attributes().await.map_err(status)?.size;
    let length = u64::from(chunk.length);
    let end = chunk.source_offset.checked_add(length);
    if end.is_none_or(|end| end > size) {
        return Err(NtStatus::INVALID_VIEW_SIZE);
    }
    let copied = to
        .open
        .copy_from(&from.open, chunk.source_offset, chunk.target_offset, length)
        .await
        .map_err(status)?;
    match copied == length {
        true => Ok(()),
        false => Err(NtStatus::INVALID_VIEW_SIZE),
    }
}
