//! Queries. Each is one statement, so that it sees one state of the database.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use sluice_lockmgr::Member;
use sluice_repo::call::CallId;
use sluice_repo::{
    Acl, Attributes, CaseMode, ContentId, Cookie, DirEntry, DirPage, ExtendedAttribute, Found,
    Head, Manifest, NodeId, NodeKind, ObjectId, ROOT, RepoError, Result, StreamInfo, Timestamp,
    Version, VersionInfo, VersionRefs, fold_name,
};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::error::{corrupt, db};
use crate::reader::Readers;
use crate::row::{attributes, big, has_node, int, maybe, node_columns};

/// Deepest folder; deeper means that the tree has a loop.
const DEPTH_MAX: i32 = 100_000;

fn text(row: &PgRow, column: usize) -> Result<String> {
    row.try_get(column).map_err(db)
}

fn bytes(row: &PgRow, column: usize) -> Result<Bytes> {
    row.try_get::<Vec<u8>, _>(column)
        .map(Bytes::from)
        .map_err(db)
}

fn object(row: &PgRow, column: usize) -> Result<ObjectId> {
    bytes(row, column)?
        .as_ref()
        .try_into()
        .map(|id| ObjectId(u128::from_be_bytes(id)))
        .map_err(|_| corrupt("an object's name that can't be read"))
}

/// The start node, then what each name leads to, as far as it goes.
const WALK: &str = concat!(
    "WITH RECURSIVE walk AS (
       SELECT 0 AS depth, $1::bigint AS at, ''::text COLLATE \"C\" AS name
       UNION ALL
       SELECT w.depth + 1, e.node, e.name FROM walk w CROSS JOIN LATERAL (
         SELECT x.node, x.name FROM entry x WHERE x.parent = w.at AND x.fold = ($2::text[])[w.depth + 1]
           AND ($4 OR x.name = ($3::text[])[w.depth + 1])
         ORDER BY x.name = ($3::text[])[w.depth + 1] DESC, x.cookie LIMIT 1) AS e
       WHERE w.depth < cardinality($2::text[]))
     SELECT w.name, ",
    node_columns!(),
    " FROM walk w JOIN node n ON n.id = w.at ORDER BY w.depth"
);

/// Walks down; the first result is the start (missing if it is gone).
async fn walk(
    readers: &Readers,
    start: NodeId,
    names: &[&str],
    case: CaseMode,
) -> Result<Vec<Found>> {
    let folds: Vec<String> = names.iter().map(|name| fold_name(name)).collect();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    readers
        .rows(WALK, |q| {
            q.bind(big(start.0))
                .bind(folds.clone())
                .bind(names.clone())
                .bind(case == CaseMode::Insensitive)
        })
        .await?
        .iter()
        .map(|row| {
            Ok(Found {
                name: text(row, 0)?.into(),
                attributes: attributes(row, 1)?,
            })
        })
        .collect()
}

/// Why nothing of the first name was found.
fn nothing_in(start: NodeId, found: Option<&Found>) -> RepoError {
    match found.map(|f| f.attributes.kind) {
        None => RepoError::Stale(start),
        Some(NodeKind::Directory) => RepoError::NotFound,
        Some(_) => RepoError::NotDirectory,
    }
}

pub(crate) async fn lookup(
    readers: &Readers,
    parent: NodeId,
    name: &str,
    case: CaseMode,
) -> Result<Found> {
    let mut found = walk(readers, parent, &[name], case).await?;
    match found.pop() {
        Some(last) if !found.is_empty() => Ok(last),
        start => Err(nothing_in(parent, start.as_ref())),
    }
}

pub(crate) async fn resolve(
    readers: &Readers,
    start: NodeId,
    names: &[&str],
    case: CaseMode,
) -> Result<Vec<Found>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = walk(readers, start, names, case).await?;
    if found.len() < 2 {
        return match nothing_in(start, found.first()) {
            RepoError::NotFound => Ok(Vec::new()),
            error => Err(error),
        };
    }
    found.remove(0);
    Ok(found)
}

pub(crate) async fn node(readers: &Readers, id: NodeId) -> Result<Attributes> {
    const GET: &str = concat!("SELECT ", node_columns!(), " FROM node n WHERE n.id = $1");
    let row = readers.row(GET, |q| q.bind(big(id.0))).await?;
    attributes(&row.ok_or(RepoError::Stale(id))?, 0)
}

