//! Two file layers over one repository, and a lock service that they share as nodes of a cluster would: a document belongs to one
//! node alone until the other acts on it, then it is surrendered and shared, and goes back as soon as anything allows it. Harsher than a
//! real cluster: documents change hands at every opportunity.

#![allow(dead_code, reason = "each test file uses its own part of the harness")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_lockmgr::{
    Access, AckError, Actor, BreakAck, ByteRange, CacheSink, CacheState, ClientId, Closed, Denial,
    Entry, IoKind, IoRequest, LeaseId, ListFilter, LocalLocks, LockHost, LockOptions, LockService,
    Member, MemberEpoch, MemberId, MonotonicClock, Note, OpenId, OpenRef, OpenRequest, OpenState,
    Opened, OwnedRangeRequest, RangeHolder, RangeNotLocked, RangeOwner, RangeRequest, ResourceId,
    ShareMode,
};
use sluice_repo::{PolicyRule, Repository};
use sluice_repo_content::{Folder, Store};
use sluice_repo_sqlite::SqliteRepository;
use sluice_repo_suite::FaultyRepository;
use sluice_vfs::*;
use tokio::sync::Notify;

use super::*;

#[path = "peers.rs"]
mod peers;

enum Place {
    Alone { node: usize, term: u64 },
    Surrendering,
    Shared,
}

/// What both nodes know together.
pub struct Town {
    table: LocalLocks,
    places: Mutex<HashMap<u64, Place>>,
    moved: Notify,
    terms: AtomicU64,
    /// The epoch that commits must carry.
    pub epoch: AtomicU64,
    pub surrenders: AtomicU64,
    hosts: Mutex<Vec<Option<Arc<dyn LockHost>>>>,
    /// Whether a document may become a node's alone again.
    pub hand_back: bool,
}

impl Town {
    fn new(hand_back: bool) -> Arc<Town> {
        let clock = Arc::new(MonotonicClock::default());
        Arc::new(Town {
            table: LocalLocks::new(LockOptions::default(), clock),
            places: Mutex::default(),
            moved: Notify::new(),
            terms: AtomicU64::new(1),
            epoch: AtomicU64::new(1),
            surrenders: AtomicU64::new(0),
            hosts: Mutex::new(vec![None, None]),
            hand_back,
        })
    }

    pub fn host(&self, node: usize) -> Option<Arc<dyn LockHost>> {
        self.hosts.lock().get(node).cloned().flatten()
    }

    fn others(&self, me: usize) -> Vec<Arc<dyn LockHost>> {
        let hosts = self.hosts.lock();
        let others = hosts.iter().enumerate().filter(|(node, _)| *node != me);
        others.filter_map(|(_, host)| host.clone()).collect()
    }
}

fn member(node: usize) -> Member {
    Member {
        id: MemberId(node as u32 + 1),
        epoch: MemberEpoch(1),
    }
}

/// One node's end of it.
pub struct TwinLocks {
    town: Arc<Town>,
    me: usize,
}

impl TwinLocks {
    fn alone(&self, document: u64) -> bool {
        self.residence(document).is_some()
    }

    /// The document may be acted on from here when this returns.
    async fn come(&self, document: u64) {
        loop {
            let moved = self.town.moved.notified();
            let holder = {
                let mut places = self.town.places.lock();
                match places.get(&document) {
                    None => {
                        let term = self.town.terms.fetch_add(1, Ordering::Relaxed);
                        let node = self.me;
                        places.insert(document, Place::Alone { node, term });
                        return;
                    }
                    Some(Place::Shared) => return,
                    Some(Place::Alone { node, .. }) if *node == self.me => return,
                    Some(Place::Alone { node, .. }) => {
                        let holder = *node;
                        places.insert(document, Place::Surrendering);
                        Some(holder)
                    }
                    Some(Place::Surrendering) => None,
                }
            };
            let Some(holder) = holder else {
                // A notification between the look and this is caught by the timeout.
                let _ = tokio::time::timeout(Duration::from_millis(5), moved).await;
                continue;
            };
            let town = self.town.clone();
            let surrender = tokio::spawn(async move {
                town.surrenders.fetch_add(1, Ordering::Relaxed);
                if let Some(host) = town.host(holder) {
                    host.surrender(document).await;
                }
                town.places.lock().insert(document, Place::Shared);
                town.moved.notify_waiters();
            });
            surrender.await.expect("surrendered");
        }
    }

