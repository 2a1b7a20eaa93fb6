//! Names that go.

use rusqlite::{OptionalExtension, params};
use sluice_repo::{
    Attributes, CaseMode, Cookie, LastLink, NodeId, NodeKind, RepoError, Result, Unlinked,
    fold_name,
};

use super::{bump, purge, save, save_folder};
use crate::error::db;
use crate::row::{self, Entry};
use crate::writer::{Touch, Tx};

/// Finds the entry that a request names, and that it still leads where the asker thinks.
pub(crate) fn find(tx: &Tx<'_>, parent: NodeId, name: &str, node: Option<NodeId>) -> Result<Entry> {
    expected(&tx.entries(parent, &fold_name(name))?, name, node)
}

/// The one among entries of equal fold that a request names, if it still leads where the asker thinks.
pub(crate) fn expected(entries: &[Entry], name: &str, node: Option<NodeId>) -> Result<Entry> {
    let entry = row::choose(entries, name, CaseMode::Sensitive).ok_or(RepoError::NotFound)?;
    match node {
        Some(node) if node != entry.node => Err(RepoError::Stale(node)),
        _ => Ok(entry.clone()),
    }
}

/// Removes a name.
pub(crate) fn unlink(
    tx: &mut Tx<'_>,
    parent: NodeId,
    name: &str,
    expected: Option<NodeId>,
    last: LastLink,
) -> Result<Unlinked> {
    let mut folder = tx.folder(parent)?;
    let entry = find(tx, parent, name, expected)?;
    let (attributes, orphaned) = take_name(tx, parent, &entry, last)?;
    let subfolders = if attributes.kind == NodeKind::Directory {
        -1
    } else {
        0
    };
    let before = save_folder(tx, &mut folder, subfolders)?;
    Ok(Unlinked {
        attributes,
        orphaned,
        parent: folder,
        parent_change_before: before,
    })
}

/// Removes an entry and what depends on it, the folder's own attributes aside.
pub(crate) fn take_name(
    tx: &mut Tx<'_>,
    parent: NodeId,
    entry: &Entry,
    last: LastLink,
) -> Result<(Attributes, bool)> {
    let mut node = tx.node(entry.node)?;
    if node.kind == NodeKind::Directory && has_entries(tx, node.id)? {
        return Err(RepoError::NotEmpty);
    }
    delete_entry(tx, parent, entry.cookie, &fold_name(&entry.name))?;
    node.link_count = if node.kind == NodeKind::Directory {
        0
    } else {
        node.link_count.saturating_sub(1)
    };
    let now = tx.now;
    bump(&mut node, now);
    if node.link_count > 0 {
        node.parent = other_parent(tx, node.id)?;
        save(tx, &node)?;
        return Ok((node, false));
    }
    node.parent = None;
    if last == LastLink::Delete {
        purge::purge(tx, node.id)?;
        return Ok((node, false));
    }
    tx.conn
        .prepare_cached("INSERT OR IGNORE INTO orphan(node) VALUES (?1)")
        .and_then(|mut s| s.execute([node.id.0 as i64]))
        .map_err(db)?;
    save(tx, &node)?;
    Ok((node, true))
}

/// Removes the row of a name.
pub(crate) fn delete_entry(
    tx: &mut Tx<'_>,
    parent: NodeId,
    cookie: Cookie,
    fold: &str,
) -> Result<()> {
    let mut entries = tx.entries(parent, fold)?;
    tx.conn
        .prepare_cached("DELETE FROM entry WHERE parent = ?1 AND cookie = ?2")
        .and_then(|mut s| s.execute(params![parent.0 as i64, cookie.0 as i64]))
        .map_err(db)?;
    entries.retain(|entry| entry.cookie != cookie);
    tx.touch(Touch::Name(parent, fold.to_owned(), entries));
    Ok(())
}

fn has_entries(tx: &Tx<'_>, folder: NodeId) -> Result<bool> {
    tx.conn
        .prepare_cached("SELECT EXISTS(SELECT 1 FROM entry WHERE parent = ?1)")
        .and_then(|mut s| s.query_row([folder.0 as i64], |row| row.get(0)))
        .map_err(db)
}

/// A folder that still names the node.
pub(crate) fn other_parent(tx: &Tx<'_>, node: NodeId) -> Result<Option<NodeId>> {
    let parent: Option<i64> = tx
        .conn
        .prepare_cached("SELECT parent FROM entry WHERE node = ?1 ORDER BY cookie LIMIT 1")
        .and_then(|mut s| s.query_row([node.0 as i64], |row| row.get(0)).optional())
        .map_err(db)?;
    Ok(parent.map(|p| NodeId(p as u64)))
}
