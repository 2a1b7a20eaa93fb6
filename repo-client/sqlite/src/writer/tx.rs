//! What a change works with inside its transaction, and the savepoint that keeps a refused one from the others.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;
use sluice_repo::{Attributes, ContentId, Head, NodeId, RepoError, Result, Timestamp};

use crate::error::db;
use crate::row::Entry;

/// Ids taken from the database at once.
const ID_BLOCK: i64 = 1 << 16;
/// ACLs whose id the writer remembers.
const ACL_IDS_MAX: usize = 4096;

/// What a change has made stale in the caches, with what is true from now on where the change knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    /// Something of a node; to be read again.
    Node(NodeId),
    /// All of a node as it is now.
    Saved(Arc<Attributes>),
    /// The entries of a folder under one folded name, as they are now.
    Name(NodeId, String, Vec<Entry>),
    /// A content; to be read again.
    Head(ContentId),
    /// A content as it is now.
    NewHead(ContentId, Head),
    Acl(NodeId),
    Records,
}

/// What a change works with.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) now: Timestamp,
    pub(super) state: &'a mut State,
    pub(super) touched: &'a mut Vec<Touch>,
    /// Why the transaction is gone, if it is: SQLite rolls back by itself when the disk is full.
    pub(super) lost: Option<RepoError>,
    /// The transaction has this one change; refused, it takes the transaction with it and needs no savepoint.
    pub(super) alone: bool,
    /// The lone change was refused.
    pub(super) refused: bool,
    /// Ids were taken from the database.
    pub(super) reserved: bool,
}

/// What the writer remembers between transactions; all of it can be had again from the database.
#[derive(Default)]
pub(super) struct State {
    next_id: i64,
    reserved_id: i64,
    acl_ids: HashMap<String, i64>,
}

impl Tx<'_> {
    pub(crate) fn touch(&mut self, touch: Touch) {
        self.touched.push(touch);
    }

    /// A number that was never used before, for nodes, entries and objects of the namespace.
    pub(crate) fn new_id(&mut self) -> Result<i64> {
        if self.state.next_id >= self.state.reserved_id {
            let reserved: i64 = self
                .conn
                .prepare_cached(
                    "INSERT INTO counter(key, value) VALUES ('ids', ?1 + ?2)
                     ON CONFLICT(key) DO UPDATE SET value = value + ?2 RETURNING value",
                )
                .and_then(|mut s| s.query_row([16, ID_BLOCK], |row| row.get(0)))
                .map_err(db)?;
            self.state.next_id = reserved - ID_BLOCK;
            self.state.reserved_id = reserved;
            self.reserved = true;
        }
        self.state.next_id += 1;
        Ok(self.state.next_id - 1)
    }

    /// Id of an ACL with this body, storing it if it is new.
    pub(crate) fn acl_id(&mut self, body: String) -> Result<i64> {
        if let Some(id) = self.state.acl_ids.get(&body) {
            return Ok(*id);
        }
        let id = self
            .conn
            .prepare_cached("INSERT INTO acl(body) VALUES (?1) ON CONFLICT(body) DO UPDATE SET body = body RETURNING id")
            .and_then(|mut s| s.query_row([&body], |row| row.get(0)))
            .map_err(db)?;
        if self.state.acl_ids.len() >= ACL_IDS_MAX {
            self.state.acl_ids.clear();
        }
        self.state.acl_ids.insert(body, id);
        Ok(id)
    }

    /// Forgets what a refused change had made.
    fn undone(&mut self, mark: usize) {
        self.touched.truncate(mark);
        if self.reserved {
            self.state.reserved_id = self.state.reserved_id.min(self.state.next_id);
        }
        self.state.acl_ids.clear();
    }
}

pub(super) fn in_savepoint<T>(
    tx: &mut Tx<'_>,
    change: impl FnOnce(&mut Tx<'_>) -> Result<T>,
) -> Result<T> {
    if let Some(error) = &tx.lost {
        return Err(error.clone());
    }
    let mark = tx.touched.len();
    if !tx.alone {
        step(tx.conn, "SAVEPOINT change")?;
    }
    let result = change(tx);
    match &result {
        Ok(_) if tx.alone => {}
        Ok(_) => step(tx.conn, "RELEASE change")?,
        Err(error) if tx.conn.is_autocommit() => tx.lost = Some(error.clone()),
        Err(_) if tx.alone => {
            tx.refused = true;
            tx.undone(mark);
        }
        Err(_) => {
            step(tx.conn, "ROLLBACK TO change")?;
            step(tx.conn, "RELEASE change")?;
            tx.undone(mark);
        }
    }
    result
}

pub(super) fn step(conn: &Connection, sql: &str) -> Result<()> {
    conn.prepare_cached(sql)
        .and_then(|mut s| s.execute([]))
        .map_err(db)
        .map(|_| ())
}
