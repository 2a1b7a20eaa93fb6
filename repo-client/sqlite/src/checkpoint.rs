//! Moves committed pages from the write-ahead log to the database file in the background, so that commits do not
//! wait for it. The log starts over once all of it has been moved; only that last bit is done by the writer itself.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;

use rusqlite::Connection;
use sluice_repo::{RepoError, Result};

use crate::log_room::LogRoom;
use crate::pool::open_writer;

/// Pages in the log (4 KiB each) from which the background starts.
const START_PAGES: i32 = 4096;

thread_local! {
    /// Pages in the log after the last commit of this thread.
    static LOG_PAGES: Cell<i32> = const { Cell::new(0) };
    /// This thread has committed something into the log since it was last asked.
    static WRITTEN: Cell<bool> = const { Cell::new(false) };
}

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;

/// The writer's side of it.
pub(crate) struct Checkpointer {
    requests: mpsc::Sender<()>,
    state: Arc<AtomicU8>,
    room: LogRoom,
}

impl Checkpointer {
    /// Starts the thread; it ends when the checkpointer is dropped.
    pub(crate) fn start(database: &Path, writer: &Connection) -> Result<Checkpointer> {
        writer.wal_hook(Some(|_, pages| {
            LOG_PAGES.set(pages);
            WRITTEN.set(true);
            Ok(())
        }));
        let conn = open_writer(database)?;
        let (requests, queue) = mpsc::channel::<()>();
        let state = Arc::new(AtomicU8::new(IDLE));
        let thread_state = state.clone();
        std::thread::Builder::new()
            .name("repo-checkpoint".into())
            .spawn(move || {
                while queue.recv().is_ok() {
                    checkpoint(&conn, "PASSIVE");
                    thread_state.store(DONE, Ordering::Release);
                }
            })
            .map_err(|e| {
                RepoError::Unavailable(format!("cannot start the checkpoint thread: {e}"))
            })?;
        Ok(Checkpointer {
            requests,
            state,
            room: LogRoom::of(database),
        })
    }

    /// Whether the writer's last transaction has put anything into the log.
    pub(crate) fn take_written(&self) -> bool {
        WRITTEN.take()
    }

    /// Makes everything in the log durable.
    pub(crate) fn sync_log(&mut self) -> Result<()> {
        self.room.sync()
    }

    /// Called by the writer between two transactions.
    pub(crate) fn after_commit(&mut self, conn: &Connection) {
        self.room.keep(LOG_PAGES.get());
        match self.state.load(Ordering::Acquire) {
            DONE => {
                // What was committed meanwhile is little: with it moved, too, the log starts over.
                checkpoint(conn, "PASSIVE");
                self.state.store(IDLE, Ordering::Release);
            }
            IDLE if LOG_PAGES.get() >= START_PAGES => {
                self.state.store(RUNNING, Ordering::Release);
                if self.requests.send(()).is_err() {
                    checkpoint(conn, "PASSIVE");
                }
            }
            _ => {}
        }
    }

    /// Moves everything and empties the log; at the end.
    pub(crate) fn finish(&self, conn: &Connection) {
        checkpoint(conn, "TRUNCATE");
    }
}

fn checkpoint(conn: &Connection, mode: &str) {
    let run = conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
    if let Err(error) = run {
        // The log keeps everything; the next checkpoint tries again.
        tracing::warn!(%error, "checkpoint of the repository's database failed");
    }
}
