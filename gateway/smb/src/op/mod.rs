//! What a command handler gets and gives: context, reply, and the dispatch to one file per command.
//!
//! A handler never sends anything itself: it returns an [`OpReply`]; credits, signing, encryption, compound
//! layout and the interim response are the connection's. A handler that is about to wait for somebody else
//! (a break, a lock, a change) calls [`OpContext::pending`] first, so that the client hears
//! STATUS_PENDING at once; waits for storage need nothing, the connection sends the interim response by
//! itself after a short grace.

#![allow(
    clippy::result_large_err,
    reason = "both sides of a handler's answer are the same reply; boxing one would only add an allocation"
)]

pub mod change_notify;
pub mod close;
mod copychunk;
pub mod create;
mod create_request;
pub mod facts;
pub mod flush;
pub mod ioctl;
pub mod lock;
pub mod oplock_break;
pub mod query_directory;
pub mod query_info;
pub mod read;
mod reconnect;
mod replay;
mod security;
pub mod set_info;
pub mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use sluice_smb_wire::cmd::negotiate::Dialect;
use sluice_smb_wire::{Command, DecodeError, FileId, Header, NtStatus};
use sluice_vfs::VfsError;
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

use crate::conn::Connection;
use crate::open::{DiskOpen, SmbOpen};
use crate::server::Server;
use crate::session::{Session, Tree, TreeKind};
use crate::status::status_of;

/// One request of a verified session, with all that its handler may use.
#[derive(Clone)]
pub struct OpContext {
    /// The server: file layer, options, tables that span connections.
    pub server: Arc<Server>,
    /// The connection that the request came in on.
    pub conn: Arc<Connection>,
    /// The session, authenticated; its signature or encryption was verified.
    pub session: Arc<Session>,
    /// The tree connect; only file commands reach handlers, and they all have one.
    pub tree: Arc<Tree>,
    /// The request's header. In a related compound, session and tree id are already the inherited ones.
    pub header: Header,
    /// The message from its SMB2 header on (offsets in bodies count from its first byte), cut at the next
    /// message of the compound.
    pub message: Bytes,
    /// In a related compound: the file id that the request before opened or used.
    pub related_file: Option<FileId>,
    /// Cancelled by SMB2 CANCEL, by session or tree teardown, and by the loss of the connection. A handler
    /// that waits answers STATUS_CANCELLED when it fires.
    pub cancel: CancellationToken,
    /// True if the request was encrypted.
    pub encrypted: bool,
    /// Set by [`OpContext::pending`].
    pub(crate) waits: Arc<AtomicBool>,
}

impl OpContext {
    /// Declares that this request now waits for another party: the connection sends the interim
    /// STATUS_PENDING response as soon as the handler yields. Harmless if the handler finishes at once.
    pub fn pending(&self) {
        self.waits.store(true, Ordering::Release);
    }

    /// The file that a body's FileId names: in a related request the all-ones id stands for the file of the
    /// request before (MS-SMB2 3.3.5.2.7.2).
    pub fn resolve(&self, wire: FileId) -> FileId {
        match self.related_file {
            Some(file) if self.header.is_related() && wire == FileId::RELATED => file,
            _ => wire,
        }
    }
}

impl OpContext {
    /// Whether the request's credit charge pays for `bytes` of payload, the larger of what it carries and what
    /// it asks for (MS-SMB2 3.3.5.2.5). If not, the answer is STATUS_INVALID_PARAMETER.
    pub fn charge_covers(&self, bytes: usize) -> bool {
        if !self.conn.multi_credit() {
            return true;
        }
        let needed = bytes.max(1).div_ceil(64 * 1024);
        needed <= usize::from(self.header.credit_charge.max(1))
    }
}

/// A handler's answer.
#[derive(Debug)]
pub struct OpReply {
    /// Status of the response header.
    pub status: NtStatus,
    /// The response body from message offset 64 on. Empty together with an error or STATUS_NO_MORE_FILES
    /// like status: the connection then sends an ERROR response.
    pub body: BytesMut,
    /// Bulk data that follows `body` on the wire, never copied (READ, IOCTL, QUERY_DIRECTORY).
    pub payload: SmallVec<[Bytes; 2]>,
    /// The file that this request opened or used; what a related request after it inherits.
    pub file: Option<FileId>,
    /// ErrorData of an ERROR response (such as the needed length of STATUS_BUFFER_TOO_SMALL or a symbolic
    /// link); in 3.1.1 the connection wraps it in an error context (MS-SMB2 2.2.2).
    pub error_data: Bytes,
}

impl OpReply {
    /// A successful answer.
    pub fn ok(body: BytesMut) -> OpReply {
        OpReply::with_status(NtStatus::SUCCESS, body)
    }

    /// An answer with a body and any status, such as STATUS_BUFFER_OVERFLOW.
    pub fn with_status(status: NtStatus, body: BytesMut) -> OpReply {
        OpReply {
            status,
            body,
            payload: SmallVec::new(),
            file: None,
            error_data: Bytes::new(),
        }
    }

    /// An ERROR response.
    pub fn error(status: NtStatus) -> OpReply {
        OpReply::with_status(status, BytesMut::new())
    }

    /// An ERROR response with ErrorData.
    pub fn error_with(status: NtStatus, error_data: Bytes) -> OpReply {
        OpReply {
            error_data,
            ..OpReply::error(status)
        }
    }

    /// Adds bulk data after the body.
    pub fn payload(mut self, payload: Bytes) -> OpReply {
        self.payload.push(payload);
        self
    }

    /// States the file that a related request after this one inherits.
    pub fn file(self, file: FileId) -> OpReply {
        OpReply {
            file: Some(file),
            ..self
        }
    }
}

