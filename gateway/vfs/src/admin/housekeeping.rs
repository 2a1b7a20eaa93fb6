//! Integrity checks and unreferenced content.

use std::time::Duration;

use sluice_repo::{GARBAGE_AGE_S, check_all, collect_all, collect_given_up, keep_pinned};

use super::{Admin, AdminResult, CheckRecord, GcRecord};

impl Admin {
    /// Looks through metadata and content for contradictions, and repairs those of the metadata if asked. Reads every object
    /// and compares its checksums if `verify_content`; otherwise looks only whether it is there.
    pub async fn check(&self, repair: bool, verify_content: bool) -> AdminResult<CheckRecord> {
        let (repo, store) = (self.inner.repo.as_ref(), self.inner.store.as_ref());
        let report = check_all(repo, store, repair, verify_content).await?;
        Ok(CheckRecord {
            nodes: report.nodes,
            versions: report.versions,
            problems: report.problems,
            repaired: report.repaired,
        })
    }

    /// Deletes content that no version has needed for `age`; the usual time for readers to finish if `None`. Safe on a running node.
    pub async fn collect_garbage(&self, age: Option<Duration>) -> AdminResult<GcRecord> {
        let age_s = age.map_or(GARBAGE_AGE_S, |age| age.as_secs());
        let (repo, store) = (self.inner.repo.as_ref(), self.inner.store.as_ref());
        let report = collect_all(repo, store, age_s).await?;
        Ok(GcRecord {
            given_up: report.given_up,
            unreferenced: report.unreferenced,
            unreferenced_bytes: report.unreferenced_bytes,
            kept: report.kept,
        })
    }

    /// Keeps other nodes from deleting content that this one still reads; for a timer.
    pub async fn keep_content_in_use(&self) -> AdminResult<()> {
        let (repo, store) = (self.inner.repo.as_ref(), self.inner.store.as_ref());
        Ok(keep_pinned(repo, store).await?)
    }

    /// Deletes content that lost versions have given up long enough ago; cheap, for a timer. Returns how many objects.
    pub async fn collect_given_up(&self) -> AdminResult<u64> {
        let (repo, store) = (self.inner.repo.as_ref(), self.inner.store.as_ref());
        Ok(collect_given_up(repo, store, GARBAGE_AGE_S).await?)
    }
}
