//! Rows of the `node` table as the repository's types, and what a batch of changes answers.

use sluice_repo::{
    Attributes, DosAttributes, NodeId, NodeKind, RepoError, Result, Timestamp, Version,
};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::error::{corrupt, db};

/// Columns that [`attributes`] reads, of a table alias `n` (or a composite value).
macro_rules! node_columns {
    () => {
        node_columns!("n")
    };
    ($of:literal) => {
        concat!(
            $of,
            ".id, ",
            $of,
            ".kind, ",
            $of,
            ".mode, ",
            $of,
            ".uid, ",
            $of,
            ".gid, ",
            $of,
            ".nlink, ",
            $of,
            ".size, ",
            $of,
            ".allocated, ",
            $of,
            ".atime, ",
            $of,
            ".mtime, ",
            $of,
            ".ctime, ",
            $of,
            ".btime, ",
            $of,
            ".dos, ",
            $of,
            ".change_id, ",
            $of,
            ".version, ",
            $of,
            ".dev_major, ",
            $of,
            ".dev_minor, ",
            $of,
            ".ea_size, ",
            $of,
            ".parent, ",
            $of,
            ".acl"
        )
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

fn kind(code: i64) -> Result<NodeKind> {
    Ok(match code {
        1 => NodeKind::File,
        2 => NodeKind::Directory,
        3 => NodeKind::Symlink,
        4 => NodeKind::Fifo,
        5 => NodeKind::Socket,
        6 => NodeKind::CharDevice,
        7 => NodeKind::BlockDevice,
        _ => return Err(corrupt("an unknown kind of node")),
    })
}

/// A number of a row.
pub(crate) fn int(row: &PgRow, column: usize) -> Result<i64> {
    row.try_get(column).map_err(db)
}

/// A number of a row that may be missing.
pub(crate) fn maybe(row: &PgRow, column: usize) -> Result<Option<i64>> {
    row.try_get(column).map_err(db)
}

/// An unsigned number as the database keeps it.
pub(crate) fn big(value: u64) -> i64 {
    value as i64
}

/// Whether a row has a node from column `first` on.
pub(crate) fn has_node(row: &PgRow, first: usize) -> Result<bool> {
    maybe(row, first).map(|id| id.is_some())
}

/// Reads `node_columns!()` from column `first` on.
pub(crate) fn attributes(row: &PgRow, first: usize) -> Result<Attributes> {
    let at = |n: usize| int(row, first + n);
    let word = |n: usize| at(n).map(|v| v as u32);
    Ok(Attributes {
        id: NodeId(at(0)? as u64),
        kind: kind(at(1)?)?,
        mode: word(2)?,
        uid: word(3)?,
        gid: word(4)?,
        link_count: word(5)?,
        size: at(6)? as u64,
        allocated: at(7)? as u64,
        accessed: Timestamp(at(8)?),
        modified: Timestamp(at(9)?),
        changed: Timestamp(at(10)?),
        created: Timestamp(at(11)?),
        dos: DosAttributes(word(12)?),
        change_id: at(13)? as u64,
        version: Version(at(14)? as u64),
        device: (word(15)?, word(16)?),
        ea_size: word(17)?,
        parent: maybe(row, first + 18)?.map(|id| NodeId(id as u64)),
        has_acl: maybe(row, first + 19)?.is_some(),
    })
}

/// One row of the answer to a change.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Which change of the batch, counted from 0; -1: all of them.
    pub(crate) op: i64,
    /// Which node of the change.
    pub(crate) role: i64,
    /// What the role and the change make of it.
    pub(crate) detail: i64,
    /// The transaction in which it was carried out.
    pub(crate) transaction: i64,
    code: i64,
    node: Option<Attributes>,
}

/// How many columns a node has.
const NODE_COLUMNS: usize = 20;

impl Answer {
    /// Reads op, role, code, detail, a node and the transaction.
    pub(crate) fn read(row: &PgRow) -> Result<Answer> {
        Ok(Answer {
            op: int(row, 0)?,
            role: int(row, 1)?,
            code: int(row, 2)?,
            detail: int(row, 3)?,
            transaction: int(row, 4 + NODE_COLUMNS)?,
            node: match has_node(row, 4)? {
                true => Some(attributes(row, 4)?),
                false => None,
            },
        })
    }

    /// The refusal, if it is one.
    pub(crate) fn refusal(&self) -> Option<RepoError> {
        Some(match self.code {
            0 => return None,
            1 => RepoError::NotFound,
            2 => RepoError::Stale(NodeId(self.detail as u64)),
            3 => RepoError::Exists,
            4 => RepoError::NotDirectory,
            5 => RepoError::IsDirectory,
            6 => RepoError::NotEmpty,
            7 => RepoError::IntoItself,
            8 => RepoError::WrongKind,
            9 => RepoError::TooMany,
            10 => RepoError::Conflict(Version(self.detail as u64)),
            11 => RepoError::GuardMismatch,
            12 => RepoError::Fenced,
            14 => RepoError::Repeated,
            13 => RepoError::Corrupt("an object of another document in a commit".into()),
            _ => corrupt("an unknown answer"),
        })
    }

    /// The node that the row is about.
    pub(crate) fn node(self) -> Result<Attributes> {
        self.node.ok_or_else(|| corrupt("an answer without a node"))
    }
}
