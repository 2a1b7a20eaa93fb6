//! Members: their lives from joining to leaving or being fenced.

use std::time::Duration;

use sluice_lockmgr::{
    ClusterIdentity, FenceOutcome, GrantId, Heartbeat, JoinRequest, Joined, Member, MemberEpoch,
    MemberId, MemberState, PastMember, PastReason, RECLAIM_GRACE, RegistryError, RegistryTime,
    Revoked, ShardEpoch,
};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, Row};

use super::stock::commit;
use super::{PostgresRegistry, Result, big, count, hints, life, number, small, told, unsigned};
use crate::schema;

/// Held by whoever joins, so that names get their numbers one after the other.
const JOIN_LOCK: i64 = 0x4a6f_696e;
/// Numbers of nodes are used in 16 bits.
const MEMBERS_MAX: i32 = 65_535;

/// For how long a node may be gone whose NFS clients find that nobody has overtaken them when it comes back.
const LONG_GONE: Duration = Duration::from_secs(24 * 3600);
/// Notes of nodes that did not come back that are forgotten when one joins.
const FORGOTTEN_AT_ONCE: i64 = 10_000;

/// Why a member may be fenced.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proof {
    /// Its lease still ends then, and that is past.
    Expired(RegistryTime),
    /// Its life lock is free.
    LifeLock,
}

/// A row of `node_session`, as far as its successor looks at it.
struct Session {
    addr: String,
    fresh: bool,
}

