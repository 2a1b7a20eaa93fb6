//! Working contents: the one in-memory state of each content (main or stream) that readers and writers of all protocols
//! share, and the only road from there to a commit. Never decides who may write: whoever comes here has passed the lock table.
//!
//! A content is committed by one flush at a time; a flush that waited finds its writes committed already and returns. The commit
//! itself runs in a task of its own, so that a caller who goes away can't leave the base version behind the repository's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluice_repo::{
    AttributeChange, Attributes, Commit, ContentId, FencingToken, Head, Manifest, NodeId, OpId,
    Origin, RepoError, Sealed, Timestamp, Version, VersionPolicy, WorkingContent, WriteSession,
};
use tokio::sync::OnceCell;

use crate::error::VfsError;
use crate::identity::Caller;
use crate::lock_bridge::main;
use crate::metrics::Metrics;
use crate::share::Share;
use crate::vfs::{Inner, now, random_u128};

const SHARDS: usize = 64;
const IDLE_PER_SHARD: usize = 128;
const COMMIT_TRIES: u32 = 4;

/// Who writes, for the history: one for each open, transfer or writer's place.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) session: WriteSession,
    pub(crate) origin: Origin,
    pub(crate) versions: Option<VersionPolicy>,
    /// A client without opens: its session ends when it has been idle.
    pub(crate) momentary: bool,
}

impl Writer {
    pub(crate) fn new(caller: &Caller, share: &Share) -> Writer {
        Writer {
            session: WriteSession(random_u128()),
            origin: origin(caller),
            versions: share.versions,
            momentary: false,
        }
    }
}

/// The caller as the history names him.
pub(crate) fn origin(caller: &Caller) -> Origin {
    Origin {
        author: Arc::from(caller.identity.name.as_str()),
        protocol: Arc::from(caller.client.protocol.name()),
    }
}

/// One content with opens, places or uncommitted changes.
pub(crate) struct Working {
    pub(crate) id: ContentId,
    content: OnceCell<Arc<dyn WorkingContent>>,
    /// What the next commit says. Taken for moments only, after no other lock.
    state: Mutex<State>,
    /// Held by the flush or upload that commits.
    turn: tokio::sync::Mutex<()>,
    /// Held while an append finds its offset and writes.
    pub(crate) appending: tokio::sync::Mutex<()>,
    queued: AtomicBool,
    dead: AtomicBool,
    /// A replacement of the whole content may have been carried out unheard: look before the next use.
    doubtful: AtomicBool,
}

struct State {
    base: Version,
    manifest: Arc<Manifest>,
    /// Content time of uncommitted writes, `None` if there are none (or they leave times alone).
    modified: Option<Timestamp>,
    /// When the last uncommitted write was made.
    changed: Option<Timestamp>,
    /// What a commit was to make current of which it is not known whether it was carried out.
    unsure: Option<Arc<Manifest>>,
    /// Content and change time of the last commit made here.
    committed: Option<(Timestamp, Timestamp)>,
    writer: Option<Writer>,
    /// The writer's session as the history knows it.
    session: WriteSession,
    last_write: Instant,
}

impl Working {
    fn new(id: ContentId) -> Working {
        Working {
            id,
            content: OnceCell::new(),
            state: Mutex::new(State {
                base: Version(0),
                manifest: Arc::new(Manifest::default()),
                modified: None,
                changed: None,
                unsure: None,
                committed: None,
                writer: None,
                session: WriteSession(0),
                last_write: Instant::now(),
            }),
            turn: tokio::sync::Mutex::new(()),
            appending: tokio::sync::Mutex::new(()),
            queued: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
        }
    }

    /// The bytes. Present in every value that [`Inner::load`] returned.
    pub(crate) fn content(&self) -> Result<&Arc<dyn WorkingContent>, VfsError> {
        self.content.get().ok_or(VfsError::Io)
    }

