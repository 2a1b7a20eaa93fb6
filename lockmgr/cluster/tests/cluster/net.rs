//! Nodes with links in memory that deliver only when they are told to.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_lockmgr::{
    Actor, ClientId, Clock, EpochRegistry, Holder, LeftLocks, LockOptions, Member, MemberEpoch,
    MemberId, Now, Protocol, ShardEpoch, ShardMap, ShardOwner, shard_of,
};
use sluice_lockmgr_cluster::core::TokenOptions;
use sluice_lockmgr_cluster::locks::{ClusterLocks, ClusterOptions};
use sluice_lockmgr_cluster::membership::{ClusterEvent, ClusterHandler};
use sluice_lockmgr_cluster::registry::MemoryRegistry;
use sluice_lockmgr_cluster::transport::{MESSAGE_MAX_BYTES, Peers, SendError};

#[derive(Default)]
pub struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Now {
        Now(self.0.load(Ordering::SeqCst))
    }
}

type Mail = Arc<Mutex<VecDeque<(Member, Member, Bytes)>>>;

pub struct TestPeers {
    me: Member,
    mail: Mail,
    pub acts: AtomicBool,
}

impl Peers for TestPeers {
    fn me(&self) -> Member {
        self.me
    }
    fn may_act(&self) -> bool {
        self.acts.load(Ordering::SeqCst)
    }
    fn send(&self, to: Member, message: Bytes) -> Result<(), SendError> {
        if message.len() > MESSAGE_MAX_BYTES {
            return Err(SendError::TooLarge);
        }
        self.mail.lock().push_back((self.me, to, message));
        Ok(())
    }
}

pub struct Node {
    pub member: Member,
    pub locks: ClusterLocks,
    pub peers: Arc<TestPeers>,
    pub alive: bool,
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    mail: Mail,
    clock: Arc<TestClock>,
    map: ShardMap,
    /// Messages delivered.
    pub delivered: u64,
    turn: usize,
}

impl Cluster {
    pub fn new(count: u32) -> Self {
        let mail = Mail::default();
        let clock = Arc::new(TestClock::default());
        clock.0.store(1_000, Ordering::SeqCst);
        let registry = MemoryRegistry::new(Duration::from_secs(6));
        let options = ClusterOptions {
            locks: LockOptions {
                break_timeout: Duration::from_secs(35),
                poll_lapse: Duration::from_secs(7),
                waiters_max: 100,
                ranges_max: 1000,
                opens_max: 1000,
            },
            tokens: TokenOptions::default(),
            ..ClusterOptions::default()
        };
        let nodes = (1..=count).map(|n| {
            let member = Member {
                id: MemberId(n),
                epoch: MemberEpoch(u64::from(n)),
            };
            let peers = Arc::new(TestPeers {
                me: member,
                mail: Arc::clone(&mail),
                acts: AtomicBool::new(true),
            });
            let locks = ClusterLocks::new(
                Arc::clone(&peers) as Arc<dyn Peers>,
                registry.door() as Arc<dyn EpochRegistry>,
                Arc::clone(&clock) as Arc<dyn Clock>,
                options,
                1 << 20,
            );
            Node {
                member,
                locks,
                peers,
                alive: true,
            }
        });
        let cluster = Self {
            nodes: nodes.collect(),
            mail,
            clock,
            map: ShardMap::default(),
            delivered: 0,
            turn: 0,
        };
        for node in &cluster.nodes {
            for other in cluster.nodes.iter().filter(|n| n.member != node.member) {
                node.locks.event(ClusterEvent::NodeUp(other.member));
            }
        }
        cluster
    }

