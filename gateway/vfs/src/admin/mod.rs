//! Everything that the command line and the admin API do: users, shares, policy, locks, sessions, versions, housekeeping.
//!
//! Owns the words of the administration: what comes in ([`NewUser`], [`ShareChange`], ...) and the records that go
//! out, each with a JSON form (serde) and a table form ([`crate::TableRow`]). Asks no permission itself: whoever calls it has
//! proved to be an administrator (the command line by having the files, the API by its token). Bypasses no lock.

mod housekeeping;
mod locks;
mod nodes;
mod policies;
mod shares;
mod types;
mod users;
mod versions;

use std::sync::Arc;

pub use types::*;

use crate::vfs::{Inner, Vfs};

/// The administration of a repository, through a running node or a stopped repository that was opened for it.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

impl Vfs {
    /// The administration.
    pub fn admin(&self) -> Admin {
        Admin {
            inner: Arc::clone(&self.inner),
        }
    }
}
