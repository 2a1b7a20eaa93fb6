//! The database as statements that happen at one moment: the registry's, and the repository's commit with its fence.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_lockmgr::Member;
use sluice_lockmgr_cluster::registry::MemoryRegistry;

/// What a commit statement answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    /// It is this version.
    Version(u64),
    /// Somebody committed since the base: this is the head.
    Conflict(u64),
    /// The writer has lost its right.
    Fenced,
}

/// A commit as it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    pub(crate) document: u64,
    pub(crate) base: u64,
    /// For retries.
    pub(crate) operation: u64,
    pub(crate) fence: u64,
}

/// See the module's head.
pub(crate) struct Database {
    pub(crate) registry: MemoryRegistry,
    /// Each document's operations in the order of their versions.
    histories: BTreeMap<u64, Vec<u64>>,
}

impl Database {
    pub(crate) fn new() -> Self {
        Self {
            registry: MemoryRegistry::new(Duration::from_secs(6)),
            histories: BTreeMap::new(),
        }
    }

    pub(crate) fn head(&self, document: u64) -> u64 {
        self.history(document).len() as u64
    }

    pub(crate) fn history(&self, document: u64) -> &[u64] {
        self.histories.get(&document).map_or(&[], Vec::as_slice)
    }

    /// The commit statement: fence and compare-and-set in one, an operation carried out at most once.
    pub(crate) fn commit(&mut self, member: Member, commit: Commit, fenced: bool) -> Committed {
        let Commit {
            document,
            base,
            operation,
            fence,
        } = commit;
        let history = self.histories.entry(document).or_default();
        if let Some(at) = history.iter().rposition(|done| *done == operation) {
            return Committed::Version(at as u64 + 1);
        }
        if fenced && !self.registry.may_commit(member, document, fence) {
            return Committed::Fenced;
        }
        if history.len() as u64 != base {
            return Committed::Conflict(history.len() as u64);
        }
        history.push(operation);
        Committed::Version(base + 1)
    }
}
