//! A published subtree and what is allowed on it.

use ipnet::IpNet;
use sluice_repo::{CaseMode, NodeId, ShareId};

use crate::identity::Protocol;

/// How AUTH_SYS identities of NFS clients are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Squash {
    /// As they are.
    None,
    /// uid 0 becomes nobody (65534).
    Root,
    /// Everybody becomes nobody.
    All,
}

/// A share (SMB), export (NFS) or top-level folder (FTP).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its id, part of NFS handles.
    pub id: ShareId,
    /// Its name; unique without regard to case.
    pub name: String,
    /// A remark shown in listings.
    pub comment: String,
    /// The folder it shows.
    pub root: NodeId,
    /// Doors it is offered through.
    pub protocols: Vec<Protocol>,
    /// Nobody writes.
    pub read_only: bool,
    /// Networks from which NFS clients may mount.
    pub nfs_clients: Vec<IpNet>,
    /// AUTH_SYS squashing.
    pub squash: Squash,
    /// Lookup over SMB (NFS and FTP are case-sensitive).
    pub smb_case: CaseMode,
    /// SMB clients must encrypt on this share.
    pub smb_encrypt: bool,
    /// NFS byte ranges are mandatory for NFS clients too.
    pub mandatory_nfs_ranges: bool,
    /// Bytes that its documents may hold, if limited.
    pub quota: Option<u64>,
}
