//! How this node reaches its peers, told to the administrators of all nodes: only the node itself knows.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_vfs::Vfs;
use tokio_util::sync::CancellationToken;

use super::ClusterView;
use crate::verify::HeadAddresses;

/// Time between two looks; only changes are told.
const EVERY: Duration = Duration::from_millis(500);

/// One way to another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLink {
    /// Which life of which node.
    pub epoch: u64,
    /// A connection stands; else messages go through the database.
    pub direct: bool,
}

/// Tells where this node's heads are and how it reaches the others, until `stop`.
pub async fn tell(vfs: Vfs, view: ClusterView, heads: HeadAddresses, stop: CancellationToken) {
    let mut told = heads.links.clone();
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let links = view.links();
        if links == told {
            continue;
        }
        let facts = HeadAddresses {
            links: links.clone(),
            ..heads.clone()
        };
        let Ok(text) = serde_json::to_vec(&facts) else {
            continue;
        };
        // The database may be away: told at the next look.
        if vfs.admin().publish_facts(text).await.is_ok() {
            told = links;
        }
    }
}