    /// Sees to it that somebody coordinates a document: the nodes in turn, or the given one.
    pub fn give(&mut self, document: u64, owner: Option<usize>) {
        let shard = shard_of(document);
        if owner.is_none() && self.map.owner(shard).owner.is_some() {
            return;
        }
        let alive: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].alive)
            .collect();
        let at = owner.unwrap_or(alive[self.turn % alive.len()]);
        self.turn += 1;
        let entry = &mut self.map.owners[usize::from(shard.0)];
        *entry = ShardOwner {
            owner: Some(self.nodes[at].member),
            epoch: ShardEpoch(entry.epoch.0 + 1),
        };
        self.tell_map();
    }

    pub fn tell_map(&mut self) {
        self.map.version += 1;
        let map = Arc::new(self.map.clone());
        for node in self.nodes.iter().filter(|n| n.alive) {
            node.locks.event(ClusterEvent::Shards(Arc::clone(&map)));
        }
    }

    /// What NFS clients of a node had locked is told to the others, as right before they hear that it is gone.
    pub fn left(&self, at: usize, documents: &[u64], ends_in: Duration) {
        for hears in (0..self.nodes.len()).filter(|n| self.nodes[*n].alive) {
            self.left_told(hears, at, documents, ends_in);
        }
    }

    /// One node hears of it.
    pub fn left_told(&self, hears: usize, at: usize, documents: &[u64], ends_in: Duration) {
        self.tell(
            hears,
            ClusterEvent::Left(LeftLocks {
                member: self.nodes[at].member,
                node: format!("lost{at}"),
                ends_in,
                documents: documents.to_vec(),
            }),
        );
    }

    /// One node hears something of the cluster.
    pub fn tell(&self, hears: usize, event: ClusterEvent) {
        self.nodes[hears].locks.event(event);
    }

    /// A node dies; its shards go to the others.
    pub fn kill(&mut self, at: usize) {
        self.die(at);
        for hears in (0..self.nodes.len()).filter(|n| self.nodes[*n].alive) {
            self.tell(hears, ClusterEvent::NodeDown(self.nodes[at].member));
        }
        self.inherit(at);
    }

    /// A node dies, of which nobody has heard.
    pub fn die(&mut self, at: usize) {
        self.nodes[at].alive = false;
        let dead = self.nodes[at].member;
        self.mail
            .lock()
            .retain(|(from, to, _)| *from != dead && *to != dead);
    }

    /// The shards of a dead node go to the others, as all of them hear.
    pub fn inherit(&mut self, at: usize) {
        let dead = self.nodes[at].member;
        let heirs: Vec<Member> = self
            .nodes
            .iter()
            .filter(|n| n.alive)
            .map(|n| n.member)
            .collect();
        for (turn, entry) in self.map.owners.iter_mut().enumerate() {
            if entry.owner == Some(dead) {
                entry.owner = Some(heirs[turn % heirs.len()]);
                entry.epoch = ShardEpoch(entry.epoch.0 + 1);
            }
        }
        self.tell_map();
    }

    fn deliver_all(&mut self) -> bool {
        let mut some = false;
        loop {
            let next = self.mail.lock().pop_front();
            let Some((from, to, bytes)) = next else {
                return some;
            };
            some = true;
            self.delivered += 1;
            let node = self.nodes.iter().find(|n| n.member == to && n.alive);
            if let Some(node) = node {
                node.locks.received(from, bytes);
            }
        }
    }

    /// Delivers the oldest message of one link, chosen by `chance`.
    pub fn deliver_one(&mut self, chance: usize) {
        let (from, to, bytes) = {
            let mut mail = self.mail.lock();
            if mail.is_empty() {
                return;
            }
            let picked = chance % mail.len();
            let (from, to) = (mail[picked].0, mail[picked].1);
            let oldest = mail.iter().position(|m| m.0 == from && m.1 == to);
            let Some(message) = oldest.and_then(|at| mail.remove(at)) else {
                return;
            };
            message
        };
        self.delivered += 1;
        let node = self.nodes.iter().find(|n| n.member == to && n.alive);
        if let Some(node) = node {
            node.locks.received(from, bytes);
        }
    }

    /// Time goes by, and what is due is done; messages stay where they are.
    pub fn pass(&mut self, wait: Duration) {
        let ms = u64::try_from(wait.as_millis()).expect("short");
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
        for node in self.nodes.iter().filter(|n| n.alive) {
            node.locks.tick();
        }
    }

    /// Until nothing happens any more.
    pub async fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            quiet = if self.deliver_all() { 0 } else { quiet + 1 };
        }
    }

    pub async fn after(&mut self, wait: Duration) {
        let ms = u64::try_from(wait.as_millis()).expect("short");
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
        for _ in 0..3 {
            for node in self.nodes.iter().filter(|n| n.alive) {
                node.locks.tick();
            }
            self.settle().await;
        }
    }

    /// Runs a call to its end, with all messages that it needs.
    pub async fn run<T: Send + 'static>(
        &mut self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let task = tokio::spawn(call);
        self.settle().await;
        if task.is_finished() {
            return task.await.ok();
        }
        task.abort();
        self.settle().await;
        None
    }
}

pub fn actor(at: usize, protocol: Protocol, client: u64, user: &str) -> Actor {
    let node = u64::try_from(at).expect("few nodes") + 1;
    Actor {
        protocol,
        client: ClientId(node << 48 | client),
        holder: Arc::new(Holder {
            protocol,
            user: user.to_owned(),
            address: format!("192.0.2.{client}"),
            client_name: String::new(),
            node: String::from("gw1"),
            path: String::from("a/b.txt"),
            rule: None,
            since_unix_ms: 0,
        }),
    }
}
