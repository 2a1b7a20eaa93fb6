//! The gate: nothing is decided about a document that is not here, and a wait outlives a move.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::actor;
use crate::{
    Access, Begun, BreakNotice, CacheRequest, CacheSink, CacheState, ClientId, Clock, Closed,
    DocumentState, GateHost, GatedLocks, GrantKey, IoKind, LeaseId, LockOptions, MEMBER_SHIFT,
    MemberId, NotHere, Now, OnConflict, Op, OpAnswer, OpenId, OpenRef, OpenRequest, Opened,
    Protocol, Residence, ResourceId, RevokeReason, ShareMode, Ticket, Waiting,
};

pub(super) const DOC: u64 = 5;
pub(super) const HOME: MemberId = MemberId(1);
pub(super) const OTHER: MemberId = MemberId(2);

#[derive(Default)]
pub(super) struct TestClock(pub(super) AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Now {
        Now(self.0.load(Ordering::Relaxed))
    }
}

/// Says for every open who asked for its sink, and hears for all of them.
#[derive(Default)]
pub(super) struct Host {
    told: Mutex<Vec<String>>,
    abandoned: Mutex<Vec<OpenId>>,
    unused: Mutex<Vec<(MemberId, Ticket)>>,
}

struct Heard(Arc<Host>, OpenId);

impl CacheSink for Heard {
    fn on_break(&self, notice: &BreakNotice) {
        let words = format!("{} breaks to {}", self.1.0, notice.to);
        self.0.told.lock().push(words);
    }
    fn on_revoked(&self, open: OpenRef, reason: RevokeReason, _: Closed) {
        let words = format!("{} gone: {reason:?}", open.id.0);
        self.0.told.lock().push(words);
    }
    fn on_cache_revoked(&self, _: ResourceId, _: GrantKey, _: RevokeReason) {}
}

struct HostOf(Arc<Host>);

impl GateHost for HostOf {
    fn sink(&self, open: OpenRef, _: ClientId) -> Option<Arc<dyn CacheSink>> {
        Some(Arc::new(Heard(Arc::clone(&self.0), open.id)))
    }
    fn abandoned(&self, open: OpenRef) {
        self.0.abandoned.lock().push(open.id);
    }
    fn lease_unused(&self, member: MemberId, _: LeaseId, by: Ticket) {
        self.0.unused.lock().push((member, by));
    }
}

pub(super) struct Node {
    pub(super) locks: GatedLocks,
    pub(super) clock: Arc<TestClock>,
    host: Arc<Host>,
    _host_of: Arc<dyn GateHost>,
}

pub(super) fn node(me: MemberId) -> Node {
    let clock = Arc::new(TestClock::default());
    let host = Arc::new(Host::default());
    let host_of: Arc<dyn GateHost> = Arc::new(HostOf(Arc::clone(&host)));
    let shared = Arc::clone(&clock) as Arc<dyn Clock>;
    let locks = GatedLocks::new(LockOptions::default(), shared, me, 64_000);
    locks.attach(Arc::downgrade(&host_of) as Weak<dyn GateHost>);
    Node {
        locks,
        clock,
        host,
        _host_of: host_of,
    }
}

pub(super) fn request(member: MemberId, client: u64, share: ShareMode) -> OpenRequest {
    let mut actor = actor(Protocol::Smb, client, "u");
    actor.client = ClientId(u64::from(member.0) << MEMBER_SHIFT | client);
    let mut request = OpenRequest::new(ResourceId::main(DOC), actor, Access::WRITE);
    request.share = share;
    request
}

fn waiting(member: MemberId, client: u64) -> Op {
    let mut request = request(member, client, ShareMode::NONE);
    request.on_conflict = OnConflict::Wait(Some(Duration::from_secs(30)));
    Op::open(request)
}

pub(super) fn done(begun: Result<Begun, NotHere>) -> OpAnswer {
    match begun {
        Ok(Begun::Done(answer)) => answer,
        Ok(Begun::Waiting(_)) => panic!("must not wait"),
        Err(NotHere { .. }) => panic!("must be here"),
    }
}

pub(super) fn waits(begun: Result<Begun, NotHere>) -> Waiting {
    match begun {
        Ok(Begun::Waiting(waiting)) => waiting,
        _ => panic!("must wait"),
    }
}

pub(super) fn opened(begun: Result<Begun, NotHere>) -> Opened {
    done(begun).opened().expect("granted")
}

