//! The lock table for people: lists, explanations, forced release; and who is connected.

use super::{Admin, AdminResult, LockExplanation, LockQuery, LockRecord, SessionRecord};

impl Admin {
    /// Every open, byte range, cache grant, writer's place and waiter that matches.
    pub async fn locks(&self, query: LockQuery) -> AdminResult<Vec<LockRecord>> {
        todo!()
    }

    /// Who holds a document (`docs/a/b.txt`, share first) and who waits for whom.
    pub async fn explain_locks(&self, path: &str) -> AdminResult<LockExplanation> {
        todo!()
    }

    /// Takes an open, place or range away from its holder; `why` goes to the log. Returns what was taken.
    pub async fn break_lock(&self, id: u64, why: &str) -> AdminResult<LockRecord> {
        todo!()
    }

    /// Clients that are connected (SMB, FTP) or known (NFS).
    pub async fn sessions(&self) -> AdminResult<Vec<SessionRecord>> {
        todo!()
    }
}
