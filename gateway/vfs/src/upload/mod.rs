//! Whole-document transfers (FTP): an upload that is visible only once committed, a download of one moment's content.

mod download;

use std::sync::Arc;

use bytes::Bytes;
use sluice_lockmgr as lm;
use sluice_repo::{
    Attributes, DOCUMENT_BYTES_MAX, Manifest, NodeKind, Sealed, Timestamp, Version, WorkingContent,
};

use crate::carry::carry_through;
use crate::error::VfsError;
use crate::lock_bridge::{Held, denied, main, name_resource, on_conflict, resource};
use crate::metrics::Metrics;
use crate::path::RelPath;
use crate::policy::{OnConflict, WritePolicy};
use crate::quota::Reservation;
use crate::request::{AccessMask, NewNode};
use crate::tree::{Spot, Tree, join};
use crate::working::Writer;

pub use download::Download;

/// What an upload does to a document that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadMode {
    /// Replaces its content (STOR).
    Replace,
    /// Adds to its end (APPE).
    Append,
    /// Keeps the first bytes and goes on from there (REST, then STOR); refused if the document is shorter.
    ResumeAt(u64),
}

/// What a commit made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadReceipt {
    /// The document after the commit.
    pub attributes: Attributes,
    /// The conflicted copy that the content went into because the policy said `fork`: its path from the share's root.
    pub copy: Option<String>,
}

/// Lost races after which an upload gives up.
const RACES_MAX: usize = 16;
/// Names tried for a conflicted copy.
const FORK_TRIES_MAX: u32 = 100;

/// Bytes read at once while a document is copied.
const COPY_BYTES: u32 = 4 << 20;

/// Where the content goes at the commit.
enum Goal {
    /// Into a document, on top of this version unless it replaces whatever is there.
    Existing {
        node: Attributes,
        held: Held,
        expected: Option<Version>,
    },
    /// Into a new one, whose name is held.
    New { gate: Held },
    /// Into a conflicted copy: the policy says `fork` and somebody else writes the document.
    Fork,
}

/// A transfer into a document: an open for write that denies other writers until it commits or aborts. Dropping it aborts: the old content stays.
pub struct Upload {
    tree: Tree,
    dir: Attributes,
    name: String,
    goal: Goal,
    content: Arc<dyn WorkingContent>,
    writer: Writer,
    /// Bytes of the document that were there before.
    start: u64,
    taken: u64,
    /// Stored ahead of the commit.
    sealed: Option<Sealed>,
    /// Length of the document that it takes the place of.
    replaces: u64,
    /// Room for what the document will be longer, in a share with a quota.
    room: Option<Reservation>,
}

impl Tree {
    /// Begins a transfer that replaces, appends to or patches a document and becomes visible as a whole at its commit (FTP STOR, APPE).
    /// Waits for other writers as the policy says.
    pub async fn upload(&self, path: &RelPath, mode: UploadMode) -> Result<Upload, VfsError> {
        for _ in 0..RACES_MAX {
            let spot = self.spot_following(path).await?;
            let told = format!("/{}/{path}", self.share().name);
            let policy = self
                .policy_at(&spot, spot.node.as_ref().map(|n| n.id))
                .await?;
            let begun = match &spot.node {
                Some(node) => {
                    self.upload_over(&spot, &told, node.clone(), mode, &policy)
                        .await?
                }
                None => self.upload_new(&spot, &told, mode, &policy).await?,
            };
            if let Some(upload) = begun {
                let protocol = self.caller().client.protocol;
                self.inner().metrics.opens.add(protocol, 1);
                return Ok(upload);
            }
        }
        Err(VfsError::Unavailable(
            "the name changes too often".to_owned(),
        ))
    }

