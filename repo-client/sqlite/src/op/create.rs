//! New nodes and new names.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};
use sluice_repo::{
    Attributes, CaseMode, ContentId, Created, DosAttributes, Head, NewKind, NewNode, NodeId,
    NodeKind, RepoError, Result, Version, check_name, fold_name,
};

use super::{attribute, commit, insert_entry, save, save_folder};
use crate::error::db;
use crate::row::{self, Entry};
use crate::writer::{Touch, Tx};

/// Longest target of a symbolic link in bytes.
const TARGET_BYTES_MAX: usize = 4096;
/// Most names of one document.
const LINKS_MAX: u32 = 32_000;

/// Makes a node with everything that belongs to it.
pub(crate) fn create(
    tx: &mut Tx<'_>,
    parent: NodeId,
    name: &str,
    case: CaseMode,
    new: NewNode,
) -> Result<Created> {
    check_name(name)?;
    let folder = tx.folder(parent)?;
    if let Some(existing) = entry(tx, parent, name, case)? {
        return repeated(tx, folder, existing.node, new.verifier);
    }
    if matches!(&new.kind, NewKind::Symlink { target } if target.len() > TARGET_BYTES_MAX) {
        return Err(RepoError::NameTooLong);
    }
    create_at(tx, folder, name, new)
}

/// The entry that has this name.
fn entry(tx: &Tx<'_>, parent: NodeId, name: &str, case: CaseMode) -> Result<Option<Entry>> {
    let found = tx.entries(parent, &fold_name(name))?;
    Ok(row::choose(&found, name, case).cloned())
}

fn repeated(
    tx: &Tx<'_>,
    parent: Attributes,
    node: NodeId,
    verifier: Option<[u8; 8]>,
) -> Result<Created> {
    let stored: Option<Vec<u8>> = tx
        .conn
        .query_row(
            "SELECT verifier FROM node WHERE id = ?1",
            [node.0 as i64],
            |row| row.get(0),
        )
        .optional()
        .map_err(db)?
        .flatten();
    match verifier {
        Some(wanted) if stored.as_deref() == Some(&wanted) => Ok(Created {
            attributes: tx.node(node)?,
            repeated: true,
            parent_change_before: parent.change_id,
            parent,
        }),
        _ => Err(RepoError::Exists),
    }
}

fn create_at(tx: &mut Tx<'_>, mut parent: Attributes, name: &str, new: NewNode) -> Result<Created> {
    let id = NodeId(tx.new_id()? as u64);
    let mut node = fresh(tx, id, parent.id, &new);
    let acl = new.acl.as_deref().map(|acl| tx.acl_id(acl)).transpose()?;
    node.has_acl = acl.is_some();
    insert_node(tx, &node, acl, &new)?;
    insert_entry(tx, parent.id, name, fold_name(name), id)?;
    if !new.eas.is_empty() {
        attribute::put_eas(tx, &mut node, &new.eas)?;
    }
    if let NewKind::File {
        content: Some(manifest),
    } = &new.kind
    {
        commit::first(tx, &mut node, manifest, &new.origin)?;
        node.modified = new.modified.unwrap_or(tx.now);
    }
    if node.ea_size > 0 || node.version.0 > 0 {
        save(tx, &node)?;
    }
    let before = save_folder(tx, &mut parent, i32::from(node.kind == NodeKind::Directory))?;
    let content = ContentId {
        node: id,
        stream: 0,
    };
    if node.kind == NodeKind::File && node.version.0 == 0 {
        tx.touch(Touch::NewHead(content, Head::default()));
    }
    tx.touch(Touch::Saved(Arc::new(node.clone())));
    Ok(Created {
        attributes: node,
        repeated: false,
        parent,
        parent_change_before: before,
    })
}

