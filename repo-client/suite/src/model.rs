//! A reference model of the namespace, small enough to be seen to be right, and random steps that are made on it and on
//! a repository side by side.

use std::collections::HashMap;

use proptest::prelude::*;
use sluice_repo::{
    CaseMode, LastLink, NameRef, NodeId, NodeKind, ROOT, Replace, RepoError, Repository, fold_name,
};

use crate::tools::*;

/// Names that meet each other in case and composition.
const NAMES: &[&str] = &["a", "A", "b", "ä", "Ä", "a\u{308}", "long name"];

/// One change, opaque outside. Nodes are numbered in the order of their creation (modulo those that exist), 0 is the root.
#[derive(Clone, Debug)]
pub struct Step(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Create {
        parent: usize,
        name: usize,
        folder: bool,
        insensitive: bool,
    },
    Link {
        node: usize,
        parent: usize,
        name: usize,
    },
    Unlink {
        parent: usize,
        name: usize,
    },
    Rename {
        from: (usize, usize),
        to: (usize, usize),
        insensitive: bool,
        replace: bool,
    },
    Commit {
        node: usize,
        right: bool,
    },
}

/// Random steps.
pub fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let (node, name) = (0usize..12, 0..NAMES.len());
    let step = prop_oneof![
        4 => (node.clone(), name.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(parent, name, folder, insensitive)| Kind::Create { parent, name, folder, insensitive }),
        1 => (node.clone(), node.clone(), name.clone()).prop_map(|(node, parent, name)| Kind::Link { node, parent, name }),
        2 => (node.clone(), name.clone()).prop_map(|(parent, name)| Kind::Unlink { parent, name }),
        4 => ((node.clone(), name.clone()), (node.clone(), name), any::<bool>(), any::<bool>())
            .prop_map(|(from, to, insensitive, replace)| Kind::Rename { from, to, insensitive, replace }),
        2 => (node, any::<bool>()).prop_map(|(node, right)| Kind::Commit { node, right }),
    ];
    proptest::collection::vec(step.prop_map(Step), 1..max)
}

/// A node of the model.
#[derive(Clone, Debug, Default)]
struct Node {
    folder: bool,
    /// Names in listing order (folders).
    entries: Vec<(String, NodeId)>,
    links: u32,
    version: u64,
}

/// What the namespace should be.
#[derive(Debug)]
pub struct Model {
    nodes: HashMap<NodeId, Node>,
    /// Nodes in the order of their creation.
    known: Vec<NodeId>,
}

impl Default for Model {
    fn default() -> Self {
        let root = Node {
            folder: true,
            links: 2,
            ..Node::default()
        };
        Model {
            nodes: HashMap::from([(ROOT, root)]),
            known: vec![ROOT],
        }
    }
}

impl Model {
    fn pick(&self, n: usize) -> NodeId {
        self.known[n % self.known.len()]
    }

    fn folder(&self, id: NodeId) -> Result<&Node, RepoError> {
        let node = self.nodes.get(&id).ok_or(RepoError::Stale(id))?;
        if node.folder {
            Ok(node)
        } else {
            Err(RepoError::NotDirectory)
        }
    }

    /// Position and node of an entry; with `skip`, as if that position were not there.
    fn find(
        &self,
        parent: NodeId,
        name: &str,
        insensitive: bool,
        skip: Option<usize>,
    ) -> Option<(usize, NodeId)> {
        let entries = &self.nodes.get(&parent)?.entries;
        let others = || entries.iter().enumerate().filter(|(n, _)| Some(*n) != skip);
        let exact = others().find(|(_, e)| e.0 == name);
        let folded = others().find(|(_, e)| insensitive && fold_name(&e.0) == fold_name(name));
        exact.or(folded).map(|(n, e)| (n, e.1))
    }

    fn entries(&mut self, parent: NodeId) -> &mut Vec<(String, NodeId)> {
        &mut self.nodes.entry(parent).or_default().entries
    }

