//! Where the database is, and how connections to it are made: by the repository and by the registry alike.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sluice_repo::{RepoError, Result};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

use crate::error::db;
use crate::history::History;
use crate::schema;

/// Settings of every connection. The planner has no say where a table is small: it will have grown while the plan is
/// still in use, and everything but checks goes by indexes.
const SETTINGS: [(&str, &str); 7] = [
    // Whatever the server's default is: each statement, also one in a function, sees what was committed before it.
    ("default_transaction_isolation", "read committed"),
    // Notices ("already exists, skipping") are no news.
    ("client_min_messages", "warning"),
    ("search_path", "sluice"),
    ("synchronous_commit", "on"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// A PostgreSQL database with the current schema. Cheap to clone; has no connection of its own.
#[derive(Clone)]
pub struct Database {
    options: PgConnectOptions,
    history: Arc<History>,
}

/// Shows nothing: the options hold the password.
impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database(..)")
    }
}

impl Database {
    /// Reads an address (`postgres://user:pw@host/db`, with libpq's parameters), connects once and makes or updates the
    /// tables. A schema of a newer program is refused, unless that says that this one can work with it.
    pub async fn open(url: &str) -> Result<Database> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| {
                RepoError::Unavailable(
                    "the address of the database can't be read; write postgres://user:password@host/database".into(),
                )
            })?
            .application_name("sluice")
            .options(SETTINGS)
            .statement_cache_capacity(200)
            .disable_statement_logging();
        let database = Database {
            options,
            history: Arc::default(),
        };
        let mut conn = database.connect().await?;
        schema::migrate(&mut conn).await?;
        Ok(database)
    }

    /// A connection of its own (for notifications, advisory locks, a writer).
    pub async fn connect(&self) -> Result<PgConnection> {
        self.try_connect().await.map_err(db)
    }

    pub(crate) async fn try_connect(&self) -> sqlx::Result<PgConnection> {
        let mut conn = self.options.connect().await?;
        self.history.check(&mut conn).await?;
        Ok(conn)
    }

    /// What was seen of this database; every connection is compared with it before it is used.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// A stock of connections, made when they are needed.
    pub fn pool(&self, connections: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(connections)
            .test_before_acquire(false)
            .acquire_timeout(Duration::from_secs(10))
            .after_connect({
                let history = self.history.clone();
                move |conn, _| {
                    let history = history.clone();
                    Box::pin(async move { history.check(conn).await })
                }
            })
            .connect_lazy_with(self.options.clone())
    }
}
