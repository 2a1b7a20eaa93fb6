//! What an administrator sees of the members beyond what the members themselves need.

use std::time::Duration;

use sluice_lockmgr::{Member, MemberEpoch, MemberId};
use sqlx::Row;

use super::{PostgresRegistry, Result, life, number, told, unsigned};

/// A look at the members from the outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// How long each member's lease still runs, by the database's clock; nothing once it is over.
    pub leases: Vec<(Member, Option<Duration>)>,
    /// Members no more whose processes still hold their life locks: fenced, and not aware of it yet.
    pub rogues: Vec<Member>,
}

impl PostgresRegistry {
    /// Looks at leases and at processes that outlived their membership.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn survey(&self) -> Result<Survey> {
        self.bounded(self.look()).await
    }

    async fn look(&self) -> Result<Survey> {
        let mut lent = self.stock.lend().await?;
        let rows = sqlx::query(
            "SELECT member, epoch, (extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint, true \
             FROM node_session WHERE member > 0 UNION ALL \
             SELECT p.member, p.epoch, 0, false FROM past_member p JOIN pg_locks l \
               ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND (l.classid::bigint << 32 | l.objid::bigint) = $1 + p.epoch \
             ORDER BY 1, 2",
        )
        .bind(life::key(MemberEpoch(0)))
        .fetch_all(&mut lent.conn)
        .await
        .map_err(told)?;
        lent.give_back();
        let mut survey = Survey::default();
        for row in &rows {
            let member = Member {
                id: MemberId(number(row.try_get(0).map_err(told)?)),
                epoch: MemberEpoch(unsigned(row.try_get(1).map_err(told)?)),
            };
            let left: i64 = row.try_get(2).map_err(told)?;
            if row.try_get(3).map_err(told)? {
                let left = u64::try_from(left).ok().map(Duration::from_millis);
                survey.leases.push((member, left));
            } else {
                survey.rogues.push(member);
            }
        }
        Ok(survey)
    }
}
