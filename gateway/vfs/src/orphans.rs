//! Documents that lost their last name while somebody has them open. They stay in the repository until the last close, which may
//! be on another node: so every node knows of every orphan, and the one that carries out the last close releases it.
//!
//! - Who removes a last name holds the document in the lock table, tells all nodes and waits until they know, and only then gives
//!   it back: no last close can come before its node knows.
//! - Who opens a document that has no name (by its number) notes it: it may have joined since.
//! - All nodes that knew of an orphan may be lost: the repository tells those whose maker is a member no longer.
//! - The node of the last open may be lost: the lock service drops its opens, and a round of any node releases what nobody has
//!   open at two looks in a row.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sluice_lockmgr::Note;
use sluice_repo::{Attributes, NodeId, NodeKind, Unlinked};

use crate::vfs::Inner;

/// Nameless documents, with the rounds since somebody had them open.
#[derive(Default)]
pub(crate) struct Orphans(Mutex<HashMap<NodeId, u8>>);

/// Looks that find a document closed before a round releases it.
const LOOKS: u8 = 2;

#[derive(Serialize, Deserialize)]
struct OrphanNote {
    node: NodeId,
    /// Released, not made.
    released: bool,
}

impl Orphans {
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.0.lock().contains_key(&node)
    }

    fn add(&self, node: NodeId) {
        self.0.lock().insert(node, 0);
    }

    /// Notes those that are not known yet; the others' looks go on counting.
    fn find(&self, found: &[NodeId]) {
        let mut orphans = self.0.lock();
        for node in found {
            orphans.entry(*node).or_insert(0);
        }
    }

    /// Whoever gets `true` releases it.
    fn take(&self, node: NodeId) -> bool {
        self.0.lock().remove(&node).is_some()
    }
}

impl Inner {
    /// Books what an unlink did, before the document is given back to the lock table.
    pub(crate) async fn unlinked(&self, node: NodeId, unlinked: &Unlinked) {
        self.working.note_shrunk();
        if unlinked.orphaned {
            self.orphans.add(node);
            if let Some(note) = note(node, false) {
                self.locks.announce_all(note).await;
            }
        } else if unlinked.attributes.link_count == 0
            || unlinked.attributes.kind == NodeKind::Directory
        {
            self.forget_node(node);
        }
    }

    /// A document was opened: without a name it is an orphan, whoever made it one.
    pub(crate) fn opened(&self, attributes: &Attributes) {
        if attributes.link_count == 0 && attributes.kind == NodeKind::File {
            self.orphans.add(attributes.id);
        }
    }

    /// The last open anywhere was closed here. Returns whether the document was an orphan, which is gone now.
    pub(crate) async fn release_orphan(&self, node: NodeId) -> bool {
        if !self.orphans.take(node) {
            return false;
        }
        self.forget_node(node);
        if let Err(error) = self.repo.release(node).await {
            tracing::warn!(node = node.0, %error, "a nameless document stayed until the next start");
        }
        if let Some(note) = note(node, true) {
            self.locks.announce(note);
        }
        true
    }

    /// An orphan whose last open closed between the check and the unlink.
    pub(crate) async fn sweep_orphan(&self, node: NodeId) {
        if self.orphans.contains(node) && self.opens_of(node).await == 0 {
            self.release_orphan(node).await;
        }
    }

    /// Releases what nobody has open any more although no close said so.
    pub(crate) async fn sweep_orphans(&self) {
        match self.repo.abandoned_orphans().await {
            Ok(abandoned) => self.orphans.find(&abandoned),
            Err(error) => tracing::debug!(%error, "abandoned documents are looked for again later"),
        }
        let known: Vec<NodeId> = self.orphans.0.lock().keys().copied().collect();
        for node in known {
            let open = self.opens_of(node).await > 0;
            let due = {
                let mut orphans = self.orphans.0.lock();
                let Some(looks) = orphans.get_mut(&node) else {
                    continue;
                };
                *looks = if open { 0 } else { *looks + 1 };
                *looks >= LOOKS
            };
            if due {
                self.release_orphan(node).await;
            }
        }
    }

    /// Another node made or released an orphan.
    pub(crate) fn noted_orphans(self: &Arc<Self>, bytes: &[u8]) {
        match postcard::from_bytes::<OrphanNote>(bytes) {
            Ok(note) if note.released => {
                self.orphans.take(note.node);
                self.forget_node(note.node);
            }
            Ok(note) => self.orphans.add(note.node),
            Err(error) => tracing::warn!(%error, "a note of another node can't be read"),
        }
    }
}

fn note(node: NodeId, released: bool) -> Option<Note> {
    let bytes = postcard::to_stdvec(&OrphanNote { node, released }).ok()?;
    Some(Note::Orphans { bytes })
}
