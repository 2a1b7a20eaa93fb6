//! The cluster's registry in PostgreSQL: members and their leases, owners of the lock shards, and the mailbox for nodes that
//! can't reach each other.
//!
//! A member is a row. Every statement that changes something takes the asking member's row `FOR KEY SHARE`: renewing a lease
//! passes such a lock, deleting the row does not, so that no change of a fenced member comes after its fence. A plain read of
//! the row would be wrong: between the read and the change the fence could pass.
//!
//! Calls that others wait for when a node is lost are functions of the database: one way to and fro each.
//!
//! Never decides who is alive; carries out what `sluice-lockmgr-cluster`'s membership decides. Locks are taken in one order:
//! join lock, member rows by number, turns, shard rows by number, counters.

mod hints;
mod life;
mod look;
mod mailbox;
mod members;
mod shards;
mod stock;
mod survey;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sluice_lockmgr::{
    ClusterIdentity, EpochRegistry, FenceOutcome, Heartbeat, JoinRequest, Joined, LeftLocks,
    LifeLock, Member, MemberEpoch, MemberList, MemberState, PastMember, RegistryError,
    RegistryHint, RegistryTime, Revocation, ShardEpoch, ShardId, ShardMap, Sight,
};
use sqlx::PgConnection;

use crate::database::Database;
use hints::Hints;
pub(crate) use life::key as life_key;
use stock::{Lent, Stock};
pub use survey::Survey;

type Result<T> = std::result::Result<T, RegistryError>;

/// How long leases run and calls may take.
#[derive(Clone, Copy, Debug)]
pub struct RegistryOptions {
    /// A lease's length from its renewal, on the database's clock.
    pub lease: Duration,
    /// After this a call fails.
    pub patience: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        RegistryOptions {
            lease: Duration::from_secs(6),
            patience: Duration::from_secs(2),
        }
    }
}

/// The registry of the cluster that lives in a database.
pub struct PostgresRegistry {
    database: Database,
    options: RegistryOptions,
    stock: Arc<Stock>,
    hints: Hints,
    last_map: look::LastMap,
}

impl PostgresRegistry {
    /// The registry in `database`. Makes no connection yet.
    pub fn new(database: Database, options: RegistryOptions) -> PostgresRegistry {
        PostgresRegistry {
            stock: Arc::new(Stock::new(database.clone())),
            hints: Hints::new(database.clone()),
            last_map: look::LastMap::default(),
            database,
            options,
        }
    }

    /// Bounds a call, and tells a lost history from a database that is only away.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.trusted()?;
        let outcome = tokio::time::timeout(self.options.patience, call)
            .await
            .unwrap_or_else(|_| Err(RegistryError::Unavailable("no answer in time".into())));
        if matches!(outcome, Err(RegistryError::Unavailable(_))) {
            self.trusted()?;
        }
        outcome
    }

    /// After an answer about members or shards, whose transaction, if it changed something, is remembered and told to the others;
    /// nobody waits for that.
    fn answered(&self, mut lent: Lent, transaction: Option<i64>) {
        let Some(transaction) = transaction else {
            return lent.give_back();
        };
        self.database.history().committed(transaction);
        tokio::spawn(async move {
            if hints::tell_members(&mut lent.conn).await {
                lent.give_back();
            }
        });
    }

    fn trusted(&self) -> Result<()> {
        match self.database.history().lost() {
            Some(words) => Err(RegistryError::HistoryLost(words)),
            None => Ok(()),
        }
    }
}

/// What the driver says, in the registry's words.
fn told(error: sqlx::Error) -> RegistryError {
    match &error {
        sqlx::Error::Database(told)
            if told
                .code()
                .is_some_and(|code| code.starts_with("22") || code.starts_with("23")) =>
        {
            RegistryError::Refused(error.to_string())
        }
        _ => RegistryError::Unavailable(error.to_string()),
    }
}

