//! What a running node does by itself from time to time: deleting content that no version needs any more.

use std::time::Duration;

use sluice_vfs::Vfs;
use tokio_util::sync::CancellationToken;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(60);

/// Runs until `stop`.
pub(crate) async fn run(vfs: Vfs, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match vfs.admin().collect_given_up().await {
            Ok(0) => {}
            Ok(objects) => tracing::debug!(objects, "deleted content of lost versions"),
            Err(error) => tracing::warn!(%error, "content of lost versions could not be deleted"),
        }
    }
}
