//! The content store: working contents, reads of versions, housekeeping.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use moka::sync::Cache;
use parking_lot::Mutex;
use sluice_repo::{
    ContentStore, Manifest, ObjectId, ObjectRef, PackCounts, RepoError, Result, WorkingContent,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::fetch::{self, PageKey};
use crate::objects::Objects;
use crate::working::Core;

/// How long a probe waits.
const PROBE: Duration = Duration::from_secs(5);

/// How a store works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Verified bytes of objects kept in memory.
    pub cache_bytes: u64,
    /// Bytes that one working content may keep in memory before its writer waits.
    pub buffer_bytes: u64,
    /// Objects stored at the same time.
    pub uploads: usize,
    /// The member epoch of this process in its cluster; 0 without one.
    pub uploader: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            cache_bytes: 512 << 20,
            buffer_bytes: 64 << 20,
            uploads: 4,
            uploader: 0,
        }
    }
}

/// What working contents share.
pub(crate) struct Shared {
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) pages: Cache<PageKey, Bytes>,
    pub(crate) uploads: Semaphore,
    pub(crate) options: Options,
    pub(crate) runtime: Handle,
    /// Working contents that exist.
    pub(crate) live: Mutex<HashMap<u64, Weak<Core>>>,
    keys: AtomicU64,
    /// Contents that were sealed and not committed since.
    unsettled: AtomicUsize,
    /// Random, for this run.
    run: u64,
    made: AtomicU64,
}

impl Shared {
    /// A name for a new object of this length.
    pub(crate) fn new_object(&self, len: u64) -> ObjectId {
        self.objects.place(len).unwrap_or_else(|| self.new_id())
    }

    fn new_id(&self) -> ObjectId {
        let count = self.made.fetch_add(1, Ordering::Relaxed);
        ObjectId::new(self.options.uploader, self.run, count)
    }

    /// A content is sealed. Whether it is the only one between seal and commit.
    pub(crate) fn unsettle(&self, unsettled: &mut bool) -> bool {
        match std::mem::replace(unsettled, true) {
            true => self.unsettled.load(Ordering::Relaxed) == 1,
            false => self.unsettled.fetch_add(1, Ordering::Relaxed) == 0,
        }
    }

    /// It is committed, or will not be.
    pub(crate) fn settle(&self, unsettled: &mut bool) {
        if std::mem::take(unsettled) {
            self.unsettled.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn next_key(&self) -> u64 {
        self.keys.fetch_add(1, Ordering::Relaxed)
    }
}

/// A content store over some objects.
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    /// Makes a store. Its background work runs on the current tokio runtime, without which this panics.
    pub fn new(objects: Arc<dyn Objects>, options: Options) -> Result<Store> {
        let mut run = [0; 8];
        getrandom::fill(&mut run)
            .map_err(|e| RepoError::Unavailable(format!("no random numbers: {e}")))?;
        let pages = Cache::builder()
            .weigher(|_: &PageKey, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX))
            .max_capacity(options.cache_bytes)
            .build();
        let shared = Shared {
            objects,
            pages,
            uploads: Semaphore::new(options.uploads.max(1)),
            options,
            runtime: Handle::current(),
            live: Mutex::new(HashMap::new()),
            keys: AtomicU64::new(0),
            unsettled: AtomicUsize::new(0),
            run: u64::from_le_bytes(run),
            made: AtomicU64::new(0),
        };
        Ok(Store {
            shared: Arc::new(shared),
        })
    }
}

#[async_trait]
impl ContentStore for Store {
    fn working(&self, base: Arc<Manifest>) -> Arc<dyn WorkingContent> {
        Core::new(self.shared.clone(), base)
    }

    async fn read(&self, manifest: &Manifest, offset: u64, len: u32) -> Result<Vec<Bytes>> {
        let end = offset.saturating_add(len.into()).min(manifest.size);
        if offset >= end {
            return Ok(Vec::new());
        }
        fetch::fetch(&self.shared, fetch::view_of(manifest, offset, end)).await
    }

    fn room(&self) -> Result<(u64, u64)> {
        self.shared.objects.room()
    }

    fn packs(&self) -> Option<PackCounts> {
        self.shared.objects.packs()
    }

    async fn probe(&self) -> Result<()> {
        let id = self.shared.new_id();
        let tried = async {
            let bytes = vec![Bytes::from_static(b"probe")];
            self.shared.objects.put(id, bytes).await?;
            self.shared.objects.delete(&[id]).await
        };
        tokio::time::timeout(PROBE, tried)
            .await
            .unwrap_or_else(|_| {
                Err(RepoError::Unavailable(format!(
                    "the content store did not take a new object within {} s",
                    PROBE.as_secs()
                )))
            })
    }

    async fn claim(&self, repository: &str) -> Result<()> {
        self.shared.objects.claim(repository).await
    }

    async fn list(&self) -> Result<Vec<(ObjectId, u64)>> {
        self.shared.objects.list().await
    }

    fn uploader(&self) -> u64 {
        self.shared.options.uploader
    }

    fn pinned(&self) -> HashSet<ObjectId> {
        let live: Vec<Weak<Core>> = self.shared.live.lock().values().cloned().collect();
        let mut pinned = HashSet::new();
        for core in live.iter().filter_map(Weak::upgrade) {
            core.pinned(&mut pinned);
        }
        pinned
    }

    async fn delete(&self, objects: &[ObjectId]) -> Result<()> {
        self.shared.objects.delete(objects).await
    }

    async fn verify(&self, object: &ObjectRef) -> Result<()> {
        fetch::verify(&self.shared, object).await
    }
}
