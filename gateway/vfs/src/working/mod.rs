//! Working contents: the one in-memory state of each content (main or stream) that readers and writers of all protocols
//! share, and the only road from there to a commit. Never decides who may write: whoever comes here has passed the lock table.
//!
//! In a cluster a content is in one of two states here, and every call asks which, because it may change at any moment:
//!
//! - **Alone** ([`sluice_lockmgr::LockService::residence`] gives the term that the working content was loaded under): what is in memory
//!   is the truth. Changes are made in memory and committed later, reads cost nothing, as on a single node.
//! - **Shared** (no residence): the repository is the truth. A change is a transaction on the repository's head, answered once it is
//!   committed (`shared.rs`); a read compares the head first (`present.rs`).
//!
//! The races between them, and what closes each:
//!
//! - *A change is being made in memory while the document is given up.* Changes in memory are made inside the content's door, after
//!   a look at the residence; giving up takes the door for itself before it commits, so it waits for them and none comes after.
//! - *The node lost its right without knowing (a stopped process).* The residence is looked at again after the change, before it
//!   is answered, and after each read.
//! - *Another node shows attributes that it has cached.* Before the first change in memory it is told that there may be some (the
//!   content's pin, `coherent/`), and asks this node as long as they are not committed.
//! - *The commit at giving up fails.* The bytes stay, are tried again in the background, and go on top of whatever others committed
//!   meanwhile ([`sluice_repo::WorkingContent::rebase`]): neither side's bytes are dropped.
//! - *The document is taken away by force.* What is uncommitted is void (`Inner::lose_uncommitted`): the fence refuses what is on its
//!   way, and a token of after the loss is not used for what was written before it.
//! - *Two nodes change a shared document at once.* The repository takes one commit for each base version. Who loses makes the
//!   same change again on the new head: an append finds its offset anew, a write its own range. Who has lost once takes turns with
//!   other nodes through the lock table, so that nobody loses for ever.
//! - *A change without an open is committed after the document became another node's alone.* The lock table is passed once more after
//!   the commit (`Inner::expose`), which makes that node look again, before the change is answered.
//!
//! Order of locks: door, turn, then `state` for moments. A content is committed by one flush at a time; a flush that waited finds its
//! writes committed already and returns. The commit itself runs in a task of its own, so that a caller who goes away can't leave the
//! base version behind the repository's.

mod change;
mod commit;
mod present;
mod replace;
mod shared;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluice_repo::{
    Commit, ContentId, Manifest, NodeId, Origin, RepoError, Sealed, Timestamp, Version,
    VersionPolicy, WorkingContent, WriteSession,
};
use tokio::sync::OnceCell;

use crate::coherent::Pin;
use crate::error::VfsError;
use crate::identity::Caller;
use crate::quota::{Account, Charge};
use crate::share::Share;
use crate::vfs::{Inner, random_u128};

pub(crate) use change::{Change, Changed};

const SHARDS: usize = 64;
const IDLE_PER_SHARD: usize = 128;
/// What was committed no longer ago than this may be missing in what another node has just read from the repository.
const LATELY: Duration = Duration::from_secs(10);
/// No term: what is in memory must be compared with the repository before it is used.
const NO_TERM: u64 = u64::MAX;

/// Who writes, for the history: one for each open, transfer or writer's place.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) session: WriteSession,
    pub(crate) origin: Origin,
    pub(crate) versions: Option<VersionPolicy>,
    /// Where growth is charged, if the share has a quota.
    pub(crate) account: Option<Arc<Account>>,
    /// A client without opens: its session ends when it has been idle.
    pub(crate) momentary: bool,
}

impl Writer {
    pub(crate) fn new(inner: &Inner, caller: &Caller, share: &Share) -> Writer {
        Writer {
            session: WriteSession(random_u128()),
            origin: origin(caller),
            versions: share.versions,
            account: inner.account(share),
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
    /// The term since which the bytes in memory are the truth.
    term: AtomicU64,
    /// Held by each change in memory; taken as a whole by whoever ends or begins a term.
    door: tokio::sync::RwLock<()>,
    /// Changes that wait for the next transaction. Taken for moments only.
    waiting: Mutex<Vec<shared::Waiting>>,
    /// What the next commit says. Taken for moments only, after no other lock.
    state: Mutex<State>,
    /// Held by the flush or upload that commits.
    turn: tokio::sync::Mutex<()>,
    queued: AtomicBool,
    dead: AtomicBool,
    /// The right under which it was written was taken away: whoever still has it gets an error.
    void: AtomicBool,
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
    /// A commit of which it is not known whether it was carried out.
    unsure: Option<(Commit, Sealed)>,
    /// Content and change time of the last commit made here.
    committed: Option<(Timestamp, Timestamp)>,
    writer: Option<Writer>,
    /// The writer's session as the history knows it.
    session: WriteSession,
    last_write: Instant,
    /// When the last commit was made here.
    committed_at: Option<Instant>,
    /// When another node was last faster with a commit.
    contended: Option<Instant>,
    /// Growth that is not committed yet, in a share with a quota.
    charge: Option<Charge>,
    /// As long as something is uncommitted: other nodes know that there may be.
    pin: Option<Pin>,
}

impl Working {
    fn new(id: ContentId) -> Working {
        Working {
            id,
            content: OnceCell::new(),
            term: AtomicU64::new(NO_TERM),
            door: tokio::sync::RwLock::new(()),
            waiting: Mutex::default(),
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
                committed_at: None,
                contended: None,
                charge: None,
                pin: None,
            }),
            turn: tokio::sync::Mutex::new(()),
            queued: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            void: AtomicBool::new(false),
            doubtful: AtomicBool::new(false),
        }
    }

