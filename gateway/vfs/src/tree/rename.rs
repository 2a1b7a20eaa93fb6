//! Moving entries: both names, both documents and both gates pass the lock table, then one commit does all of it.

use sluice_repo::{Attributes, NameRef, NodeId, NodeKind, Replace, RepoError};

use crate::error::VfsError;
use crate::identity::Protocol;
use crate::lock_bridge::Held;
use crate::path::check_name;
use crate::policy::WritePolicy;
use crate::request::AccessMask;
use crate::tree::{Spot, Tree};

const RACES_MAX: usize = 16;

/// One rename, resolved.
pub(crate) struct Move {
    pub(crate) from: Spot,
    pub(crate) node: Attributes,
    pub(crate) to: Spot,
    /// The name as the caller wrote it: a change of case keeps it.
    pub(crate) to_name: String,
    pub(crate) replace: bool,
    /// The caller's own open of the source, if there is one: no lock is taken on it again.
    pub(crate) own_open: bool,
}

impl Tree {
    /// Renames or moves; with `replace` an existing target of the same sort is replaced in the same commit.
    pub async fn rename(
        &self,
        from_dir: NodeId,
        from: &str,
        to_dir: NodeId,
        to: &str,
        replace: bool,
    ) -> Result<(), VfsError> {
        check_name(to)?;
        for _ in 0..RACES_MAX {
            let from = self.entry(from_dir, from).await?;
            let node = from.node.clone().ok_or(VfsError::NotFound)?;
            let spot = self.entry(to_dir, to).await?;
            let change = Move {
                from,
                node,
                to: spot,
                to_name: to.to_owned(),
                replace,
                own_open: false,
            };
            if self.carry_out(&change).await? {
                return Ok(());
            }
        }
        Err(VfsError::NotFound)
    }

    /// Checks, locks, commits. False: a name changed meanwhile, start over.
    pub(crate) async fn carry_out(&self, change: &Move) -> Result<bool, VfsError> {
        let from_dir = change.from.dir.as_ref().ok_or(VfsError::AccessDenied)?;
        let to_dir = change.to.dir.as_ref().ok_or(VfsError::AccessDenied)?;
        let target = change
            .to
            .node
            .as_ref()
            .filter(|target| target.id != change.node.id);
        let policy = self.check_move(change, to_dir, target).await?;
        let mut held: Vec<Held> = Vec::with_capacity(2);
        if !change.own_open {
            held.push(
                self.hold_for_delete(change.node.id, &policy, &change.from.name)
                    .await?,
            );
        }
        let replace = match target {
            Some(target) => {
                let policy = self.policy_at(&change.to, Some(target.id)).await?;
                let hold = self
                    .hold_for_delete(target.id, &policy, &change.to.name)
                    .await?;
                held.push(hold);
                Replace::Node(target.id, self.last_link(target, 1).await)
            }
            None => {
                let policy = self.policy_at(&change.to, None).await?;
                let gate = self
                    .name_gate(to_dir.id, &change.to_name, &policy, self.polls())
                    .await?;
                held.push(gate);
                Replace::No
            }
        };
        let entry = NameRef {
            parent: from_dir.id,
            name: &change.from.name,
            node: Some(change.node.id),
        };
        // A replaced entry keeps the name that the caller wrote now.
        let renamed = self
            .inner()
            .repo
            .rename(entry, to_dir.id, &change.to_name, self.case(), replace)
            .await;
        let done = match renamed {
            Ok(renamed) => {
                if let (Some(replaced), Some(target)) = (&renamed.replaced, target) {
                    self.inner().unlinked(target.id, replaced).await;
                }
                if !renamed.same_node {
                    self.inner().notify_renamed(
                        from_dir.id,
                        &change.from.name,
                        to_dir.id,
                        &change.to_name,
                        change.node.kind == NodeKind::Directory,
                    );
                }
                Ok(true)
            }
            Err(RepoError::Stale(_)) => Ok(false),
            // A target appeared, or went, since the look-up.
            Err(RepoError::Exists) if change.replace || target.is_some() => Ok(false),
            Err(error) => Err(error.into()),
        };
        for held in held {
            held.release().await;
        }
        done
    }

    async fn check_move(
        &self,
        change: &Move,
        to_dir: &Attributes,
        target: Option<&Attributes>,
    ) -> Result<WritePolicy, VfsError> {
        let directory = change.node.kind == NodeKind::Directory;
        if change.node.id == self.root() {
            return Err(VfsError::AccessDenied);
        }
        if !change.own_open
            && !self
                .rights_at(&change.from, &change.node, false)
                .await?
                .has(AccessMask::DELETE)
        {
            return Err(VfsError::AccessDenied);
        }
        let policy = self.policy_at(&change.from, Some(change.node.id)).await?;
        self.may_change(&policy)?;
        let there = self.policy_at(&change.to, None).await?;
        self.check_create(to_dir, directory, &there).await?;
        if let Some(target) = target {
            if !change.replace {
                return Err(VfsError::Exists);
            }
            match (directory, target.kind == NodeKind::Directory) {
                (true, false) => return Err(VfsError::NotDirectory),
                (false, true) => return Err(VfsError::IsDirectory),
                _ => {}
            }
            if !self
                .rights_at(&change.to, target, false)
                .await?
                .has(AccessMask::DELETE)
            {
                return Err(VfsError::AccessDenied);
            }
        }
        if directory && self.caller().client.protocol == Protocol::Smb {
            self.nothing_open_below(change.node.id).await?;
        }
        Ok(policy)
    }

    /// A folder with open documents below does not move over SMB (MS-FSA 2.1.5.14.11).
    async fn nothing_open_below(&self, dir: NodeId) -> Result<(), VfsError> {
        let here = self.inner().opens.nodes();
        let elsewhere = self.inner().open_elsewhere(Protocol::Smb).await;
        for node in here.into_iter().chain(elsewhere) {
            if node == dir {
                continue;
            }
            let path = match self.inner().repo.path_of(node).await {
                Ok(path) => path,
                Err(RepoError::NotFound | RepoError::Stale(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            if path.iter().any(|(above, _)| *above == dir) {
                return Err(VfsError::AccessDenied);
            }
        }
        Ok(())
    }
}
