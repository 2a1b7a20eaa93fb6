//! Seeded simulation of a cluster: the real token and membership machines of several nodes under one scheduler, with crashes, pauses,
//! partitions, a database that is slow, cut off or down, and clocks that drift and jump.
//!
//! Owns the world around the machines (links, database statements, clients) and the invariants, one file each in [`invariants`], which
//! are checked after every step. Nothing here reads a clock or draws chance from elsewhere: one seed is one run, to the last event.
//!
//! **What is real**: [`sluice_lockmgr_cluster`]'s token machine and membership machine, and the registry's rules. **What is simple**: the
//! lock behind a gate (shared or exclusive, first come first served), because the rules of the lock table are proved elsewhere.

mod client;
mod database;
mod faults;
mod gate;
pub mod invariants;
mod node;
mod random;
mod world;

pub use faults::Faults;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything that chance decides follows from it.
    pub seed: u64,
    /// Nodes in the cluster.
    pub nodes: usize,
    /// Documents; few, so that clients meet.
    pub documents: u64,
    /// Clients on each node.
    pub clients: u64,
    /// Operations that clients complete before the run ends.
    pub operations: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// One in so many requests is taken to be unheard though it is not.
    pub spurious: u64,
    /// A rule that is left out, to show that the invariants need it.
    pub mutant: Mutant,
}

/// A rule that a run leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutant {
    /// None.
    #[default]
    None,
    /// Commits are not fenced.
    NoFence,
    /// What a node knows of a document counts in later terms too.
    NoTerm,
    /// What a node has at a coordinator goes without the answers that it has not heard.
    Forgetful,
    /// Nodes do not hear what a renewal says of tokens that were taken away.
    DeafRenewal,
    /// A coordinator decides about documents before its deputy has them on its list.
    HastyTaking,
    /// A deputy takes shards over whatever its coordinator's turn is.
    AnyTurn,
    /// A coordinator whose deputy is silent does not look what that has taken.
    NoLook,
    /// A coordinator that stood still goes by what it knows of holders, and who was one answers for what it had.
    OldNews,
    /// A coordinator's lists are empty.
    ShortList,
    /// A deputy strikes documents from its list that the coordinator still decides about.
    EarlyLeft,
}

impl Plan {
    /// Three nodes with everything that can go wrong.
    #[must_use]
    pub fn new(seed: u64, operations: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            documents: 5,
            clients: 3,
            operations,
            faults: Faults::default(),
            spurious: 200,
            mutant: Mutant::None,
        }
    }
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations that clients completed.
    pub operations: u64,
    /// Among them, commits.
    pub commits: u64,
    /// Commits that the database refused because their writer had lost its right.
    pub fenced: u64,
    /// Attempts to take a token away by force.
    pub forced: u64,
    /// Shards that deputies took over from members.
    pub taken_over: u64,
    /// Times that a node went on without a deputy.
    pub voided: u64,
    /// Faults.
    pub faults: u64,
    /// Incarnations that were fenced or died.
    pub losses: u64,
    /// Answers that nobody else has anything uncommitted of a document.
    pub settled: u64,
    /// Simulated milliseconds.
    pub ms: u64,
    /// Fingerprint of every event in order.
    pub digest: u64,
}

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// The seed that shows it again.
    pub seed: u64,
    /// When, in simulated milliseconds.
    pub at_ms: u64,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} violated at {} ms: {} (seed {})",
            self.invariant, self.at_ms, self.what, self.seed
        )
    }
}

impl std::error::Error for Violation {}

/// Runs a plan.
///
/// # Errors
/// The first [`Violation`].
pub fn run(plan: &Plan) -> Result<Report, Violation> {
    world::World::new(plan).run()
}
