//! A model of how the right on one document goes from node to node, small enough to look at every order of events: hand-over, loss of a
//! coordinator, fences, freeze and thaw, revocation by force. A checker explores it exhaustively within stated budgets.
//!
//! Owns an abstraction of the protocol, written anew and kept small on purpose: it must never import the machines that it is about
//! (those run in the simulation, seed by seed). **What is in it**: the database with leases, the owner of the shard, the fence of the
//! document and its versions; two or three nodes with processes that end and start; messages in order on each link, delayed as long
//! as you like; commits that are delayed, doubled, and arrive after their sender has died. **What is not**: the rules of the lock table,
//! and data. Time is a few ticks: what a lease outlives, and what it does not.
//!
//! Each [`Mutant`] leaves out one rule, to show that the properties need it.

mod check;
mod coordinator;
mod database;
mod node;
mod state;

pub use check::{Act, Handover};
pub use state::State;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutant {
    /// None.
    #[default]
    None,
    /// Commits don't look at the rows of node, shard and fence.
    NoFence,
    /// Commits read these rows without locking them, and write afterwards.
    PlainRead,
    /// Commits don't compare the version that they are based on.
    NoVersionCompare,
    /// A lease that is renewed lets its node act before it has heard what was taken from it.
    ThawUnasked,
    /// A node that was told of a right that was taken from it forgets it, and takes that right when the message with it arrives.
    TakesRevoked,
    /// Messages don't tell under which ownership and to which incarnation they were said.
    NoEpoch,
    /// Who takes a right away by force does not wait until the lease of its holder is over.
    NoWait,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Nodes: 1 to 3.
    pub nodes: usize,
    /// Changes that clients ask for.
    pub asks: u8,
    /// Processes that end.
    pub crashes: u8,
    /// Processes that start again.
    pub starts: u8,
    /// Time that goes by. A lease lasts two ticks; by its holder's clock, one.
    pub ticks: u8,
    /// Rights that are taken by force.
    pub forces: u8,
    /// Commits that are sent a second time because their answer is late.
    pub resends: u8,
    /// Those who want the document want to share it: once two do, its coordinator decides for all.
    pub shared: bool,
    /// The rule that is left out.
    pub mutant: Mutant,
}

impl Plan {
    /// Hand-over between so many nodes, and nothing goes wrong.
    #[must_use]
    pub fn calm(nodes: usize, asks: u8) -> Self {
        Self {
            nodes,
            asks,
            crashes: 0,
            starts: 0,
            ticks: 0,
            forces: 0,
            resends: 0,
            shared: false,
            mutant: Mutant::None,
        }
    }
}
