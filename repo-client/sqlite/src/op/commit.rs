//! Content versions: compare-and-set of the current one, history, references to objects.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};
use sluice_repo::{
    AttributeChange, Attributes, Commit, Committed, ContentId, FencingToken, Head, Manifest,
    NodeKind, ObjectId, OpId, Origin, RepoError, Result, Version, VersionPolicy, WriteSession,
};

use super::{apply, purge, save};
use crate::error::db;
use crate::read;
use crate::writer::{Touch, Tx};

/// Bytes in which storage is counted.
const ALLOCATION_BYTES: u64 = 4096;

/// The current version as a commit needs to know it.
struct Current {
    version: u64,
    session: Vec<u8>,
    op: Vec<u8>,
    objects: i64,
}

/// Makes a sealed content the current one.
pub(crate) fn commit(tx: &mut Tx<'_>, commit: &Commit) -> Result<Committed> {
    commit.manifest.check()?;
    let mut node = tx.node(commit.content.node)?;
    check_target(tx, commit.content, node.kind)?;
    // A document without a version has nothing in the table.
    let none = commit.content.stream == 0 && node.version.0 == 0;
    let current = if none {
        None
    } else {
        current(tx, commit.content)?
    };
    let version = current.as_ref().map_or(0, |c| c.version);
    if current
        .as_ref()
        .is_some_and(|c| c.op == commit.op.0.to_be_bytes())
    {
        return Ok(Committed {
            version: Version(version),
            attributes: node,
        });
    }
    check_fence(tx, &node, commit.fence)?;
    if version != commit.base.0 {
        return Err(RepoError::Conflict(Version(version)));
    }
    insert(
        tx,
        commit.content,
        version + 1,
        &commit.manifest,
        commit.session,
        commit.op,
        &commit.origin,
    )?;
    if let Some(current) = current {
        supersede(tx, commit, &current)?;
    }
    record(tx, &mut node, commit, version + 1)?;
    Ok(Committed {
        version: Version(version + 1),
        attributes: node,
    })
}

fn check_target(tx: &Tx<'_>, content: ContentId, kind: NodeKind) -> Result<()> {
    match (content.stream, kind) {
        (0, NodeKind::File) => Ok(()),
        (0, NodeKind::Directory) => Err(RepoError::IsDirectory),
        (0, _) => Err(RepoError::WrongKind),
        _ => super::stream::exists(tx, content),
    }
}

fn current(tx: &Tx<'_>, content: ContentId) -> Result<Option<Current>> {
    tx.conn
        .prepare_cached(
            "SELECT version, session, op, objects FROM content WHERE node = ?1 AND stream = ?2
             ORDER BY version DESC LIMIT 1",
        )
        .and_then(|mut s| {
            s.query_row(params![content.node.0 as i64, content.stream], |row| {
                Ok(Current {
                    version: row.get::<_, i64>(0)? as u64,
                    session: row.get(1)?,
                    op: row.get(2)?,
                    objects: row.get(3)?,
                })
            })
            .optional()
        })
        .map_err(db)
}

fn check_fence(tx: &Tx<'_>, node: &Attributes, fence: FencingToken) -> Result<()> {
    if fence == FencingToken(0) && node.version.0 == 0 {
        return Ok(());
    }
    let seen: i64 = tx
        .conn
        .prepare_cached("SELECT fence FROM node WHERE id = ?1")
        .and_then(|mut s| s.query_row([node.id.0 as i64], |row| row.get(0)))
        .map_err(db)?;
    if fence.0 < seen as u64 {
        return Err(RepoError::Fenced);
    }
    if fence.0 > seen as u64 {
        tx.conn
            .execute(
                "UPDATE node SET fence = ?2 WHERE id = ?1",
                [node.id.0 as i64, fence.0 as i64],
            )
            .map_err(db)?;
    }
    Ok(())
}

