//! The clients that may hold NLM locks of this node, remembered in the repository. Written when a client asks for its first
//! lock after a start, never for each lock.

use std::collections::HashSet;
use std::net::IpAddr;

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_nfs_wire::xdr::{Decoder, Encoder};
use sluice_vfs::{Vfs, VfsError};

/// Clients that one node remembers; further ones are served and not told.
const CLIENTS_MAX: usize = 8192;
/// Longest address in words.
const ADDRESS_MAX: u32 = 64;

/// A machine with locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LockClient {
    pub(super) address: IpAddr,
    /// The address under which it knows this server.
    pub(super) called: IpAddr,
    /// The number of the start since which it may have locks.
    pub(super) since: u64,
}

impl LockClient {
    fn same(&self, other: &LockClient) -> bool {
        (self.address, self.called) == (other.address, other.called)
    }
}

/// The clients of a node, by its number.
pub(super) async fn of_node(vfs: &Vfs, member: u16) -> Result<Vec<LockClient>, VfsError> {
    let kept = vfs.kept(&name(member)).await?;
    Ok(kept.map_or_else(Vec::new, decode))
}

fn name(member: u16) -> String {
    format!("nfs.lock_clients.{member}")
}

/// This node's own.
pub(super) struct Remembered {
    member: u16,
    /// Grows with every start of any node.
    pub(super) start: u64,
    /// Those of this start, by address and called address.
    known: Mutex<HashSet<(IpAddr, IpAddr)>>,
    /// All that is stored; held while it is being stored.
    list: tokio::sync::Mutex<Vec<LockClient>>,
}

impl Remembered {
    pub(super) fn new(member: u16, start: u64, before: Vec<LockClient>) -> Self {
        Self {
            member,
            start,
            known: Mutex::default(),
            list: tokio::sync::Mutex::new(before),
        }
    }

    /// Those of this start and of before it that were not told yet.
    pub(super) async fn all(&self) -> Vec<LockClient> {
        self.list.lock().await.clone()
    }

    /// Stores a client, if it is new since the start.
    pub(super) async fn add(
        &self,
        vfs: &Vfs,
        address: IpAddr,
        called: IpAddr,
    ) -> Result<(), VfsError> {
        if self.known.lock().contains(&(address, called)) {
            return Ok(());
        }
        let client = LockClient {
            address,
            called,
            since: self.start,
        };
        let mut list = self.list.lock().await;
        let mut next = list.clone();
        next.retain(|other| !other.same(&client));
        if next.len() >= CLIENTS_MAX {
            tracing::warn!(client = %address, "too many NFS clients with locks: this one is not told if its locks are lost");
        } else {
            next.push(client);
        }
        if *list != next {
            vfs.keep(&name(self.member), encode(&next)).await?;
            *list = next;
        }
        self.known.lock().insert((address, called));
        Ok(())
    }

    /// Forgets clients of before that have been told, unless they have new locks.
    pub(super) async fn forget(&self, vfs: &Vfs, told: &[LockClient]) -> Result<(), VfsError> {
        let mut list = self.list.lock().await;
        let mut next = list.clone();
        next.retain(|client| !told.contains(client));
        if *list != next {
            vfs.keep(&name(self.member), encode(&next)).await?;
            *list = next;
        }
        Ok(())
    }
}

fn encode(clients: &[LockClient]) -> Bytes {
    let mut e = Encoder::new();
    for client in clients {
        e.opaque(client.address.to_string().as_bytes());
        e.opaque(client.called.to_string().as_bytes());
        e.u64(client.since);
    }
    e.into_bytes()
}

fn decode(bytes: Bytes) -> Vec<LockClient> {
    fn address(d: &mut Decoder) -> Option<IpAddr> {
        let words = d.opaque(ADDRESS_MAX).ok()?;
        std::str::from_utf8(&words).ok()?.parse().ok()
    }
    let mut d = Decoder::new(bytes);
    let mut clients = Vec::new();
    while d.remaining() > 0 && clients.len() < CLIENTS_MAX {
        let client = || {
            Some(LockClient {
                address: address(&mut d)?,
                called: address(&mut d)?,
                since: d.u64().ok()?,
            })
        };
        let Some(client) = { client }() else {
            tracing::warn!("the list of NFS clients with locks can't be read to its end");
            break;
        };
        clients.push(client);
    }
    clients
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written_and_a_cut_one_up_to_the_cut() {
        let client = |n: u8, since| LockClient {
            address: IpAddr::from([192, 0, 2, n]),
            called: "2001:db8::1".parse().expect("an address"),
            since,
        };
        let clients = [client(1, 1), client(2, u64::MAX)];
        let bytes = encode(&clients);
        assert_eq!(decode(bytes.clone()), clients);
        assert_eq!(decode(bytes.slice(..bytes.len() - 4)), clients[..1]);
        assert_eq!(decode(Bytes::new()), []);
    }
}
