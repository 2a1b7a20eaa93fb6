//! What NLM clients hold and wait for: needed to tell a repeated request from a new one and to free all that a client has.
//! The lock table itself is the file layer's; nothing here grants or refuses.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sluice_nfs_wire::nlm::Stat;
use sluice_vfs::{Caller, Client, ClientId, LockNote, NfsLock, NodeId, Open, ShareId, Tree, Vfs};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::call::Place;

/// Owners, waiters and share reservations that one client may have.
const CLIENT_ENTRIES_MAX: usize = 16_384;

/// Restarts of clients that are remembered.
const RESTARTS_MAX: usize = 4096;

/// An owner's locks on one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct OwnerKey {
    share: ShareId,
    node: NodeId,
    owner: Vec<u8>,
}

/// A request that waits; a client that asks again names the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct WaitKey {
    node: NodeId,
    owner: Vec<u8>,
    offset: u64,
    length: u64,
    exclusive: bool,
}

impl WaitKey {
    pub(super) fn new(node: NodeId, lock: &NfsLock) -> Self {
        Self {
            node,
            owner: lock.owner.clone(),
            offset: lock.offset,
            length: lock.length,
            exclusive: lock.exclusive,
        }
    }
}

/// How far a waiting request has come.
#[derive(Clone)]
enum Wait {
    /// In the queue; the token ends the waiting.
    Queued(CancellationToken),
    /// Granted, but the client doesn't know yet; the token stops telling it.
    Granted(CancellationToken),
}

/// A DOS share reservation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ShareKey {
    pub(super) node: NodeId,
    pub(super) owner: Vec<u8>,
}

/// An owner with locks.
struct Owner {
    /// The view through which all of its locks can be given back.
    tree: Tree,
    note: LockNote,
    /// Grows with each lock.
    locked: u64,
}

struct ClientState {
    /// Keeps the client known to the file layer, so that a reconnect meets its own locks.
    client: Arc<Client>,
    owners: HashMap<OwnerKey, Owner>,
    waits: HashMap<WaitKey, Wait>,
    shares: HashMap<ShareKey, (Arc<Open>, LockNote)>,
}

impl ClientState {
    fn entries(&self) -> usize {
        self.owners.len() + self.waits.len() + self.shares.len()
    }
}

/// What CANCEL found.
pub(super) enum Withdrawn {
    /// It was waiting and no longer does.
    Waiting,
    /// It had just been granted; the lock has to be given back.
    Granted,
    /// No such request.
    Unknown,
}

/// All NLM state of the head.
pub(crate) struct LockManager {
    /// Never held across an await; taken alone.
    clients: Mutex<HashMap<ClientId, ClientState>>,
    /// The state that a client told with its last restart.
    restarts: Mutex<HashMap<(IpAddr, String), i32>>,
    /// Counts locks.
    locked: AtomicU64,
    stop: CancellationToken,
    pub(super) client_portmap_port: u16,
}

impl LockManager {
    pub(crate) fn new(client_portmap_port: u16) -> Self {
        Self {
            clients: Mutex::default(),
            restarts: Mutex::default(),
            locked: AtomicU64::new(1),
            stop: CancellationToken::new(),
            client_portmap_port,
        }
    }

    /// Ends all waiting.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Works on a client's state, which is dropped when nothing is left in it.
    fn with<T>(&self, client: &Arc<Client>, work: impl FnOnce(&mut ClientState) -> T) -> T {
        let mut clients = self.clients.lock();
        let state = clients.entry(client.id).or_insert_with(|| ClientState {
            client: client.clone(),
            owners: HashMap::new(),
            waits: HashMap::new(),
            shares: HashMap::new(),
        });
        let result = work(state);
        if state.entries() == 0 {
            clients.remove(&client.id);
        }
        result
    }

