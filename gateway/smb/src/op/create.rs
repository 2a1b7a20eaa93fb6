//! CREATE (MS-SMB2 3.3.5.9): from request to handle.
//!
//! The order is: what the request says of itself, reconnects, the file layer's decision, the handle, the
//! answer's contexts. Waiting for a break or another open happens inside the file layer and ends with CANCEL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_smb_wire::cmd::create::{self as wire, CreateRequest, CreateResponse};
use sluice_smb_wire::codec::{patch_u32, utf16le};
use sluice_smb_wire::create_ctx::{
    ContextWriter, CreateContexts, LEASE_FLAG_BREAKING, LEASE_FLAG_PARENT_KEY, LeaseContext,
    LeaseV2,
};
use sluice_smb_wire::names::{SmbPath, to_wire_name};
use sluice_smb_wire::{FileId, NtStatus};
use sluice_vfs::{
    AccessMask, Attributes, CreateAction, GrantedCache, LeaseState, NodeKind, OplockLevel, RelPath,
    VfsError,
};
use tokio_util::sync::CancellationToken;

use super::create_request::{path_status, to_vfs, validate};
use super::{Answer, OpContext, OpReply, facts, reconnect, replay};
use crate::open::durable::{DEFAULT_TIMEOUT, DurableState, MAX_TIMEOUT};
use crate::open::{DiskOpen, OpenListener, Opened, Replay, SmbOpen, wire_level};
use crate::rpc::Pipe;
use crate::session::TreeKind;
use crate::status::status_of;

/// Handles CREATE.
pub async fn handle(ctx: &OpContext) -> Answer {
    let request = CreateRequest::decode(&ctx.message)?;
    let TreeKind::Disk(tree) = &ctx.tree.kind else {
        return open_pipe(ctx, &request);
    };
    let contexts = CreateContexts::decode(&request.contexts)?;
    if let Some(answer) = reconnect::try_reconnect(ctx, &request, &contexts).await {
        return answer;
    }
    let path = SmbPath::decode(&request.name).map_err(path_status)?;
    let disposition = validate(ctx, &request, &path)?;
    if contexts.timewarp.is_some_and(|time| time != 0) {
        // There are no snapshots to open.
        return Err(NtStatus::OBJECT_NAME_NOT_FOUND.into());
    }
    let entry = match contexts.durable_v2 {
        Some(v2) => match replay::begin(ctx, tree, &request, &contexts, v2.create_guid).await {
            Ok(entry) => entry,
            Err(answer) => return *answer,
        },
        None => None,
    };
    let file_id = ctx.server.opens.new_file_id();
    let listener = OpenListener::new(file_id, &ctx.session);
    let components = path.components.clone();
    let open = to_vfs(ctx, &request, disposition, path, &contexts, &listener)?;
    let opened = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(ctx.cancelled_status(NtStatus::CANCELLED).into()),
        opened = tree.open(open) => opened,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(VfsError::IsSymlink(target)) => {
            return Err(symlink_error(tree, &components, &target).await);
        }
        Err(error) => return Err(create_status(&error).into()),
    };
    let durable = durable_state(ctx, &contexts, &opened);
    let done = action(opened.action);
    let open = Arc::new(SmbOpen {
        id: file_id,
        tree: AtomicU32::new(ctx.tree.id.0),
        kind: Opened::Disk(Box::new(DiskOpen {
            open: opened.open.clone(),
            tree: tree.as_ref().clone(),
            position: AtomicU64::new(0),
            mode: AtomicU32::new(request.options & MODE_BITS),
            write_through: request.has(wire::OPT_WRITE_THROUGH),
            lease: match opened.cache {
                GrantedCache::Lease { key, .. } => Some(key),
                _ => None,
            },
            scan: Default::default(),
            watch: Default::default(),
            notify_len: AtomicU32::new(0),
            reserved: AtomicU64::new(contexts.allocation.unwrap_or(0)),
            lock_sequence: Mutex::new([0; 65]),
            durable: Mutex::new(durable),
            channel_sequence: AtomicU16::new(ctx.header.channel_sequence()),
            replay: entry.map(|entry| Replay {
                entry,
                action: done,
                used: AtomicBool::new(false),
            }),
            listener,
        })),
        closed: CancellationToken::new(),
    });
    if let Some(replay) = open.disk().and_then(|d| d.replay.as_ref()) {
        replay.entry.opened(&open);
    }
    register(ctx, open).await?;
    let answer = Granted {
        file_id,
        action: done,
        attributes: &opened.attributes,
        reserved: contexts.allocation.unwrap_or(0),
        cache: opened.cache,
        durable,
    };
    Ok(answer.reply(tree, &contexts).await)
}