/// A number as the database's integer; greater ones do not exist.
fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn number(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// Takes the asking member's row for the rest of the transaction.
async fn own_row(conn: &mut PgConnection, me: Member) -> Result<()> {
    sqlx::query("SELECT 1 FROM node_session WHERE member = $1 AND epoch = $2 FOR KEY SHARE")
        .bind(small(me.id.0))
        .bind(big(me.epoch.0))
        .fetch_optional(conn)
        .await
        .map_err(told)?
        .map(drop)
        .ok_or(RegistryError::Fenced)
}

/// Counts a change of the member list or the shard map; answers with the transaction's number, to be noted once it is committed.
async fn count(conn: &mut PgConnection, key: &'static str) -> Result<i64> {
    sqlx::query_scalar(
        "UPDATE cluster_state SET value = value + 1 WHERE key = $1 RETURNING pg_current_xact_id()::text::bigint",
    )
    .bind(key)
    .fetch_one(conn)
    .await
    .map_err(told)
}

#[async_trait]
impl EpochRegistry for PostgresRegistry {
    fn lease_time(&self) -> Duration {
        self.options.lease
    }

    async fn identity(&self, propose: &ClusterIdentity) -> Result<ClusterIdentity> {
        self.bounded(self.identity_of(propose)).await
    }

    async fn join(&self, request: &JoinRequest) -> Result<Joined> {
        self.bounded(self.make_member(request)).await
    }

    async fn hold_life(&self, me: Member) -> Result<Box<dyn LifeLock>> {
        self.bounded(async {
            let life = life::take(&self.database, me.epoch).await?;
            Ok(Box::new(life) as Box<dyn LifeLock>)
        })
        .await
    }

    async fn renew(&self, me: Member, heard: &[u64]) -> Result<Heartbeat> {
        self.bounded(self.prolong(me, heard)).await
    }

    async fn members(&self) -> Result<MemberList> {
        self.bounded(self.see(false, &[])).await.map(|s| s.members)
    }

    async fn past_members(&self, limit: u32) -> Result<Vec<PastMember>> {
        self.bounded(self.list_past(limit)).await
    }

    async fn left_locks(&self, known: &[MemberEpoch]) -> Result<Vec<LeftLocks>> {
        self.bounded(self.see(false, known)).await.map(|s| s.left)
    }

    async fn look(&self, map: bool, known: &[MemberEpoch]) -> Result<Sight> {
        self.bounded(self.see(map, known)).await
    }

    async fn fence_expired(
        &self,
        me: Member,
        victim: Member,
        expires: RegistryTime,
    ) -> Result<FenceOutcome> {
        let why = members::Proof::Expired(expires);
        self.bounded(self.fence(me, victim, why)).await
    }

    async fn fence_dead(&self, me: Member, victim: Member) -> Result<FenceOutcome> {
        self.bounded(self.fence(me, victim, members::Proof::LifeLock))
            .await
    }

    async fn leave(&self, me: Member) -> Result<()> {
        self.bounded(self.end(me)).await
    }

    async fn set_state(&self, me: Member, member: Member, state: MemberState) -> Result<()> {
        self.bounded(self.change_state(me, member, state)).await
    }

    async fn shard_map(&self) -> Result<ShardMap> {
        let sight = self.bounded(self.see(true, &[])).await?;
        Ok(sight.map.unwrap_or_default())
    }

    async fn take_shards(
        &self,
        me: Member,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>> {
        self.bounded(self.take_over(me, shards)).await
    }

    async fn draw_turn(&self, me: Member, turn: u64) -> Result<u64> {
        self.bounded(self.next_turn(me, turn)).await
    }

    async fn take_silent(
        &self,
        me: Member,
        from: Member,
        turn: u64,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>> {
        self.bounded(self.take_from_silent(me, from, turn, shards))
            .await
    }

    async fn hand_over(
        &self,
        me: Member,
        to: Member,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>> {
        self.bounded(self.give(me, to, shards)).await
    }

    async fn mailbox_put(&self, me: Member, to: Member, messages: Vec<Bytes>) -> Result<()> {
        self.bounded(self.post(me, to, &messages)).await
    }

    async fn mailbox_take(&self, me: Member, limit: u32) -> Result<Vec<(Member, Bytes)>> {
        self.bounded(self.collect(me, limit)).await
    }

    async fn hint(&self, me: Member) -> Result<RegistryHint> {
        self.trusted()?;
        self.hints.next(me).await
    }

    async fn force_fence(
        &self,
        me: Member,
        revocation: &Revocation,
        epoch: ShardEpoch,
    ) -> Result<u64> {
        self.bounded(self.take_away(me, revocation, epoch)).await
    }
}
