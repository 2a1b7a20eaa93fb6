//! Carries out one batch of changes in one transaction and answers them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;
use sluice_repo::{NodeId, Result, Timestamp};

use super::tx::{State, in_savepoint, step};
use super::{Answer, Job, Lasting, Publish, Touch, Tx, now};
use crate::checkpoint::Checkpointer;
use crate::error::db;

/// How long a sync that failed is left alone.
const SETTLE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The one connection that changes the database, and all that goes with it. Whoever holds it carries out a batch.
pub(super) struct Worker {
    pub(super) conn: Connection,
    pub(super) checkpointer: Checkpointer,
    publish: Publish,
    accessed: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
    batches: Arc<AtomicU64>,
    state: State,
    /// Whether commits of this connection reach the disk before they return.
    synced: bool,
    /// Since when something is committed that has not reached the disk.
    unsynced: Option<Instant>,
    /// Whether there is such.
    pending: Arc<AtomicBool>,
}

impl Worker {
    pub(super) fn new(
        conn: Connection,
        checkpointer: Checkpointer,
        publish: Publish,
        accessed: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
        batches: Arc<AtomicU64>,
        pending: Arc<AtomicBool>,
    ) -> Worker {
        Worker {
            conn,
            checkpointer,
            publish,
            accessed,
            batches,
            state: State::default(),
            synced: true,
            unsynced: None,
            pending,
        }
    }

    /// Since when something is committed that has not reached the disk.
    pub(super) fn unsynced(&self) -> Option<Instant> {
        self.unsynced
    }

    /// Makes what was committed durable.
    pub(super) fn settle(&mut self) -> Result<()> {
        let synced = self.checkpointer.sync_log();
        let again = Instant::now() + SETTLE_AGAIN_AFTER;
        self.note_unsynced(synced.is_err().then_some(again));
        synced
    }

    fn note_unsynced(&mut self, since: Option<Instant>) {
        self.unsynced = since;
        self.pending.store(since.is_some(), Ordering::Release);
    }

    /// Carries the changes out and answers them.
    pub(super) fn commit(&mut self, batch: Vec<Job>) {
        let mut touched = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        let durable = batch.iter().any(|job| job.lasting == Lasting::Now);
        let done = self.transact(batch, durable, &mut touched, &mut answers);
        let reserved = done.as_ref().is_ok_and(|reserved| *reserved);
        let mut outcome = done.map(|_| ());
        if self.checkpointer.take_written() {
            let open = !durable || outcome.is_err();
            let since = self.unsynced.unwrap_or_else(Instant::now);
            self.note_unsynced(open.then_some(since));
        }
        // Nothing may have been changed, but what was found may not be durable yet. And ids that a loss of power gives out once
        // more would lead handles to other documents.
        if (durable || reserved) && outcome.is_ok() && self.unsynced.is_some() {
            outcome = self.settle();
        }
        match &outcome {
            Ok(()) => (self.publish)(touched, true),
            Err(error) => {
                tracing::error!(%error, changes = answers.len(), "a transaction of the repository failed");
                if !self.conn.is_autocommit() {
                    // A rollback that fails leaves nothing to roll back.
                    let _ = self.conn.execute_batch("ROLLBACK");
                }
                self.state = State::default();
                // It may have reached the disk all the same.
                (self.publish)(touched, false);
            }
        }
        self.batches.fetch_add(1, Ordering::Relaxed);
        for answer in answers {
            answer(outcome.clone());
        }
    }

    /// Whether ids were taken from the database.
    fn transact(
        &mut self,
        batch: Vec<Job>,
        durable: bool,
        touched: &mut Vec<Touch>,
        answers: &mut Vec<Answer>,
    ) -> Result<bool> {
        let lost = self
            .sync_commits(durable)
            .and_then(|()| step(&self.conn, "BEGIN IMMEDIATE"))
            .err();
        let accessed = std::mem::take(&mut *self.accessed.lock());
        let mut tx = Tx {
            conn: &self.conn,
            now: now(),
            state: &mut self.state,
            touched,
            lost,
            alone: batch.len() == 1 && accessed.is_empty(),
            refused: false,
            reserved: false,
        };
        for job in batch {
            answers.push((job.run)(&mut tx));
        }
        for (node, at) in accessed {
            // A refusal here is met again by the commit if it matters.
            let _ = in_savepoint(&mut tx, |tx| touch_accessed(tx, node, at));
        }
        match tx.lost {
            Some(error) => Err(error),
            None if tx.refused => step(&self.conn, "ROLLBACK").map(|()| false),
            None => step(&self.conn, "COMMIT").map(|()| tx.reserved),
        }
    }

    /// Whether the next commits are to reach the disk before they return.
    fn sync_commits(&mut self, wanted: bool) -> Result<()> {
        if self.synced != wanted {
            let mode = if wanted { "FULL" } else { "NORMAL" };
            self.conn
                .pragma_update(None, "synchronous", mode)
                .map_err(db)?;
            self.synced = wanted;
        }
        Ok(())
    }
}

fn touch_accessed(tx: &mut Tx<'_>, node: NodeId, at: Timestamp) -> Result<()> {
    tx.conn
        .prepare_cached("UPDATE node SET atime = ?2 WHERE id = ?1")
        .and_then(|mut s| s.execute([node.0 as i64, at.0]))
        .map_err(db)?;
    tx.touch(Touch::Node(node));
    Ok(())
}
