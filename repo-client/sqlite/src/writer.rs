//! The one thread that changes the database, and its group commit: everything that arrives while a commit is on its
//! way to the disk goes into the next one. Each change runs in a savepoint, so that a refused one leaves the others alone, and
//! is answered only after the commit (invariant I4), the caches cleared before that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rusqlite::Connection;
use sluice_repo::{Attributes, ContentId, Head, NodeId, RepoError, Result, Timestamp};
use tokio::sync::oneshot;

use crate::checkpoint::Checkpointer;
use crate::error::db;
use crate::row::Entry;

/// Most changes in one transaction.
const BATCH_MAX: usize = 1024;
/// Ids taken from the database at once.
const ID_BLOCK: i64 = 1 << 16;

/// What a change has made stale in the caches, with what is true from now on where the change knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Something of a node; to be read again.
    Node(NodeId),
    /// All of a node as it is now.
    Saved(Arc<Attributes>),
    /// The entries of a folder under one folded name, as they are now.
    Name(NodeId, String, Vec<Entry>),
    /// A content; to be read again.
    Head(ContentId),
    /// A content as it is now.
    NewHead(ContentId, Head),
    Acl(NodeId),
    Records,
}

/// What a change works with.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) now: Timestamp,
    state: &'a mut State,
    touched: &'a mut Vec<Touch>,
    /// Why the transaction is gone, if it is: SQLite rolls back by itself when the disk is full.
    lost: Option<RepoError>,
}

/// What the writer remembers between transactions; all of it can be had again from the database.
#[derive(Default)]
struct State {
    next_id: i64,
    reserved_id: i64,
    acl_ids: HashMap<String, i64>,
}

/// ACLs whose id the writer remembers.
const ACL_IDS_MAX: usize = 4096;

impl Tx<'_> {
    pub(crate) fn touch(&mut self, touch: Touch) {
        self.touched.push(touch);
    }

    /// A number that was never used before, for nodes, entries and objects of the namespace.
    pub(crate) fn new_id(&mut self) -> Result<i64> {
        if self.state.next_id >= self.state.reserved_id {
            let reserved: i64 = self
                .conn
                .prepare_cached(
                    "INSERT INTO counter(key, value) VALUES ('ids', ?1 + ?2)
                     ON CONFLICT(key) DO UPDATE SET value = value + ?2 RETURNING value",
                )
                .and_then(|mut s| s.query_row([16, ID_BLOCK], |row| row.get(0)))
                .map_err(db)?;
            self.state.next_id = reserved - ID_BLOCK;
            self.state.reserved_id = reserved;
        }
        self.state.next_id += 1;
        Ok(self.state.next_id - 1)
    }

    /// Id of an ACL with this body, storing it if it is new.
    pub(crate) fn acl_id(&mut self, body: String) -> Result<i64> {
        if let Some(id) = self.state.acl_ids.get(&body) {
            return Ok(*id);
        }
        let id = self
            .conn
            .prepare_cached("INSERT INTO acl(body) VALUES (?1) ON CONFLICT(body) DO UPDATE SET body = body RETURNING id")
            .and_then(|mut s| s.query_row([&body], |row| row.get(0)))
            .map_err(db)?;
        if self.state.acl_ids.len() >= ACL_IDS_MAX {
            self.state.acl_ids.clear();
        }
        self.state.acl_ids.insert(body, id);
        Ok(id)
    }
}

type Answer = Box<dyn FnOnce(Result<()>) + Send>;

/// A change on its way to the writer.
struct Job {
    run: Box<dyn FnOnce(&mut Tx<'_>) -> Answer + Send>,
    lasting: Lasting,
}

/// When a change is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// When it would survive a loss of power.
    Now,
    /// When everybody sees it. It is durable before anything that is answered as durable after it is.
    Soon,
}

/// Takes changes and carries them out in order.
pub(crate) struct Writer {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Access times noted since the last transaction.
    accessed: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
    batches: Arc<AtomicU64>,
    /// Something was committed that has not reached the disk.
    pending: Arc<AtomicBool>,
}

/// Called with everything that a commit has changed, before the changes are answered, and whether it is known to have been carried out.
pub(crate) type Publish = Box<dyn Fn(Vec<Touch>, bool) + Send>;

