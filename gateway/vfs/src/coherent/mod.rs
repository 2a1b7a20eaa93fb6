//! Metadata of a shared repository, cached on every node and never older than the last acknowledged change of any node (I5).
//!
//! [`CoherentRepository`] stands before the repository. A change first has every other node say that it uses nothing cached of the
//! units concerned (`holds.rs`), then goes to the repository, then is answered; the others read these units from the repository
//! until they are released. What is read before or during a change does not count after it (`stripes.rs`). A node reads its cache
//! only while it is sure of its lease and every other member has just answered it, and only after all have said that they know about it:
//! so a node that is cut off, stopped or new is waited for until its term has ended, and reads nothing old (docs/decisions/0006).
//!
//! Must never decide what a change does or who may make it; must never keep a value for longer than its ticket counts.

mod change;
mod heard;
mod holds;
mod keep;
mod note;
mod repository;
mod store;
mod stripes;
#[cfg(test)]
mod tests;
mod unit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_lockmgr::{LockService, Member, Note};
use sluice_repo::{Attributes, NodeId, RepoError, Repository};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use heard::Heard;
use holds::{Grip, Holds, Wanted};
use keep::Kept;
use note::MetaNote;
pub(crate) use repository::CoherentRepository;
use stripes::Stripes;
use unit::Unit;

/// Pause between two looks for held units that nobody changes any more.
const LOOK: Duration = Duration::from_millis(250);

/// How long a unit stays held after the last change: as long as changes come faster than that, they cost no message.
const IDLE: Duration = Duration::from_secs(1);

/// The way to the other nodes, as far as the cache needs it.
#[async_trait]
pub(crate) trait Others: Send + Sync {
    /// See [`LockService::may_read_copies`].
    fn may_read_copies(&self) -> bool;
    /// See [`LockService::announce`].
    fn announce(&self, note: Note);
    /// See [`LockService::announce_to_readers`].
    async fn announce_to_readers(&self, note: Note);
    /// See [`LockService::announce_all`].
    async fn announce_all(&self, note: Note);
}

/// Through the lock service's links.
pub(crate) struct ByLocks(pub(crate) Arc<dyn LockService>);

#[async_trait]
impl Others for ByLocks {
    fn may_read_copies(&self) -> bool {
        self.0.may_read_copies()
    }

    fn announce(&self, note: Note) {
        self.0.announce(note);
    }

    async fn announce_to_readers(&self, note: Note) {
        self.0.announce_to_readers(note).await;
    }

    async fn announce_all(&self, note: Note) {
        self.0.announce_all(note).await;
    }
}

/// What the cache of metadata did since the start; all zero without a cluster.
#[derive(Debug, Default)]
pub struct MetadataCounts {
    /// Reads that it answered.
    pub hits: AtomicU64,
    /// Reads that the repository answered.
    pub misses: AtomicU64,
    /// Changes for which the other nodes had to be asked first.
    pub asked: AtomicU64,
    /// Changes for which nobody had to be asked.
    pub unasked: AtomicU64,
}

/// See the module's head.
pub(crate) struct Coherent {
    repo: Arc<dyn Repository>,
    others: Arc<dyn Others>,
    stripes: Stripes,
    kept: Kept,
    holds: Arc<Holds>,
    heard: Mutex<Heard>,
    /// The other live nodes are known.
    told: watch::Sender<bool>,
    stopping: CancellationToken,
    runtime: tokio::runtime::Handle,
    counts: Arc<MetadataCounts>,
    /// Changes are made without asking the others first. Only for tests, which have to fail then.
    reckless: AtomicBool,
}

/// A document that may have uncommitted writes here: other nodes ask before they show its attributes. Ends with the last clone.
#[derive(Clone)]
pub(crate) struct Pin(#[allow(dead_code, reason = "held for its end")] Arc<Pinned>);

struct Pinned {
    core: Arc<Coherent>,
    grip: Option<Grip>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(grip) = self.grip.take() {
            self.core.holds.done(grip);
        }
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin")
    }
}

