//! Runs the lock rules of `sluice-lockmgr` on many nodes: who may decide about which document, and how that moves.
//!
//! Owns the token machine ([`core`]: a plain state machine, no I/O), the lock service on top of it ([`locks`]), the links
//! between nodes ([`transport`], [`link`]), and who is a member and owns which shards ([`membership`], [`registry`]).
//! Must never decide a conflict itself: that is the lock table's alone.

pub mod core;
pub mod link;
pub mod locks;
pub mod membership;
pub mod registry;
pub mod transport;
