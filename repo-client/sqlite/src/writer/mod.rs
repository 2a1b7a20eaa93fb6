//! The one road to a change of the database, and its group commit: everything that arrives while a commit is on its way to the disk
//! goes into the next one. Each change runs in a savepoint, so that a refused one leaves the others alone, and is answered only after
//! the commit (invariant I4), the caches cleared before that.
//!
//! A caller that may be held up ([`sluice_repo::may_block`]), or whose change needs no wait for the disk, and that finds nobody at work
//! carries out what waits, its own change among it, on its own thread: no other thread has to be woken, none has to bring the
//! answer back. All else is left to the writer's thread, also what came while such a caller was at work, the checkpoints, and the
//! sync of what was answered before it was durable.

mod tx;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::Connection;
use sluice_repo::{NodeId, RepoError, Result, Timestamp};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use crate::checkpoint::Checkpointer;
pub(crate) use tx::{Touch, Tx};
use worker::Worker;

/// Most changes in one transaction.
const BATCH_MAX: usize = 1024;
/// What was answered before it was durable is durable after this time at the latest (and a sync).
const SETTLE_WITHIN: Duration = Duration::from_millis(5);

type Answer = Box<dyn FnOnce(Result<()>) + Send>;

/// A change on its way.
struct Job {
    run: Box<dyn FnOnce(&mut Tx<'_>) -> Answer + Send>,
    lasting: Lasting,
}

/// When a change is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// When it would survive a loss of power.
    Now,
    /// When everybody sees it. It is durable before anything that is answered as durable after it is, and soon.
    Soon,
}

/// Takes changes and has them carried out in order.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Taken for moments; no call is made under it.
    queue: Mutex<Queue>,
    /// Tells the writer's thread that there is something for it in the queue.
    filled: Condvar,
    /// Held for a batch. Empty once everything is closed.
    worker: Mutex<Option<Worker>>,
    /// Access times noted since the last transaction.
    accessed: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
    batches: Arc<AtomicU64>,
    /// Something was committed that has not reached the disk.
    pending: Arc<AtomicBool>,
    /// When it is made to.
    settle_within: Duration,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    closed: bool,
    /// The log wants to be looked after.
    chores: bool,
    /// Since when something is committed that has not reached the disk.
    unsynced: Option<Instant>,
    /// The writer's thread sleeps until it is told.
    asleep: bool,
}

/// Called with everything that a commit has changed, before the changes are answered, and whether it is known to have been carried out.
pub(crate) type Publish = Box<dyn Fn(Vec<Touch>, bool) + Send>;

/// The writer's connection while nobody changes anything: what it reads is in its memory already.
pub(crate) struct Idle<'a> {
    shared: &'a Shared,
    /// Full until it is dropped.
    held: Option<MutexGuard<'a, Option<Worker>>>,
}

impl Idle<'_> {
    /// The connection, if the repository is open.
    pub(crate) fn conn(&self) -> Option<&Connection> {
        let worker = self.held.as_ref()?.as_ref()?;
        worker.conn.is_autocommit().then_some(&worker.conn)
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.shared.release(held);
        }
    }
}

impl Writer {
    pub(crate) fn start(
        conn: Connection,
        checkpointer: Checkpointer,
        publish: Publish,
    ) -> Result<Writer> {
        Writer::start_with(conn, checkpointer, publish, SETTLE_WITHIN)
    }

    fn start_with(
        conn: Connection,
        checkpointer: Checkpointer,
        publish: Publish,
        settle_within: Duration,
    ) -> Result<Writer> {
        let accessed = Arc::new(Mutex::new(HashMap::new()));
        let batches = Arc::new(AtomicU64::new(0));
        let pending = Arc::new(AtomicBool::new(false));
        let worker = Worker::new(
            conn,
            checkpointer,
            publish,
            accessed.clone(),
            batches.clone(),
            pending.clone(),
        );
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            worker: Mutex::new(Some(worker)),
            accessed,
            batches,
            pending,
            settle_within,
        });
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("repo-writer".into())
            .spawn(move || {
                let ends = Ends(for_thread);
                ends.0.run();
            })
            .map_err(|e| RepoError::Unavailable(format!("cannot start the writer thread: {e}")))?;
        Ok(Writer {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Carries out a change; answers when it is as durable as asked for, or says why it was not made.
    pub(crate) async fn change<T, F>(&self, lasting: Lasting, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (job, answer) = job(lasting, change);
        self.shared.push(job)?;
        self.shared.carry_out();
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Carries out changes, each on its own, in one transaction if there is room; answers when all are durable.
    pub(crate) async fn change_each<T, F>(&self, changes: Vec<F>) -> Vec<Result<T>>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            let (job, answer) = job(Lasting::Now, change);
            answers.push(self.shared.push(job).map(|()| answer));
        }
        self.shared.carry_out();
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(match answer {
                Ok(answer) => answer.await.unwrap_or_else(|_| Err(closed())),
                Err(closed) => Err(closed),
            });
        }
        results
    }

    /// The writer's connection for a short look, unless it is in use.
    pub(crate) fn idle(&self) -> Option<Idle<'_>> {
        let held = self.shared.worker.try_lock()?;
        Some(Idle {
            shared: &self.shared,
            held: Some(held),
        })
    }

    /// Notes an access time for the next transaction.
    pub(crate) fn note_access(&self, node: NodeId, at: Timestamp) {
        let mut accessed = self.shared.accessed.lock();
        if accessed.len() < BATCH_MAX {
            accessed.insert(node, at);
        }
    }

    /// Whether something was answered that a loss of power could undo.
    pub(crate) fn has_pending(&self) -> bool {
        self.shared.pending.load(Ordering::Acquire)
    }

    /// Transactions committed so far.
    pub(crate) fn batches(&self) -> u64 {
        self.shared.batches.load(Ordering::Relaxed)
    }

    /// Finishes what was asked for, writes everything to the database file and ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.filled.notify_one();
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

