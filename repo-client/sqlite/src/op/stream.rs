//! Named streams (MS-FSCC 2.1.5).

use rusqlite::{OptionalExtension, params};
use sluice_repo::{ContentId, NAME_BYTES_MAX, NodeId, RepoError, Result, StreamInfo, fold_name};

use super::{bump, purge, save};
use crate::error::db;
use crate::row;
use crate::writer::{Touch, Tx};

/// Most streams of one node.
const STREAMS_MAX: i64 = 1024;

fn check_name(name: &str) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(RepoError::NameTooLong);
    }
    match name.is_empty() || name.bytes().any(|b| matches!(b, b'/' | b':' | b'\\' | 0)) {
        true => Err(RepoError::InvalidName),
        false => Ok(()),
    }
}

fn by_name(tx: &Tx<'_>, node: NodeId, name: &str) -> Result<Option<u32>> {
    tx.conn
        .prepare_cached("SELECT stream FROM stream WHERE node = ?1 AND fold = ?2")
        .and_then(|mut s| {
            s.query_row(params![node.0 as i64, fold_name(name)], |row| row.get(0))
                .optional()
        })
        .map_err(db)
}

/// `NotFound` unless the stream exists.
pub(crate) fn exists(tx: &Tx<'_>, content: ContentId) -> Result<()> {
    tx.conn
        .prepare_cached("SELECT 1 FROM stream WHERE node = ?1 AND stream = ?2")
        .and_then(|mut s| s.query_row(params![content.node.0 as i64, content.stream], |_| Ok(())))
        .map_err(db)
}

/// Makes an empty stream.
pub(crate) fn create(tx: &mut Tx<'_>, node: NodeId, name: &str) -> Result<StreamInfo> {
    check_name(name)?;
    row::node(tx.conn, node)?;
    if by_name(tx, node, name)?.is_some() {
        return Err(RepoError::Exists);
    }
    let count: i64 = tx
        .conn
        .query_row(
            "SELECT count(*) FROM stream WHERE node = ?1",
            [node.0 as i64],
            |row| row.get(0),
        )
        .map_err(db)?;
    if count >= STREAMS_MAX {
        return Err(RepoError::TooMany);
    }
    let stream: u32 = tx
        .conn
        .query_row(
            "UPDATE node SET streams = streams + 1 WHERE id = ?1 RETURNING streams",
            [node.0 as i64],
            |row| row.get(0),
        )
        .map_err(db)?;
    tx.conn
        .prepare_cached(
            "INSERT INTO stream(node, stream, name, fold, size, allocated) VALUES (?1, ?2, ?3, ?4, 0, 0)",
        )
        .and_then(|mut s| s.execute(params![node.0 as i64, stream, name, fold_name(name)]))
        .map_err(db)?;
    changed(tx, node)?;
    Ok(StreamInfo {
        name: name.to_owned(),
        stream,
        size: 0,
        allocated: 0,
    })
}

/// Gives a stream another name.
pub(crate) fn rename(tx: &mut Tx<'_>, content: ContentId, name: &str, replace: bool) -> Result<()> {
    check_name(name)?;
    exists(tx, content)?;
    match by_name(tx, content.node, name)? {
        Some(other) if other == content.stream => {}
        Some(_) if !replace => return Err(RepoError::Exists),
        Some(other) => delete(
            tx,
            ContentId {
                stream: other,
                ..content
            },
        )?,
        None => {}
    }
    tx.conn
        .prepare_cached("UPDATE stream SET name = ?3, fold = ?4 WHERE node = ?1 AND stream = ?2")
        .and_then(|mut s| {
            s.execute(params![
                content.node.0 as i64,
                content.stream,
                name,
                fold_name(name)
            ])
        })
        .map_err(db)?;
    changed(tx, content.node)
}

/// Deletes a stream with its content.
pub(crate) fn delete(tx: &mut Tx<'_>, content: ContentId) -> Result<()> {
    if content.stream == 0 {
        return Err(RepoError::WrongKind);
    }
    exists(tx, content)?;
    for table in ["stream", "content"] {
        tx.conn
            .prepare_cached(&format!(
                "DELETE FROM {table} WHERE node = ?1 AND stream = ?2"
            ))
            .and_then(|mut s| s.execute(params![content.node.0 as i64, content.stream]))
            .map_err(db)?;
    }
    purge::throw_away(
        tx,
        "DELETE FROM object WHERE node = ?1 AND stream = ?2 RETURNING id",
        params![content.node.0 as i64, content.stream],
    )?;
    tx.touch(Touch::Head(content));
    changed(tx, content.node)
}

/// Notes the length of a stream after a commit.
pub(crate) fn set_size(tx: &Tx<'_>, content: ContentId, size: u64, allocated: u64) -> Result<()> {
    tx.conn
        .prepare_cached(
            "UPDATE stream SET size = ?3, allocated = ?4 WHERE node = ?1 AND stream = ?2",
        )
        .and_then(|mut s| {
            s.execute(params![
                content.node.0 as i64,
                content.stream,
                size as i64,
                allocated as i64
            ])
        })
        .map_err(db)?;
    Ok(())
}

fn changed(tx: &mut Tx<'_>, id: NodeId) -> Result<()> {
    let mut node = row::node(tx.conn, id)?;
    let now = tx.now;
    bump(&mut node, now);
    save(tx, &node)
}
