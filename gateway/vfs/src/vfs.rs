//! The root of the seam: made once per node, shared by all heads.

use std::sync::Arc;

use sluice_lockmgr::LockService;
use sluice_repo::{ContentStore, Repository};

use crate::accounts::LoginGuard;
use crate::error::VfsError;
use crate::identity::{Caller, Client, ClientTable};
use crate::request::{LeaseKey, LeaseState};
use crate::share::{Records, Share};
use crate::tree::Tree;
use crate::watch::WatchHub;

pub(crate) struct Inner {
    pub(crate) repo: Arc<dyn Repository>,
    pub(crate) store: Arc<dyn ContentStore>,
    pub(crate) locks: LockService,
    pub(crate) node: Arc<str>,
    pub(crate) records: Records,
    pub(crate) clients: ClientTable,
    pub(crate) watches: WatchHub,
    pub(crate) logins: LoginGuard,
}

/// The gateway's file layer. Clones are the same one.
#[derive(Clone)]
pub struct Vfs {
    pub(crate) inner: Arc<Inner>,
}

impl Vfs {
    /// This node's name (`node.name`).
    pub fn node_name(&self) -> &str {
        todo!()
    }

    /// 16 bytes that name this server for ever (SMB ServerGuid; handed out by the repository).
    pub fn server_guid(&self) -> [u8; 16] {
        todo!()
    }

    /// A secret of the cluster, for keyed checksums in NFS handles; the same after a restart and on every node.
    pub fn handle_key(&self) -> [u8; 32] {
        todo!()
    }

    /// Changes if and only if acknowledged unstable writes could have been lost (RFC 1813 3.3.7 writeverf3).
    pub fn write_verifier(&self) -> [u8; 8] {
        todo!()
    }

    /// The caller's view of a share. For NFS the client's network is checked ([`VfsError::AccessDenied`]) and the identity squashed.
    ///
    /// # Errors
    /// [`VfsError::NotFound`] if the share is gone or not offered, [`VfsError::AccessDenied`] if this caller may not come in.
    pub fn tree(&self, share: &Arc<Share>, caller: Caller) -> Result<Tree, VfsError> {
        todo!()
    }

    /// A client's answer to a lease break: it keeps `state`. Returns what the lease has now.
    /// [`VfsError::NotFound`]: no such lease; [`VfsError::Invalid`]: no break under way or more than offered.
    pub fn acknowledge_lease_break(
        &self,
        client_guid: [u8; 16],
        key: LeaseKey,
        state: LeaseState,
    ) -> Result<LeaseState, VfsError> {
        todo!()
    }

    /// Everything that a client's loss ends, in one ordered step per document: its waiters and momentary places. Its opens are closed or disconnected by the head.
    pub async fn client_gone(&self, client: &Client) {
        todo!()
    }
}
