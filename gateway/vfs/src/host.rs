//! What the lock service asks of the file layer: to commit before another node acts, to hold still while the node may not act,
//! and to hear what other nodes tell. Decides nothing; knows no other node.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use sluice_lockmgr::{LockHost, Note};
use sluice_repo::{NodeId, RepoError};

use crate::vfs::Inner;

/// The file layer as the lock service knows it. Does not keep it alive.
pub(crate) struct Host(pub(crate) Weak<Inner>);

#[async_trait]
impl LockHost for Host {
    async fn surrender(&self, document: u64) {
        if let Some(inner) = self.0.upgrade() {
            inner.give_up(NodeId(document)).await;
        }
    }

    async fn settle(&self, document: u64) -> bool {
        match self.0.upgrade() {
            Some(inner) => inner.flush_node(NodeId(document)).await,
            None => false,
        }
    }

    fn noted(&self, note: Note) {
        if let Some(inner) = self.0.upgrade() {
            inner.noted(note);
        }
    }

    fn has_uncommitted(&self, document: u64) -> bool {
        let inner = self.0.upgrade();
        inner.is_some_and(|inner| {
            let contents = inner.working.of_node(NodeId(document));
            contents.iter().any(|working| working.is_dirty())
        })
    }

    async fn frozen(&self, frozen: bool) {
        if let Some(inner) = self.0.upgrade() {
            inner.frozen.store(frozen, Ordering::Release);
            inner.thaw.notify_waiters();
        }
    }
}

impl Inner {
    /// Whether the node may not act for now.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Waits until the node may act.
    pub(crate) async fn thawed(&self) -> Result<(), RepoError> {
        loop {
            let told = self.thaw.notified();
            if !self.is_frozen() {
                return Ok(());
            }
            tokio::select! {
                () = told => {}
                () = self.stopping.cancelled() => {
                    let why = "this node was cut off from the cluster; connect again".to_owned();
                    return Err(RepoError::Unavailable(why));
                }
            }
        }
    }

    /// The settings of users, shares or policy, folders that are watched, or nameless documents have changed elsewhere.
    fn noted(self: &Arc<Self>, note: Note) {
        match note {
            Note::RecordsChanged => {}
            Note::Changed { .. } => {}
            Note::Orphans { .. } => {}
        }
    }
}
