//! Carries out one batch of changes in one transaction and answers them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rusqlite::Connection;
use sluice_repo::{NodeId, Result, Timestamp};

use super::log::Log;
use super::tx::{State, in_savepoint, step};
use super::{Answer, Job, Kept, Touch, Tx, now};
use crate::checkpoint::Checkpointer;
use crate::error::db;

/// The one connection that changes the database, and all that goes with it. Whoever holds it carries out a batch.
pub(super) struct Worker {
    pub(super) conn: Connection,
    pub(super) checkpointer: Checkpointer,
    kept: Arc<dyn Kept>,
    accessed: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
    batches: Arc<AtomicU64>,
    state: State,
    log: Arc<Log>,
}

/// A batch that was carried out and is not answered.
pub(super) struct Done {
    pub(super) outcome: Result<()>,
    /// Ids were taken from the database.
    pub(super) reserved: bool,
    answers: Vec<Answer>,
}

impl Done {
    /// Answers everybody; `durable` if that worked out which was to come before.
    pub(super) fn answer(self, durable: Result<()>) {
        let outcome = self.outcome.and(durable);
        for answer in self.answers {
            answer(outcome.clone());
        }
    }
}

impl Worker {
    pub(super) fn new(
        conn: Connection,
        checkpointer: Checkpointer,
        kept: Arc<dyn Kept>,
        accessed: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
        batches: Arc<AtomicU64>,
        log: Arc<Log>,
    ) -> Worker {
        Worker {
            conn,
            checkpointer,
            kept,
            accessed,
            batches,
            state: State::default(),
            log,
        }
    }

    /// Carries changes out in one transaction, which everybody sees then; it is not durable yet.
    pub(super) fn carry_out(&mut self, batch: Vec<Job>) -> Done {
        let mut touched = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        let done = self.transact(batch, &mut touched, &mut answers);
        if self.checkpointer.take_written() {
            self.log.note_written();
        }
        match &done {
            Ok(_) => self.kept.publish(touched, true),
            Err(error) => {
                tracing::error!(%error, changes = answers.len(), "a transaction of the repository failed");
                if !self.conn.is_autocommit() {
                    // A rollback that fails leaves nothing to roll back.
                    let _ = self.conn.execute_batch("ROLLBACK");
                }
                self.state = State::default();
                // It may have reached the disk all the same.
                self.kept.publish(touched, false);
            }
        }
        self.batches.fetch_add(1, Ordering::Relaxed);
        Done {
            reserved: done.as_ref().is_ok_and(|reserved| *reserved),
            outcome: done.map(|_| ()),
            answers,
        }
    }

    /// Whether ids were taken from the database.
    fn transact(
        &mut self,
        batch: Vec<Job>,
        touched: &mut Vec<Touch>,
        answers: &mut Vec<Answer>,
    ) -> Result<bool> {
        let lost = self
            .log
            .check()
            .and_then(|()| step(&self.conn, "BEGIN IMMEDIATE"))
            .err();
        let accessed = std::mem::take(&mut *self.accessed.lock());
        let mut tx = Tx {
            conn: &self.conn,
            now: now(),
            kept: &*self.kept,
            state: &mut self.state,
            touched,
            lost,
            alone: batch.len() == 1 && accessed.is_empty(),
            refused: false,
            reserved: false,
        };
        for job in batch {
            answers.push((job.run)(Ok(&mut tx)));
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
}

fn touch_accessed(tx: &mut Tx<'_>, node: NodeId, at: Timestamp) -> Result<()> {
    tx.conn
        .prepare_cached("UPDATE node SET atime = ?2 WHERE id = ?1")
        .and_then(|mut s| s.execute([node.0 as i64, at.0]))
        .map_err(db)?;
    tx.touch(Touch::Node(node));
    Ok(())
}
