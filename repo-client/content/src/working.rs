//! Working contents: what readers and writers of one document share until it is committed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sluice_repo::{
    DOCUMENT_BYTES_MAX, Manifest, ObjectId, ObjectRef, RepoError, Result, Sealed, Unsettled,
    WorkingContent,
};
use tokio::sync::Notify;

use crate::CHUNK_BYTES;
use crate::changes::Changes;
use crate::fetch::{fetch, view_of};
use crate::piece::{PieceMap, Source, View};
use crate::store::Shared;
use crate::upload::{self, Plan, Upload, Work};

const CHUNK: u64 = CHUNK_BYTES as u64;
/// Pieces that a chunk may consist of before a seal rewrites it as a whole.
const FRAGMENTS_MAX: usize = 128;

/// A working content; see the trait.
pub(crate) struct Core {
    shared: Arc<Shared>,
    me: Weak<Core>,
    /// Taken for moments only; never held while something is awaited.
    state: Mutex<State>,
    /// One seal at a time. Taken before `state`.
    sealing: tokio::sync::Mutex<()>,
    /// An upload has ended.
    progress: Notify,
    key: u64,
}

struct State {
    /// What was committed last.
    base: Arc<Manifest>,
    /// The content, once it differs from `base`.
    map: Option<PieceMap>,
    len: u64,
    /// Counts changes.
    stamp: u64,
    committed: u64,
    /// What was changed since then.
    changes: Changes,
    uploads: Vec<Arc<Upload>>,
    /// Why an upload in the background failed, until someone was told.
    failed: Option<RepoError>,
    /// It was sealed, and not committed since: counts in `Shared::unsettled`.
    unsettled: bool,
    /// Objects made here that no seal has named: garbage once the map lets go of them.
    made: HashSet<ObjectId>,
    /// Objects that a seal has named, with its stamp, until the commit is known.
    sealed: HashMap<ObjectId, u64>,
}

/// What is not stored of a content, as one object to be.
struct Lone {
    id: ObjectId,
    plan: Plan,
    map: PieceMap,
    len: u64,
    stamp: u64,
}

fn still_in_memory() -> RepoError {
    RepoError::Unavailable("content is still in memory after its uploads".into())
}

impl State {
    fn map_mut(&mut self) -> &mut PieceMap {
        self.map
            .get_or_insert_with(|| PieceMap::of(&self.base, self.stamp))
    }

    fn view(&self, start: u64, end: u64) -> Vec<View> {
        match &self.map {
            Some(map) => map.view(start, end),
            None => view_of(&self.base, start, end),
        }
    }

    fn memory(&self) -> u64 {
        self.map.as_ref().map_or(0, PieceMap::memory_total)
    }
}

impl Core {
    pub(crate) fn new(shared: Arc<Shared>, base: Arc<Manifest>) -> Arc<Core> {
        let key = shared.next_key();
        let core = Arc::new_cyclic(|me: &Weak<Core>| Core {
            me: me.clone(),
            state: Mutex::new(State {
                len: base.size,
                base,
                map: None,
                stamp: 0,
                committed: 0,
                changes: Changes::default(),
                uploads: Vec::new(),
                failed: None,
                unsettled: false,
                made: HashSet::new(),
                sealed: HashMap::new(),
            }),
            sealing: tokio::sync::Mutex::new(()),
            progress: Notify::new(),
            shared,
            key,
        });
        core.shared.live.lock().insert(key, core.me.clone());
        core
    }

    /// Adds the objects that must stay because of this working content.
    pub(crate) fn pinned(&self, pinned: &mut HashSet<ObjectId>) {
        let state = self.state.lock();
        pinned.extend(state.base.objects.iter().map(|o| o.id));
        pinned.extend(&state.made);
        pinned.extend(state.sealed.keys());
    }

    /// An upload has ended.
    pub(crate) fn uploaded(&self, upload: &Arc<Upload>, result: &Result<ObjectRef>) {
        let mut state = self.state.lock();
        state.uploads.retain(|u| !Arc::ptr_eq(u, upload));
        match result {
            Ok(object) => {
                if let Some(map) = &mut state.map {
                    map.adopt(object, &upload.stored, upload.stamp);
                }
            }
            Err(error) => {
                // Whoever asked for it to be durable says so, with the document's name.
                tracing::debug!(%error, "content could not be stored");
                state.failed = Some(error.clone());
            }
        }
        drop(state);
        self.progress.notify_waiters();
    }

