//! From paths and names to nodes: case mode, symbolic links inside the share, the right to pass through folders.

use std::sync::Arc;

use sluice_repo::{Attributes, CaseMode, Found, NodeId, NodeKind, RepoError};

use crate::error::VfsError;
use crate::identity::Protocol;
use crate::path::{COMPONENTS_MAX, RelPath, check_name};
use crate::request::{AccessMask, Target};
use crate::tree::Tree;

/// Symbolic links on one path.
const LINKS_MAX: usize = 40;

/// Where a target is: the folder, the name, and the node if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    /// `None` for the share's root and for nodes known by id only.
    pub(crate) dir: Option<Attributes>,
    /// As stored if it exists, as asked for otherwise; empty for the root and for nodes known by id only.
    pub(crate) name: String,
    pub(crate) node: Option<Attributes>,
}

/// What becomes of symbolic links on a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Refused before the last component, not followed there.
    Never,
    /// Followed before the last component, not there.
    Parents,
    /// Followed everywhere.
    All,
}

impl Tree {
    pub(crate) fn case(&self) -> CaseMode {
        self.share().case(self.caller().client.protocol)
    }

    /// Attributes of the node at `path`; symbolic links on the way are refused with [`VfsError::IsSymlink`], a last one is not followed.
    pub async fn resolve(&self, path: &RelPath) -> Result<Attributes, VfsError> {
        let links = match self.caller().client.protocol {
            Protocol::Smb => Links::Parents,
            _ => Links::Never,
        };
        let spot = self.walk(path, links).await?;
        let node = spot.node.ok_or(VfsError::NotFound)?;
        Ok(self.inner().as_now(node).await?)
    }

    /// As [`Tree::resolve`], following symbolic links inside the share (at most 40), as FTP users expect.
    pub async fn resolve_following(&self, path: &RelPath) -> Result<Attributes, VfsError> {
        let spot = self.walk(path, Links::All).await?;
        let node = spot.node.ok_or(VfsError::NotFound)?;
        Ok(self.inner().as_now(node).await?)
    }

    /// Folder, name and node of `path`, following links as FTP users expect.
    pub(crate) async fn spot_following(&self, path: &RelPath) -> Result<Spot, VfsError> {
        self.walk(path, Links::All).await
    }

    /// The entry `name` of folder `dir`, in the caller's case mode. Needs EXECUTE on `dir`.
    pub async fn lookup(&self, dir: NodeId, name: &str) -> Result<Attributes, VfsError> {
        check_name(name)?;
        let folder = self.folder(dir).await?;
        self.may_pass(&folder).await?;
        let found = self.inner().repo.lookup(dir, name, self.case()).await?;
        Ok(self.inner().as_now(found.attributes).await?)
    }

    /// The folder above `node`; the share's root is its own parent.
    pub async fn parent(&self, node: NodeId) -> Result<Attributes, VfsError> {
        let attributes = self.inner().repo.get(node).await?;
        if node == self.root() {
            return Ok(attributes);
        }
        let parent = attributes.parent.ok_or(VfsError::Stale)?;
        Ok(self.inner().repo.get(parent).await?)
    }

    /// A folder known by id.
    pub(crate) async fn folder(&self, dir: NodeId) -> Result<Attributes, VfsError> {
        let folder = self.inner().repo.get(dir).await?;
        if folder.kind != NodeKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        Ok(folder)
    }

