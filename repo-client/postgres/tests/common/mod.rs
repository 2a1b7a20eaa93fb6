//! One server for the tests of a file that run at the same time, and a database of its own for each.
#![allow(dead_code, reason = "not every test file uses everything")]

pub mod wire;

use std::sync::{Arc, Mutex, Weak};

use sluice_repo_postgres::server::PostgresServer;
use sluice_repo_postgres::{Database, Options, PostgresRepository, Writer};

static SERVER: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());

/// Keeps the server that a test's database is on.
pub struct Scratch {
    pub server: Arc<PostgresServer>,
    pub url: String,
}

impl Scratch {
    pub fn new() -> Scratch {
        let server = {
            let mut shared = SERVER.lock().unwrap_or_else(|e| e.into_inner());
            match shared.upgrade() {
                Some(server) => server,
                None => {
                    let server = Arc::new(PostgresServer::temporary().expect("a server"));
                    *shared = Arc::downgrade(&server);
                    server
                }
            }
        };
        let url = server.database().expect("a database");
        Scratch { server, url }
    }

    pub async fn database(&self) -> Database {
        Database::open(&self.url).await.expect("open the database")
    }

    /// Runs statements beside the repository.
    pub async fn sql(&self, sql: &str) {
        let mut conn = self.database().await.connect().await.expect("connect");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&mut conn)
            .await
            .expect("run a statement");
    }

    /// The repository, by the only one who uses it.
    pub async fn open(&self) -> PostgresRepository {
        PostgresRepository::open(self.database().await, Options::new(Writer::Alone))
            .await
            .expect("open the repository")
    }
}
