//! The compatibility matrix: when two claims on a document can't stand together. The only place that decides it.
//!
//! Symmetric by construction for everything that is held: what A's share mode denies to B and what B's denies to A are
//! looked at together. The one exception is stated by the interface: a byte range that an NFS client has locked counts as
//! an open, but does not stop another NFS client's plain read or write that comes later (POSIX programs expect advisory
//! ranges); a lock that comes later than the other's writer's place does meet that place.
//! `docs/SEMANTICS.md` shows the same matrix in words; a test compares the two.

use serde::{Deserialize, Serialize};

use crate::outcome::ConflictKind;
use crate::types::{Access, ClientId, Protocol};

/// What sort of claim an access and a share mode belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum ClaimKind {
    /// An open that a client asked for, or that one operation stands for.
    Open,
    /// An NFSv3 writer's place.
    Place,
    /// The open that an NFS client's byte ranges count as.
    RangeOpen,
    /// A read or write of this moment by a client without an open. Never held.
    PlainIo,
}

/// One party of a possible conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// What it does.
    pub access: Access,
    /// What it denies others. Empty if `access` is: attributes meet no share mode (MS-FSA 2.1.5.1.2.2).
    pub denies: Access,
    /// Through which door.
    pub protocol: Protocol,
    /// Whose it is.
    pub client: ClientId,
    /// What sort.
    pub kind: ClaimKind,
    /// Restates what was lost with a node: passes what is kept for those who do so.
    pub reclaims: bool,
}

/// Do a held claim and a wanted one conflict, and which way? `ranges_bind_nfs`: the share makes NFS ranges mandatory
/// among NFS clients.
pub(crate) fn share_conflict(
    held: &Claim,
    wanted: &Claim,
    ranges_bind_nfs: bool,
) -> Option<ConflictKind> {
    if exempt(held, wanted, ranges_bind_nfs) {
        None
    } else if !held.denies.common(wanted.access).is_empty() {
        Some(ConflictKind::DeniedByShareMode)
    } else if !wanted.denies.common(held.access).is_empty() {
        Some(ConflictKind::HolderInTheWay)
    } else {
        None
    }
}

/// Pairs that never conflict, whatever they do and deny.
fn exempt(held: &Claim, wanted: &Claim, ranges_bind_nfs: bool) -> bool {
    use ClaimKind::{Open, Place, PlainIo, RangeOpen};
    if held.client == ClientId::LEFT && wanted.reclaims {
        return true;
    }
    let both_nfs = held.protocol.is_nfs() && wanted.protocol.is_nfs();
    if !both_nfs {
        return false;
    }
    // An NFS client is not in its own way: its place, its ranges and its plain I/O go together, and with its opens.
    if held.client == wanted.client && (held.kind, wanted.kind) != (Open, Open) {
        return true;
    }
    held.kind == RangeOpen
        && held.client != ClientId::LEFT
        && matches!(wanted.kind, Place | PlainIo)
        && !ranges_bind_nfs
}

/// Who a byte range belongs to, as far as conflicts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RangeParty {
    /// The open that the range belongs to or that it counts as; `None` for I/O without an open.
    pub open: Option<crate::types::OpenId>,
    /// Whose it is.
    pub client: ClientId,
    /// Through which door.
    pub protocol: Protocol,
}

/// Does a held range stop a new lock on bytes that it meets? (The bytes have been compared.)
///
/// Within one SMB open an exclusive range stands alone, but a shared range may be laid over one's own exclusive one.
pub(crate) fn lock_conflict(
    held: RangeParty,
    held_exclusive: bool,
    wanted: RangeParty,
    exclusive: bool,
) -> bool {
    if held.open == wanted.open {
        return held.protocol == Protocol::Smb && exclusive;
    }
    held_exclusive || exclusive
}

/// Does a held range stop a read or a write of bytes that it meets?
///
/// Mandatory for everybody if locked over SMB; for SMB and FTP if locked over NFS. The owner of a shared SMB range may
/// not write there either.
pub(crate) fn io_conflict(
    held: RangeParty,
    held_exclusive: bool,
    actor: RangeParty,
    write: bool,
    ranges_bind_nfs: bool,
) -> bool {
    if !held_exclusive && !write {
        return false;
    }
    if held.protocol.is_nfs() && actor.protocol.is_nfs() {
        return ranges_bind_nfs && held.client != actor.client;
    }
    if held.open == actor.open {
        return held.protocol == Protocol::Smb && write && !held_exclusive;
    }
    true
}