    /// After an operation: a shared document goes to who is alone on it.
    async fn go(&self, document: u64) {
        if !self.town.hand_back {
            return;
        }
        let entries = self.town.table.explain(document).await;
        let mut places = self.town.places.lock();
        if !matches!(places.get(&document), Some(Place::Shared)) {
            return;
        }
        let Some(first) = entries.first() else {
            places.remove(&document);
            return;
        };
        if entries.iter().all(|e| e.holder.node == first.holder.node) {
            let node = usize::from(first.holder.node != "n0");
            let term = self.town.terms.fetch_add(1, Ordering::Relaxed);
            places.insert(document, Place::Alone { node, term });
        }
    }
}

#[async_trait]
impl LockService for TwinLocks {
    fn attach(&self, host: Arc<dyn LockHost>) {
        if let Some(slot) = self.town.hosts.lock().get_mut(self.me) {
            *slot = Some(host);
        }
        // Those who are there already, and each of them that there is one more.
        for node in 0..2 {
            let there = |other: &usize| *other != node && self.town.host(*other).is_some();
            let others: Vec<Member> = (0..2).filter(there).map(member).collect();
            if let Some(host) = self.town.host(node) {
                host.members(&others);
            }
        }
    }

    async fn run_timers(&self) {
        self.town.table.run_timers().await;
    }

    fn stop(&self) {}

    async fn open(&self, request: OpenRequest) -> Result<Opened, Denial> {
        self.come(request.resource.document).await;
        self.town.table.open(request).await
    }

    async fn close(&self, open: OpenRef) -> Closed {
        self.come(open.resource.document).await;
        let closed = self.town.table.close(open).await;
        self.go(open.resource.document).await;
        closed
    }

    fn try_close(&self, open: OpenRef) -> Option<Closed> {
        let alone = self.alone(open.resource.document);
        alone.then(|| self.town.table.try_close(open)).flatten()
    }

    async fn close_deleting(&self, open: OpenRef) -> Closed {
        self.come(open.resource.document).await;
        self.town.table.close_deleting(open).await
    }

    async fn deleted(&self, resource: ResourceId) {
        self.come(resource.document).await;
        self.town.table.deleted(resource).await;
        self.go(resource.document).await;
    }

    async fn reshare(&self, open: OpenRef, access: Access, share: ShareMode) -> Result<(), Denial> {
        self.come(open.resource.document).await;
        self.town.table.reshare(open, access, share).await
    }

    async fn set_delete_pending(&self, open: OpenRef, pending: bool) -> Result<(), Denial> {
        self.come(open.resource.document).await;
        self.town.table.set_delete_pending(open, pending).await
    }

    async fn state(&self, open: OpenRef) -> Option<OpenState> {
        self.town.table.state(open).await
    }

    async fn disconnect(&self, open: OpenRef, keep: Duration) -> Result<(), Denial> {
        self.town.table.disconnect(open, keep).await
    }

    async fn reclaim(
        &self,
        open: OpenRef,
        actor: Actor,
        sink: Option<Arc<dyn CacheSink>>,
    ) -> Result<Opened, Denial> {
        self.town.table.reclaim(open, actor, sink).await
    }

    async fn io(&self, open: OpenRef, kind: IoKind) -> Result<(), Denial> {
        self.come(open.resource.document).await;
        let answer = self.town.table.io(open, kind).await;
        tokio::task::yield_now().await;
        answer
    }

