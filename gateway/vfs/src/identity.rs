//! Who asks: the person, the client machine, and both together.

use std::net::IpAddr;
use std::sync::Arc;

use sluice_repo::{Sid, UserId};

/// The door that a request came through. An owner tag and a policy key; rules never branch on a head's internals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// SMB 2 and 3.
    Smb,
    /// NFSv3 and NLM.
    Nfs3,
    /// NFSv4.
    Nfs4,
    /// FTP and FTPS.
    Ftp,
    /// The command line and the admin API.
    Admin,
}

impl Protocol {
    /// The name used in policies, listings and logs: `smb`, `nfs3`, `nfs4`, `ftp`, `admin`.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Smb => "smb",
            Protocol::Nfs3 => "nfs3",
            Protocol::Nfs4 => "nfs4",
            Protocol::Ftp => "ftp",
            Protocol::Admin => "admin",
        }
    }
}

/// A person or service as the repository knows it; over AUTH_SYS perhaps only by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account, `None` for an AUTH_SYS uid without one.
    pub user: Option<UserId>,
    /// Name for listings and messages (`uid 1000` without an account).
    pub name: String,
    /// Owner number of what this identity creates.
    pub uid: u32,
    /// Primary group number.
    pub gid: u32,
    /// Further group numbers.
    pub gids: Vec<u32>,
    /// The account's group names (policy rules name them).
    pub groups: Vec<String>,
    /// Own SID.
    pub sid: Sid,
    /// SIDs of the groups, the primary one first; well-known ones (Everyone, Authenticated Users) are implied.
    pub group_sids: Vec<Sid>,
    /// Administrator: may take ownership, see every lock, bypasses no lock and no policy.
    pub admin: bool,
}

/// Identifies a client machine (or connection) while it is known to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// The machine or connection that a request came from. For SMB and FTP one per connection; for NFS one per
/// (address, AUTH_SYS machine name). Listed by `sessions` as long as an `Arc` of it lives.
#[derive(Debug)]
pub struct Client {
    /// Its tag.
    pub id: ClientId,
    /// Its door.
    pub protocol: Protocol,
    /// Its address, without port.
    pub address: IpAddr,
    /// What it calls itself (NetBIOS or machine name), may be empty.
    pub name: String,
    /// SMB ClientGuid (MS-SMB2 2.2.3), zero elsewhere: with the lease key it names a lease.
    pub guid: [u8; 16],
}

/// A person at a client.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub identity: Arc<Identity>,
    /// From where.
    pub client: Arc<Client>,
}