/// A page of a listing.
pub(crate) async fn page(
    readers: &Readers,
    dir: NodeId,
    after: Cookie,
    limit: usize,
) -> Result<DirPage> {
    const PAGE: &str = concat!(
        "SELECT d.kind, e.name, e.cookie, ",
        node_columns!(),
        " FROM node d LEFT JOIN LATERAL (
            SELECT x.name, x.cookie, x.node FROM entry x WHERE x.parent = d.id AND x.cookie > $2
            ORDER BY x.cookie LIMIT $3) AS e ON true
          LEFT JOIN node n ON n.id = e.node WHERE d.id = $1 ORDER BY e.cookie"
    );
    let wanted = i64::try_from(limit).unwrap_or(i64::MAX - 1);
    let rows = readers
        .rows(PAGE, |q| {
            q.bind(big(dir.0)).bind(big(after.0)).bind(wanted + 1)
        })
        .await?;
    let first = rows.first().ok_or(RepoError::Stale(dir))?;
    if int(first, 0)? != 2 {
        return Err(RepoError::NotDirectory);
    }
    let mut entries = Vec::with_capacity(rows.len());
    for row in &rows {
        if has_node(row, 3)? {
            entries.push(DirEntry {
                name: text(row, 1)?,
                cookie: Cookie(int(row, 2)? as u64),
                attributes: attributes(row, 3)?,
            });
        }
    }
    let end = entries.len() <= limit;
    entries.truncate(limit);
    Ok(DirPage { entries, end })
}

/// Folders and names down to a node.
pub(crate) async fn path(readers: &Readers, node: NodeId) -> Result<Vec<(NodeId, Arc<str>)>> {
    const PATH: &str = "WITH RECURSIVE up AS (
           SELECT 0 AS depth, $1::bigint AS at, ''::text COLLATE \"C\" AS name
           UNION ALL
           SELECT u.depth + 1, e.parent, e.name FROM up u CROSS JOIN LATERAL (
             SELECT x.parent, x.name FROM entry x WHERE x.node = u.at ORDER BY x.cookie LIMIT 1) AS e
           WHERE u.at <> 1 AND u.depth < $2)
         SELECT at, name FROM up ORDER BY depth DESC";
    let rows = readers
        .rows(PATH, |q| q.bind(big(node.0)).bind(DEPTH_MAX))
        .await?;
    let mut path = Vec::with_capacity(rows.len());
    for row in &rows {
        path.push((NodeId(int(row, 0)? as u64), Arc::<str>::from(text(row, 1)?)));
    }
    match path.first() {
        Some((ROOT, _)) => {}
        _ if path.len() > DEPTH_MAX as usize => return Err(corrupt("a folder contains itself")),
        _ => return Err(RepoError::NotFound),
    }
    // The row of the node itself has no name.
    path.pop();
    Ok(path)
}

/// Target of a symbolic link.
pub(crate) async fn target(readers: &Readers, node: NodeId) -> Result<String> {
    let row = readers
        .row("SELECT target FROM node WHERE id = $1", |q| {
            q.bind(big(node.0))
        })
        .await?
        .ok_or(RepoError::Stale(node))?;
    let target: Option<Vec<u8>> = row.try_get(0).map_err(db)?;
    String::from_utf8(target.ok_or(RepoError::WrongKind)?)
        .map_err(|_| corrupt("a link's target that is no text"))
}

/// Access control list of a node.
pub(crate) async fn acl(readers: &Readers, node: NodeId) -> Result<Option<Arc<Acl>>> {
    let row = readers
        .row(
            "SELECT n.acl, a.body FROM node n LEFT JOIN acl a ON a.id = n.acl WHERE n.id = $1",
            |q| q.bind(big(node.0)),
        )
        .await?
        .ok_or(RepoError::Stale(node))?;
    if maybe(&row, 0)?.is_none() {
        return Ok(None);
    }
    let body: Option<String> = row.try_get(1).map_err(db)?;
    let body = body.ok_or_else(|| corrupt("a reference to an ACL that is not there"))?;
    serde_json::from_str(&body)
        .map(|acl| Some(Arc::new(acl)))
        .map_err(|_| corrupt("an ACL that can't be read"))
}

/// Extended attributes in the order of their creation.
pub(crate) async fn eas(readers: &Readers, node: NodeId) -> Result<Vec<ExtendedAttribute>> {
    let rows = readers
        .rows(
            "SELECT e.name, e.value FROM node n LEFT JOIN ea e ON e.node = n.id WHERE n.id = $1 ORDER BY e.id",
            |q| q.bind(big(node.0)),
        )
        .await?;
    let mut eas = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(name) = row.try_get(0).map_err(db)? {
            let value = row.try_get(1).map_err(db)?;
            eas.push(ExtendedAttribute { name, value });
        }
    }
    match rows.is_empty() {
        true => Err(RepoError::Stale(node)),
        false => Ok(eas),
    }
}

