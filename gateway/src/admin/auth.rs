//! Who may use the API over TCP: the holder of the node's token, or an administrator who logged in. Tokens are compared in
//! constant time and never logged.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::Deserialize;
use sluice_vfs::{Accounts, LoginRefused};

use super::AdminState;

const LOGIN_LASTS: Duration = Duration::from_secs(12 * 3600);
const LOGINS_MAX: usize = 1000;

/// A bearer token: 64 hexadecimal digits.
#[derive(Clone)]
pub struct Token(String);

fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Token {
    /// The token kept in `path`, made on first use.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub fn load_or_make(path: &Path) -> anyhow::Result<Token> {
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().len() >= 32 => Ok(Token(text.trim().to_owned())),
            Ok(_) => anyhow::bail!(
                "{} holds no token; delete it to get a new one",
                path.display()
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let token = random_token()?;
                crate::files::write_private(path, token.as_bytes())?;
                Ok(Token(token))
            }
            Err(error) => Err(error).with_context(|| format!("{} can't be read", path.display())),
        }
    }
}

/// Tokens that are accepted now.
pub(super) struct Auth {
    fixed: Token,
    accounts: Accounts,
    /// Logins and when they end; never held across an await.
    logins: Mutex<HashMap<String, Instant>>,
}

impl Auth {
    pub(super) fn new(fixed: Token, accounts: Accounts) -> Auth {
        Auth {
            fixed,
            accounts,
            logins: Mutex::default(),
        }
    }

    fn accepts(&self, offered: &str) -> bool {
        let (a, b) = (self.fixed.0.as_bytes(), offered.as_bytes());
        let same =
            a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0;
        same || self
            .logins
            .lock()
            .get(offered)
            .is_some_and(|ends| *ends > Instant::now())
    }
}

pub(super) async fn require(
    State(auth): State<Arc<Auth>>,
    request: Request,
    next: Next,
) -> Response {
    let offered = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    if offered.is_some_and(|token| auth.accepts(token)) {
        return next.run(request).await;
    }
    refuse(
        StatusCode::UNAUTHORIZED,
        "send \"Authorization: Bearer TOKEN\" with the token of the node's state folder or of /api/v1/login",
    )
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Json(serde_json::json!({ "error": why }))).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    user: String,
    password: String,
}

pub(super) async fn login(State(state): State<AdminState>, Json(login): Json<Login>) -> Response {
    let from = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let identity = match state
        .auth
        .accounts
        .check_password(&login.user, &login.password, from)
        .await
    {
        Ok(identity) if identity.admin => identity,
        Ok(_) | Err(LoginRefused::Wrong) => {
            return refuse(
                StatusCode::FORBIDDEN,
                "unknown administrator or wrong password",
            );
        }
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    let Ok(token) = random_token() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "no random numbers");
    };
    let now = Instant::now();
    let mut logins = state.auth.logins.lock();
    logins.retain(|_, ends| *ends > now);
    if logins.len() >= LOGINS_MAX {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many logins; try again later",
        );
    }
    logins.insert(token.clone(), now + LOGIN_LASTS);
    drop(logins);
    tracing::info!(user = %identity.name, "administrator logged in to the API");
    Json(serde_json::json!({ "token": token, "expires_in_s": LOGIN_LASTS.as_secs() }))
        .into_response()
}
