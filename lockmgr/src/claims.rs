//! How requests become claims: what a request does and denies, as the conflict matrix sees it.

use std::sync::Arc;

use crate::cache_grant::{CacheRequest, GrantKey};
use crate::conflict::{Claim, ClaimKind, RangeParty, share_conflict};
use crate::obstacle::Ask;
use crate::outcome::ConflictKind;
use crate::range::ByteRange;
use crate::request::{IoKind, OpenRequest, OwnedRangeRequest, Writers};
use crate::share_mode::Open;
use crate::types::{Access, Actor, Now, OpenId, Protocol, ShareMode};

pub(crate) fn open_claim(r: &OpenRequest) -> Claim {
    let mut denies = if r.access.is_empty() {
        Access::NONE
    } else {
        r.share.denies()
    };
    if r.writers == Writers::Exclusive && r.access.has(Access::WRITE) {
        let also = if r.actor.protocol == Protocol::Smb {
            Access::WRITE
        } else {
            ShareMode::DENY_WRITE.denies()
        };
        denies = denies.with(also);
    }
    Claim {
        reclaims: r.reclaim,
        ..claim(&r.actor, r.access, denies, ClaimKind::Open)
    }
}

/// What is checked may be more than what is kept: an overwrite writes at this moment only.
pub(crate) fn checked_claim(r: &OpenRequest, kept: &Claim) -> Claim {
    if r.overwrite && !kept.access.has(Access::WRITE) {
        let denies = if kept.access.is_empty() {
            Access::NONE
        } else {
            kept.denies
        };
        return Claim {
            access: kept.access.with(Access::WRITE),
            denies,
            ..*kept
        };
    }
    *kept
}

pub(crate) fn ask_claim(ask: Ask<'_>) -> Option<Claim> {
    match ask {
        Ask::Open(r) => Some(checked_claim(r, &open_claim(r))),
        Ask::Io(r) => {
            touched(r.kind).map(|(_, write)| io_claim(&r.actor, write, r.place.is_some() && write))
        }
        Ask::OwnedRange(r) => Some(owned_claim(r)),
        Ask::OpenIo { .. } | Ask::Ranges(_) | Ask::Move { .. } => None,
    }
}

fn claim(actor: &Actor, access: Access, denies: Access, kind: ClaimKind) -> Claim {
    Claim {
        access,
        denies,
        protocol: actor.protocol,
        client: actor.client,
        kind,
        reclaims: false,
    }
}

pub(crate) fn io_claim(actor: &Actor, write: bool, place: bool) -> Claim {
    let access = if write { Access::WRITE } else { Access::READ };
    if place {
        claim(
            actor,
            access,
            ShareMode::DENY_WRITE.denies(),
            ClaimKind::Place,
        )
    } else {
        claim(actor, access, Access::NONE, ClaimKind::PlainIo)
    }
}

pub(crate) fn range_claim(actor: &Actor, exclusive: bool) -> Claim {
    let access = if exclusive {
        Access::WRITE
    } else {
        Access::READ
    };
    claim(actor, access, Access::NONE, ClaimKind::RangeOpen)
}

pub(crate) fn owned_claim(r: &OwnedRangeRequest) -> Claim {
    Claim {
        reclaims: r.reclaim,
        ..range_claim(&r.actor, r.lock.exclusive)
    }
}

pub(crate) fn held_open(
    id: OpenId,
    stream: u32,
    claim: Claim,
    actor: &Actor,
    until: Option<Now>,
) -> Open {
    Open {
        id,
        stream,
        claim,
        share: ShareMode::sharing(Access::ALL.without(claim.denies)),
        holder: Arc::clone(&actor.holder),
        sink: None,
        grant: None,
        weighty: true,
        touches_ranges: false,
        until,
        disconnected: false,
    }
}

pub(crate) fn party(actor: &Actor, open: Option<OpenId>) -> RangeParty {
    RangeParty {
        open,
        client: actor.client,
        protocol: actor.protocol,
    }
}

pub(crate) fn lease_key(cache: &CacheRequest) -> Option<GrantKey> {
    match cache {
        CacheRequest::Lease { lease, .. } => Some(GrantKey::Lease(*lease)),
        _ => None,
    }
}

pub(crate) fn is_write(claim: &Claim) -> bool {
    claim.access.has(Access::WRITE)
}

/// The bytes that I/O touches and whether it changes them; `None` for attributes.
pub(crate) fn touched(kind: IoKind) -> Option<(ByteRange, bool)> {
    match kind {
        IoKind::Read(range) => Some((range, false)),
        IoKind::Write(range) | IoKind::SetSize(range) => Some((range, true)),
        IoKind::Attributes => None,
    }
}

/// Between streams only deleting the document counts: it needs the consent of the opens of all its streams. As on
/// Windows it is asked once, when the delete access is opened: a stream opened after that need not share delete.
pub(crate) fn conflict_of(
    open: &Open,
    stream: u32,
    wanted: &Claim,
    bind: bool,
) -> Option<ConflictKind> {
    if open.stream == stream {
        return share_conflict(&open.claim, wanted, bind);
    }
    let delete = Claim {
        access: wanted.access.common(Access::DELETE),
        denies: Access::NONE,
        ..*wanted
    };
    (stream == 0)
        .then(|| share_conflict(&open.claim, &delete, bind))
        .flatten()
}
