//! Shares: what is published, to whom.

use super::{Admin, AdminResult, ShareChange, ShareRecord};

impl Admin {
    /// All shares, by name.
    pub async fn shares(&self) -> AdminResult<Vec<ShareRecord>> {
        todo!()
    }

    /// Publishes a folder; without options like `docs`.
    pub async fn add_share(&self, name: &str, options: ShareChange) -> AdminResult<ShareRecord> {
        todo!()
    }

    /// Changes options of a share.
    pub async fn set_share(&self, name: &str, options: ShareChange) -> AdminResult<ShareRecord> {
        todo!()
    }

    /// Stops publishing; the documents stay.
    pub async fn remove_share(&self, name: &str) -> AdminResult<()> {
        todo!()
    }
}
