//! What an administrator should know of a database server before nodes rely on it. Only looks.

use std::str::FromStr;

use sluice_repo::{RepoError, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Row};

use crate::error::db;

/// Settings and state of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// Version as a number, 150004 for 15.4.
    pub version: i32,
    /// Whether `fsync`, `full_page_writes` and `synchronous_commit` are on.
    pub durable: bool,
    /// Those of them that are not.
    pub not_durable: Vec<String>,
    /// Connected standbys whose confirmation a commit waits for.
    pub synchronous_standbys: i64,
    /// Connections that the server takes.
    pub connections_max: i32,
    /// The server only follows another one.
    pub standby: bool,
}

impl ServerFacts {
    /// Asks a server; makes no tables.
    ///
    /// # Errors
    /// The address can't be read, or the server is not reached.
    pub async fn of(url: &str) -> Result<ServerFacts> {
        let options = PgConnectOptions::from_str(url).map_err(|_| {
            RepoError::Unavailable(
                "the address of the database can't be read; write postgres://user:password@host/database".into(),
            )
        })?;
        let mut conn = options
            .application_name("sluice preflight")
            .disable_statement_logging()
            .connect()
            .await
            .map_err(db)?;
        facts(&mut conn).await.map_err(db)
    }
}

async fn facts(conn: &mut PgConnection) -> sqlx::Result<ServerFacts> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, current_setting('max_connections')::int, pg_is_in_recovery(), \
         (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))",
    )
    .fetch_one(&mut *conn)
    .await?;
    let mut not_durable = Vec::new();
    for name in ["fsync", "full_page_writes", "synchronous_commit"] {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(&mut *conn)
            .await?;
        if matches!(value.as_str(), "off" | "local" | "remote_write") {
            not_durable.push(format!("{name} = {value}"));
        }
    }
    Ok(ServerFacts {
        version: row.try_get(0)?,
        connections_max: row.try_get(1)?,
        standby: row.try_get(2)?,
        synchronous_standbys: row.try_get(3)?,
        durable: not_durable.is_empty(),
        not_durable,
    })
}