    fn try_io(&self, open: OpenRef, kind: IoKind) -> Option<Result<(), Denial>> {
        let alone = self.alone(open.resource.document);
        alone.then(|| self.town.table.try_io(open, kind)).flatten()
    }

    async fn io_without_open(&self, request: IoRequest) -> Result<(), Denial> {
        let document = request.resource.document;
        self.come(document).await;
        let answer = self.town.table.io_without_open(request).await;
        self.go(document).await;
        answer
    }

    async fn release_place(&self, resource: ResourceId, client: ClientId) {
        self.come(resource.document).await;
        self.town.table.release_place(resource, client).await;
        self.go(resource.document).await;
    }

    async fn break_caches_before_move(
        &self,
        resource: ResourceId,
        actor: &Actor,
        open: Option<OpenRef>,
    ) -> Result<(), Denial> {
        self.come(resource.document).await;
        let table = &self.town.table;
        table.break_caches_before_move(resource, actor, open).await
    }

    async fn lock(&self, request: RangeRequest) -> Result<(), Denial> {
        self.come(request.open.resource.document).await;
        self.town.table.lock(request).await
    }

    async fn unlock(&self, open: OpenRef, range: ByteRange) -> Result<(), RangeNotLocked> {
        self.come(open.resource.document).await;
        self.town.table.unlock(open, range).await
    }

    async fn lock_owned(&self, request: OwnedRangeRequest) -> Result<(), Denial> {
        self.come(request.resource.document).await;
        self.town.table.lock_owned(request).await
    }

    async fn unlock_owned(
        &self,
        resource: ResourceId,
        client: ClientId,
        owner: RangeOwner,
        range: ByteRange,
    ) {
        self.come(resource.document).await;
        let table = &self.town.table;
        table.unlock_owned(resource, client, owner, range).await;
        self.go(resource.document).await;
    }

    async fn unlock_all_owned(
        &self,
        resource: ResourceId,
        client: ClientId,
        owner: Option<RangeOwner>,
    ) {
        self.come(resource.document).await;
        let table = &self.town.table;
        table.unlock_all_owned(resource, client, owner).await;
        self.go(resource.document).await;
    }

    async fn test_owned(&self, request: &OwnedRangeRequest) -> Option<RangeHolder> {
        self.town.table.test_owned(request).await
    }

    async fn acknowledge_break(&self, ack: BreakAck) -> Result<CacheState, AckError> {
        self.town.table.acknowledge_break(ack).await
    }

    fn lease_resource(&self, lease: LeaseId) -> Option<ResourceId> {
        self.town.table.lease_resource(lease)
    }

    async fn force_release(&self, id: OpenId) -> bool {
        self.town.table.force_release(id).await
    }

    async fn list(&self, filter: &ListFilter) -> Vec<Entry> {
        self.town.table.list(filter).await
    }

    fn residence(&self, document: u64) -> Option<u64> {
        match self.town.places.lock().get(&document) {
            Some(Place::Alone { node, term }) if *node == self.me => Some(*term),
            _ => None,
        }
    }

    async fn fence(&self, _document: u64) -> Result<u64, Denial> {
        Ok(self.town.epoch.load(Ordering::Acquire))
    }

    async fn settle(&self, documents: &[u64]) -> bool {
        let mut any = false;
        for document in documents {
            let holder = match self.town.places.lock().get(document) {
                Some(Place::Alone { node, .. }) if *node != self.me => Some(*node),
                _ => None,
            };
            if let Some(host) = holder.and_then(|holder| self.town.host(holder)) {
                any |= host.settle(*document).await;
            }
        }
        any
    }

    fn announce(&self, note: Note) {
        for host in self.town.others(self.me) {
            host.noted(member(self.me), note.clone());
        }
    }

    async fn announce_all(&self, note: Note) {
        for host in self.town.others(self.me) {
            host.noted(member(self.me), note.clone());
            host.notes_hold().await;
        }
    }
}

