//! Cache grants: oplocks, SMB leases and NFSv4 delegations in one model of three rights.
//!
//! MS-FSA 2.1.4.12 and 2.1.5.18, MS-SMB2 3.3.5.22, RFC 8881 section 10. Owns the rights and how they are told; when a
//! grant is called back is decided in `table.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{ClientId, OpenId, ResourceId};

/// What a client may cache: reads, handles (delayed close), writes. The bits are those of MS-SMB2 2.2.13.2.8.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(from = "u8")]
pub struct CacheState(u8);

impl From<u8> for CacheState {
    fn from(bits: u8) -> Self {
        CacheState::from_bits(u32::from(bits))
    }
}

impl CacheState {
    /// Nothing.
    pub const NONE: CacheState = CacheState(0);
    /// Read caching.
    pub const R: CacheState = CacheState(1);
    /// Handle caching.
    pub const H: CacheState = CacheState(2);
    /// Write caching.
    pub const W: CacheState = CacheState(4);
    /// Read and handle caching.
    pub const RH: CacheState = CacheState(3);
    /// Read and write caching.
    pub const RW: CacheState = CacheState(5);
    /// Read, handle and write caching.
    pub const RWH: CacheState = CacheState(7);

    /// From the bits of MS-SMB2 2.2.13.2.8 (1 read, 2 handle, 4 write); others are dropped.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        CacheState((bits & 7) as u8)
    }
    /// The bits: 1 read, 2 handle, 4 write.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }
    /// True if all of `other` is in this state.
    #[must_use]
    pub const fn has(self, other: CacheState) -> bool {
        self.0 & other.0 == other.0
    }
    /// Both together.
    #[must_use]
    pub const fn with(self, other: CacheState) -> Self {
        CacheState(self.0 | other.0)
    }
    /// This state without the other.
    #[must_use]
    pub const fn without(self, other: CacheState) -> Self {
        CacheState(self.0 & !other.0)
    }
    /// What both have.
    #[must_use]
    pub const fn common(self, other: CacheState) -> Self {
        CacheState(self.0 & other.0)
    }
    /// True if nothing is cached.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// A state that a lease can have: anything else falls to nothing, as H and W alone mean nothing.
    #[must_use]
    pub const fn valid(self) -> Self {
        if self.has(CacheState::R) {
            self
        } else {
            CacheState::NONE
        }
    }
}

impl fmt::Display for CacheState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (bit, letter) in [
            (CacheState::R, "R"),
            (CacheState::W, "W"),
            (CacheState::H, "H"),
        ] {
            if self.has(bit) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Oplock levels, MS-SMB2 2.2.13 RequestedOplockLevel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OplockLevel {
    /// Shared read cache.
    II,
    /// Sole owner: read and write cache.
    Exclusive,
    /// Sole owner, and the handle may stay open after the program closed it.
    Batch,
}

impl OplockLevel {
    /// The rights of this level.
    #[must_use]
    pub const fn state(self) -> CacheState {
        match self {
            OplockLevel::II => CacheState::R,
            OplockLevel::Exclusive => CacheState::RW,
            OplockLevel::Batch => CacheState::RWH,
        }
    }

    /// The level that a state is told as in oplock words.
    #[must_use]
    pub const fn of(state: CacheState) -> Option<Self> {
        if state.has(CacheState::RWH) {
            Some(OplockLevel::Batch)
        } else if state.has(CacheState::RW) {
            Some(OplockLevel::Exclusive)
        } else if state.has(CacheState::R) {
            Some(OplockLevel::II)
        } else {
            None
        }
    }
}

/// Names an SMB lease: client guid and lease key (MS-SMB2 3.3.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId {
    /// ClientGuid of the connection.
    pub client_guid: [u8; 16],
    /// LeaseKey of the create context.
    pub key: [u8; 16],
}

/// What cache an open asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheRequest {
    /// None.
    #[default]
    None,
    /// An oplock, MS-SMB2 2.2.13.
    Oplock(OplockLevel),
    /// An SMB lease, MS-SMB2 2.2.13.2.8 and 2.2.13.2.10.
    Lease {
        /// Which lease.
        lease: LeaseId,
        /// Rights asked for.
        want: CacheState,
        /// Version 2 context: the answers carry an epoch.
        v2: bool,
        /// Epoch that the client sent (version 2).
        epoch: u16,
        /// Parent lease key, if the flag was set (version 2).
        parent: Option<[u8; 16]>,
    },
    /// An NFSv4 delegation, RFC 8881 section 10.4; `write` asks for a write delegation.
    Delegation {
        /// Write delegation instead of read.
        write: bool,
    },
}

/// Whose cache a grant is, within a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GrantKey {
    /// An oplock of one open.
    Oplock(OpenId),
    /// A lease, shared by all opens with its key.
    Lease(LeaseId),
    /// A delegation of an NFSv4 client.
    Delegation(ClientId),
}

/// What an open got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheGranted {
    /// Rights granted; of the whole lease if it is one.
    pub state: CacheState,
    /// SMB lease epoch to tell (version 2), else 0.
    pub epoch: u16,
    /// A break of this lease is under way: SMB2_LEASE_FLAG_BREAK_IN_PROGRESS (MS-SMB2 2.2.14.2.10).
    pub break_in_progress: bool,
    /// The lease was made with a version 2 context, and is told in that form whatever this request used.
    pub v2: bool,
}

/// Tells a holder to give a cache grant back. Told once per break; the table runs its timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakNotice {
    /// What it is a cache of.
    pub resource: ResourceId,
    /// Which grant; an oplock names its open.
    pub grant: GrantKey,
    /// Rights before.
    pub from: CacheState,
    /// Rights that may stay.
    pub to: CacheState,
    /// The holder must acknowledge (MS-SMB2 2.2.23.2); else the break has already happened.
    pub ack_required: bool,
    /// New SMB lease epoch (version 2), else 0.
    pub epoch: u16,
}

/// Why an open or a grant was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RevokeReason {
    /// `locks break` by an administrator.
    Admin,
    /// The holder did not answer a break in time.
    BreakTimeout,
    /// A disconnected open stood in the way of a connected client.
    Disconnected,
    /// A disconnected open was not reclaimed in time.
    ReclaimTimeout,
    /// The node that the open was held on, or this node's right to hold it, was taken out of the cluster.
    NodeLost,
}

/// Where the table tells a holder about its caches and opens. Calls must not block; they may call the service back.
pub trait CacheSink: Send + Sync {
    /// Give a cache grant back.
    fn on_break(&self, notice: &BreakNotice);
    /// This open no longer exists: forget the handle and whatever it kept.
    ///
    /// `closed` is what [`crate::LockService::close`] would have said: the receiver deletes what it names.
    fn on_revoked(
        &self,
        open: crate::types::OpenRef,
        reason: RevokeReason,
        closed: crate::outcome::Closed,
    );
    /// This cache grant no longer exists, while its opens do.
    fn on_cache_revoked(&self, resource: ResourceId, grant: GrantKey, reason: RevokeReason);
}
