//! Which documents the node's NFS clients may have locked, noted in the repository: their locks are gone with the node, and until
//! they have taken them again nobody else may act on these documents.
//!
//! A note is durable before the first lock on a document is granted; further locks there find it. Notes that nobody needs are
//! forgotten some time later, many at once: one too many costs at most some seconds of waiting after a crash. Who keeps the
//! documents: on one node [`Vfs::keep_left_locks`] at its start, in a cluster the coordinators (`sluice-lockmgr-cluster`), from the
//! loss on. Clients that know the lost node only by its own address can take nothing again before it is back, which may be long
//! after that: from its start on new NFS locks through it wait on what its former lives had noted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluice_repo::{NodeId, RepoError, Repository};
use tokio::time::Instant;

use crate::error::VfsError;
use crate::vfs::{Inner, Vfs};

/// Notes that are forgotten in one change.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// What is known of the notes about one document.
#[derive(Default)]
struct Noted {
    /// How many [`LockNote`]s there are.
    uses: usize,
    /// The repository surely has it. If not it may have it nevertheless.
    stored: bool,
}

type Known = Arc<Mutex<HashMap<NodeId, Noted>>>;

/// What clients of a node's former lives had may be taken again through it.
struct Awaited {
    /// Those that nobody else keeps for them, in a cluster.
    documents: HashSet<NodeId>,
    /// Until when, and for how long in all the node could not act when that was said.
    until: (Instant, Duration),
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct LockNotes {
    /// Never held across an await.
    known: Known,
    /// Shared by those who store a note, taken alone by whoever forgets some: a note is never forgotten after it was stored anew.
    turn: tokio::sync::RwLock<()>,
    awaited: Mutex<Option<Awaited>>,
}

/// The document of an NFS lock or reservation is noted. To be kept as long as its owner may have something locked there.
pub struct LockNote {
    known: Known,
    node: NodeId,
}

impl LockNote {
    /// The node stops, and the client is to take what it has elsewhere: the note is not forgotten any more in this life.
    pub fn end_with_node(self) {
        if let Some(noted) = self.known.lock().get_mut(&self.node) {
            noted.uses += 1;
        }
    }
}

impl Drop for LockNote {
    fn drop(&mut self) {
        let mut known = self.known.lock();
        if let Some(noted) = known.get_mut(&self.node) {
            // Whether it is stored or not: an attempt that failed may have been carried out.
            noted.uses -= 1;
        }
    }
}

impl LockNotes {
    /// Durable when it returns.
    pub(crate) async fn note(
        &self,
        repo: &dyn Repository,
        node: NodeId,
    ) -> Result<LockNote, RepoError> {
        let (note, stored) = self.used(node);
        if !stored {
            let _turn = self.turn.read().await;
            repo.note_locked(node).await?;
            if let Some(noted) = self.known.lock().get_mut(&node) {
                noted.stored = true;
            }
        }
        Ok(note)
    }

    fn used(&self, node: NodeId) -> (LockNote, bool) {
        let mut known = self.known.lock();
        let noted = known.entry(node).or_default();
        noted.uses += 1;
        let note = LockNote {
            known: Arc::clone(&self.known),
            node,
        };
        (note, noted.stored)
    }

    fn stored_before(&self, nodes: &[NodeId]) {
        let mut known = self.known.lock();
        for node in nodes {
            known.entry(*node).or_default().stored = true;
        }
    }

    /// They may be stored or not: stored anew before they are relied on, forgotten once more if nobody does.
    fn unsure(&self, nodes: &[NodeId]) {
        let mut known = self.known.lock();
        for node in nodes {
            known.entry(*node).or_default();
        }
    }