    /// Version and place of the last committed state.
    pub(crate) fn base(&self) -> (Version, Arc<Manifest>) {
        let state = self.state.lock();
        (state.base, state.manifest.clone())
    }

    /// Whether a flush has anything to do.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dead.load(Ordering::Acquire) && self.content.get().is_some_and(|c| c.is_dirty())
    }

    /// The node is gone: nothing is committed any more; those who still have it open read on.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// Content time that a later commit will carry (utimes while writes are not committed).
    pub(crate) fn set_modified(&self, modified: Timestamp) {
        let mut state = self.state.lock();
        if state.modified.is_some() {
            state.modified = Some(modified);
        }
        if let Some(committed) = &mut state.committed {
            committed.0 = modified;
        }
    }
}

struct Shard {
    map: HashMap<ContentId, Arc<Working>>,
    limit: usize,
}

/// All working contents of this node, and which of them wait for a commit.
pub(crate) struct WorkingTable {
    /// Each protects its part of the map; held for a look-up or an insertion.
    shards: Vec<Mutex<Shard>>,
    /// Contents with uncommitted writes.
    dirty: Mutex<HashMap<ContentId, Arc<Working>>>,
    loaded: AtomicU64,
}

impl Default for WorkingTable {
    fn default() -> Self {
        WorkingTable {
            shards: (0..SHARDS)
                .map(|_| {
                    Mutex::new(Shard {
                        map: HashMap::new(),
                        limit: IDLE_PER_SHARD,
                    })
                })
                .collect(),
            dirty: Mutex::new(HashMap::new()),
            loaded: AtomicU64::new(0),
        }
    }
}

impl WorkingTable {
    fn shard(&self, id: ContentId) -> Option<&Mutex<Shard>> {
        let hash = (id.node.0 ^ u64::from(id.stream).rotate_left(32))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            >> 58;
        self.shards.get(usize::try_from(hash).ok()? % SHARDS)
    }

    /// The working content, if there is one now.
    pub(crate) fn peek(&self, id: ContentId) -> Option<Arc<Working>> {
        self.shard(id)?.lock().map.get(&id).cloned()
    }

    fn slot(&self, id: ContentId) -> Result<Arc<Working>, VfsError> {
        let mut shard = self.shard(id).ok_or(VfsError::Io)?.lock();
        if let Some(found) = shard.map.get(&id) {
            return Ok(found.clone());
        }
        if shard.map.len() >= shard.limit {
            // An entry that only the table knows and that has nothing to commit can be loaded again.
            shard
                .map
                .retain(|_, w| Arc::strong_count(w) > 1 || w.is_dirty());
            shard.limit = IDLE_PER_SHARD.max(shard.map.len() * 2);
        }
        let made = Arc::new(Working::new(id));
        shard.map.insert(id, made.clone());
        self.loaded.fetch_add(1, Ordering::Relaxed);
        Ok(made)
    }

    /// The node was deleted: its contents are forgotten.
    pub(crate) fn forget(&self, id: ContentId) {
        if let Some(shard) = self.shard(id)
            && let Some(working) = shard.lock().map.remove(&id)
        {
            working.kill();
        }
        self.dirty.lock().remove(&id);
    }

    /// Contents whose last write is older than `idle`.
    fn due(&self, idle: Duration) -> Vec<Arc<Working>> {
        let due = |w: &&Arc<Working>| w.state.lock().last_write.elapsed() >= idle;
        self.dirty.lock().values().filter(due).cloned().collect()
    }
}

impl Inner {
    /// The shared working content, loaded from the repository if nobody has it.
    pub(crate) async fn load(&self, id: ContentId) -> Result<Arc<Working>, VfsError> {
        let working = self.working.slot(id)?;
        working
            .content
            .get_or_try_init(|| async {
                let head: Head = self.repo.head(id).await?;
                let content = self.store.working(head.manifest.clone());
                let mut state = working.state.lock();
                state.base = head.version;
                state.manifest = head.manifest;
                Ok::<_, RepoError>(content)
            })
            .await?;
        if working.doubtful.load(Ordering::Acquire) {
            let _turn = working.turn.lock().await;
            self.settle_doubt(&working).await?;
        }
        Ok(working)
    }

