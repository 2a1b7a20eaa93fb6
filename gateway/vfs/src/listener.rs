//! How cache grants are called back: the vfs tells the head, the head tells its client, the client's answer comes back
//! through [`crate::Open::acknowledge_break`] or [`crate::Vfs::acknowledge_lease_break`].

use crate::open::OpenId;
use crate::request::{LeaseKey, LeaseState, OplockLevel};

/// One callback of a caching right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheBreak {
    /// An oplock goes down to the level given (MS-SMB2 2.2.23.1). An answer is expected unless it goes from level II to none.
    Oplock {
        /// The open that holds it.
        open: OpenId,
        /// The new level.
        to: OplockLevel,
    },
    /// A lease goes down (MS-SMB2 2.2.23.2). Sent once per lease, through any one of its opens.
    Lease {
        /// Which lease of this client.
        key: LeaseKey,
        /// What it had.
        from: LeaseState,
        /// What it may keep.
        to: LeaseState,
        /// Whether an acknowledgement is expected.
        ack_required: bool,
        /// The new epoch (leases of version 2; 0 otherwise).
        epoch: u16,
    },
    /// A delegation is recalled (NFSv4).
    Delegation {
        /// The open that holds it.
        open: OpenId,
    },
}

/// The head's end of callbacks for one client. Called from inside the lock service: must not block, must not call back
/// into the vfs; it queues the message and returns.
pub trait CacheListener: Send + Sync {
    /// A caching right is called back.
    fn on_break(&self, notice: CacheBreak);
    /// An open was taken away (administrator, or a disconnected open that stood in somebody's way).
    fn on_revoked(&self, open: OpenId);
}
