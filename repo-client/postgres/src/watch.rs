//! Watches for changes of users, groups, shares and policy by other nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::PgListener;

use crate::database::Database;

/// Wait before a lost watch is taken up again.
const PAUSE: Duration = Duration::from_millis(500);

/// Moves the generation on with every notification, and whenever one may have been missed.
pub(crate) async fn records(database: Database, generation: Arc<AtomicU64>) {
    let pool = database.pool(1);
    loop {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen("sluice_records").await.is_ok()
        {
            generation.fetch_add(1, Ordering::Release);
            while let Ok(Some(_)) = listener.try_recv().await {
                generation.fetch_add(1, Ordering::Release);
            }
            generation.fetch_add(1, Ordering::Release);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
