//! Queries: what is read on a read connection, or by a change before it decides.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use sluice_repo::{
    Acl, ContentId, Cookie, DirEntry, DirPage, ExtendedAttribute, Head, Manifest, NodeId, NodeKind,
    ObjectId, ROOT, RepoError, Result, StreamInfo, Timestamp, Version, VersionInfo, VersionRefs,
};

use crate::error::{corrupt, db};
use crate::op::rename::DEPTH_MAX;
use crate::row::{self, attributes, node_columns};

/// A page of a listing.
pub(crate) fn page(conn: &Connection, dir: NodeId, after: Cookie, limit: usize) -> Result<DirPage> {
    if row::node(conn, dir)?.kind != NodeKind::Directory {
        return Err(RepoError::NotDirectory);
    }
    let mut statement = conn
        .prepare_cached(concat!(
            "SELECT e.name, e.cookie, ",
            node_columns!(),
            " FROM entry e JOIN node n ON n.id = e.node WHERE e.parent = ?1 AND e.cookie > ?2 ORDER BY e.cookie LIMIT ?3"
        ))
        .map_err(db)?;
    let wanted = i64::try_from(limit).unwrap_or(i64::MAX - 1);
    let rows = statement.query_map([dir.0 as i64, after.0 as i64, wanted + 1], |row| {
        Ok(DirEntry {
            name: row.get(0)?,
            cookie: Cookie(row.get::<_, i64>(1)? as u64),
            attributes: attributes(row, 2)?,
        })
    });
    let mut entries: Vec<DirEntry> = rows.and_then(Iterator::collect).map_err(db)?;
    let end = entries.len() <= limit;
    entries.truncate(limit);
    Ok(DirPage { entries, end })
}

/// Folders and names down to a node.
pub(crate) fn path(conn: &Connection, node: NodeId) -> Result<Vec<(NodeId, Arc<str>)>> {
    let mut path = Vec::new();
    let mut at = node;
    let mut statement = conn
        .prepare_cached("SELECT parent, name FROM entry WHERE node = ?1 ORDER BY cookie LIMIT 1")
        .map_err(db)?;
    while at != ROOT {
        let step = statement
            .query_row([at.0 as i64], |row| {
                Ok((NodeId(row.get::<_, i64>(0)? as u64), row.get(1)?))
            })
            .optional()
            .map_err(db)?
            .ok_or(RepoError::NotFound)?;
        at = step.0;
        path.push(step);
        if path.len() > DEPTH_MAX {
            return Err(corrupt("a folder contains itself"));
        }
    }
    path.reverse();
    Ok(path)
}

/// Target of a symbolic link.
pub(crate) fn target(conn: &Connection, node: NodeId) -> Result<String> {
    conn.prepare_cached("SELECT target FROM node WHERE id = ?1")
        .and_then(|mut s| {
            s.query_row([node.0 as i64], |row| row.get::<_, Option<String>>(0))
                .optional()
        })
        .map_err(db)?
        .ok_or(RepoError::Stale(node))?
        .ok_or(RepoError::WrongKind)
}

/// Number of a node's ACL.
pub(crate) fn acl_id(conn: &Connection, node: NodeId) -> Result<Option<i64>> {
    conn.prepare_cached("SELECT acl FROM node WHERE id = ?1")
        .and_then(|mut s| s.query_row([node.0 as i64], |row| row.get(0)).optional())
        .map_err(db)?
        .ok_or(RepoError::Stale(node))
}

/// An ACL by number.
pub(crate) fn acl(conn: &Connection, id: i64) -> Result<Acl> {
    let body: String = conn
        .prepare_cached("SELECT body FROM acl WHERE id = ?1")
        .and_then(|mut s| s.query_row([id], |row| row.get(0)).optional())
        .map_err(db)?
        .ok_or_else(|| corrupt("a reference to an ACL that is not there"))?;
    serde_json::from_str(&body).map_err(|_| corrupt("an ACL that can't be read"))
}

/// Extended attributes in the order of their creation.
pub(crate) fn eas(conn: &Connection, node: NodeId) -> Result<Vec<ExtendedAttribute>> {
    row::node(conn, node)?;
    conn.prepare_cached("SELECT name, value FROM ea WHERE node = ?1 ORDER BY id")
        .and_then(|mut s| {
            s.query_map([node.0 as i64], |row| {
                Ok(ExtendedAttribute {
                    name: row.get(0)?,
                    value: row.get(1)?,
                })
            })
            .and_then(Iterator::collect)
        })
        .map_err(db)
}

/// Named streams.
pub(crate) fn streams(conn: &Connection, node: NodeId) -> Result<Vec<StreamInfo>> {
    row::node(conn, node)?;
    conn.prepare_cached(
        "SELECT name, stream, size, allocated FROM stream WHERE node = ?1 ORDER BY stream",
    )
    .and_then(|mut s| {
        s.query_map([node.0 as i64], |row| {
            Ok(StreamInfo {
                name: row.get(0)?,
                stream: row.get(1)?,
                size: row.get::<_, i64>(2)? as u64,
                allocated: row.get::<_, i64>(3)? as u64,
            })
        })
        .and_then(Iterator::collect)
    })
    .map_err(db)
}

