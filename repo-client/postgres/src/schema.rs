//! Tables and functions of the database and how older ones become current: numbered steps that are never changed once
//! a release has carried them out.

use sluice_repo::{RepoError, Result};
use sqlx::{Connection, PgConnection};

use crate::error::db;

/// One step from a schema version to the next.
#[derive(Clone, Copy)]
struct Step {
    sql: &'static str,
    /// Programs that know fewer steps than this can't work on a database that has this one. Smaller than the step's own number if it only
    /// adds what they don't look at: then nodes of both versions work side by side.
    oldest: i32,
}

impl Step {
    const fn new(sql: &'static str, oldest: i32) -> Step {
        Step { sql, oldest }
    }
}

/// Steps from each schema version to the next; the number of the version is the number of steps done.
const STEPS: &[Step] = &[
    Step::new(include_str!("../migrations/0001_cluster.sql"), 1),
    Step::new(include_str!("../migrations/0002_registry.sql"), 2),
    Step::new(include_str!("../migrations/0003_metadata.sql"), 3),
    Step::new(include_str!("../migrations/0004_changes.sql"), 4),
    Step::new(include_str!("../migrations/0005_commits.sql"), 5),
    // Nodes that don't know it would not keep what is noted there.
    Step::new(include_str!("../migrations/0006_nfs_locks.sql"), 6),
    // Nodes that don't know it have no turn, and don't understand what nodes tell their deputies.
    Step::new(include_str!("../migrations/0007_turns.sql"), 7),
    Step::new(include_str!("../migrations/0008_kept_until.sql"), 7),
    Step::new(include_str!("../migrations/0009_one_call.sql"), 7),
    Step::new(include_str!("../migrations/0010_former_lives.sql"), 7),
];

/// Held while the schema is changed, so that nodes that start together do not do it twice, and shared by those that join.
const MIGRATION_LOCK: i64 = 0x736c_7569_6365;

/// How many steps this program knows.
pub(crate) fn known() -> i32 {
    number_of(STEPS)
}

fn number_of(steps: &[Step]) -> i32 {
    i32::try_from(steps.len()).unwrap_or(i32::MAX)
}

/// What a database has.
struct Found {
    /// Steps done.
    done: i32,
    /// See [`Step::oldest`].
    oldest: i32,
}

impl Found {
    async fn in_database(conn: &mut PgConnection) -> sqlx::Result<Found> {
        let row: Option<(i32, i32)> = sqlx::query_as("SELECT version, oldest FROM schema_version")
            .fetch_optional(conn)
            .await?;
        let (done, oldest) = row.unwrap_or_default();
        Ok(Found { done, oldest })
    }

    /// Why a program that knows so many steps may not work on it.
    fn refusal(&self, known: i32) -> Option<String> {
        let Found { done, oldest } = self;
        (*oldest > known).then(|| {
            format!(
                "the database has schema version {done} for programs that know version {oldest} or newer, this one knows \
                 versions up to {known}; use a newer program"
            )
        })
    }
}

