//! Owners of the lock shards, and tokens taken away by force. The epoch of a shard is part of its key: raising it waits
//! for commits that hold the row, and none under the old epoch comes after it.

use sluice_lockmgr::{
    Member, MemberEpoch, MemberId, RegistryError, Revocation, ShardEpoch, ShardId, ShardMap,
    shard_of,
};
use sqlx::{PgConnection, Row};

use super::stock::commit;
use super::{PostgresRegistry, Result, big, count, hints, number, own_row, small, told, unsigned};

impl PostgresRegistry {
    pub(super) async fn read_shards(&self) -> Result<ShardMap> {
        let mut lent = self.stock.lend().await?;
        // One statement is one moment: the version belongs to these owners.
        let rows = sqlx::query(
            "SELECT c.value, s.shard, s.epoch, s.owner, s.owner_epoch \
             FROM cluster_state c CROSS JOIN lock_shard s WHERE c.key = 'shards'",
        )
        .fetch_all(&mut lent.conn)
        .await
        .map_err(told)?;
        lent.give_back();
        let mut map = ShardMap::default();
        for row in &rows {
            map.version = unsigned(row.try_get(0).map_err(told)?);
            let shard = usize::try_from(row.try_get::<i32, _>(1).map_err(told)?);
            let Some(entry) = shard.ok().and_then(|shard| map.owners.get_mut(shard)) else {
                return Err(RegistryError::Refused("a shard number out of range".into()));
            };
            entry.epoch = ShardEpoch(unsigned(row.try_get(2).map_err(told)?));
            let owner: Option<i32> = row.try_get(3).map_err(told)?;
            let epoch: Option<i64> = row.try_get(4).map_err(told)?;
            entry.owner = owner.zip(epoch).map(|(owner, epoch)| Member {
                id: MemberId(number(owner)),
                epoch: MemberEpoch(unsigned(epoch)),
            });
        }
        Ok(map)
    }

