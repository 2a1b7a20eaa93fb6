//! Old versions of documents.

use super::{Admin, AdminResult, VersionRecord};

impl Admin {
    /// Kept versions of a document (`docs/a/b.txt`, share first), newest first.
    pub async fn versions(&self, path: &str) -> AdminResult<Vec<VersionRecord>> {
        todo!()
    }

    /// Makes a kept version the present content, as a new version. Meets locks like any writer; `None` restores the newest old version.
    pub async fn restore_version(
        &self,
        path: &str,
        version: Option<u64>,
    ) -> AdminResult<VersionRecord> {
        todo!()
    }
}
