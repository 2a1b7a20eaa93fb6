//! Tables of the database and how older ones become current.

use rusqlite::{Connection, OptionalExtension};
use sluice_repo::{RepoError, Result};

use crate::error::db;

/// Steps from each schema version to the next; the number of the version is the number of steps done.
const STEPS: &[&str] = &[include_str!("schema_1.sql"), include_str!("schema_2.sql")];

/// Creates the tables or brings them up to date; refuses a database that a newer program has written.
pub(crate) fn migrate(conn: &mut Connection) -> Result<()> {
    let tx = conn
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(db)?;
    tx.execute_batch("CREATE TABLE IF NOT EXISTS schema_version(version INTEGER NOT NULL) STRICT;")
        .map_err(db)?;
    let found: Option<i64> = tx
        .query_row("SELECT version FROM schema_version", [], |row| row.get(0))
        .optional()
        .map_err(db)?;
    let done = usize::try_from(found.unwrap_or(0)).unwrap_or(usize::MAX);
    let Some(missing) = STEPS.get(done..) else {
        return Err(RepoError::Unavailable(format!(
            "the database has schema version {done}, this program knows versions up to {}; use a newer program",
            STEPS.len()
        )));
    };
    for step in missing {
        tx.execute_batch(step).map_err(db)?;
    }
    tx.execute("DELETE FROM schema_version", []).map_err(db)?;
    tx.execute(
        "INSERT INTO schema_version(version) VALUES (?1)",
        [STEPS.len() as i64],
    )
    .map_err(db)?;
    tx.commit().map_err(db)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_before_the_notes_of_nfs_locks_gets_them() {
        for sometimes_there in ["", include_str!("schema_2.sql")] {
            let mut conn = Connection::open_in_memory().expect("opens");
            conn.execute_batch("CREATE TABLE schema_version(version INTEGER NOT NULL) STRICT")
                .expect("made before");
            conn.execute_batch(include_str!("schema_1.sql"))
                .expect("made before");
            conn.execute_batch(sometimes_there).expect("made before");
            conn.execute("INSERT INTO schema_version VALUES (1)", [])
                .expect("made before");
            migrate(&mut conn).expect("brought up to date");
            conn.execute("INSERT INTO nfs_locked VALUES (7)", [])
                .expect("noted");
            migrate(&mut conn).expect("once more");
        }
    }
}