    /// Makes uploads of what is in memory within a range and not on its way; their work goes on in the background unless it is kept.
    fn start_uploads(&self, state: &mut State, start: u64, end: u64) -> Vec<Work> {
        let Some(map) = &state.map else {
            return Vec::new();
        };
        let plans = upload::plan(map, &state.uploads, start, end).into_iter();
        let started = plans.map(|plan| {
            let (upload, work) = upload::start(&self.shared, self.me.clone(), plan, state.stamp);
            state.made.insert(upload.id);
            state.uploads.push(upload);
            work
        });
        started.collect()
    }

    /// Waits until `wanted` more bytes may be kept in memory.
    async fn make_room(&self, wanted: u64) -> Result<()> {
        let limit = self.shared.options.buffer_bytes;
        loop {
            let progress = self.progress.notified();
            {
                let mut state = self.state.lock();
                if let Some(error) = state.failed.take() {
                    return Err(error);
                }
                if state.memory() == 0 || state.memory() + wanted <= limit {
                    return Ok(());
                }
                if state.uploads.is_empty() {
                    self.start_uploads(&mut state, 0, u64::MAX);
                }
                if state.uploads.is_empty() {
                    return Ok(());
                }
            }
            progress.await;
        }
    }

    /// Loads chunks with changes that consist of too many pieces, so that they are stored as a whole again.
    async fn defragment(&self) -> Result<()> {
        let loads: Vec<(u64, ObjectRef, u32, u32)> = {
            let state = self.state.lock();
            let Some(map) = &state.map else { return Ok(()) };
            let chunks = map.chunks_in_memory();
            let ranges = chunks
                .into_iter()
                .map(|chunk| (chunk * CHUNK, (chunk + 1) * CHUNK));
            let many =
                ranges.filter(|&(start, end)| map.range(start, end).nth(FRAGMENTS_MAX).is_some());
            many.flat_map(|(start, end)| map.range(start, end))
                .filter_map(|(at, piece)| match &piece.source {
                    Source::Object(object, offset) => {
                        Some((at, object.clone(), *offset, piece.len as u32))
                    }
                    _ => None,
                })
                .collect()
        };
        for (at, object, offset, len) in loads {
            let parts = fetch(
                &self.shared,
                vec![View::Object(object.clone(), offset, len)],
            )
            .await?;
            if let Some(map) = &mut self.state.lock().map {
                map.load(at, &object, offset, parts);
            }
        }
        Ok(())
    }

    /// Seals; `later`: what it consists of may be made durable by the commit.
    async fn seal_as(&self, later: bool) -> Result<Sealed> {
        let _one = self.sealing.lock().await;
        let inline = {
            let mut state = self.state.lock();
            if state.map.is_none() {
                return Ok(Sealed {
                    manifest: state.base.clone(),
                    generation: state.stamp,
                    unsettled: None,
                });
            }
            let alone = self.shared.unsettle(&mut state.unsettled);
            let small = state.len <= self.shared.objects.inline_bytes(alone);
            small.then(|| {
                let stamp = state.stamp;
                state.changes.sealed(stamp);
                (state.view(0, state.len), stamp)
            })
        };
        if let Some((views, stamp)) = inline {
            return self.seal_inline(views, stamp).await;
        }
        // Asked for only if it is used: it takes a place.
        let lone = if later { self.lone() } else { None };
        match lone {
            Some(lone) => self.seal_lone(lone).await,
            None => self.seal_objects().await,
        }
    }

    /// All that is not stored, if it makes one object among others and none is on its way.
    fn lone(&self) -> Option<Lone> {
        let mut state = self.state.lock();
        let map = state.map.as_ref()?;
        let many = map.chunks_in_memory().into_iter().any(|chunk| {
            map.range(chunk * CHUNK, (chunk + 1) * CHUNK)
                .nth(FRAGMENTS_MAX)
                .is_some()
        });
        if many || !state.uploads.is_empty() {
            return None;
        }
        let [plan] = <[Plan; 1]>::try_from(upload::plan(map, &[], 0, u64::MAX)).ok()?;
        let id = self.shared.objects.place(plan.len)?;
        let lone = Lone {
            id,
            plan,
            map: map.clone(),
            len: state.len,
            stamp: state.stamp,
        };
        // From here on gc leaves it alone.
        state.made.insert(id);
        state.failed = None;
        state.changes.sealed(lone.stamp);
        Some(lone)
    }

