//! What every operation asks before it acts: rights, share, policy, the name's gate. Acts on nothing itself.

use sluice_lockmgr as lm;
use sluice_repo::{Attributes, Created, LastLink, NewKind, NodeId, NodeKind, RepoError};

use crate::error::VfsError;
use crate::identity::Protocol;
use crate::lock_bridge::{Held, name_resource, on_conflict};
use crate::open::WRITE_RIGHTS;
use crate::policy::WritePolicy;
use crate::request::{AccessMask, NewNode};
use crate::tree::{Spot, Tree};
use crate::working::origin;

/// Sticky bit of a folder: only owners delete in it.
const STICKY: u32 = 0o1000;

impl Tree {
    /// Rights on the node at a spot, with what its folder adds: DELETE through DELETE_CHILD.
    pub(crate) async fn rights_at(
        &self,
        spot: &Spot,
        node: &Attributes,
        backup: bool,
    ) -> Result<AccessMask, VfsError> {
        let who = &self.caller().identity;
        let mut rights = self.inner().rights(who, node).await?;
        if backup && who.admin {
            rights.0 |= AccessMask::READ_DATA
                | AccessMask::EXECUTE
                | AccessMask::READ_EA
                | AccessMask::READ_ATTRIBUTES
                | AccessMask::READ_CONTROL;
        }
        let dir = match (&spot.dir, node.parent) {
            (Some(dir), _) => Some(dir.clone()),
            (None, Some(parent)) if node.id != self.root() => {
                self.inner().repo.get(parent).await.ok()
            }
            _ => None,
        };
        if let Some(dir) = dir {
            let above = self.inner().rights(who, &dir).await?;
            let sticky =
                dir.mode & STICKY != 0 && !who.admin && who.uid != node.uid && who.uid != dir.uid;
            if sticky {
                rights.0 &= !AccessMask::DELETE;
            } else if above.any(AccessMask::DELETE_CHILD) {
                rights.0 |= AccessMask::DELETE;
            }
            if above.any(AccessMask::READ_DATA) {
                rights.0 |= AccessMask::READ_ATTRIBUTES;
            }
        }
        if who.admin {
            rights.0 |= AccessMask::ACCESS_SYSTEM_SECURITY;
        }
        Ok(rights)
    }

    /// Fails unless the caller has all of `wanted` on the node.
    pub(crate) async fn require(&self, node: &Attributes, wanted: u32) -> Result<(), VfsError> {
        let rights = self.inner().rights(&self.caller().identity, node).await?;
        if rights.has(wanted) {
            Ok(())
        } else {
            Err(VfsError::AccessDenied)
        }
    }

    /// The policy at a spot; `node` if it exists.
    pub(crate) async fn policy_at(
        &self,
        spot: &Spot,
        node: Option<NodeId>,
    ) -> Result<WritePolicy, VfsError> {
        if !self.inner().policy_needs_path(self.share()) {
            return Ok(self.inner().policy(self.share(), self.caller(), ""));
        }
        let path = match (&spot.dir, node) {
            (Some(dir), _) => join(&self.path_of(dir.id).await?, &spot.name),
            (None, Some(node)) => self.path_or_nothing(node).await?,
            (None, None) => String::new(),
        };
        Ok(self.inner().policy(self.share(), self.caller(), &path))
    }

    /// The policy for a node known by id.
    pub(crate) async fn policy_of(&self, node: NodeId) -> Result<WritePolicy, VfsError> {
        if !self.inner().policy_needs_path(self.share()) {
            return Ok(self.inner().policy(self.share(), self.caller(), ""));
        }
        let path = self.path_or_nothing(node).await?;
        Ok(self.inner().policy(self.share(), self.caller(), &path))
    }

    /// A document without a name has no path any more.
    async fn path_or_nothing(&self, node: NodeId) -> Result<String, VfsError> {
        match self.path_of(node).await {
            Err(VfsError::NotFound) => Ok(String::new()),
            other => other,
        }
    }

    /// Whether share and policy let this caller change anything.
    pub(crate) fn may_change(&self, policy: &WritePolicy) -> Result<(), VfsError> {
        // A tree connect may be older than the share's last change.
        let now = self.inner().records.current();
        let read_only = now
            .share_by_id(self.share().id)
            .map_or(self.share().read_only, |share| share.read_only);
        if read_only {
            return Err(VfsError::ReadOnlyShare);
        }
        if !policy.allow {
            let rule = policy.rule.as_deref().unwrap_or("default");
            return Err(VfsError::PolicyDenied(rule.to_owned()));
        }
        Ok(())
    }

    /// Whether the caller may add an entry to `dir`.
    pub(crate) async fn check_create(
        &self,
        dir: &Attributes,
        directory: bool,
        policy: &WritePolicy,
    ) -> Result<(), VfsError> {
        let right = if directory {
            AccessMask::APPEND_DATA
        } else {
            AccessMask::WRITE_DATA
        };
        self.require(dir, right).await?;
        self.may_change(policy)
    }

    /// Takes the right to make `name`: an upload under way to it stands in the way like an open for write.
    pub(crate) async fn name_gate(
        &self,
        dir: NodeId,
        name: &str,
        policy: &WritePolicy,
        poll: bool,
    ) -> Result<Held, VfsError> {
        let actor = self
            .inner()
            .actor(self.caller(), name, policy.rule.as_deref());
        let resource = name_resource(dir, name, self.share().widest_case());
        let mut request = lm::OpenRequest::new(resource, actor, lm::Access::WRITE);
        request.on_conflict = on_conflict(policy, poll);
        self.inner().hold(request).await
    }

