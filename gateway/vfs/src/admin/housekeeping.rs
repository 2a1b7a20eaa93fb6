//! Integrity checks and unreferenced content.

use std::time::Duration;

use super::{Admin, AdminResult, CheckRecord, GcRecord};

impl Admin {
    /// Looks through metadata and content for contradictions, and repairs those of the metadata if asked. Compares the checksums of
    /// every object if `verify_content`.
    pub async fn check(&self, repair: bool, verify_content: bool) -> AdminResult<CheckRecord> {
        todo!()
    }

    /// Deletes content that no version has needed for `age`.
    pub async fn collect_garbage(&self, age: Duration) -> AdminResult<GcRecord> {
        todo!()
    }
}
