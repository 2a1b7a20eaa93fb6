//! What the lock table answers: granted, denied with the holder's name, or wait. Never a protocol code.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::cache_grant::{CacheGranted, CacheState, GrantKey};
use crate::range::ByteRange;
use crate::types::{Access, ClientId, Holder, OpenId, OpenRef, ResourceId, ShareMode};

/// An open was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Keep it; hand it back with every call.
    pub open: OpenRef,
    /// Cache granted with it.
    pub cache: CacheGranted,
}

/// What an open's end asks of the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Closed {
    /// This was the last open of a document marked for deletion: delete the document now.
    pub delete_document: bool,
    /// This was the last open of a named stream marked for deletion: delete this stream now.
    pub delete_stream: Option<u32>,
    /// No open of the document is left.
    pub last: bool,
}

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    /// The holder's share mode denies what was asked.
    DeniedByShareMode,
    /// What was asked would deny what the holder does.
    HolderInTheWay,
    /// A mandatory byte range.
    Range,
    /// A cache grant is being called back.
    CacheBreak,
    /// Others wait in line before this request.
    Queue,
}

/// Why something was refused, or is waited for: always with the holder's name (invariant I9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// What stands in the way.
    pub kind: ConflictKind,
    /// On which stream.
    pub resource: ResourceId,
    /// Which open, where there is one.
    pub open: Option<OpenId>,
    /// What the holder does and denies.
    pub access: Access,
    /// See `access`.
    pub denies: Access,
    /// The holder's range, if one stands in the way.
    pub range: Option<ByteRange>,
    /// The range is exclusive.
    pub exclusive: bool,
    /// Who.
    pub holder: Arc<Holder>,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ConflictKind::DeniedByShareMode => {
                write!(f, "open of {} denies {}", self.holder, self.denies)
            }
            ConflictKind::HolderInTheWay => {
                write!(f, "{} has it open for {}", self.holder, self.access)
            }
            ConflictKind::Range => {
                let range = self.range.unwrap_or(ByteRange::WHOLE);
                write!(f, "{} has locked the bytes {range}", self.holder)
            }
            ConflictKind::CacheBreak => {
                write!(f, "a cache of {} is being called back", self.holder)
            }
            ConflictKind::Queue => write!(f, "{} waits in line before", self.holder),
        }
    }
}

/// Why a request was not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Denial {
    /// An open, a place or a range stands in the way; also the end of a wait.
    #[error("{0}")]
    Conflict(Box<Conflict>),
    /// Retry later ([`crate::OnConflict::Poll`]): the client's place in line is kept for some seconds.
    #[error("retry later: {0}")]
    Retry(Box<Conflict>),
    /// The document or stream is marked for deletion (STATUS_DELETE_PENDING).
    #[error("marked for deletion")]
    DeletePending,
    /// Waiting would close a circle of waiting lock owners.
    #[error("waiting would be a deadlock: {0}")]
    Deadlock(Box<Conflict>),
    /// The wait was cancelled.
    #[error("the wait was cancelled")]
    Cancelled,
    /// The open does not exist (any more).
    #[error("no such open")]
    NoSuchOpen,
    /// The lease key is in use for another document (MS-SMB2 3.3.5.9.8: STATUS_INVALID_PARAMETER).
    #[error("the lease key is in use for another document")]
    LeaseKeyInUse,
    /// A stated limit was reached: too many waiters, ranges or opens of one document.
    #[error("limit of {0} reached")]
    Limit(#[serde(deserialize_with = "limit_words")] Words),
    /// The service stops.
    #[error("the node is stopping")]
    Stopping,
    /// This node is no member of its cluster any more, so that nothing it holds counts.
    #[error("the node is no longer a member of its cluster")]
    NodeLost,
}

/// Words of a limit that another node reached, as those that this node would use.
fn limit_words<'de, D: Deserializer<'de>>(from: D) -> Result<&'static str, D::Error> {
    let words = String::deserialize(from)?;
    let known = [OPENS_LIMIT, RANGES_LIMIT, WAITERS_LIMIT];
    Ok(known
        .into_iter()
        .find(|k| *k == words)
        .unwrap_or("a limit of another node"))
}

