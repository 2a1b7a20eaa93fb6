//! Connections for the registry's short calls. A call that is cut off in the middle (time, error) takes its connection with it:
//! closing it also rolls its transaction back. (What is one statement may be carried out all the same.)

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluice_lockmgr::RegistryError;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{Result, told};
use crate::database::Database;

/// So many idle connections are kept.
const KEPT: usize = 4;
/// One that answered so lately is taken to answer still, where a call that fails is made again soon.
const ANSWERS: Duration = Duration::from_secs(2);

pub(super) struct Stock {
    database: Database,
    /// Protects the idle connections; held for a push or a pop only.
    idle: Mutex<Vec<(PgConnection, Instant)>>,
}

/// A connection in use; given back only when all went well.
pub(super) struct Lent {
    stock: Arc<Stock>,
    pub(super) conn: PgConnection,
}

impl Stock {
    pub(super) fn new(database: Database) -> Stock {
        Stock {
            database,
            idle: Mutex::default(),
        }
    }

    /// A connection that answers.
    pub(super) async fn lend(self: &Arc<Self>) -> Result<Lent> {
        self.lend_unless_idle(Duration::ZERO).await
    }

    /// One that answered a moment ago, if there is one.
    pub(super) async fn lend_at_once(self: &Arc<Self>) -> Result<Lent> {
        self.lend_unless_idle(ANSWERS).await
    }

    /// Those that were idle for longer are asked first.
    async fn lend_unless_idle(self: &Arc<Self>, idle_max: Duration) -> Result<Lent> {
        let stock = Arc::clone(self);
        loop {
            let idle = self.idle.lock().pop();
            let Some((mut conn, since)) = idle else {
                let mut conn = self.database.try_connect().await.map_err(told)?;
                set_limits(&mut conn).await?;
                return Ok(Lent { stock, conn });
            };
            // Its server may have gone meanwhile.
            if since.elapsed() < idle_max || conn.ping().await.is_ok() {
                return Ok(Lent { stock, conn });
            }
        }
    }
}

/// Locks are not waited for longer than the caller waits. (No statement timeout: it would also cut the wait for a synchronous
/// standby short, and then tell a commit as done that the standby does not have.)
async fn set_limits(conn: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("SET lock_timeout = '1500ms'; SET idle_in_transaction_session_timeout = '5s'")
        .execute(conn)
        .await
        .map(drop)
        .map_err(told)
}

impl Lent {
    /// Begins a transaction at read committed, whatever the server's default is.
    pub(super) async fn begin(&mut self) -> Result<Transaction<'_, Postgres>> {
        self.conn
            .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
            .await
            .map_err(told)
    }

    /// Back to the stock, for the next call.
    pub(super) fn give_back(self) {
        let mut idle = self.stock.idle.lock();
        if idle.len() < KEPT {
            idle.push((self.conn, Instant::now()));
        }
    }
}

/// Ends a transaction; an unknown outcome is told as such.
pub(super) async fn commit(tx: Transaction<'_, Postgres>) -> Result<()> {
    tx.commit()
        .await
        .map_err(|error| RegistryError::Unavailable(error.to_string()))
}