impl Writer {
    pub(crate) fn start(
        conn: Connection,
        checkpointer: Checkpointer,
        publish: Publish,
    ) -> Result<Writer> {
        let (jobs, queue) = mpsc::channel();
        let accessed = Arc::new(Mutex::new(HashMap::new()));
        let batches = Arc::new(AtomicU64::new(0));
        let pending = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            conn,
            checkpointer,
            publish,
            accessed: accessed.clone(),
            batches: batches.clone(),
            state: State::default(),
            synced: true,
            pending: pending.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("repo-writer".into())
            .spawn(move || worker.run(&queue))
            .map_err(|e| RepoError::Unavailable(format!("cannot start the writer thread: {e}")))?;
        Ok(Writer {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            accessed,
            batches,
            pending,
        })
    }

    /// Carries out a change; answers after it is durable, or says why it was not made.
    pub(crate) async fn change<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.change_lasting(Lasting::Now, change).await
    }

    /// Carries out a change; answers when it is as durable as asked for, or says why it was not made.
    pub(crate) async fn change_lasting<T, F>(&self, lasting: Lasting, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let run: Box<dyn FnOnce(&mut Tx<'_>) -> Answer + Send> = Box::new(move |tx| {
            let outcome = in_savepoint(tx, change);
            Box::new(move |committed: Result<()>| {
                // The asker may have gone; the change stands all the same.
                let _ = reply.send(match (outcome, committed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Err(refused), _) => Err(refused),
                    (Ok(_), Err(failed)) => Err(failed),
                });
            })
        });
        let sent = self
            .jobs
            .lock()
            .as_ref()
            .is_some_and(|jobs| jobs.send(Job { run, lasting }).is_ok());
        if !sent {
            return Err(closed());
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Notes an access time for the next transaction.
    pub(crate) fn note_access(&self, node: NodeId, at: Timestamp) {
        let mut accessed = self.accessed.lock();
        if accessed.len() < BATCH_MAX {
            accessed.insert(node, at);
        }
    }

    /// Whether something was answered that a loss of power could undo.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Transactions committed so far.
    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Finishes what was asked for, writes everything to the database file and ends the thread.
    pub(crate) fn stop(&self) {
        drop(self.jobs.lock().take());
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the repository's writer thread panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn closed() -> RepoError {
    RepoError::Unavailable("the repository is closed".into())
}

fn in_savepoint<T>(tx: &mut Tx<'_>, change: impl FnOnce(&mut Tx<'_>) -> Result<T>) -> Result<T> {
    if let Some(error) = &tx.lost {
        return Err(error.clone());
    }
    step(tx.conn, "SAVEPOINT change")?;
    let mark = tx.touched.len();
    let result = change(tx);
    let Err(error) = &result else {
        step(tx.conn, "RELEASE change")?;
        return result;
    };
    if tx.conn.is_autocommit() {
        tx.lost = Some(error.clone());
        return result;
    }
    step(tx.conn, "ROLLBACK TO change")?;
    step(tx.conn, "RELEASE change")?;
    tx.touched.truncate(mark);
    // Ids and ACLs that this change made are gone with it.
    tx.state.reserved_id = tx.state.reserved_id.min(tx.state.next_id);
    tx.state.acl_ids.clear();
    result
}

fn step(conn: &Connection, sql: &str) -> Result<()> {
    conn.prepare_cached(sql)
        .and_then(|mut s| s.execute([]))
        .map_err(db)
        .map(|_| ())
}

