//! Tells of nearly every name that is nowhere that it is not, without a look into the database: each creation begins with a look for
//! the very name that it will make. A Bloom filter (Bloom 1970) over folder and folded name.
//!
//! Owns the filter and its first filling from the database. Never denies a name that an answered change has made: bits are only
//! ever set, by the writer before it answers, and until the filling is over nothing is denied. Names that are gone stay until the next
//! start and take room: with four times as many as there is room for one look in six is made in vain, with eight times as many every second.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::{Connection, params};
use sluice_repo::{NodeId, RepoError, Result};

use crate::error::db;
use crate::pool::Readers;

/// Bits for each name that there is room for: then, with four of them set, one name in 400 that is nowhere is looked for all the same.
const BITS_PER_NAME: u64 = 16;
const BITS_SET: u64 = 4;
/// Room for so many names at least, 8 MiB, and at most, 32 MiB.
const NAMES_MIN: u64 = 1 << 22;
const NAMES_MAX: u64 = 1 << 24;
/// Names that the filling reads at once.
const CHUNK_NAMES: usize = 4096;

/// The names that there may be.
pub(crate) struct NameFilter {
    hasher: RandomState,
    /// As many as a power of two.
    words: Vec<AtomicU64>,
    /// All names of the database are in.
    is_filled: AtomicBool,
}

impl NameFilter {
    /// An empty filter with room for about so many names; it denies nothing yet.
    pub(crate) fn with_room(names: u64) -> Self {
        let bits = (names.clamp(NAMES_MIN, NAMES_MAX) * BITS_PER_NAME).next_power_of_two();
        NameFilter {
            hasher: RandomState::new(),
            words: (0..bits / 64).map(|_| AtomicU64::new(0)).collect(),
            is_filled: AtomicBool::new(false),
        }
    }

