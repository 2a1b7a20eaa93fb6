//! Nodes and content versions that go for ever; their objects become garbage in the same transaction.

use rusqlite::{OptionalExtension, params};
use sluice_repo::{ContentId, NodeId, Result};

use crate::error::db;
use crate::writer::{Touch, Tx};

/// Deletes a node without names, with everything that belongs to it.
pub(crate) fn purge(tx: &mut Tx<'_>, node: NodeId) -> Result<()> {
    let id = node.0 as i64;
    let run = |tx: &Tx<'_>, sql: &str| {
        tx.conn
            .prepare_cached(sql)
            .and_then(|mut s| s.execute([id]))
            .map_err(db)
    };
    let belongings: Option<(i64, i64, i64)> = tx
        .conn
        .prepare_cached("DELETE FROM node WHERE id = ?1 RETURNING version, ea_size, streams")
        .and_then(|mut s| {
            s.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()
        })
        .map_err(db)?;
    tx.touch(Touch::Node(node));
    tx.touch(Touch::Acl(node));
    tx.touch(Touch::Head(ContentId { node, stream: 0 }));
    run(tx, "DELETE FROM orphan WHERE node = ?1")?;
    let (version, ea_size, streams) = belongings.unwrap_or((1, 1, 1));
    if version > 0 || streams > 0 {
        run(tx, "DELETE FROM content WHERE node = ?1")?;
        throw_away(
            tx,
            "DELETE FROM object WHERE node = ?1 RETURNING id",
            params![id],
        )?;
    }
    if ea_size > 0 {
        run(tx, "DELETE FROM ea WHERE node = ?1")?;
    }
    if streams > 0 {
        for stream in 1..=streams {
            tx.touch(Touch::Head(ContentId {
                node,
                stream: stream as u32,
            }));
        }
        run(tx, "DELETE FROM stream WHERE node = ?1")?;
    }
    Ok(())
}

/// Deletes an orphan whose last open is closed; nothing if it has a name (again) or is gone.
pub(crate) fn release(tx: &mut Tx<'_>, node: NodeId) -> Result<()> {
    let orphan: Option<i64> = tx
        .conn
        .prepare_cached("SELECT node FROM orphan WHERE node = ?1")
        .and_then(|mut s| s.query_row([node.0 as i64], |row| row.get(0)).optional())
        .map_err(db)?;
    orphan.map_or(Ok(()), |_| purge(tx, node))
}

/// Deletes what opens of an earlier run have left.
pub(crate) fn release_all(tx: &mut Tx<'_>) -> Result<usize> {
    let orphans: Vec<i64> = tx
        .conn
        .prepare("SELECT node FROM orphan")
        .and_then(|mut s| {
            s.query_map([], |row| row.get(0))
                .and_then(Iterator::collect)
        })
        .map_err(db)?;
    for orphan in &orphans {
        purge(tx, NodeId(*orphan as u64))?;
    }
    Ok(orphans.len())
}

/// After versions of a content have gone: gives up the objects that none of the others needs.
pub(crate) fn give_up_objects(tx: &mut Tx<'_>, content: ContentId) -> Result<()> {
    throw_away(
        tx,
        "DELETE FROM object WHERE node = ?1 AND stream = ?2 AND last IS NOT NULL AND NOT EXISTS(
           SELECT 1 FROM content c WHERE c.node = ?1 AND c.stream = ?2 AND c.version BETWEEN first AND last)
         RETURNING id",
        params![content.node.0 as i64, content.stream],
    )
}

/// Moves the objects that a `DELETE .. RETURNING id` gives to the garbage.
pub(crate) fn throw_away(tx: &Tx<'_>, delete: &str, params: impl rusqlite::Params) -> Result<()> {
    let objects: Vec<Vec<u8>> = tx
        .conn
        .prepare_cached(delete)
        .and_then(|mut s| {
            s.query_map(params, |row| row.get(0))
                .and_then(Iterator::collect)
        })
        .map_err(db)?;
    for object in objects {
        tx.conn
            .prepare_cached("INSERT OR IGNORE INTO garbage(id, at) VALUES (?1, ?2)")
            .and_then(|mut s| s.execute(params![object, tx.now.0 / 1_000_000_000]))
            .map_err(db)?;
    }
    Ok(())
}
