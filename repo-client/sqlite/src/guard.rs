//! One process at a time: the caches of the process that has the database open are right only while nobody else
//! changes it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use sluice_repo::{RepoError, Result};

/// Held while the database is open; the operating system gives it back when the process ends in any way.
pub(crate) struct Guard {
    _file: File,
}

impl Guard {
    pub(crate) fn take(database: &Path) -> Result<Guard> {
        let mut path = database.as_os_str().to_owned();
        path.push(".lock");
        let path = Path::new(&path);
        let fail = |error| RepoError::ReadOnly(format!("cannot open {}: {error}", path.display()));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(fail)?;
        match file.try_lock() {
            Ok(()) => Ok(Guard { _file: file }),
            Err(TryLockError::WouldBlock) => Err(RepoError::InUse(format!(
                "{} is open in another process; stop that node or use its admin address",
                database.display()
            ))),
            Err(TryLockError::Error(error)) => Err(fail(error)),
        }
    }
}
