//! Attributes, access control lists, extended attributes.

use std::sync::Arc;

use rusqlite::params;
use sluice_repo::{
    Acl, AttributeChange, Attributes, ExtendedAttribute, NAME_BYTES_MAX, NodeId, RepoError, Result,
    Timestamp,
};

use super::{apply, bump, save};
use crate::error::db;
use crate::writer::{Touch, Tx};

/// Largest value of one extended attribute, and most bytes of all of a node's.
const EA_VALUE_MAX: usize = 65_535;
const EA_TOTAL_MAX: i64 = 1 << 20;

/// Changes attributes, if the change time is still what `guard` says.
pub(crate) fn set(
    tx: &mut Tx<'_>,
    id: NodeId,
    change: &AttributeChange,
    guard: Option<Timestamp>,
) -> Result<Attributes> {
    let mut node = tx.node(id)?;
    if guard.is_some_and(|expected| expected != node.changed) {
        return Err(RepoError::GuardMismatch);
    }
    apply(&mut node, change, tx.now);
    save(tx, &node)?;
    Ok(node)
}

/// Stores or removes the ACL, and changes attributes with it.
pub(crate) fn set_acl(
    tx: &mut Tx<'_>,
    id: NodeId,
    acl: Option<Arc<Acl>>,
    change: &AttributeChange,
) -> Result<Attributes> {
    let mut node = tx.node(id)?;
    let acl = acl.map(|acl| tx.acl_id(&acl)).transpose()?;
    tx.conn
        .prepare_cached("UPDATE node SET acl = ?2 WHERE id = ?1")
        .and_then(|mut s| s.execute(params![id.0 as i64, acl]))
        .map_err(db)?;
    node.has_acl = acl.is_some();
    apply(&mut node, change, tx.now);
    tx.touch(Touch::Acl(id));
    save(tx, &node)?;
    Ok(node)
}

/// Sets or (empty value) removes extended attributes.
pub(crate) fn set_eas(
    tx: &mut Tx<'_>,
    id: NodeId,
    eas: &[ExtendedAttribute],
) -> Result<Attributes> {
    let mut node = tx.node(id)?;
    put_eas(tx, &mut node, eas)?;
    let now = tx.now;
    bump(&mut node, now);
    save(tx, &node)?;
    Ok(node)
}

/// Stores extended attributes and sets `ea_size`; the caller saves the node.
pub(crate) fn put_eas(tx: &Tx<'_>, node: &mut Attributes, eas: &[ExtendedAttribute]) -> Result<()> {
    let id = node.id.0 as i64;
    for ea in eas {
        if ea.name.is_empty() || ea.name.contains('\0') {
            return Err(RepoError::InvalidName);
        }
        if ea.name.len() > NAME_BYTES_MAX || ea.value.len() > EA_VALUE_MAX {
            return Err(RepoError::NameTooLong);
        }
        let fold = ea.name.to_ascii_lowercase();
        if ea.value.is_empty() {
            tx.conn
                .prepare_cached("DELETE FROM ea WHERE node = ?1 AND fold = ?2")
                .and_then(|mut s| s.execute(params![id, fold]))
                .map_err(db)?;
            continue;
        }
        tx.conn
            .prepare_cached(
                "INSERT INTO ea(node, fold, name, value) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT(node, fold) DO UPDATE SET value = excluded.value",
            )
            .and_then(|mut s| s.execute(params![id, fold, ea.name, ea.value]))
            .map_err(db)?;
    }
    // MS-FSCC 2.4.12: the size as a packed list, 4 bytes for the whole and 5 for each entry beside name and value.
    let size: i64 = tx
        .conn
        .prepare_cached(
            "SELECT coalesce(4 + sum(5 + length(CAST(name AS BLOB)) + length(value)), 0) FROM ea WHERE node = ?1",
        )
        .and_then(|mut s| s.query_row([id], |row| row.get(0)))
        .map_err(db)?;
    if size > EA_TOTAL_MAX {
        return Err(RepoError::TooMany);
    }
    node.ea_size = size as u32;
    Ok(())
}