/// Create options that FileModeInformation shows (MS-FSCC 2.4.31).
const MODE_BITS: u32 = wire::OPT_WRITE_THROUGH
    | wire::OPT_SEQUENTIAL_ONLY
    | wire::OPT_NO_INTERMEDIATE_BUFFERING
    | wire::OPT_SYNCHRONOUS_IO_ALERT
    | wire::OPT_SYNCHRONOUS_IO_NONALERT
    | wire::OPT_DELETE_ON_CLOSE;

/// Adds the handle; an open that came too late for its session closes again.
async fn register(ctx: &OpContext, open: Arc<SmbOpen>) -> Result<(), OpReply> {
    let refused = match ctx.session.opens.insert(open.clone()) {
        Err(refused) => Some((refused, NtStatus::INSUFFICIENT_RESOURCES)),
        // The session or tree connect may have ended, and closed its opens, before this one was in.
        Ok(()) if ctx.tree.ended.is_cancelled() || ctx.session.ended.is_cancelled() => {
            let back = ctx.session.opens.remove(open.id);
            back.map(|open| (open, NtStatus::CANCELLED))
        }
        Ok(()) => None,
    };
    let Some((open, status)) = refused else {
        return Ok(());
    };
    if let Some(disk) = open.disk() {
        disk.open.close().await?;
    }
    Err(status.into())
}

/// CREATE has its own words for some outcomes.
fn create_status(error: &VfsError) -> NtStatus {
    match error {
        VfsError::ReadOnlyShare => NtStatus::ACCESS_DENIED,
        VfsError::Stale => NtStatus::OBJECT_NAME_NOT_FOUND,
        other => status_of(other),
    }
}

fn action(action: CreateAction) -> wire::CreateAction {
    match action {
        CreateAction::Superseded => wire::CreateAction::Superseded,
        CreateAction::Opened => wire::CreateAction::Opened,
        CreateAction::Created => wire::CreateAction::Created,
        CreateAction::Overwritten => wire::CreateAction::Overwritten,
    }
}

/// Durable if asked for and the caching right lets the client work on without the server (3.3.5.9.6, 3.3.5.9.10).
fn durable_state(
    ctx: &OpContext,
    contexts: &CreateContexts,
    opened: &sluice_vfs::Opened,
) -> Option<DurableState> {
    let asked = contexts.durable || contexts.durable_v2.is_some();
    let keeps = match opened.cache {
        GrantedCache::Oplock(level) => level == OplockLevel::Batch,
        GrantedCache::Lease { state, .. } => state.0 & LeaseState::HANDLE != 0,
        GrantedCache::None => false,
    };
    if !asked || !keeps || opened.open.is_directory() {
        return None;
    }
    let v2 = contexts.durable_v2;
    let timeout = match v2.map(|v2| v2.timeout_ms) {
        None | Some(0) => DEFAULT_TIMEOUT,
        Some(ms) => Duration::from_millis(ms.into()).min(MAX_TIMEOUT),
    };
    Some(DurableState {
        create_guid: v2.map(|v2| v2.create_guid),
        timeout,
        user: ctx.session.caller.identity.user,
        client_guid: ctx.conn.client_guid(),
    })
}

/// What the answer to a successful CREATE says.
pub(super) struct Granted<'a> {
    pub(super) file_id: FileId,
    pub(super) action: wire::CreateAction,
    pub(super) attributes: &'a Attributes,
    /// AllocationSize that this handle reserved.
    pub(super) reserved: u64,
    pub(super) cache: GrantedCache,
    /// `Some` tells the client that its open is durable.
    pub(super) durable: Option<DurableState>,
}

impl Granted<'_> {
    pub(super) async fn reply(&self, tree: &sluice_vfs::Tree, asked: &CreateContexts) -> OpReply {
        let mut out = ContextWriter::default();
        if asked.maximal_access {
            let all = AccessMask(AccessMask::FILE_ALL);
            match tree.access(self.attributes.id, all).await {
                Ok(access) => out.maximal_access(NtStatus::SUCCESS.0, access.0),
                Err(error) => out.maximal_access(status_of(&error).0, 0),
            }
        }
        if asked.disk_id {
            out.disk_id(self.attributes.id.0, u64::from(tree.share().id.0));
        }
        let oplock_level = self.cache_answer(asked.lease, &mut out);
        match self.durable {
            Some(state) if state.create_guid.is_some() => {
                out.durable_v2(state.timeout.as_millis() as u32, 0);
            }
            Some(_) => out.durable(),
            None => {}
        }
        if let Some(query) = &asked.aapl {
            const VOLUME_FULL_SYNC: u64 = 4;
            out.aapl(query, 0, VOLUME_FULL_SYNC, "Sluice");
        }
        let response = CreateResponse {
            oplock_level,
            action: self.action,
            stamp: facts::stamp_reserved(self.attributes, self.reserved),
            file_id: self.file_id,
            contexts: out.finish(),
        };
        OpReply::ok(response.encode()).file(self.file_id)
    }

    /// The oplock level; a lease goes into its context, in the version that the client asked with.
    fn cache_answer(&self, asked: Option<LeaseContext>, out: &mut ContextWriter) -> u8 {
        const LEASE: u8 = 0xFF;
        let (key, state, epoch, breaking) = match self.cache {
            GrantedCache::None => return wire_level(OplockLevel::None),
            GrantedCache::Oplock(level) => return wire_level(level),
            GrantedCache::Lease {
                key,
                state,
                epoch,
                breaking,
            } => (key, state, epoch, breaking),
        };
        // A lease keeps the version that it was made with, whichever the client asks with now.
        let v2 = (epoch != 0).then(|| asked.and_then(|a| a.v2).unwrap_or_default());
        let parent = asked.map_or(0, |a| a.flags & LEASE_FLAG_PARENT_KEY);
        let mut flags = if v2.is_some() { parent } else { 0 };
        if breaking {
            flags |= LEASE_FLAG_BREAKING;
        }
        out.lease(&LeaseContext {
            key: key.0,
            state: state.0,
            flags,
            v2: v2.map(|v2| LeaseV2 {
                parent_key: if parent != 0 { v2.parent_key } else { [0; 16] },
                epoch,
            }),
        });
        LEASE
    }
}

