//! The lock service of real clusters, on links in memory that keep their order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_lockmgr::{
    Clock, EpochRegistry, LockService, Member, MemberEpoch, MemberId, MonotonicClock, ShardEpoch,
    ShardMap, ShardOwner,
};
use sluice_lockmgr_cluster::locks::{ClusterLocks, ClusterOptions};
use sluice_lockmgr_cluster::membership::{ClusterEvent, ClusterHandler};
use sluice_lockmgr_cluster::registry::MemoryRegistry;
use sluice_lockmgr_cluster::transport::{Peers, SendError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

type Mail = (Member, Bytes);

struct Links {
    me: Member,
    doors: Vec<(Member, UnboundedSender<Mail>)>,
}

impl Peers for Links {
    fn me(&self) -> Member {
        self.me
    }

    fn may_act(&self) -> bool {
        true
    }

    fn send(&self, to: Member, message: Bytes) -> Result<(), SendError> {
        for (member, door) in &self.doors {
            if *member == to {
                let _ = door.send((self.me, message.clone()));
            }
        }
        Ok(())
    }
}

async fn hear(locks: ClusterLocks, mut letters: UnboundedReceiver<Mail>) {
    while let Some((from, bytes)) = letters.recv().await {
        locks.received(from, bytes);
    }
}

/// Lock services of nodes, and what they are to hear once their file layers are there.
pub struct Cluster {
    pub locks: Vec<Arc<dyn LockService>>,
    begin: Box<dyn FnOnce() + Send>,
}

impl Cluster {
    /// Lets the nodes take part.
    pub fn begin(self) {
        (self.begin)();
    }
}

/// Lock services of `count` nodes; shards belong to them in turn.
pub fn cluster(count: u32) -> Cluster {
    let registry = MemoryRegistry::new(Duration::from_secs(6));
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::default());
    let members: Vec<Member> = (1..=count)
        .map(|n| Member {
            id: MemberId(n),
            epoch: MemberEpoch(u64::from(n)),
        })
        .collect();
    let (mut doors, mut boxes) = (Vec::new(), Vec::new());
    for member in &members {
        let (door, letters) = unbounded_channel();
        doors.push((*member, door));
        boxes.push(letters);
    }
    let mut map = ShardMap::default();
    map.version += 1;
    for (turn, entry) in map.owners.iter_mut().enumerate() {
        *entry = ShardOwner {
            owner: members.get(turn % members.len()).copied(),
            epoch: ShardEpoch(1),
        };
    }
    let map = Arc::new(map);
    let mut all = Vec::new();
    for member in &members {
        let links = Arc::new(Links {
            me: *member,
            doors: doors.clone(),
        });
        all.push(ClusterLocks::new(
            links,
            registry.door() as Arc<dyn EpochRegistry>,
            clock.clone(),
            ClusterOptions::default(),
            1 << 20,
        ));
    }
    let services = all.iter().map(|locks| Arc::new(locks.clone()) as _);
    Cluster {
        locks: services.collect(),
        begin: Box::new(move || {
            for ((member, locks), letters) in members.iter().zip(&all).zip(boxes) {
                for other in members.iter().filter(|other| *other != member) {
                    locks.event(ClusterEvent::NodeUp(*other));
                }
                locks.event(ClusterEvent::Shards(map.clone()));
                tokio::spawn(hear(locks.clone(), letters));
            }
        }),
    }
}
