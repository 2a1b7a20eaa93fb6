//! The client machines, told apart by address and AUTH_SYS machine name. A client stays known while it has a connection or
//! locks, and for a while after, so that a reconnect finds what it held.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluice_vfs::{Client, Protocol, Vfs};

/// How long a client without connections is remembered. Linux closes idle connections after 5 minutes.
const REMEMBER: Duration = Duration::from_secs(15 * 60);
/// From this many clients on, each new one first looks for those to forget.
const SWEEP_MIN: usize = 256;
/// Clients that one connection remembers; a machine has one name, several come only through address translation.
const CONNECTION_CLIENTS_MAX: usize = 16;

/// All clients known to the head.
pub(crate) struct Clients {
    vfs: Vfs,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Client and last time it was asked for.
    by_name: HashMap<(IpAddr, String), (Arc<Client>, Instant)>,
    /// Sweep when so many are known.
    sweep_at: usize,
}

impl Clients {
    pub(crate) fn new(vfs: Vfs) -> Self {
        Self {
            vfs,
            known: Mutex::new(Known {
                by_name: HashMap::new(),
                sweep_at: SWEEP_MIN,
            }),
        }
    }

    fn get(&self, address: IpAddr, name: &str, now: Instant) -> Arc<Client> {
        let mut known = self.known.lock();
        if known.by_name.len() >= known.sweep_at {
            // One reference is this table's own: more mean a connection or a lock.
            known.by_name.retain(|_, (client, used)| {
                Arc::strong_count(client) > 1 || now.saturating_duration_since(*used) < REMEMBER
            });
            known.sweep_at = (known.by_name.len() * 2).max(SWEEP_MIN);
        }
        let entry = known
            .by_name
            .entry((address, name.to_owned()))
            .or_insert_with(|| (self.vfs.client(Protocol::Nfs3, address, name, [0; 16]), now));
        entry.1 = now;
        entry.0.clone()
    }
}

/// The clients of one connection, found without the common table.
#[derive(Default)]
pub(crate) struct ConnectionClients {
    recent: Mutex<Vec<Arc<Client>>>,
}

impl ConnectionClients {
    /// The client of this name on a connection from this address.
    pub(crate) fn get(&self, all: &Clients, address: IpAddr, name: &str) -> Arc<Client> {
        let mut recent = self.recent.lock();
        if let Some(client) = recent.iter().find(|c| c.name == name) {
            return client.clone();
        }
        let client = all.get(address, name, Instant::now());
        if recent.len() >= CONNECTION_CLIENTS_MAX {
            recent.remove(0);
        }
        recent.push(client.clone());
        client
    }
}
