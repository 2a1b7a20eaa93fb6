//! The API's routes: one for each thing that the command line does. JSON in, JSON out; an error is `{"error": sentence}`.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sluice_vfs::Vfs;

use crate::verify::HeadAddresses;
use sluice_vfs::{
    AdminError, LockQuery, NewRule, NewUser, Password, PolicyQuestion, ShareChange, Simulation,
};

use crate::cluster::{ClusterView, NodeRecord};

/// An answer: the value, or a refusal in words.
struct Answer<T>(Result<T, AdminError>);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let error = match self.0 {
            Ok(value) => return Json(value).into_response(),
            Err(error) => error,
        };
        let status = match &error {
            AdminError::NotFound(_) => StatusCode::NOT_FOUND,
            AdminError::Exists(_) => StatusCode::CONFLICT,
            AdminError::Invalid(_) => StatusCode::BAD_REQUEST,
            AdminError::Repository(_) => StatusCode::SERVICE_UNAVAILABLE,
            AdminError::Refused(_) => StatusCode::CONFLICT,
        };
        (
            status,
            Json(serde_json::json!({ "error": error.to_string() })),
        )
            .into_response()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    password: Password,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentPath {
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restore {
    path: String,
    version: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    #[serde(default)]
    repair: bool,
}

/// All routes below `/api/v1`.
pub(super) fn router<S: Clone + Send + Sync + 'static>(
    vfs: Vfs,
    cluster: Option<ClusterView>,
) -> Router<S> {
    let members = Router::new()
        .route("/nodes", get(nodes))
        .route("/nodes/{name}/drain", post(drain))
        .with_state((vfs.clone(), cluster));
    Router::new()
        .route("/users", get(users).post(add_user))
        .route("/users/{name}", delete(remove_user))
        .route("/users/{name}/password", put(set_password))
        .route("/groups", get(groups))
        .route("/shares", get(shares))
        .route(
            "/shares/{name}",
            post(add_share).patch(set_share).delete(remove_share),
        )
        .route("/policies", get(rules).post(add_rule))
        .route("/policies/{id}", delete(remove_rule))
        .route("/policies/explain", post(explain_policy))
        .route("/policies/simulate", post(simulate_policy))
        .route("/locks", get(locks))
        .route("/locks/explain", get(explain_locks))
        .route("/locks/{id}/break", post(break_lock))
        .route("/sessions", get(sessions))
        .route("/nodes/{name}/heads", get(heads))
        .route("/check", post(check))
        .route("/gc", post(gc))
        .route("/versions", get(versions))
        .route("/versions/restore", post(restore))
        .with_state(vfs)
        .merge(members)
}

async fn users(State(vfs): State<Vfs>) -> impl IntoResponse {
    Answer(vfs.admin().users().await)
}

async fn groups(State(vfs): State<Vfs>) -> impl IntoResponse {
    Answer(vfs.admin().groups().await)
}

async fn add_user(State(vfs): State<Vfs>, Json(new): Json<NewUser>) -> impl IntoResponse {
    Answer(vfs.admin().add_user(new).await)
}

async fn remove_user(State(vfs): State<Vfs>, Path(name): Path<String>) -> impl IntoResponse {
    Answer(vfs.admin().remove_user(&name).await)
}

async fn set_password(
    State(vfs): State<Vfs>,
    Path(name): Path<String>,
    Json(new): Json<NewPassword>,
) -> impl IntoResponse {
    Answer(vfs.admin().set_password(&name, new.password).await)
}

async fn shares(State(vfs): State<Vfs>) -> impl IntoResponse {
    Answer(vfs.admin().shares().await)
}

async fn add_share(
    State(vfs): State<Vfs>,
    Path(name): Path<String>,
    Json(options): Json<ShareChange>,
) -> impl IntoResponse {
    Answer(vfs.admin().add_share(&name, options).await)
}

async fn set_share(
    State(vfs): State<Vfs>,
    Path(name): Path<String>,
    Json(options): Json<ShareChange>,
) -> impl IntoResponse {
    Answer(vfs.admin().set_share(&name, options).await)
}

async fn remove_share(State(vfs): State<Vfs>, Path(name): Path<String>) -> impl IntoResponse {
    Answer(vfs.admin().remove_share(&name).await)
}

async fn rules(State(vfs): State<Vfs>) -> impl IntoResponse {
    Answer(vfs.admin().rules().await)
}

async fn add_rule(State(vfs): State<Vfs>, Json(rule): Json<NewRule>) -> impl IntoResponse {
    Answer(vfs.admin().add_rule(rule).await)
}

async fn remove_rule(State(vfs): State<Vfs>, Path(id): Path<u64>) -> impl IntoResponse {
    Answer(vfs.admin().remove_rule(id).await)
}

async fn explain_policy(
    State(vfs): State<Vfs>,
    Json(question): Json<PolicyQuestion>,
) -> impl IntoResponse {
    Answer(vfs.admin().explain_policy(question).await)
}

async fn simulate_policy(
    State(vfs): State<Vfs>,
    Json(what_if): Json<Simulation>,
) -> impl IntoResponse {
    Answer(vfs.admin().simulate_policy(what_if).await)
}

async fn locks(State(vfs): State<Vfs>, Query(query): Query<LockQuery>) -> impl IntoResponse {
    Answer(vfs.admin().locks(query).await)
}

async fn explain_locks(
    State(vfs): State<Vfs>,
    Query(document): Query<DocumentPath>,
) -> impl IntoResponse {
    Answer(vfs.admin().explain_locks(&document.path).await)
}

async fn break_lock(
    State(vfs): State<Vfs>,
    Path(id): Path<u64>,
    Json(reason): Json<Why>,
) -> impl IntoResponse {
    Answer(vfs.admin().break_lock(id, &reason.why).await)
}

async fn sessions(State(vfs): State<Vfs>) -> impl IntoResponse {
    Answer(vfs.admin().sessions().await)
}

type Members = (Vfs, Option<ClusterView>);

async fn nodes(State((vfs, cluster)): State<Members>) -> impl IntoResponse {
    Answer(match cluster {
        Some(cluster) => cluster.nodes().await,
        None => Ok(vec![NodeRecord::alone(vfs.node_name())]),
    })
}

async fn drain(State((_, cluster)): State<Members>, Path(name): Path<String>) -> impl IntoResponse {
    Answer(match cluster {
        Some(cluster) => cluster.drain(&name).await,
        None => Err(AdminError::Invalid(format!(
            "node {name} is not in a cluster, so no other node could take its clients; stop it with SIGTERM"
        ))),
    })
}

async fn heads(State(vfs): State<Vfs>, Path(name): Path<String>) -> impl IntoResponse {
    let facts = vfs.admin().facts(&name).await;
    Answer(facts.map(|bytes| serde_json::from_slice::<HeadAddresses>(&bytes).unwrap_or_default()))
}

async fn check(State(vfs): State<Vfs>, Json(check): Json<Check>) -> impl IntoResponse {
    Answer(vfs.admin().check(check.repair, true).await)
}

async fn gc(State(vfs): State<Vfs>) -> impl IntoResponse {
    Answer(vfs.admin().collect_garbage(None).await)
}

async fn versions(
    State(vfs): State<Vfs>,
    Query(document): Query<DocumentPath>,
) -> impl IntoResponse {
    Answer(vfs.admin().versions(&document.path).await)
}

async fn restore(State(vfs): State<Vfs>, Json(wanted): Json<Restore>) -> impl IntoResponse {
    Answer(
        vfs.admin()
            .restore_version(&wanted.path, wanted.version)
            .await,
    )
}
