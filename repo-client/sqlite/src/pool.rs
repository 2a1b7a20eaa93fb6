//! Connections: how they are tuned, and the stock of read connections. A read takes some 10 us and is made in line.
//!
//! Read connections don't map the database: SQLite would unmap it whenever a commit was made since the last look, and map it
//! again, which costs more than reading a few pages, for the other threads, too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use sluice_repo::Result;

use crate::error::db;

/// One process has the database, so that its connections agree in memory and not by locks on the file.
const VFS: &str = "unix-excl";

/// Read connections kept for the next reader.
const IDLE_MAX: usize = 16;

/// Pages that the writer keeps: what the log holds between two checkpoints, and the hot ones. More would mean memory that has never been
/// touched for each page of content that goes through it, which costs more than reading a page again.
const WRITER_CACHE_KIB: u32 = 32 << 10;

/// Opens the connection that changes the database.
pub(crate) fn open_writer(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), VFS).map_err(db)?;
    conn.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0; PRAGMA foreign_keys = OFF;",
    )
    .map_err(db)?;
    tune(&conn, WRITER_CACHE_KIB)?;
    conn.execute_batch("PRAGMA mmap_size = 4294967296;")
        .map_err(db)?;
    Ok(conn)
}

fn tune(conn: &Connection, cache_kib: u32) -> Result<()> {
    conn.busy_timeout(Duration::from_secs(10)).map_err(db)?;
    conn.set_prepared_statement_cache_capacity(128);
    conn.execute_batch(&format!(
        "PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = MEMORY;"
    ))
    .map_err(db)
}

/// Read connections to one database.
pub(crate) struct Readers {
    path: PathBuf,
    /// Not in use now. Taken and given back only; no call is made under the lock.
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(crate) fn new(path: &Path) -> Self {
        Readers {
            path: path.to_owned(),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Runs `read` on a connection of its own.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => self.open()?,
        };
        let result = read(&conn);
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(conn);
        }
        result
    }

    /// Runs `read` so that all its queries see one state of the database.
    pub(crate) fn with_snapshot<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.with(|conn| {
            let tx = conn.unchecked_transaction().map_err(db)?;
            let result = read(&tx);
            tx.commit().map_err(db)?;
            result
        })
    }

    fn open(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags_and_vfs(&self.path, flags, VFS).map_err(db)?;
        tune(&conn, 8 << 10)?;
        Ok(conn)
    }
}
