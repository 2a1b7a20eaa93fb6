//! Everything by chance: clients on all nodes that open, wait, give up and close, messages that take their time, shards that
//! move, nodes that freeze and die. At no moment may two clients have the same document to themselves, nobody may wait
//! for ever, and in the end nothing may be left behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use sluice_lockmgr::{
    Access, ByteRange, ClientId, ListFilter, LockService, OnConflict, OpenRef, OpenRequest,
    OwnedRangeRequest, Protocol, RangeLock, RangeOwner, ResourceId, ShareMode,
};
use sluice_lockmgr_cluster::locks::ClusterLocks;
use sluice_lockmgr_cluster::membership::{ClusterEvent, ClusterHandler};
use tokio::task::JoinHandle;

use crate::net::{Cluster, actor};

/// Who has which document to itself, as clients were told: document, then node and client.
type Holders = Arc<Mutex<HashMap<u64, (usize, u64)>>>;

/// What a client does at its end, however it ends.
enum Duty {
    Close(OpenRef),
    Unlock(ResourceId, ClientId, RangeOwner),
}

/// A client's duty, and what it counts on meanwhile.
struct Life {
    locks: ClusterLocks,
    duty: Option<Duty>,
    held: Option<Held>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.held = None;
        let (locks, duty) = (self.locks.clone(), self.duty.take());
        tokio::spawn(async move {
            match duty {
                Some(Duty::Close(open)) => {
                    let _ = locks.close(open).await;
                }
                Some(Duty::Unlock(resource, client, owner)) => {
                    locks.unlock_all_owned(resource, client, Some(owner)).await;
                }
                None => {}
            }
        });
    }
}

/// One client's life: an open to itself, some work, a close.
async fn open_and_close(
    locks: ClusterLocks,
    holders: Holders,
    document: u64,
    (at, client): (usize, u64),
    work: usize,
) {
    let actor = actor(at, Protocol::Smb, client, "u");
    let mut request = OpenRequest::new(ResourceId::main(document), actor, Access::WRITE);
    request.share = ShareMode::NONE;
    request.on_conflict = OnConflict::Wait(None);
    // Refused only where the node is lost.
    let Ok(opened) = locks.open(request).await else {
        return;
    };
    let life = Life {
        duty: Some(Duty::Close(opened.open)),
        held: Some(Held::take(&holders, document, (at, client))),
        locks,
    };
    for _ in 0..work {
        tokio::task::yield_now().await;
    }
    drop(life);
}

/// The same with a byte range of an NFS client.
async fn lock_and_unlock(
    locks: ClusterLocks,
    holders: Holders,
    document: u64,
    (at, client): (usize, u64),
    work: usize,
) {
    let actor = actor(at, Protocol::Nfs3, client, "u");
    let (resource, owner) = (ResourceId::main(document), RangeOwner(u128::from(client)));
    let request = OwnedRangeRequest {
        resource,
        actor: actor.clone(),
        owner,
        lock: RangeLock {
            range: ByteRange::WHOLE,
            exclusive: true,
        },
        on_conflict: OnConflict::Wait(None),
        reclaim: false,
    };
    // As NLM: a lock that is given up is given back, whether it was granted or not.
    let mut life = Life {
        duty: Some(Duty::Unlock(resource, actor.client, owner)),
        held: None,
        locks: locks.clone(),
    };
    if locks.lock_owned(request).await.is_err() {
        return;
    }
    life.held = Some(Held::take(&holders, document, (at, client)));
    for _ in 0..work {
        tokio::task::yield_now().await;
    }
}

/// What a client counts on; ends with its task.
struct Held {
    holders: Holders,
    document: u64,
    who: (usize, u64),
}

