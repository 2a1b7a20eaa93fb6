//! The changes, one group a file. Each runs inside a savepoint of the writer's transaction: it reads what it needs,
//! refuses or changes, and names what it made stale.

pub(crate) mod accounts;
pub(crate) mod attribute;
pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod create;
pub(crate) mod purge;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod stream;

use std::sync::Arc;

use rusqlite::params;
use sluice_repo::{AttributeChange, Attributes, Cookie, NodeId, Result, Timestamp};

use crate::error::db;
use crate::row::Entry;
use crate::writer::{Touch, Tx};

/// Writes back everything of a node but its ACL.
pub(crate) fn save(tx: &mut Tx<'_>, node: &Attributes) -> Result<()> {
    tx.conn
        .prepare_cached(
            "UPDATE node SET mode = ?2, uid = ?3, gid = ?4, nlink = ?5, size = ?6, allocated = ?7, atime = ?8,
             mtime = ?9, ctime = ?10, btime = ?11, dos = ?12, change_id = ?13, version = ?14, ea_size = ?15, parent = ?16
             WHERE id = ?1",
        )
        .and_then(|mut s| {
            s.execute(params![
                node.id.0 as i64,
                node.mode,
                node.uid,
                node.gid,
                node.link_count,
                node.size as i64,
                node.allocated as i64,
                node.accessed.0,
                node.modified.0,
                node.changed.0,
                node.created.0,
                node.dos.0,
                node.change_id as i64,
                node.version.0 as i64,
                node.ea_size,
                node.parent.map(|p| p.0 as i64),
            ])
        })
        .map_err(db)?;
    tx.touch(Touch::Saved(Arc::new(node.clone())));
    Ok(())
}

/// Something about the node changed now.
pub(crate) fn bump(node: &mut Attributes, now: Timestamp) {
    node.changed = now;
    node.change_id += 1;
}

/// Saves a folder whose entries changed, `subfolders` more of them folders; returns its `change_id` before.
pub(crate) fn save_folder(
    tx: &mut Tx<'_>,
    folder: &mut Attributes,
    subfolders: i32,
) -> Result<u64> {
    let before = folder.change_id;
    bump(folder, tx.now);
    folder.modified = tx.now;
    folder.link_count = folder.link_count.saturating_add_signed(subfolders);
    save(tx, folder)?;
    Ok(before)
}

/// Applies what a client asked for.
pub(crate) fn apply(node: &mut Attributes, change: &AttributeChange, now: Timestamp) {
    fn set<T: Copy>(field: &mut T, wanted: Option<T>) {
        if let Some(wanted) = wanted {
            *field = wanted;
        }
    }
    set(&mut node.mode, change.mode.map(|m| m & 0o7777));
    set(&mut node.uid, change.uid);
    set(&mut node.gid, change.gid);
    set(&mut node.accessed, change.accessed);
    set(&mut node.modified, change.modified);
    set(&mut node.created, change.created);
    set(&mut node.dos, change.dos);
    bump(node, change.changed.unwrap_or(now));
}

/// Adds a name.
pub(crate) fn insert_entry(
    tx: &mut Tx<'_>,
    parent: NodeId,
    name: &str,
    fold: String,
    node: NodeId,
) -> Result<()> {
    let mut entries = tx.entries(parent, &fold)?;
    let cookie = tx.new_id()?;
    tx.conn
        .prepare_cached(
            "INSERT INTO entry(parent, cookie, name, fold, node) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .and_then(|mut s| s.execute(params![parent.0 as i64, cookie, name, fold, node.0 as i64]))
        .map_err(db)?;
    // Cookies grow, so the newest comes last.
    entries.push(Entry {
        name: name.into(),
        cookie: Cookie(cookie as u64),
        node,
    });
    tx.touch(Touch::Name(parent, fold, entries));
    Ok(())
}