/// Why this program may not join now. No other program shuts it out before the transaction ends.
pub(crate) async fn refusal(tx: &mut PgConnection) -> sqlx::Result<Option<String>> {
    sqlx::query("SELECT pg_advisory_xact_lock_shared($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *tx)
        .await?;
    Ok(Found::in_database(tx).await?.refusal(known()))
}

/// Creates the tables or brings them up to date. Refuses a database whose schema this program can't work with, and steps
/// after which a node that is running could not.
pub(crate) async fn migrate(conn: &mut PgConnection) -> Result<()> {
    let encoding: String = sqlx::query_scalar("SHOW server_encoding")
        .fetch_one(&mut *conn)
        .await
        .map_err(db)?;
    if encoding != "UTF8" {
        return Err(RepoError::Unavailable(format!(
            "the database stores text as {encoding}; make it with ENCODING 'UTF8'"
        )));
    }
    migrate_by(conn, STEPS).await
}

async fn migrate_by(conn: &mut PgConnection, steps: &[Step]) -> Result<()> {
    let mut tx = conn.begin().await.map_err(db)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *tx)
        .await
        .map_err(db)?;
    sqlx::raw_sql(
        "CREATE SCHEMA IF NOT EXISTS sluice; \
         CREATE TABLE IF NOT EXISTS schema_version(version integer NOT NULL, oldest integer NOT NULL)",
    )
    .execute(&mut *tx)
    .await
    .map_err(db)?;
    let found = Found::in_database(&mut tx).await.map_err(db)?;
    if let Some(why) = found.refusal(number_of(steps)) {
        return Err(RepoError::Unavailable(why));
    }
    let done = usize::try_from(found.done).unwrap_or(0);
    let missing = steps.get(done..).unwrap_or_default();
    let Some(oldest) = missing.iter().map(|step| step.oldest).max() else {
        return tx.commit().await.map_err(db);
    };
    if found.done > 0 {
        shut_out_older(&mut tx, oldest).await?;
    }
    for step in missing {
        sqlx::raw_sql(step.sql)
            .execute(&mut *tx)
            .await
            .map_err(db)?;
    }
    sqlx::query("DELETE FROM schema_version")
        .execute(&mut *tx)
        .await
        .map_err(db)?;
    sqlx::query("INSERT INTO schema_version(version, oldest) VALUES ($1, $2)")
        .bind(number_of(steps))
        .bind(found.oldest.max(oldest))
        .execute(&mut *tx)
        .await
        .map_err(db)?;
    tx.commit().await.map_err(db)
}

