//! Links of two nodes over real transports: order, exactly once, through breaks, the relay and the end of a membership.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use sluice_lockmgr::{EpochRegistry, JoinRequest, LifeLock, Member};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::channel::{ChannelNet, Way};
use super::handshake::{Authenticator, ClusterSecret};
use super::links::{LinkNote, Links, Shared};
use super::tcp::TcpTransport;
use super::{DialError, Peers, SendError, Speaks, Transport};
use crate::membership::{BootClock, ClusterEvent, ClusterHandler, Validity};
use crate::registry::{Door, MemoryRegistry};

const SOON: Duration = Duration::from_secs(20);

struct Inbox(mpsc::UnboundedSender<(Member, Bytes)>);

impl ClusterHandler for Inbox {
    fn event(&self, _event: ClusterEvent) {}

    fn received(&self, from: Member, message: Bytes) {
        let _ = self.0.send((from, message));
    }
}

struct Node {
    member: Member,
    address: String,
    links: Arc<Links>,
    inbox: mpsc::UnboundedReceiver<(Member, Bytes)>,
    notes: mpsc::UnboundedReceiver<LinkNote>,
    door: Arc<Door>,
    _life: Box<dyn LifeLock>,
}

impl Node {
    async fn start(
        registry: &MemoryRegistry,
        transport: Arc<dyn Transport>,
        address: &str,
    ) -> Node {
        Self::start_speaking(registry, transport, address, Speaks::OURS).await
    }

    async fn start_speaking(
        registry: &MemoryRegistry,
        transport: Arc<dyn Transport>,
        address: &str,
        speaks: Speaks,
    ) -> Node {
        let door = registry.door();
        let request = JoinRequest {
            name: address.to_owned(),
            advertise: address.to_owned(),
            version: String::new(),
        };
        let joined = door.join(&request).await.unwrap();
        let (sender, inbox) = mpsc::unbounded_channel();
        let (notes, heard) = mpsc::unbounded_channel();
        let handler: Arc<dyn ClusterHandler> = Arc::new(Inbox(sender));
        let links = Links::new(
            Shared {
                me: joined.member,
                speaks,
                cluster: [7; 16],
                transport,
                registry: Arc::<Door>::clone(&door),
                handler: OnceLock::from(handler),
                notes,
                stopped: CancellationToken::new(),
                relaying: AtomicUsize::new(0),
                mail: Notify::new(),
            },
            Arc::new(Validity::new(Arc::new(BootClock))),
        );
        tokio::spawn(Arc::clone(&links).fetch_mail());
        Node {
            member: joined.member,
            address: address.to_owned(),
            links,
            inbox,
            notes: heard,
            door,
            _life: joined.life,
        }
    }

    fn know(&self, other: &Node) {
        self.links.open(other.member, &other.address);
        self.links.connect(other.member);
    }

    fn send(&self, to: &Node, number: u32) {
        let message = Bytes::copy_from_slice(&number.to_le_bytes());
        self.links.send(to.member, message).unwrap();
    }

    /// The next messages are these numbers, in this order.
    async fn expect(&mut self, from: Member, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let got = timeout(SOON, self.inbox.recv()).await.unwrap().unwrap();
            assert_eq!(got, (from, Bytes::copy_from_slice(&number.to_le_bytes())));
        }
    }

    async fn note(&mut self, wanted: &LinkNote) {
        while timeout(SOON, self.notes.recv()).await.unwrap().unwrap() != *wanted {}
    }
}

async fn pair_in_memory() -> (ChannelNet, MemoryRegistry, Node, Node) {
    let (net, registry) = (ChannelNet::default(), MemoryRegistry::new(SOON));
    let a = Node::start(&registry, net.transport("a"), "a").await;
    let b = Node::start(&registry, net.transport("b"), "b").await;
    a.know(&b);
    b.know(&a);
    (net, registry, a, b)
}

async fn tcp(registry: &MemoryRegistry) -> Node {
    let secret = ClusterSecret::new(b"the secret of this cluster").unwrap();
    let authenticator = Authenticator::new(secret).unwrap();
    let transport = TcpTransport::bind("127.0.0.1:0", authenticator)
        .await
        .unwrap();
    let address = transport.local_addr().to_string();
    Node::start(registry, Arc::new(transport), &address).await
}

