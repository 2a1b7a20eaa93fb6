//! Moving a name, replacing another one in the same transaction.

use rusqlite::{OptionalExtension, params};
use sluice_repo::{
    Attributes, CaseMode, LastLink, NodeId, NodeKind, ROOT, Renamed, Replace, RepoError, Result,
    Unlinked, check_name, fold_name,
};

use super::remove::{delete_entry, expected, other_parent, take_name};
use super::{bump, insert_entry, save, save_folder};
use crate::error::{corrupt, db};
use crate::row::{self, Entry};
use crate::writer::{Touch, Tx};

/// Deepest folder; deeper means that the tree has a loop.
pub(crate) const DEPTH_MAX: usize = 100_000;

/// What to move where.
pub(crate) struct Move {
    pub(crate) old_parent: NodeId,
    pub(crate) old_name: String,
    pub(crate) expected: Option<NodeId>,
    pub(crate) new_parent: NodeId,
    pub(crate) new_name: String,
    pub(crate) case: CaseMode,
    pub(crate) replace: Replace,
}

/// An entry on its way, and all that stands around it, as it was before.
struct Moved {
    entry: Entry,
    node: Attributes,
    old_folder: Attributes,
    new_folder: Attributes,
    /// What else has the old name, folded.
    old_names: Vec<Entry>,
    /// What else has the new name, folded; without what is replaced.
    new_names: Vec<Entry>,
}

/// Moves an entry.
pub(crate) fn rename(tx: &mut Tx<'_>, wanted: &Move) -> Result<Renamed> {
    check_name(&wanted.new_name)?;
    let same_folder = wanted.old_parent == wanted.new_parent;
    let old_folder = tx.folder(wanted.old_parent)?;
    let old_fold = fold_name(&wanted.old_name);
    let mut old_names = tx.entries(wanted.old_parent, &old_fold)?;
    let entry = expected(&old_names, &wanted.old_name, wanted.expected)?;
    old_names.retain(|e| e.cookie != entry.cookie);
    let new_folder = if same_folder {
        old_folder.clone()
    } else {
        tx.folder(wanted.new_parent)?
    };
    let node = tx.node(entry.node)?;
    if node.kind == NodeKind::Directory {
        check_not_inside(tx, node.id, new_folder.id)?;
    }
    let new_fold = fold_name(&wanted.new_name);
    let mut new_names = if same_folder && new_fold == old_fold {
        old_names.clone()
    } else {
        tx.entries(wanted.new_parent, &new_fold)?
    };
    let target = row::choose(&new_names, &wanted.new_name, wanted.case).cloned();
    if target.as_ref().is_some_and(|t| t.node == node.id)
        || (same_folder && wanted.old_name == wanted.new_name)
    {
        return Ok(Renamed {
            attributes: node,
            replaced: None,
            same_node: true,
            old_parent: (old_folder.clone(), old_folder.change_id),
            new_parent: (new_folder.clone(), new_folder.change_id),
        });
    }
    let replaced = match &target {
        None => None,
        Some(target) => {
            new_names.retain(|e| e.cookie != target.cookie);
            Some(replace(tx, wanted, &node, target)?)
        }
    };
    let moved = Moved {
        entry,
        node,
        old_folder,
        new_folder,
        old_names,
        new_names,
    };
    carry_out(tx, wanted, moved, (old_fold, new_fold), replaced)
}

fn replace(
    tx: &mut Tx<'_>,
    wanted: &Move,
    node: &Attributes,
    target: &Entry,
) -> Result<(Attributes, bool)> {
    let last: LastLink = match wanted.replace {
        Replace::Node(id, last) if id == target.node => last,
        Replace::Node(id, _) => return Err(RepoError::Stale(id)),
        Replace::No => return Err(RepoError::Exists),
    };
    let kind = tx.node(target.node)?.kind;
    match (
        node.kind == NodeKind::Directory,
        kind == NodeKind::Directory,
    ) {
        (true, false) => return Err(RepoError::NotDirectory),
        (false, true) => return Err(RepoError::IsDirectory),
        _ => {}
    }
    take_name(tx, wanted.new_parent, target, last)
}

fn carry_out(
    tx: &mut Tx<'_>,
    wanted: &Move,
    moved: Moved,
    (old_fold, new_fold): (String, String),
    replaced: Option<(Attributes, bool)>,
) -> Result<Renamed> {
    let Moved {
        entry,
        mut node,
        mut old_folder,
        mut new_folder,
        ..
    } = moved;
    let is_folder = i32::from(node.kind == NodeKind::Directory);
    let lost = i32::from(
        replaced
            .as_ref()
            .is_some_and(|(a, _)| a.kind == NodeKind::Directory),
    );
    let (old_before, new_before);
    if old_folder.id == new_folder.id {
        change_name(tx, wanted, &entry, &new_fold)?;
        // All entries of both names are known here: no need to look again.
        if old_fold != new_fold {
            tx.touch(Touch::Name(old_folder.id, old_fold, moved.old_names));
        }
        let mut names = moved.new_names;
        names.push(Entry {
            name: wanted.new_name.as_str().into(),
            ..entry
        });
        names.sort_by_key(|e| e.cookie);
        tx.touch(Touch::Name(old_folder.id, new_fold, names));
        old_before = save_folder(tx, &mut old_folder, -lost)?;
        new_before = old_before;
        new_folder = old_folder.clone();
    } else {
        delete_entry(tx, old_folder.id, entry.cookie, &old_fold)?;
        insert_entry(tx, new_folder.id, &wanted.new_name, new_fold, node.id)?;
        old_before = save_folder(tx, &mut old_folder, -is_folder)?;
        new_before = save_folder(tx, &mut new_folder, is_folder - lost)?;
        node.parent = other_parent(tx, node.id)?;
    }
    let now = tx.now;
    bump(&mut node, now);
    save(tx, &node)?;
    Ok(Renamed {
        attributes: node,
        replaced: replaced.map(|(attributes, orphaned)| Unlinked {
            attributes,
            orphaned,
            parent: new_folder.clone(),
            parent_change_before: new_before,
        }),
        same_node: false,
        old_parent: (old_folder, old_before),
        new_parent: (new_folder, new_before),
    })
}

/// Writes the new name into the entry, which keeps its place in the listing.
fn change_name(tx: &Tx<'_>, wanted: &Move, entry: &Entry, fold: &str) -> Result<()> {
    tx.conn
        .prepare_cached("UPDATE entry SET name = ?3, fold = ?4 WHERE parent = ?1 AND cookie = ?2")
        .and_then(|mut s| {
            s.execute(params![
                wanted.old_parent.0 as i64,
                entry.cookie.0 as i64,
                wanted.new_name,
                fold
            ])
        })
        .map_err(db)
        .and_then(|changed| match changed {
            1 => Ok(()),
            _ => Err(RepoError::Stale(entry.node)),
        })
}

/// Refuses to move a folder into itself or below itself.
fn check_not_inside(tx: &Tx<'_>, folder: NodeId, destination: NodeId) -> Result<()> {
    let mut at = destination;
    for _ in 0..DEPTH_MAX {
        if at == folder {
            return Err(RepoError::IntoItself);
        }
        if at == ROOT {
            return Ok(());
        }
        let parent: Option<i64> = tx
            .conn
            .prepare_cached("SELECT parent FROM node WHERE id = ?1")
            .and_then(|mut s| s.query_row([at.0 as i64], |row| row.get(0)).optional())
            .map_err(db)?
            .flatten();
        at = NodeId(parent.ok_or(RepoError::Stale(at))? as u64);
    }
    Err(corrupt("a folder contains itself"))
}