    /// Notes that an owner holds locks on a node.
    pub(super) fn remember(
        &self,
        caller: &Caller,
        place: &Place,
        lock: &NfsLock,
        note: LockNote,
    ) -> Result<(), Stat> {
        let key = owner_key(place, lock);
        self.with(&caller.client, |state| {
            if !state.owners.contains_key(&key) && state.entries() >= CLIENT_ENTRIES_MAX {
                return Err(Stat::DeniedNoLocks);
            }
            let owner = Owner {
                tree: place.tree.clone(),
                note,
                locked: self.locked.fetch_add(1, Ordering::Relaxed),
            };
            state.owners.insert(key, owner);
            Ok(())
        })
    }

    /// Which lock was an owner's last on a node; to be asked before it gives some back.
    pub(super) fn last_lock(&self, caller: &Caller, place: &Place, lock: &NfsLock) -> Option<u64> {
        let key = owner_key(place, lock);
        self.with(&caller.client, |state| {
            state.owners.get(&key).map(|owner| owner.locked)
        })
    }

    /// Notes that an owner has given back all its locks on a node up to `last`; a later one may have been granted meanwhile. A part
    /// given back leaves the note, which does no harm.
    pub(super) fn forget(&self, caller: &Caller, place: &Place, lock: &NfsLock, last: Option<u64>) {
        if lock.offset == 0 && lock.length == u64::MAX {
            let key = owner_key(place, lock);
            self.with(&caller.client, |state| {
                if state.owners.get(&key).map(|owner| owner.locked) == last {
                    state.owners.remove(&key);
                }
            });
        }
    }

    /// The addresses of clients that have or had something on these documents. What is known of it stays: it may have been taken
    /// anew already.
    pub(super) fn clients_of(&self, documents: &HashSet<NodeId>) -> HashSet<IpAddr> {
        let clients = self.clients.lock();
        let concerned = clients.values().filter(|state| {
            let locked = state.owners.keys().map(|key| key.node);
            let shared = state.shares.keys().map(|key| key.node);
            locked.chain(shared).any(|node| documents.contains(&node))
        });
        concerned.map(|state| state.client.address).collect()
    }

    /// The answer to a request that is waiting already, if it is: granted meanwhile, or still blocked.
    pub(super) fn ask_again(&self, caller: &Caller, place: &Place, lock: &NfsLock) -> Option<Stat> {
        let key = WaitKey::new(place.node, lock);
        self.with(&caller.client, |state| match state.waits.get(&key)? {
            Wait::Queued(_) => Some(Stat::Blocked),
            Wait::Granted(told) => {
                told.cancel();
                state.waits.remove(&key);
                Some(Stat::Granted)
            }
        })
    }

    /// Enters a waiting request. The token ends its waiting; `None` if the same request waits already.
    pub(super) fn queue(
        &self,
        client: &Arc<Client>,
        key: WaitKey,
    ) -> Result<Option<CancellationToken>, Stat> {
        self.with(client, |state| {
            if state.waits.contains_key(&key) {
                return Ok(None);
            }
            if state.entries() >= CLIENT_ENTRIES_MAX {
                return Err(Stat::DeniedNoLocks);
            }
            let cancel = self.stop.child_token();
            state.waits.insert(key, Wait::Queued(cancel.clone()));
            Ok(Some(cancel))
        })
    }

    /// A waiting request was granted. The token is cancelled once the client knows; `None` if it was withdrawn.
    pub(super) fn granted(&self, client: &Arc<Client>, key: &WaitKey) -> Option<CancellationToken> {
        self.with(client, |state| {
            let wait = state.waits.get_mut(key)?;
            let told = self.stop.child_token();
            *wait = Wait::Granted(told.clone());
            Some(told)
        })
    }

    /// Takes a request out of the waiting ones; false if it wasn't among them any more.
    pub(super) fn settle(&self, client: &Arc<Client>, key: &WaitKey) -> bool {
        self.with(client, |state| state.waits.remove(key).is_some())
    }