    /// An entry of a folder: the stored name and the node, if it exists.
    pub(crate) async fn entry(&self, dir: NodeId, name: &str) -> Result<Spot, VfsError> {
        check_name(name)?;
        let folder = self.folder(dir).await?;
        self.may_pass(&folder).await?;
        match self.inner().repo.lookup(dir, name, self.case()).await {
            Ok(found) => Ok(Spot {
                dir: Some(folder),
                name: found.name.to_string(),
                node: Some(found.attributes),
            }),
            Err(RepoError::NotFound) => Ok(Spot {
                dir: Some(folder),
                name: name.to_owned(),
                node: None,
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// What an open means. Symbolic links are followed where this caller's users expect it.
    pub(crate) async fn spot(&self, target: &Target, open_link: bool) -> Result<Spot, VfsError> {
        let smb = self.caller().client.protocol == Protocol::Smb;
        let spot = match target {
            Target::Path(path) => {
                let links = match (smb, open_link) {
                    (true, false) => Links::All,
                    (true, true) => Links::Parents,
                    (false, _) => Links::Never,
                };
                self.walk(path, links).await?
            }
            Target::Child(dir, name) => self.entry(*dir, name).await?,
            Target::Node(node) => {
                let node = self.inner().repo.get(*node).await?;
                if smb && !self.is_inside(node.id).await? {
                    return Err(VfsError::Stale);
                }
                Spot {
                    dir: None,
                    name: String::new(),
                    node: Some(node),
                }
            }
        };
        if let Some(node) = &spot.node
            && node.kind == NodeKind::Symlink
            && !open_link
        {
            let target = self.inner().repo.read_link(node.id).await?;
            return Err(VfsError::IsSymlink(target));
        }
        Ok(spot)
    }

    /// Whether the node lies in this share. A document without a name is where it was.
    async fn is_inside(&self, node: NodeId) -> Result<bool, VfsError> {
        if node == self.root() {
            return Ok(true);
        }
        match self.inner().repo.path_of(node).await {
            Ok(path) => Ok(path.iter().any(|(dir, _)| *dir == self.root())),
            Err(RepoError::NotFound) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The node's path from the share's root.
    pub(crate) async fn path_of(&self, node: NodeId) -> Result<String, VfsError> {
        if node == self.root() {
            return Ok(String::new());
        }
        let path = self.inner().repo.path_of(node).await?;
        let inside = path.iter().skip_while(|(dir, _)| *dir != self.root());
        let names: Vec<&str> = inside.map(|(_, name)| name.as_ref()).collect();
        Ok(names.join("/"))
    }

    async fn walk(&self, path: &RelPath, links: Links) -> Result<Spot, VfsError> {
        let root = self.inner().repo.get(self.root()).await?;
        let mut way = Way {
            stack: vec![(String::new(), root)],
            todo: path.components().iter().rev().cloned().collect(),
            links: 0,
        };
        let quick = self.walk_plain(&mut way).await?;
        if let Some(spot) = quick {
            return Ok(spot);
        }
        // `walk_plain` stopped at something that is no folder, or at a name that does not exist.
        loop {
            let Some(name) = way.todo.pop() else {
                return way.end(None);
            };
            if name == ".." {
                way.stack.pop();
                if way.stack.is_empty() {
                    return Err(VfsError::AccessDenied);
                }
                continue;
            }
            let dir = way.top()?.clone();
            if dir.kind != NodeKind::Directory {
                return Err(if way.stack.len() > 1 {
                    VfsError::PathNotFound
                } else {
                    VfsError::NotDirectory
                });
            }
            self.may_pass(&dir).await?;
            let found = match self.inner().repo.lookup(dir.id, &name, self.case()).await {
                Ok(found) => found,
                Err(RepoError::NotFound) if way.todo.is_empty() => return way.end(Some(name)),
                Err(RepoError::NotFound) => return Err(VfsError::PathNotFound),
                Err(error) => return Err(error.into()),
            };
            let last = way.todo.is_empty();
            if found.attributes.kind == NodeKind::Symlink && (!last || links == Links::All) {
                self.follow(&mut way, &found, links).await?;
                continue;
            }
            way.push(found, self);
        }
    }

    /// The usual case in one question to the repository: every component is there and no link among them.
    async fn walk_plain(&self, way: &mut Way) -> Result<Option<Spot>, VfsError> {
        let names: Vec<&str> = way.todo.iter().rev().map(String::as_str).collect();
        if names.is_empty() {
            return way.end_plain();
        }
        let found = self
            .inner()
            .repo
            .resolve(self.root(), &names, self.case())
            .await?;
        let folders = found
            .into_iter()
            .take_while(|f| f.attributes.kind != NodeKind::Symlink);
        for found in folders {
            let dir = way.top()?.clone();
            self.may_pass(&dir).await?;
            way.todo.pop();
            way.push(found, self);
        }
        if way.todo.is_empty() {
            return way.end_plain();
        }
        Ok(None)
    }

    async fn follow(&self, way: &mut Way, link: &Found, links: Links) -> Result<(), VfsError> {
        let target = self.inner().repo.read_link(link.attributes.id).await?;
        way.links += 1;
        if links == Links::Never || target.starts_with('/') || way.links > LINKS_MAX {
            return Err(VfsError::IsSymlink(target));
        }
        for part in target.split('/').rev() {
            if !part.is_empty() && part != "." {
                way.todo.push(part.to_owned());
            }
        }
        if way.todo.len() > COMPONENTS_MAX {
            return Err(VfsError::NameTooLong);
        }
        Ok(())
    }

    /// Whether the caller may look up names in the folder. SMB users pass without (MS-FSA: bypass traverse checking).
    pub(crate) async fn may_pass(&self, dir: &Attributes) -> Result<(), VfsError> {
        if self.caller().client.protocol == Protocol::Smb {
            return Ok(());
        }
        let rights = self.inner().rights(&self.caller().identity, dir).await?;
        if rights.any(AccessMask::EXECUTE) {
            Ok(())
        } else {
            Err(VfsError::AccessDenied)
        }
    }
}

/// A path on its way from the root to its end.
struct Way {
    /// Names as stored, and the nodes; the root first.
    stack: Vec<(String, Attributes)>,
    /// Components still to go, the next one last.
    todo: Vec<String>,
    links: usize,
}

impl Way {
    fn top(&self) -> Result<&Attributes, VfsError> {
        self.stack.last().map(|(_, node)| node).ok_or(VfsError::Io)
    }

    fn push(&mut self, found: Found, tree: &Tree) {
        let mut node = found.attributes;
        tree.inner().overlay(&mut node);
        self.stack.push((Arc::as_ref(&found.name).to_owned(), node));
    }

    fn end_plain(&mut self) -> Result<Option<Spot>, VfsError> {
        self.end(None).map(Some)
    }

    /// The end of the path: what was reached last, or the missing name in it.
    fn end(&mut self, missing: Option<String>) -> Result<Spot, VfsError> {
        let (name, node) = self.stack.pop().ok_or(VfsError::Io)?;
        if let Some(missing) = missing {
            return Ok(Spot {
                dir: Some(node),
                name: missing,
                node: None,
            });
        }
        Ok(Spot {
            dir: self.stack.pop().map(|(_, dir)| dir),
            name,
            node: Some(node),
        })
    }
}
