//! From changes in memory to a commit: one at a time for each content, on top of whatever is committed by then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluice_repo::{
    AttributeChange, Commit, Committed, FencingToken, NodeId, OpId, Origin, RepoError, Sealed,
    Timestamp, Version, WriteSession,
};

use super::{Working, Writer};
use crate::carry::carry_through;
use crate::error::VfsError;
use crate::lock_bridge::{Held, main};
use crate::metrics::Metrics;
use crate::vfs::{Inner, now, random_u128};

/// Times that changes are put on top of what others committed meanwhile.
const TRIES_MAX: usize = 32;

/// Whether the content can't become durable any more, so that nothing was committed.
fn is_refused(sealed: &Sealed) -> bool {
    let unsettled = sealed.unsettled.as_ref();
    unsettled.is_some_and(|unsettled| unsettled.has_failed())
}

impl Inner {
    /// Notes that bytes changed: what the next commit says, and that there is one to make.
    pub(super) fn note_write(&self, working: &Arc<Working>, writer: &Writer, move_times: bool) {
        {
            let mut state = working.state.lock();
            let idle = state.last_write.elapsed() > self.options.place_idle;
            state.last_write = Instant::now();
            let now = now();
            state.changed = Some(now);
            if move_times {
                state.modified = Some(now);
            }
            let same = |w: &Writer| w.session == writer.session;
            if !state.writer.as_ref().is_some_and(same) {
                state.writer = Some(writer.clone());
                state.session = writer.session;
            } else if writer.momentary && idle {
                state.session = WriteSession(random_u128());
            }
        }
        self.queue(working);
    }

    fn queue(&self, working: &Arc<Working>) {
        if !working.queued.swap(true, Ordering::AcqRel) {
            let mut dirty = self.working.dirty.lock();
            dirty.insert(working.id, working.clone());
        }
    }

    /// Makes all that was written so far durable and committed.
    pub(crate) async fn flush(self: &Arc<Self>, working: &Arc<Working>) -> Result<(), VfsError> {
        working.right()?;
        if !working.is_dirty() {
            return Ok(());
        }
        let (inner, working) = (self.clone(), working.clone());
        let work = async move { inner.flush_now(&working).await };
        carry_through(&self.runtime, work).await
    }

    async fn flush_now(self: &Arc<Self>, working: &Arc<Working>) -> Result<(), VfsError> {
        let committed = {
            let _turn = working.turn.lock().await;
            self.commit_working(working).await?
        };
        let node = working.id.node;
        if committed && (working.term().is_none() || self.resident(node) != working.term()) {
            self.expose(node).await;
        }
        Ok(())
    }

    /// Commits what a document has uncommitted, main content and streams. Gives whether there was something now or
    /// lately.
    pub(crate) async fn flush_node(self: &Arc<Self>, node: NodeId) -> bool {
        let mut any = false;
        for working in self.working.of_node(node) {
            any |= working.is_dirty() || working.committed_lately();
            if let Err(error) = self.flush(&working).await {
                tracing::warn!(node = node.0, %error, "a document could not be committed; it is tried again");
            }
        }
        any
    }

    /// Ends the term in which this node was alone on a document: changes in memory are waited for and committed.
    pub(crate) async fn give_up(self: &Arc<Self>, node: NodeId) {
        for working in self.working.of_node(node) {
            let _door = working.door.write().await;
            let _turn = working.turn.lock().await;
            working.end_term();
            if let Err(error) = self.commit_working(&working).await {
                // The bytes stay here and go on top of what others commit, as soon as it can be done.
                tracing::warn!(node = node.0, %error, "a document could not be committed for another node");
            }
        }
    }