    /// CANCEL.
    pub(super) fn withdraw(&self, caller: &Caller, place: &Place, lock: &NfsLock) -> Withdrawn {
        let key = WaitKey::new(place.node, lock);
        self.with(&caller.client, |state| match state.waits.remove(&key) {
            Some(Wait::Queued(cancel)) => {
                cancel.cancel();
                Withdrawn::Waiting
            }
            Some(Wait::Granted(told)) => {
                told.cancel();
                Withdrawn::Granted
            }
            None => Withdrawn::Unknown,
        })
    }

    /// Keeps a share reservation; returns the one that it replaces.
    pub(super) fn keep_share(
        &self,
        client: &Arc<Client>,
        key: ShareKey,
        open: Arc<Open>,
        note: LockNote,
    ) -> Result<Option<Arc<Open>>, Stat> {
        self.with(client, |state| {
            if !state.shares.contains_key(&key) && state.entries() >= CLIENT_ENTRIES_MAX {
                return Err(Stat::DeniedNoLocks);
            }
            Ok(state.shares.insert(key, (open, note)).map(|(open, _)| open))
        })
    }

    /// Takes a share reservation out.
    pub(super) fn take_share(&self, client: &Arc<Client>, key: &ShareKey) -> Option<Arc<Open>> {
        self.with(client, |state| state.shares.remove(key))
            .map(|(open, _)| open)
    }

    /// Whether a client that says that it has restarted says so for the first time. Its state grows with each restart.
    pub(crate) fn is_news(&self, address: IpAddr, name: &str, state: i32) -> bool {
        let mut restarts = self.restarts.lock();
        if restarts.len() >= RESTARTS_MAX {
            restarts.clear();
        }
        restarts.insert((address, name.to_owned()), state) != Some(state)
    }

    /// Gives back all that a restarted client held. Others at the same address keep theirs.
    pub(crate) async fn free_all(&self, vfs: &Vfs, address: IpAddr, name: &str) {
        let gone: Vec<ClientState> = {
            let mut clients = self.clients.lock();
            let is_meant = |state: &ClientState| {
                state.client.address == address && is_one_host(&state.client.name, name)
            };
            clients
                .extract_if(|_, state| is_meant(state))
                .map(|(_, state)| state)
                .collect()
        };
        for state in gone {
            info!(client = %address, client_name = name, owners = state.owners.len(), "NFS client restarted: its locks are freed");
            for wait in state.waits.into_values() {
                let (Wait::Queued(token) | Wait::Granted(token)) = wait;
                token.cancel();
            }
            for (key, owner) in state.owners {
                // A node that is gone holds no locks.
                let _ = owner.tree.unlock(key.node, &key.owner, 0, u64::MAX).await;
            }
            for (open, _) in state.shares.into_values() {
                let _ = open.close().await;
            }
            vfs.client_gone(&state.client).await;
        }
    }
}

/// What a node's clients have is kept from others until it has left the cluster, and from then on for those who take it again.
impl Drop for LockManager {
    fn drop(&mut self) {
        for (_, state) in self.clients.get_mut().drain() {
            for owner in state.owners.into_values() {
                owner.note.end_with_node();
            }
            for (open, note) in state.shares.into_values() {
                open.end_with_node();
                note.end_with_node();
            }
        }
    }
}

/// Whether two names mean one host: the same, or one of them is the other with its domain.
fn is_one_host(one: &str, other: &str) -> bool {
    let with_domain = |long: &str, short: &str| {
        let rest = long.strip_prefix(short);
        !short.is_empty() && rest.is_some_and(|rest| rest.starts_with('.'))
    };
    one == other || with_domain(one, other) || with_domain(other, one)
}

fn owner_key(place: &Place, lock: &NfsLock) -> OwnerKey {
    OwnerKey {
        share: place.share,
        node: place.node,
        owner: lock.owner.clone(),
    }
}