struct Worker {
    conn: Connection,
    checkpointer: Checkpointer,
    publish: Publish,
    accessed: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
    batches: Arc<AtomicU64>,
    state: State,
    /// Whether commits of this connection reach the disk before they return.
    synced: bool,
    /// Something was committed that has not reached the disk.
    pending: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let mut batch = Vec::new();
        while let Ok(first) = queue.recv() {
            batch.push(first);
            batch.extend(queue.try_iter().take(BATCH_MAX - 1));
            self.commit(&mut batch);
            self.checkpointer.after_commit(&self.conn);
        }
        self.commit(&mut batch);
        self.checkpointer.finish(&self.conn);
    }

    fn commit(&mut self, batch: &mut Vec<Job>) {
        let mut touched = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        let durable = batch.iter().any(|job| job.lasting == Lasting::Now);
        let mut outcome = self.transact(batch, durable, &mut touched, &mut answers);
        if self.checkpointer.take_written() {
            self.pending
                .store(!durable || outcome.is_err(), Ordering::Release);
        }
        if durable && outcome.is_ok() && self.pending.load(Ordering::Acquire) {
            // None of these changed anything, but what they found may not be durable yet.
            outcome = self.checkpointer.sync_log();
            self.pending.store(outcome.is_err(), Ordering::Release);
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

    fn transact(
        &mut self,
        batch: &mut Vec<Job>,
        durable: bool,
        touched: &mut Vec<Touch>,
        answers: &mut Vec<Answer>,
    ) -> Result<()> {
        let lost = self
            .sync_commits(durable)
            .and_then(|()| step(&self.conn, "BEGIN IMMEDIATE"))
            .err();
        let mut tx = Tx {
            conn: &self.conn,
            now: now(),
            state: &mut self.state,
            touched,
            lost,
        };
        for job in batch.drain(..) {
            answers.push((job.run)(&mut tx));
        }
        let accessed = std::mem::take(&mut *self.accessed.lock());
        for (node, at) in accessed {
            // A refusal here is met again by the commit if it matters.
            let _ = in_savepoint(&mut tx, |tx| touch_accessed(tx, node, at));
        }
        match tx.lost {
            Some(error) => Err(error),
            None => step(&self.conn, "COMMIT"),
        }
    }
}

impl Worker {
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

/// The time of day.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::open_writer;

    fn insert(tx: &mut Tx<'_>, key: i64, bytes: usize) -> Result<()> {
        tx.touch(Touch::Node(NodeId(key as u64)));
        tx.conn
            .execute(
                "INSERT INTO setting(key, value) VALUES (?1, zeroblob(?2))",
                rusqlite::params![key.to_string(), bytes as i64],
            )
            .map_err(db)
            .map(|_| ())
    }

    #[tokio::test]
    async fn a_full_disk_refuses_the_change_that_does_not_fit_and_those_after_it_go_on() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("meta.db");
        let mut conn = open_writer(&path).expect("open");
        crate::schema::migrate(&mut conn).expect("schema");
        conn.execute_batch("PRAGMA max_page_count = 100")
            .expect("limit");
        let checkpointer = Checkpointer::start(&path, &conn).expect("checkpointer");
        let touched: Arc<Mutex<Vec<Touch>>> = Arc::default();
        let seen = touched.clone();
        let publish: Publish = Box::new(move |touched, _| seen.lock().extend(touched));
        let writer = Writer::start(conn, checkpointer, publish).expect("writer");
        assert_eq!(writer.change(|tx| insert(tx, 1, 10)).await, Ok(()));
        let (small, large, after) = tokio::join!(
            writer.change(|tx| insert(tx, 2, 10)),
            writer.change(|tx| insert(tx, 3, 1 << 20)),
            writer.change(|tx| insert(tx, 4, 10)),
        );
        assert_eq!(large, Err(RepoError::NoSpace));
        assert_eq!(writer.change(|tx| insert(tx, 5, 10)).await, Ok(()));
        let stored: i64 = writer
            .change(|tx| {
                tx.conn
                    .query_row("SELECT count(*) FROM setting", [], |row| row.get(0))
                    .map_err(db)
            })
            .await
            .expect("count");
        let answered = [Ok(()), small, large, after, Ok(())]
            .iter()
            .filter(|answer| answer.is_ok())
            .count();
        assert_eq!(
            stored as usize, answered,
            "what was answered, and nothing else"
        );
        assert!(touched.lock().contains(&Touch::Node(NodeId(5))));
    }

    #[tokio::test]
    async fn what_was_answered_before_it_was_durable_is_durable_with_the_next_answer_that_promises_it()
     {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("meta.db");
        let mut conn = open_writer(&path).expect("open");
        crate::schema::migrate(&mut conn).expect("schema");
        let checkpointer = Checkpointer::start(&path, &conn).expect("checkpointer");
        let writer = Writer::start(conn, checkpointer, Box::new(|_, _| ())).expect("writer");
        assert_eq!(writer.change(|tx| insert(tx, 1, 10)).await, Ok(()));
        assert!(!writer.has_pending());
        let soon = |key| writer.change_lasting(Lasting::Soon, move |tx| insert(tx, key, 10));
        assert_eq!(soon(2).await, Ok(()));
        assert!(writer.has_pending());
        let refused = writer
            .change_lasting(Lasting::Soon, |_| Err::<(), _>(RepoError::NotFound))
            .await;
        assert_eq!(refused, Err(RepoError::NotFound));
        assert!(
            writer.has_pending(),
            "a change that was none settles nothing"
        );
        // One that changes nothing settles what is there, too: it may have found it.
        assert_eq!(writer.change(|_| Ok(())).await, Ok(()));
        assert!(!writer.has_pending());
        assert_eq!(soon(3).await, Ok(()));
        assert_eq!(writer.change(|tx| insert(tx, 4, 10)).await, Ok(()));
        assert!(!writer.has_pending());
    }
}