    /// The open that a deletion, replacement or move of a node takes for its moment.
    pub(crate) async fn hold_for_delete(
        &self,
        node: NodeId,
        policy: &WritePolicy,
        hint: &str,
    ) -> Result<Held, VfsError> {
        let actor = self
            .inner()
            .actor(self.caller(), hint, policy.rule.as_deref());
        let resource = lm::ResourceId::main(node.0);
        let mut request = lm::OpenRequest::new(resource, actor.clone(), lm::Access::DELETE);
        request.on_conflict = on_conflict(policy, self.polls());
        let held = self.inner().hold(request).await?;
        self.inner()
            .locks
            .break_caches_before_move(resource, &actor, held.open())
            .await
            .map_err(|denial| crate::lock_bridge::denied(denial, crate::ConflictKind::Sharing))?;
        if self.polls() {
            // Only its own place can be left, and that goes with the name.
            self.inner()
                .locks
                .release_place(resource, actor.client)
                .await;
        }
        Ok(held)
    }

    /// Makes a node in `dir`; rights, policy and gate were passed.
    pub(crate) async fn make(
        &self,
        dir: &Attributes,
        name: &str,
        new: &NewNode,
        kind: NodeKind,
        verifier: Option<[u8; 8]>,
    ) -> Result<Created, VfsError> {
        let record = self.new_record(dir, new, kind, verifier, None).await?;
        self.enter(dir, name, record).await
    }

    /// As [`Tree::make`], for an open that settles the creation when it is flushed or closed.
    pub(crate) async fn make_relaxed(
        &self,
        dir: &Attributes,
        name: &str,
        new: &NewNode,
        kind: NodeKind,
    ) -> Result<Created, VfsError> {
        let mut record = self.new_record(dir, new, kind, None, None).await?;
        record.relaxed = true;
        self.enter(dir, name, record).await
    }

    async fn enter(
        &self,
        dir: &Attributes,
        name: &str,
        record: sluice_repo::NewNode,
    ) -> Result<Created, VfsError> {
        let created = self
            .inner()
            .repo
            .create(dir.id, name, self.case(), record)
            .await?;
        let is_dir = created.attributes.kind == NodeKind::Directory;
        if !created.repeated {
            self.inner()
                .notify_entry(crate::ChangeAction::Added, dir.id, name, is_dir);
        }
        Ok(created)
    }

    /// The repository's words for a new node.
    pub(crate) async fn new_record(
        &self,
        dir: &Attributes,
        new: &NewNode,
        kind: NodeKind,
        verifier: Option<[u8; 8]>,
        content: Option<std::sync::Arc<sluice_repo::Manifest>>,
    ) -> Result<sluice_repo::NewNode, VfsError> {
        let directory = kind == NodeKind::Directory;
        let birth = self
            .inner()
            .birthright(self.caller(), dir, new, directory)
            .await?;
        let mut dos = new.dos;
        if kind == NodeKind::File && self.caller().client.protocol == Protocol::Smb {
            dos.0 |= sluice_repo::DosAttributes::ARCHIVE;
        }
        dos.0 &= sluice_repo::DosAttributes::STORED;
        Ok(sluice_repo::NewNode {
            kind: new_kind(new, kind, content)?,
            mode: birth.mode,
            uid: birth.uid,
            gid: birth.gid,
            dos,
            modified: None,
            accessed: None,
            created: None,
            acl: birth.acl,
            eas: new.eas.clone(),
            verifier,
            origin: origin(self.caller()),
            relaxed: false,
        })
    }

    /// After a wait: whether the name still leads to the node. `None`: start over.
    pub(crate) async fn still_there(
        &self,
        spot: &Spot,
        node: &Attributes,
    ) -> Result<Option<Attributes>, VfsError> {
        let Some(dir) = &spot.dir else {
            // Known by id: it is there or it is gone for good.
            return Ok(Some(self.inner().repo.get(node.id).await?));
        };
        let exact = sluice_repo::CaseMode::Sensitive;
        match self.inner().repo.lookup(dir.id, &spot.name, exact).await {
            Ok(found) if found.attributes.id == node.id => Ok(Some(found.attributes)),
            Ok(_) | Err(RepoError::NotFound | RepoError::Stale(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Fails if the caller lacks a right that changes something or share or policy refuse it.
    pub(crate) async fn require_change(
        &self,
        node: &Attributes,
        wanted: u32,
        policy: &WritePolicy,
    ) -> Result<(), VfsError> {
        debug_assert!(wanted & !WRITE_RIGHTS == 0);
        self.require(node, wanted).await?;
        self.may_change(policy)
    }

    /// What becomes of a document that loses its last name while the caller holds `own` opens of it.
    pub(crate) async fn last_link(&self, node: &Attributes, own: usize) -> LastLink {
        if node.kind == NodeKind::Directory {
            LastLink::Delete
        } else {
            self.inner().last_link(node.id, own).await
        }
    }
}

fn new_kind(
    new: &NewNode,
    kind: NodeKind,
    content: Option<std::sync::Arc<sluice_repo::Manifest>>,
) -> Result<NewKind, VfsError> {
    Ok(match kind {
        NodeKind::File => NewKind::File { content },
        NodeKind::Directory => NewKind::Directory,
        NodeKind::Symlink => NewKind::Symlink {
            target: new
                .link_target
                .clone()
                .ok_or(VfsError::Invalid("a symbolic link needs a target"))?,
        },
        NodeKind::Fifo => NewKind::Pipe { socket: false },
        NodeKind::Socket => NewKind::Pipe { socket: true },
        NodeKind::CharDevice => NewKind::Device {
            block: false,
            numbers: new.device,
        },
        NodeKind::BlockDevice => NewKind::Device {
            block: true,
            numbers: new.device,
        },
    })
}

/// A path and one more name.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}
