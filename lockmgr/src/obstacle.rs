//! What a request is inside the table, and what stands in its way before it is put in words.

use serde::{Deserialize, Serialize};

use crate::cache_grant::{CacheState, GrantKey};
use crate::conflict::RangeParty;
use crate::outcome::{ConflictKind, Denial, Opened};
use crate::range::ByteRange;
use crate::request::{IoKind, IoRequest, OnConflict, OpenRequest, OwnedRangeRequest, RangeRequest};
use crate::types::{Actor, OpenId, OpenRef, ResourceId, WaiterId};

/// Any request that may wait, borrowed: most are answered at once and never kept.
#[derive(Clone, Copy)]
pub(crate) enum Ask<'a> {
    Open(&'a OpenRequest),
    Io(&'a IoRequest),
    OpenIo {
        open: OpenRef,
        kind: IoKind,
    },
    Ranges(&'a RangeRequest),
    OwnedRange(&'a OwnedRangeRequest),
    Move {
        resource: ResourceId,
        actor: &'a Actor,
        open: Option<OpenId>,
    },
}

/// The same, kept while it waits.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum KeptAsk {
    Open(Box<OpenRequest>),
    Io(Box<IoRequest>),
    OpenIo {
        open: OpenRef,
        kind: IoKind,
    },
    Ranges(Box<RangeRequest>),
    OwnedRange(Box<OwnedRangeRequest>),
    Move {
        resource: ResourceId,
        actor: Actor,
        open: Option<OpenId>,
    },
}

impl std::fmt::Debug for KeptAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            KeptAsk::Open(_) => "Open",
            KeptAsk::Io(_) => "Io",
            KeptAsk::OpenIo { .. } => "OpenIo",
            KeptAsk::Ranges(_) => "Ranges",
            KeptAsk::OwnedRange(_) => "OwnedRange",
            KeptAsk::Move { .. } => "Move",
        })
    }
}

impl Ask<'_> {
    pub(crate) fn resource(self) -> ResourceId {
        match self {
            Ask::Open(r) => r.resource,
            Ask::Io(r) => r.resource,
            Ask::OpenIo { open, .. } => open.resource,
            Ask::Ranges(r) => r.open.resource,
            Ask::OwnedRange(r) => r.resource,
            Ask::Move { resource, .. } => resource,
        }
    }

    pub(crate) fn on_conflict(self) -> OnConflict {
        match self {
            Ask::Open(r) => r.on_conflict,
            Ask::Io(r) => r.on_conflict,
            Ask::Ranges(r) => r.on_conflict,
            Ask::OwnedRange(r) => r.on_conflict,
            Ask::OpenIo { .. } | Ask::Move { .. } => OnConflict::Reject,
        }
    }

    /// Whether granting it a second time would lock twice.
    pub(crate) fn takes_ranges(self) -> bool {
        matches!(self, Ask::Ranges(_) | Ask::OwnedRange(_))
    }

    pub(crate) fn keep(self) -> KeptAsk {
        match self {
            Ask::Open(r) => KeptAsk::Open(Box::new(r.clone())),
            Ask::Io(r) => KeptAsk::Io(Box::new(r.clone())),
            Ask::OpenIo { open, kind } => KeptAsk::OpenIo { open, kind },
            Ask::Ranges(r) => KeptAsk::Ranges(Box::new(r.clone())),
            Ask::OwnedRange(r) => KeptAsk::OwnedRange(Box::new(r.clone())),
            Ask::Move {
                resource,
                actor,
                open,
            } => KeptAsk::Move {
                resource,
                actor: actor.clone(),
                open,
            },
        }
    }
}

impl KeptAsk {
    pub(crate) fn as_ask(&self) -> Ask<'_> {
        match self {
            KeptAsk::Open(r) => Ask::Open(r),
            KeptAsk::Io(r) => Ask::Io(r),
            KeptAsk::OpenIo { open, kind } => Ask::OpenIo {
                open: *open,
                kind: *kind,
            },
            KeptAsk::Ranges(r) => Ask::Ranges(r),
            KeptAsk::OwnedRange(r) => Ask::OwnedRange(r),
            KeptAsk::Move {
                resource,
                actor,
                open,
            } => Ask::Move {
                resource: *resource,
                actor,
                open: *open,
            },
        }
    }
}

/// What was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    Opened(Opened),
    Done,
}

/// What stands in the way. Names things by id; words are made only when somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Obstacle {
    Open {
        id: OpenId,
        kind: ConflictKind,
    },
    Range {
        range: ByteRange,
        exclusive: bool,
        party: RangeParty,
    },
    Grant {
        stream: u32,
        key: GrantKey,
    },
    Waiter(WaiterId),
}

/// The table's view of one request at one moment.
pub(crate) enum Verdict {
    Granted(Granted),
    Denied(Denial),
    /// Something is held: the policy decides.
    Blocked(Obstacle),
    /// A cache is being called back: wait, whatever the policy.
    Break(Obstacle),
    /// Waiting would be a deadlock.
    Deadlock(Obstacle),
}

/// What a request needs of others' caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nobody caches writes: before another's read or open.
    NoWrite,
    /// Nobody caches a handle: before a delete, a rename, or when a share mode is in the way.
    NoHandle,
    /// Nobody caches anything: before a change of content or attributes.
    Nothing,
}

impl Need {
    /// What may stay of these rights. Oplocks know only "read" or nothing after a break.
    pub(crate) fn leaves(self, state: CacheState, is_lease: bool) -> CacheState {
        let left = match self {
            Need::NoWrite => state.without(CacheState::W),
            Need::NoHandle => state.without(CacheState::H),
            Need::Nothing => CacheState::NONE,
        };
        if left == state || is_lease {
            left.valid()
        } else {
            left.common(CacheState::R)
        }
    }

    /// Rights whose holder must have answered before the request goes on.
    pub(crate) fn waits_for(self) -> CacheState {
        match self {
            Need::NoWrite | Need::Nothing => CacheState::W,
            Need::NoHandle => CacheState::H,
        }
    }
}
