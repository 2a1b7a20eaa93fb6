//! Writing connections with group commit: what arrives while a batch is on its way goes into the next one, so that a
//! transaction (and its wait for the disk) is shared by all who write at once.
//!
//! A batch has a number. After a lost connection it is sent again with the same number until the database answers or
//! patience ends; the database finds by the number what it has done already.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sluice_lockmgr::Member;
use sluice_repo::{RepoError, Result};
use sqlx::postgres::{PgConnection, PgRow};
use tokio::sync::{mpsc, oneshot};

use crate::database::Database;
use crate::error::{Remedy, db, remedy};
use crate::row::{Answer, big};

/// Most changes in one batch: more make answers later, hardly more of them.
const BATCH_MAX: usize = 32;
/// Bytes of contents from which a batch is full.
const BATCH_BYTES: usize = 4 << 20;
/// An attempt that is not answered for so long is made again on a new connection.
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(20);
/// Wait between attempts to connect.
const RECONNECT_WAIT: Duration = Duration::from_millis(50);

/// Who writes, for the fence, and how long it is patient with a database that does not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) member: Member,
    /// Commits carry the epoch of their document's shard.
    pub(crate) shards: bool,
    pub(crate) patience: Duration,
}

/// What a batch is sent as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    pub(crate) sender: Sender,
    pub(crate) lane: i32,
    pub(crate) batch: i64,
}

impl Number {
    /// The writer as the database keeps it.
    pub(crate) fn member(self) -> i32 {
        i32::try_from(self.sender.member.id.0).unwrap_or(i32::MAX)
    }

    pub(crate) fn epoch(self) -> i64 {
        big(self.sender.member.epoch.0)
    }
}

/// A change that can share a batch with others of its type.
#[async_trait]
pub(crate) trait Item: Sized + Send + Sync + 'static {
    /// Bytes that it brings along.
    fn weight(&self) -> usize;
    /// Whether it must not be in one batch with the other.
    fn clashes(&self, other: &Self) -> bool;
    /// Has a batch carried out; the answers say which item they are for.
    async fn send(
        conn: &mut PgConnection,
        number: Number,
        items: &[&Self],
    ) -> sqlx::Result<Vec<PgRow>>;
}

type Reply = oneshot::Sender<Result<Vec<Answer>>>;

struct Job<I> {
    item: I,
    reply: Reply,
}

/// The way to one writing connection.
pub(crate) struct Lane<I> {
    jobs: parking_lot::Mutex<Option<mpsc::UnboundedSender<Job<I>>>>,
    worker: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    batches: Arc<AtomicU64>,
}

