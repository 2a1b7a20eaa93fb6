//! What the lock service asks of the file layer: to commit before another node acts, to hold still while the node may not act,
//! and to hear what other nodes tell. Decides nothing; knows no other node.
//!
//! What nodes tell each other beside the locks: that users, shares or policy changed (read again before the next login or
//! command, and at once for the rest), which documents lost their last name (`orphans.rs`), and what happened in folders that
//! somebody watches (`watch/remote.rs`). A note that is lost with its sender costs at most a stale record until the next one.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use sluice_lockmgr::{LockHost, Member, Note};
use sluice_repo::{Attributes, NodeId, NodeKind, RepoError};
use smallvec::SmallVec;

use crate::coherent::Pin;
use crate::memory::Peer;
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

    fn revoked(&self, document: u64) {
        if let Some(inner) = self.0.upgrade() {
            inner.lose_uncommitted(NodeId(document));
            // Nobody need listen.
            let _ = inner.rights_lost.send(NodeId(document));
        }
    }

    async fn settle(&self, document: u64) -> bool {
        match self.0.upgrade() {
            Some(inner) => inner.flush_node(NodeId(document)).await,
            None => false,
        }
    }

    fn members(&self, others: &[Member]) {
        let Some(inner) = self.0.upgrade() else {
            return;
        };
        if let Some(coherent) = &inner.coherent {
            coherent.members(others);
        }
        inner.peers.send_replace(others.iter().map(peer).collect());
    }

    fn left(&self, former: &[Member]) {
        if let Some(inner) = self.0.upgrade() {
            inner.left.send_replace(former.iter().map(peer).collect());
        }
    }

    fn noted(&self, from: Member, note: Note) {
        if let Some(inner) = self.0.upgrade() {
            inner.noted(from, note);
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
            inner.frozen_for.lock().set(frozen);
            inner.thaw.notify_waiters();
        }
    }
}

fn peer(member: &Member) -> Peer {
    Peer {
        number: u16::try_from(member.id.0).unwrap_or(0),
        incarnation: member.epoch.0,
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
    fn noted(self: &Arc<Self>, from: Member, note: Note) {
        match note {
            Note::RecordsChanged => {
                self.records.doubt();
                let inner = self.clone();
                self.runtime
                    .spawn(async move { inner.read_records_again().await });
            }
            Note::Changed { bytes } => self.noted_changes(&bytes),
            Note::Orphans { bytes } => self.noted_orphans(&bytes),
            Note::Metadata { bytes } => {
                if let Some(coherent) = &self.coherent {
                    coherent.noted(from, &bytes);
                }
            }
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
        if !self.is_as_now(&mut attributes) && self.locks.settle(&[attributes.id.0]).await {
            attributes = self.repo.get(attributes.id).await?;
        }
        self.overlay(&mut attributes);
        Ok(attributes)
    }

    /// The same for many; `false`: read them again, some were committed just now.
    pub(crate) async fn are_as_now(&self, all: impl Iterator<Item = &mut Attributes>) -> bool {
        let elsewhere: SmallVec<[u64; 16]> = all
            .filter_map(|attributes| {
                let asked = !self.is_as_now(attributes);
                asked.then_some(attributes.id.0)
            })
            .collect();
        elsewhere.is_empty() || !self.locks.settle(&elsewhere).await
    }

    /// Whether it is certain without asking that no other node has more of the document than the attributes show.
    fn is_as_now(&self, attributes: &mut Attributes) -> bool {
        if attributes.kind != NodeKind::File || self.resident(attributes.id).is_some() {
            return true;
        }
        // A cached value that counts is the repository's, and nobody changes it or has written to it in memory: the value that
        // was read a moment ago may be older.
        let settled = self.coherent.as_ref();
        match settled.and_then(|coherent| coherent.settled(attributes.id)) {
            Some(now) => {
                attributes.clone_from(&now);
                true
            }
            None => false,
        }
    }

    /// Whether it is certain without asking that no client of any node keeps writes to the document to itself.
    pub(crate) fn is_untouched(&self, node: NodeId) -> bool {
        let coherent = self.coherent.as_ref();
        // Alone on the document, the own lock table is asked: it costs nothing.
        self.resident(node).is_none() && coherent.is_some_and(|c| c.is_untouched(node))
    }

    /// To be held while a content has changes in memory, or a client may have some: other nodes ask before they show the document.
    pub(crate) async fn pin(&self, node: NodeId) -> Result<Option<Pin>, RepoError> {
        match &self.coherent {
            Some(coherent) => coherent.pin(node).await.map(Some),
            None => Ok(None),
        }
    }
}