    /// The bytes. Present in every value that [`Inner::load`] returned.
    fn content(&self) -> Result<&Arc<dyn WorkingContent>, VfsError> {
        self.content.get().ok_or(VfsError::Io)
    }

    /// The term since which the bytes in memory are the truth, if they are.
    fn term(&self) -> Option<u64> {
        let term = self.term.load(Ordering::Acquire);
        (term != NO_TERM).then_some(term)
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// An error if the right to change it was taken away.
    pub(crate) fn right(&self) -> Result<(), RepoError> {
        match self.void.load(Ordering::Acquire) {
            true => Err(RepoError::Fenced),
            false => Ok(()),
        }
    }

    /// Version and place of the last committed state.
    fn base(&self) -> (Version, Arc<Manifest>) {
        let state = self.state.lock();
        (state.base, state.manifest.clone())
    }

    /// Whether a flush has anything to do.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.is_dead() && self.content.get().is_some_and(|c| c.is_dirty())
    }

    /// Whether something is uncommitted, or is being changed right now.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_dirty() || (!self.is_dead() && self.door.try_write().is_err())
    }

    /// Whether something was committed here in the last seconds.
    fn committed_lately(&self) -> bool {
        let at = self.state.lock().committed_at;
        at.is_some_and(|at| at.elapsed() < LATELY)
    }

    /// The node is gone: nothing is committed any more; those who still have it open read on.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        let mut state = self.state.lock();
        state.charge = None;
        state.pin = None;
    }

    /// Nothing is uncommitted any more, unless a change came in between: it keeps its own pin.
    fn unpin(&self) {
        let mut state = self.state.lock();
        if !self.is_dirty() {
            state.pin = None;
        }
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

/// A document's contents are in one shard, next to each other.
struct Shard {
    map: BTreeMap<(NodeId, u32), Arc<Working>>,
    limit: usize,
}

/// All working contents of this node, and which of them wait for a commit.
pub(crate) struct WorkingTable {
    /// Each protects its part of the map; held for a look-up or an insertion.
    shards: Vec<Mutex<Shard>>,
    /// Contents with uncommitted writes.
    dirty: Mutex<HashMap<ContentId, Arc<Working>>>,
    loaded: AtomicU64,
    /// Contents that were deleted or became shorter so far.
    shrunk: AtomicU64,
}

impl Default for WorkingTable {
    fn default() -> Self {
        WorkingTable {
            shards: (0..SHARDS)
                .map(|_| {
                    Mutex::new(Shard {
                        map: BTreeMap::new(),
                        limit: IDLE_PER_SHARD,
                    })
                })
                .collect(),
            dirty: Mutex::new(HashMap::new()),
            loaded: AtomicU64::new(0),
            shrunk: AtomicU64::new(0),
        }
    }
}

impl WorkingTable {
    fn shard(&self, node: NodeId) -> Option<&Mutex<Shard>> {
        let hash = node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        self.shards.get(usize::try_from(hash).ok()? % SHARDS)
    }

    /// The working content, if there is one now.
    pub(crate) fn peek(&self, id: ContentId) -> Option<Arc<Working>> {
        let shard = self.shard(id.node)?.lock();
        shard.map.get(&(id.node, id.stream)).cloned()
    }

    /// The main content and the streams of a document, as far as they are here.
    pub(crate) fn of_node(&self, node: NodeId) -> Vec<Arc<Working>> {
        let Some(shard) = self.shard(node) else {
            return Vec::new();
        };
        let shard = shard.lock();
        let all = shard.map.range((node, 0)..=(node, u32::MAX));
        all.map(|(_, working)| working.clone()).collect()
    }

    fn slot(&self, id: ContentId) -> Result<Arc<Working>, VfsError> {
        let mut shard = self.shard(id.node).ok_or(VfsError::Io)?.lock();
        let key = (id.node, id.stream);
        if let Some(found) = shard.map.get(&key) {
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
        shard.map.insert(key, made.clone());
        self.loaded.fetch_add(1, Ordering::Relaxed);
        Ok(made)
    }

    /// The node was deleted: its contents are forgotten.
    pub(crate) fn forget(&self, id: ContentId) {
        if let Some(shard) = self.shard(id.node)
            && let Some(working) = shard.lock().map.remove(&(id.node, id.stream))
        {
            working.kill();
        }
        self.dirty.lock().remove(&id);
    }

    /// The right on a document was taken away: its contents are forgotten with what is uncommitted. `note` is called before if
    /// that is something; whoever writes or commits in between gets an error.
    pub(crate) fn void(&self, node: NodeId, note: impl FnOnce()) {
        let contents = self.of_node(node);
        for working in &contents {
            working.void.store(true, Ordering::Release);
        }
        // A change that was answered before is seen by now, a later one is not answered.
        if contents.iter().any(|working| working.is_busy()) {
            note();
        }
        for working in &contents {
            self.forget(working.id);
        }
    }

    /// Something that was in the repository takes less room there than before, or none.
    pub(crate) fn note_shrunk(&self) {
        self.shrunk.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes whenever something takes less room than before.
    pub(crate) fn shrunk(&self) -> u64 {
        self.shrunk.load(Ordering::Relaxed)
    }

    /// Contents whose last write is older than `idle`.
    fn due(&self, idle: Duration) -> Vec<Arc<Working>> {
        let due = |w: &&Arc<Working>| w.state.lock().last_write.elapsed() >= idle;
        self.dirty.lock().values().filter(due).cloned().collect()
    }
}