    /// Onto an existing document. `None`: the name changed while it waited.
    async fn upload_over(
        &self,
        spot: &Spot,
        told: &str,
        node: Attributes,
        mode: UploadMode,
        policy: &WritePolicy,
    ) -> Result<Option<Upload>, VfsError> {
        let dir = match (&spot.dir, node.kind) {
            (Some(dir), NodeKind::File) => dir.clone(),
            (_, NodeKind::Symlink) => return Err(VfsError::NotFound),
            (None, _) | (_, NodeKind::Directory) => return Err(VfsError::IsDirectory),
            _ => return Err(VfsError::Invalid("not a document")),
        };
        self.require_change(&node, AccessMask::WRITE_DATA, policy)
            .await?;
        let held = match self
            .inner()
            .hold(self.upload_lock(resource(main(node.id)), told, mode, policy))
            .await
        {
            Ok(held) => held,
            Err(VfsError::Conflict(_)) if policy.on_conflict == OnConflict::Fork => {
                let base = self.settled(&node).await?;
                let upload = self.begin(dir, spot, Goal::Fork, base.1, mode).await?;
                return Ok(Some(upload));
            }
            Err(other) => return Err(other),
        };
        if self.still_there(spot, &node).await?.is_none() {
            held.release().await;
            return Ok(None);
        }
        let (version, manifest) = self.settled(&node).await?;
        let goal = Goal::Existing {
            node,
            held,
            expected: (mode != UploadMode::Replace).then_some(version),
        };
        Ok(Some(self.begin(dir, spot, goal, manifest, mode).await?))
    }

