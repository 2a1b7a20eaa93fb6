//! Where the database is, and how connections to it are made: by the repository and by the registry alike.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sluice_repo::{RepoError, Result};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

use crate::error::db;
use crate::schema;

/// A PostgreSQL database with the current schema. Cheap to clone; has no connection of its own.
#[derive(Clone)]
pub struct Database {
    options: PgConnectOptions,
}

/// Shows nothing: the options hold the password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database(..)")
    }
}

impl Database {
    /// Reads an address (`postgres://user:pw@host/db`, with libpq's parameters), connects once and makes or updates the
    /// tables. A schema of a newer program is refused.
    pub async fn open(url: &str) -> Result<Database> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| {
                RepoError::Unavailable(
                    "the address of the database can't be read; write postgres://user:password@host/database".into(),
                )
            })?
            .application_name("sluice")
            .options([("search_path", "sluice"), ("synchronous_commit", "on")])
            .disable_statement_logging();
        let database = Database { options };
        let mut conn = database.connect().await?;
        schema::migrate(&mut conn).await?;
        Ok(database)
    }

    /// A connection of its own (for notifications, advisory locks, a writer).
    pub async fn connect(&self) -> Result<PgConnection> {
        self.try_connect().await.map_err(db)
    }

    pub(crate) async fn try_connect(&self) -> sqlx::Result<PgConnection> {
        self.options.connect().await
    }

    /// A stock of connections, made when they are needed.
    pub fn pool(&self, connections: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(connections)
            .test_before_acquire(false)
            .acquire_timeout(Duration::from_secs(10))
            .connect_lazy_with(self.options.clone())
    }
}