impl PostgresRegistry {
    pub(super) async fn identity_of(&self, propose: &ClusterIdentity) -> Result<ClusterIdentity> {
        let mut lent = self.stock.lend().await?;
        sqlx::query(
            "INSERT INTO cluster_identity(id, secret_proof, schema) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(propose.id.as_slice())
        .bind(propose.secret_proof.as_slice())
        .bind(small(propose.schema))
        .execute(&mut lent.conn)
        .await
        .map_err(told)?;
        let row = sqlx::query("SELECT id, secret_proof, schema FROM cluster_identity")
            .fetch_one(&mut lent.conn)
            .await
            .map_err(told)?;
        lent.give_back();
        let unreadable = |_| RegistryError::WrongCluster("its identity can't be read".into());
        let id: Vec<u8> = row.try_get(0).map_err(told)?;
        let proof: Vec<u8> = row.try_get(1).map_err(told)?;
        Ok(ClusterIdentity {
            id: id.try_into().map_err(unreadable)?,
            secret_proof: proof.try_into().map_err(unreadable)?,
            schema: number(row.try_get(2).map_err(told)?),
        })
    }

    pub(super) async fn make_member(&self, request: &JoinRequest) -> Result<Joined> {
        let mut lent = self.stock.lend().await?;
        let epoch: i64 = sqlx::query_scalar(
            "UPDATE cluster_state SET value = value + 1 WHERE key = 'epoch' RETURNING value",
        )
        .fetch_one(&mut lent.conn)
        .await
        .map_err(told)?;
        let epoch = MemberEpoch(unsigned(epoch));
        let life = life::take(&self.database, epoch).await?;
        let mut tx = lent.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(JOIN_LOCK)
            .execute(&mut *tx)
            .await
            .map_err(told)?;
        let id = number_of(&mut tx, &request.name).await?;
        let member = Member {
            id: MemberId(number(id)),
            epoch,
        };
        if let Some(why) = schema::refusal(&mut tx).await.map_err(told)? {
            return Err(RegistryError::Refused(why));
        }
        replace_older(&mut tx, member).await?;
        keep_anew_if_alone(&mut tx).await?;
        sqlx::query(
            "INSERT INTO node_session(member, epoch, name, addr, version, state, expires_at, schema) \
             VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7, $8)",
        )
        .bind(id)
        .bind(big(epoch.0))
        .bind(&request.name)
        .bind(&request.advertise)
        .bind(&request.version)
        .bind(state_code(MemberState::Joining))
        .bind(self.lease())
        .bind(schema::known())
        .execute(&mut *tx)
        .await
        .map_err(told)?;
        sqlx::query("INSERT INTO node_turn(member, epoch, turn) VALUES ($1, $2, 0)")
            .bind(id)
            .bind(big(epoch.0))
            .execute(&mut *tx)
            .await
            .map_err(told)?;
        forget_long_gone(&mut tx).await?;
        // After the insertion, which a command that takes the whole repository does not pass: one of the two sees the other.
        end_command(&mut tx).await?;
        let transaction = count(&mut tx, "members").await?;
        commit(tx).await?;
        self.answered(lent, Some(transaction));
        Ok(Joined {
            member,
            life: Box::new(life),
        })
    }

    fn lease(&self) -> PgInterval {
        interval(self.options.lease)
    }

    pub(super) async fn prolong(&self, me: Member, heard: &[u64]) -> Result<Heartbeat> {
        let before = self.database.history().mark();
        let heard: Vec<i64> = heard.iter().map(|id| big(*id)).collect();
        let mut lent = self.stock.lend().await?;
        // Touches no indexed column and no key: it passes commits that hold the row, and leaves no work to the indexes.
        // What was revoked is read in the same statement: whoever prolongs knows what came before. Whoever had no lease any more
        // could not act, and what is kept for NFS clients meanwhile is kept anew.
        let row = sqlx::query(
            "WITH heard AS (DELETE FROM revocation WHERE holder = $1 AND holder_epoch = $2 AND id = ANY($4)), \
               kept AS (UPDATE past_member AS p SET kept_until = clock_timestamp() + $5 FROM node_session AS n \
                 WHERE n.member = $1 AND n.epoch = $2 AND n.expires_at < clock_timestamp() AND p.kept_until > n.expires_at - $3) \
             UPDATE node_session SET expires_at = clock_timestamp() + $3 WHERE member = $1 AND epoch = $2 \
             RETURNING (SELECT value FROM cluster_state WHERE key = 'members'), \
               (SELECT value FROM cluster_state WHERE key = 'shards'), pg_current_xact_id()::text::bigint, \
               ARRAY(SELECT unnest(ARRAY[id, document, shard_epoch, number, fence]) FROM (SELECT * FROM revocation \
                 WHERE holder = $1 AND holder_epoch = $2 AND id <> ALL($4) ORDER BY id) AS r)",
        )
        .bind(small(me.id.0))
        .bind(big(me.epoch.0))
        .bind(self.lease())
        .bind(heard)
        .bind(interval(RECLAIM_GRACE))
        .fetch_optional(&mut lent.conn)
        .await
        .map_err(told)?;
        lent.give_back();
        let row = row.ok_or(RegistryError::Fenced)?;
        let (members, shards) = (row.try_get(0).map_err(told)?, row.try_get(1).map_err(told)?);
        let history = self.database.history();
        if !history.counters(&before, members, shards) {
            return Err(RegistryError::HistoryLost(
                history.lost().unwrap_or_default(),
            ));
        }
        history.committed(row.try_get(2).map_err(told)?);
        let revoked: Vec<i64> = row.try_get(3).map_err(told)?;
        Ok(Heartbeat {
            members: unsigned(members),
            shards: unsigned(shards),
            revoked: revoked.as_chunks().0.iter().map(revoked_of).collect(),
        })
    }

    pub(super) async fn list_past(&self, limit: u32) -> Result<Vec<PastMember>> {
        let mut lent = self.stock.lend().await?;
        let rows = sqlx::query(
            "SELECT member, epoch, name, addr, (extract(epoch FROM at) * 1000000)::bigint, why, by_member \
             FROM past_member ORDER BY at DESC, epoch DESC LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&mut lent.conn)
        .await
        .map_err(told)?;
        lent.give_back();
        rows.iter().map(|row| past(row).map_err(told)).collect()
    }

    pub(super) async fn fence(
        &self,
        me: Member,
        victim: Member,
        proof: Proof,
    ) -> Result<FenceOutcome> {
        let (expires, why) = match proof {
            Proof::Expired(seen) => (Some(seen.0), PastReason::Expired),
            Proof::LifeLock => (None, PastReason::Dead),
        };
        let mut lent = self.stock.lend_at_once().await?;
        let row = sqlx::query(
            "SELECT outcome, transaction FROM fence_member($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(small(me.id.0))
        .bind(big(me.epoch.0))
        .bind(small(victim.id.0))
        .bind(big(victim.epoch.0))
        .bind(expires)
        .bind(life::key(victim.epoch))
        .bind(why_code(why))
        .bind(interval(RECLAIM_GRACE))
        .fetch_one(&mut lent.conn)
        .await
        .map_err(told)?;
        self.answered(lent, row.try_get("transaction").map_err(told)?);
        match row.try_get("outcome").map_err(told)? {
            "fenced" => Ok(FenceOutcome::Fenced),
            "gone" => Ok(FenceOutcome::Gone),
            "alive" => Ok(FenceOutcome::Alive),
            _ => Err(RegistryError::Fenced),
        }
    }

    pub(super) async fn end(&self, me: Member) -> Result<()> {
        let mut lent = self.stock.lend().await?;
        let mut tx = lent.begin().await?;
        if row_of(&mut tx, me, Lock::Update).await?.is_none() {
            commit(tx).await?;
            lent.give_back();
            return Ok(());
        }
        remove(&mut tx, me, PastReason::Left, me.id).await?;
        let transaction = count(&mut tx, "members").await?;
        commit(tx).await?;
        self.database.history().committed(transaction);
        // Waited for: this may be the last that the process does.
        if hints::tell_members(&mut lent.conn).await {
            lent.give_back();
        }
        Ok(())
    }

    pub(super) async fn change_state(
        &self,
        me: Member,
        member: Member,
        state: MemberState,
    ) -> Result<()> {
        let mut lent = self.stock.lend().await?;
        let mut tx = lent.begin().await?;
        let mut both = vec![me, member];
        both.sort_unstable();
        both.dedup();
        for row in both {
            match row_of(&mut tx, row, Lock::KeyShare).await? {
                Some(_) => {}
                None if row == me => return Err(RegistryError::Fenced),
                None => return Err(RegistryError::Refused(format!("{row} is no member"))),
            }
        }
        sqlx::query("UPDATE node_session SET state = $3 WHERE member = $1 AND epoch = $2")
            .bind(small(member.id.0))
            .bind(big(member.epoch.0))
            .bind(state_code(state))
            .execute(&mut *tx)
            .await
            .map_err(told)?;
        let transaction = count(&mut tx, "members").await?;
        commit(tx).await?;
        self.answered(lent, Some(transaction));
        Ok(())
    }
}

pub(super) fn interval(span: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(span.as_micros()).unwrap_or(i64::MAX),
    }
}

/// The number of a node name; a new one for a new name.
async fn number_of(conn: &mut PgConnection, name: &str) -> Result<i32> {
    let known: Option<i32> = sqlx::query_scalar("SELECT member FROM node_name WHERE name = $1")
        .bind(name)
        .fetch_optional(&mut *conn)
        .await
        .map_err(told)?;
    if let Some(known) = known {
        return Ok(known);
    }
    let fresh: i32 = sqlx::query_scalar(
        "INSERT INTO node_name(name, member) SELECT $1, coalesce(max(member), 0) + 1 FROM node_name RETURNING member",
    )
    .bind(name)
    .fetch_one(conn)
    .await
    .map_err(told)?;
    if fresh > MEMBERS_MAX {
        return Err(RegistryError::Refused(
            "65535 node names have been used; reuse one of them".into(),
        ));
    }
    Ok(fresh)
}

/// A command that has the repository to itself (member 0) keeps nodes out; one that was killed is ended.
async fn end_command(conn: &mut PgConnection) -> Result<()> {
    let live: Option<bool> = sqlx::query_scalar(
        "SELECT bool_or(expires_at > clock_timestamp()) FROM node_session WHERE member = 0",
    )
    .fetch_one(&mut *conn)
    .await
    .map_err(told)?;
    if live == Some(true) {
        return Err(RegistryError::Refused(
            "a command works on the repository while no node runs; start the node again when it has ended".into(),
        ));
    }
    sqlx::query("DELETE FROM node_session WHERE member = 0")
        .execute(conn)
        .await
        .map(drop)
        .map_err(told)
}

/// Fences older incarnations of the joining node, unless one of them lives.
async fn replace_older(conn: &mut PgConnection, member: Member) -> Result<()> {
    let older: Vec<i64> =
        sqlx::query_scalar("SELECT epoch FROM node_session WHERE member = $1 ORDER BY epoch")
            .bind(small(member.id.0))
            .fetch_all(&mut *conn)
            .await
            .map_err(told)?;
    for epoch in older {
        let old = Member {
            id: member.id,
            epoch: MemberEpoch(unsigned(epoch)),
        };
        let Some(row) = row_of(conn, old, Lock::Update).await? else {
            continue;
        };
        if row.fresh && !try_life(conn, old.epoch).await? {
            return Err(RegistryError::NameTaken {
                advertise: row.addr,
            });
        }
        remove(conn, old, PastReason::Replaced, member.id).await?;
    }
    Ok(())
}

/// Before a node joins: what former members left is kept anew if no member could act by now.
async fn keep_anew_if_alone(conn: &mut PgConnection) -> Result<()> {
    let fresh: Vec<i64> = sqlx::query_scalar(
        "SELECT epoch FROM node_session WHERE member > 0 AND expires_at > clock_timestamp() AND state <> $1 ORDER BY epoch",
    )
    .bind(state_code(MemberState::Joining))
    .fetch_all(&mut *conn)
    .await
    .map_err(told)?;
    for epoch in fresh {
        if !try_life(conn, MemberEpoch(unsigned(epoch))).await? {
            return Ok(());
        }
    }
    sqlx::query(
        "UPDATE past_member SET kept_until = clock_timestamp() + $1 WHERE kept_until IS NOT NULL",
    )
    .bind(interval(RECLAIM_GRACE))
    .execute(conn)
    .await
    .map(drop)
    .map_err(told)
}

/// What lives noted that were over long ago, some of it at a time, but for those of nodes that are members again: their clients may have
/// waited for them.
async fn forget_long_gone(conn: &mut PgConnection) -> Result<()> {
    sqlx::query(
        "DELETE FROM nfs_locked WHERE ctid IN (SELECT l.ctid FROM past_member p JOIN nfs_locked l ON l.epoch = p.epoch \
         WHERE p.kept_until IS NULL AND p.at < clock_timestamp() - $1 \
           AND NOT EXISTS (SELECT 1 FROM node_session n WHERE n.member = p.member) LIMIT $2)",
    )
    .bind(interval(LONG_GONE))
    .bind(FORGOTTEN_AT_ONCE)
    .execute(conn)
    .await
    .map(drop)
    .map_err(told)
}

/// Whether nobody holds an incarnation's life lock (then this transaction does).
async fn try_life(conn: &mut PgConnection, epoch: MemberEpoch) -> Result<bool> {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(life::key(epoch))
        .fetch_one(conn)
        .await
        .map_err(told)
}

/// How a member's row is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    /// It stays; renewals pass.
    KeyShare,
    /// It is about to go: waits for everybody who relies on it.
    Update,
}

async fn row_of(conn: &mut PgConnection, member: Member, lock: Lock) -> Result<Option<Session>> {
    let statement = match lock {
        Lock::KeyShare => {
            "SELECT addr, expires_at > clock_timestamp() FROM node_session WHERE member = $1 AND epoch = $2 FOR KEY SHARE"
        }
        Lock::Update => {
            "SELECT addr, expires_at > clock_timestamp() FROM node_session WHERE member = $1 AND epoch = $2 FOR UPDATE"
        }
    };
    let row = sqlx::query(statement)
        .bind(small(member.id.0))
        .bind(big(member.epoch.0))
        .fetch_optional(conn)
        .await
        .map_err(told)?;
    row.map(|row| {
        Ok(Session {
            addr: row.try_get(0)?,
            fresh: row.try_get(1)?,
        })
    })
    .transpose()
    .map_err(told)
}

/// Ends a life whose row is locked; its turn, its mail and what it should hear go too.
async fn remove(
    conn: &mut PgConnection,
    gone: Member,
    why: PastReason,
    by: MemberId,
) -> Result<()> {
    sqlx::query("SELECT remove_member($1, $2, $3, $4, $5)")
        .bind(small(gone.id.0))
        .bind(big(gone.epoch.0))
        .bind(why_code(why))
        .bind(small(by.0))
        .bind(interval(RECLAIM_GRACE))
        .execute(conn)
        .await
        .map(drop)
        .map_err(told)
}

/// As `PostgresRegistry::prolong` reads it: five columns after each other.
fn revoked_of(&[id, document, epoch, number, fence]: &[i64; 5]) -> Revoked {
    Revoked {
        id: unsigned(id),
        document: document.cast_unsigned(),
        grant: GrantId {
            epoch: ShardEpoch(unsigned(epoch)),
            number: unsigned(number),
        },
        fence: unsigned(fence),
    }
}

fn past(row: &PgRow) -> std::result::Result<PastMember, sqlx::Error> {
    Ok(PastMember {
        member: Member {
            id: MemberId(number(row.try_get(0)?)),
            epoch: MemberEpoch(unsigned(row.try_get(1)?)),
        },
        name: row.try_get(2)?,
        advertise: row.try_get(3)?,
        at: RegistryTime(row.try_get(4)?),
        why: match row.try_get::<i16, _>(5)? {
            0 => PastReason::Left,
            1 => PastReason::Expired,
            2 => PastReason::Dead,
            _ => PastReason::Replaced,
        },
        by: MemberId(number(row.try_get(6)?)),
    })
}

pub(super) fn state_code(state: MemberState) -> i16 {
    match state {
        MemberState::Joining => 0,
        MemberState::Live => 1,
        MemberState::Draining => 2,
    }
}

fn why_code(why: PastReason) -> i16 {
    match why {
        PastReason::Left => 0,
        PastReason::Expired => 1,
        PastReason::Dead => 2,
        PastReason::Replaced => 3,
    }
}
