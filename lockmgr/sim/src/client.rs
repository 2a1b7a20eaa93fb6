//! Clients: they lock a document, work on its newest version, and let go.

use crate::gate::ClientId;

/// What a client is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Between two operations.
    Idle,
    /// Asked for the lock.
    Waiting,
    /// Has the lock and asks the database for the newest version.
    Reading,
    /// Has the lock and commits on top of this version.
    Committing { base: u64 },
}

/// One client. Each operation has a lock owner of its own, so that an answer to an earlier one is never taken for it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) step: Step,
    pub(crate) owner: ClientId,
    pub(crate) document: u64,
    pub(crate) exclusive: bool,
    /// Since when it waits for something, in simulated milliseconds.
    pub(crate) since: u64,
    /// The latest version of the document that anybody had been told of when it got the lock.
    pub(crate) acknowledged: u64,
    /// Names its commit.
    pub(crate) operation: u64,
}

impl Client {
    pub(crate) fn new(owner: ClientId) -> Self {
        Self {
            step: Step::Idle,
            owner,
            document: 0,
            exclusive: false,
            since: 0,
            acknowledged: 0,
            operation: 0,
        }
    }
}
