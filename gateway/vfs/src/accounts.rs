//! Who may come in: password checks of all doors, with growing delay for those that fail.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::Identity;

/// Why somebody was not let in. Deliberately says no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefused {
    /// Unknown user or wrong password.
    #[error("unknown user or wrong password")]
    Wrong,
    /// Too many failures; come back after this time.
    #[error("too many failed logins; wait {0:?}")]
    Throttled(Duration),
    /// The accounts can't be read at the moment.
    #[error("accounts are not available")]
    Unavailable,
}

/// The accounts as heads see them.
#[derive(Clone)]
pub struct Accounts {
    inner: Arc<crate::vfs::Inner>,
}

impl Accounts {
    /// Checks a clear-text password (FTP, admin). Waits out the growing delay after failures from this address or for this name;
    /// takes the same time for unknown users. Names are compared without regard to case.
    pub async fn check_password(
        &self,
        user: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<Arc<Identity>, LoginRefused> {
        todo!()
    }

    /// The identity and NT hash (MD4 of the UTF-16LE password) of a user, for challenge-response logins; `None` if unknown.
    /// The caller reports the result with [`Accounts::login_failed`] or [`Accounts::login_succeeded`].
    pub async fn nt_hash(
        &self,
        user: &str,
    ) -> Result<Option<(Arc<Identity>, [u8; 16])>, LoginRefused> {
        todo!()
    }

    /// Records a failed login and returns how long to wait before answering it.
    pub fn login_failed(&self, user: &str, from: IpAddr) -> Duration {
        todo!()
    }

    /// Records a successful login.
    pub fn login_succeeded(&self, user: &str, from: IpAddr) {
        todo!()
    }

    /// The identity behind an AUTH_SYS credential, after squashing: an account with this uid, or the bare numbers.
    pub async fn unix(
        &self,
        uid: u32,
        gid: u32,
        gids: &[u32],
    ) -> Result<Arc<Identity>, LoginRefused> {
        todo!()
    }

    /// Name of the account with this SID, uid or gid, for listings: "`alice`" for a user.
    pub async fn name_of_uid(&self, uid: u32) -> Option<String> {
        todo!()
    }
}
