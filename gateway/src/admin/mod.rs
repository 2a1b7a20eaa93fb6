//! The admin side: health, readiness, metrics, and the API that the command line speaks. Over TCP the API wants a bearer
//! token; the control socket is protected by its file's permissions. Decides nothing: every call is one of `sluice_vfs::admin`.

mod api;
mod auth;
mod metrics;

pub use auth::Token;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use sluice_vfs::Vfs;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::cluster::ClusterView;

/// Whether the heads serve.
#[derive(Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Sets it.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Reads it.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What the handlers share.
#[derive(Clone)]
pub struct AdminState {
    vfs: Vfs,
    auth: Arc<auth::Auth>,
    cluster: Option<ClusterView>,
    ready: Readiness,
}

impl AdminState {
    /// For a running node, with its cluster if it is in one.
    pub fn new(
        vfs: Vfs,
        cluster: Option<ClusterView>,
        token: Token,
        ready: Readiness,
    ) -> AdminState {
        AdminState {
            auth: Arc::new(auth::Auth::new(token, vfs.accounts())),
            vfs,
            cluster,
            ready,
        }
    }
}

/// The API without authentication: for the control socket and for commands on a stopped repository.
pub fn trusted_router(vfs: Vfs, cluster: Option<ClusterView>) -> Router {
    Router::new().nest("/api/v1", api::router(vfs, cluster))
}

fn public_router(state: AdminState) -> Router {
    let api = api::router(state.vfs.clone(), state.cluster.clone()).layer(
        axum::middleware::from_fn_with_state(state.auth.clone(), auth::require),
    );
    Router::new()
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::text))
        .route("/api/v1/login", axum::routing::post(auth::login))
        .nest("/api/v1", api)
        .with_state(state)
}

/// What has failed for good is put right by a new start: whoever watches whether the process lives is to make it.
async fn healthy(State(state): State<AdminState>) -> (StatusCode, String) {
    match state.vfs.sound() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(_) => unsound(),
    }
}

/// Changes can't become durable any more; which file it was is for the log.
fn unsound() -> (StatusCode, String) {
    let why = "the metadata could not be made durable, so nothing can be changed: see to the disk, then start this node again\n";
    (StatusCode::SERVICE_UNAVAILABLE, why.to_owned())
}

async fn ready(State(state): State<AdminState>) -> (StatusCode, String) {
    let down = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, why.to_owned());
    if !state.ready.get() {
        return down("the heads are not serving\n");
    }
    if let Some(cluster) = &state.cluster
        && let Err(why) = cluster.ready()
    {
        tracing::warn!(why, "not ready");
        return down("this node may not act in the cluster now; the log says why\n");
    }
    if let Err(error) = state.vfs.sound() {
        tracing::warn!(%error, "not ready");
        return unsound();
    }
    match state.vfs.probe().await {
        Ok(()) => (StatusCode::OK, serving(state.cluster.as_ref())),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            down("the repository can't be reached; the log says why\n")
        }
    }
}

/// That all is well, and how the peers are reached. One that is reached through the database only makes nobody unready: both
/// serve, and a balancer that takes both away takes all away.
fn serving(cluster: Option<&ClusterView>) -> String {
    let links = cluster.and_then(ClusterView::links).unwrap_or_default();
    let far = links.iter().filter(|link| !link.direct).count();
    match (links.len(), far) {
        (0, _) => "ready\n".to_owned(),
        (peers, 0) => format!("ready\npeers: {peers}, all connected\n"),
        (peers, far) => {
            format!("ready\npeers: {peers}, {far} reached through the database only\n")
        }
    }
}

/// Serves one TCP address until `stop`.
pub async fn serve_tcp(listener: TcpListener, state: AdminState, stop: CancellationToken) {
    let app = public_router(state);
    let served =
        axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin address stopped serving");
    }
}

/// Serves the control socket until `stop`.
pub async fn serve_control(listener: UnixListener, state: AdminState, stop: CancellationToken) {
    let app = trusted_router(state.vfs, state.cluster);
    let served =
        axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the control socket stopped serving");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_failed_is_told_with_the_remedy() {
        let (status, why) = unsound();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(why.contains("see to the disk, then start this node again"));
    }
}
