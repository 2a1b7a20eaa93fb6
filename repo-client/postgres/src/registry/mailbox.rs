//! The mailbox: messages between members that can't reach each other.

use bytes::Bytes;
use sluice_lockmgr::{Member, MemberEpoch, MemberId, RegistryError};
use sqlx::Row;

use super::{PostgresRegistry, Result, big, hints, number, small, told, unsigned};

impl PostgresRegistry {
    pub(super) async fn post(&self, me: Member, to: Member, messages: &[Bytes]) -> Result<()> {
        let mut lent = self.stock.lend().await?;
        let bodies: Vec<&[u8]> = messages.iter().map(AsRef::as_ref).collect();
        let live: bool = sqlx::query_scalar(
            "WITH me AS (SELECT 1 FROM node_session WHERE member = $1 AND epoch = $2 FOR KEY SHARE), \
             put AS (INSERT INTO peer_mailbox(to_member, to_epoch, from_member, from_epoch, message) \
               SELECT $3, $4, $1, $2, m.body FROM unnest($5::bytea[]) WITH ORDINALITY AS m(body, place) \
               WHERE EXISTS (SELECT 1 FROM me) \
                 AND EXISTS (SELECT 1 FROM node_session WHERE member = $3 AND epoch = $4) \
               ORDER BY m.place) \
             SELECT EXISTS (SELECT 1 FROM me)",
        )
        .bind(small(me.id.0))
        .bind(big(me.epoch.0))
        .bind(small(to.id.0))
        .bind(big(to.epoch.0))
        .bind(bodies)
        .fetch_one(&mut lent.conn)
        .await
        .map_err(told)?;
        if !live || hints::tell_mail(&mut lent.conn, to).await {
            lent.give_back();
        }
        live.then_some(()).ok_or(RegistryError::Fenced)
    }

    pub(super) async fn collect(&self, me: Member, limit: u32) -> Result<Vec<(Member, Bytes)>> {
        let mut lent = self.stock.lend().await?;
        let rows = sqlx::query(
            "WITH taken AS (DELETE FROM peer_mailbox WHERE id IN ( \
               SELECT id FROM peer_mailbox WHERE to_member = $1 AND to_epoch = $2 ORDER BY id LIMIT $3) \
               RETURNING id, from_member, from_epoch, message) \
             SELECT from_member, from_epoch, message FROM taken ORDER BY id",
        )
        .bind(small(me.id.0))
        .bind(big(me.epoch.0))
        .bind(i64::from(limit))
        .fetch_all(&mut lent.conn)
        .await
        .map_err(told)?;
        lent.give_back();
        rows.iter()
            .map(|row| {
                let from = Member {
                    id: MemberId(number(row.try_get(0).map_err(told)?)),
                    epoch: MemberEpoch(unsigned(row.try_get(1).map_err(told)?)),
                };
                let message: Vec<u8> = row.try_get(2).map_err(told)?;
                Ok((from, Bytes::from(message)))
            })
            .collect()
    }
}
