//! The one road to a change of the database, and its group commit. Each change runs in a savepoint, so that a refused one leaves the
//! others alone, and is answered only after the commit (invariant I4), the caches cleared before that.
//!
//! Two things are taken in turn. The *connection* is held for a transaction, never while the disk is waited for: changes that are answered
//! before they are durable go on meanwhile. The *turn* is held by whoever makes changes durable, from the transaction to the end of the
//! sync (`log`): all that must be durable when it is answered and comes meanwhile shares the next sync. A caller that may be held up
//! carries it out already (*ahead*), so that processor and disk are at work at the same time; all else goes into the next transaction.
//!
//! A change that needs content goes through a stage of its own before that (`stage`): it comes up for the turn once its content is durable,
//! so that a transaction never names what a loss of power could take, and a content disk that is slow or hangs holds up nobody else.
//!
//! A caller that may be held up ([`sluice_repo::may_block`]), or whose change needs no wait for the disk, and that finds nobody at work
//! carries out what waits, its own change among it, on its own thread: no other thread has to be woken, none has to bring the
//! answer back. All else is left to the writer's thread, also what came while such a caller was at work, the checkpoints, and the
//! sync of what was answered before it was durable.

mod log;
mod stage;
mod tx;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rusqlite::Connection;
use sluice_repo::{Attributes, NodeId, RepoError, Result, Timestamp, Unsettled};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

use crate::checkpoint::Checkpointer;
use crate::row::Entry;
use log::Log;
use stage::Stage;
pub(crate) use tx::{Touch, Tx};
use worker::{Done, Worker};

/// Most changes in one transaction.
const BATCH_MAX: usize = 1024;
/// What was answered before it was durable is durable after this time at the latest (and a sync).
const SETTLE_WITHIN: Duration = Duration::from_millis(5);
/// Most transactions in a row that one sync makes durable.
const TRANSACTIONS_MAX: usize = 3;
/// Times that a thread looks for changes of others before it leaves them to the writer's.
const LOOKS_MAX: usize = 8;

type Answer = Box<dyn FnOnce(Result<()>) + Send>;

/// Carries a change out, or refuses it for what went wrong before.
type Run = Box<dyn FnOnce(Result<&mut Tx<'_>>) -> Answer + Send>;

/// A change on its way.
struct Job {
    run: Run,
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
    stage_thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Changes whose content is not durable.
    stage: Stage,
    /// Taken for moments; no call is made under it.
    queue: Mutex<Queue>,
    /// Tells the writer's thread that there is something for it in the queue.
    filled: Condvar,
    /// The connection, held for a transaction. Empty once everything is closed.
    worker: Mutex<Option<Worker>>,
    log: Arc<Log>,
    /// Access times noted since the last transaction.
    accessed: Arc<Mutex<HashMap<NodeId, Timestamp>>>,
    batches: Arc<AtomicU64>,
    /// When what was answered before it was durable is made so.
    settle_within: Duration,
}

#[derive(Default)]
struct Queue {
    /// Changes that are answered when they are durable: whoever has the turn takes them.
    now: Vec<Job>,
    /// Changes that are not waited for so long: whoever has the connection takes them.
    soon: Vec<Job>,
    /// Batches that were carried out while somebody had the turn: the next sync makes them durable, and who does it answers them.
    carried: Vec<Done>,
    /// Somebody has the turn.
    turn: bool,
    closed: bool,
    /// The log wants to be looked after.
    chores: bool,
    /// Since when something is committed that has not reached the disk and nobody makes durable.
    unsynced: Option<Instant>,
    /// The writer's thread sleeps until it is told.
    asleep: bool,
}

impl Queue {
    fn of(&mut self, lasting: Lasting) -> &mut Vec<Job> {
        match lasting {
            Lasting::Now => &mut self.now,
            Lasting::Soon => &mut self.soon,
        }
    }

    fn take(&mut self, lasting: Lasting) -> Vec<Job> {
        let jobs = self.of(lasting);
        let count = jobs.len().min(BATCH_MAX);
        jobs.drain(..count).collect()
    }

    /// Whether there is a change that is to be made durable.
    fn has_now(&self) -> bool {
        !self.now.is_empty() || !self.carried.is_empty()
    }

    /// Whether there is a change that nobody is at work on.
    fn has_work(&self) -> bool {
        !self.soon.is_empty() || self.has_now() && !self.turn
    }
}

/// The right to make changes durable; given back when it is dropped.
struct Turn<'a>(&'a Shared);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.turn = false;
        let open = self.0.log.wants_sync();
        queue.unsynced = open.then(|| queue.unsynced.unwrap_or_else(Instant::now));
        let wanted = queue.has_work() || queue.closed || open && queue.asleep;
        drop(queue);
        if wanted {
            self.0.filled.notify_one();
        }
    }
}