/// Fixed words; under a name of their own, so that they are not taken for words borrowed from a message.
pub(crate) type Words = &'static str;

/// What [`Denial::Limit`] names.
pub(crate) const OPENS_LIMIT: &str = "opens of one document";
pub(crate) const RANGES_LIMIT: &str = "byte ranges of one document";
pub(crate) const WAITERS_LIMIT: &str = "waiting requests of one document";

impl Denial {
    /// The conflict behind it, if there is one.
    #[must_use]
    pub fn conflict(&self) -> Option<&Conflict> {
        match self {
            Denial::Conflict(c) | Denial::Retry(c) | Denial::Deadlock(c) => Some(c),
            _ => None,
        }
    }
}

/// Unlocking named a range that the open has not locked exactly so (STATUS_RANGE_NOT_LOCKED).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("range not locked")]
pub struct RangeNotLocked;

/// Why an answer to a break is refused (MS-SMB2 3.3.5.22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum AckError {
    /// No such grant (lease: STATUS_OBJECT_NAME_NOT_FOUND; oplock: STATUS_FILE_CLOSED).
    #[error("no such cache grant")]
    NoSuchGrant,
    /// No break is under way (lease: STATUS_UNSUCCESSFUL; oplock: STATUS_INVALID_DEVICE_STATE).
    #[error("no break is under way")]
    NotBreaking,
    /// More rights than the break leaves (lease: STATUS_REQUEST_NOT_ACCEPTED; oplock: STATUS_INVALID_OPLOCK_PROTOCOL).
    #[error("more rights claimed than the break leaves")]
    TooMuch,
}

/// A lock that stands in the way of a tested range (NLM TEST, NFSv4 LOCKT).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeHolder {
    /// Which bytes.
    pub range: ByteRange,
    /// Exclusive.
    pub exclusive: bool,
    /// Owner bytes, for an NFS lock of the client below.
    pub owner: crate::request::RangeOwner,
    /// Which client.
    pub client: ClientId,
    /// In words.
    pub holder: Arc<Holder>,
}

/// What an entry of a listing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// An open.
    Open,
    /// An NFSv3 writer's place.
    Place,
    /// A byte range.
    Range,
    /// A cache grant.
    Cache,
    /// A waiting request.
    Waiter,
}

/// One line of `sluice locks list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The id that `locks break` takes; of the open for ranges and caches.
    pub id: u64,
    /// On what.
    pub resource: ResourceId,
    /// Who.
    pub holder: Arc<Holder>,
    /// What it does (opens, places, waiters).
    pub access: Access,
    /// What it denies others.
    pub denies: Access,
    /// Its bytes (ranges).
    pub range: Option<ByteRange>,
    /// Exclusive (ranges).
    pub exclusive: bool,
    /// Rights (caches).
    pub cache: Option<CacheState>,
    /// A break is under way, to these rights (caches).
    pub breaking_to: Option<CacheState>,
    /// Its client is disconnected and may come back (opens).
    pub disconnected: bool,
    /// Marked for deletion (opens).
    pub delete_pending: bool,
    /// What stands in its way (waiters).
    pub waits_for: Option<Box<Conflict>>,
    /// Milliseconds until it ends by itself: break timer, wait deadline, place idle time, reclaim time.
    pub ends_in_ms: Option<u64>,
    /// What would free it, in one sentence.
    pub freed_by: String,
}

/// State of an open, for a head's questions and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenState {
    /// What it does.
    pub access: Access,
    /// What it lets others do.
    pub share: ShareMode,
    /// Rights of its cache grant now.
    pub cache: CacheState,
    /// Whose grant.
    pub grant: Option<GrantKey>,
    /// Its document or stream is marked for deletion.
    pub delete_pending: bool,
    /// Its client is disconnected.
    pub disconnected: bool,
}