/// A CREATE on IPC$ names a pipe; unknown ones fail at once, or macOS waits for them.
fn open_pipe(ctx: &OpContext, request: &CreateRequest) -> Answer {
    let name = utf16le(&request.name)?.ok_or(NtStatus::OBJECT_NAME_INVALID)?;
    if request.impersonation_level > 3 {
        return Err(NtStatus::BAD_IMPERSONATION_LEVEL.into());
    }
    let pipe = Pipe::open(name.trim_start_matches('\\')).ok_or(NtStatus::OBJECT_NAME_NOT_FOUND)?;
    let file_id = ctx.server.opens.new_file_id();
    let open = SmbOpen {
        id: file_id,
        tree: AtomicU32::new(ctx.tree.id.0),
        kind: Opened::Pipe(pipe),
        closed: CancellationToken::new(),
    };
    if ctx.session.opens.insert(Arc::new(open)).is_err() {
        return Err(NtStatus::INSUFFICIENT_RESOURCES.into());
    }
    let response = CreateResponse {
        oplock_level: wire_level(OplockLevel::None),
        action: wire::CreateAction::Opened,
        stamp: wire::FileStamp {
            allocation: 4096,
            attributes: sluice_smb_wire::fscc::ATTR_NORMAL,
            ..wire::FileStamp::default()
        },
        file_id,
        contexts: BytesMut::new(),
    };
    Ok(OpReply::ok(response.encode()).file(file_id))
}

/// STATUS_STOPPED_ON_SYMLINK with what the client needs to go on by itself (MS-SMB2 2.2.2.2.1).
async fn symlink_error(tree: &sluice_vfs::Tree, path: &[String], target: &str) -> OpReply {
    let mut unparsed = 0;
    for upto in 1..path.len() {
        let Ok(prefix) = RelPath::from_components(path[..upto].to_vec()) else {
            break;
        };
        let found = tree.resolve(&prefix).await;
        if found.is_ok_and(|a| a.kind == NodeKind::Symlink) {
            let rest = &path[upto..];
            let units = rest.iter().map(|p| to_wire_name(p).encode_utf16().count());
            unparsed = 2 * (units.sum::<usize>() + rest.len());
            break;
        }
    }
    OpReply::error_with(NtStatus::STOPPED_ON_SYMLINK, symlink_data(target, unparsed))
}

/// Appends a symbolic link's reparse data: names twice, flags (MS-FSCC 2.1.2.4).
pub(super) fn put_symlink(out: &mut BytesMut, target: &str) {
    const RELATIVE: u32 = 1;
    let parts: Vec<String> = target.split('/').map(to_wire_name).collect();
    let name = sluice_smb_wire::codec::to_utf16le(&parts.join("\\"));
    let len = name.len() as u16;
    out.put_u16_le(0);
    out.put_u16_le(len);
    out.put_u16_le(len);
    out.put_u16_le(len);
    out.put_u32_le(if target.starts_with('/') { 0 } else { RELATIVE });
    out.put_slice(&name);
    out.put_slice(&name);
}

fn symlink_data(target: &str, unparsed: usize) -> Bytes {
    const SYMLINK_ERROR_TAG: u32 = 0x4C4D_5953;
    let mut out = BytesMut::with_capacity(64);
    out.put_u32_le(0);
    out.put_u32_le(SYMLINK_ERROR_TAG);
    out.put_u32_le(sluice_smb_wire::fscc::REPARSE_TAG_SYMLINK);
    let mut reparse = BytesMut::new();
    put_symlink(&mut reparse, target);
    out.put_u16_le(reparse.len() as u16);
    out.put_u16_le(u16::try_from(unparsed).unwrap_or(0));
    out.put_slice(&reparse);
    let len = out.len() as u32 - 4;
    patch_u32(&mut out, 0, len);
    out.freeze()
}