    fn add(&mut self, parent: NodeId, name: &str, id: NodeId) {
        self.entries(parent).push((name.to_owned(), id));
        if self.nodes[&id].folder {
            self.nodes.entry(parent).or_default().links += 1;
        }
    }

    fn take(&mut self, parent: NodeId, at: usize) -> NodeId {
        let (_, id) = self.entries(parent).remove(at);
        if self.nodes[&id].folder {
            self.nodes.entry(parent).or_default().links -= 1;
        }
        id
    }

    fn drop_name(&mut self, parent: NodeId, at: usize) -> Result<(), RepoError> {
        let id = self.entries(parent)[at].1;
        if !self.nodes[&id].entries.is_empty() {
            return Err(RepoError::NotEmpty);
        }
        self.take(parent, at);
        let node = self.nodes.entry(id).or_default();
        node.links -= if node.folder { 2 } else { 1 };
        if node.links == 0 {
            self.nodes.remove(&id);
        }
        Ok(())
    }

    fn inside(&self, folder: NodeId, of: NodeId) -> bool {
        folder == of
            || self.nodes[&of]
                .entries
                .iter()
                .any(|(_, child)| self.inside(folder, *child))
    }

    fn rename(
        &mut self,
        from: (NodeId, &str),
        to: (NodeId, &str),
        insensitive: bool,
        replace: bool,
    ) -> Result<(), RepoError> {
        self.folder(from.0)?;
        let (at, id) = self
            .find(from.0, from.1, false, None)
            .ok_or(RepoError::NotFound)?;
        self.folder(to.0)?;
        if self.nodes[&id].folder && self.inside(to.0, id) {
            return Err(RepoError::IntoItself);
        }
        let skip = (from.0 == to.0).then_some(at);
        let target = self.find(to.0, to.1, insensitive, skip);
        if target.is_some_and(|(_, other)| other == id) || from == to {
            return Ok(());
        }
        if let Some((_, other)) = target {
            match (self.nodes[&id].folder, self.nodes[&other].folder) {
                _ if !replace => return Err(RepoError::Exists),
                (true, false) => return Err(RepoError::NotDirectory),
                (false, true) => return Err(RepoError::IsDirectory),
                _ => {}
            }
        }
        let mut at = at;
        if let Some((place, _)) = target {
            self.drop_name(to.0, place)?;
            if from.0 == to.0 && place < at {
                at -= 1;
            }
        }
        if from.0 == to.0 {
            self.entries(from.0)[at].0 = to.1.to_owned();
        } else {
            self.take(from.0, at);
            self.add(to.0, to.1, id);
        }
        Ok(())
    }
}

/// Makes the steps on both and compares the answers, then the whole trees, then lets the repository check itself.
pub async fn run_steps(repo: &dyn Repository, steps: &[Step]) {
    let mut model = Model::default();
    for (n, step) in steps.iter().enumerate() {
        let (expected, got) = make(repo, &mut model, step, n as u128 + 1).await;
        assert_eq!(got, expected, "step {n}: {step:?}");
    }
    compare(repo, &model).await;
    assert_eq!(
        repo.check(false).await.expect("check").problems,
        Vec::<String>::new()
    );
}

type Outcome = Result<(), RepoError>;

