//! A stock of reading connections. A read that loses its connection is made again until patience ends: reads may be
//! repeated at will.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluice_repo::{RepoError, Result};
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use tokio::sync::Semaphore;

use crate::database::Database;
use crate::error::{Remedy, db, remedy};

/// An attempt that is not answered for so long is made again on a new connection.
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(20);
/// Wait between attempts to connect.
const RECONNECT_WAIT: Duration = Duration::from_millis(50);

/// A statement with its arguments.
pub(crate) type Bound<'q> = Query<'q, Postgres, PgArguments>;

/// The stock. Connections are made when they are needed and kept.
pub(crate) struct Readers {
    database: Database,
    idle: Mutex<Vec<PgConnection>>,
    permits: Semaphore,
    patience: Duration,
}

impl Readers {
    pub(crate) fn new(database: Database, connections: usize, patience: Duration) -> Readers {
        Readers {
            database,
            idle: Mutex::default(),
            permits: Semaphore::new(connections.max(1)),
            patience,
        }
    }

    /// Rows of one statement: what the last answered change of any node left.
    pub(crate) async fn rows<'q>(
        &self,
        sql: &'static str,
        bind: impl Fn(Bound<'q>) -> Bound<'q> + Send + Sync,
    ) -> Result<Vec<PgRow>> {
        let _permit = self.permits.acquire().await.map_err(|_| closed())?;
        let begin = Instant::now();
        loop {
            let error = match self.attempt(bind(sqlx::query(sql)), ATTEMPT_PATIENCE).await {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            let remedy = remedy(&error);
            if remedy == Remedy::GiveUp || begin.elapsed() >= self.patience {
                return Err(db(error));
            }
            if remedy == Remedy::Reconnect {
                // What happened to one has happened to all.
                self.idle.lock().clear();
                tokio::time::sleep(RECONNECT_WAIT).await;
            }
        }
    }

    /// The first row.
    pub(crate) async fn row<'q>(
        &self,
        sql: &'static str,
        bind: impl Fn(Bound<'q>) -> Bound<'q> + Send + Sync,
    ) -> Result<Option<PgRow>> {
        Ok(self.rows(sql, bind).await?.into_iter().next())
    }

    /// A statement that may take as long as it likes (checks, sums over all).
    pub(crate) async fn long_rows<'q>(
        &self,
        sql: &'static str,
        bind: impl Fn(Bound<'q>) -> Bound<'q> + Send + Sync,
    ) -> Result<Vec<PgRow>> {
        let _permit = self.permits.acquire().await.map_err(|_| closed())?;
        self.attempt(bind(sqlx::query(sql)), Duration::from_secs(24 * 3600))
            .await
            .map_err(db)
    }

    async fn attempt(&self, query: Bound<'_>, patience: Duration) -> sqlx::Result<Vec<PgRow>> {
        // Taken out: a read that is given up, by time or by its caller, leaves no half-read connection behind.
        let idle = self.idle.lock().pop();
        let attempt = async {
            let mut conn = match idle {
                Some(conn) => conn,
                None => self.database.try_connect().await?,
            };
            let rows = query.fetch_all(&mut conn).await;
            Ok::<_, sqlx::Error>((conn, rows))
        };
        let (conn, rows) = tokio::time::timeout(patience, attempt)
            .await
            .map_err(|_| {
                sqlx::Error::Io(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "the database does not answer",
                ))
            })??;
        if !matches!(&rows, Err(error) if remedy(error) == Remedy::Reconnect) {
            self.idle.lock().push(conn);
        }
        rows
    }

    /// Refuses further reads.
    pub(crate) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}

fn closed() -> RepoError {
    RepoError::Unavailable("the repository is closed".into())
}