/// Named streams.
pub(crate) async fn streams(readers: &Readers, node: NodeId) -> Result<Vec<StreamInfo>> {
    let rows = readers
        .rows(
            "SELECT s.name, s.stream, s.size, s.allocated FROM node n LEFT JOIN stream s ON s.node = n.id
             WHERE n.id = $1 ORDER BY s.stream",
            |q| q.bind(big(node.0)),
        )
        .await?;
    let mut streams = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(name) = row.try_get(0).map_err(db)? {
            streams.push(StreamInfo {
                name,
                stream: int(row, 1)? as u32,
                size: int(row, 2)? as u64,
                allocated: int(row, 3)? as u64,
            });
        }
    }
    match rows.is_empty() {
        true => Err(RepoError::Stale(node)),
        false => Ok(streams),
    }
}

/// Current version and content.
pub(crate) async fn head(readers: &Readers, content: ContentId) -> Result<Head> {
    const HEAD: &str = "SELECT n.id, s.node, c.version, c.body
         FROM (SELECT $1::bigint AS node, $2::bigint AS stream) AS w
           LEFT JOIN node n ON n.id = w.node
           LEFT JOIN stream s ON s.node = w.node AND s.stream = w.stream
           LEFT JOIN LATERAL (SELECT x.version, x.body FROM content x WHERE x.node = w.node AND x.stream = w.stream
                              ORDER BY x.version DESC LIMIT 1) AS c ON true";
    let row = readers
        .row(HEAD, |q| {
            q.bind(big(content.node.0)).bind(i64::from(content.stream))
        })
        .await?
        .ok_or_else(|| corrupt("a query without an answer"))?;
    if let Some(version) = maybe(&row, 2)? {
        return Ok(Head {
            version: Version(version as u64),
            manifest: Manifest::decode(bytes(&row, 3)?)?.into(),
        });
    }
    match content.stream {
        0 if maybe(&row, 0)?.is_none() => return Err(RepoError::Stale(content.node)),
        0 => {}
        _ if maybe(&row, 1)?.is_none() => return Err(RepoError::NotFound),
        _ => {}
    }
    Ok(Head {
        version: Version(0),
        manifest: Arc::default(),
    })
}

/// Content of one version.
pub(crate) async fn manifest(
    readers: &Readers,
    content: ContentId,
    version: Version,
) -> Result<Manifest> {
    let row = readers
        .row(
            "SELECT body FROM content WHERE node = $1 AND stream = $2 AND version = $3",
            |q| {
                q.bind(big(content.node.0))
                    .bind(i64::from(content.stream))
                    .bind(big(version.0))
            },
        )
        .await?
        .ok_or(RepoError::NotFound)?;
    Manifest::decode(bytes(&row, 0)?)
}

/// Versions of a document, newest first.
pub(crate) async fn versions(readers: &Readers, document: NodeId) -> Result<Vec<VersionInfo>> {
    let rows = readers
        .rows(
            "SELECT c.version, c.size, c.at, c.author, c.protocol FROM node n
               LEFT JOIN content c ON c.node = n.id AND c.stream = 0 WHERE n.id = $1 ORDER BY c.version DESC",
            |q| q.bind(big(document.0)),
        )
        .await?;
    let mut versions = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(version) = maybe(row, 0)? {
            versions.push(VersionInfo {
                version: Version(version as u64),
                size: int(row, 1)? as u64,
                committed: Timestamp(int(row, 2)?),
                author: text(row, 3)?,
                protocol: text(row, 4)?,
            });
        }
    }
    match rows.is_empty() {
        true => Err(RepoError::Stale(document)),
        false => Ok(versions),
    }
}

/// All records of a kind, by name, rules by number.
pub(crate) async fn records<T: DeserializeOwned>(readers: &Readers, kind: &str) -> Result<Vec<T>> {
    let kind = kind.to_owned();
    readers
        .rows(
            "SELECT body FROM record WHERE kind = $1 ORDER BY CASE kind WHEN 'policy' THEN id END, name",
            |q| q.bind(kind.clone()),
        )
        .await?
        .iter()
        .map(|row| {
            serde_json::from_str(&text(row, 0)?).map_err(|_| corrupt("a record that can't be read"))
        })
        .collect()
}

/// Number of the record that has a name.
pub(crate) async fn record_id(readers: &Readers, kind: &str, name: &str) -> Result<Option<u64>> {
    let (kind, name) = (kind.to_owned(), name.to_owned());
    let row = readers
        .row("SELECT id FROM record WHERE kind = $1 AND name = $2", |q| {
            q.bind(kind.clone()).bind(name.clone())
        })
        .await?;
    row.map(|row| int(&row, 0).map(|id| id as u64)).transpose()
}

pub(crate) async fn setting(readers: &Readers, key: &str) -> Result<Option<Bytes>> {
    let key = key.to_owned();
    let row = readers
        .row("SELECT value FROM setting WHERE key = $1", |q| {
            q.bind(key.clone())
        })
        .await?;
    row.map(|row| bytes(&row, 0)).transpose()
}