/// Current version and content.
pub(crate) fn head(conn: &Connection, content: ContentId) -> Result<Head> {
    let found: Option<(i64, Vec<u8>)> = conn
        .prepare_cached(
            "SELECT version, body FROM content WHERE node = ?1 AND stream = ?2 ORDER BY version DESC LIMIT 1",
        )
        .and_then(|mut s| {
            s.query_row(params![content.node.0 as i64, content.stream], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .map_err(db)?;
    match found {
        Some((version, body)) => Ok(Head {
            version: Version(version as u64),
            manifest: Manifest::decode(Bytes::from(body))?.into(),
        }),
        None if content.stream == 0 => {
            row::node(conn, content.node)?;
            Ok(Head {
                version: Version(0),
                manifest: Arc::default(),
            })
        }
        None => {
            conn.prepare_cached("SELECT 1 FROM stream WHERE node = ?1 AND stream = ?2")
                .and_then(|mut s| {
                    s.query_row(params![content.node.0 as i64, content.stream], |_| Ok(()))
                })
                .map_err(db)?;
            Ok(Head {
                version: Version(0),
                manifest: Arc::default(),
            })
        }
    }
}

/// Content of one version.
pub(crate) fn manifest(conn: &Connection, content: ContentId, version: u64) -> Result<Manifest> {
    let body: Vec<u8> = conn
        .prepare_cached("SELECT body FROM content WHERE node = ?1 AND stream = ?2 AND version = ?3")
        .and_then(|mut s| {
            s.query_row(
                params![content.node.0 as i64, content.stream, version as i64],
                |row| row.get(0),
            )
        })
        .map_err(db)?;
    Manifest::decode(Bytes::from(body))
}

/// Versions of a document, newest first.
pub(crate) fn versions(conn: &Connection, document: NodeId) -> Result<Vec<VersionInfo>> {
    row::node(conn, document)?;
    conn.prepare_cached(
        "SELECT version, size, at, author, protocol FROM content WHERE node = ?1 AND stream = 0 ORDER BY version DESC",
    )
    .and_then(|mut s| {
        s.query_map([document.0 as i64], |row| {
            Ok(VersionInfo {
                version: Version(row.get::<_, i64>(0)? as u64),
                size: row.get::<_, i64>(1)? as u64,
                committed: Timestamp(row.get(2)?),
                author: row.get(3)?,
                protocol: row.get(4)?,
            })
        })
        .and_then(Iterator::collect)
    })
    .map_err(db)
}

/// Objects given up before a time (seconds since 1970).
pub(crate) fn garbage(conn: &Connection, before_s: i64, limit: usize) -> Result<Vec<ObjectId>> {
    conn.prepare_cached("SELECT id FROM garbage WHERE at <= ?1 LIMIT ?2")
        .and_then(|mut s| {
            s.query_map(params![before_s, limit as i64], |row| {
                row.get::<_, [u8; 16]>(0)
            })
            .and_then(|rows| {
                rows.map(|id| id.map(|id| ObjectId(u128::from_be_bytes(id))))
                    .collect()
            })
        })
        .map_err(db)
}

/// Documents on which NFS clients may have locks.
pub(crate) fn locked(conn: &Connection) -> Result<Vec<NodeId>> {
    conn.prepare_cached("SELECT document FROM nfs_locked ORDER BY document")
        .and_then(|mut s| {
            s.query_map([], |row| row.get::<_, i64>(0))
                .and_then(|rows| rows.map(|id| id.map(|id| NodeId(id as u64))).collect())
        })
        .map_err(db)
}

/// Lengths of all documents and streams below a folder, its own streams included.
pub(crate) fn usage(conn: &Connection, root: NodeId) -> Result<u64> {
    conn.prepare_cached(
        "WITH RECURSIVE below(id) AS (
           SELECT ?1 UNION SELECT e.node FROM below b JOIN entry e ON e.parent = b.id)
         SELECT coalesce(sum(CASE WHEN n.kind = 1 THEN n.size ELSE 0 END + CASE WHEN n.streams > 0 THEN
           (SELECT coalesce(sum(s.size), 0) FROM stream s WHERE s.node = n.id) ELSE 0 END), 0)
         FROM below b JOIN node n ON n.id = b.id",
    )
    .and_then(|mut s| s.query_row([root.0 as i64], |row| row.get::<_, i64>(0)))
    .map(|bytes| bytes as u64)
    .map_err(db)
}

/// What versions refer to, in the order of node, stream, version.
pub(crate) fn references(
    conn: &Connection,
    after: Option<(ContentId, Version)>,
    limit: usize,
) -> Result<Vec<VersionRefs>> {
    let (content, version) = after.unwrap_or((
        ContentId {
            node: NodeId(0),
            stream: 0,
        },
        Version(0),
    ));
    let rows: Vec<(i64, u32, i64, Option<Vec<u8>>)> = conn
        .prepare_cached(
            "SELECT node, stream, version, CASE WHEN objects > 0 THEN body END FROM content
             WHERE (node, stream, version) > (?1, ?2, ?3) ORDER BY node, stream, version LIMIT ?4",
        )
        .and_then(|mut s| {
            s.query_map(
                params![
                    content.node.0 as i64,
                    content.stream,
                    version.0 as i64,
                    limit as i64
                ],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .and_then(Iterator::collect)
        })
        .map_err(db)?;
    rows.into_iter()
        .map(|(node, stream, version, body)| {
            let objects = match body {
                Some(body) => Manifest::decode(Bytes::from(body))?.objects,
                None => Vec::new(),
            };
            let content = ContentId {
                node: NodeId(node as u64),
                stream,
            };
            Ok(VersionRefs {
                content,
                version: Version(version as u64),
                objects,
            })
        })
        .collect()
}
