//! What heads ask of the lock table. Plain values; policy has been evaluated before.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache_grant::{CacheRequest, CacheSink, CacheState, GrantKey, LeaseId};
use crate::range::ByteRange;
use crate::types::{Access, Actor, OpenRef, ResourceId, ShareMode};

/// What a conflict becomes, after the write policy (`docs/SEMANTICS.md`). Calling a cache back always waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnConflict {
    /// Refuse at once.
    #[default]
    Reject,
    /// Wait in line, the caller's future pending, at most this long. `None`: without limit.
    Wait(Option<Duration>),
    /// Answer "retry later" at once and keep the client's place in line while it retries (NFSv3 JUKEBOX, NFSv4 DELAY). A
    /// retry after this long is refused. With a zero duration only a cache that is called back is told as "retry".
    Poll(Duration),
    /// As `Poll`, but the caller's future is held for a moment before "retry later", in case its turn comes.
    PollHeld {
        /// As in `Poll`.
        patience: Duration,
        /// How long the caller is held at each try.
        hold: Duration,
    },
}

/// The policy's `writers`, evaluated by the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writers {
    /// The protocol's own share modes decide.
    #[default]
    Native,
    /// One writer per document: an open for write also denies other writers.
    Exclusive,
    /// As native, and NFSv3 writes take no writer's place.
    Shared,
}

/// How light an open without data access is, for cache breaks (MS-FSA 2.1.5.1.2, MS-SMB2 3.3.5.9.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatOpen {
    /// Not a stat open: it calls caches back.
    #[default]
    No,
    /// Reads or writes attributes and synchronizes, nothing else: calls nothing back.
    Attributes,
    /// As above and reads the security descriptor: calls oplocks back, but not leases.
    ReadControl,
}

/// Asks for an open, or for the open of one operation (delete, rename, replace, truncate): then close it right after.
#[derive(Clone, Serialize, Deserialize)]
pub struct OpenRequest {
    /// What to open.
    pub resource: ResourceId,
    /// Who asks.
    pub actor: Actor,
    /// What it will do.
    pub access: Access,
    /// What it lets others do meanwhile.
    pub share: ShareMode,
    /// Weight of an open without data access.
    pub stat: StatOpen,
    /// The open replaces or truncates the content (CREATE with overwrite or supersede, O_TRUNC): checked as a write,
    /// and read caches are called back too.
    pub overwrite: bool,
    /// A transfer that touches every byte range (FTP): meets all mandatory ranges, and if it writes, ranges asked for later.
    pub touches_ranges: bool,
    /// The policy's `writers`.
    pub writers: Writers,
    /// The policy's `on_conflict`.
    pub on_conflict: OnConflict,
    /// Restates an open that was lost with its node (NLM SHARE): granted also while the document is kept for such.
    pub reclaim: bool,
    /// Cache asked for.
    pub cache: CacheRequest,
    /// Where to tell breaks and revocation. Needed for a cache grant; without it none is given.
    /// Does not cross nodes: there another sink stands for it.
    #[serde(skip)]
    pub sink: Option<Arc<dyn CacheSink>>,
}

impl OpenRequest {
    /// An open that denies nobody, refuses at once and asks for no cache. Change the fields that differ.
    #[must_use]
    pub fn new(resource: ResourceId, actor: Actor, access: Access) -> Self {
        Self {
            resource,
            actor,
            access,
            share: ShareMode::ALL,
            stat: StatOpen::No,
            overwrite: false,
            touches_ranges: false,
            writers: Writers::Native,
            on_conflict: OnConflict::Reject,
            reclaim: false,
            cache: CacheRequest::None,
            sink: None,
        }
    }
}

/// What I/O without an open of its own, or a change, does. Checked like an open of that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoKind {
    /// Read these bytes.
    Read(ByteRange),
    /// Write these bytes.
    Write(ByteRange),
    /// Change the length; touches all bytes from the smaller length on.
    SetSize(ByteRange),
    /// Change attributes, times, access control list: calls caches back, meets no share mode.
    Attributes,
}

/// The writer's place that an NFSv3 WRITE takes (`docs/SEMANTICS.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceRequest {
    /// How long the place stays after the last write.
    pub idle: Duration,
}

/// I/O without an open: NFSv3, special-stateid NFSv4.
#[derive(Clone, Serialize, Deserialize)]
pub struct IoRequest {
    /// What it touches.
    pub resource: ResourceId,
    /// Who asks.
    pub actor: Actor,
    /// What it does.
    pub kind: IoKind,
    /// For a write: take or keep the writer's place. `None` under the policy `writers = shared`.
    pub place: Option<PlaceRequest>,
    /// The policy's `on_conflict`.
    pub on_conflict: OnConflict,
    /// Share option: ranges locked over NFS also stop other NFS clients' I/O.
    pub nfs_ranges_mandatory: bool,
}

/// Who a byte range belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RangeOwner(pub u128);

/// One element of an SMB lock array (MS-SMB2 2.2.26.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeLock {
    /// Which bytes.
    pub range: ByteRange,
    /// Exclusive, else shared.
    pub exclusive: bool,
}

/// SMB: ranges that belong to an open, all or none.
#[derive(Clone, Serialize, Deserialize)]
pub struct RangeRequest {
    /// The open.
    pub open: OpenRef,
    /// Ranges in order; on refusal those before are given back.
    pub locks: Vec<RangeLock>,
    /// `Reject` (SMB2_LOCKFLAG_FAIL_IMMEDIATELY) or `Wait(None)`.
    pub on_conflict: OnConflict,
}

/// NLM, NFSv4: a range of an owner of a client, POSIX rules (split, merge, replace).
#[derive(Clone, Serialize, Deserialize)]
pub struct OwnedRangeRequest {
    /// What to lock.
    pub resource: ResourceId,
    /// Which client.
    pub actor: Actor,
    /// Which owner of that client; equal owners never conflict.
    pub owner: RangeOwner,
    /// Which bytes, and how.
    pub lock: RangeLock,
    /// `Reject`, or `Wait` for a blocking lock.
    pub on_conflict: OnConflict,
    /// Restates a lock held before a loss: granted also while new locks must wait.
    pub reclaim: bool,
}

/// A holder's answer to a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BreakAck {
    /// For the oplock of this open: the level that stays (MS-SMB2 2.2.24.1).
    Oplock {
        /// The open named in the break.
        open: OpenRef,
        /// Rights that stay.
        state: crate::cache_grant::CacheState,
    },
    /// For a lease: the state that stays (MS-SMB2 2.2.24.2).
    Lease {
        /// Which lease.
        lease: LeaseId,
        /// On which resource.
        resource: ResourceId,
        /// Rights that stay.
        state: crate::cache_grant::CacheState,
    },
    /// A delegation was returned (RFC 8881 18.6).
    Delegation {
        /// By which client.
        client: crate::types::ClientId,
        /// On which resource.
        resource: ResourceId,
    },
}

impl BreakAck {
    /// Which grant of which resource, and the rights that stay.
    pub(crate) fn parts(self) -> (ResourceId, GrantKey, CacheState) {
        match self {
            BreakAck::Oplock { open, state } => (open.resource, GrantKey::Oplock(open.id), state),
            BreakAck::Lease {
                lease,
                resource,
                state,
            } => (resource, GrantKey::Lease(lease), state),
            BreakAck::Delegation { client, resource } => {
                (resource, GrantKey::Delegation(client), CacheState::NONE)
            }
        }
    }
}
