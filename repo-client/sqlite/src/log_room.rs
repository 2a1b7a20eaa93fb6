//! Room in the file of the write-ahead log, made ahead of the commits that will need it: a commit that writes over what is there
//! already needs no change of the file's length or blocks to be durable.
//!
//! What lies behind the last commit is zeros or an older round of the log; neither carries the checksums of the present round,
//! so recovery ends where the commits end. Room is made in the background, beside commits, by appending only: the log's end is never
//! behind the file's, so that zeros can't come over a commit, however far the log has come meanwhile. In small steps, each made
//! durable by whoever makes it: a commit's sync must not have to carry them.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is added and synced at once.
const STEP_BYTES: u64 = 256 << 10;
/// Room left at which more is added.
const SPARE_BYTES: u64 = 1 << 20;
/// A log that stays shorter than this needs no room.
const QUIET_BYTES: u64 = 128 << 10;
/// The first room, enough for all that comes before a checkpoint ends; a log that becomes longer gets as much as it has to spare.
const ROOM_BYTES: u64 = 20 << 20;
/// Longer than this the log gets only while a reader keeps it from starting over; then it grows by itself.
const ROOM_MAX: u64 = 64 << 20;
/// A page with its frame header.
const FRAME_BYTES: u64 = 4096 + 24;
/// The log's own header.
const HEADER_BYTES: u64 = 32;

/// The log's file as far as this writer knows it.
pub(crate) struct LogRoom {
    grower: Grower,
}

/// The background's side of it.
#[derive(Clone)]
pub(crate) struct Grower {
    path: PathBuf,
    len: Arc<AtomicU64>,
    /// It is being made longer; for ever if that has failed (said once): the log then grows by itself, as it would without this.
    busy: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

impl LogRoom {
    /// For the log of a database.
    pub(crate) fn of(database: &Path) -> LogRoom {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        LogRoom {
            grower: Grower {
                path: path.into(),
                len: Arc::default(),
                busy: Arc::default(),
                stopped: Arc::default(),
            },
        }
    }

    pub(crate) fn grower(&self) -> Grower {
        self.grower.clone()
    }

    /// The log is about to end; no more room is made.
    pub(crate) fn stop(&self) {
        self.grower.stopped.store(true, Ordering::Release);
    }

    /// Whether the background is to make room for a log of so many pages; said once.
    pub(crate) fn is_short(&self, pages: i32) -> bool {
        let used = used(pages);
        let len = self.grower.len.load(Ordering::Acquire);
        (QUIET_BYTES..=ROOM_MAX).contains(&used)
            && used + SPARE_BYTES > len
            && !self.grower.busy.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.grower.path
    }
}

impl Grower {
    /// Makes room for a log of so many pages and those to come.
    pub(crate) fn grow(&self, pages: i32) {
        let wanted = ROOM_BYTES.max(used(pages) + 2 * SPARE_BYTES);
        match self.append(wanted) {
            Ok(()) => self.busy.store(false, Ordering::Release),
            Err(error) => {
                tracing::warn!(%error, "no room could be made ahead in the log of the repository's database");
            }
        }
    }

    fn append(&self, wanted: u64) -> io::Result<()> {
        // Never made: without a log there is nothing to make room in.
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        // Zeros that are written, not a hole or a reservation: those would still have to be turned into data.
        let zeros = vec![0; STEP_BYTES as usize];
        loop {
            let len = file.metadata()?.len();
            self.len.store(len, Ordering::Release);
            if len >= wanted || self.stopped.load(Ordering::Acquire) {
                return Ok(());
            }
            file.write_all(&zeros)?;
            file.sync_data()?;
        }
    }
}

/// Bytes of a log with so many pages.
fn used(pages: i32) -> u64 {
    HEADER_BYTES + u64::try_from(pages).unwrap_or(0) * FRAME_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_behind_the_log_once_it_is_used_and_short() {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("meta.db-wal");
        std::fs::write(&log, vec![7; 500_000]).expect("log");
        let room = LogRoom::of(&folder.path().join("meta.db"));
        assert!(!room.is_short(1), "a log that is hardly used");
        assert!(room.is_short(100));
        assert!(!room.is_short(100), "it is being made");
        room.grower().grow(100);
        let made = std::fs::read(&log).expect("read");
        assert!(made.len() as u64 >= ROOM_BYTES);
        assert!(made[..500_000].iter().all(|b| *b == 7));
        assert!(made[500_000..].iter().all(|b| *b == 0));
        assert!(!room.is_short(100));
        let nearly = i32::try_from((made.len() as u64 - SPARE_BYTES) / FRAME_BYTES).expect("small");
        assert!(room.is_short(nearly + 1));
        room.grower().grow(nearly + 1);
        let len = std::fs::metadata(&log).expect("length").len();
        assert!(len >= made.len() as u64 + SPARE_BYTES);
        assert!(!room.is_short(1 << 20), "a log without an end");
        room.stop();
        room.grower().grow(10_000);
        assert_eq!(std::fs::metadata(&log).expect("length").len(), len);
    }

    #[test]
    fn without_a_log_file_nothing_is_made() {
        let folder = tempfile::tempdir().expect("folder");
        let room = LogRoom::of(&folder.path().join("meta.db"));
        assert!(room.is_short(100));
        room.grower().grow(100);
        assert!(!room.is_short(100), "it is not tried again");
        assert!(
            std::fs::read_dir(folder.path())
                .expect("list")
                .next()
                .is_none()
        );
    }
}