pub(super) fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Takes a document to another node, as bytes.
fn carry(from: &Node, to: &Node, residence: Residence) {
    let state = from.locks.export(DOC).expect("was here").state;
    let bytes = postcard::to_stdvec(&state).expect("bytes");
    let state: Option<DocumentState> = postcard::from_bytes(&bytes).expect("the same");
    to.locks.admit(DOC, residence, state.into_iter().collect());
}

#[test]
fn only_admitted_documents_are_decided_about() {
    let home = node(HOME);
    let op = Op::open(request(HOME, 1, ShareMode::ALL));
    let ticket = home.locks.ticket(DOC);
    let away = NotHere {
        ticket: Some(ticket),
    };
    assert_eq!(home.locks.begin(&op, Some(ticket)).err(), Some(away));
    assert_eq!(home.locks.residence(DOC), None);
    home.locks.admit(DOC, Residence::Alone(7), Vec::new());
    assert_eq!(home.locks.residence(DOC), Some(Residence::Alone(7)));
    let open = opened(home.locks.begin(&op, Some(ticket))).open;
    assert_eq!(
        open.id,
        OpenId(ticket.0),
        "an open has the number of its ticket"
    );
    let again = opened(home.locks.begin(&op, Some(ticket))).open;
    assert_eq!(again, open, "the same call is answered alike");
    assert!(!home.locks.close_if_idle(DOC));
    assert!(home.locks.export(DOC).is_some_and(|e| e.state.is_some()));
    let io = home.locks.try_io(open, IoKind::Attributes);
    assert_eq!(io, Err(NotHere { ticket: None }));
    assert!(home.locks.export(DOC).is_none());
}

#[test]
fn a_wait_goes_on_in_its_place_where_the_document_went() {
    let (home, other) = (node(HOME), node(OTHER));
    home.locks.admit(DOC, Residence::Alone(1), Vec::new());
    let holder = opened(
        home.locks
            .begin(&Op::open(request(HOME, 1, ShareMode::NONE)), None),
    );
    let op = waiting(HOME, 2);
    let first = waits(home.locks.begin(&op, None));
    let ticket = first.ticket();
    let mut first = pin!(first.answer());
    assert!(poll(first.as_mut()).is_pending());
    home.clock.0.store(10_000, Ordering::Relaxed);
    carry(&home, &other, Residence::Shared);
    let moved = NotHere {
        ticket: Some(ticket),
    };
    match poll(first) {
        Poll::Ready(answer) => assert_eq!(answer.err(), Some(moved)),
        Poll::Pending => panic!("its document left"),
    }
    // Somebody there comes later, and stands behind it.
    let later = waits(other.locks.begin(&waiting(OTHER, 3), None));
    let first = waits(other.locks.begin(&op, Some(ticket)));
    assert_eq!(first.ticket(), ticket);
    let close = Op::Close {
        open: holder.open,
        deleting: false,
    };
    let closed = done(other.locks.begin(&close, None)).closed();
    assert!(closed.last);
    let mut first = pin!(first.answer());
    match poll(first.as_mut()) {
        Poll::Ready(Ok(OpAnswer::Opened(Ok(opened)))) => {
            assert_eq!(opened.open.id, OpenId(ticket.0));
        }
        other => panic!("granted first, not {other:?}"),
    }
    let mut later = pin!(later.answer());
    assert!(poll(later.as_mut()).is_pending());
    // 20 s of its patience were left; the other's are 30 s.
    other.clock.0.store(30_001, Ordering::Relaxed);
    other.locks.tick();
    assert!(poll(later).is_ready());
}

#[test]
fn the_patience_that_was_left_moves_along() {
    let (home, other) = (node(HOME), node(OTHER));
    home.locks.admit(DOC, Residence::Alone(1), Vec::new());
    let held = Op::open(request(HOME, 1, ShareMode::NONE));
    let _ = opened(home.locks.begin(&held, None));
    let op = waiting(HOME, 2);
    let first = waits(home.locks.begin(&op, None));
    home.clock.0.store(10_000, Ordering::Relaxed);
    carry(&home, &other, Residence::Shared);
    let ticket = first.ticket();
    let mut again = pin!(waits(other.locks.begin(&op, Some(ticket))).answer());
    other.clock.0.store(19_999, Ordering::Relaxed);
    other.locks.tick();
    assert!(poll(again.as_mut()).is_pending());
    other.clock.0.store(20_000, Ordering::Relaxed);
    other.locks.tick();
    match poll(again) {
        Poll::Ready(Ok(OpAnswer::Opened(Err(_)))) => {}
        other => panic!("refused at the end of its patience, not {other:?}"),
    }
}

