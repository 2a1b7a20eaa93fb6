//! Who is a member, in which epoch, and which shards it owns.

mod clock;
mod cluster;
mod driver;
mod lists;
mod machine;
mod plan;
mod turn;

use std::sync::Arc;

use bytes::Bytes;
use sluice_lockmgr::{LeftLocks, Member, Revoked, ShardEpoch, ShardId, ShardMap};

pub use cluster::{Cluster, ClusterStatus, JoinError, JoinOptions, PeerStatus, Standing};

pub(crate) use clock::Validity;
pub use clock::{BootClock, LeaseClock, ManualClock};
pub use machine::{Input, Machine, Ms, Output, Timing};
pub use plan::Held;

pub use crate::transport::links::LinkNote;

/// What the membership tells the token runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// Another member takes part from now on.
    NodeUp(Member),
    /// What a former member left behind: told before its `NodeDown`, and before `Shards` that are to be read with it.
    Left(LeftLocks),
    /// Another member is fenced or has left: nothing of it will count any more, no message from it comes after this.
    NodeDown(Member),
    /// The owners of the shards have changed. Every member that was live when this map was read was told by `NodeUp` before.
    Shards(Arc<ShardMap>),
    /// The deputy that this node's lists go to, and its turn: see [`crate::core::Event::Deputy`].
    Deputy(Option<(Member, u64)>),
    /// Shards of a silent member are this node's now, taken under that turn; `Shards` tells of them too.
    TookOver {
        /// Whose they were.
        from: Member,
        /// As [`crate::transport::Peers::take_over`] named it.
        turn: u64,
        /// Which, with their new epochs.
        shards: Vec<(ShardId, ShardEpoch)>,
    },
    /// The registry refused to take these shards: what this node knows of them counts no more.
    NotTaken {
        /// Whose they were.
        from: Member,
        /// As [`crate::transport::Peers::take_over`] named it.
        turn: u64,
        /// Which, with the epochs that were named.
        shards: Vec<(ShardId, ShardEpoch)>,
    },
    /// These tokens of this node were taken away by force. The lease is prolonged when the call has returned: by then nothing may
    /// be done under them any more.
    Revoked(Vec<Revoked>),
    /// The own lease can't be relied upon: no grant, no answer from a cache, until `Thawed` or `Lost`.
    Frozen,
    /// The lease holds again and nobody fenced this node in between: everything is as before.
    Thawed,
    /// This node is fenced: everything it held is gone. The last event.
    Lost,
}

/// What the token runtime offers to the cluster. Both calls are made from the cluster's tasks, must not block and may call
/// [`crate::transport::Peers`]. Calls of `event` come one at a time; calls of `received` one at a time for each sender.
pub trait ClusterHandler: Send + Sync {
    /// The membership changed.
    fn event(&self, event: ClusterEvent);

    /// A message from a member, in the order of its `send`s, exactly once.
    fn received(&self, from: Member, message: Bytes);
}