/// What decides about locks in a pair of nodes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The town of this file, which gives documents back as soon as it can.
    Hasty,
    /// The town of this file, which never gives a document back.
    Lasting,
    /// The lock service of real clusters, with links in memory.
    Cluster,
}

pub const KINDS: [Kind; 3] = [Kind::Hasty, Kind::Lasting, Kind::Cluster];

/// Two nodes.
pub struct Twins {
    pub nodes: Vec<World>,
    pub town: Arc<Town>,
}

impl Twins {
    pub async fn new() -> Twins {
        Twins::with(Kind::Hasty, &[]).await
    }

    pub async fn with(kind: Kind, rules: &[PolicyRule]) -> Twins {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        let options = sluice_repo_sqlite::Options::new(folder.path().join("meta.db"));
        let sqlite = SqliteRepository::open(options).await.expect("opens");
        let sqlite: Arc<dyn Repository> = Arc::new(sqlite);
        make_share(sqlite.as_ref()).await;
        for rule in rules {
            sqlite.put_policy(rule.clone()).await.expect("rule");
        }
        let objects = Arc::new(Folder::open(folder.path().join("content")).expect("opens"));
        let town = Town::new(matches!(kind, Kind::Hasty));
        let real = matches!(kind, Kind::Cluster).then(|| peers::cluster(2));
        let locks: Vec<Arc<dyn LockService>> = match kind {
            Kind::Cluster => real.iter().flat_map(|real| real.locks.clone()).collect(),
            Kind::Hasty | Kind::Lasting => (0..2)
                .map(|me| {
                    let town = town.clone();
                    Arc::new(TwinLocks { town, me }) as Arc<dyn LockService>
                })
                .collect(),
        };
        let mut nodes = Vec::new();
        for (me, locks) in locks.into_iter().enumerate() {
            let faults = Arc::new(FaultyRepository::new(sqlite.clone()));
            let repo: Arc<dyn Repository> = faults.clone();
            let store = Store::new(objects.clone(), Default::default()).expect("the store opens");
            let vfs = Vfs::new(VfsOptions {
                repository: repo.clone(),
                content: Arc::new(store),
                locks,
                node: format!("n{me}"),
                member: me as u16 + 1,
                times: times(),
            })
            .await
            .expect("the file layer starts");
            let share = vfs.share(Protocol::Smb, "docs").expect("the share");
            nodes.push(World {
                vfs,
                repo,
                faults,
                share,
                folder: folder.clone(),
            });
        }
        if let Some(real) = real {
            real.begin();
        }
        Twins { nodes, town }
    }

    /// A caller on a node; callers of different nodes have different addresses.
    pub fn tree(&self, node: usize, protocol: Protocol, host: u8) -> Tree {
        self.nodes[node].tree(protocol, host + 100 * u8::from(node == 1))
    }
}

impl Twins {
    /// An open that a node had before it was lost: it is in the lock table, and no file layer knows of it.
    pub async fn open_of_lost_node(&self, document: NodeId) -> OpenRef {
        let holder = sluice_lockmgr::Holder {
            protocol: sluice_lockmgr::Protocol::Smb,
            user: "bob".to_owned(),
            address: "127.0.0.9".to_owned(),
            client_name: String::new(),
            node: "n9".to_owned(),
            path: String::new(),
            rule: None,
            since_unix_ms: 0,
        };
        let actor = Actor {
            protocol: sluice_lockmgr::Protocol::Smb,
            client: ClientId(9 << 48),
            holder: Arc::new(holder),
        };
        let resource = ResourceId::main(document.0);
        let request = OpenRequest::new(resource, actor, Access::READ);
        let opened = self.town.table.open(request).await;
        opened.expect("open").open
    }

    /// The lock service has noticed the loss.
    pub async fn drop_open_of_lost_node(&self, open: OpenRef) {
        let _ = self.town.table.close(open).await;
    }
}