#[test]
fn a_place_whose_caller_never_asks_again_lapses() {
    let (home, other) = (node(HOME), node(OTHER));
    home.locks.admit(DOC, Residence::Alone(1), Vec::new());
    let held = Op::open(request(HOME, 1, ShareMode::NONE));
    let holder = opened(home.locks.begin(&held, None));
    let first = waits(home.locks.begin(&waiting(HOME, 2), None));
    carry(&home, &other, Residence::Shared);
    drop(first);
    let close = Op::Close {
        open: holder.open,
        deleting: false,
    };
    let _ = done(other.locks.begin(&close, None)).closed();
    let later = waits(other.locks.begin(&waiting(OTHER, 3), None));
    other.clock.0.store(5_000, Ordering::Relaxed);
    other.locks.tick();
    assert!(poll(pin!(later.answer())).is_ready());
    assert_eq!(other.locks.holders(DOC), [OTHER]);
}

fn leased(member: MemberId, client: u64, heard: &Node) -> Op {
    let mut request = request(member, client, ShareMode::ALL);
    request.cache = CacheRequest::Lease {
        lease: LeaseId {
            client_guid: [client as u8; 16],
            key: [1; 16],
        },
        want: CacheState::RWH,
        v2: true,
        epoch: 0,
        parent: None,
    };
    request.sink = Some(Arc::new(Heard(Arc::clone(&heard.host), OpenId(0))));
    Op::open(request)
}

#[test]
fn breaks_are_told_by_the_opens_number_and_leases_at_their_clients_node() {
    let (home, other) = (node(HOME), node(OTHER));
    home.locks.admit(DOC, Residence::Alone(1), Vec::new());
    let op = leased(HOME, 1, &home);
    let ticket = home.locks.ticket(DOC);
    let (lease, resource) = op.lease().expect("a lease");
    let used = home.locks.enter_lease(lease, resource, ticket);
    used.expect("free").keep();
    let held = opened(home.locks.begin(&op, Some(ticket)));
    assert_eq!(held.cache.state, CacheState::RWH);
    carry(&home, &other, Residence::Shared);
    let _wait = waits(
        other
            .locks
            .begin(&Op::open(request(OTHER, 2, ShareMode::ALL)), None),
    );
    let told = format!("{} breaks to RH", ticket.0);
    assert_eq!(*other.host.told.lock(), [told]);
    let close = Op::Close {
        open: held.open,
        deleting: false,
    };
    let _ = done(other.locks.begin(&close, None)).closed();
    assert_eq!(*other.host.unused.lock(), [(HOME, ticket)]);
    assert_eq!(home.locks.lease_resource(lease), Some(resource));
    home.locks.leave_lease(lease, ticket);
    assert_eq!(home.locks.lease_resource(lease), None);
}

#[test]
fn what_is_lost_is_told_to_the_own_clients_only() {
    let home = node(HOME);
    home.locks.admit(DOC, Residence::Shared, Vec::new());
    let mine = home.locks.ticket(DOC);
    let _ = opened(home.locks.begin(&leased(HOME, 1, &home), Some(mine)));
    let mut theirs = request(OTHER, 2, ShareMode::ALL);
    (theirs.access, theirs.stat) = (Access::NONE, crate::StatOpen::Attributes);
    let _ = opened(home.locks.begin(&Op::open(theirs), None));
    assert_eq!(home.locks.holders(DOC), [HOME, OTHER]);
    assert!(home.locks.hand_back(DOC, Some(HOME)).is_none());
    home.locks.forget(DOC);
    assert_eq!(
        *home.host.told.lock(),
        [format!("{} gone: NodeLost", mine.0)]
    );
    assert!(home.locks.list(&crate::ListFilter::default()).is_empty());
    assert_eq!(home.locks.residence(DOC), None);
}