fn insert(
    tx: &mut Tx<'_>,
    content: ContentId,
    version: u64,
    manifest: &Arc<Manifest>,
    session: WriteSession,
    op: OpId,
    origin: &Origin,
) -> Result<()> {
    tx.conn
        .prepare_cached(
            "INSERT INTO content(node, stream, version, size, at, author, protocol, session, op, objects, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )
        .and_then(|mut s| {
            s.execute(params![
                content.node.0 as i64,
                content.stream,
                version as i64,
                manifest.size as i64,
                tx.now.0,
                origin.author,
                origin.protocol,
                session.0.to_be_bytes(),
                op.0.to_be_bytes(),
                manifest.objects.len() as i64,
                manifest.encode(),
            ])
        })
        .map_err(db)?;
    for object in &manifest.objects {
        refer(tx, content, version, object.id)?;
    }
    let head = Head {
        version: Version(version),
        manifest: manifest.clone(),
    };
    tx.touch(Touch::NewHead(content, head));
    Ok(())
}

/// The current version needs this object, which belongs to no other content.
fn refer(tx: &Tx<'_>, content: ContentId, version: u64, object: ObjectId) -> Result<()> {
    let changed = tx
        .conn
        .prepare_cached(
            "INSERT INTO object(id, node, stream, first, last) VALUES (?1, ?2, ?3, ?4, NULL)
             ON CONFLICT(id) DO UPDATE SET last = NULL WHERE node = excluded.node AND stream = excluded.stream",
        )
        .and_then(|mut s| {
            s.execute(params![object.0.to_be_bytes(), content.node.0 as i64, content.stream, version as i64])
        })
        .map_err(db)?;
    if changed == 0 {
        return Err(RepoError::Corrupt(
            "an object of another document in a commit".into(),
        ));
    }
    // Should it have been given up in between, it is needed again.
    tx.conn
        .prepare_cached("DELETE FROM garbage WHERE id = ?1")
        .and_then(|mut s| s.execute([object.0.to_be_bytes()]))
        .map_err(db)
        .map(|_| ())
}

/// Ends what only the old version needs, and the old version itself unless it goes into the history.
fn supersede(tx: &mut Tx<'_>, commit: &Commit, current: &Current) -> Result<()> {
    let content = commit.content;
    if current.objects > 0 {
        let old = read::manifest(tx.conn, content, current.version)?;
        let kept: std::collections::HashSet<_> =
            commit.manifest.objects.iter().map(|o| o.id).collect();
        for object in old.objects.iter().filter(|o| !kept.contains(&o.id)) {
            tx.conn
                .prepare_cached("UPDATE object SET last = ?2 WHERE id = ?1")
                .and_then(|mut s| {
                    s.execute(params![object.id.0.to_be_bytes(), current.version as i64])
                })
                .map_err(db)?;
        }
    }
    let policy = commit.versions.unwrap_or_default();
    let same_session = current.session == commit.session.0.to_be_bytes();
    let mut gone = false;
    if content.stream != 0 || same_session {
        gone |= delete_version(tx, content, current.version)?;
    }
    if content.stream == 0 {
        gone |= prune(tx, content, current.version + 1, policy)?;
    }
    if gone {
        purge::give_up_objects(tx, content)?;
    }
    Ok(())
}

/// Whether the deleted version had objects.
fn delete_version(tx: &Tx<'_>, content: ContentId, version: u64) -> Result<bool> {
    let objects: Option<i64> = tx
        .conn
        .prepare_cached("DELETE FROM content WHERE node = ?1 AND stream = ?2 AND version = ?3 RETURNING objects")
        .and_then(|mut s| {
            s.query_row(params![content.node.0 as i64, content.stream, version as i64], |row| row.get(0)).optional()
        })
        .map_err(db)?;
    Ok(objects.is_some_and(|n| n > 0))
}

/// Deletes versions beyond the policy: more than `count`, or replaced longer than `age_s` ago.
fn prune(tx: &Tx<'_>, content: ContentId, current: u64, policy: VersionPolicy) -> Result<bool> {
    let age_ns = i64::try_from(policy.age_s.saturating_mul(1_000_000_000)).unwrap_or(i64::MAX);
    let objects: Vec<i64> = tx
        .conn
        .prepare_cached(
            "DELETE FROM content WHERE node = ?1 AND stream = ?2 AND version < ?3 AND (
               version <= coalesce((SELECT o.version FROM content o WHERE o.node = ?1 AND o.stream = ?2
                 AND o.version < ?3 ORDER BY o.version DESC LIMIT 1 OFFSET ?4), -1)
               OR EXISTS(SELECT 1 FROM content n WHERE n.node = ?1 AND n.stream = ?2
                 AND n.version > content.version AND n.at < ?5))
             RETURNING objects",
        )
        .and_then(|mut s| {
            s.query_map(
                params![
                    content.node.0 as i64,
                    content.stream,
                    current as i64,
                    policy.count,
                    tx.now.0.saturating_sub(age_ns)
                ],
                |row| row.get(0),
            )
            .and_then(Iterator::collect)
        })
        .map_err(db)?;
    Ok(objects.iter().any(|n| *n > 0))
}

/// Sets what the commit changes of the node.
fn record(tx: &mut Tx<'_>, node: &mut Attributes, commit: &Commit, version: u64) -> Result<()> {
    let now = tx.now;
    let allocated = commit
        .manifest
        .stored_bytes()
        .next_multiple_of(ALLOCATION_BYTES);
    if commit.content.stream == 0 {
        node.size = commit.manifest.size;
        node.allocated = allocated;
        node.version = Version(version);
        node.modified = now;
    } else {
        super::stream::set_size(tx, commit.content, commit.manifest.size, allocated)?;
    }
    apply(node, &commit.change, now);
    save(tx, node)
}

/// Content that comes with the creation of a document.
pub(crate) fn first(
    tx: &mut Tx<'_>,
    node: &mut Attributes,
    manifest: &Arc<Manifest>,
    origin: &Origin,
) -> Result<()> {
    manifest.check()?;
    insert(
        tx,
        ContentId {
            node: node.id,
            stream: 0,
        },
        1,
        manifest,
        WriteSession(0),
        OpId(0),
        origin,
    )?;
    node.size = manifest.size;
    node.allocated = manifest.stored_bytes().next_multiple_of(ALLOCATION_BYTES);
    node.version = Version(1);
    Ok(())
}

/// Makes a kept version the current one again.
pub(crate) fn restore(
    tx: &mut Tx<'_>,
    content: ContentId,
    version: Version,
    base: Version,
    fence: FencingToken,
    origin: Origin,
) -> Result<Committed> {
    let manifest = read::manifest(tx.conn, content, version.0)?;
    // Numbers that no other commit has: ids of the namespace are never reused, and clients' are random 128 bits.
    let unique = u128::from(tx.new_id()? as u64);
    commit(
        tx,
        &Commit {
            content,
            base,
            fence,
            op: OpId(unique),
            session: WriteSession(unique),
            manifest: manifest.into(),
            change: AttributeChange::default(),
            origin,
            versions: Some(VersionPolicy {
                count: u32::MAX,
                ..VersionPolicy::default()
            }),
        },
    )
}