fn fresh(tx: &Tx<'_>, id: NodeId, parent: NodeId, new: &NewNode) -> Attributes {
    let (kind, size, device) = match &new.kind {
        NewKind::File { .. } => (NodeKind::File, 0, (0, 0)),
        NewKind::Directory => (NodeKind::Directory, 0, (0, 0)),
        NewKind::Symlink { target } => (NodeKind::Symlink, target.len() as u64, (0, 0)),
        NewKind::Pipe { socket: false } => (NodeKind::Fifo, 0, (0, 0)),
        NewKind::Pipe { socket: true } => (NodeKind::Socket, 0, (0, 0)),
        NewKind::Device {
            block: false,
            numbers,
        } => (NodeKind::CharDevice, 0, *numbers),
        NewKind::Device {
            block: true,
            numbers,
        } => (NodeKind::BlockDevice, 0, *numbers),
    };
    Attributes {
        id,
        kind,
        mode: new.mode & 0o7777,
        uid: new.uid,
        gid: new.gid,
        link_count: if kind == NodeKind::Directory { 2 } else { 1 },
        size,
        allocated: 0,
        accessed: new.accessed.unwrap_or(tx.now),
        modified: new.modified.unwrap_or(tx.now),
        changed: tx.now,
        created: new.created.unwrap_or(tx.now),
        dos: DosAttributes(new.dos.0 & DosAttributes::STORED),
        change_id: 1,
        version: Version(0),
        device,
        has_acl: false,
        ea_size: 0,
        parent: Some(parent),
    }
}

fn insert_node(tx: &Tx<'_>, node: &Attributes, acl: Option<i64>, new: &NewNode) -> Result<()> {
    let target = match &new.kind {
        NewKind::Symlink { target } => Some(target),
        _ => None,
    };
    tx.conn
        .prepare_cached(
            "INSERT INTO node(id, kind, mode, uid, gid, nlink, size, allocated, atime, mtime, ctime, btime, dos,
             change_id, version, dev_major, dev_minor, ea_size, parent, acl, verifier, target)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9, ?10, ?11, ?12, ?13, 0, ?14, ?15, 0, ?16, ?17, ?18, ?19)",
        )
        .and_then(|mut s| {
            s.execute(params![
                node.id.0 as i64,
                row::kind_code(node.kind),
                node.mode,
                node.uid,
                node.gid,
                node.link_count,
                node.size as i64,
                node.accessed.0,
                node.modified.0,
                node.changed.0,
                node.created.0,
                node.dos.0,
                node.change_id as i64,
                node.device.0,
                node.device.1,
                node.parent.map(|p| p.0 as i64),
                acl,
                new.verifier.as_ref().map(|v| v.as_slice()),
                target,
            ])
        })
        .map_err(db)?;
    Ok(())
}

/// Adds a name to a node that is no folder.
pub(crate) fn link(
    tx: &mut Tx<'_>,
    id: NodeId,
    parent: NodeId,
    name: &str,
    case: CaseMode,
) -> Result<Created> {
    check_name(name)?;
    let mut folder = tx.folder(parent)?;
    let mut node = tx.node(id)?;
    if node.kind == NodeKind::Directory {
        return Err(RepoError::WrongKind);
    }
    if entry(tx, parent, name, case)?.is_some() {
        return Err(RepoError::Exists);
    }
    if node.link_count >= LINKS_MAX {
        return Err(RepoError::TooMany);
    }
    if node.link_count == 0 {
        // An orphan gets a name again.
        tx.conn
            .execute("DELETE FROM orphan WHERE node = ?1", [id.0 as i64])
            .map_err(db)?;
    }
    insert_entry(tx, parent, name, fold_name(name), id)?;
    node.link_count += 1;
    node.parent = node.parent.or(Some(parent));
    let now = tx.now;
    super::bump(&mut node, now);
    save(tx, &node)?;
    let before = save_folder(tx, &mut folder, 0)?;
    Ok(Created {
        attributes: node,
        repeated: false,
        parent: folder,
        parent_change_before: before,
    })
}
