//! The lock rules of Sluice: one table for all protocols, as a deterministic state machine.
//!
//! Owns access and share modes, byte ranges, cache grants with their breaks, delete-pending, waiters, disconnect and
//! reclaim. The table does no I/O, reads no clock and starts no task: time is a parameter, and what has to
//! happen outside comes back as effects. [`LocalLocks`] is the thin async runtime around it; [`LockService`] is what the
//! file layer calls. Nothing here knows a
//! protocol beyond an owner tag.

// Test helpers that other crates use too name this one as they do.
#[cfg(test)]
extern crate self as sluice_lockmgr;

mod answers;
mod byte_range;
mod cache_grant;
mod caches;
mod claims;
mod conflict;
mod document;
mod document_state;
mod env;
mod epoch;
mod gate;
mod grant_set;
mod io;
mod lease_registry;
mod line;
mod listing;
mod local;
mod locks;
mod obstacle;
mod op;
mod outcome;
mod range;
mod request;
mod service;
mod shards;
mod share_mode;
mod table;
mod types;
mod wait;
mod wait_queue;

pub use cache_grant::{
    BreakNotice, CacheGranted, CacheRequest, CacheSink, CacheState, GrantKey, LeaseId, OplockLevel,
    RevokeReason,
};
pub use document_state::DocumentState;
pub use epoch::{
    ClusterIdentity, EpochRegistry, FENCE_FORCED_BITS, FenceOutcome, GrantId, Heartbeat,
    JoinRequest, Joined, LeftLocks, LifeLock, Member, MemberEpoch, MemberId, MemberList,
    MemberRecord, MemberState, PastMember, PastReason, RECLAIM_GRACE, RegistryError, RegistryHint,
    RegistryTime, Revocation, Revoked, SHARDS, ShardEpoch, ShardId, ShardMap, ShardOwner, Sight,
    shard_of,
};
pub use gate::{Begun, Exported, GateHost, GatedLocks, LeaseUse, NotHere, Residence, Waiting};
pub use local::LocalLocks;
pub use op::{Op, OpAnswer};
pub use outcome::{
    AckError, Closed, Conflict, ConflictKind, Denial, Entry, EntryKind, OpenState, Opened,
    RangeHolder, RangeNotLocked,
};
pub use range::ByteRange;
pub use request::{
    BreakAck, IoKind, IoRequest, OnConflict, OpenRequest, OwnedRangeRequest, PlaceRequest,
    RangeLock, RangeOwner, RangeRequest, StatOpen, Writers,
};
pub use service::{Clock, ListFilter, LockHost, LockOptions, LockService, MonotonicClock, Note};
pub use types::{
    Access, Actor, ClientId, Holder, MEMBER_SHIFT, Now, OpenId, OpenRef, Protocol, ResourceId,
    ShareMode, Ticket, WaiterId,
};

#[cfg(test)]
mod tests;