    /// With the turn held: takes over what the repository has if a replacement was carried out unheard.
    async fn settle_doubt(&self, working: &Working) -> Result<(), VfsError> {
        if !working.doubtful.load(Ordering::Acquire) {
            return Ok(());
        }
        let head = self.repo.head(working.id).await?;
        let mut state = working.state.lock();
        if head.version != state.base {
            state.base = head.version;
            state.manifest = head.manifest.clone();
            if let Some(content) = working.content.get() {
                content.reset(head.manifest);
            }
        }
        working.doubtful.store(false, Ordering::Release);
        Ok(())
    }

    /// Puts what is not committed yet into attributes that the repository gave.
    pub(crate) fn overlay(&self, attributes: &mut Attributes) {
        if attributes.kind != sluice_repo::NodeKind::File {
            return;
        }
        let Some(working) = self.working.peek(main(attributes.id)) else {
            return;
        };
        let Some(content) = working.content.get() else {
            return;
        };
        let state = working.state.lock();
        let len = content.len();
        if attributes.size != len {
            attributes.size = len;
            attributes.allocated = len.next_multiple_of(4096);
        }
        if let Some(modified) = state.modified {
            attributes.modified = modified;
            attributes.changed = attributes.changed.max(state.changed.unwrap_or(modified));
        } else if attributes.version < state.base
            && let Some((modified, changed)) = state.committed
        {
            attributes.modified = modified;
            attributes.changed = attributes.changed.max(changed);
            attributes.version = state.base;
        }
    }

    /// Notes that bytes changed: what the next commit says, and that there is one to make.
    pub(crate) fn note_write(&self, working: &Arc<Working>, writer: &Writer, move_times: bool) {
        {
            let mut state = working.state.lock();
            let idle = state.last_write.elapsed() > self.options.place_idle;
            state.last_write = Instant::now();
            let now = now();
            state.changed = Some(now);
            if move_times {
                state.modified = Some(now);
            }
            let same = |w: &Writer| w.session == writer.session;
            if !state.writer.as_ref().is_some_and(same) {
                state.writer = Some(writer.clone());
                state.session = writer.session;
            } else if writer.momentary && idle {
                state.session = WriteSession(random_u128());
            }
        }
        if !working.queued.swap(true, Ordering::AcqRel) {
            self.working
                .dirty
                .lock()
                .insert(working.id, working.clone());
        }
    }

    /// Makes all that was written so far durable and committed.
    pub(crate) async fn flush(self: &Arc<Self>, working: &Arc<Working>) -> Result<(), VfsError> {
        if !working.is_dirty() {
            return Ok(());
        }
        let (inner, working) = (self.clone(), working.clone());
        let task = self.runtime.spawn(async move {
            let _turn = working.turn.lock().await;
            inner.commit_working(&working).await
        });
        task.await.unwrap_or(Err(VfsError::Io))
    }

    /// With the turn held: seals and commits. The turn keeps `base` equal to the repository's version.
    async fn commit_working(&self, working: &Arc<Working>) -> Result<(), VfsError> {
        // Before looking whether there is something: a write that comes later queues itself again.
        working.queued.store(false, Ordering::Release);
        let result = self.commit_dirty(working).await;
        if result.is_err() {
            // Tried again in the background, but not at once.
            working.state.lock().last_write = Instant::now();
        }
        if working.is_dirty() {
            if !working.queued.swap(true, Ordering::AcqRel) {
                self.working
                    .dirty
                    .lock()
                    .insert(working.id, working.clone());
            }
        } else if !working.queued.load(Ordering::Acquire) {
            self.working.dirty.lock().remove(&working.id);
            if working.queued.load(Ordering::Acquire) {
                self.working
                    .dirty
                    .lock()
                    .insert(working.id, working.clone());
            }
        }
        result
    }

