//! Who a client is: security tokens in, identity and session key out.
//!
//! Owns SPNEGO and the NTLMv2 acceptor. Must never accept a login without checking its proof, never fall
//! back to guest or anonymous, and never log a token, hash or key.

pub mod ntlm;
pub mod spnego;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use sluice_smb_wire::NtStatus;
use sluice_vfs::{Accounts, Identity, LoginRefused};

/// A login that succeeded. Has no `Debug`: it holds the session key.
pub struct Login {
    /// Who.
    pub identity: Arc<Identity>,
    /// What the client's machine calls itself.
    pub workstation: String,
    /// The key that signing and encryption keys are derived from.
    pub session_key: [u8; 16],
}

/// What one token led to.
pub enum Step {
    /// Send this token and wait for the next.
    Continue(Vec<u8>),
    /// The client is authenticated; send this last token.
    Done(Vec<u8>, Login),
}

/// Why a login failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// What the client is told.
    pub status: NtStatus,
    /// How long to wait before telling it.
    pub delay: Duration,
}

impl Refused {
    /// A refusal without delay.
    pub fn now(status: NtStatus) -> Refused {
        Refused {
            status,
            delay: Duration::ZERO,
        }
    }
}

/// One security exchange, from the client's first token to success or refusal.
pub trait AcceptSecurity: Send {
    /// Takes the client's next token.
    fn step<'a>(&'a mut self, token: &'a Bytes) -> BoxFuture<'a, Result<Step, Refused>>;
}

/// A user's identity and NT hash, or that there is no such user.
pub type Found = Result<Option<(Arc<Identity>, [u8; 16])>, Refused>;

/// Where users come from; the file layer's accounts in production.
pub trait Users: Send + Sync {
    /// Identity and NT hash of a user, by name without regard to case; `None` if there is no such user.
    fn nt_hash<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Found>;
    /// Records a failure; returns the delay that it earned.
    fn failed(&self, user: &str, from: IpAddr) -> Duration;
    /// Records a success.
    fn succeeded(&self, user: &str, from: IpAddr);
}

impl Users for Accounts {
    fn nt_hash<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Found> {
        Box::pin(async move {
            Accounts::nt_hash(self, user)
                .await
                .map_err(|refused| match refused {
                    LoginRefused::Wrong => Refused::now(NtStatus::LOGON_FAILURE),
                    LoginRefused::Throttled(delay) => Refused {
                        status: NtStatus::LOGON_FAILURE,
                        delay,
                    },
                    LoginRefused::Unavailable => Refused::now(NtStatus::SERVER_UNAVAILABLE),
                })
        })
    }

    fn failed(&self, user: &str, from: IpAddr) -> Duration {
        self.login_failed(user, from)
    }

    fn succeeded(&self, user: &str, from: IpAddr) {
        self.login_succeeded(user, from);
    }
}