async fn make(
    repo: &dyn Repository,
    model: &mut Model,
    step: &Step,
    op: u128,
) -> (Outcome, Outcome) {
    let mode = |insensitive| {
        if insensitive {
            CaseMode::Insensitive
        } else {
            CaseMode::Sensitive
        }
    };
    match step.0 {
        Kind::Create {
            parent,
            name,
            folder,
            insensitive,
        } => {
            let (parent, name) = (model.pick(parent), NAMES[name]);
            let kind = if folder {
                sluice_repo::NewKind::Directory
            } else {
                sluice_repo::NewKind::File { content: None }
            };
            let made = repo
                .create(parent, name, mode(insensitive), new_node(kind))
                .await;
            let expected = model.folder(parent).map(|_| ()).and_then(|()| {
                model
                    .find(parent, name, insensitive, None)
                    .map_or(Ok(()), |_| Err(RepoError::Exists))
            });
            if let Ok(made) = &made {
                let id = made.attributes.id;
                let links = if folder { 2 } else { 1 };
                model.nodes.insert(
                    id,
                    Node {
                        folder,
                        links,
                        ..Node::default()
                    },
                );
                model.known.push(id);
                model.add(parent, name, id);
            }
            (expected, made.map(|_| ()))
        }
        Kind::Link { node, parent, name } => {
            let (id, parent, name) = (model.pick(node), model.pick(parent), NAMES[name]);
            let got = repo
                .link(id, parent, name, CaseMode::Sensitive)
                .await
                .map(|_| ());
            let expected = model.folder(parent).map(|_| ()).and_then(|()| {
                let node = model.nodes.get(&id).ok_or(RepoError::Stale(id))?;
                match model.find(parent, name, false, None) {
                    _ if node.folder => Err(RepoError::WrongKind),
                    Some(_) => Err(RepoError::Exists),
                    None => Ok(()),
                }
            });
            if expected.is_ok() {
                model.add(parent, name, id);
                model.nodes.entry(id).or_default().links += 1;
            }
            (expected, got)
        }
        Kind::Unlink { parent, name } => {
            let (parent, name) = (model.pick(parent), NAMES[name]);
            let got = unlink(repo, parent, name).await.map(|_| ());
            let found = model.folder(parent).map(|_| ()).and_then(|()| {
                model
                    .find(parent, name, false, None)
                    .ok_or(RepoError::NotFound)
            });
            (found.and_then(|(at, _)| model.drop_name(parent, at)), got)
        }
        Kind::Rename {
            from,
            to,
            insensitive,
            replace,
        } => {
            let from = (model.pick(from.0), NAMES[from.1]);
            let to = (model.pick(to.0), NAMES[to.1]);
            let moved = model
                .find(from.0, from.1, false, None)
                .map(|(at, _)| at)
                .filter(|_| from.0 == to.0);
            let target = model.find(to.0, to.1, insensitive, moved).map(|(_, id)| id);
            let replacement = match target {
                Some(id) if replace => Replace::Node(id, LastLink::Delete),
                _ => Replace::No,
            };
            let entry = NameRef {
                parent: from.0,
                name: from.1,
                node: None,
            };
            let got = repo
                .rename(entry, to.0, to.1, mode(insensitive), replacement)
                .await
                .map(|_| ());
            (model.rename(from, to, insensitive, replace), got)
        }
        Kind::Commit { node, right } => {
            let id = model.pick(node);
            let version = model.nodes.get(&id).map_or(0, |n| n.version);
            let base = if right { version } else { version + 1 };
            let got = commit(repo, commit_of(main_content(id), base, op, "text"))
                .await
                .map(|_| ());
            let expected = match model.nodes.get_mut(&id) {
                None => Err(RepoError::Stale(id)),
                Some(node) if node.folder => Err(RepoError::IsDirectory),
                Some(node) if !right => {
                    Err(RepoError::Conflict(sluice_repo::Version(node.version)))
                }
                Some(node) => {
                    node.version += 1;
                    Ok(())
                }
            };
            (expected, got)
        }
    }
}

async fn compare(repo: &dyn Repository, model: &Model) {
    for (id, node) in &model.nodes {
        let attributes = repo.get(*id).await.expect("a node of the model");
        assert_eq!(attributes.link_count, node.links, "links of {id:?}");
        assert_eq!(attributes.version.0, node.version, "version of {id:?}");
        assert_eq!(attributes.kind == NodeKind::Directory, node.folder);
        if node.folder {
            let names: Vec<String> = node.entries.iter().map(|(name, _)| name.clone()).collect();
            assert_eq!(listed(repo, *id).await, names, "entries of {id:?}");
        }
        for (name, child) in &node.entries {
            let found = repo
                .lookup(*id, name, CaseMode::Insensitive)
                .await
                .expect("an entry of the model");
            assert_eq!(found.attributes.id, *child);
        }
    }
    assert_eq!(repo.node_count().await, Ok(model.nodes.len() as u64));
}