#[test]
fn a_dead_nodes_opens_give_way_and_a_frozen_node_grants_nothing() {
    let home = node(HOME);
    home.locks.admit(DOC, Residence::Shared, Vec::new());
    let held = Op::open(request(OTHER, 2, ShareMode::NONE));
    let _ = opened(home.locks.begin(&held, None));
    let wait = waits(home.locks.begin(&waiting(HOME, 1), None));
    home.locks.freeze(true);
    assert!(home.locks.begin(&waiting(HOME, 3), None).is_err());
    assert_eq!(home.locks.residence(DOC), None);
    home.clock.0.store(60_000, Ordering::Relaxed);
    home.locks.tick();
    let mut wait = pin!(wait.answer());
    assert!(poll(wait.as_mut()).is_pending(), "its end is not told");
    home.locks.freeze(false);
    home.clock.0.store(0, Ordering::Relaxed);
    home.locks.drop_member(OTHER);
    match poll(wait) {
        Poll::Ready(Ok(OpAnswer::Opened(Ok(_)))) => {}
        other => panic!("granted, not {other:?}"),
    }
    assert_eq!(home.locks.holders(DOC), [HOME]);
}

#[test]
fn a_turn_that_comes_while_the_node_is_frozen_is_told_afterwards() {
    let home = node(HOME);
    home.locks.admit(DOC, Residence::Alone(1), Vec::new());
    let reader = |client, share| {
        let mut request = request(HOME, client, share);
        request.access = Access::READ;
        request.on_conflict = OnConflict::Wait(None);
        Op::open(request)
    };
    let mut held = request(HOME, 1, ShareMode::ALL);
    held.access = Access::READ;
    let _ = opened(home.locks.begin(&Op::open(held), None));
    let first = waits(home.locks.begin(&waiting(HOME, 2), None));
    let second = waits(home.locks.begin(&reader(3, ShareMode::ALL), None));
    let mut second = pin!(second.answer());
    home.locks.freeze(true);
    drop(first);
    assert!(poll(second.as_mut()).is_pending());
    home.locks.freeze(false);
    assert!(poll(second).is_ready());
}

#[test]
fn a_node_that_is_lost_while_frozen_ends_its_waits_without_a_grant() {
    let home = node(HOME);
    home.locks.admit(DOC, Residence::Alone(1), Vec::new());
    let held = Op::open(request(HOME, 1, ShareMode::NONE));
    let _ = opened(home.locks.begin(&held, None));
    let wait = waits(home.locks.begin(&waiting(HOME, 2), None));
    home.locks.freeze(true);
    home.locks.drop_member(HOME);
    home.locks.stop();
    match poll(pin!(wait.answer())) {
        Poll::Ready(Ok(answer)) => assert_eq!(answer.opened(), Err(crate::Denial::Stopping)),
        other => panic!("ended, not {other:?}"),
    }
}

#[test]
fn an_open_granted_to_nobody_is_given_back_wherever_it_is() {
    let (home, other) = (node(HOME), node(OTHER));
    home.locks.admit(DOC, Residence::Alone(1), Vec::new());
    let held = Op::open(request(HOME, 1, ShareMode::NONE));
    let holder = opened(home.locks.begin(&held, None));
    let wait = waits(home.locks.begin(&waiting(HOME, 2), None));
    let ticket = wait.ticket();
    let close = Op::Close {
        open: holder.open,
        deleting: false,
    };
    let _ = done(home.locks.begin(&close, None)).closed();
    carry(&home, &other, Residence::Shared);
    drop(wait);
    assert_eq!(*home.host.abandoned.lock(), [OpenId(ticket.0)]);
}

#[test]
fn tokens_that_nobody_uses_are_found_and_parts_are_by_node() {
    let home = node(HOME);
    home.locks.admit(DOC, Residence::Shared, Vec::new());
    home.locks.admit(DOC + 1, Residence::Alone(1), Vec::new());
    let _ = opened(
        home.locks
            .begin(&Op::open(request(OTHER, 2, ShareMode::ALL)), None),
    );
    home.clock.0.store(10_000, Ordering::Relaxed);
    let unused = home.locks.idle_documents(Duration::from_secs(10), 10);
    assert_eq!(unused, [DOC + 1]);
    assert!(home.locks.close_if_idle(DOC + 1));
    let (first, mine) = home.locks.part_of(DOC, HOME, None).expect("here");
    assert!(mine.is_none());
    let (second, theirs) = home.locks.part_of(DOC, OTHER, None).expect("here");
    assert!(second > first && theirs.is_some());
    let relinquished = home.locks.relinquish(DOC).expect("was here");
    assert!(relinquished.state.is_none());
    assert!(home.locks.part_of(DOC, OTHER, None).is_none());
}
