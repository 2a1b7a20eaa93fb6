//! What members look at again and again: the members, the owners of the shards, and what former members left behind.
//!
//! One statement, so one moment: it is waited for whenever a node is lost. The owners are sent only if they have changed since they
//! were read last.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluice_lockmgr::{
    LeftLocks, Member, MemberEpoch, MemberId, MemberList, MemberRecord, MemberState, RECLAIM_GRACE,
    RegistryError, RegistryTime, ShardEpoch, ShardMap, ShardOwner, Sight,
};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::members::{interval, state_code};
use super::{PostgresRegistry, Result, big, number, told, unsigned};

/// Members (`kind` 0, at least one row), what former ones left (1), the owners (2, if there is a version other than `$4`). What is over is
/// not begun anew after a look that comes while some member can act: when none can, that time does not count. Nobody waits for
/// anybody there.
const LOOK: &str = "\
    WITH over AS (SELECT epoch FROM past_member WHERE kept_until < clock_timestamp() - $2 \
        AND EXISTS (SELECT 1 FROM node_session WHERE member > 0 AND expires_at > clock_timestamp() AND state <> $3) \
        FOR NO KEY UPDATE SKIP LOCKED), \
      done AS (UPDATE past_member p SET kept_until = NULL FROM over WHERE p.epoch = over.epoch) \
    SELECT 0 AS kind, c.value AS version, n.member, n.epoch, n.name, n.addr, n.version AS program, n.state, \
        (extract(epoch FROM n.expires_at) * 1000000)::bigint AS moment, NULL::bigint[] AS documents, \
        NULL::int[] AS shards, NULL::bigint[] AS epochs, NULL::int[] AS owners, NULL::bigint[] AS owner_epochs \
      FROM cluster_state c LEFT JOIN node_session n ON n.member > 0 WHERE c.key = 'members' \
    UNION ALL \
    SELECT 1, NULL, p.member, p.epoch, p.name, NULL, NULL, NULL, \
        (extract(epoch FROM p.kept_until - clock_timestamp()) * 1000000)::bigint, \
        ARRAY(SELECT l.document FROM nfs_locked l WHERE l.epoch = p.epoch ORDER BY l.document), NULL, NULL, NULL, NULL \
      FROM past_member p WHERE p.kept_until > clock_timestamp() AND p.epoch <> ALL($1) \
    UNION ALL \
    SELECT 2, min(c.value), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
        array_agg(s.shard), array_agg(s.epoch), array_agg(s.owner), array_agg(s.owner_epoch) \
      FROM cluster_state c CROSS JOIN lock_shard s WHERE c.key = 'shards' AND c.value <> $4 HAVING count(*) > 0";

/// The owners as they were read last.
pub(super) type LastMap = Mutex<Arc<ShardMap>>;

impl PostgresRegistry {
    pub(super) async fn see(&self, map: bool, known: &[MemberEpoch]) -> Result<Sight> {
        let known: Vec<i64> = known.iter().map(|epoch| big(epoch.0)).collect();
        // The version that no change has made yet has no owners, here as there.
        let last = map.then(|| Arc::clone(&self.last_map.lock()));
        let mut lent = self.stock.lend_at_once().await?;
        let rows = sqlx::query(LOOK)
            .bind(known)
            .bind(interval(RECLAIM_GRACE))
            .bind(state_code(MemberState::Joining))
            .bind(last.as_ref().map(|last| big(last.version)))
            .fetch_all(&mut lent.conn)
            .await
            .map_err(told)?;
        lent.give_back();
        let (mut members, mut left, mut newer) = (MemberList::default(), Vec::new(), None);
        for row in &rows {
            match row.try_get("kind").map_err(told)? {
                0 => {
                    members.version = unsigned(row.try_get("version").map_err(told)?);
                    members.members.extend(record(row).map_err(told)?);
                }
                1 => left.push(left_by(row).map_err(told)?),
                _ => newer = Some(Arc::new(owners(row)?)),
            }
        }
        members.members.sort_by_key(|record| record.member);
        left.sort_by_key(|left| left.ends_in);
        if let Some(newer) = &newer {
            let mut last = self.last_map.lock();
            if newer.version > last.version {
                *last = Arc::clone(newer);
            }
        }
        let map = last.map(|last| Arc::unwrap_or_clone(newer.unwrap_or(last)));
        Ok(Sight { map, members, left })
    }
}

fn record(row: &PgRow) -> std::result::Result<Option<MemberRecord>, sqlx::Error> {
    let Some(member) = member(row)? else {
        return Ok(None);
    };
    Ok(Some(MemberRecord {
        member,
        name: row.try_get("name")?,
        advertise: row.try_get("addr")?,
        version: row.try_get("program")?,
        state: match row.try_get::<i16, _>("state")? {
            0 => MemberState::Joining,
            1 => MemberState::Live,
            _ => MemberState::Draining,
        },
        expires: RegistryTime(row.try_get("moment")?),
    }))
}

fn member(row: &PgRow) -> std::result::Result<Option<Member>, sqlx::Error> {
    let id: Option<i32> = row.try_get("member")?;
    let epoch: Option<i64> = row.try_get("epoch")?;
    Ok(id.zip(epoch).map(|(id, epoch)| Member {
        id: MemberId(number(id)),
        epoch: MemberEpoch(unsigned(epoch)),
    }))
}

fn left_by(row: &PgRow) -> std::result::Result<LeftLocks, sqlx::Error> {
    let documents: Vec<i64> = row.try_get("documents")?;
    Ok(LeftLocks {
        member: member(row)?.unwrap_or_default(),
        node: row.try_get("name")?,
        ends_in: Duration::from_micros(unsigned(row.try_get("moment")?)),
        documents: documents.into_iter().map(i64::cast_unsigned).collect(),
    })
}

fn owners(row: &PgRow) -> Result<ShardMap> {
    let shards: Vec<i32> = row.try_get("shards").map_err(told)?;
    let epochs: Vec<i64> = row.try_get("epochs").map_err(told)?;
    let owners: Vec<Option<i32>> = row.try_get("owners").map_err(told)?;
    let lives: Vec<Option<i64>> = row.try_get("owner_epochs").map_err(told)?;
    let mut map = ShardMap {
        version: unsigned(row.try_get("version").map_err(told)?),
        ..ShardMap::default()
    };
    let held = owners.into_iter().zip(lives);
    for ((shard, epoch), (owner, life)) in shards.into_iter().zip(epochs).zip(held) {
        let shard = usize::try_from(shard).ok();
        let Some(entry) = shard.and_then(|shard| map.owners.get_mut(shard)) else {
            return Err(RegistryError::Refused("a shard number out of range".into()));
        };
        *entry = ShardOwner {
            epoch: ShardEpoch(unsigned(epoch)),
            owner: owner.zip(life).map(|(owner, life)| Member {
                id: MemberId(number(owner)),
                epoch: MemberEpoch(unsigned(life)),
            }),
        };
    }
    Ok(map)
}