impl<I: Item> Lane<I> {
    /// Starts the connection's task; `lane` must be of this instance alone.
    pub(crate) fn start(database: Database, sender: Sender, lane: i32) -> Lane<I> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let batches = Arc::new(AtomicU64::new(0));
        let worker = Worker {
            database,
            number: Number {
                sender,
                lane,
                batch: 0,
            },
            conn: None,
            batches: batches.clone(),
        };
        Lane {
            jobs: parking_lot::Mutex::new(Some(jobs)),
            worker: tokio::sync::Mutex::new(Some(tokio::spawn(worker.run(queue)))),
            batches,
        }
    }

    /// Carries out a change: its answers, the refusal, or `Unavailable` if nobody knows.
    pub(crate) async fn submit(&self, item: I) -> Result<Vec<Answer>> {
        let (reply, answer) = oneshot::channel();
        let sent = self
            .jobs
            .lock()
            .as_ref()
            .is_some_and(|jobs| jobs.send(Job { item, reply }).is_ok());
        if !sent {
            return Err(closed());
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Transactions so far.
    pub(crate) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Finishes what was submitted and ends the task.
    pub(crate) async fn stop(&self) {
        drop(self.jobs.lock().take());
        if let Some(worker) = self.worker.lock().await.take()
            && worker.await.is_err()
        {
            tracing::error!("a writer of the repository ended by a panic");
        }
    }
}

fn closed() -> RepoError {
    RepoError::Unavailable("the repository is closed".into())
}

struct Worker {
    database: Database,
    number: Number,
    conn: Option<PgConnection>,
    batches: Arc<AtomicU64>,
}

impl Worker {
    async fn run<I: Item>(mut self, mut queue: mpsc::UnboundedReceiver<Job<I>>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match queue.recv().await {
                    Some(job) => waiting.push_back(job),
                    None => return,
                }
            }
            while let Ok(job) = queue.try_recv() {
                waiting.push_back(job);
            }
            let batch = take_batch(&mut waiting);
            self.carry_out(batch).await;
        }
    }

    async fn carry_out<I: Item>(&mut self, batch: Vec<Job<I>>) {
        let items: Vec<&I> = batch.iter().map(|job| &job.item).collect();
        match self.transact(&items).await {
            Ok(answers) => distribute(batch, answers),
            Err(error) if batch.len() == 1 || remedy(&error) != Remedy::GiveUp => {
                tracing::warn!(error = %error, changes = batch.len(), "a transaction of the repository failed");
                let told = db(error);
                for job in batch {
                    // Whoever asked may have gone.
                    let _ = job.reply.send(Err(told.clone()));
                }
            }
            Err(_) => {
                // One of them has something that the database refuses: each for itself.
                for job in batch {
                    let result = self.transact(&[&job.item]).await;
                    distribute_one(job, result);
                }
            }
        }
    }

    /// One batch, sent until it is answered.
    async fn transact<I: Item>(&mut self, items: &[&I]) -> sqlx::Result<Vec<Answer>> {
        self.number.batch += 1;
        self.batches.fetch_add(1, Ordering::Relaxed);
        let begin = Instant::now();
        loop {
            let error = match self.attempt(items).await {
                Ok(rows) => return self.read(&rows),
                Err(error) => error,
            };
            let remedy = remedy(&error);
            if remedy == Remedy::GiveUp || begin.elapsed() >= self.number.sender.patience {
                return Err(error);
            }
            tracing::debug!(error = %error, ?remedy, "a batch is sent again");
            if remedy == Remedy::Reconnect {
                self.conn = None;
                tokio::time::sleep(RECONNECT_WAIT).await;
            }
        }
    }

    fn read(&self, rows: &[PgRow]) -> sqlx::Result<Vec<Answer>> {
        let answers: Vec<Answer> = rows
            .iter()
            .map(Answer::read)
            .collect::<Result<_>>()
            .map_err(|error| sqlx::Error::Decode(error.into()))?;
        if let Some(answer) = answers.first() {
            self.database.history().committed(answer.transaction);
        }
        Ok(answers)
    }

    async fn attempt<I: Item>(&mut self, items: &[&I]) -> sqlx::Result<Vec<PgRow>> {
        let patience = ATTEMPT_PATIENCE.min(self.number.sender.patience);
        let number = self.number;
        // Taken out: an attempt that is given up leaves no half-read connection behind.
        let conn = self.conn.take();
        let attempt = async {
            let mut conn = match conn {
                Some(conn) => conn,
                None => self.database.try_connect().await?,
            };
            let rows = I::send(&mut conn, number, items).await;
            Ok::<_, sqlx::Error>((conn, rows))
        };
        let (conn, rows) = tokio::time::timeout(patience, attempt)
            .await
            .map_err(|_| no_answer())??;
        self.conn = Some(conn);
        rows
    }
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "the database does not answer",
    ))
}

fn take_batch<I: Item>(waiting: &mut VecDeque<Job<I>>) -> Vec<Job<I>> {
    let mut batch: Vec<Job<I>> = Vec::new();
    let mut later = VecDeque::new();
    let mut bytes = 0;
    while let Some(job) = waiting.pop_front() {
        let full = batch.len() >= BATCH_MAX || bytes >= BATCH_BYTES;
        let clash = || {
            batch
                .iter()
                .chain(&later)
                .any(|other: &Job<I>| job.item.clashes(&other.item))
        };
        if full {
            waiting.push_front(job);
            break;
        }
        if clash() {
            later.push_back(job);
            continue;
        }
        bytes += job.item.weight();
        batch.push(job);
    }
    while let Some(job) = later.pop_back() {
        waiting.push_front(job);
    }
    batch
}

fn distribute<I>(batch: Vec<Job<I>>, answers: Vec<Answer>) {
    let mut parts: Vec<Vec<Answer>> = batch.iter().map(|_| Vec::new()).collect();
    let mut all = None;
    for answer in answers {
        match usize::try_from(answer.op) {
            Ok(op) => {
                if let Some(part) = parts.get_mut(op) {
                    part.push(answer);
                }
            }
            Err(_) => all = answer.refusal(),
        }
    }
    for (job, part) in batch.into_iter().zip(parts) {
        let refused = all
            .clone()
            .or_else(|| part.iter().find_map(Answer::refusal));
        // Whoever asked may have gone; the change stands all the same.
        let _ = job.reply.send(refused.map_or(Ok(part), Err));
    }
}

fn distribute_one<I>(job: Job<I>, result: sqlx::Result<Vec<Answer>>) {
    match result {
        Ok(answers) => distribute(vec![job], answers),
        Err(error) => {
            let _ = job.reply.send(Err(db(error)));
        }
    }
}
