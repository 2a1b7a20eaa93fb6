//! How messages get from node to node: what the token runtime asks of it, and the ways to do it.
//!
//! Owns connections and their authentication. Must never look into a message, nor decide who is a member.

use bytes::Bytes;
use sluice_lockmgr::Member;

/// Longest message that a link carries; longer ones are refused at the sender.
pub const MESSAGE_MAX_BYTES: usize = 64 << 20;

/// Bytes that may wait in one link for the peer's acknowledgement before [`SendError::Full`].
pub const BACKLOG_MAX_BYTES: usize = 256 << 20;

/// Why a message was not taken. A message that was taken arrives exactly once, in order, unless the peer is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer is no member (any more): whatever was sent to it before may be lost too.
    #[error("the peer is no member of the cluster")]
    NotAMember,
    /// Over [`MESSAGE_MAX_BYTES`].
    #[error("the message is longer than a link carries")]
    TooLarge,
    /// The peer has not taken what it was sent before; the caller tries later.
    #[error("too much is on its way to the peer already")]
    Full,
}

/// Sends to the other members. Cheap, synchronous, callable from any thread and from [`crate::membership::ClusterHandler`]'s calls.
pub trait Peers: Send + Sync {
    /// This node's incarnation.
    fn me(&self) -> Member;

    /// Whether the own lease holds at this very moment by the own clock (CLOCK_BOOTTIME): to be asked before every grant and
    /// before every answer out of a cache. False from the moment of a freeze to the thaw, also before the event for it came.
    fn may_act(&self) -> bool;

    /// Queues a message for a member.
    fn send(&self, to: Member, message: Bytes) -> Result<(), SendError>;
}
