//! Room in the file of the write-ahead log, made ahead of the commits that will need it: a commit that writes over what is there
//! already needs no change of the file's length or blocks, and so no journal of the file system, to be durable.
//!
//! What lies behind the last commit is zeros or an older round of the log; neither carries the checksums of the present round,
//! so recovery ends where the commits end. Never writes below the log's end: the writer's thread alone grows the log, and it calls
//! this between two transactions.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sluice_repo::{RepoError, Result};

/// What is added at once.
const STEP_BYTES: u64 = 1 << 20;
/// Room left at which more is added: more than most transactions write.
const SPARE_BYTES: u64 = 256 << 10;
/// A page with its frame header.
const FRAME_BYTES: u64 = 4096 + 24;
/// The log's own header.
const HEADER_BYTES: u64 = 32;
/// Longer than this the log gets only while a reader keeps it from starting over; then it grows by itself.
const ROOM_MAX: u64 = 64 << 20;

/// The log's file as far as this writer knows it.
pub(crate) struct LogRoom {
    path: PathBuf,
    file: Option<File>,
    len: u64,
    /// Something failed (said once): the log then grows by itself, as it would without this.
    given_up: bool,
}

impl LogRoom {
    /// For the log of a database.
    pub(crate) fn of(database: &Path) -> LogRoom {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        LogRoom {
            path: path.into(),
            file: None,
            len: 0,
            given_up: false,
        }
    }

    /// Called between two transactions, with the pages that the log holds.
    pub(crate) fn keep(&mut self, pages: i32) {
        let used = HEADER_BYTES + u64::try_from(pages).unwrap_or(0) * FRAME_BYTES;
        if pages <= 0 || self.given_up || used + SPARE_BYTES <= self.len || used > ROOM_MAX {
            return;
        }
        if let Err(error) = self.grow(used) {
            tracing::warn!(%error, "no room could be made ahead in the log of the repository's database");
            self.given_up = true;
        }
    }

    /// Makes what is in the log durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let file = match self.file.take() {
            Some(file) => Ok(file),
            None => OpenOptions::new().write(true).open(&self.path),
        };
        file.and_then(|file| {
            file.sync_data()?;
            self.file = Some(file);
            Ok(())
        })
        .map_err(|error| RepoError::Unavailable(format!("{}: {error}", self.path.display())))
    }

    fn grow(&mut self, used: u64) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().write(true).open(&self.path)?,
        };
        let end = file.seek(SeekFrom::End(0))?.max(used);
        self.len = end;
        if used + SPARE_BYTES > end {
            file.seek(SeekFrom::Start(end))?;
            // Zeros that are written, not a hole or a reservation: those would still have to be turned into data.
            file.write_all(&vec![0; STEP_BYTES as usize])?;
            self.len = end + STEP_BYTES;
        }
        self.file = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_behind_the_log_only_and_only_when_it_is_short() {
        let folder = tempfile::tempdir().expect("folder");
        let database = folder.path().join("meta.db");
        let log = folder.path().join("meta.db-wal");
        std::fs::write(&log, vec![7; 5000]).expect("log");
        let mut room = LogRoom::of(&database);
        room.keep(1);
        let first = std::fs::read(&log).expect("read");
        assert_eq!(first.len() as u64, 5000 + STEP_BYTES);
        assert!(first[..5000].iter().all(|b| *b == 7));
        assert!(first[5000..].iter().all(|b| *b == 0));
        room.keep(2);
        assert_eq!(
            std::fs::metadata(&log).expect("length").len(),
            5000 + STEP_BYTES
        );
        room.keep(250);
        assert_eq!(
            std::fs::metadata(&log).expect("length").len(),
            5000 + 2 * STEP_BYTES
        );
    }

    #[test]
    fn without_a_log_file_nothing_is_made() {
        let folder = tempfile::tempdir().expect("folder");
        let mut room = LogRoom::of(&folder.path().join("meta.db"));
        room.keep(1);
        assert!(
            std::fs::read_dir(folder.path())
                .expect("list")
                .next()
                .is_none()
        );
    }
}