    /// Stores it. What is in memory stays there until the commit is known: the object may never become durable.
    async fn seal_lone(&self, lone: Lone) -> Result<Sealed> {
        let Lone {
            id,
            plan: Plan { stored, parts, .. },
            mut map,
            len,
            stamp,
        } = lone;
        let (object, unsettled) = upload::take(&self.shared, id, parts).await?;
        map.adopt(&object, &stored, stamp);
        self.sealed(&map, len, stamp, unsettled)
    }

    async fn seal_inline(&self, views: Vec<View>, stamp: u64) -> Result<Sealed> {
        let parts = fetch(&self.shared, views).await?;
        Ok(Sealed {
            manifest: Arc::new(Manifest::inline(parts.concat().into())),
            generation: stamp,
            unsettled: None,
        })
    }

    async fn seal_objects(&self) -> Result<Sealed> {
        self.defragment().await?;
        let (mut snapshot, len, stamp, uploads, works) = {
            let mut state = self.state.lock();
            state.failed = None;
            let stamp = state.stamp;
            state.changes.sealed(stamp);
            let works = self.start_uploads(&mut state, 0, u64::MAX);
            let Some(map) = &state.map else {
                return Ok(Sealed {
                    manifest: state.base.clone(),
                    generation: state.stamp,
                    unsettled: None,
                });
            };
            let uploads = state.uploads.clone();
            (map.clone(), state.len, state.stamp, uploads, works)
        };
        if let Ok([work]) = <[Work; 1]>::try_from(works) {
            // No other task has to be woken, and none has to wake this one.
            work.await;
        }
        let mut failed = None;
        for upload in &uploads {
            match upload.done().await {
                Ok(object) => snapshot.adopt(&object, &upload.stored, upload.stamp),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            // Told here; not again by the next write.
            self.state.lock().failed = None;
            return Err(error);
        }
        self.sealed(&snapshot, len, stamp, None)
    }

    /// What a map says that is stored as a whole; its objects stay until the commit is known.
    fn sealed(
        &self,
        map: &PieceMap,
        len: u64,
        stamp: u64,
        unsettled: Option<Arc<dyn Unsettled>>,
    ) -> Result<Sealed> {
        let manifest = map.manifest(len).ok_or_else(still_in_memory)?;
        let mut state = self.state.lock();
        for object in &manifest.objects {
            state.made.remove(&object.id);
            state.sealed.insert(object.id, stamp);
        }
        Ok(Sealed {
            manifest: Arc::new(manifest),
            generation: stamp,
            unsettled,
        })
    }

    /// Puts bytes that fit into the map and stores what they make full.
    fn place(&self, state: &mut State, offset: u64, data: Bytes) {
        let end = offset + data.len() as u64;
        state.stamp += 1;
        let stamp = state.stamp;
        state.map_mut().write(offset, data, stamp);
        state.changes.write(stamp, offset, end);
        state.len = state.len.max(end);
        for chunk in offset / CHUNK..end.div_ceil(CHUNK) {
            let (start, end) = (chunk * CHUNK, (chunk + 1) * CHUNK);
            // A chunk that is on its way already waits with its later changes for the next seal.
            if state.map_mut().chunk_is_full(chunk)
                && !state.uploads.iter().any(|u| u.touches(start, end))
            {
                self.start_uploads(state, start, end);
            }
        }
    }

    /// Deletes objects that nobody has been told of.
    fn discard(&self, objects: Vec<ObjectId>) {
        if objects.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        self.shared.runtime.spawn(async move {
            if let Err(error) = shared.objects.delete(&objects).await {
                tracing::debug!(%error, "unused objects stay until gc");
            }
        });
    }
}

/// Where `data` ends at `offset`, if a document may be so long.
fn end_of(offset: u64, data: &Bytes) -> Result<u64> {
    offset
        .checked_add(data.len() as u64)
        .filter(|end| *end <= DOCUMENT_BYTES_MAX)
        .ok_or(RepoError::TooLarge)
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.live.lock().remove(&self.key);
        let state = self.state.get_mut();
        self.shared.settle(&mut state.unsettled);
        let made = std::mem::take(&mut state.made);
        self.discard(made.into_iter().collect());
    }
}

