//! Rows of the `node` and `entry` tables as the repository's types, and the queries that several operations share.

use std::sync::Arc;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use sluice_repo::{
    Attributes, CaseMode, Cookie, DosAttributes, NodeId, NodeKind, RepoError, Result, Timestamp,
    Version,
};

use crate::error::db;

/// Columns that [`attributes`] reads, of a table alias `n`.
macro_rules! node_columns {
    () => {
        "n.id, n.kind, n.mode, n.uid, n.gid, n.nlink, n.size, n.allocated, n.atime, n.mtime, n.ctime, n.btime, \
         n.dos, n.change_id, n.version, n.dev_major, n.dev_minor, n.ea_size, n.parent, n.acl"
    };
}
pub(crate) use node_columns;

/// How a kind is stored.
pub(crate) fn kind_code(kind: NodeKind) -> i64 {
    match kind {
        NodeKind::File => 1,
        NodeKind::Directory => 2,
        NodeKind::Symlink => 3,
        NodeKind::Fifo => 4,
        NodeKind::Socket => 5,
        NodeKind::CharDevice => 6,
        NodeKind::BlockDevice => 7,
    }
}

fn kind(code: i64) -> Option<NodeKind> {
    Some(match code {
        1 => NodeKind::File,
        2 => NodeKind::Directory,
        3 => NodeKind::Symlink,
        4 => NodeKind::Fifo,
        5 => NodeKind::Socket,
        6 => NodeKind::CharDevice,
        7 => NodeKind::BlockDevice,
        _ => return None,
    })
}

/// Reads `node_columns!()` from column `first` on.
pub(crate) fn attributes(row: &Row<'_>, first: usize) -> rusqlite::Result<Attributes> {
    let int = |n: usize| row.get::<_, i64>(first + n);
    let word = |n: usize| int(n).map(|v| v as u32);
    let kind = kind(int(1)?).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(first + 1, Type::Integer, "unknown kind".into())
    })?;
    Ok(Attributes {
        id: NodeId(int(0)? as u64),
        kind,
        mode: word(2)?,
        uid: word(3)?,
        gid: word(4)?,
        link_count: word(5)?,
        size: int(6)? as u64,
        allocated: int(7)? as u64,
        accessed: Timestamp(int(8)?),
        modified: Timestamp(int(9)?),
        changed: Timestamp(int(10)?),
        created: Timestamp(int(11)?),
        dos: DosAttributes(word(12)?),
        change_id: int(13)? as u64,
        version: Version(int(14)? as u64),
        device: (word(15)?, word(16)?),
        ea_size: word(17)?,
        parent: row
            .get::<_, Option<i64>>(first + 18)?
            .map(|id| NodeId(id as u64)),
        has_acl: row.get::<_, Option<i64>>(first + 19)?.is_some(),
    })
}

/// A node; `Stale` if it is gone.
pub(crate) fn node(conn: &Connection, id: NodeId) -> Result<Attributes> {
    conn.prepare_cached(concat!(
        "SELECT ",
        node_columns!(),
        " FROM node n WHERE n.id = ?1"
    ))
    .and_then(|mut s| {
        s.query_row([id.0 as i64], |row| attributes(row, 0))
            .optional()
    })
    .map_err(db)?
    .ok_or(RepoError::Stale(id))
}

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Arc<str>,
    pub(crate) cookie: Cookie,
    pub(crate) node: NodeId,
}

/// The index is named because SQLite, knowing nothing of the size of folders, prefers to walk through all of one.
const ENTRIES: &str =
    "SELECT name, cookie, node FROM entry INDEXED BY entry_name WHERE parent = ?1 AND fold = ?2";

/// All entries of a folder whose folded name is this, oldest first. Hardly ever more than one.
pub(crate) fn entries(conn: &Connection, parent: NodeId, fold: &str) -> Result<Vec<Entry>> {
    let mut statement = conn.prepare_cached(ENTRIES).map_err(db)?;
    let rows = statement.query_map(params![parent.0 as i64, fold], |row| {
        Ok(Entry {
            name: row.get(0)?,
            cookie: Cookie(row.get::<_, i64>(1)? as u64),
            node: NodeId(row.get::<_, i64>(2)? as u64),
        })
    });
    let mut found: Vec<Entry> = rows.and_then(Iterator::collect).map_err(db)?;
    found.sort_by_key(|entry| entry.cookie);
    Ok(found)
}

/// Chooses among entries of equal fold.
pub(crate) fn choose<'a>(entries: &'a [Entry], name: &str, case: CaseMode) -> Option<&'a Entry> {
    let exact = entries.iter().find(|e| &*e.name == name);
    match case {
        CaseMode::Sensitive => exact,
        CaseMode::Insensitive => exact.or(entries.first()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_by_the_index_on_folded_names() {
        let mut conn = Connection::open_in_memory().expect("database");
        crate::schema::migrate(&mut conn).expect("schema");
        let plan: String = conn
            .query_row(&format!("EXPLAIN QUERY PLAN {ENTRIES}"), [1, 2], |row| {
                row.get(3)
            })
            .expect("plan");
        assert!(plan.contains("entry_name (parent=? AND fold=?)"), "{plan}");
    }
}