/// One number that a query answers.
async fn count(readers: &Readers, sql: &'static str, argument: i64) -> Result<u64> {
    let rows = readers.long_rows(sql, |q| q.bind(argument)).await?;
    let row = rows
        .first()
        .ok_or_else(|| corrupt("a query without an answer"))?;
    Ok(int(row, 0)? as u64)
}

pub(crate) async fn node_count(readers: &Readers) -> Result<u64> {
    count(readers, "SELECT count(*) FROM node WHERE id > $1", 0).await
}

/// Lengths of all documents and streams below a folder, its own streams included.
pub(crate) async fn usage(readers: &Readers, root: NodeId) -> Result<u64> {
    count(
        readers,
        "WITH RECURSIVE below(id) AS (
           SELECT $1::bigint UNION SELECT e.node FROM below b JOIN entry e ON e.parent = b.id)
         SELECT coalesce(sum(CASE WHEN n.kind = 1 THEN n.size ELSE 0 END + CASE WHEN n.streams > 0 THEN
           (SELECT coalesce(sum(s.size), 0) FROM stream s WHERE s.node = n.id) ELSE 0 END), 0)::bigint
         FROM below b JOIN node n ON n.id = b.id",
        big(root.0),
    )
    .await
}

/// Objects given up at least so many seconds ago.
pub(crate) async fn garbage(readers: &Readers, age_s: u64, limit: usize) -> Result<Vec<ObjectId>> {
    readers
        .rows(
            "SELECT id FROM garbage WHERE at <= extract(epoch FROM clock_timestamp())::bigint - $1 ORDER BY at LIMIT $2",
            |q| {
                q.bind(i64::try_from(age_s).unwrap_or(i64::MAX >> 1))
                    .bind(limit as i64)
            },
        )
        .await?
        .iter()
        .map(|row| object(row, 0))
        .collect()
}

/// What versions refer to, in the order of node, stream, version.
pub(crate) async fn references(
    readers: &Readers,
    after: Option<(ContentId, Version)>,
    limit: usize,
) -> Result<Vec<VersionRefs>> {
    let (node, stream, version) = after.map_or((0, 0, 0), |(c, v)| (c.node.0, c.stream, v.0));
    let rows = readers
        .rows(
            "SELECT node, stream, version, CASE WHEN objects > 0 THEN body END FROM content
             WHERE (node, stream, version) > ($1, $2, $3) ORDER BY node, stream, version LIMIT $4",
            |q| {
                q.bind(big(node))
                    .bind(i64::from(stream))
                    .bind(big(version))
                    .bind(limit as i64)
            },
        )
        .await?;
    rows.iter()
        .map(|row| {
            let body: Option<Vec<u8>> = row.try_get(3).map_err(db)?;
            Ok(VersionRefs {
                content: ContentId {
                    node: NodeId(int(row, 0)? as u64),
                    stream: int(row, 1)? as u32,
                },
                version: Version(int(row, 2)? as u64),
                objects: match body {
                    Some(body) => Manifest::decode(body.into())?.objects,
                    None => Vec::new(),
                },
            })
        })
        .collect()
}

/// Epochs of all members.
pub(crate) async fn epochs(readers: &Readers) -> Result<HashSet<u64>> {
    readers
        .rows("SELECT epoch FROM node_session", |q| q)
        .await?
        .iter()
        .map(|row| int(row, 0).map(|epoch| epoch as u64))
        .collect()
}

/// Orphans of node lives that are over.
pub(crate) async fn abandoned(readers: &Readers) -> Result<Vec<NodeId>> {
    readers
        .rows(
            "SELECT o.node FROM orphan o WHERE NOT EXISTS(
               SELECT 1 FROM node_session s WHERE s.member = o.member AND s.epoch = o.epoch)",
            |q| q,
        )
        .await?
        .iter()
        .map(|row| int(row, 0).map(|node| NodeId(node as u64)))
        .collect()
}

/// By a node in all its lives.
pub(crate) async fn locked(readers: &Readers, me: Member) -> Result<Vec<NodeId>> {
    readers
        .rows(
            "SELECT DISTINCT document FROM nfs_locked WHERE epoch IN
               (SELECT $2 UNION ALL SELECT p.epoch FROM past_member p WHERE p.member = $1) ORDER BY document",
            |q| q.bind(big(u64::from(me.id.0))).bind(big(me.epoch.0)),
        )
        .await?
        .iter()
        .map(|row| int(row, 0).map(|node| NodeId(node as u64)))
        .collect()
}

pub(crate) async fn call(readers: &Readers, call: CallId) -> Result<bool> {
    let rows = readers
        .rows("SELECT 1 FROM client_call WHERE id = $1", move |q| {
            q.bind(call.0)
        })
        .await?;
    Ok(!rows.is_empty())
}