    /// With the turn held: seals and commits. The turn keeps `base` equal to the repository's version while the node is alone.
    /// Returns whether there was something.
    pub(super) async fn commit_working(
        self: &Arc<Self>,
        working: &Arc<Working>,
    ) -> Result<bool, VfsError> {
        // Before looking whether there is something: a write that comes later queues itself again.
        working.queued.store(false, Ordering::Release);
        let result = self.commit_dirty(working).await;
        if result.is_err() {
            // Tried again in the background, but not at once.
            working.state.lock().last_write = Instant::now();
        }
        working.unpin();
        if working.is_dirty() {
            self.queue(working);
        } else if !working.queued.load(Ordering::Acquire) {
            let mut dirty = self.working.dirty.lock();
            dirty.remove(&working.id);
            if working.queued.load(Ordering::Acquire) {
                dirty.insert(working.id, working.clone());
            }
        }
        result
    }

    async fn commit_dirty(self: &Arc<Self>, working: &Arc<Working>) -> Result<bool, VfsError> {
        if !working.is_dirty() {
            return Ok(false);
        }
        self.settle_unsure(working).await?;
        let mut turn = None;
        for _ in 0..TRIES_MAX {
            working.right()?;
            if !working.is_dirty() {
                return Ok(true);
            }
            let sealed = working.content()?.seal_for_commit().await.inspect_err(|error| {
                Metrics::count(&self.metrics.commit_failures);
                tracing::error!(node = working.id.node.0, %error, "content could not be made durable");
            })?;
            let answer = match self.next_commit(working, &sealed).await {
                Ok(commit) => match self.commit_fenced(working, commit.clone(), &sealed).await {
                    Ok(committed) => Ok((committed, commit.change.modified)),
                    Err(error) => Err((error, Some(commit))),
                },
                Err(error) => Err((error, None)),
            };
            match answer {
                Ok((committed, modified)) => {
                    self.book(working, &sealed, &committed, modified)?;
                    if let Some(turn) = turn {
                        Held::release(turn).await;
                    }
                    return Ok(true);
                }
                Err((RepoError::Stale(_) | RepoError::NotFound, _)) => {
                    // Deleted meanwhile: there is nothing left that the bytes could belong to.
                    working.kill();
                    return Ok(false);
                }
                Err((RepoError::Conflict(_), _)) => {
                    self.take_head(working).await?;
                    if turn.is_none() {
                        turn = self.shared_turn(working, true).await;
                    }
                }
                Err((error, commit)) => {
                    Metrics::count(&self.metrics.commit_failures);
                    tracing::error!(node = working.id.node.0, %error, "commit failed");
                    if let (RepoError::Unavailable(_), Some(commit)) = (&error, commit)
                        && !is_refused(&sealed)
                    {
                        working.state.lock().unsure = Some((commit, sealed));
                    }
                    return Err(error.into());
                }
            }
        }
        tracing::error!(
            node = working.id.node.0,
            "other nodes were faster every time; the bytes stay and are tried again"
        );
        Err(VfsError::Unavailable(
            "other nodes change the document too often; try again".to_owned(),
        ))
    }

    /// With the turn held: a commit was made.
    fn book(
        &self,
        working: &Working,
        sealed: &Sealed,
        committed: &Committed,
        modified: Option<Timestamp>,
    ) -> Result<(), VfsError> {
        Metrics::count(&self.metrics.commits);
        let content = working.content()?;
        let mut state = working.state.lock();
        let (before, after) = (state.manifest.size, sealed.manifest.size);
        state.base = committed.version;
        state.manifest = sealed.manifest.clone();
        state.committed_at = Some(Instant::now());
        state.unsure = None;
        state.committed = Some((committed.attributes.modified, committed.attributes.changed));
        content.committed(sealed);
        if state.modified == modified {
            state.modified = None;
        }
        if after < before {
            self.working.note_shrunk();
        }
        if let Some(charge) = &mut state.charge {
            charge.commit(before, after);
            if !content.is_dirty() {
                state.charge = None;
            }
        }
        Ok(())
    }

