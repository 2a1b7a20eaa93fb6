//! Connections for the registry's short calls. A call that is cut off in the middle (time, error) takes its connection with it:
//! closing it also rolls its transaction back.

use parking_lot::Mutex;
use sluice_lockmgr::RegistryError;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{Result, told};
use crate::database::Database;

/// So many idle connections are kept.
const KEPT: usize = 4;

pub(super) struct Stock {
    database: Database,
    /// Protects the idle connections; held for a push or a pop only.
    idle: Mutex<Vec<PgConnection>>,
}

/// A connection in use; given back only when all went well.
pub(super) struct Lent<'a> {
    stock: &'a Stock,
    pub(super) conn: PgConnection,
    /// Was idle before: its server may have gone meanwhile.
    used: bool,
}

impl Stock {
    pub(super) fn new(database: Database) -> Stock {
        Stock {
            database,
            idle: Mutex::default(),
        }
    }

    /// A connection that answers.
    pub(super) async fn lend(&self) -> Result<Lent<'_>> {
        loop {
            let idle = self.idle.lock().pop();
            let mut lent = match idle {
                Some(conn) => Lent {
                    stock: self,
                    conn,
                    used: true,
                },
                None => Lent {
                    stock: self,
                    conn: self.database.try_connect().await.map_err(told)?,
                    used: false,
                },
            };
            if !lent.used {
                set_limits(&mut lent.conn).await?;
                return Ok(lent);
            }
            if lent.conn.ping().await.is_ok() {
                return Ok(lent);
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

impl Lent<'_> {
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
            idle.push(self.conn);
        }
    }
}

/// Ends a transaction; an unknown outcome is told as such.
pub(super) async fn commit(tx: Transaction<'_, Postgres>) -> Result<()> {
    tx.commit()
        .await
        .map_err(|error| RegistryError::Unavailable(error.to_string()))
}
