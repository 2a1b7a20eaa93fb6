//! Making, removing, linking and listing entries, without an open of the caller's own.

use sluice_repo::{Attributes, Cookie, NameRef, NodeId, NodeKind, RepoError, Space};

use crate::error::VfsError;
use crate::path::check_name;
use crate::request::{AccessMask, NewNode};
use crate::tree::{CreateMode, DirPage, RemoveKind, Tree};
use crate::watch::ChangeAction;

/// Lost races after which an operation on a name gives up.
const RACES_MAX: usize = 16;
/// Most entries of one page.
const PAGE_MAX: usize = 4096;

impl Tree {
    /// NFS CREATE: makes a document without keeping an open.
    pub async fn create(
        &self,
        dir: NodeId,
        name: &str,
        mode: CreateMode,
        new: NewNode,
    ) -> Result<Attributes, VfsError> {
        for _ in 0..RACES_MAX {
            let spot = self.entry(dir, name).await?;
            if let Some(node) = spot.node {
                match self.create_existing(&node, mode, &new).await? {
                    Some(done) => return Ok(done),
                    None => return Err(VfsError::Exists),
                }
            }
            let folder = spot.dir.as_ref().ok_or(VfsError::NotDirectory)?;
            let policy = self.policy_at(&spot, None).await?;
            self.check_create(folder, false, &policy).await?;
            let gate = self.name_gate(dir, name, &policy, self.polls()).await?;
            let made = match mode {
                CreateMode::Exclusive(verifier) => {
                    self.make(folder, name, &new, NodeKind::File, Some(verifier))
                        .await
                }
                // Empty, it is worth no wait for the disk: what comes after it in durable form brings it along.
                CreateMode::Unchecked { .. } | CreateMode::Guarded => {
                    self.make_relaxed(folder, name, &new, NodeKind::File).await
                }
            };
            gate.release().await;
            match made {
                Ok(made) => return Ok(made.attributes),
                // Somebody was faster: now it is an existing document.
                Err(VfsError::Exists) => continue,
                Err(error) => return Err(error),
            }
        }
        Err(VfsError::Exists)
    }

