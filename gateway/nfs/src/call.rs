//! What every handler needs to know about its call: who asks, from where, and the way to shares and nodes.

use std::net::IpAddr;
use std::sync::Arc;

use sluice_nfs_wire::auth::{AUTH_NONE, AUTH_SYS, AuthStat, AuthSys, OpaqueAuth};
use sluice_nfs_wire::nfs3::{FileHandle, PostOpAttr, Status};
use sluice_nfs_wire::xdr::Decoder;
use sluice_vfs::{Attributes, Caller, NodeId, Protocol, Share, ShareId, Tree, VfsError};

use crate::conn::Connection;
use crate::server::Head;
use crate::{attr, status};

/// The number of those who say nothing about themselves.
const NOBODY: u32 = 65_534;

/// Who calls, as the credential says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) machine_name: String,
    uid: u32,
    gid: u32,
    gids: Vec<u32>,
}

impl Credential {
    /// Reads a credential.
    ///
    /// # Errors
    /// What RPC answers to flavors that aren't served and to malformed bodies.
    pub(crate) fn decode(auth: &OpaqueAuth) -> Result<Self, AuthStat> {
        match auth.flavor {
            AUTH_NONE => Ok(Self {
                machine_name: String::new(),
                uid: NOBODY,
                gid: NOBODY,
                gids: Vec::new(),
            }),
            AUTH_SYS => {
                let body: AuthSys = Decoder::new(auth.body.0.clone())
                    .last()
                    .map_err(|_| AuthStat::BadCred)?;
                Ok(Self {
                    machine_name: String::from_utf8_lossy(&body.machine_name.0).into_owned(),
                    uid: body.uid,
                    gid: body.gid,
                    gids: body.gids,
                })
            }
            // AUTH_TLS probes (RFC 9289 4.1), RPCSEC_GSS and everything else.
            _ => Err(AuthStat::RejectedCred),
        }
    }
}

/// A call under way.
pub(crate) struct Call<'a> {
    pub(crate) head: &'a Arc<Head>,
    pub(crate) caller: Caller,
    /// The address that the client called.
    pub(crate) called: IpAddr,
}

/// A node that a handle led to.
pub(crate) struct Place {
    pub(crate) tree: Tree,
    pub(crate) share: ShareId,
    pub(crate) node: NodeId,
}

impl<'a> Call<'a> {
    /// Finds out who calls.
    ///
    /// # Errors
    /// The status to answer when accounts can't be read.
    pub(crate) async fn begin(
        head: &'a Arc<Head>,
        connection: &Connection,
        credential: &Credential,
    ) -> Result<Self, Status> {
        let identity = head
            .vfs
            .accounts()
            .unix(credential.uid, credential.gid, &credential.gids)
            .await
            .map_err(|_| Status::Jukebox)?;
        let client = connection.clients.get(
            &head.clients,
            connection.address(),
            &credential.machine_name,
        );
        Ok(Self {
            head,
            caller: Caller { identity, client },
            called: connection.called,
        })
    }

    /// The client's address, for logs.
    pub(crate) fn address(&self) -> IpAddr {
        self.caller.client.address
    }

    /// The caller's view of a share.
    pub(crate) fn tree(&self, share: &Arc<Share>) -> Result<Tree, VfsError> {
        self.head.vfs.tree(share, self.caller.clone())
    }

    /// Where a handle leads.
    pub(crate) fn place(&self, handle: &FileHandle) -> Result<Place, Status> {
        let (share_id, node) = self.head.handles.decode(handle).ok_or(Status::BadHandle)?;
        let share = self
            .head
            .vfs
            .share_by_id(Protocol::Nfs3, share_id)
            .ok_or(Status::Stale)?;
        let tree = self.tree(&share).map_err(|e| match e {
            VfsError::NotFound => Status::Stale,
            e => status::nfs(&e),
        })?;
        Ok(Place {
            tree,
            share: share_id,
            node,
        })
    }

    /// The handle of a node.
    pub(crate) fn handle(&self, share: ShareId, node: NodeId) -> FileHandle {
        self.head.handles.encode(share, node)
    }
}

impl Place {
    /// Present attributes, for weak cache consistency; failing to get them is no failure of the operation.
    pub(crate) async fn attributes(&self) -> Option<Attributes> {
        self.tree.attributes(self.node, false).await.ok()
    }

    /// Present attributes on the wire.
    pub(crate) async fn post_op(&self) -> PostOpAttr {
        self.attributes().await.map(|a| attr::wire(self.share, &a))
    }
}
