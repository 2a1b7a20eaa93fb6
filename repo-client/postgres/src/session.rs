//! Having the repository to oneself: the session of a program that works on it while no node of the cluster runs.
//!
//! It is a row among the nodes' with member number 0, a short lease and a life lock like theirs. The registry lets no node
//! join while it lives; it does not come to be while a node lives.

use std::time::Duration;

use sluice_lockmgr::{Member, MemberEpoch, MemberId};
use sluice_repo::{RepoError, Result};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};

use crate::database::Database;
use crate::error::db;
use crate::registry::life_key;
use crate::row::big;
use crate::schema;

/// How long a program that is cut off from the database keeps others out; one that was killed does not.
const LEASE_S: f64 = 6.0;
const RENEWAL: Duration = Duration::from_secs(1);

/// Takes the repository on a connection that must be kept (see [`keep`]); `InUse` while a node or another such program
/// lives. Lives that are over are ended.
pub(crate) async fn take(conn: &mut PgConnection) -> Result<Member> {
    let mut tx = conn.begin().await.map_err(db)?;
    // Nobody joins or renews between the look and the new row.
    sqlx::query("LOCK TABLE node_session IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await
        .map_err(db)?;
    let others = sqlx::query(
        "SELECT member, epoch, name, addr, expires_at > clock_timestamp() FROM node_session ORDER BY member, epoch",
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(db)?;
    for row in &others {
        let epoch: i64 = row.try_get(1).map_err(db)?;
        if row.try_get(4).map_err(db)? && !is_dead(&mut tx, epoch).await? {
            let name: String = row.try_get(2).map_err(db)?;
            let addr: String = row.try_get(3).map_err(db)?;
            return Err(RepoError::InUse(match row.try_get::<i32, _>(0) {
                Ok(0) => "another command works on the repository; wait until it has ended".into(),
                _ => format!(
                    "node {name} ({addr}) has the repository open; stop all nodes or use the admin address of one"
                ),
            }));
        }
    }
    sqlx::query("DELETE FROM node_session")
        .execute(&mut *tx)
        .await
        .map_err(db)?;
    let epoch: i64 = sqlx::query_scalar(
        "UPDATE cluster_state SET value = value + 1 WHERE key = 'epoch' RETURNING value",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(db)?;
    let me = Member {
        id: MemberId(0),
        epoch: MemberEpoch(epoch as u64),
    };
    hold_life(&mut tx, me).await.map_err(db)?;
    sqlx::query(
        "INSERT INTO node_session(member, epoch, name, addr, version, state, expires_at, schema)
         VALUES (0, $1, 'a command', '', $2, 0, clock_timestamp() + make_interval(secs => $3), $4)",
    )
    .bind(epoch)
    .bind(env!("CARGO_PKG_VERSION"))
    .bind(LEASE_S)
    .bind(schema::known())
    .execute(&mut *tx)
    .await
    .map_err(db)?;
    tx.commit().await.map_err(db)?;
    Ok(me)
}

/// Whether nobody holds the life lock of an epoch.
async fn is_dead(conn: &mut PgConnection, epoch: i64) -> Result<bool> {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(life_key(MemberEpoch(epoch as u64)))
        .fetch_one(conn)
        .await
        .map_err(db)
}

async fn hold_life(conn: &mut PgConnection, me: Member) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_try_advisory_lock($1)")
        .bind(life_key(me.epoch))
        .execute(conn)
        .await
        .map(|_| ())
}

/// Keeps the lease and the life lock for as long as the task runs. Should the row be gone, every change is refused.
pub(crate) async fn keep(database: Database, me: Member, conn: PgConnection) {
    let mut kept = Some(conn);
    loop {
        tokio::time::sleep(RENEWAL).await;
        if kept.is_none()
            && let Ok(mut conn) = database.try_connect().await
            && hold_life(&mut conn, me).await.is_ok()
        {
            kept = Some(conn);
        }
        let Some(conn) = kept.as_mut() else { continue };
        let renewed = sqlx::query(
            "UPDATE node_session SET expires_at = clock_timestamp() + make_interval(secs => $2)
             WHERE member = 0 AND epoch = $1",
        )
        .bind(big(me.epoch.0))
        .bind(LEASE_S)
        .execute(conn)
        .await;
        if renewed.is_err() {
            kept = None;
        }
    }
}

/// Gives the repository back.
pub(crate) async fn leave(database: &Database, me: Member) -> Result<()> {
    let mut conn = database.connect().await?;
    sqlx::query("DELETE FROM node_session WHERE member = 0 AND epoch = $1")
        .bind(big(me.epoch.0))
        .execute(&mut conn)
        .await
        .map_err(db)?;
    Ok(())
}

/// Forgets the last batches of lives that are over.
pub(crate) async fn forget_lanes(conn: &mut PgConnection) -> Result<()> {
    sqlx::query(
        "DELETE FROM lane l WHERE NOT EXISTS(
           SELECT 1 FROM node_session s WHERE s.member = l.member AND s.epoch = l.epoch)",
    )
    .execute(conn)
    .await
    .map_err(db)
    .map(|_| ())
}
