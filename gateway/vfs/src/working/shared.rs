//! Changes of a document that other nodes act on too: each is a transaction on the repository's head, and those that wait for the
//! same turn are one. Nothing stays in memory, nothing is answered before it is committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_lockmgr as lm;
use sluice_repo::{Commit, FencingToken, Head, OpId, RepoError, Sealed};
use tokio::sync::oneshot;

use super::{Change, Changed, Working, Writer};
use crate::error::VfsError;
use crate::lock_bridge::Held;
use crate::metrics::Metrics;
use crate::vfs::{Inner, now, random_u128};

/// Most changes of one transaction.
const BATCH_MAX: usize = 256;
/// Times that a transaction is made again because another node was faster.
const TRIES_MAX: usize = 32;
/// After another node was faster: how long nodes take turns instead of trying.
const CONTENDED: Duration = Duration::from_secs(2);
/// How long a transaction waits for its turn among the nodes before it tries without.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// A change that waits for its transaction.
#[derive(Debug)]
pub(super) struct Waiting {
    change: Change,
    writer: Writer,
    move_times: bool,
    answer: oneshot::Sender<Result<Changed, VfsError>>,
}

impl Inner {
    /// Makes a change as part of the next transaction.
    pub(super) async fn change_shared(
        self: &Arc<Self>,
        working: &Arc<Working>,
        writer: &Writer,
        move_times: bool,
        change: Change,
    ) -> Result<Changed, VfsError> {
        self.thawed().await?;
        let (answer, told) = oneshot::channel();
        working.waiting.lock().push(Waiting {
            change,
            writer: writer.clone(),
            move_times,
            answer,
        });
        let (inner, working) = (self.clone(), working.clone());
        // In a task of its own: a caller that goes away takes nobody else's change with it.
        self.runtime.spawn(async move {
            let _turn = working.turn.lock().await;
            loop {
                let batch = take_batch(&working);
                if batch.is_empty() {
                    return;
                }
                inner.transact(&working, batch).await;
            }
        });
        told.await.unwrap_or(Err(VfsError::Io))
    }

    /// With the turn held: one transaction, and its answers.
    async fn transact(self: &Arc<Self>, working: &Arc<Working>, batch: Vec<Waiting>) {
        let result = self.transact_all(working, &batch).await;
        match result {
            Ok(results) => {
                for (waiting, result) in batch.into_iter().zip(results) {
                    let _ = waiting.answer.send(result);
                }
            }
            Err(error) => {
                for waiting in batch {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
            }
        }
    }

    async fn transact_all(
        self: &Arc<Self>,
        working: &Arc<Working>,
        batch: &[Waiting],
    ) -> Result<Vec<Result<Changed, VfsError>>, VfsError> {
        self.settle_doubt(working).await?;
        // What could not be committed when the last term ended comes first.
        self.commit_working(working).await?;
        let mut turn = self.shared_turn(working, false).await;
        for _ in 0..TRIES_MAX {
            let head = self.repo.head(working.id).await?;
            let content = self.store.working(head.manifest.clone());
            let mut results = Vec::with_capacity(batch.len());
            for waiting in batch {
                let changed = waiting.change.apply(content.as_ref(), || ()).await;
                results.push(changed.map(|changed| Changed {
                    shared: true,
                    ..changed
                }));
            }
            if !content.is_dirty() {
                working.adopt(head);
                return Ok(results);
            }
            let sealed = content.seal().await?;
            let commit = self.shared_commit(working, &head, &sealed, batch).await?;
            match self.commit_fenced(working, commit, &sealed).await {
                Ok(committed) => {
                    Metrics::count(&self.metrics.commits);
                    content.committed(&sealed);
                    working.adopt(Head {
                        version: committed.version,
                        manifest: sealed.manifest,
                    });
                    if let Some(turn) = turn {
                        turn.release().await;
                    }
                    return Ok(results);
                }
                Err(RepoError::Conflict(_)) => {
                    if turn.is_none() {
                        turn = self.shared_turn(working, true).await;
                    }
                }
                Err(error) => {
                    if matches!(error, RepoError::Stale(_) | RepoError::NotFound) {
                        working.kill();
                    } else {
                        Metrics::count(&self.metrics.commit_failures);
                        tracing::error!(node = working.id.node.0, %error, "commit failed");
                    }
                    return Err(error.into());
                }
            }
        }
        tracing::warn!(
            node = working.id.node.0,
            "other nodes were faster every time"
        );
        Err(VfsError::Unavailable(
            "other nodes change the document too often; try again".to_owned(),
        ))
    }

    async fn shared_commit(
        &self,
        working: &Working,
        head: &Head,
        sealed: &Sealed,
        batch: &[Waiting],
    ) -> Result<Commit, VfsError> {
        let moves = batch.iter().any(|waiting| waiting.move_times);
        let moment = now();
        let writer = batch.last().map(|waiting| waiting.writer.clone());
        let writer = writer.ok_or(VfsError::Io)?;
        let session = {
            let mut state = working.state.lock();
            let same = |w: &Writer| w.session == writer.session;
            let idle = state.last_write.elapsed() > self.options.place_idle;
            state.last_write = Instant::now();
            if !state.writer.as_ref().is_some_and(same) {
                state.session = writer.session;
                state.writer = Some(writer.clone());
            } else if writer.momentary && idle {
                state.session = sluice_repo::WriteSession(random_u128());
            }
            state.session
        };
        Ok(Commit {
            content: working.id,
            base: head.version,
            fence: FencingToken::default(),
            op: OpId(random_u128()),
            session,
            manifest: sealed.manifest.clone(),
            change: self
                .moved_times(working.id.node, moves.then_some(moment), Some(moment))
                .await?,
            origin: writer.origin,
            versions: writer.versions,
        })
    }

    /// This node's turn among those that change the document, if it was contended lately: who lost once need not lose again.
    pub(super) async fn shared_turn(
        self: &Arc<Self>,
        working: &Working,
        lost: bool,
    ) -> Option<Held> {
        {
            let mut state = working.state.lock();
            if lost {
                state.contended = Some(Instant::now());
            }
            state.contended.filter(|at| at.elapsed() < CONTENDED)?;
        }
        let resource = lm::ResourceId {
            document: crate::lock_bridge::turn_document(working.id.node),
            stream: working.id.stream,
        };
        let mut request = lm::OpenRequest::new(resource, self.own_actor(), lm::Access::WRITE);
        request.share = lm::ShareMode::sharing(lm::Access::NONE);
        request.on_conflict = lm::OnConflict::Wait(Some(TURN_WAIT));
        // Without it the transaction is tried all the same: it decides nothing about what may be changed.
        self.hold(request).await.ok()
    }

    /// After a commit that no entry of the lock table covered: whoever is alone on the document by now looks again.
    pub(crate) async fn expose(&self, node: sluice_repo::NodeId) {
        let request = lm::IoRequest {
            resource: lm::ResourceId::main(node.0),
            actor: self.own_actor(),
            kind: lm::IoKind::Read(lm::ByteRange::clamped(0, 0)),
            place: None,
            on_conflict: lm::OnConflict::Reject,
            nfs_ranges_mandatory: false,
        };
        // Whatever is answered: to answer, the lock service had to take the document back from who was alone on it.
        if let Err(denial) = self.locks.io_without_open(request).await {
            tracing::debug!(node = node.0, %denial, "a look at a document that was changed");
        }
    }
}

fn take_batch(working: &Working) -> Vec<Waiting> {
    let mut waiting = working.waiting.lock();
    let many = waiting.len().min(BATCH_MAX);
    waiting.drain(..many).collect()
}