impl Held {
    fn take(holders: &Holders, document: u64, who: (usize, u64)) -> Self {
        let before = holders.lock().insert(document, who);
        assert_eq!(before, None, "{who:?} was given {document} too");
        Self {
            holders: Arc::clone(holders),
            document,
            who,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.holders.lock();
        if holders.get(&self.document) == Some(&self.who) {
            holders.remove(&self.document);
        }
    }
}

struct Client {
    at: usize,
    task: JoinHandle<()>,
}

struct Chaos {
    cluster: Cluster,
    seed: u64,
    clients: Vec<Client>,
    holders: Holders,
    next: u64,
}

impl Chaos {
    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed % u64::try_from(below.max(1)).expect("small")).expect("small")
    }

    fn start_client(&mut self, at: usize, document: u64) {
        self.next += 1;
        let who = (at, self.next);
        let locks = self.cluster.nodes[at].locks.clone();
        let (holders, work) = (Arc::clone(&self.holders), self.random(12));
        // Opens and ranges on documents of their own: an open to itself refuses ranges, but not the other way round.
        let task = if document.is_multiple_of(2) {
            tokio::spawn(open_and_close(locks, holders, document, who, work))
        } else {
            tokio::spawn(lock_and_unlock(locks, holders, document, who, work))
        };
        self.clients.push(Client { at, task });
    }

    /// A client goes away; what it had counts no more.
    async fn stop_client(&mut self, at: usize) {
        if let Some(client) = self.clients.get(at) {
            client.task.abort();
        }
    }

    async fn kill(&mut self, at: usize) {
        for client in self.clients.iter().filter(|c| c.at == at) {
            client.task.abort();
        }
        self.cluster.nodes[at]
            .peers
            .acts
            .store(false, Ordering::SeqCst);
        self.cluster.nodes[at].locks.event(ClusterEvent::Lost);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        self.holders.lock().retain(|_, who| who.0 != at);
        self.cluster.kill(at);
    }

    fn freeze(&self, at: usize, frozen: bool) {
        let node = &self.cluster.nodes[at];
        node.peers.acts.store(!frozen, Ordering::SeqCst);
        node.locks.event(if frozen {
            ClusterEvent::Frozen
        } else {
            ClusterEvent::Thawed
        });
    }

    fn alive(&self, at: usize) -> bool {
        self.cluster.nodes[at].alive
    }

    async fn list(&mut self) -> Vec<sluice_lockmgr::Entry> {
        let node = self.cluster.nodes.iter().find(|n| n.alive);
        let locks = node.expect("a live node").locks.clone();
        let list = async move { locks.list(&ListFilter::default()).await };
        self.cluster.run(list).await.expect("an answer")
    }

    async fn one_thing(&mut self, documents: &[u64], deaths: &mut usize) {
        let (at, pick) = (self.random(3), self.random(documents.len()));
        let document = documents[pick];
        match self.random(100) {
            0..12 if self.alive(at) && self.clients.len() < 40 => self.start_client(at, document),
            12..14 => {
                let one = self.random(self.clients.len());
                self.stop_client(one).await;
            }
            14 if self.alive(at) => self.cluster.give(document, Some(at)),
            15 if self.alive(at) => {
                self.freeze(at, true);
                tokio::task::yield_now().await;
                self.freeze(at, false);
            }
            16 => {
                let ms = 100 * self.random(30);
                let ms = u64::try_from(ms).expect("short");
                self.cluster.pass(Duration::from_millis(ms));
            }
            17 if *deaths > 0 && self.alive(at) && self.random(8) == 0 => {
                *deaths -= 1;
                self.kill(at).await;
            }
            18..50 => tokio::task::yield_now().await,
            _ => {
                let chance = self.random(usize::MAX >> 1);
                self.cluster.deliver_one(chance);
            }
        }
        self.clients.retain(|c| !c.task.is_finished());
    }
}

async fn chaos(seed: u64, documents: &[u64], mut deaths: usize) {
    let mut c = Chaos {
        cluster: Cluster::new(3),
        seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        clients: Vec::new(),
        holders: Holders::default(),
        next: 0,
    };
    for document in documents {
        c.cluster.give(*document, None);
    }
    for _ in 0..4_000 {
        c.one_thing(documents, &mut deaths).await;
    }
    for round in 0..400 {
        c.cluster.after(Duration::from_millis(500)).await;
        c.clients.retain(|c| !c.task.is_finished());
        if c.clients.is_empty() {
            break;
        }
        if round == 399 {
            let left = c.list().await;
            let waiting: Vec<usize> = c.clients.iter().map(|c| c.at).collect();
            let holders = c.holders.lock().clone();
            panic!("seed {seed}: waiting for ever on {waiting:?}, holders {holders:?}\n{left:#?}");
        }
    }
    // Places of callers that are gone lapse; shared documents are given back.
    for _ in 0..30 {
        c.cluster.after(Duration::from_secs(1)).await;
    }
    let left = c.list().await;
    assert!(left.is_empty(), "seed {seed}: left behind: {left:#?}");
}

#[tokio::test]
async fn opens_exclude_each_other_through_moves_and_freezes() {
    for seed in 1..12 {
        chaos(seed, &[1, 2, 3, 4], 0).await;
    }
}

#[tokio::test]
async fn opens_exclude_each_other_through_deaths() {
    for seed in 1..12 {
        chaos(seed, &[1, 2, 3, 4], 1).await;
    }
}

/// More of the same: `SLUICE_SEEDS=1000..1200`.
#[tokio::test]
async fn seeds_of_choice() {
    let Ok(seeds) = std::env::var("SLUICE_SEEDS") else {
        return;
    };
    let (from, to) = seeds.split_once("..").expect("from..to");
    let number = |n: &str| n.parse::<u64>().expect("a number");
    for seed in number(from)..number(to) {
        chaos(seed, &[1, 2, 3, 4], usize::from(seed % 3 == 0)).await;
    }
}