/// What is kept of the database in memory. Between two transactions all of it is as the last one has left it; what it has is not
/// read again by a change.
pub(crate) trait Kept: Send + Sync {
    /// Takes over everything that a commit has changed, before the changes are answered, and whether it is known to have been carried out.
    fn publish(&self, touched: Vec<Touch>, carried_out: bool);
    /// A node, if it is kept.
    fn node(&self, node: NodeId) -> Option<Arc<Attributes>>;
    /// All entries of a folder under one folded name, if they are kept.
    fn names(&self, parent: NodeId, fold: &str) -> Option<Arc<[Entry]>>;
}

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
            self.shared.carry_out_soon();
        }
    }
}

impl Writer {
    pub(crate) fn start(
        conn: Connection,
        checkpointer: Checkpointer,
        kept: Arc<dyn Kept>,
    ) -> Result<Writer> {
        Writer::start_with(conn, checkpointer, kept, SETTLE_WITHIN)
    }

    fn start_with(
        conn: Connection,
        checkpointer: Checkpointer,
        kept: Arc<dyn Kept>,
        settle_within: Duration,
    ) -> Result<Writer> {
        // Made durable by the log's sync, not by the commit.
        conn.pragma_update(None, "synchronous", "NORMAL")
            .map_err(crate::error::db)?;
        let accessed = Arc::new(Mutex::new(HashMap::new()));
        let batches = Arc::new(AtomicU64::new(0));
        let log = Arc::new(Log::of(checkpointer.log_path()));
        let worker = Worker::new(
            conn,
            checkpointer,
            kept,
            accessed.clone(),
            batches.clone(),
            log.clone(),
        );
        let shared = Arc::new(Shared {
            stage: Stage::default(),
            queue: Mutex::default(),
            filled: Condvar::new(),
            worker: Mutex::new(Some(worker)),
            log,
            accessed,
            batches,
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
        let writer = Writer {
            shared,
            thread: Mutex::new(Some(thread)),
            stage_thread: Mutex::default(),
        };
        *writer.stage_thread.lock() = Some(writer.shared.start_stage()?);
        Ok(writer)
    }

    /// Carries out a change; answers when it is as durable as asked for, or says why it was not made.
    pub(crate) async fn change<T, F>(&self, lasting: Lasting, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (job, answer) = job(change);
        self.shared.push(job, lasting)?;
        match lasting {
            Lasting::Now => self.shared.carry_out_now(),
            Lasting::Soon => self.shared.carry_out_soon(),
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Carries out a change after what it needs was made durable; answers when it is durable, too.
    pub(crate) async fn change_after<T, F>(&self, first: Arc<dyn Unsettled>, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (job, answer) = job(change);
        self.shared.settle_first(first, job)?;
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
            let (job, answer) = job(change);
            answers.push(self.shared.push(job, Lasting::Now).map(|()| answer));
        }
        self.shared.carry_out_now();
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
        self.shared.log.has_open()
    }

    /// A number for all transactions that anybody has seen.
    pub(crate) fn seen(&self) -> u64 {
        // In this order: one under way may be seen already, and is counted before it gives the connection back.
        let under_way = self.shared.worker.is_locked();
        self.shared.log.written() + u64::from(under_way)
    }

    /// Whether all that such a number stands for is durable. False also if it is not known.
    pub(crate) fn has_settled(&self, seen: u64) -> bool {
        self.shared.log.synced() >= seen
    }

    /// Refuses once the log could not be made durable.
    pub(crate) fn sound(&self) -> Result<()> {
        self.shared.log.check()
    }

    /// Transactions committed so far.
    pub(crate) fn batches(&self) -> u64 {
        self.shared.batches.load(Ordering::Relaxed)
    }

    /// Finishes what was asked for, writes everything to the database file and ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.stage.close();
        join(&self.stage_thread);
        self.shared.queue.lock().closed = true;
        self.shared.filled.notify_one();
        join(&self.thread);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn join(thread: &Mutex<Option<JoinHandle<()>>>) {
    let thread = thread.lock().take();
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!("a thread of the repository's writer panicked");
    }
}

fn closed() -> RepoError {
    RepoError::Unavailable("the repository is closed".into())
}

fn job<T, F>(change: F) -> (Job, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let run: Run = Box::new(move |tx| {
        let outcome = tx.and_then(|tx| tx::in_savepoint(tx, change));
        Box::new(move |committed: Result<()>| {
            // The asker may have gone; the change stands all the same.
            let _ = reply.send(match (outcome, committed) {
                (Ok(value), Ok(())) => Ok(value),
                (Err(refused), _) => Err(refused),
                (Ok(_), Err(failed)) => Err(failed),
            });
        })
    });
    (Job { run }, answer)
}

/// When the writer's thread ends, even by a panic, nobody waits for it any more.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        let left = (
            std::mem::take(&mut queue.now),
            std::mem::take(&mut queue.soon),
            std::mem::take(&mut queue.carried),
        );
        drop(queue);
        drop(left);
    }
}

