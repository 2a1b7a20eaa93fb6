//! Whole nodes: real tasks, links in memory, a registry in memory whose clock follows the real one.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::membership::ClusterEvent;
use crate::registry::{Door, MemoryRegistry};
use crate::transport::channel::{ChannelNet, ChannelTransport, Way};

const SOON: Duration = Duration::from_secs(20);
const SECRET: &[u8] = b"the secret of this cluster";

struct Inbox {
    events: mpsc::UnboundedSender<ClusterEvent>,
    messages: mpsc::UnboundedSender<(Member, Bytes)>,
}

impl ClusterHandler for Inbox {
    fn event(&self, event: ClusterEvent) {
        let _ = self.events.send(event);
    }

    fn received(&self, from: Member, message: Bytes) {
        let _ = self.messages.send((from, message));
    }
}

struct Node {
    cluster: Cluster,
    door: Arc<Door>,
    events: mpsc::UnboundedReceiver<ClusterEvent>,
    messages: mpsc::UnboundedReceiver<(Member, Bytes)>,
}

impl Node {
    async fn event(&mut self, wanted: &ClusterEvent) {
        while timeout(SOON, self.events.recv()).await.unwrap().unwrap() != *wanted {}
    }

    fn owns(&self) -> usize {
        self.cluster.status().shards
    }

