//! Content commits as the database's function `commit_batch` takes them: one column for each field.

use async_trait::async_trait;
use sluice_lockmgr::shard_of;
use sluice_repo::{Commit, Manifest, ObjectId, VersionPolicy};
use sqlx::postgres::{PgConnection, PgRow};

use crate::change::change_text;
use crate::lane::{Item, Number};
use crate::row::{big, node_columns};

/// Bytes in which storage is counted.
const ALLOCATION_BYTES: u64 = 4096;

/// Storage of a content as it is shown.
pub(crate) fn allocated(manifest: &Manifest) -> u64 {
    manifest.stored_bytes().next_multiple_of(ALLOCATION_BYTES)
}

/// How the name of an object is stored.
pub(crate) fn object_key(id: ObjectId) -> [u8; 16] {
    id.0.to_be_bytes()
}

const SEND: &str = concat!(
    "SELECT a.op - 1, a.role, a.code, a.detail, ",
    node_columns!("(a.node)"),
    ", pg_current_xact_id()::text::bigint FROM commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
      AS a"
);

/// A commit with what is prepared for sending it.
pub(crate) struct Prepared {
    commit: Commit,
    body: Vec<u8>,
    change: String,
}

impl Prepared {
    /// The manifest has been checked.
    pub(crate) fn new(commit: Commit) -> Prepared {
        Prepared {
            body: commit.manifest.encode(),
            change: change_text(&commit.change),
            commit,
        }
    }
}

/// The fields of a batch, column by column.
#[derive(Default)]
struct Columns<'a> {
    node: Vec<i64>,
    stream: Vec<i64>,
    base: Vec<i64>,
    fence: Vec<i64>,
    shard: Vec<i32>,
    op: Vec<[u8; 16]>,
    session: Vec<[u8; 16]>,
    size: Vec<i64>,
    allocated: Vec<i64>,
    author: Vec<&'a str>,
    protocol: Vec<&'a str>,
    body: Vec<&'a [u8]>,
    keep: Vec<i64>,
    keep_ns: Vec<i64>,
    change: Vec<&'a str>,
    object_of: Vec<i64>,
    object: Vec<[u8; 16]>,
}

impl<'a> Columns<'a> {
    fn add(&mut self, prepared: &'a Prepared) {
        let commit = &prepared.commit;
        let policy: VersionPolicy = commit.versions.unwrap_or_default();
        self.node.push(big(commit.content.node.0));
        self.stream.push(i64::from(commit.content.stream));
        self.base.push(big(commit.base.0));
        self.fence.push(big(commit.fence.0));
        self.shard
            .push(i32::from(shard_of(commit.content.node.0).0));
        self.op.push(commit.op.0.to_be_bytes());
        self.session.push(commit.session.0.to_be_bytes());
        self.size.push(big(commit.manifest.size));
        self.allocated.push(big(allocated(&commit.manifest)));
        self.author.push(&commit.origin.author);
        self.protocol.push(&commit.origin.protocol);
        self.body.push(&prepared.body);
        self.keep.push(i64::from(policy.count));
        self.keep_ns.push(
            i64::try_from(policy.age_s.saturating_mul(1_000_000_000)).unwrap_or(i64::MAX >> 1),
        );
        self.change.push(&prepared.change);
        for object in &commit.manifest.objects {
            self.object_of.push(self.node.len() as i64);
            self.object.push(object_key(object.id));
        }
    }
}

#[async_trait]
impl Item for Prepared {
    fn weight(&self) -> usize {
        self.body.len()
    }

    fn clashes(&self, other: &Self) -> bool {
        // The second one of a node must see what the first one did.
        self.commit.content.node == other.commit.content.node
    }

    async fn send(
        conn: &mut PgConnection,
        number: Number,
        items: &[&Self],
    ) -> sqlx::Result<Vec<PgRow>> {
        let mut columns = Columns::default();
        items.iter().for_each(|item| columns.add(item));
        sqlx::query(SEND)
            .bind(number.member())
            .bind(number.epoch())
            .bind(number.lane)
            .bind(number.batch)
            .bind(number.sender.shards)
            .bind(&columns.node)
            .bind(&columns.stream)
            .bind(&columns.base)
            .bind(&columns.fence)
            .bind(&columns.shard)
            .bind(&columns.op)
            .bind(&columns.session)
            .bind(&columns.size)
            .bind(&columns.allocated)
            .bind(&columns.author)
            .bind(&columns.protocol)
            .bind(&columns.body)
            .bind(&columns.keep)
            .bind(&columns.keep_ns)
            .bind(&columns.change)
            .bind(&columns.object_of)
            .bind(&columns.object)
            .fetch_all(conn)
            .await
    }
}
