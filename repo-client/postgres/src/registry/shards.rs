//! Owners of the lock shards, and tokens taken away by force. The epoch of a shard is part of its key: raising it waits
//! for commits that hold the row, and none under the old epoch comes after it.

use std::sync::Arc;

use sluice_lockmgr::{Member, RegistryError, Revocation, ShardEpoch, ShardId, shard_of};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row};

use super::stock::commit;
use super::{PostgresRegistry, Result, big, count, own_row, small, told, unsigned};

impl PostgresRegistry {
    pub(super) async fn take_over(
        &self,
        me: Member,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>> {
        let call = sqlx::query(
            "SELECT member, shards, epochs, version, transaction FROM take_orphans($1, $2, $3, $4)",
        );
        let call = call.bind(small(me.id.0)).bind(big(me.epoch.0));
        self.take(me, shards, call).await
    }

    pub(super) async fn next_turn(&self, me: Member, turn: u64) -> Result<u64> {
        let mut lent = self.stock.lend_at_once().await?;
        let row = sqlx::query("SELECT version, transaction FROM draw_turn($1, $2, $3)")
            .bind(small(me.id.0))
            .bind(big(me.epoch.0))
            .bind(big(turn))
            .fetch_one(&mut lent.conn)
            .await
            .map_err(told)?;
        lent.give_back();
        let version: Option<i64> = row.try_get("version").map_err(told)?;
        let transaction: Option<i64> = row.try_get("transaction").map_err(told)?;
        let (version, transaction) = version.zip(transaction).ok_or(RegistryError::Fenced)?;
        self.database.history().committed(transaction);
        Ok(unsigned(version))
    }

    pub(super) async fn take_from_silent(
        &self,
        me: Member,
        from: Member,
        turn: u64,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>> {
        let call = sqlx::query(
            "SELECT member, shards, epochs, version, transaction FROM take_silent($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(small(me.id.0))
        .bind(big(me.epoch.0))
        .bind(small(from.id.0))
        .bind(big(from.epoch.0))
        .bind(big(turn));
        self.take(me, shards, call).await
    }

    /// Calls a function of the database that takes shards, its last two parameters, for a member. Who has read the version before the one
    /// that this makes need not read the owners again.
    async fn take(
        &self,
        me: Member,
        shards: &[(ShardId, ShardEpoch)],
        call: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<(ShardId, ShardEpoch)>> {
        let mut lent = self.stock.lend_at_once().await?;
        let row = call
            .bind(numbers(shards))
            .bind(epochs(shards))
            .fetch_one(&mut lent.conn)
            .await
            .map_err(told)?;
        self.answered(lent, row.try_get("transaction").map_err(told)?);
        if !row.try_get::<bool, _>("member").map_err(told)? {
            return Err(RegistryError::Fenced);
        }
        let shards: Option<Vec<i32>> = row.try_get("shards").map_err(told)?;
        let epochs: Option<Vec<i64>> = row.try_get("epochs").map_err(told)?;
        let (shards, epochs) = (shards.unwrap_or_default(), epochs.unwrap_or_default());
        let both = shards.into_iter().zip(epochs);
        let taken: Vec<_> = both.map(|(s, e)| held(s, e)).collect::<Result<_>>()?;
        let version: Option<i64> = row.try_get("version").map_err(told)?;
        let mut last = self.last_map.lock();
        if version.map(unsigned) == Some(last.version + 1) {
            let map = Arc::make_mut(&mut last);
            map.version += 1;
            for (shard, epoch) in &taken {
                if let Some(entry) = map.owners.get_mut(usize::from(shard.0)) {
                    (entry.owner, entry.epoch) = (Some(me), *epoch);
                }
            }
        }
        Ok(taken)
    }

    pub(super) async fn give(
        &self,
        me: Member,
        to: Member,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>> {
        let mut lent = self.stock.lend().await?;
        let mut tx = lent.begin().await?;
        let mut receiver = true;
        let mut both = [me, to];
        both.sort_unstable();
        for member in both {
            match own_row(&mut tx, member).await {
                Err(RegistryError::Fenced) if member != me => receiver = false,
                other => other?,
            }
        }
        if !receiver {
            commit(tx).await?;
            lent.give_back();
            return Ok(Vec::new());
        }
        sqlx::query("SELECT lock_shards($1)")
            .bind(numbers(shards))
            .execute(&mut *tx)
            .await
            .map_err(told)?;
        let given = move_from(&mut tx, me, to, shards).await?;
        let transaction = count_changes(&mut tx, &given).await?;
        commit(tx).await?;
        self.answered(lent, transaction);
        moved(&given)
    }

    pub(super) async fn take_away(
        &self,
        me: Member,
        revocation: &Revocation,
        epoch: ShardEpoch,
    ) -> Result<u64> {
        let Revocation {
            document,
            grant,
            holder,
        } = *revocation;
        let mut lent = self.stock.lend().await?;
        let mut tx = lent.begin().await?;
        own_row(&mut tx, me).await?;
        let owns = sqlx::query(
            "SELECT 1 FROM lock_shard WHERE shard = $1 AND epoch = $2 AND owner = $3 AND owner_epoch = $4 \
             FOR KEY SHARE",
        )
        .bind(i32::from(shard_of(document).0))
        .bind(big(epoch.0))
        .bind(small(me.id.0))
        .bind(big(me.epoch.0))
        .fetch_optional(&mut *tx)
        .await
        .map_err(told)?;
        if owns.is_none() {
            return Err(RegistryError::Refused(
                "the document's shard has another owner by now".into(),
            ));
        }
        // Commits change the same row, so that each is wholly before or after this. What is not there (a name, a deleted
        // document) nobody can commit.
        let fence: Option<i64> = sqlx::query_scalar(
            "UPDATE node SET fence = greatest(fence, $2) + 1 WHERE id = $1 RETURNING fence",
        )
        .bind(document.cast_signed())
        .bind(big(epoch.fence()))
        .fetch_optional(&mut *tx)
        .await
        .map_err(told)?;
        let fence = fence.map_or(epoch.fence() + 1, unsigned);
        // For the holder's next renewal. One that is no member any more has no use for it.
        sqlx::query(
            "INSERT INTO revocation(holder, holder_epoch, document, shard_epoch, number, fence) \
             SELECT $1, $2, $3, $4, $5, $6 \
             FROM node_session WHERE member = $1 AND epoch = $2 FOR KEY SHARE",
        )
        .bind(small(holder.id.0))
        .bind(big(holder.epoch.0))
        .bind(document.cast_signed())
        .bind(big(grant.epoch.0))
        .bind(big(grant.number))
        .bind(big(fence))
        .execute(&mut *tx)
        .await
        .map_err(told)?;
        commit(tx).await?;
        lent.give_back();
        Ok(fence)
    }
}

/// Makes `to` the owner of those of the shards that `from` owns with the given epochs.
async fn move_from(
    conn: &mut PgConnection,
    from: Member,
    to: Member,
    shards: &[(ShardId, ShardEpoch)],
) -> Result<Vec<PgRow>> {
    sqlx::query(
        "UPDATE lock_shard s SET owner = $5, owner_epoch = $6, epoch = s.epoch + 1 \
         FROM unnest($3::int[], $4::bigint[]) AS w(shard, epoch) \
         WHERE s.shard = w.shard AND s.epoch = w.epoch AND s.owner = $1 AND s.owner_epoch = $2 \
         RETURNING s.shard, s.epoch",
    )
    .bind(small(from.id.0))
    .bind(big(from.epoch.0))
    .bind(numbers(shards))
    .bind(epochs(shards))
    .bind(small(to.id.0))
    .bind(big(to.epoch.0))
    .fetch_all(conn)
    .await
    .map_err(told)
}

async fn count_changes(conn: &mut PgConnection, rows: &[PgRow]) -> Result<Option<i64>> {
    if rows.is_empty() {
        return Ok(None);
    }
    count(conn, "shards").await.map(Some)
}

fn numbers(shards: &[(ShardId, ShardEpoch)]) -> Vec<i32> {
    shards.iter().map(|(shard, _)| i32::from(shard.0)).collect()
}

fn epochs(shards: &[(ShardId, ShardEpoch)]) -> Vec<i64> {
    shards.iter().map(|(_, epoch)| big(epoch.0)).collect()
}

fn moved(rows: &[PgRow]) -> Result<Vec<(ShardId, ShardEpoch)>> {
    rows.iter()
        .map(|row| held(row.try_get(0).map_err(told)?, row.try_get(1).map_err(told)?))
        .collect()
}

fn held(shard: i32, epoch: i64) -> Result<(ShardId, ShardEpoch)> {
    let shard = u16::try_from(shard)
        .map_err(|_| RegistryError::Refused("a shard number out of range".into()))?;
    Ok((ShardId(shard), ShardEpoch(unsigned(epoch))))
}
