//! Tables and functions of the database and how older ones become current: numbered steps that are never changed once
//! a release has carried them out.

use sluice_repo::{RepoError, Result};
use sqlx::{Connection, PgConnection};

use crate::error::db;

/// Steps from each schema version to the next; the number of the version is the number of steps done.
const STEPS: &[&str] = &[
    include_str!("../migrations/0001_cluster.sql"),
    include_str!("../migrations/0002_registry.sql"),
    include_str!("../migrations/0003_metadata.sql"),
    include_str!("../migrations/0004_changes.sql"),
    include_str!("../migrations/0005_commits.sql"),
];

/// Held while the schema is looked at or changed, so that nodes that start together do not do it twice.
const MIGRATION_LOCK: i64 = 0x736c_7569_6365;

/// Creates the tables or brings them up to date; refuses a database that a newer program has written.
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
    let mut tx = conn.begin().await.map_err(db)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *tx)
        .await
        .map_err(db)?;
    sqlx::raw_sql(
        "CREATE SCHEMA IF NOT EXISTS sluice; CREATE TABLE IF NOT EXISTS schema_version(version integer NOT NULL)",
    )
    .execute(&mut *tx)
    .await
    .map_err(db)?;
    let found: Option<i32> = sqlx::query_scalar("SELECT version FROM schema_version")
        .fetch_optional(&mut *tx)
        .await
        .map_err(db)?;
    let done = usize::try_from(found.unwrap_or(0)).unwrap_or(usize::MAX);
    let Some(missing) = STEPS.get(done..) else {
        return Err(RepoError::Unavailable(format!(
            "the database has schema version {done}, this program knows versions up to {}; use a newer program",
            STEPS.len()
        )));
    };
    for step in missing {
        sqlx::raw_sql(*step).execute(&mut *tx).await.map_err(db)?;
    }
    if !missing.is_empty() {
        sqlx::query("DELETE FROM schema_version")
            .execute(&mut *tx)
            .await
            .map_err(db)?;
        sqlx::query("INSERT INTO schema_version(version) VALUES ($1)")
            .bind(i32::try_from(STEPS.len()).unwrap_or(i32::MAX))
            .execute(&mut *tx)
            .await
            .map_err(db)?;
    }
    tx.commit().await.map_err(db)
}