impl Shared {
    fn push(&self, job: Job, lasting: Lasting) -> Result<()> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(closed());
        }
        queue.of(lasting).push(job);
        Ok(())
    }

    /// Carries out what needs no wait for the disk, here and now if nobody else has the connection.
    fn carry_out_soon(&self) {
        for _ in 0..LOOKS_MAX {
            if self.queue.lock().soon.is_empty() {
                return;
            }
            let Some(mut held) = self.worker.try_lock() else {
                // Whoever has it looks into the queue when it has finished.
                return;
            };
            if let Some(worker) = held.as_mut() {
                self.transact_soon(worker);
            }
            self.release(held);
        }
        self.filled.notify_one();
    }

    /// With the connection: carries out what needs no wait for the disk.
    fn transact_soon(&self, worker: &mut Worker) {
        let batch = self.queue.lock().take(Lasting::Soon);
        if batch.is_empty() {
            return;
        }
        let done = worker.carry_out(batch);
        // Ids that a loss of power gives out once more would lead handles to other documents.
        let durable = match done.reserved {
            true => self.log.sync(),
            false => Ok(()),
        };
        done.answer(durable);
    }

    /// Carries out what waits to be durable: here and now if this thread may be held up and nobody else is at it.
    fn carry_out_now(&self) {
        let mine = sluice_repo::may_block() && !self.worker.is_locked();
        match mine.then(|| self.turn()) {
            Some(Some(turn)) => self.make_durable_here(&turn),
            // Whoever has it looks into the queue when it has finished.
            Some(None) => self.carry_out_ahead(),
            None => {
                if self.queue.lock().has_work() {
                    self.filled.notify_one();
                }
            }
        }
    }

    /// Carries out what waits to be durable while somebody else has the turn, so that only the sync is left to him. Nothing waits for
    /// this: what is not carried out here he finds in the queue.
    fn carry_out_ahead(&self) {
        for _ in 0..LOOKS_MAX {
            let Some(mut held) = self.worker.try_lock() else {
                return;
            };
            let batch = {
                let mut queue = self.queue.lock();
                match queue.turn {
                    true => queue.take(Lasting::Now),
                    false => Vec::new(),
                }
            };
            let is_over = batch.is_empty();
            if let Some(worker) = held.as_mut().filter(|_| !is_over) {
                let done = worker.carry_out(batch);
                self.queue.lock().carried.push(done);
            }
            self.release(held);
            if is_over {
                break;
            }
        }
        self.carry_out_soon();
        // He may have given it back meanwhile.
        if self.queue.lock().has_work() {
            self.filled.notify_one();
        }
    }

    /// The turn, unless somebody has it.
    fn turn(&self) -> Option<Turn<'_>> {
        let mut queue = self.queue.lock();
        if std::mem::replace(&mut queue.turn, true) {
            return None;
        }
        Some(Turn(self))
    }

    /// One transaction with all that is to be durable when it is answered, and the sync that makes it so, with all before it.
    fn make_durable(&self, turn: &Turn<'_>) {
        self.make_durable_with(turn, Vec::new());
    }

    /// The same on a thread of the runtime, which gets another one for its other tasks only while this one waits for the disk: waking
    /// that takes about as long as a transaction, and it would run beside it.
    fn make_durable_here(&self, turn: &Turn<'_>) {
        let mut carried = Vec::new();
        if let Some(held) = self.worker.try_lock() {
            let batch = self.take_now(&mut carried);
            self.transact(held, batch, &mut carried);
        }
        held_up(|| self.make_durable_with(turn, carried));
    }

    /// The same with what this thread has carried out already.
    fn make_durable_with(&self, _turn: &Turn<'_>, mut carried: Vec<Done>) {
        // What has come during a transaction needs no sync of its own.
        for _ in 0..TRANSACTIONS_MAX {
            let batch = self.take_now(&mut carried);
            if batch.is_empty() {
                break;
            }
            self.transact(self.worker.lock(), batch, &mut carried);
        }
        // Even if nothing was changed: what was found may not be durable yet.
        let failed = !carried.is_empty() && carried.iter().all(|done| done.outcome.is_err());
        let durable = match failed {
            true => Ok(()),
            false => self.sync_all(),
        };
        if let Err(error) = &durable {
            tracing::error!(%error, "changes of the repository could not be made durable");
        }
        for done in carried {
            done.answer(durable.clone());
        }
    }

    /// What is to be made durable: changes, and what others have carried out of them.
    fn take_now(&self, carried: &mut Vec<Done>) -> Vec<Job> {
        let mut queue = self.queue.lock();
        carried.append(&mut queue.carried);
        queue.take(Lasting::Now)
    }

    /// With the connection: one transaction, if there is something to do, then what came meanwhile and needs no wait for the disk.
    fn transact(
        &self,
        mut held: MutexGuard<'_, Option<Worker>>,
        batch: Vec<Job>,
        carried: &mut Vec<Done>,
    ) {
        if let Some(worker) = held.as_mut().filter(|_| !batch.is_empty()) {
            carried.push(worker.carry_out(batch));
        }
        self.release(held);
        self.carry_out_soon();
    }

    /// Makes all that is in the log durable; with the turn. What comes meanwhile is waited for from the end of the turn on.
    fn sync_all(&self) -> Result<()> {
        self.queue.lock().unsynced = None;
        self.log.sync()
    }

    /// Gives the connection back and leaves what there is to do to the writer's thread.
    fn release(&self, held: MutexGuard<'_, Option<Worker>>) {
        let chores =
            held.as_ref().is_some_and(|w| w.checkpointer.has_work()) && self.log.check().is_ok();
        drop(held);
        let mut queue = self.queue.lock();
        queue.chores |= chores;
        let open = !queue.turn && self.log.wants_sync();
        if open && queue.unsynced.is_none() {
            queue.unsynced = Some(Instant::now());
        }
        let wanted = queue.chores || open && queue.asleep;
        drop(queue);
        if wanted {
            self.filled.notify_one();
        }
    }

    /// The writer's thread.
    fn run(&self) {
        while self.wait() {
            self.carry_out_soon();
            let is_due = {
                let queue = self.queue.lock();
                let since = queue.unsynced;
                queue.has_now() || since.is_some_and(|since| since.elapsed() >= self.settle_within)
            };
            if is_due && let Some(turn) = self.turn() {
                self.make_durable(&turn);
                // Kept while there is more to do: a caller that got it now would have a transaction and a sync for himself alone.
                while self.has_more() {
                    self.make_durable(&turn);
                }
            }
            let mut held = self.worker.lock();
            let Some(worker) = held.as_mut() else {
                return;
            };
            let Worker {
                conn, checkpointer, ..
            } = worker;
            if self.log.check().is_ok() {
                checkpointer.after_commit(conn);
            }
            self.release(held);
        }
        let turn = self.last_turn();
        let held = self.worker.lock().take();
        if let Some(mut worker) = held {
            loop {
                let mut queue = self.queue.lock();
                let mut batch = std::mem::take(&mut queue.soon);
                batch.append(&mut queue.now);
                let mut carried = std::mem::take(&mut queue.carried);
                drop(queue);
                if batch.is_empty() && carried.is_empty() {
                    break;
                }
                carried.push(worker.carry_out(batch));
                let durable = self.log.sync();
                for done in carried {
                    done.answer(durable.clone());
                }
            }
            let Worker {
                conn, checkpointer, ..
            } = &mut worker;
            match self.log.check() {
                Ok(()) => checkpointer.finish(conn),
                // What the system has dropped of the log must not come into the database: the next start finds its end by checksums.
                Err(_) => checkpointer.abandon(conn),
            }
        }
        drop(turn);
    }

    /// Whether changes wait to be made durable, and nothing else is to be done.
    fn has_more(&self) -> bool {
        let queue = self.queue.lock();
        queue.has_now() && !queue.chores && !queue.closed
    }

    /// Waits for the turn, after which nobody else gets it.
    fn last_turn(&self) -> Turn<'_> {
        let mut queue = self.queue.lock();
        while std::mem::replace(&mut queue.turn, true) {
            self.filled.wait(&mut queue);
        }
        drop(queue);
        Turn(self)
    }

    /// Sleeps until there is something to do. False: everything is to be closed.
    fn wait(&self) -> bool {
        let mut queue = self.queue.lock();
        while !queue.closed && !queue.has_work() && !queue.chores {
            match queue.unsynced.filter(|_| !queue.turn) {
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

/// Runs `work`, which waits for the disk, on this thread; the runtime's other tasks get another one.
fn held_up(work: impl FnOnce()) {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
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
