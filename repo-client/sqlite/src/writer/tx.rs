//! What a change works with inside its transaction, and the savepoint that keeps a refused one from the others.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;
use sluice_repo::{
    Acl, Attributes, ContentId, Head, NodeId, NodeKind, RepoError, Result, Timestamp,
};

use super::Kept;
use crate::error::{corrupt, db};
use crate::row::{self, Entry};

/// Ids taken from the database at once.
const ID_BLOCK: i64 = 1 << 16;
/// With more of it touched, a transaction reads the database rather than look through all that.
const LOOK_BACK_MAX: usize = 64;
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
    /// Rows behind the back of all that is kept of them; to be read again.
    Everything,
}

/// What a change works with.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) now: Timestamp,
    pub(super) kept: &'a dyn Kept,
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

/// What a transaction has done to something so far.
enum LastTouch<'a> {
    None,
    Is(&'a Touch),
    /// Too much was touched to look.
    Unknown,
}

/// What the writer remembers between transactions; all of it can be had again from the database.
#[derive(Default)]
pub(super) struct State {
    next_id: i64,
    reserved_id: i64,
    acl_ids: HashMap<Acl, i64>,
}

impl Tx<'_> {
    pub(crate) fn touch(&mut self, touch: Touch) {
        self.touched.push(touch);
    }

    /// A node as it is in this transaction; `Stale` if it is gone.
    pub(crate) fn node(&self, id: NodeId) -> Result<Attributes> {
        let touched = self.last_touch(|touch| match touch {
            Touch::Saved(node) => node.id == id,
            Touch::Node(node) => *node == id,
            Touch::Everything => true,
            _ => false,
        });
        match touched {
            LastTouch::None => self.kept.node(id),
            LastTouch::Is(Touch::Saved(node)) => Some(node.clone()),
            LastTouch::Is(_) | LastTouch::Unknown => None,
        }
        .map_or_else(|| row::node(self.conn, id), |node| Ok((*node).clone()))
    }

    /// A folder in which names can be made.
    pub(crate) fn folder(&self, id: NodeId) -> Result<Attributes> {
        let found = self.node(id)?;
        match found.kind {
            NodeKind::Directory if found.link_count > 0 => Ok(found),
            NodeKind::Directory => Err(RepoError::Stale(id)),
            _ => Err(RepoError::NotDirectory),
        }
    }

    /// All entries of a folder whose folded name is this, as they are in this transaction.
    pub(crate) fn entries(&self, parent: NodeId, fold: &str) -> Result<Vec<Entry>> {
        let touched = self.last_touch(|touch| match touch {
            Touch::Name(folder, name, _) => *folder == parent && name == fold,
            Touch::Everything => true,
            _ => false,
        });
        match touched {
            LastTouch::None => self.kept.names(parent, fold).map(|found| found.to_vec()),
            LastTouch::Is(Touch::Name(_, _, entries)) => Some(entries.clone()),
            LastTouch::Is(_) | LastTouch::Unknown => None,
        }
        .map_or_else(|| row::entries(self.conn, parent, fold), Ok)
    }

    /// What was touched last of what is meant.
    fn last_touch(&self, is_meant: impl Fn(&Touch) -> bool) -> LastTouch<'_> {
        if self.touched.len() > LOOK_BACK_MAX {
            return LastTouch::Unknown;
        }
        let touch = self.touched.iter().rev().find(|touch| is_meant(touch));
        touch.map_or(LastTouch::None, LastTouch::Is)
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

    /// Id under which an ACL is stored; one that is new is stored now.
    pub(crate) fn acl_id(&mut self, acl: &Acl) -> Result<i64> {
        if let Some(id) = self.state.acl_ids.get(acl) {
            return Ok(*id);
        }
        let body =
            serde_json::to_string(acl).map_err(|_| corrupt("an ACL that can't be written"))?;
        let id = self
            .conn
            .prepare_cached("INSERT INTO acl(body) VALUES (?1) ON CONFLICT(body) DO UPDATE SET body = body RETURNING id")
            .and_then(|mut s| s.query_row([&body], |row| row.get(0)))
            .map_err(db)?;
        if self.state.acl_ids.len() >= ACL_IDS_MAX {
            self.state.acl_ids.clear();
        }
        self.state.acl_ids.insert(acl.clone(), id);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::op::save;
    use crate::{Options, SqliteRepository};
    use sluice_repo::{ROOT, Repository};

    async fn open(folder: &Path) -> SqliteRepository {
        let options = Options::new(folder.join("meta.db"));
        SqliteRepository::open(options).await.expect("opens")
    }

    fn set_mode(tx: &mut Tx<'_>, mode: u32) -> Result<()> {
        let mut root = tx.node(ROOT)?;
        root.mode = mode;
        save(tx, &root)
    }

    #[tokio::test]
    async fn a_change_sees_those_before_it_in_its_transaction_and_nothing_of_a_refused_one() {
        let folder = tempfile::tempdir().expect("folder");
        let repo = open(folder.path()).await;
        repo.get(ROOT).await.expect("kept from now on");
        type Change = Box<dyn FnOnce(&mut Tx<'_>) -> Result<u32> + Send>;
        let seen = |tx: &mut Tx<'_>| {
            let seen = tx.node(ROOT)?;
            assert_eq!(seen, row::node(tx.conn, ROOT)?);
            Ok(seen.mode)
        };
        let mut changes: Vec<Change> = vec![
            Box::new(|tx| set_mode(tx, 0o711).map(|()| 0)),
            Box::new(seen),
            Box::new(|tx| set_mode(tx, 0o777).and(Err(RepoError::Exists))),
            Box::new(seen),
        ];
        changes.extend(
            (0..2 * LOOK_BACK_MAX as u32)
                .map(|mode| -> Change { Box::new(move |tx| set_mode(tx, mode).map(|()| 0)) }),
        );
        changes.push(Box::new(seen));
        let before = repo.transactions();
        let answers = repo.change_each(changes).await;
        assert_eq!(repo.transactions(), before + 1);
        assert_eq!(answers[1], Ok(0o711));
        assert_eq!(answers[2], Err(RepoError::Exists));
        assert_eq!(answers[3], Ok(0o711));
        let last = 2 * LOOK_BACK_MAX as u32 - 1;
        assert_eq!(answers.last(), Some(&Ok(last)));
        assert_eq!(repo.get(ROOT).await.map(|root| root.mode), Ok(last));
    }
}
