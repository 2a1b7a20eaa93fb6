//! Moves committed pages from the write-ahead log to the database file in the background, so that commits do not
//! wait for it. The log starts over once all of it has been moved; only that last bit is done by the writer itself, and only when it
//! is little: until then the background goes over what was committed meanwhile. A start empties the log; after a sync of it that failed
//! nothing is moved, as what the system has dropped of the log must not come into the database.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use sluice_repo::{RepoError, Result};

use crate::log_room::LogRoom;
use crate::pool::open_writer;

/// Pages in the log (4 KiB each) from which the background starts.
const START_PAGES: i32 = 4096;
/// Pages left that the writer moves itself.
const LAST_PAGES: i32 = 256;
/// Times that the background goes over the log before the writer moves what is left, however much.
const ROUNDS_MAX: u32 = 8;

thread_local! {
    /// Pages in the log after the last commit of this thread.
    static LOG_PAGES: Cell<i32> = const { Cell::new(0) };
    /// This thread has committed something into the log since it was last asked.
    static WRITTEN: Cell<bool> = const { Cell::new(false) };
}

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;

/// What the background is asked for.
enum Request {
    Checkpoint,
    /// Room for a log of so many pages.
    Room(i32),
}

/// The writer's side of it.
pub(crate) struct Checkpointer {
    /// Empty once the background is to end.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    state: Arc<AtomicU8>,
    /// Pages that the background has moved, of those in the log.
    moved: Arc<AtomicI32>,
    room: LogRoom,
    /// Pages in the log.
    pages: i32,
    /// Times that the background has gone over this log.
    rounds: u32,
}

impl Checkpointer {
    /// Starts the thread; it ends when the checkpointer is dropped.
    pub(crate) fn start(database: &Path, writer: &Connection) -> Result<Checkpointer> {
        // The end of a log that the last run could not make durable may be in the system's memory only, and no sync would tell:
        // nothing that is to be durable may come behind it.
        checkpoint(writer, "TRUNCATE");
        writer.wal_hook(Some(|_, pages| {
            LOG_PAGES.set(pages);
            WRITTEN.set(true);
            Ok(())
        }));
        let conn = open_writer(database)?;
        let (requests, queue) = mpsc::channel::<Request>();
        let state = Arc::new(AtomicU8::new(IDLE));
        let moved = Arc::new(AtomicI32::new(0));
        let room = LogRoom::of(database);
        let grower = room.grower();
        let (thread_state, thread_moved) = (state.clone(), moved.clone());
        let thread = std::thread::Builder::new()
            .name("repo-checkpoint".into())
            .spawn(move || {
                while let Ok(request) = queue.recv() {
                    match request {
                        Request::Room(pages) => grower.grow(pages),
                        Request::Checkpoint => {
                            let moved = checkpoint(&conn, "PASSIVE");
                            thread_moved.store(moved, Ordering::Release);
                            thread_state.store(DONE, Ordering::Release);
                        }
                    }
                }
            })
            .map_err(|e| {
                RepoError::Unavailable(format!("cannot start the checkpoint thread: {e}"))
            })?;
        Ok(Checkpointer {
            requests: Some(requests),
            thread: Some(thread),
            state,
            moved,
            room,
            pages: 0,
            rounds: 0,
        })
    }

    /// Whether the transaction just committed on this thread has put anything into the log.
    pub(crate) fn take_written(&mut self) -> bool {
        let written = WRITTEN.take();
        if written {
            self.pages = LOG_PAGES.get();
            if self.room.is_short(self.pages) {
                // Without the background the log grows by itself.
                let _ = self.request(Request::Room(self.pages));
            }
        }
        written
    }

    /// The log's file.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.room.path().to_owned()
    }

    /// Whether [`Checkpointer::after_commit`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        match self.state.load(Ordering::Acquire) {
            DONE => true,
            IDLE => self.pages >= START_PAGES,
            _ => false,
        }
    }

    /// Called by the writer's thread between two transactions.
    pub(crate) fn after_commit(&mut self, conn: &Connection) {
        match self.state.load(Ordering::Acquire) {
            DONE => {
                let left = self.pages - self.moved.load(Ordering::Acquire);
                self.rounds += 1;
                if left > LAST_PAGES && self.rounds < ROUNDS_MAX {
                    self.ask(conn);
                } else {
                    // With this moved, too, the log starts over.
                    checkpoint(conn, "PASSIVE");
                    self.state.store(IDLE, Ordering::Release);
                    (self.pages, self.rounds) = (0, 0);
                }
            }
            IDLE if self.pages >= START_PAGES => self.ask(conn),
            _ => {}
        }
    }

    fn ask(&self, conn: &Connection) {
        self.state.store(RUNNING, Ordering::Release);
        if !self.request(Request::Checkpoint) {
            checkpoint(conn, "PASSIVE");
        }
    }

    /// Whether the background has heard it.
    fn request(&self, request: Request) -> bool {
        self.requests
            .as_ref()
            .is_some_and(|requests| requests.send(request).is_ok())
    }

    /// Ends the background, moves everything and empties the log; at the end.
    pub(crate) fn finish(&mut self, conn: &Connection) {
        self.end();
        checkpoint(conn, "TRUNCATE");
    }

    /// Ends the background and leaves the log as it is, also when the connection is closed.
    pub(crate) fn abandon(&mut self, conn: &Connection) {
        self.end();
        let kept = conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        if let Err(error) = kept {
            tracing::warn!(%error, "the log of the repository's database may be emptied");
        }
    }

    fn end(&mut self) {
        self.room.stop();
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the repository's checkpoint thread panicked");
        }
    }
}

/// Pages of the log that are in the database file now.
fn checkpoint(conn: &Connection, mode: &str) -> i32 {
    let run = conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        row.get(2)
    });
    run.unwrap_or_else(|error| {
        // The log keeps everything; the next checkpoint tries again.
        tracing::warn!(%error, "checkpoint of the repository's database failed");
        0
    })
}
