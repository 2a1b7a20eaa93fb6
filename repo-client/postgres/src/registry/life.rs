//! The life lock: a session advisory lock on a connection of its own. It ends with the process, with the connection, or with
//! the server; whoever else can have it knows that nobody holds it.

use std::time::Duration;

use async_trait::async_trait;
use sluice_lockmgr::{LifeLock, MemberEpoch, RegistryError};
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Result, big, told};
use crate::database::Database;

/// A connection that is cut without a word is noticed by asking it this often.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The advisory lock of an incarnation: above all numbers that other parts lock.
pub(crate) fn key(epoch: MemberEpoch) -> i64 {
    const LIFE: i64 = 0x4c69_6665 << 32;
    LIFE | (big(epoch.0) & 0xffff_ffff)
}

/// A life lock that is held as long as its task runs.
pub(super) struct Life {
    lost: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

/// Takes the lock of an incarnation on a new connection.
pub(super) async fn take(database: &Database, epoch: MemberEpoch) -> Result<Life> {
    let pool = database.pool(1);
    let mut listener = PgListener::connect_with(&pool).await.map_err(told)?;
    // A new connection would not hold the lock.
    listener.eager_reconnect(false);
    let got: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(key(epoch))
        .fetch_one(&mut listener)
        .await
        .map_err(told)?;
    if !got {
        return Err(RegistryError::Refused(format!(
            "the life lock of epoch {} is held by another connection",
            epoch.0
        )));
    }
    let (tell, lost) = watch::channel(false);
    let task = tokio::spawn(async move {
        watch_over(listener).await;
        // Nobody listens any more if the lock was dropped.
        let _ = tell.send(true);
    });
    Ok(Life { lost, task })
}

/// Returns when the connection is no more.
async fn watch_over(mut listener: PgListener) {
    loop {
        match tokio::time::timeout(ASK_EVERY, listener.try_recv()).await {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None) | Err(_)) => return,
            Err(_) => {
                let asked = sqlx::query("SELECT 1").execute(&mut listener);
                if !matches!(tokio::time::timeout(ASK_EVERY, asked).await, Ok(Ok(_))) {
                    return;
                }
            }
        }
    }
}

#[async_trait]
impl LifeLock for Life {
    async fn lost(&mut self) {
        // An error is the end of the task, which is the end of the lock.
        let _ = self.lost.wait_for(|lost| *lost).await;
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.task.abort();
    }
}