    /// With the turn held: finds out whether a commit without an answer was carried out, by asking for it again. What others
    /// committed on top of it must not be overwritten by the same bytes once more.
    pub(super) async fn settle_unsure(&self, working: &Working) -> Result<(), VfsError> {
        let Some((commit, sealed)) = working.state.lock().unsure.clone() else {
            return Ok(());
        };
        match self.commit_fenced(working, commit.clone(), &sealed).await {
            Ok(committed) => self.book(working, &sealed, &committed, commit.change.modified),
            Err(RepoError::Conflict(_)) => {
                let made = Version(commit.base.0 + 1);
                let kept = self.repo.version(commit.content.node, made).await;
                if commit.content.stream == 0 && kept.is_ok_and(|kept| kept == sealed.manifest) {
                    working.content()?.committed(&sealed);
                }
                working.state.lock().unsure = None;
                self.take_head(working).await
            }
            Err(RepoError::Stale(_) | RepoError::NotFound) => {
                working.kill();
                Ok(())
            }
            Err(error @ RepoError::Unavailable(_)) if !is_refused(&sealed) => Err(error.into()),
            Err(error) => {
                // Refused, so it was not carried out; the next commit says it again.
                working.state.lock().unsure = None;
                tracing::debug!(%error, "a commit without an answer was not carried out");
                Ok(())
            }
        }
    }

    async fn next_commit(&self, working: &Working, sealed: &Sealed) -> Result<Commit, RepoError> {
        let (base, modified, changed, session, writer) = {
            let state = working.state.lock();
            let writer = state.writer.clone();
            (
                state.base,
                state.modified,
                state.changed,
                state.session,
                writer,
            )
        };
        let (origin, versions) = writer.map_or((Origin::default(), None), |writer| {
            (writer.origin, writer.versions)
        });
        Ok(Commit {
            content: working.id,
            base,
            fence: FencingToken::default(),
            op: OpId(random_u128()),
            session,
            manifest: sealed.manifest.clone(),
            change: self.moved_times(working.id.node, modified, changed).await?,
            origin,
            versions,
        })
    }

    /// Times that go with a commit. Writes that leave times alone (a frozen or sticky time) keep what is stored; the change time
    /// never goes back.
    pub(super) async fn moved_times(
        &self,
        node: NodeId,
        modified: Option<Timestamp>,
        changed: Option<Timestamp>,
    ) -> Result<AttributeChange, RepoError> {
        let stored = self.repo.get(node).await?;
        Ok(AttributeChange {
            modified: Some(modified.unwrap_or(stored.modified)),
            changed: changed.map(|changed| changed.max(stored.changed)),
            ..AttributeChange::default()
        })
    }

    /// Commits what has been idle for a while, until the gateway stops.
    pub(crate) async fn commit_idle_contents(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.flush_due(self.options.idle_commit).await;
            if let Err(error) = self.repo.settle().await {
                tracing::error!(%error, "new documents could not be made durable");
            }
        }
    }

    /// Commits contents that were not written to for `idle`. Returns whether all went well.
    pub(crate) async fn flush_due(self: &Arc<Self>, idle: Duration) -> bool {
        let flushes = self.working.due(idle).into_iter().map(|working| {
            let inner = self.clone();
            self.runtime
                .spawn(async move { inner.flush_now(&working).await })
        });
        let mut well = true;
        for flush in flushes.collect::<Vec<_>>() {
            well &= matches!(flush.await, Ok(Ok(())));
        }
        well
    }

    /// Another node has the document, and this one's right on it was taken away: what it has not committed must not go on top of
    /// what the other makes of it. Opens are told by the lock service; clients without opens see another write verifier.
    pub(crate) fn lose_uncommitted(&self, node: NodeId) {
        self.working.void(node, || {
            self.verifier.fetch_add(1, Ordering::AcqRel);
            tracing::error!(
                node = node.0,
                "changes of a document that were not committed are lost: this node did not give it to another in time"
            );
        });
    }

    /// A node is gone for good.
    pub(crate) fn forget_node(&self, node: NodeId) {
        self.working.forget(main(node));
    }
}