    async fn forget_unused(&self, repo: &dyn Repository) {
        let _turn = self.turn.write().await;
        let unused: Vec<NodeId> = {
            let mut known = self.known.lock();
            known
                .extract_if(|_, noted| noted.uses == 0)
                .map(|(node, _)| node)
                .collect()
        };
        for nodes in unused.chunks(FORGOTTEN_AT_ONCE) {
            if let Err(error) = repo.forget_locked(nodes.to_vec()).await {
                tracing::debug!(%error, "notes on NFS locks are forgotten later");
                self.unsure(nodes);
            }
        }
    }
}

impl Vfs {
    /// Has the documents kept that NFS clients had locked in the node's last run, until they have had the time to take their locks
    /// again. To be called before any head answers. In a cluster the membership sees to that from the moment of the loss on; here
    /// only new NFS locks and reservations through this node wait, however long it was gone.
    ///
    /// # Errors
    /// The repository can't be read.
    pub async fn keep_left_locks(&self) -> Result<(), VfsError> {
        let inner = &self.inner;
        let left = inner.repo.noted_locked().await?;
        if left.is_empty() {
            return Ok(());
        }
        let grace = inner.options.reclaim_grace;
        tracing::info!(
            documents = left.len(),
            seconds = grace.as_secs(),
            "documents that NFS clients had locked are kept for them: they may take their locks again"
        );
        let mut awaited = Awaited {
            documents: HashSet::new(),
            until: (Instant::now() + grace, self.time_frozen()),
        };
        if inner.member == 0 {
            inner.lock_notes.stored_before(&left);
            let documents: Vec<u64> = left.iter().map(|node| node.0).collect();
            inner.locks.keep_for_reclaim(&inner.node, &documents, grace);
        } else {
            // Noted by former lives: this one notes anew what it needs.
            inner.lock_notes.unsure(&left);
            awaited.documents.extend(left);
        }
        *inner.lock_notes.awaited.lock() = Some(awaited);
        Ok(())
    }

    /// Whether nobody may reserve a document anew through this node, because a client of the node's former lives may take it again.
    /// [`crate::Tree::lock`] asks for itself.
    pub fn is_awaited(&self, node: NodeId) -> bool {
        self.inner.is_awaited(node)
    }

    /// For how long in all the node could not act, now included: such time does not count where clients are given time.
    pub fn time_frozen(&self) -> Duration {
        self.inner.frozen_for.lock().in_all()
    }

    /// Notes that an NFS client is about to have something on a document that it would have to take again. [`crate::Tree::lock`]
    /// does so itself.
    ///
    /// # Errors
    /// It could not be stored.
    pub async fn note_lock(&self, node: NodeId) -> Result<LockNote, VfsError> {
        let inner = &self.inner;
        Ok(inner.lock_notes.note(inner.repo.as_ref(), node).await?)
    }

    /// Documents on which all that this node's clients had was taken away by force, from now on. A listener that falls behind is
    /// told so.
    pub fn rights_lost(&self) -> tokio::sync::broadcast::Receiver<NodeId> {
        self.inner.rights_lost.subscribe()
    }
}

impl Inner {
    /// See [`Vfs::is_awaited`].
    pub(crate) fn is_awaited(&self, node: NodeId) -> bool {
        let awaited = self.lock_notes.awaited.lock();
        awaited.as_ref().is_some_and(|awaited| {
            awaited.documents.contains(&node) && self.is_before(awaited.until)
        })
    }

    /// Time in which the node could not act does not count.
    fn is_before(&self, (until, frozen): (Instant, Duration)) -> bool {
        let frozen = self.frozen_for.lock().in_all().saturating_sub(frozen);
        until + frozen > Instant::now()
    }

    /// Whether notes of the node's former lives may be needed: by those who take locks again through it, and a while longer by the
    /// coordinators, for whom the time may have begun anew later.
    fn needs_former_notes(&self) -> bool {
        let mut awaited = self.lock_notes.awaited.lock();
        let needed = awaited.as_ref().is_some_and(|awaited| {
            let (until, frozen) = awaited.until;
            self.is_before((until + self.options.reclaim_grace, frozen))
        });
        if !needed {
            *awaited = None;
        }
        needed
    }

