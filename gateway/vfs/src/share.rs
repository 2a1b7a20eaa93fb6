//! A published subtree and what is allowed on it; who may come in.

use ipnet::IpNet;
use sluice_repo::{CaseMode, NodeId, Share as ShareEntry, ShareId, VersionPolicy};

use std::sync::Arc;

use crate::error::VfsError;
use crate::identity::{Caller, Protocol};
use crate::policy::parse_network;
pub(crate) use crate::records::Records;
use crate::vfs::{Inner, Vfs};

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
    /// Not shown in listings.
    pub hidden: bool,
    /// Networks from which NFS clients may mount.
    pub nfs_clients: Vec<IpNet>,
    /// AUTH_SYS squashing.
    pub squash: Squash,
    /// User id of those who are squashed.
    pub anonymous_uid: u32,
    /// Group id of those who are squashed.
    pub anonymous_gid: u32,
    /// Lookup over SMB.
    pub smb_case: CaseMode,
    /// NFS and FTP look up as SMB does; otherwise they are case-sensitive.
    pub insensitive_everywhere: bool,
    /// SMB clients must encrypt on this share.
    pub smb_encrypt: bool,
    /// NFS byte ranges are mandatory for NFS clients too.
    pub mandatory_nfs_ranges: bool,
    /// Bytes that its documents may hold, if limited.
    pub quota: Option<u64>,
    /// History that its documents keep, if not the repository's default.
    pub versions: Option<VersionPolicy>,
}

impl Share {
    /// From its record. A network that can't be read lets nobody in and is told in the log.
    pub(crate) fn of(entry: &ShareEntry) -> Share {
        let offered = [
            (entry.protocols.smb, Protocol::Smb),
            (entry.protocols.nfs, Protocol::Nfs3),
            (entry.protocols.nfs, Protocol::Nfs4),
            (entry.protocols.ftp, Protocol::Ftp),
        ];
        let network = |text: &String| {
            parse_network(text)
                .inspect_err(|why| {
                    tracing::error!(share = entry.name, why, "an NFS client network")
                })
                .ok()
        };
        Share {
            id: entry.id,
            name: entry.name.clone(),
            comment: entry.comment.clone(),
            root: entry.root,
            protocols: offered
                .into_iter()
                .filter_map(|(offered, protocol)| offered.then_some(protocol))
                .collect(),
            read_only: entry.read_only,
            hidden: entry.hidden,
            nfs_clients: entry.nfs_clients.iter().filter_map(network).collect(),
            squash: match entry.squash {
                sluice_repo::Squash::Root => Squash::Root,
                sluice_repo::Squash::All => Squash::All,
                sluice_repo::Squash::None => Squash::None,
            },
            anonymous_uid: entry.anonymous_uid,
            anonymous_gid: entry.anonymous_gid,
            smb_case: entry.case,
            insensitive_everywhere: entry.insensitive_everywhere,
            smb_encrypt: entry.smb_encrypt,
            mandatory_nfs_ranges: entry.nfs_mandatory_locks,
            quota: entry.quota_bytes,
            versions: entry.versions,
        }
    }

    /// Whether it is offered through a door. The administration goes everywhere.
    pub fn offers(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Admin || self.protocols.contains(&protocol)
    }

    /// How names are looked up through a door.
    pub fn case(&self, protocol: Protocol) -> CaseMode {
        if protocol == Protocol::Smb || self.insensitive_everywhere {
            self.smb_case
        } else {
            CaseMode::Sensitive
        }
    }

    /// Whether some protocol takes names that differ in case only for one.
    pub(crate) fn widest_case(&self) -> CaseMode {
        self.smb_case
    }

    /// Whether an NFS client with this address may come in.
    pub fn admits(&self, address: std::net::IpAddr) -> bool {
        let address = address.to_canonical();
        self.nfs_clients.iter().any(|net| net.contains(&address))
    }
}

impl Vfs {
    /// Shares offered through `protocol`, in name order, without the hidden ones.
    pub fn shares(&self, protocol: Protocol) -> Vec<Arc<Share>> {
        let directory = self.inner.records.current();
        let shown = |share: &&Arc<Share>| share.offers(protocol) && !share.hidden;
        directory.shares().iter().filter(shown).cloned().collect()
    }

    /// A share by name, without regard to case, if offered through `protocol`.
    pub fn share(&self, protocol: Protocol, name: &str) -> Option<Arc<Share>> {
        let directory = self.inner.records.current();
        let share = directory.share(name)?;
        share.offers(protocol).then(|| Arc::clone(share))
    }

    /// A share by id (NFS handles), if offered through `protocol`.
    pub fn share_by_id(&self, protocol: Protocol, id: ShareId) -> Option<Arc<Share>> {
        let directory = self.inner.records.current();
        let share = directory.share_by_id(id)?;
        share.offers(protocol).then(|| Arc::clone(share))
    }
}

impl Inner {
    /// Lets a caller into a share: the door must be open, an NFS client's network admitted; an NFS identity is squashed.
    pub(crate) fn enter(&self, share: &Share, caller: Caller) -> Result<Caller, VfsError> {
        let protocol = caller.client.protocol;
        if !share.offers(protocol) {
            return Err(VfsError::NotFound);
        }
        if !protocol.is_nfs() {
            return Ok(caller);
        }
        if !share.admits(caller.client.address) {
            return Err(VfsError::AccessDenied);
        }
        let who = &caller.identity;
        let (uid, gid) = (share.anonymous_uid, share.anonymous_gid);
        let squashed = match share.squash {
            Squash::None => return Ok(caller),
            Squash::All => self.records.current().unix(uid, gid, &[]),
            Squash::Root if who.uid == 0 => self.records.current().unix(uid, gid, &[]),
            Squash::Root if who.gid == 0 || who.gids.contains(&0) => {
                let own = if who.gid == 0 { gid } else { who.gid };
                let gids: Vec<u32> = who.gids.iter().copied().filter(|gid| *gid != 0).collect();
                self.records.current().unix(who.uid, own, &gids)
            }
            Squash::Root => return Ok(caller),
        };
        Ok(Caller {
            identity: squashed,
            client: caller.client,
        })
    }
}
