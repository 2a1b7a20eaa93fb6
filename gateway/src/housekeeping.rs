//! What a running node does by itself from time to time: deleting content that no version needs any more, and telling the other
//! nodes what it still reads.

use std::time::Duration;

use sluice_vfs::Vfs;
use tokio_util::sync::CancellationToken;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(60);

/// Runs until `stop`.
pub(crate) async fn run(vfs: Vfs, stop: CancellationToken) {
    // Apart, because a long collection must not keep the node from telling what it reads.
    tokio::join!(collect(&vfs, &stop), keep(&vfs, &stop));
}

/// The next tick; `false` when it is time to stop.
async fn next(tick: &mut tokio::time::Interval, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        _ = tick.tick() => true,
    }
}

fn ticks() -> tokio::time::Interval {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick
}

async fn collect(vfs: &Vfs, stop: &CancellationToken) {
    let mut tick = ticks();
    while next(&mut tick, stop).await {
        match vfs.admin().collect_given_up().await {
            Ok(0) => {}
            Ok(objects) => tracing::debug!(objects, "deleted content of lost versions"),
            Err(error) => tracing::warn!(%error, "content of lost versions could not be deleted"),
        }
    }
}

async fn keep(vfs: &Vfs, stop: &CancellationToken) {
    let mut tick = ticks();
    while next(&mut tick, stop).await {
        if let Err(error) = vfs.admin().keep_content_in_use().await {
            tracing::warn!(%error, "the other nodes could not be told which old content is still read here");
        }
    }
}