    /// CREATE met an existing name. `None`: that is a refusal.
    async fn create_existing(
        &self,
        node: &Attributes,
        mode: CreateMode,
        new: &NewNode,
    ) -> Result<Option<Attributes>, VfsError> {
        match mode {
            CreateMode::Guarded => Ok(None),
            CreateMode::Exclusive(verifier) => {
                // The repository knows which verifier made the node.
                let parent = node.parent.ok_or(VfsError::Stale)?;
                let folder = self.folder(parent).await?;
                let path = self.inner().repo.path_of(node.id).await?;
                let name = path.last().map(|(_, name)| name.clone());
                let name = name.ok_or(VfsError::Stale)?;
                let made = self
                    .make(&folder, &name, new, NodeKind::File, Some(verifier))
                    .await;
                match made {
                    Ok(created) if created.repeated => Ok(Some(created.attributes)),
                    Ok(_) | Err(VfsError::Exists) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            CreateMode::Unchecked { truncate } => {
                if node.kind == NodeKind::Directory {
                    return Err(VfsError::Exists);
                }
                if truncate && node.kind == NodeKind::File {
                    let change = sluice_repo::AttributeChange::default();
                    let after = self.set_attributes(node.id, change, Some(0), None).await?;
                    return Ok(Some(after));
                }
                Ok(Some(self.inner().as_now(node.clone()).await?))
            }
        }
    }

    /// Makes a folder, symbolic link or special file: `new.kind` says which.
    pub async fn make_node(
        &self,
        dir: NodeId,
        name: &str,
        new: NewNode,
    ) -> Result<Attributes, VfsError> {
        check_name(name)?;
        let kind = new.kind.unwrap_or(NodeKind::Directory);
        let spot = self.entry(dir, name).await?;
        if spot.node.is_some() {
            return Err(VfsError::Exists);
        }
        let folder = spot.dir.as_ref().ok_or(VfsError::NotDirectory)?;
        let policy = self.policy_at(&spot, None).await?;
        self.check_create(folder, kind == NodeKind::Directory, &policy)
            .await?;
        let gate = self.name_gate(dir, name, &policy, self.polls()).await?;
        let made = self.make(folder, name, &new, kind, None).await;
        gate.release().await;
        Ok(made?.attributes)
    }

    /// Removes an entry. Meets opens that deny deleting; open documents that allow it live on until their last close.
    pub async fn remove(&self, dir: NodeId, name: &str, kind: RemoveKind) -> Result<(), VfsError> {
        for _ in 0..RACES_MAX {
            let spot = self.entry(dir, name).await?;
            let node = spot.node.clone().ok_or(VfsError::NotFound)?;
            match (kind, node.kind) {
                (RemoveKind::NotDirectory, NodeKind::Directory) => {
                    return Err(VfsError::IsDirectory);
                }
                (RemoveKind::Directory, other) if other != NodeKind::Directory => {
                    return Err(VfsError::NotDirectory);
                }
                _ => {}
            }
            if !self
                .rights_at(&spot, &node, false)
                .await?
                .has(AccessMask::DELETE)
            {
                return Err(VfsError::AccessDenied);
            }
            let policy = self.policy_at(&spot, Some(node.id)).await?;
            self.may_change(&policy)?;
            let held = self.hold_for_delete(node.id, &policy, &spot.name).await?;
            let entry = NameRef {
                parent: dir,
                name: &spot.name,
                node: Some(node.id),
            };
            let last = self.last_link(&node, 1).await;
            let unlinked = self.inner().repo.unlink(entry, last).await;
            match unlinked {
                Ok(unlinked) => {
                    self.inner().unlinked(node.id, &unlinked).await;
                    held.release().await;
                    let is_dir = node.kind == NodeKind::Directory;
                    self.inner()
                        .notify_entry(ChangeAction::Removed, dir, &spot.name, is_dir);
                    if is_dir {
                        self.inner().notify_dir_gone(node.id);
                    }
                    return Ok(());
                }
                // The name leads elsewhere by now.
                Err(RepoError::Stale(_)) => held.release().await,
                Err(error) => {
                    held.release().await;
                    return Err(error.into());
                }
            }
        }
        Err(VfsError::NotFound)
    }

    /// Makes a hard link. Returns the attributes of the document after.
    pub async fn link(
        &self,
        node: NodeId,
        dir: NodeId,
        name: &str,
    ) -> Result<Attributes, VfsError> {
        check_name(name)?;
        let source = self.inner().repo.get(node).await?;
        if source.kind == NodeKind::Directory {
            return Err(VfsError::IsDirectory);
        }
        let spot = self.entry(dir, name).await?;
        if spot.node.is_some() {
            return Err(VfsError::Exists);
        }
        let folder = spot.dir.as_ref().ok_or(VfsError::NotDirectory)?;
        let policy = self.policy_at(&spot, None).await?;
        self.check_create(folder, false, &policy).await?;
        let gate = self.name_gate(dir, name, &policy, self.polls()).await?;
        let linked = self.inner().repo.link(node, dir, name, self.case()).await;
        gate.release().await;
        let after = linked?.attributes;
        self.inner()
            .notify_entry(ChangeAction::Added, dir, name, false);
        Ok(self.inner().as_now(after).await?)
    }

    /// Target of a symbolic link.
    pub async fn read_link(&self, node: NodeId) -> Result<String, VfsError> {
        let attributes = self.inner().repo.get(node).await?;
        if attributes.kind != NodeKind::Symlink {
            return Err(VfsError::Invalid("not a symbolic link"));
        }
        Ok(self.inner().repo.read_link(node).await?)
    }

    /// Up to `limit` entries of `dir` after `after`, with attributes. Needs READ_DATA on `dir`.
    pub async fn read_dir(
        &self,
        dir: NodeId,
        after: Cookie,
        limit: usize,
    ) -> Result<DirPage, VfsError> {
        let folder = self.folder(dir).await?;
        self.require(&folder, AccessMask::READ_DATA).await?;
        let limit = limit.clamp(1, PAGE_MAX);
        let mut page = self.inner().repo.read_dir(dir, after, limit).await?;
        let all = page.entries.iter_mut().map(|entry| &mut entry.attributes);
        if !self.inner().are_as_now(all).await {
            page = self.inner().repo.read_dir(dir, after, limit).await?;
        }
        let mut entries = page.entries;
        for entry in &mut entries {
            self.inner().overlay(&mut entry.attributes);
        }
        Ok(DirPage {
            entries,
            end: page.end,
        })
    }

    /// Room in the share: the store's, or what the quota leaves.
    pub async fn space(&self) -> Result<Space, VfsError> {
        let (mut total, mut free) = self.inner().store.room()?;
        let nodes = self.inner().repo.node_count().await?;
        if let Some(account) = self.inner().account(self.share()) {
            let (quota, left) = account.room(self.inner()).await?;
            (total, free) = (total.min(quota), free.min(left));
        }
        Ok(Space { total, free, nodes })
    }
}
