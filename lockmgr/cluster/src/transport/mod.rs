//! How messages get from node to node: what the token runtime asks of it, and the ways to do it.
//!
//! Owns connections and their authentication. Must never look into a message, nor decide who is a member.

pub mod channel;
pub mod handshake;
mod hello;
pub(crate) mod links;
mod peer;
mod relay;
pub mod tcp;

pub use hello::Speaks;

use async_trait::async_trait;
use bytes::Bytes;
use sluice_lockmgr::Member;

use crate::membership::Held;
use tokio::io::{AsyncRead, AsyncWrite};

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

    /// The deputy of this turn does not answer; another, or none, is told by [`crate::membership::ClusterEvent::Deputy`]. Where
    /// that is never told, nothing is to be done.
    fn deputy_silent(&self, _turn: u64) {}

    /// Somebody does not hear from a member: it is to get no shards.
    fn complained(&self, _of: Member) {}

    /// Takes shards from a silent member, whose deputy of this turn this node is; told by
    /// [`crate::membership::ClusterEvent::TookOver`] and [`crate::membership::ClusterEvent::NotTaken`].
    fn take_over(&self, _from: Member, _turn: u64, _shards: Vec<Held>) {}
}

/// A stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream whose other end has proved that it knows the cluster secret.
pub struct PeerStream {
    /// The bytes.
    pub io: Box<dyn Duplex>,
    /// The other end's address, for the administrator's eyes.
    pub remote: String,
}

/// Why a call did not come through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The host answers and says that nobody listens there: the process is gone.
    #[error("connection refused")]
    Refused,
    /// No answer in time, no route, broken in between.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// Somebody answers who is not (or no longer) the one that was meant.
    #[error("{0}")]
    Rejected(String),
}

/// Somebody called and is not one of us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Where it called from.
    pub remote: String,
    /// Why it was turned away.
    pub reason: String,
}

/// What a transport's door brings.
pub enum Incoming {
    /// A caller that knows the cluster secret.
    Peer(PeerStream),
    /// One that does not.
    Stranger(Stranger),
}

/// Ways to call a peer and to be called: TCP in production, memory in tests.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Calls an advertised address. Bounded in time.
    async fn dial(&self, address: &str) -> Result<PeerStream, DialError>;

    /// The next caller. Safe to cancel. An error is final: the transport is closed.
    async fn accept(&self) -> std::io::Result<Incoming>;
}

#[cfg(test)]
mod tests;
