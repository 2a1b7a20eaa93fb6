//! How a command reaches the repository: over the running node's control socket, or, if none runs, by opening the stores
//! in this process. Both answer through the same routes.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sluice_config::Settings;
use tokio::net::UnixStream;
use tower::ServiceExt;

use crate::node::{Stack, control_path, open_stack};

/// A way to the admin API.
pub(crate) enum Door {
    /// The control socket of a running node.
    Running(PathBuf),
    /// The stores, opened by this process.
    Stopped(Router, Box<Stack>),
}

impl Door {
    /// Finds the running node of these settings, or opens its stores.
    pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Door> {
        let socket = control_path(settings);
        if UnixStream::connect(&socket).await.is_ok() {
            return Ok(Door::Running(socket));
        }
        let stack = open_stack(settings).await?;
        if let Some(password) = &stack.first_password {
            eprintln!(
                "sluice: the repository is new: user \"admin\" has the password {password} (shown once)"
            );
        }
        let router = crate::admin::trusted_router(stack.vfs.clone(), stack.cluster());
        Ok(Door::Stopped(router, Box::new(stack)))
    }

    /// One call; a refusal becomes an error with the API's sentence.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::HOST, "sluice")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(
                body.map_or(String::new(), |body| body.to_string()),
            ))
            .context("the request can't be made")?;
        match self {
            Door::Running(socket) => answer(over_socket(socket, request).await?).await,
            Door::Stopped(router, _) => {
                let response = router.clone().oneshot(request).await?;
                answer(response).await
            }
        }
    }

    /// Commits and closes, if this process opened the stores.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match self {
            Door::Running(_) => Ok(()),
            Door::Stopped(router, stack) => {
                drop(router);
                stack.close().await
            }
        }
    }
}

async fn over_socket(
    socket: &Path,
    request: Request<Body>,
) -> anyhow::Result<Response<hyper::body::Incoming>> {
    let stream = UnixStream::connect(socket)
        .await
        .context("the running node does not answer")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

async fn answer<B>(response: Response<B>) -> anyhow::Result<Value>
where
    B: hyper::body::Body<Data = bytes::Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    if status == StatusCode::OK {
        return serde_json::from_slice(&bytes).context("the node's answer can't be read");
    }
    let words = serde_json::from_slice::<Value>(&bytes)
        .ok()
        .and_then(|value| value["error"].as_str().map(str::to_owned));
    match words {
        Some(words) => bail!("{words}"),
        None => bail!("{}", String::from_utf8_lossy(&bytes).trim()),
    }
}