    /// Onto a name that leads nowhere: the name itself is locked. `None`: somebody made it meanwhile.
    async fn upload_new(
        &self,
        spot: &Spot,
        told: &str,
        mode: UploadMode,
        policy: &WritePolicy,
    ) -> Result<Option<Upload>, VfsError> {
        let dir = spot.dir.clone().ok_or(VfsError::NotFound)?;
        if matches!(mode, UploadMode::ResumeAt(offset) if offset > 0) {
            return Err(VfsError::NotFound);
        }
        self.check_create(&dir, false, policy).await?;
        let name = name_resource(dir.id, &spot.name, self.share().widest_case());
        let goal = match self
            .inner()
            .hold(self.upload_lock(name, told, mode, policy))
            .await
        {
            Ok(gate) => Goal::New { gate },
            Err(VfsError::Conflict(_)) if policy.on_conflict == OnConflict::Fork => Goal::Fork,
            Err(other) => return Err(other),
        };
        match self
            .inner()
            .repo
            .lookup(dir.id, &spot.name, self.case())
            .await
        {
            Ok(_) => return Ok(None),
            Err(sluice_repo::RepoError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let empty = Arc::new(Manifest::default());
        Ok(Some(self.begin(dir, spot, goal, empty, mode).await?))
    }

    fn upload_lock(
        &self,
        resource: lm::ResourceId,
        told: &str,
        mode: UploadMode,
        policy: &WritePolicy,
    ) -> lm::OpenRequest {
        let rule = policy.rule.as_deref();
        let actor = self.inner().actor(self.caller(), told, rule);
        let mut request = lm::OpenRequest::new(resource, actor, lm::Access::WRITE);
        request.share = lm::ShareMode::DENY_WRITE;
        request.overwrite = mode == UploadMode::Replace;
        request.touches_ranges = true;
        request.writers = policy.writers;
        request.on_conflict = on_conflict(policy, self.polls());
        request
    }

    /// The document's content with nothing uncommitted left.
    async fn settled(&self, node: &Attributes) -> Result<(Version, Arc<Manifest>), VfsError> {
        let working = self.working_of(node.id).await?;
        self.inner().committed(&working).await
    }

    async fn begin(
        &self,
        dir: Attributes,
        spot: &Spot,
        goal: Goal,
        base: Arc<Manifest>,
        mode: UploadMode,
    ) -> Result<Upload, VfsError> {
        let replaces = match goal {
            Goal::Existing { .. } => base.size,
            Goal::New { .. } | Goal::Fork => 0,
        };
        let (base, start) = match mode {
            UploadMode::Replace => (Arc::new(Manifest::default()), 0),
            UploadMode::Append => {
                let size = base.size;
                (base, size)
            }
            UploadMode::ResumeAt(offset) if offset <= base.size => (base, offset),
            UploadMode::ResumeAt(_) => {
                return Err(VfsError::Invalid(
                    "the document is shorter than the position to resume at",
                ));
            }
        };
        let content = match goal {
            // Objects belong to one document: a copy gets the bytes again.
            Goal::Fork if start > 0 => self.copy_of(&base, start).await?,
            _ => self.inner().store.working(base),
        };
        if content.len() != start {
            content.set_len(start).await?;
        }
        Ok(Upload {
            tree: self.clone(),
            dir,
            name: spot.name.clone(),
            goal,
            content,
            writer: Writer::new(self.inner(), self.caller(), self.share()),
            start,
            taken: 0,
            sealed: None,
            replaces,
            room: None,
        })
    }
}

impl Tree {
    async fn copy_of(
        &self,
        base: &Arc<Manifest>,
        len: u64,
    ) -> Result<Arc<dyn WorkingContent>, VfsError> {
        let store = &self.inner().store;
        let source = store.working(base.clone());
        let content = store.working(Arc::new(Manifest::default()));
        let mut offset = 0;
        while offset < len {
            let piece = u32::try_from(len - offset).unwrap_or(u32::MAX);
            let parts = source.read(offset, piece.min(COPY_BYTES)).await?;
            if parts.is_empty() {
                break;
            }
            for part in parts {
                let bytes = part.len() as u64;
                content.write(offset, part).await?;
                offset += bytes;
            }
        }
        Ok(content)
    }
}

impl Upload {
    /// Adds bytes at the end of what came so far. Waits while too much is in flight to the store (backpressure).
    pub async fn write(&mut self, data: Bytes) -> Result<(), VfsError> {
        let bytes = data.len() as u64;
        let offset = self.start + self.taken;
        if offset.saturating_add(bytes) > DOCUMENT_BYTES_MAX {
            return Err(VfsError::TooLarge);
        }
        self.sealed = None;
        self.reserve(offset + bytes).await?;
        self.content.write(offset, data).await?;
        self.taken += bytes;
        let protocol = self.tree.caller().client.protocol;
        let metrics = &self.tree.inner().metrics;
        metrics.writes.add(protocol, 1);
        metrics.bytes_written.add(protocol, bytes);
        Ok(())
    }

    /// Reserves room for the document at this length, if the share has a quota.
    async fn reserve(&mut self, len: u64) -> Result<(), VfsError> {
        let Some(account) = &self.writer.account else {
            return Ok(());
        };
        let have = self.room.as_ref().map_or(0, Reservation::bytes);
        let missing = len.saturating_sub(self.replaces).saturating_sub(have);
        if missing > 0 {
            let more = account.take(self.tree.inner(), missing).await?;
            match &mut self.room {
                Some(room) => room.merge(more),
                None => self.room = Some(more),
            }
        }
        Ok(())
    }

    /// Bytes taken so far, resumed or appended-to content not counted.
    pub fn len(&self) -> u64 {
        self.taken
    }

    /// Whether nothing came yet.
    pub fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Stores the bytes without showing them to anybody, which shortens the commit; that makes durable what is not yet. Needed by
    /// nobody, useful to those that have to wait anyway before they commit.
    pub async fn seal(&mut self) -> Result<(), VfsError> {
        self.sealed = Some(self.content.seal_for_commit().await?);
        Ok(())
    }

    /// Makes the whole durable and visible in one step.
    pub async fn commit(self, modified: Option<Timestamp>) -> Result<UploadReceipt, VfsError> {
        // A caller that goes away must not stop between the content and its name.
        let runtime = self.tree.inner().runtime.clone();
        carry_through(&runtime, self.commit_all(modified)).await
    }

    /// Gives up: nothing changes, nobody has seen anything.
    pub async fn abort(self) {
        match self.goal {
            Goal::Existing { held, .. } => held.release().await,
            Goal::New { gate } => gate.release().await,
            Goal::Fork => {}
        }
    }

    async fn commit_all(mut self, modified: Option<Timestamp>) -> Result<UploadReceipt, VfsError> {
        let sealed = match self.sealed.take() {
            Some(sealed) => sealed,
            None => self.content.seal_for_commit().await?,
        };
        let shrinks = sealed.manifest.size < self.replaces;
        let (inner, room) = (self.tree.inner().clone(), self.room.take());
        let receipt = self.carry_out(sealed, modified).await?;
        if shrinks {
            inner.working.note_shrunk();
        }
        if let Some(room) = room {
            room.book();
        }
        Ok(receipt)
    }

    async fn carry_out(
        self,
        sealed: Sealed,
        modified: Option<Timestamp>,
    ) -> Result<UploadReceipt, VfsError> {
        let tree = self.tree;
        let inner = tree.inner();
        match self.goal {
            Goal::Existing {
                node,
                held,
                expected,
            } => {
                let open = held.open().ok_or(VfsError::OpenLost)?;
                // Who opened for reading since may cache the old bytes; an open taken away by an administrator ends here.
                inner
                    .locks
                    .io(open, lm::IoKind::Write(lm::ByteRange::WHOLE))
                    .await
                    .map_err(|denial| denied(denial, crate::ConflictKind::RangeIo))?;
                let working = tree.working_of(node.id).await?;
                let mut attributes = inner
                    .swap_content(&working, sealed, self.writer, modified, expected)
                    .await?;
                held.release().await;
                inner.overlay(&mut attributes);
                inner.notify_content(
                    main(node.id),
                    None,
                    crate::open::filter::SIZE | crate::open::filter::LAST_WRITE,
                );
                Ok(UploadReceipt {
                    attributes,
                    copy: None,
                })
            }
            Goal::New { gate } => {
                let open = gate.open().ok_or(VfsError::OpenLost)?;
                if inner.locks.state(open).await.is_none() {
                    return Err(VfsError::OpenLost);
                }
                let made = publish(&tree, &self.dir, &self.name, &sealed, modified).await;
                gate.release().await;
                Ok(UploadReceipt {
                    attributes: made?,
                    copy: None,
                })
            }
            Goal::Fork => {
                let path = tree.path_of(self.dir.id).await?;
                for attempt in 0..FORK_TRIES_MAX {
                    let name = tree.fork_name(&self.name, attempt);
                    match publish(&tree, &self.dir, &name, &sealed, modified).await {
                        Err(VfsError::Exists) => {}
                        made => {
                            Metrics::count(&inner.metrics.forks);
                            return Ok(UploadReceipt {
                                attributes: made?,
                                copy: Some(join(&path, &name)),
                            });
                        }
                    }
                }
                Err(VfsError::Exists)
            }
        }
    }
}

/// A new document, with its content from the first moment.
async fn publish(
    tree: &Tree,
    dir: &Attributes,
    name: &str,
    sealed: &Sealed,
    modified: Option<Timestamp>,
) -> Result<Attributes, VfsError> {
    let manifest = sealed.manifest.clone();
    let mut record = tree
        .new_record(
            dir,
            &NewNode::default(),
            NodeKind::File,
            None,
            Some(manifest),
        )
        .await?;
    record.modified = modified;
    let inner = tree.inner();
    let (repo, case) = (&inner.repo, tree.case());
    // Not durable and without a name: what is left is garbage if this fails.
    let created = match sealed.unsettled.clone() {
        Some(unsettled) => {
            repo.create_with(dir.id, name, case, record, unsettled)
                .await?
        }
        None => repo.create(dir.id, name, case, record).await?,
    };
    Metrics::count(&inner.metrics.commits);
    inner.notify_entry(crate::ChangeAction::Added, dir.id, name, false);
    Ok(created.attributes)
}
