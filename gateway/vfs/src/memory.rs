//! What a protocol head keeps in the repository over restarts, and the other nodes that it may have to speak for.
//!
//! Small values under names of the head's own; the file layer never looks into them. One writer a name: a node keeps its own
//! under a name with its number ([`Vfs::member`]) in it, and anybody may read them.

use bytes::Bytes;
use tokio::sync::watch;

use crate::error::VfsError;
use crate::vfs::Vfs;

/// Another node of the cluster, in one of its incarnations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The node's number.
    pub number: u16,
    /// Greater after each start.
    pub incarnation: u64,
}

impl Vfs {
    /// What is kept under a name.
    ///
    /// # Errors
    /// The repository can't be read.
    pub async fn kept(&self, name: &str) -> Result<Option<Bytes>, VfsError> {
        Ok(self.inner.repo.setting(&setting(name)).await?)
    }

    /// Keeps something; durable when it returns.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn keep(&self, name: &str, value: Bytes) -> Result<(), VfsError> {
        Ok(self.inner.repo.put_setting(&setting(name), value).await?)
    }

    /// The next of a row of growing numbers that all nodes share.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn next_number(&self, name: &str) -> Result<u64, VfsError> {
        Ok(self.inner.repo.next_counter(&setting(name)).await?)
    }

    /// This node's number among the members of its cluster; 0 without a cluster.
    pub fn member(&self) -> u16 {
        self.inner.member
    }

    /// The other live nodes, now and as they change.
    pub fn peers(&self) -> watch::Receiver<Vec<Peer>> {
        self.inner.peers.subscribe()
    }

    /// Nodes, in the incarnations that are gone, whose NFS clients had locks that they may take again: also those that were gone before
    /// this node came.
    pub fn former_peers(&self) -> watch::Receiver<Vec<Peer>> {
        self.inner.left.subscribe()
    }
}

fn setting(name: &str) -> String {
    format!("head.{name}")
}