    async fn commit_dirty(&self, working: &Working) -> Result<(), VfsError> {
        if !working.is_dirty() {
            return Ok(());
        }
        let content = working.content()?;
        let sealed = content.seal().await.inspect_err(|error| {
            Metrics::count(&self.metrics.commit_failures);
            tracing::error!(node = working.id.node.0, %error, "content could not be made durable");
        })?;
        let (commit, modified) = self.next_commit(working, &sealed).await?;
        let mut answer = self.commit_one(commit.clone()).await;
        if matches!(answer, Err(RepoError::Conflict(_))) && self.found_own_commit(working).await? {
            let base = working.base().0;
            answer = self.commit_one(Commit { base, ..commit }).await;
        }
        let committed = match answer {
            Err(RepoError::Stale(_) | RepoError::NotFound) => {
                // Deleted meanwhile: there is nothing left that the bytes could belong to.
                working.kill();
                return Ok(());
            }
            other => other.inspect_err(|error| {
                Metrics::count(&self.metrics.commit_failures);
                tracing::error!(node = working.id.node.0, %error, "commit failed");
                if matches!(error, RepoError::Unavailable(_)) {
                    working.state.lock().unsure = Some(sealed.manifest.clone());
                }
            })?,
        };
        Metrics::count(&self.metrics.commits);
        let mut state = working.state.lock();
        state.base = committed.version;
        state.manifest = sealed.manifest.clone();
        state.unsure = None;
        state.committed = Some((committed.attributes.modified, committed.attributes.changed));
        content.committed(&sealed);
        if state.modified == modified {
            state.modified = None;
        }
        Ok(())
    }

    /// After a conflict: whether the newer version is what an earlier commit of this content made without an answer.
    async fn found_own_commit(&self, working: &Working) -> Result<bool, VfsError> {
        let Some(unsure) = working.state.lock().unsure.take() else {
            return Ok(false);
        };
        let head = self.repo.head(working.id).await?;
        let own = head.manifest == unsure;
        if own {
            let mut state = working.state.lock();
            state.base = head.version;
            state.manifest = head.manifest;
        }
        Ok(own)
    }

    async fn next_commit(
        &self,
        working: &Working,
        sealed: &Sealed,
    ) -> Result<(Commit, Option<Timestamp>), VfsError> {
        let (base, modified, changed, session, writer) = {
            let state = working.state.lock();
            let writer = state.writer.clone();
            (
                state.base,
                state.modified,
                state.changed,
                state.session,
                writer,
            )
        };
        // Writes that leave times alone (a frozen or sticky time) keep what is stored; the change time never goes back.
        let stored = self.repo.get(working.id.node).await?;
        let (origin, versions) = writer.map_or((Origin::default(), None), |writer| {
            (writer.origin, writer.versions)
        });
        let commit = Commit {
            content: working.id,
            base,
            fence: FencingToken::default(),
            op: OpId(random_u128()),
            session,
            manifest: sealed.manifest.clone(),
            change: AttributeChange {
                modified: Some(modified.unwrap_or(stored.modified)),
                changed: changed.map(|changed| changed.max(stored.changed)),
                ..AttributeChange::default()
            },
            origin,
            versions,
        };
        Ok((commit, modified))
    }

