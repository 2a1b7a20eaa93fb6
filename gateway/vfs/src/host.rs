//! What the lock service asks of the file layer: to commit before another node acts, to hold still while the node may not act,
//! and to hear what other nodes tell. Decides nothing; knows no other node.
//!
//! What nodes tell each other beside the locks: that users, shares or policy changed (read again before the next login or
//! command, and at once for the rest), which documents lost their last name (`orphans.rs`), and what happened in folders that
//! somebody watches (`watch/remote.rs`). A note that is lost with its sender costs at most a stale record until the next one.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use sluice_lockmgr::{LockHost, Note};
use sluice_repo::{Attributes, NodeId, NodeKind, RepoError};
use smallvec::SmallVec;

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

    async fn notes_hold(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.read_records_again().await;
        }
    }

    fn has_uncommitted(&self, document: u64) -> bool {
        let inner = self.0.upgrade();
        inner.is_some_and(|inner| {
            let contents = inner.working.of_node(NodeId(document));
            contents.iter().any(|working| working.is_busy())
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

    /// Another node tells something.
    fn noted(self: &Arc<Self>, note: Note) {
        match note {
            Note::RecordsChanged => {
                self.records.doubt();
                let inner = self.clone();
                self.runtime
                    .spawn(async move { inner.read_records_again().await });
            }
            Note::Changed { bytes } => self.noted_changes(&bytes),
            Note::Orphans { bytes } => self.noted_orphans(&bytes),
        }
    }

    /// Once they are in doubt; who is in the middle of it is waited for.
    async fn read_records_again(&self) {
        if let Err(error) = self.records.fresh().await {
            tracing::warn!(%error, "users, shares and policy could not be read again");
        }
    }

    /// Users, shares or policy were changed here: holds on every node when this returns.
    pub(crate) async fn records_changed(&self) -> Result<(), RepoError> {
        self.records.fresh().await?;
        self.locks.announce_all(Note::RecordsChanged).await;
        Ok(())
    }

    /// What is to be looked at again and again, until the gateway stops.
    pub(crate) async fn make_rounds(self: Arc<Self>) {
        let mut tick = tokio::time::interval(self.options.round);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.renew_watches();
            self.sweep_orphans().await;
        }
    }

    /// Attributes of a document as they are now, by what the repository has just said: what other nodes have answered for but not
    /// committed is committed first.
    pub(crate) async fn as_now(&self, mut attributes: Attributes) -> Result<Attributes, RepoError> {
        let file = attributes.kind == NodeKind::File;
        if file && self.settle_elsewhere(std::iter::once(attributes.id)).await {
            attributes = self.repo.get(attributes.id).await?;
        }
        self.overlay(&mut attributes);
        Ok(attributes)
    }

    /// Has committed what other nodes answered for. False: there was nothing.
    pub(crate) async fn settle_elsewhere(&self, nodes: impl Iterator<Item = NodeId>) -> bool {
        let elsewhere: SmallVec<[u64; 16]> = nodes
            .filter(|node| self.resident(*node).is_none())
            .map(|node| node.0)
            .collect();
        !elsewhere.is_empty() && self.locks.settle(&elsewhere).await
    }
}