    /// The words and bits of a name.
    fn places(&self, folder: NodeId, fold: &str) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let hash = self.hasher.hash_one((folder, fold));
        // Two hashes make as many as are wanted (Kirsch and Mitzenmacher 2006).
        let (first, step) = (hash >> 32, hash | 1);
        (0..BITS_SET).map(move |n| {
            let bit = first.wrapping_add(n.wrapping_mul(step));
            let word = (bit / 64) as usize & (self.words.len() - 1);
            (&self.words[word], 1 << (bit % 64))
        })
    }

    /// There is, or may come to be, this name in the folder.
    pub(crate) fn add(&self, folder: NodeId, fold: &str) {
        for (word, bit) in self.places(folder, fold) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// False if the folder certainly has no such name.
    pub(crate) fn may_have(&self, folder: NodeId, fold: &str) -> bool {
        !self.is_filled.load(Ordering::Acquire)
            || self
                .places(folder, fold)
                .all(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Reads all names, unless `stop` ends it. To be called once, with what is made meanwhile added as well.
    fn fill(&self, readers: &Readers, stop: &AtomicBool) -> Result<()> {
        let mut after = (i64::MIN, i64::MIN);
        while !stop.load(Ordering::Relaxed) {
            match readers.with(|conn| self.add_chunk(conn, after))? {
                Some(last) => after = last,
                None => {
                    self.is_filled.store(true, Ordering::Release);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Adds the next names in the order of the table; returns where to go on.
    fn add_chunk(&self, conn: &Connection, after: (i64, i64)) -> Result<Option<(i64, i64)>> {
        let mut last = None;
        conn.prepare_cached(
            "SELECT parent, cookie, fold FROM entry WHERE (parent, cookie) > (?1, ?2) ORDER BY parent, cookie LIMIT ?3",
        )
        .and_then(|mut statement| {
            let mut rows = statement.query(params![after.0, after.1, CHUNK_NAMES as i64])?;
            while let Some(row) = rows.next()? {
                let folder: i64 = row.get(0)?;
                let fold = row.get_ref(2)?.as_str()?;
                self.add(NodeId(folder as u64), fold);
                last = Some((folder, row.get(1)?));
            }
            Ok(())
        })
        .map_err(db)?;
        Ok(last)
    }
}

/// The thread that fills a filter.
pub(crate) struct Filling {
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Filling {
    /// Fills `filter` in the background. If that fails, the filter goes on denying nothing.
    pub(crate) fn start(filter: Arc<NameFilter>, readers: Arc<Readers>) -> Result<Filling> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("repo-names".into())
            .spawn(move || {
                if let Err(error) = filter.fill(&readers, &stopped) {
                    tracing::warn!(%error, "the names of the repository could not be read; looking for new ones takes longer");
                }
            })
            .map_err(|e| RepoError::Unavailable(format!("cannot start a thread that reads names: {e}")))?;
        Ok(Filling {
            stop,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Waits until all names are in.
    #[cfg(test)]
    pub(crate) fn finish(&self) {
        self.join();
    }

    /// Ends it, wherever it is.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }

    fn join(&self) {
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads the repository's names panicked");
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use sluice_repo::{CaseMode, ROOT, Replace, Repository};
    use sluice_repo_suite::{file, made_folder, rename};

    use super::*;
    use crate::repository::{Options, SqliteRepository};
    use crate::writer::Tx;

    fn filled(names: u64) -> NameFilter {
        let filter = NameFilter::with_room(names);
        filter.is_filled.store(true, Ordering::Relaxed);
        filter
    }

    /// Nothing is found in memory.
    fn forgetful(folder: &tempfile::TempDir) -> Options {
        Options {
            cached_nodes: 0,
            ..Options::new(folder.path().join("meta.db"))
        }
    }

    async fn open(folder: &tempfile::TempDir) -> SqliteRepository {
        let repo = SqliteRepository::open(forgetful(folder))
            .await
            .expect("open");
        repo.filling.finish();
        repo
    }

    async fn has(repo: &SqliteRepository, folder: NodeId, name: &str) -> bool {
        match repo.lookup(folder, name, CaseMode::Insensitive).await {
            Ok(_) => true,
            Err(RepoError::NotFound) => false,
            Err(error) => panic!("{name}: {error}"),
        }
    }

    #[tokio::test]
    async fn names_are_found_whenever_they_came() {
        let folder = tempfile::tempdir().expect("folder");
        let repo = open(&folder).await;
        // More than one chunk.
        let count = CHUNK_NAMES + 10;
        let names: Vec<String> = (0..count).map(|n| format!("Name {n}")).collect();
        let making = names.iter().map(|name| file(&repo, ROOT, name));
        futures::future::try_join_all(making).await.expect("made");
        rename(&repo, (ROOT, "Name 0"), (ROOT, "Renamed"), Replace::No)
            .await
            .expect("renamed");
        let last = format!("NAME {}", count - 1);
        let expected = [
            ("renamed", true),
            ("Name 0", false),
            ("name 1", true),
            (&last, true),
            ("nowhere", false),
        ];
        for (name, there) in expected {
            assert_eq!(has(&repo, ROOT, name).await, there, "{name}");
        }
        repo.close().await.expect("close");
        drop(repo);
        let repo = open(&folder).await;
        for (name, there) in expected {
            assert_eq!(
                has(&repo, ROOT, name).await,
                there,
                "{name} after a restart"
            );
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn names_that_come_during_the_filling_are_found() {
        let folder = tempfile::tempdir().expect("folder");
        let repo = open(&folder).await;
        let folders = [
            made_folder(&repo, ROOT, "a").await.id,
            made_folder(&repo, ROOT, "b").await.id,
            made_folder(&repo, ROOT, "c").await.id,
        ];
        let old: Vec<_> = (0..CHUNK_NAMES)
            .map(|n| (folders[n % 3], format!("old {n}")))
            .collect();
        let making = old.iter().map(|(folder, name)| file(&repo, *folder, name));
        futures::future::try_join_all(making).await.expect("made");
        repo.close().await.expect("close");
        drop(repo);
        let repo = SqliteRepository::open(forgetful(&folder))
            .await
            .expect("open");
        let mut new = Vec::new();
        for n in 0..100 {
            let (at, name) = (folders[n % 3], format!("new {n}"));
            file(&repo, at, &name).await.expect("made");
            assert!(has(&repo, at, &name).await, "{name} at once");
            new.push((at, name));
        }
        repo.filling.finish();
        for (at, name) in old.iter().chain(&new) {
            assert!(has(&repo, *at, name).await, "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_new_is_not_looked_for_in_the_database() {
        let folder = tempfile::tempdir().expect("folder");
        let repo = open(&folder).await;
        file(&repo, ROOT, "old").await.expect("made");
        assert!(has(&repo, ROOT, "old").await);
        let spoil = |tx: &mut Tx<'_>| tx.conn.execute_batch("DROP TABLE entry").map_err(db);
        assert_eq!(repo.change_each(vec![spoil]).await, [Ok(())]);
        for n in 0..20 {
            assert!(!has(&repo, ROOT, &format!("new {n}")).await);
        }
    }

    #[test]
    fn no_name_is_denied_before_all_are_known() {
        let filter = NameFilter::with_room(0);
        assert!(filter.may_have(NodeId(1), "a"));
        filter.is_filled.store(true, Ordering::Relaxed);
        assert!(!filter.may_have(NodeId(1), "a"));
        filter.add(NodeId(1), "a");
        assert!(filter.may_have(NodeId(1), "a"));
        assert!(!filter.may_have(NodeId(2), "a"));
    }

    #[test]
    fn what_was_added_is_never_denied_and_hardly_anything_else_taken_for_it() {
        let filter = filled(0);
        let name = |n: u64| (NodeId(n % 97), format!("name {n}"));
        for n in 0..NAMES_MIN {
            let (folder, fold) = name(n);
            filter.add(folder, &fold);
        }
        let had = |numbers: std::ops::Range<u64>| {
            numbers
                .map(name)
                .filter(|(folder, fold)| filter.may_have(*folder, fold))
                .count() as u64
        };
        assert_eq!(had(0..NAMES_MIN), NAMES_MIN);
        let mistaken = had(NAMES_MIN..2 * NAMES_MIN);
        assert!(mistaken < NAMES_MIN / 200, "{mistaken}");
    }
}
