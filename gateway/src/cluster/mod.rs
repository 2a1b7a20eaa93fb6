//! The cluster as the daemon sees it: the secret, the members for administrators, and the end of a node that is drained.
//! Decides nothing about membership: that is `sluice-lockmgr-cluster`'s.

mod links;
mod member;
mod secret;
mod view;

pub use links::{PeerLink, tell as tell_links};
pub use member::{Life, Seat};
pub use secret::read as read_secret;
pub use view::{ClusterView, NodeRecord};

use std::sync::Arc;

use anyhow::Context;
use sluice_config::{MetadataUri, Settings};
use sluice_repo_postgres::{Database, PostgresRegistry, RegistryOptions};

/// The shared database of the settings, reached and up to date.
///
/// # Errors
/// One sentence: it can't be reached, its tables are newer than this program.
pub async fn open_database(url: &str) -> anyhow::Result<Database> {
    Database::open(url)
        .await
        .context("repository.metadata: the database can't be used; check its address, user and password, and that it runs")
}

/// The members of a cluster, asked from a process that is none of them: nothing if the settings name no cluster, or if
/// their node runs and can answer itself.
///
/// # Errors
/// The database does not answer.
pub async fn nodes_from_outside(settings: &Settings) -> anyhow::Result<Option<Vec<NodeRecord>>> {
    let MetadataUri::Postgres(url) = &settings.repository.metadata else {
        return Ok(None);
    };
    let socket = crate::node::control_path(settings);
    if tokio::net::UnixStream::connect(&socket).await.is_ok() {
        return Ok(None);
    }
    let registry = PostgresRegistry::new(open_database(url).await?, RegistryOptions::default());
    let view = ClusterView::from_outside(Arc::new(registry));
    Ok(Some(view.nodes().await?))
}