impl Coherent {
    /// Before `repo`. To be told of members and notes; ends with `stopping`.
    pub(crate) fn new(
        repo: Arc<dyn Repository>,
        others: Arc<dyn Others>,
        stopping: CancellationToken,
        counts: Arc<MetadataCounts>,
    ) -> Arc<Coherent> {
        let core = Arc::new(Coherent {
            repo,
            holds: Arc::new(Holds::new(Arc::clone(&others), stopping.clone())),
            others,
            stripes: Stripes::new(),
            kept: Kept::default(),
            heard: Mutex::default(),
            told: watch::Sender::new(false),
            stopping,
            runtime: tokio::runtime::Handle::current(),
            counts,
            reckless: AtomicBool::new(false),
        });
        let (holds, stop) = (Arc::clone(&core.holds), core.stopping.clone());
        core.runtime.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK) => holds.give_up_idle(IDLE),
                }
            }
        });
        core
    }

    /// The other live nodes; the first time all that were live when this node began.
    pub(crate) fn members(self: &Arc<Self>, others: &[Member]) {
        {
            let mut heard = self.heard.lock();
            let (gone, new) = heard.members(others);
            // Before the first change: a node that was there before knows nothing of this one yet, and caches all the same.
            self.holds.came(others);
            for member in gone {
                heard.gone(member, &self.stripes);
                self.holds.gone(member);
            }
            if !new && *self.told.borrow() {
                return;
            }
            heard.close(&self.stripes);
        }
        self.told.send_replace(true);
        if others.is_empty() {
            return self.heard.lock().open(&self.stripes);
        }
        let core = Arc::clone(self);
        self.runtime.spawn(async move {
            core.others.announce_all(MetaNote::Hello.into()).await;
            core.heard.lock().open(&core.stripes);
        });
    }

    /// Another node's note; what it says holds when this returns.
    pub(crate) fn noted(&self, from: Member, bytes: &[u8]) {
        let stripes = &self.stripes;
        match postcard::from_bytes(bytes) {
            Ok(MetaNote::Hello) => self.holds.hello(from),
            Ok(MetaNote::Hold(units)) => self.heard.lock().hold(from, units, stripes),
            Ok(MetaNote::Release(units)) => self.heard.lock().release(from, &units, stripes),
            Ok(MetaNote::HoldAll) => self.heard.lock().hold_all(from, stripes),
            Ok(MetaNote::ReleaseAll) => self.heard.lock().release_all(from, stripes),
            Err(error) => {
                // Whatever it said is about to change something.
                self.heard.lock().hold_all(from, stripes);
                tracing::error!(%from, %error, "a note about metadata can't be read: nothing is cached while that node is a member; do the nodes run the same version?");
            }
        }
    }

    /// The attributes of a node as they are now, if it is certain without asking that no other node has acknowledged changes, of
    /// its contents too, that are not in the repository.
    pub(crate) fn settled(&self, node: NodeId) -> Option<Arc<Attributes>> {
        // Whoever has such changes holds the node, and then nothing cached of it counts.
        self.others
            .may_read_copies()
            .then(|| self.cached_node(node))
            .flatten()
    }

    /// The same, and that none is pinned here either.
    pub(crate) fn is_untouched(&self, node: NodeId) -> bool {
        // The others' first: a document that is pinned here in between was not before.
        self.settled(node).is_some() && !self.holds.is_used(Unit::node(node))
    }

    /// From when this returns until the pin is dropped, other nodes know that the document may have uncommitted writes here.
    pub(crate) async fn pin(self: &Arc<Self>, node: NodeId) -> Result<Pin, RepoError> {
        let grip = match self.is_reckless() {
            true => None,
            false => {
                let wanted = Wanted {
                    unit: Unit::node(node),
                    name_of: None,
                };
                self.known().await?;
                let grip = self.holds.hold(&[wanted]).await;
                Some(grip.ok_or_else(stopping)?)
            }
        };
        Ok(Pin(Arc::new(Pinned {
            core: Arc::clone(self),
            grip,
        })))
    }

    /// Waits until the other live nodes are known.
    async fn known(&self) -> Result<(), RepoError> {
        if *self.told.borrow() {
            return Ok(());
        }
        let mut told = self.told.subscribe();
        tokio::select! {
            _ = told.wait_for(|told| *told) => Ok(()),
            () = self.stopping.cancelled() => Err(stopping()),
        }
    }

    fn is_reckless(&self) -> bool {
        self.reckless.load(Ordering::Relaxed)
    }
}

/// No change was made.
fn stopping() -> RepoError {
    RepoError::Unavailable("this node is stopping; connect again".to_owned())
}