    pub(super) async fn take_over(
        &self,
        me: Member,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>> {
        let mut lent = self.stock.lend().await?;
        let mut tx = lent.begin().await?;
        own_row(&mut tx, me).await?;
        lock_rows(&mut tx, shards).await?;
        // A member that is none now never becomes one again, so reading its row without a lock is enough.
        let taken = sqlx::query(
            "UPDATE lock_shard s SET owner = $1, owner_epoch = $2, epoch = s.epoch + 1 \
             FROM unnest($3::int[], $4::bigint[]) AS w(shard, epoch) \
             WHERE s.shard = w.shard AND s.epoch = w.epoch AND NOT EXISTS ( \
               SELECT 1 FROM node_session n WHERE n.member = s.owner AND n.epoch = s.owner_epoch) \
             RETURNING s.shard, s.epoch",
        )
        .bind(small(me.id.0))
        .bind(big(me.epoch.0))
        .bind(numbers(shards))
        .bind(epochs(shards))
        .fetch_all(&mut *tx)
        .await
        .map_err(told)?;
        let transaction = count_changes(&mut tx, &taken).await?;
        commit(tx).await?;
        self.changed(&mut lent.conn, transaction).await;
        lent.give_back();
        moved(&taken)
    }

    pub(super) async fn next_turn(&self, me: Member, turn: u64) -> Result<u64> {
        let mut lent = self.stock.lend().await?;
        let mut tx = lent.begin().await?;
        own_row(&mut tx, me).await?;
        // Waits for a take-over that holds the row.
        let transaction: i64 = sqlx::query_scalar(
            "UPDATE node_turn SET turn = greatest(turn, $3) WHERE member = $1 AND epoch = $2 \
             RETURNING pg_current_xact_id()::text::bigint",
        )
        .bind(small(me.id.0))
        .bind(big(me.epoch.0))
        .bind(big(turn))
        .fetch_one(&mut *tx)
        .await
        .map_err(told)?;
        // A statement of its own: it sees what was committed while the one before waited.
        let shards: i64 =
            sqlx::query_scalar("SELECT value FROM cluster_state WHERE key = 'shards'")
                .fetch_one(&mut *tx)
                .await
                .map_err(told)?;
        commit(tx).await?;
        self.database.history().committed(transaction);
        lent.give_back();
        Ok(unsigned(shards))
    }

    pub(super) async fn take_from_silent(
        &self,
        me: Member,
        from: Member,
        turn: u64,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>> {
        let mut lent = self.stock.lend().await?;
        let mut tx = lent.begin().await?;
        let mut both = [me, from];
        both.sort_unstable();
        let mut there = true;
        for member in both {
            match own_row(&mut tx, member).await {
                Err(RegistryError::Fenced) if member != me => there = false,
                other => other?,
            }
        }
        if !there || !has_turn(&mut tx, from, turn).await? {
            commit(tx).await?;
            lent.give_back();
            return Ok(Vec::new());
        }
        lock_rows(&mut tx, shards).await?;
        // What was taken before, and the answer was lost: the turn is the same still, so it was then.
        let before = taken_before(&mut tx, me, shards).await?;
        let mut taken = move_from(&mut tx, from, me, shards).await?;
        let transaction = count_changes(&mut tx, &taken).await?;
        taken.extend(before);
        commit(tx).await?;
        self.changed(&mut lent.conn, transaction).await;
        lent.give_back();
        moved(&taken)
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
        lock_rows(&mut tx, shards).await?;
        let given = move_from(&mut tx, me, to, shards).await?;
        let transaction = count_changes(&mut tx, &given).await?;
        commit(tx).await?;
        self.changed(&mut lent.conn, transaction).await;
        lent.give_back();
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

    /// After a committed change of owners: remembers it and tells the others.
    async fn changed(&self, conn: &mut PgConnection, transaction: Option<i64>) {
        if let Some(transaction) = transaction {
            self.database.history().committed(transaction);
            hints::tell_members(conn).await;
        }
    }
}

/// Takes the rows in one order, so that two nodes that take over at once wait for each other instead of standing crosswise.
async fn lock_rows(conn: &mut PgConnection, shards: &[(ShardId, ShardEpoch)]) -> Result<()> {
    sqlx::query(
        "SELECT count(*) FROM (SELECT 1 FROM lock_shard WHERE shard = ANY($1) ORDER BY shard FOR UPDATE) AS locked",
    )
    .bind(numbers(shards))
    .execute(conn)
    .await
    .map(drop)
    .map_err(told)
}

/// Whether a member has drawn this turn last. It draws none before the end of the transaction.
async fn has_turn(conn: &mut PgConnection, member: Member, turn: u64) -> Result<bool> {
    sqlx::query("SELECT 1 FROM node_turn WHERE member = $1 AND epoch = $2 AND turn = $3 FOR SHARE")
        .bind(small(member.id.0))
        .bind(big(member.epoch.0))
        .bind(big(turn))
        .fetch_optional(conn)
        .await
        .map(|row| row.is_some())
        .map_err(told)
}

/// Makes `to` the owner of those of the shards that `from` owns with the given epochs.
async fn move_from(
    conn: &mut PgConnection,
    from: Member,
    to: Member,
    shards: &[(ShardId, ShardEpoch)],
) -> Result<Vec<sqlx::postgres::PgRow>> {
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

/// Those of the shards that `me` owns with the next epoch after the given one.
async fn taken_before(
    conn: &mut PgConnection,
    me: Member,
    shards: &[(ShardId, ShardEpoch)],
) -> Result<Vec<sqlx::postgres::PgRow>> {
    sqlx::query(
        "SELECT s.shard, s.epoch FROM lock_shard s JOIN unnest($3::int[], $4::bigint[]) AS w(shard, epoch) \
         ON s.shard = w.shard AND s.epoch = w.epoch + 1 WHERE s.owner = $1 AND s.owner_epoch = $2",
    )
    .bind(small(me.id.0))
    .bind(big(me.epoch.0))
    .bind(numbers(shards))
    .bind(epochs(shards))
    .fetch_all(conn)
    .await
    .map_err(told)
}

async fn count_changes(
    conn: &mut PgConnection,
    rows: &[sqlx::postgres::PgRow],
) -> Result<Option<i64>> {
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

fn moved(rows: &[sqlx::postgres::PgRow]) -> Result<Vec<(ShardId, ShardEpoch)>> {
    rows.iter()
        .map(|row| {
            let shard: i32 = row.try_get(0).map_err(told)?;
            let epoch: i64 = row.try_get(1).map_err(told)?;
            let shard = u16::try_from(shard)
                .map_err(|_| RegistryError::Refused("a shard number out of range".into()))?;
            Ok((ShardId(shard), ShardEpoch(unsigned(epoch))))
        })
        .collect()
}