    /// One commit, asked again under its operation id while it is not known whether it was carried out.
    pub(crate) async fn commit_one(
        &self,
        commit: Commit,
    ) -> Result<sluice_repo::Committed, RepoError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = self.repo.commit(vec![commit.clone()]).await.pop();
            match answer {
                Some(Err(RepoError::Unavailable(_))) if tries < COMMIT_TRIES => {
                    tokio::time::sleep(Duration::from_millis(20 << tries)).await;
                }
                Some(result) => return result,
                None => return Err(RepoError::Unavailable("no answer to a commit".to_owned())),
            }
        }
    }

    /// Replaces the whole content by one that was sealed elsewhere (an upload), in one commit. Uncommitted writes are
    /// committed before, so that they are a version of their own and never part of the new one.
    pub(crate) async fn swap_content(
        self: &Arc<Self>,
        working: &Arc<Working>,
        sealed: Sealed,
        writer: Writer,
        modified: Option<Timestamp>,
        expected: Option<Version>,
    ) -> Result<Attributes, VfsError> {
        let (inner, working) = (self.clone(), working.clone());
        let task = self.runtime.spawn(async move {
            let _turn = working.turn.lock().await;
            inner.settle_doubt(&working).await?;
            inner.commit_working(&working).await?;
            let base = working.state.lock().base;
            if expected.is_some_and(|expected| expected != base) {
                return Err(VfsError::NotSame);
            }
            let commit = Commit {
                content: working.id,
                base,
                fence: FencingToken::default(),
                op: OpId(random_u128()),
                session: writer.session,
                manifest: sealed.manifest.clone(),
                change: AttributeChange {
                    modified,
                    ..AttributeChange::default()
                },
                origin: writer.origin,
                versions: writer.versions,
            };
            let committed = inner.commit_one(commit).await.inspect_err(|error| {
                if matches!(error, RepoError::Unavailable(_)) {
                    working.doubtful.store(true, Ordering::Release);
                }
            })?;
            Metrics::count(&inner.metrics.commits);
            let mut state = working.state.lock();
            state.base = committed.version;
            state.manifest = sealed.manifest.clone();
            state.modified = None;
            state.committed = Some((committed.attributes.modified, committed.attributes.changed));
            if let Some(content) = working.content.get() {
                content.reset(sealed.manifest);
            }
            Ok(committed.attributes)
        });
        task.await.unwrap_or(Err(VfsError::Io))
    }

    /// Makes a kept version the present content again. Uncommitted writes are committed before, so that they are a version of their own.
    pub(crate) async fn restore_content(
        self: &Arc<Self>,
        working: &Arc<Working>,
        version: Version,
        origin: Origin,
    ) -> Result<sluice_repo::Committed, VfsError> {
        let (inner, working) = (self.clone(), working.clone());
        let task = self.runtime.spawn(async move {
            let _turn = working.turn.lock().await;
            inner.commit_working(&working).await?;
            let base = working.state.lock().base;
            let node = working.id.node;
            let fence = FencingToken::default();
            let manifest = inner.repo.version(node, version).await?;
            let restored = inner
                .repo
                .restore(node, version, base, fence, origin)
                .await?;
            let mut state = working.state.lock();
            state.base = restored.version;
            state.manifest = manifest.clone();
            state.modified = None;
            state.committed = Some((restored.attributes.modified, restored.attributes.changed));
            if let Some(content) = working.content.get() {
                content.reset(manifest);
            }
            Ok(restored)
        });
        task.await.unwrap_or(Err(VfsError::Io))
    }

    /// Commits what has been idle for a while, until the gateway stops.
    pub(crate) async fn commit_idle_contents(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.flush_due(self.options.idle_commit).await;
        }
    }

    /// Commits contents that were not written to for `idle`. Returns whether all went well.
    pub(crate) async fn flush_due(self: &Arc<Self>, idle: Duration) -> bool {
        let flushes = self.working.due(idle).into_iter().map(|working| {
            let inner = self.clone();
            self.runtime.spawn(async move {
                let _turn = working.turn.lock().await;
                inner.commit_working(&working).await
            })
        });
        let mut well = true;
        for flush in flushes.collect::<Vec<_>>() {
            well &= matches!(flush.await, Ok(Ok(())));
        }
        well
    }

    /// A node is gone for good.
    pub(crate) fn forget_node(&self, node: NodeId) {
        self.working.forget(main(node));
    }
}
