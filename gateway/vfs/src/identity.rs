//! Who asks: the person, the client machine, and both together; and the table of client machines that are known now.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sluice_repo::{Sid, UserId};

use crate::vfs::Vfs;

/// The door that a request came through. An owner tag and a policy key; rules never branch on a head's internals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

    /// Whether it is NFS of any version.
    pub fn is_nfs(self) -> bool {
        matches!(self, Protocol::Nfs3 | Protocol::Nfs4)
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
    since: SystemTime,
    /// Names of those who worked through it, at most [`USERS_MAX`].
    users: Mutex<Vec<String>>,
}

/// Most user names kept for the listing of one client.
const USERS_MAX: usize = 32;

impl Client {
    /// When it was first seen.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Names of those who worked through it, in the order of their appearance.
    pub fn users(&self) -> Vec<String> {
        self.users.lock().clone()
    }

    /// Notes that `identity` works through this client.
    pub(crate) fn used_by(&self, identity: &Identity) {
        let mut users = self.users.lock();
        if users.len() < USERS_MAX && !users.contains(&identity.name) {
            users.push(identity.name.clone());
        }
    }
}

/// A person at a client.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub identity: Arc<Identity>,
    /// From where.
    pub client: Arc<Client>,
}

impl Vfs {
    /// The machine behind a connection. For NFS equal address and name give the same client; otherwise each call makes a new one.
    pub fn client(
        &self,
        protocol: Protocol,
        address: IpAddr,
        name: &str,
        guid: [u8; 16],
    ) -> Arc<Client> {
        self.inner.clients.client(protocol, address, name, guid)
    }
}

/// NFS clients are one if address and machine name are equal.
type NfsKey = (Protocol, IpAddr, String);

#[derive(Default)]
struct ClientMaps {
    all: HashMap<ClientId, Weak<Client>>,
    nfs: HashMap<NfsKey, Arc<Client>>,
    sweep_at: usize,
}

/// The client machines of this node. SMB and FTP clients live as long as their connection holds them; NFS clients, which
/// have no connection that means anything, stay until the table is full and nobody else holds them.
pub(crate) struct ClientTable {
    next: AtomicU64,
    /// Guards the maps only; taken before a client's `users`, never after.
    maps: Mutex<ClientMaps>,
}

/// NFS clients that are remembered while idle.
const NFS_CLIENTS_MAX: usize = 65_536;

impl ClientTable {
    /// Numbers of one member of a cluster are nobody else's.
    pub(crate) fn of_member(member: u16) -> ClientTable {
        ClientTable {
            next: AtomicU64::new(u64::from(member) << 48),
            maps: Mutex::default(),
        }
    }

    /// The machine behind a connection; for NFS the one that is known already if address and name are equal.
    pub(crate) fn client(
        &self,
        protocol: Protocol,
        address: IpAddr,
        name: &str,
        guid: [u8; 16],
    ) -> Arc<Client> {
        let mut maps = self.maps.lock();
        let key = protocol
            .is_nfs()
            .then(|| (protocol, address, name.to_owned()));
        if let Some(known) = key.as_ref().and_then(|key| maps.nfs.get(key)) {
            return Arc::clone(known);
        }
        let client = Arc::new(Client {
            id: ClientId(self.next.fetch_add(1, Ordering::Relaxed) + 1),
            protocol,
            address,
            name: name.to_owned(),
            guid,
            since: SystemTime::now(),
            users: Mutex::new(Vec::new()),
        });
        maps.all.insert(client.id, Arc::downgrade(&client));
        if let Some(key) = key {
            if maps.nfs.len() >= NFS_CLIENTS_MAX {
                maps.nfs.retain(|_, client| Arc::strong_count(client) > 1);
            }
            maps.nfs.insert(key, Arc::clone(&client));
        }
        maps.sweep();
        client
    }

    /// Those that live, in the order of their appearance.
    pub(crate) fn list(&self) -> Vec<Arc<Client>> {
        let mut clients: Vec<_> = self
            .maps
            .lock()
            .all
            .values()
            .filter_map(Weak::upgrade)
            .collect();
        clients.sort_by_key(|client| client.id);
        clients
    }
}

impl ClientMaps {
    /// Forgets the dead whenever the table has doubled, so that the cost per connection stays constant.
    fn sweep(&mut self) {
        if self.all.len() >= self.sweep_at.max(64) {
            self.all.retain(|_, client| client.strong_count() > 0);
            self.sweep_at = self.all.len() * 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn nfs_clients_with_equal_address_and_name_are_one() {
        let table = ClientTable::of_member(0);
        let a = table.client(Protocol::Nfs3, HERE, "box", [0; 16]);
        let b = table.client(Protocol::Nfs3, HERE, "box", [0; 16]);
        let c = table.client(Protocol::Nfs3, HERE, "other", [0; 16]);
        assert_eq!(a.id, b.id);
        assert_ne!(a.id, c.id);
    }

    #[test]
    fn a_connection_that_is_gone_is_not_listed() {
        let table = ClientTable::of_member(0);
        let a = table.client(Protocol::Ftp, HERE, "", [0; 16]);
        let b = table.client(Protocol::Ftp, HERE, "", [0; 16]);
        assert_ne!(a.id, b.id);
        drop(a);
        let left: Vec<_> = table.list().iter().map(|client| client.id).collect();
        assert_eq!(left, [b.id]);
    }
}