#[async_trait]
impl WorkingContent for Core {
    fn len(&self) -> u64 {
        self.state.lock().len
    }

    fn is_dirty(&self) -> bool {
        let state = self.state.lock();
        state.stamp > state.committed
    }

    fn buffered(&self) -> u64 {
        self.state.lock().memory()
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        end_of(offset, &data)?;
        if data.is_empty() {
            return Ok(());
        }
        self.make_room(data.len() as u64).await?;
        self.place(&mut self.state.lock(), offset, data);
        Ok(())
    }

    async fn append(&self, data: Bytes) -> Result<u64> {
        self.make_room(data.len() as u64).await?;
        let mut state = self.state.lock();
        let offset = state.len;
        end_of(offset, &data)?;
        if !data.is_empty() {
            self.place(&mut state, offset, data);
        }
        Ok(offset)
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Vec<Bytes>> {
        let views = {
            let state = self.state.lock();
            let end = offset.saturating_add(len.into()).min(state.len);
            if offset >= end {
                return Ok(Vec::new());
            }
            state.view(offset, end)
        };
        fetch(&self.shared, views).await
    }

    async fn set_len(&self, len: u64) -> Result<()> {
        if len > DOCUMENT_BYTES_MAX {
            return Err(RepoError::TooLarge);
        }
        let mut state = self.state.lock();
        if state.len == len {
            return Ok(());
        }
        state.stamp += 1;
        let (stamp, old) = (state.stamp, state.len);
        state.map_mut().clear(len, old);
        state.changes.set_len(stamp, old, len);
        state.len = len;
        Ok(())
    }

    async fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        let end = offset.saturating_add(len).min(state.len);
        if offset < end {
            state.stamp += 1;
            let stamp = state.stamp;
            state.map_mut().clear(offset, end);
            state.changes.punch(stamp, offset, end);
        }
        Ok(())
    }

    fn allocated_ranges(&self, offset: u64, len: u64) -> Vec<(u64, u64)> {
        let state = self.state.lock();
        let end = offset.saturating_add(len).min(state.len);
        match &state.map {
            Some(map) => map.data_ranges(offset, end),
            None => PieceMap::of(&state.base, 0).data_ranges(offset, end),
        }
    }

    async fn seal(&self) -> Result<Sealed> {
        self.seal_as(false).await
    }

    async fn seal_for_commit(&self) -> Result<Sealed> {
        self.seal_as(true).await
    }

    fn committed(&self, sealed: &Sealed) {
        let mut state = self.state.lock();
        state.committed = state.committed.max(sealed.generation);
        self.shared.settle(&mut state.unsettled);
        state.changes.committed(sealed.generation);
        state.base = sealed.manifest.clone();
        state.sealed.retain(|_, stamp| *stamp > sealed.generation);
        if state.stamp == sealed.generation {
            state.map = None;
            if state.uploads.is_empty() {
                let made = std::mem::take(&mut state.made);
                drop(state);
                self.discard(made.into_iter().collect());
            }
        }
    }

    fn rebase(&self, base: Arc<Manifest>) {
        let mut state = self.state.lock();
        if state.stamp == state.committed {
            drop(state);
            return self.reset(base);
        }
        // Newer than every upload under way: none of them holds bytes of the new base.
        state.stamp += 1;
        let stamp = state.stamp;
        let ours = state.map.take().unwrap_or_default();
        let (map, len) = state.changes.on_top_of(&base, &ours, stamp);
        state.map = Some(map);
        state.len = len;
        state.base = base;
    }

    fn reset(&self, base: Arc<Manifest>) {
        let mut state = self.state.lock();
        state.stamp += 1;
        state.committed = state.stamp;
        state.changes.clear();
        state.map = None;
        state.failed = None;
        state.len = base.size;
        state.base = base;
        if state.uploads.is_empty() {
            let made = std::mem::take(&mut state.made);
            drop(state);
            self.discard(made.into_iter().collect());
        }
    }
}
