//! Moving and linking the open's own node.

use crate::error::VfsError;
use crate::lock_bridge::denied;
use crate::open::{Open, filter};
use crate::request::{AccessMask, Target};
use crate::tree::{Move, RemoveKind, Spot};

const RACES_MAX: usize = 16;

impl Open {
    /// Renames or moves the open's node to `target` in the same share. Needs DELETE. With `replace` an existing document
    /// goes away in the same commit, if nobody's open stands against it.
    pub async fn rename(&self, target: Target, replace: bool) -> Result<(), VfsError> {
        let state = &self.state;
        state.needs(AccessMask::DELETE)?;
        let wanted = wanted_name(&target)?;
        state
            .inner
            .locks
            .break_caches_before_move(state.lock.resource, &state.actor, Some(state.lock))
            .await
            .map_err(|denial| denied(denial, crate::ConflictKind::Sharing))?;
        for _ in 0..RACES_MAX {
            let to = state.tree.spot(&target, true).await?;
            let from = state.spot_now().await?;
            let node = from.node.clone().ok_or(VfsError::Stale)?;
            let change = Move {
                from,
                node,
                to,
                to_name: wanted.clone(),
                replace,
                own_open: true,
            };
            if state.tree.carry_out(&change).await? {
                return Ok(());
            }
        }
        Err(VfsError::NotFound)
    }

    /// Renames the open's named stream, within the node.
    pub async fn rename_stream(&self, name: &str, replace: bool) -> Result<(), VfsError> {
        let state = &self.state;
        state.needs(AccessMask::DELETE)?;
        if state.content.stream == 0 {
            return Err(VfsError::NotSupported("the main content has no name"));
        }
        state
            .inner
            .repo
            .rename_stream(state.content, name, replace)
            .await?;
        *state.stream.lock() = Some(name.to_owned());
        state
            .inner
            .notify_content(state.content, Some(name), filter::STREAM_NAME);
        Ok(())
    }

    /// Makes a further hard link to the open's document.
    pub async fn link(&self, target: Target, replace: bool) -> Result<(), VfsError> {
        let state = &self.state;
        state.alive()?;
        let to = state.tree.spot(&target, true).await?;
        let dir = to.dir.as_ref().ok_or(VfsError::Exists)?;
        let name = wanted_name(&target)?;
        if let Some(there) = &to.node {
            if !replace {
                return Err(VfsError::Exists);
            }
            if there.id == state.content.node {
                return Ok(());
            }
            state
                .tree
                .remove(dir.id, &to.name, RemoveKind::NotDirectory)
                .await?;
        }
        state.tree.link(state.content.node, dir.id, &name).await?;
        Ok(())
    }
}

impl crate::open::OpenState {
    /// Where the node is now.
    async fn spot_now(&self) -> Result<Spot, VfsError> {
        let path = self.inner.repo.path_of(self.content.node).await?;
        let (dir, name) = path.last().ok_or(VfsError::AccessDenied)?;
        Ok(Spot {
            dir: Some(self.inner.repo.get(*dir).await?),
            name: name.to_string(),
            node: Some(self.inner.repo.get(self.content.node).await?),
        })
    }
}

/// The last component as the caller wrote it.
fn wanted_name(target: &Target) -> Result<String, VfsError> {
    match target {
        Target::Path(path) => path
            .split_last()
            .map(|(_, name)| name.to_owned())
            .ok_or(VfsError::AccessDenied),
        Target::Child(_, name) => Ok(name.clone()),
        Target::Node(_) => Err(VfsError::Invalid("a rename needs a name")),
    }
}