    async fn until_it_owns(&self, shards: usize) {
        timeout(SOON, async {
            while self.owns() != shards {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
    }
}

fn options(name: &str) -> JoinOptions {
    let secret = ClusterSecret::new(SECRET).unwrap();
    let mut options = JoinOptions::new(name.into(), name.into(), "1".into(), secret);
    options.patience = SOON;
    options
}

/// A registry whose clock runs, with short leases.
fn registry() -> MemoryRegistry {
    let registry = MemoryRegistry::new(Duration::from_millis(1800));
    let ticking = registry.clone();
    tokio::spawn(async move {
        loop {
            let before = Instant::now();
            sleep(Duration::from_millis(10)).await;
            ticking.advance(before.elapsed());
        }
    });
    registry
}

async fn start(registry: &MemoryRegistry, transport: Arc<ChannelTransport>, name: &str) -> Node {
    start_with(registry, transport, options(name))
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

async fn start_with(
    registry: &MemoryRegistry,
    transport: Arc<ChannelTransport>,
    options: JoinOptions,
) -> Result<Node, JoinError> {
    let door = registry.door();
    let for_cluster: Arc<dyn EpochRegistry> = Arc::<Door>::clone(&door);
    let cluster = Cluster::join(options, for_cluster, transport).await?;
    let (events, heard) = mpsc::unbounded_channel();
    let (messages, inbox) = mpsc::unbounded_channel();
    cluster.run(Arc::new(Inbox { events, messages })).await?;
    Ok(Node {
        cluster,
        door,
        events: heard,
        messages: inbox,
    })
}

async fn three() -> (ChannelNet, MemoryRegistry, [Node; 3]) {
    let (net, registry) = (ChannelNet::default(), registry());
    let a = start(&registry, net.transport("a"), "a").await;
    let b = start(&registry, net.transport("b"), "b").await;
    let c = start(&registry, net.transport("c"), "c").await;
    (net, registry, [a, b, c])
}

#[tokio::test]
async fn three_nodes_find_each_other_talk_and_share_the_shards() {
    let (_net, _registry, [a, mut b, mut c]) = three().await;
    b.event(&ClusterEvent::NodeUp(c.cluster.me())).await;
    c.event(&ClusterEvent::NodeUp(b.cluster.me())).await;
    b.cluster
        .peers()
        .send(c.cluster.me(), Bytes::from_static(b"hello"))
        .unwrap();
    let got = timeout(SOON, c.messages.recv()).await.unwrap().unwrap();
    assert_eq!(got, (b.cluster.me(), Bytes::from_static(b"hello")));
    c.until_it_owns(1365).await;
    b.until_it_owns(1365).await;
    a.until_it_owns(1366).await;
    assert!(a.cluster.peers().may_act());
    assert_eq!(a.cluster.status().standing, Standing::Live);
}

#[tokio::test]
async fn after_the_death_of_a_process_the_others_have_its_shards_within_a_second() {
    let (net, _registry, [mut a, b, c]) = three().await;
    a.until_it_owns(1366).await;
    let dead = b.cluster.me();
    let before = Instant::now();
    net.kill("b");
    b.cluster.stop();
    a.event(&ClusterEvent::NodeDown(dead)).await;
    a.until_it_owns(2048).await;
    c.until_it_owns(2048).await;
    assert!(before.elapsed() < Duration::from_millis(1500));
}

#[tokio::test]
async fn a_node_that_the_registry_lost_sight_of_freezes_is_fenced_and_comes_back_under_a_new_epoch()
{
    let (net, registry) = (ChannelNet::default(), registry());
    let mut a = start(&registry, net.transport("a"), "a").await;
    let transport = net.transport("b");
    let mut b = start(&registry, Arc::clone(&transport), "b").await;
    let old = b.cluster.me();
    b.door.set_cut(true, Some(old));
    b.event(&ClusterEvent::Frozen).await;
    assert!(!b.cluster.peers().may_act());
    a.event(&ClusterEvent::NodeDown(old)).await;
    b.door.set_cut(false, None);
    timeout(SOON, b.cluster.lost()).await.unwrap();
    assert_eq!(b.cluster.status().standing, Standing::Lost);
    drop(b);
    let again = start(&registry, transport, "b").await;
    assert!(again.cluster.me().epoch > old.epoch);
    a.event(&ClusterEvent::NodeUp(again.cluster.me())).await;
}

#[tokio::test]
async fn a_drained_node_owns_nothing_and_its_leave_is_seen_at_once() {
    let (_net, _registry, [mut a, b, _c]) = three().await;
    timeout(SOON, b.cluster.drain()).await.unwrap();
    assert_eq!(b.owns(), 0);
    assert_eq!(b.cluster.status().standing, Standing::Draining);
    b.cluster.leave().await;
    a.event(&ClusterEvent::NodeDown(b.cluster.me())).await;
}

#[tokio::test]
async fn a_cut_between_two_members_is_bridged_by_the_registry_and_evicts_nobody() {
    let (net, _registry, [mut a, mut b, _c]) = three().await;
    a.event(&ClusterEvent::NodeUp(b.cluster.me())).await;
    net.set_way("a", "b", Way::Silent);
    for number in 0..50_u8 {
        let message = Bytes::copy_from_slice(&[number]);
        a.cluster.peers().send(b.cluster.me(), message).unwrap();
    }
    for number in 0..50_u8 {
        let got = timeout(SOON, b.messages.recv()).await.unwrap().unwrap();
        assert_eq!(got.1.as_ref(), [number]);
    }
    assert!(a.cluster.peers().may_act() && b.cluster.peers().may_act());
}

#[tokio::test]
async fn a_node_of_another_cluster_or_without_a_way_to_it_is_refused() {
    let (net, registry) = (ChannelNet::default(), registry());
    let a = start(&registry, net.transport("a"), "a").await;
    let mut other = options("b");
    other.secret = ClusterSecret::new(b"another secret, long enough").unwrap();
    let refused = Cluster::join(other, registry.door(), net.transport("b")).await;
    assert!(matches!(
        refused.err(),
        Some(JoinError::Registry(RegistryError::WrongCluster(_)))
    ));
    let mut other = options("b");
    other.expected = Some([9; 16]);
    let refused = Cluster::join(other, registry.door(), net.transport("b")).await;
    assert!(matches!(
        refused.err(),
        Some(JoinError::Registry(RegistryError::WrongCluster(_)))
    ));
    let mut other = options("b");
    other.advertise = "nowhere".into();
    other.patience = Duration::from_millis(300);
    let cluster = Cluster::join(other, registry.door(), net.transport("b"))
        .await
        .unwrap();
    let (events, _heard) = mpsc::unbounded_channel();
    let (messages, _inbox) = mpsc::unbounded_channel();
    let run = cluster.run(Arc::new(Inbox { events, messages })).await;
    assert_eq!(run, Err(JoinError::NotCalledBack("nowhere".into())));
    assert!(a.cluster.status().peers.is_empty());
}

async fn start_speaking(
    registry: &MemoryRegistry,
    transport: Arc<ChannelTransport>,
    name: &str,
    (oldest, newest): (u32, u32),
) -> Result<Node, JoinError> {
    let mut options = options(name);
    options.speaks = Speaks { oldest, newest };
    options.patience = Duration::from_secs(2);
    start_with(registry, transport, options).await
}

#[tokio::test]
async fn nodes_of_two_versions_speak_the_highest_that_both_know() {
    let (net, registry) = (ChannelNet::default(), registry());
    let old = start_speaking(&registry, net.transport("old"), "old", (1, 1)).await;
    let new = start_speaking(&registry, net.transport("new"), "new", (1, 2)).await;
    let newer = start_speaking(&registry, net.transport("newer"), "newer", (1, 3)).await;
    let (old, mut new, newer) = (old.unwrap(), new.unwrap(), newer.unwrap());
    let members = [old.cluster.me(), new.cluster.me(), newer.cluster.me()];
    let spoken = |at: &Node| {
        let peers = at.cluster.status().peers;
        members.map(|member| {
            let peer = peers.iter().find(|p| p.member == member);
            peer.and_then(|p| p.protocol)
        })
    };
    let wanted = [
        [None, Some(1), Some(1)],
        [Some(1), None, Some(2)],
        [Some(1), Some(2), None],
    ];
    timeout(SOON, async {
        while [spoken(&old), spoken(&new), spoken(&newer)] != wanted {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let hello = Bytes::from_static(b"hello");
    let sent = old.cluster.peers().send(members[1], hello.clone());
    sent.unwrap();
    let got = timeout(SOON, new.messages.recv()).await.unwrap().unwrap();
    assert_eq!(got, (members[0], hello));
}

#[tokio::test]
async fn nodes_without_a_common_version_do_not_meet_and_say_so() {
    let (net, registry) = (ChannelNet::default(), registry());
    let old = start_speaking(&registry, net.transport("old"), "old", (1, 2)).await;
    let _old = old.unwrap_or_else(|error| panic!("{error}"));
    let new = start_speaking(&registry, net.transport("new"), "new", (3, 4)).await;
    let Err(JoinError::Registry(RegistryError::WrongCluster(why))) = new else {
        panic!("it was let in");
    };
    assert!(
        why.contains("peer protocol 1, this node speaks 3 to 4"),
        "{why}"
    );
}