#[tokio::test]
async fn a_caller_without_a_common_version_is_told_what_is_spoken() {
    let (net, registry) = (ChannelNet::default(), MemoryRegistry::new(SOON));
    let speaks = |oldest, newest| Speaks { oldest, newest };
    let a = Node::start_speaking(&registry, net.transport("a"), "a", speaks(1, 2)).await;
    let b = Node::start_speaking(&registry, net.transport("b"), "b", speaks(3, 4)).await;
    let refused = a.links.call_back(b.member, "b").await;
    let Err(DialError::Rejected(why)) = refused else {
        panic!("{refused:?}");
    };
    assert!(why.contains("speaks peer protocol 3 to 4 only"), "{why}");
    let told = b.links.strangers();
    assert_eq!(told.len(), 1);
    assert!(
        told[0]
            .reason
            .contains("speaks peer protocol 1 to 2, this node 3 to 4"),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_over_tcp_arrive_in_order_in_both_directions() {
    let registry = MemoryRegistry::new(SOON);
    let (mut a, mut b) = (tcp(&registry).await, tcp(&registry).await);
    a.know(&b);
    b.know(&a);
    for number in 0..20_000 {
        a.send(&b, number);
        b.send(&a, number);
    }
    a.expect(b.member, 0..20_000).await;
    b.expect(a.member, 0..20_000).await;
    let long = Bytes::from(vec![5; 3 << 20]);
    a.links.send(b.member, long.clone()).unwrap();
    let got = timeout(SOON, b.inbox.recv()).await.unwrap().unwrap();
    assert_eq!(got, (a.member, long));
}

#[tokio::test]
async fn breaks_of_the_connection_lose_and_repeat_nothing() {
    let (net, _registry, a, mut b) = pair_in_memory().await;
    for round in 0..20 {
        for number in 0..500 {
            a.send(&b, round * 500 + number);
        }
        // Somewhere in the middle of what is under way.
        tokio::task::yield_now().await;
        net.set_way("a", "b", Way::Refused);
        tokio::task::yield_now().await;
        net.set_way("a", "b", Way::Open);
    }
    b.expect(a.member, 0..10_000).await;
}

#[tokio::test]
async fn while_two_members_cannot_call_each_other_the_registry_carries_their_messages() {
    let (net, _registry, mut a, mut b) = pair_in_memory().await;
    a.send(&b, 0);
    b.expect(a.member, 0..1).await;
    net.set_way("a", "b", Way::Refused);
    a.note(&LinkNote::Disconnected(b.member)).await;
    a.note(&LinkNote::Refused(b.member)).await;
    for number in 1..1_000 {
        a.send(&b, number);
    }
    b.expect(a.member, 1..1_000).await;
    b.send(&a, 5);
    a.expect(b.member, 5..6).await;
    net.set_way("a", "b", Way::Open);
    a.note(&LinkNote::Connected(b.member)).await;
    a.send(&b, 1_000);
    b.expect(a.member, 1_000..1_001).await;
    assert!(a.links.is_connected(b.member) && !a.links.relay_in_use());
}

#[tokio::test]
async fn the_relay_survives_a_registry_that_fails_for_a_while() {
    let (net, _registry, mut a, mut b) = pair_in_memory().await;
    a.note(&LinkNote::Connected(b.member)).await;
    net.set_way("a", "b", Way::Refused);
    a.door.set_cut(true, None);
    a.note(&LinkNote::Refused(b.member)).await;
    for number in 0..10 {
        a.send(&b, number);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    a.door.set_cut(false, None);
    b.expect(a.member, 0..10).await;
}

#[tokio::test]
async fn a_silent_connection_is_given_up_and_its_messages_come_another_way() {
    let (net, _registry, mut a, mut b) = pair_in_memory().await;
    a.note(&LinkNote::Connected(b.member)).await;
    net.set_way("a", "b", Way::Silent);
    a.send(&b, 0);
    a.send(&b, 1);
    b.expect(a.member, 0..2).await;
}

#[tokio::test]
async fn after_the_end_of_a_membership_nothing_is_delivered_or_taken() {
    let (_net, _registry, mut a, mut b) = pair_in_memory().await;
    a.note(&LinkNote::Connected(b.member)).await;
    b.links.close(a.member);
    assert_eq!(
        b.links.send(a.member, Bytes::new()),
        Err(SendError::NotAMember)
    );
    a.send(&b, 0);
    b.note(&LinkNote::UnknownCaller).await;
    assert!(b.inbox.try_recv().is_err());
}

#[tokio::test]
async fn a_call_back_proves_which_incarnation_answers() {
    let (net, _registry, a, b) = pair_in_memory().await;
    assert_eq!(a.links.call_back(b.member, "b").await, Ok(()));
    assert_eq!(a.links.call_back(a.member, "a").await, Ok(()));
    assert!(matches!(
        a.links.call_back(a.member, "b").await,
        Err(DialError::Rejected(_))
    ));
    net.kill("b");
    assert_eq!(
        a.links.call_back(b.member, "b").await,
        Err(DialError::Refused)
    );
}