/// Refuses if a node is running that could not go on. One whose lease has run out is none any more: it must not come back.
async fn shut_out_older(tx: &mut PgConnection, oldest: i32) -> Result<()> {
    let running: Option<String> = sqlx::query_scalar(
        "SELECT string_agg(name, ', ' ORDER BY name) FROM node_session \
         WHERE schema < $1 AND expires_at > clock_timestamp()",
    )
    .bind(oldest)
    .fetch_one(&mut *tx)
    .await
    .map_err(db)?;
    if let Some(names) = running {
        return Err(RepoError::Unavailable(format!(
            "the database has to be changed for this program in a way that nodes of the older version can't work with; \
             stop these first: {names}"
        )));
    }
    sqlx::query("DELETE FROM node_session WHERE schema < $1")
        .bind(oldest)
        .execute(&mut *tx)
        .await
        .map_err(db)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::PostgresServer;
    use sqlx::postgres::PgConnectOptions;
    use std::str::FromStr;
    use std::sync::Arc;

    async fn database() -> (Arc<PostgresServer>, PgConnection) {
        let server = PostgresServer::shared().expect("server");
        let url = server.database().expect("database");
        crate::Database::open(&url).await.expect("open");
        let options = PgConnectOptions::from_str(&url).expect("address");
        let options = options.options([("search_path", "sluice")]);
        let conn = PgConnection::connect_with(&options).await.expect("connect");
        (server, conn)
    }

    fn steps_and(sql: &'static str, oldest: i32) -> Vec<Step> {
        let mut steps = STEPS.to_vec();
        steps.push(Step::new(sql, oldest));
        steps
    }

    async fn live_node(conn: &mut PgConnection, name: &str, lasts_s: i32) {
        sqlx::query(
            "INSERT INTO node_session(member, epoch, name, addr, version, state, expires_at, schema) \
             VALUES (1, $1, $2, '', '1', 0, clock_timestamp() + make_interval(secs => $1), $3)",
        )
        .bind(lasts_s)
        .bind(name)
        .bind(known())
        .execute(conn)
        .await
        .expect("session");
    }

    /// A database that was made when there were so many steps.
    async fn database_of(steps: usize) -> (Arc<PostgresServer>, PgConnection) {
        let server = PostgresServer::shared().expect("server");
        let url = server.database().expect("database");
        let options = PgConnectOptions::from_str(&url).expect("address");
        let options = options.options([("search_path", "sluice")]);
        let mut conn = PgConnection::connect_with(&options).await.expect("connect");
        let before = STEPS.get(..steps).expect("so many steps");
        migrate_by(&mut conn, before).await.expect("made before");
        (server, conn)
    }

    #[tokio::test]
    async fn a_database_of_before_the_notes_of_nfs_locks_gets_them() {
        let (_server, mut conn) = database_of(5).await;
        migrate(&mut conn).await.expect("brought up to date");
        let note = r#"SELECT op_locked(0, '{"do": "note", "documents": [7]}', 3)"#;
        sqlx::query(note).execute(&mut conn).await.expect("noted");
        let noted: Vec<(i64, i64)> = sqlx::query_as("SELECT epoch, document FROM nfs_locked")
            .fetch_all(&mut conn)
            .await
            .expect("read");
        assert_eq!(noted, [(3, 7)]);
    }

    /// A node of a program without deputies would not understand the others, and has no turn.
    #[tokio::test]
    async fn a_database_of_before_the_turns_gets_them_once_its_older_nodes_have_stopped() {
        let (_server, mut conn) = database_of(6).await;
        live_node(&mut conn, "old", 60).await;
        sqlx::query("UPDATE node_session SET schema = 6")
            .execute(&mut conn)
            .await
            .expect("an older program");
        let refused = migrate(&mut conn).await;
        assert!(
            matches!(&refused, Err(RepoError::Unavailable(why)) if why.contains("stop these first: old")),
            "{refused:?}"
        );
        sqlx::query("DELETE FROM node_session")
            .execute(&mut conn)
            .await
            .expect("stopped");
        migrate(&mut conn).await.expect("brought up to date");
        live_node(&mut conn, "new", 60).await;
        let turn = "INSERT INTO node_turn(member, epoch, turn) VALUES (1, 60, 0)";
        sqlx::query(turn).execute(&mut conn).await.expect("a turn");
        let older = migrate_by(&mut conn, STEPS.get(..6).expect("six steps")).await;
        assert!(
            matches!(&older, Err(RepoError::Unavailable(why)) if why.contains("newer program")),
            "{older:?}"
        );
    }

    #[tokio::test]
    async fn a_database_of_before_the_single_calls_gets_them_beside_running_nodes() {
        let (_server, mut conn) = database_of(8).await;
        live_node(&mut conn, "old", 60).await;
        migrate(&mut conn).await.expect("beside it");
        let call = "SELECT outcome FROM fence_member(1, 60, 2, 61, NULL, 7, 2::smallint, '1 s')";
        let outcome: String = sqlx::query_scalar(call)
            .fetch_one(&mut conn)
            .await
            .expect("called");
        assert_eq!(outcome, "gone");
    }

    #[tokio::test]
    async fn a_step_that_only_adds_is_done_beside_running_nodes_which_can_join_again() {
        let (_server, mut conn) = database().await;
        live_node(&mut conn, "old", 60).await;
        let newer = steps_and("ALTER TABLE node_name ADD COLUMN note text", known());
        migrate_by(&mut conn, &newer).await.expect("beside it");
        migrate_by(&mut conn, STEPS)
            .await
            .expect("an older program");
        let mut tx = conn.begin().await.expect("begin");
        assert_eq!(refusal(&mut tx).await.expect("asked"), None);
    }

    #[tokio::test]
    async fn a_step_that_shuts_others_out_waits_until_they_have_stopped() {
        let (_server, mut conn) = database().await;
        live_node(&mut conn, "old", 60).await;
        let newer = steps_and(
            "ALTER TABLE node_name RENAME COLUMN member TO node",
            known() + 1,
        );
        let refused = migrate_by(&mut conn, &newer).await;
        assert!(
            matches!(&refused, Err(RepoError::Unavailable(why)) if why.contains("stop these first: old")),
            "{refused:?}"
        );
        let expired = "UPDATE node_session SET expires_at = clock_timestamp() - interval '1 s'";
        sqlx::query(expired)
            .execute(&mut conn)
            .await
            .expect("expired");
        migrate_by(&mut conn, &newer).await.expect("nobody is left");
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM node_session")
            .fetch_one(&mut conn)
            .await
            .expect("count");
        assert_eq!(left, 0, "it must not come back");
        let older = migrate_by(&mut conn, STEPS).await;
        assert!(
            matches!(&older, Err(RepoError::Unavailable(why)) if why.contains("newer program")),
            "{older:?}"
        );
        let mut tx = conn.begin().await.expect("begin");
        assert!(refusal(&mut tx).await.expect("asked").is_some());
    }
}