impl From<NtStatus> for OpReply {
    fn from(status: NtStatus) -> OpReply {
        OpReply::error(status)
    }
}

impl From<DecodeError> for OpReply {
    fn from(_: DecodeError) -> OpReply {
        OpReply::error(NtStatus::INVALID_PARAMETER)
    }
}

/// Handles one file command (CREATE to OPLOCK_BREAK, without CANCEL and ECHO, which the connection answers).
pub async fn dispatch(ctx: &OpContext) -> OpReply {
    let answer = match ctx.header.command() {
        Some(Command::Create) => create::handle(ctx).await,
        Some(Command::Close) => close::handle(ctx).await,
        Some(Command::Flush) => flush::handle(ctx).await,
        Some(Command::Read) => read::handle(ctx).await,
        Some(Command::Write) => write::handle(ctx).await,
        Some(Command::Lock) => lock::handle(ctx).await,
        Some(Command::Ioctl) => ioctl::handle(ctx).await,
        Some(Command::QueryDirectory) => query_directory::handle(ctx).await,
        Some(Command::ChangeNotify) => change_notify::handle(ctx).await,
        Some(Command::QueryInfo) => query_info::handle(ctx).await,
        Some(Command::SetInfo) => set_info::handle(ctx).await,
        Some(Command::OplockBreak) => oplock_break::handle(ctx).await,
        _ => Err(OpReply::error(NtStatus::INVALID_PARAMETER)),
    };
    answer.unwrap_or_else(|refusal| refusal)
}

/// What a handler returns: both sides are replies; `Err` is the way out with `?`.
pub(crate) type Answer = Result<OpReply, OpReply>;

impl From<VfsError> for OpReply {
    fn from(error: VfsError) -> OpReply {
        OpReply::error(status_of(&error))
    }
}

impl OpContext {
    /// The open that a body's FileId names; it must have come through this tree connect.
    pub(crate) fn open(&self, wire: FileId) -> Result<Arc<SmbOpen>, NtStatus> {
        let open = self.session.opens.get(self.resolve(wire));
        // A handle serves on its own tree connect only.
        let open = open
            .filter(|open| open.tree.load(Ordering::Relaxed) == self.tree.id.0)
            .ok_or(NtStatus::FILE_CLOSED)?;
        if let Some(disk) = open.disk() {
            self.note_channel_sequence(disk);
            if let Some(replay) = &disk.replay {
                replay.used.store(true, Ordering::Release);
            }
        }
        Ok(open)
    }

    /// The share's documents, if this is not the tree of pipes.
    pub(crate) fn share(&self) -> Result<&sluice_vfs::Tree, NtStatus> {
        match &self.tree.kind {
            TreeKind::Disk(tree) => Ok(tree),
            TreeKind::Pipe => Err(NtStatus::INVALID_DEVICE_REQUEST),
        }
    }

    /// Largest buffer of one request, in bytes.
    pub(crate) fn max_io(&self) -> u32 {
        self.conn.negotiated().map_or(65_536, |n| n.max_io)
    }

    /// Runs something that may wait for others; SMB2 CANCEL and the end of the handle stop it.
    pub(crate) async fn interruptible<T>(
        &self,
        closed: &CancellationToken,
        when_closed: NtStatus,
        work: impl Future<Output = Result<T, VfsError>>,
    ) -> Result<T, NtStatus> {
        tokio::select! {
            biased;
            () = closed.cancelled() => Err(when_closed),
            () = self.cancel.cancelled() => Err(self.cancelled_status(when_closed)),
            done = work => done.map_err(|e| status_of(&e)),
        }
    }

    /// Why a request was cancelled: by the client's CANCEL, or because its tree connect or session ended.
    pub(crate) fn cancelled_status(&self, when_closed: NtStatus) -> NtStatus {
        if self.tree.ended.is_cancelled() || self.session.ended.is_cancelled() {
            when_closed
        } else {
            NtStatus::CANCELLED
        }
    }
}

impl OpContext {
    /// Remembers the newest ChannelSequence that any request on the handle carried (MS-SMB2 3.3.5.2.10).
    fn note_channel_sequence(&self, disk: &DiskOpen) {
        if self.conn.dialect() < Dialect::Smb300 {
            return;
        }
        let sent = self.header.channel_sequence();
        // Kept as it is if it is newer; the counter wraps around.
        let _ = disk
            .channel_sequence
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |newest| {
                matches!(sent.wrapping_sub(newest), 1..=0x7FFF).then_some(sent)
            });
    }

    /// Refuses a request that changes something if its ChannelSequence is older than the newest seen: it comes from a
    /// channel that the client gave up, and must not be carried out (MS-SMB2 3.3.5.2.10).
    pub(crate) fn check_channel_sequence(&self, disk: &DiskOpen) -> Result<(), NtStatus> {
        if self.conn.dialect() < Dialect::Smb300 {
            return Ok(());
        }
        let newest = disk.channel_sequence.load(Ordering::Acquire);
        match self.header.channel_sequence().wrapping_sub(newest) {
            0..=0x7FFF => Ok(()),
            _ => Err(NtStatus::FILE_NOT_AVAILABLE),
        }
    }
}

/// Refuses unless the open holds one of `bits`.
pub(crate) fn need_any(disk: &DiskOpen, bits: u32) -> Result<(), NtStatus> {
    match disk.open.access().any(bits) {
        true => Ok(()),
        false => Err(NtStatus::ACCESS_DENIED),
    }
}

/// The disk open of a handle; pipes have no such thing.
pub(crate) fn disk_of(open: &SmbOpen) -> Result<&DiskOpen, NtStatus> {
    open.disk().ok_or(NtStatus::INVALID_DEVICE_REQUEST)
}
