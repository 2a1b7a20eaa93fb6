//! What of the write-ahead log is durable: transactions are counted when they are in it, and again when a sync that began after that
//! has ended. A sync that fails is the last one: the system may have dropped what it was to write, and a second one would not tell. From
//! then on nothing is changed, nor moved into the database, until the node is started again: a start empties the log before it goes on.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sluice_repo::{RepoError, Result};

/// The log's file as far as this process has made it durable.
pub(super) struct Log {
    path: PathBuf,
    /// Opened by the first sync: a new database has no log before its first transaction. Held for a sync: an error is told to one of
    /// those that sync at once, and the other must not believe that it went well.
    file: Mutex<Option<File>>,
    /// Taken for moments, after the file.
    failed: Mutex<Option<RepoError>>,
    written: AtomicU64,
    synced: AtomicU64,
}

impl Log {
    pub(super) fn of(path: PathBuf) -> Log {
        Log {
            path,
            file: Mutex::default(),
            failed: Mutex::default(),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
        }
    }

    /// A transaction is in the log.
    pub(super) fn note_written(&self) {
        self.written.fetch_add(1, Ordering::AcqRel);
    }

    /// Transactions in the log.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Transactions that are durable.
    pub(super) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// Whether something in the log is not durable.
    pub(super) fn has_open(&self) -> bool {
        self.synced() < self.written()
    }

    /// Whether something in the log is to be made durable; never again after a sync that failed.
    pub(super) fn wants_sync(&self) -> bool {
        self.has_open() && self.check().is_ok()
    }

    /// Refuses if something that was to be durable may be lost.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.failed.lock() {
            Some(failed) => Err(failed.clone()),
            None => Ok(()),
        }
    }

    /// Makes everything durable that is in the log now.
    pub(super) fn sync(&self) -> Result<()> {
        let mut file = self.file.lock();
        self.check()?;
        let written = self.written.load(Ordering::Acquire);
        if self.synced.load(Ordering::Acquire) >= written {
            return Ok(());
        }
        let opened = match file.take() {
            Some(file) => Ok(file),
            None => OpenOptions::new().write(true).open(&self.path),
        };
        let synced = opened.and_then(|file| file.sync_data().map(|()| file));
        match synced {
            Ok(synced) => {
                *file = Some(synced);
                self.synced.fetch_max(written, Ordering::AcqRel);
                Ok(())
            }
            Err(error) => {
                let failed = RepoError::Unavailable(format!(
                    "{} could not be made durable, nothing is changed any more: see to the disk, then start the node again: {error}",
                    self.path.display()
                ));
                *self.failed.lock() = Some(failed.clone());
                Err(failed)
            }
        }
    }
}
