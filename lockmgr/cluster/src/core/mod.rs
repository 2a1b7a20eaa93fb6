//! The token machine: who may decide about a document now, as a plain state machine without I/O, clock, tasks or chance.
//!
//! A document's **coordinator** is the owner of its shard. It gives the document to the first node that asks (**alone**: that
//! node decides everything by itself, without a message) and takes it back when a second one asks; from then on it decides
//! for all (**central**), until only one node is left with something there. Each node is a [`TokenMachine`] (in fact several,
//! each with a share of the shards) that plays both parts: what a node says to a coordinator and back goes over the links,
//! and in a loop within the machine where the node is the coordinator itself.
//!
//! What keeps it safe:
//! - The gate of a document is open at one node at most. A holder closes it before it says so; a coordinator opens its own only
//!   when no token is out.
//! - A coordinator that is new decides nothing before every member has **reported** what it has in the shard. A node that has
//!   reported takes nothing any more that was said under an earlier ownership, so that what it reported stays true; what it
//!   had asked and was not answered it asks again.
//! - What a node has at a coordinator it keeps as a copy (**mirror**), renewed in the same message that tells of the change. So
//!   a change that a node has heard of outlives the coordinator, and one that it has not heard of never happened.
//! - Nothing of a member counts after its `NodeDown`. What its clients had locked over NFS they may take again: those documents
//!   are decided about by their coordinators only, who keep them for that (`left.rs`).
//! - A coordinator that is silent and still a member is replaced only by its deputy, who knows what it may have (`deputy`).

mod coordinator;
mod deputy;
mod effect;
mod left;
mod machine;
mod message;
mod node;
mod shard;

pub use effect::{Effect, Event};
pub use machine::{TokenMachine, TokenOptions};
pub use message::{Body, Claim, Held, Part, RequestId, TokenMessage};

#[cfg(test)]
mod tests;