    /// Forgets notes that nobody needs, again and again until the end, whether there is an NFS head or not: what was noted in the
    /// node's last run must not be kept after each start for nobody. It is needed until the grace is over.
    pub(crate) async fn forget_lock_notes(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(self.options.forget_notes) => {}
            }
            if !self.needs_former_notes() {
                self.lock_notes.forget_unused(self.repo.as_ref()).await;
            }
        }
    }
}

/// For how long a node may not act, and could not before.
#[derive(Default)]
pub(crate) struct FrozenFor {
    before: Duration,
    since: Option<Instant>,
}

impl FrozenFor {
    pub(crate) fn set(&mut self, frozen: bool) {
        self.before = self.in_all();
        self.since = frozen.then(Instant::now);
    }

    fn in_all(&self) -> Duration {
        let now = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.before + now
    }
}

#[cfg(test)]
mod tests {
    use sluice_repo_sqlite::{Options, SqliteRepository};
    use sluice_repo_suite::{Fault, FaultyRepository};

    use super::*;

    const NODE: NodeId = NodeId(7);

    async fn repository(folder: &tempfile::TempDir) -> FaultyRepository {
        let sqlite = SqliteRepository::open(Options::new(folder.path().join("meta.db")));
        FaultyRepository::new(Arc::new(sqlite.await.expect("opens")))
    }

    #[tokio::test]
    async fn a_document_is_noted_before_its_first_lock_and_forgotten_after_its_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let (repo, notes) = (repository(&folder).await, LockNotes::default());
        let first = notes.note(&repo, NODE).await.expect("stored");
        assert_eq!(repo.noted_locked().await, Ok(vec![NODE]));
        repo.inject("note_locked", 0, Fault::Error(RepoError::NoSpace));
        let second = notes.note(&repo, NODE).await.expect("known already");
        drop(first);
        notes.forget_unused(&repo).await;
        assert_eq!(repo.noted_locked().await, Ok(vec![NODE]));
        drop(second);
        notes.forget_unused(&repo).await;
        assert_eq!(repo.noted_locked().await, Ok(vec![]));
        assert!(notes.note(&repo, NODE).await.is_err());
        notes.forget_unused(&repo).await;
        assert!(notes.known.lock().is_empty(), "also what failed");
        let again = notes.note(&repo, NODE).await.expect("stored anew");
        assert_eq!(repo.noted_locked().await, Ok(vec![NODE]));
        drop(again);
    }

    #[tokio::test]
    async fn a_document_that_may_have_been_forgotten_is_noted_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let (repo, notes) = (repository(&folder).await, LockNotes::default());
        drop(notes.note(&repo, NODE).await.expect("stored"));
        repo.inject("forget_locked", 0, Fault::LostReply);
        notes.forget_unused(&repo).await;
        assert_eq!(repo.noted_locked().await, Ok(vec![]), "carried out");
        let again = notes.note(&repo, NODE).await.expect("stored anew");
        assert_eq!(repo.noted_locked().await, Ok(vec![NODE]));
        drop(again);
        let refused = RepoError::Unavailable(String::new());
        repo.inject("forget_locked", 0, Fault::Error(refused));
        notes.forget_unused(&repo).await;
        assert_eq!(repo.noted_locked().await, Ok(vec![NODE]), "not carried out");
        notes.forget_unused(&repo).await;
        assert_eq!(repo.noted_locked().await, Ok(vec![]), "tried once more");
    }

    #[tokio::test]
    async fn a_note_whose_storing_failed_is_forgotten_as_it_may_be_stored() {
        let folder = tempfile::tempdir().expect("a folder");
        let (repo, notes) = (repository(&folder).await, LockNotes::default());
        repo.inject("note_locked", 0, Fault::LostReply);
        assert!(notes.note(&repo, NODE).await.is_err());
        assert_eq!(repo.noted_locked().await, Ok(vec![NODE]));
        notes.forget_unused(&repo).await;
        assert_eq!(repo.noted_locked().await, Ok(vec![]));
    }
}