fn job<T, F>(lasting: Lasting, change: F) -> (Job, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let run: Box<dyn FnOnce(&mut Tx<'_>) -> Answer + Send> = Box::new(move |tx| {
        let outcome = tx::in_savepoint(tx, change);
        Box::new(move |committed: Result<()>| {
            // The asker may have gone; the change stands all the same.
            let _ = reply.send(match (outcome, committed) {
                (Ok(value), Ok(())) => Ok(value),
                (Err(refused), _) => Err(refused),
                (Ok(_), Err(failed)) => Err(failed),
            });
        })
    });
    (Job { run, lasting }, answer)
}

/// When the writer's thread ends, even by a panic, nobody waits for it any more.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        let left = std::mem::take(&mut queue.jobs);
        drop(queue);
        drop(left);
    }
}

impl Shared {
    fn push(&self, job: Job) -> Result<()> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(closed());
        }
        queue.jobs.push(job);
        Ok(())
    }

    /// What waits is carried out: here and now if nobody else is at it, and this thread may be held up or need not wait for the disk.
    fn carry_out(&self) {
        let Some(mut held) = self.worker.try_lock() else {
            // Whoever is at work looks into the queue when it has finished.
            return;
        };
        if let Some(worker) = held.as_mut() {
            let waits = |job: &Job| job.lasting == Lasting::Now;
            let batch = self.next_batch(|jobs| sluice_repo::may_block() || !jobs.iter().any(waits));
            if !batch.is_empty() {
                held_up(batch.iter().any(waits), || worker.commit(batch));
            }
        }
        self.release(held);
    }

    /// What waits, if all of it is as wanted.
    fn next_batch(&self, wanted: impl FnOnce(&[Job]) -> bool) -> Vec<Job> {
        let mut queue = self.queue.lock();
        let count = queue.jobs.len().min(BATCH_MAX);
        if !wanted(&queue.jobs) {
            return Vec::new();
        }
        queue.jobs.drain(..count).collect()
    }

    /// Gives the worker back and leaves what there is to do to the writer's thread.
    fn release(&self, held: MutexGuard<'_, Option<Worker>>) {
        let (unsynced, chores) = held
            .as_ref()
            .map_or((None, false), |w| (w.unsynced(), w.checkpointer.has_work()));
        drop(held);
        let mut queue = self.queue.lock();
        queue.unsynced = unsynced;
        queue.chores |= chores;
        let wanted = !queue.jobs.is_empty() || queue.chores || unsynced.is_some() && queue.asleep;
        drop(queue);
        if wanted {
            self.filled.notify_one();
        }
    }

    /// The writer's thread.
    fn run(&self) {
        while self.wait() {
            let mut held = self.worker.lock();
            let Some(worker) = held.as_mut() else {
                return;
            };
            let batch = self.next_batch(|_| true);
            if !batch.is_empty() {
                worker.commit(batch);
            }
            if worker
                .unsynced()
                .is_some_and(|since| since.elapsed() >= self.settle_within)
                && let Err(error) = worker.settle()
            {
                tracing::error!(%error, "new documents could not be made durable; it is tried again");
            }
            let Worker {
                conn, checkpointer, ..
            } = worker;
            checkpointer.after_commit(conn);
            self.release(held);
        }
        let mut held = self.worker.lock();
        if let Some(mut worker) = held.take() {
            loop {
                let batch = self.next_batch(|_| true);
                if batch.is_empty() {
                    break;
                }
                worker.commit(batch);
            }
            let Worker {
                conn, checkpointer, ..
            } = &mut worker;
            checkpointer.finish(conn);
        }
    }

    /// Sleeps until there is something to do. False: everything is to be closed.
    fn wait(&self) -> bool {
        let mut queue = self.queue.lock();
        while !queue.closed && queue.jobs.is_empty() && !queue.chores {
            match queue.unsynced {
                Some(since) if since.elapsed() >= self.settle_within => break,
                Some(since) => {
                    self.filled
                        .wait_until(&mut queue, since + self.settle_within);
                }
                None => {
                    queue.asleep = true;
                    self.filled.wait(&mut queue);
                    queue.asleep = false;
                }
            }
        }
        queue.chores = false;
        !queue.closed
    }
}

/// Runs `work`, which waits for the disk or does not, on this thread; before it waits, the runtime's other tasks get another thread.
fn held_up(waits: bool, work: impl FnOnce()) {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) if waits => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The time of day.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
