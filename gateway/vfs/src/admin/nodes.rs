//! What nodes say about themselves to the administrators of all nodes: where their heads are.

use super::Admin;
use super::types::AdminError;

const KEY: &str = "node.facts.";

impl Admin {
    /// Stores what this node says about itself, for the asking on every node. The words are the daemon's.
    ///
    /// # Errors
    /// The repository can't be written.
    pub async fn publish_facts(&self, facts: Vec<u8>) -> Result<(), AdminError> {
        let key = format!("{KEY}{}", self.inner.node);
        let stored = self.inner.repo.put_setting(&key, facts.into()).await;
        stored.map_err(AdminError::from)
    }

    /// What a node said last.
    ///
    /// # Errors
    /// No node of this name ever said anything.
    pub async fn facts(&self, node: &str) -> Result<Vec<u8>, AdminError> {
        let stored = self.inner.repo.setting(&format!("{KEY}{node}")).await?;
        let unknown = || AdminError::NotFound(format!("no node is called {node}"));
        stored.map(|facts| facts.to_vec()).ok_or_else(unknown)
    }
}
