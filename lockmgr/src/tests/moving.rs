//! A document that moves to another table, through bytes, goes on there as if nothing had happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::{actor, options};
use crate::document_state::DocumentState;
use crate::env::Effect;
use crate::epoch::MemberId;
use crate::listing;
use crate::obstacle::{Ask, Granted, KeptAsk};
use crate::table::{Answer, LockTable};
use crate::types::WaiterId;
use crate::{
    Access, Actor, BreakNotice, ByteRange, CacheRequest, CacheSink, CacheState, ClientId, Closed,
    Entry, GrantKey, IoKind, IoRequest, LeaseId, MEMBER_SHIFT, Now, OnConflict, OpenRef,
    OpenRequest, OplockLevel, OwnedRangeRequest, PlaceRequest, Protocol, RangeLock, RangeOwner,
    RangeRequest, ResourceId, RevokeReason, ShareMode, Ticket,
};

const DOC: u64 = 7;
const MEMBERS: u64 = 3;

/// What sinks were told, and by whom they are known.
type Told = Arc<Mutex<Vec<String>>>;

struct Sink(Ticket, Told);

impl Sink {
    fn note(&self, what: String) {
        self.1.lock().push(format!("{}: {what}", self.0.0));
    }
}

impl CacheSink for Sink {
    fn on_break(&self, notice: &BreakNotice) {
        self.note(format!("{notice:?}"));
    }
    fn on_revoked(&self, open: OpenRef, reason: RevokeReason, closed: Closed) {
        self.note(format!("{open:?} {reason:?} {closed:?}"));
    }
    fn on_cache_revoked(&self, _: ResourceId, grant: GrantKey, reason: RevokeReason) {
        self.note(format!("{grant:?} {reason:?}"));
    }
}

fn client(number: usize) -> Actor {
    let protocol = [
        Protocol::Smb,
        Protocol::Smb,
        Protocol::Smb,
        Protocol::Nfs3,
        Protocol::Nfs3,
        Protocol::Ftp,
    ][number % 6];
    let number = number as u64 % 6;
    let mut actor = actor(protocol, number + 1, "u");
    actor.client = ClientId((number % MEMBERS + 1) << MEMBER_SHIFT | number);
    actor
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        client: usize,
        stream: u32,
        access: u8,
        share: u8,
        cache: u8,
        wait_ms: Option<u64>,
    },
    Close(usize, bool),
    DeletePending(usize),
    Lock(usize, u64, bool, bool),
    Write(usize),
    NfsWrite(usize, bool),
    NfsLock(usize, u8, u64, bool),
    NfsUnlock(usize, u8),
    Acknowledge(usize),
    Disconnect(usize, u64),
    Reclaim(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let open = (
        0..6usize,
        0..3u32,
        0..8u8,
        0..8u8,
        0..8u8,
        prop::option::of(0..20_000u64),
    );
    prop_oneof![
        4 => open.prop_map(|(client, stream, access, share, cache, wait_ms)| Step::Open {
            client,
            stream: stream.saturating_sub(1),
            access,
            share,
            cache,
            wait_ms
        }),
        2 => (0..8usize, any::<bool>()).prop_map(|(n, delete)| Step::Close(n, delete)),
        1 => (0..8usize).prop_map(Step::DeletePending),
        2 => (0..8usize, 0..6u64, any::<bool>(), any::<bool>())
            .prop_map(|(n, at, exclusive, waits)| Step::Lock(n, at, exclusive, waits)),
        1 => (0..8usize).prop_map(Step::Write),
        2 => (3..5usize, any::<bool>()).prop_map(|(c, polls)| Step::NfsWrite(c, polls)),
        2 => (3..5usize, 0..3u8, 0..6u64, any::<bool>())
            .prop_map(|(c, owner, at, exclusive)| Step::NfsLock(c, owner, at, exclusive)),
        1 => (3..5usize, 0..3u8).prop_map(|(c, owner)| Step::NfsUnlock(c, owner)),
        2 => (0..4usize).prop_map(Step::Acknowledge),
        1 => (0..8usize, 0..30_000u64).prop_map(|(n, keep)| Step::Disconnect(n, keep)),
        1 => (0..8usize).prop_map(Step::Reclaim),
        2 => (0..9_000u64).prop_map(Step::Pass),
    ]
}

/// One table with its clients.
struct World {
    table: LockTable,
    now: Now,
    opens: Vec<OpenRef>,
    waiting: BTreeMap<WaiterId, KeptAsk>,
    told: Told,
    log: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self {
            table: LockTable::new(options(), 1, 1),
            now: Now(1000),
            opens: Vec::new(),
            waiting: BTreeMap::new(),
            told: Told::default(),
            log: Vec::new(),
        }
    }

    fn sink(&self, ticket: Ticket) -> Arc<dyn CacheSink> {
        Arc::new(Sink(ticket, Arc::clone(&self.told)))
    }

    fn ask(&mut self, ask: Ask<'_>, ticket: Option<Ticket>) {
        match self.table.request(self.now, ask, ticket) {
            Answer::Now(result) => self.answered(result),
            Answer::Wait(id) => {
                self.log.push(format!("waits {id:?}"));
                self.waiting.insert(id, ask.keep());
            }
        }
    }

    fn answered(&mut self, result: Result<Granted, crate::Denial>) {
        self.log.push(format!("{result:?}"));
        if let Ok(Granted::Opened(opened)) = result {
            self.opens.push(opened.open);
        }
    }

    fn effects(&mut self) {
        for effect in self.table.take_effects() {
            match effect {
                Effect::Answer { waiter, outcome } => {
                    assert!(self.waiting.remove(&waiter).is_some(), "answered once");
                    self.answered(outcome);
                }
                Effect::Break { sink, notice } => sink.on_break(&notice),
                Effect::Revoked {
                    sink,
                    open,
                    reason,
                    closed,
                } => sink.on_revoked(open, reason, closed),
                Effect::CacheRevoked {
                    sink,
                    resource,
                    grant,
                    reason,
                } => sink.on_cache_revoked(resource, grant, reason),
                Effect::LeaseUnused { .. } => {}
            }
        }
    }

    fn open(&self, n: usize) -> Option<OpenRef> {
        self.opens.get(n % self.opens.len().max(1)).copied()
    }

    fn run(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Open { .. } => self.run_open(step),
            Step::Lock(..) | Step::NfsWrite(..) | Step::NfsLock(..) => self.run_request(step),
            Step::Pass(ms) => {
                let end = now.after(Duration::from_millis(ms));
                // One moment after the other, as a timer task does.
                while self.now < end {
                    self.now = self.table.next_deadline().clamp(self.now, end);
                    self.table.tick(self.now);
                }
            }
            Step::NfsUnlock(c, owner) => {
                let (resource, owner) = (ResourceId::main(DOC), RangeOwner(u128::from(owner)));
                let client = client(c).client;
                let all = ByteRange::clamped(2, 3);
                self.table
                    .unlock_owned(now, resource, client, Some(owner), all);
            }
            Step::Acknowledge(n) => {
                let document = self.table.document(DOC);
                let grants = document.into_iter().flat_map(|d| d.grants.iter());
                let mut breaking: Vec<_> = grants
                    .filter_map(|g| g.breaking.map(|b| (g.stream, g.key, b.to)))
                    .collect();
                breaking.sort_unstable();
                if let Some((stream, key, to)) = breaking.get(n % breaking.len().max(1)).copied() {
                    let resource = ResourceId {
                        document: DOC,
                        stream,
                    };
                    let kept = self.table.acknowledge(now, resource, key, to);
                    self.log.push(format!("{kept:?}"));
                }
            }
            Step::Close(n, _)
            | Step::DeletePending(n)
            | Step::Write(n)
            | Step::Disconnect(n, _)
            | Step::Reclaim(n) => {
                if let Some(open) = self.open(n) {
                    self.run_on_open(step, open);
                }
            }
        }
        self.effects();
    }

    fn run_on_open(&mut self, step: &Step, open: OpenRef) {
        let now = self.now;
        match *step {
            Step::Close(_, delete) => {
                self.opens.retain(|o| *o != open);
                let closed = self.table.close(now, open, delete);
                self.log.push(format!("{closed:?}"));
                if let Some(stream) = closed.delete_stream {
                    let resource = ResourceId {
                        document: DOC,
                        stream,
                    };
                    self.table.deleted(now, resource);
                }
                if closed.delete_document {
                    self.table.deleted(now, ResourceId::main(DOC));
                }
            }
            Step::DeletePending(_) => {
                let marked = self.table.set_delete_pending(now, open, true);
                self.log.push(format!("{marked:?}"));
            }
            Step::Write(_) => {
                let kind = IoKind::Write(ByteRange::clamped(2, 2));
                self.ask(Ask::OpenIo { open, kind }, None);
            }
            Step::Disconnect(_, keep) => {
                let keep = Duration::from_millis(keep);
                let kept = self.table.disconnect(now, open, keep);
                self.log.push(format!("{kept:?}"));
            }
            Step::Reclaim(n) => {
                let sink = self.sink(Ticket(open.id.0));
                let back = self.table.reclaim(now, open, client(n % 3), Some(sink));
                self.log.push(format!("{back:?}"));
            }
            _ => {}
        }
    }

    fn run_open(&mut self, step: &Step) {
        let Step::Open {
            client: c,
            stream,
            access,
            share,
            cache,
            wait_ms,
        } = *step
        else {
            return;
        };
        let resource = ResourceId {
            document: DOC,
            stream,
        };
        let ticket = self.table.fresh_ticket();
        let mut request = OpenRequest::new(resource, client(c), Access::from_bits(access));
        request.share = ShareMode::sharing(Access::from_bits(share));
        request.touches_ranges = c == 5;
        request.on_conflict = wait_ms.map_or(OnConflict::Reject, |ms| {
            OnConflict::Wait(Some(Duration::from_millis(ms)))
        });
        if c < 3 && cache > 1 {
            let lease = LeaseId {
                client_guid: [c as u8; 16],
                key: [stream as u8; 16],
            };
            request.sink = Some(self.sink(ticket));
            request.cache = match cache {
                2 => CacheRequest::Oplock(OplockLevel::II),
                3 => CacheRequest::Oplock(OplockLevel::Batch),
                4 => CacheRequest::Oplock(OplockLevel::Exclusive),
                wants => CacheRequest::Lease {
                    lease,
                    want: [CacheState::R, CacheState::RH, CacheState::RWH][wants as usize - 5],
                    v2: c != 1,
                    epoch: 5,
                    parent: None,
                },
            };
        }
        self.ask(Ask::Open(&request), Some(ticket));
    }

    fn run_request(&mut self, step: &Step) {
        match *step {
            Step::Lock(n, at, exclusive, waits) => {
                let Some(open) = self.open(n) else { return };
                let lock = RangeLock {
                    range: ByteRange::clamped(at, 3),
                    exclusive,
                };
                let request = RangeRequest {
                    open,
                    locks: vec![lock],
                    on_conflict: if waits {
                        OnConflict::Wait(None)
                    } else {
                        OnConflict::Reject
                    },
                };
                self.ask(Ask::Ranges(&request), None);
            }
            Step::NfsWrite(c, polls) => {
                let patience = Duration::from_secs(12);
                let request = IoRequest {
                    resource: ResourceId::main(DOC),
                    actor: client(c),
                    kind: IoKind::Write(ByteRange::clamped(1, 2)),
                    place: Some(PlaceRequest {
                        idle: Duration::from_secs(2),
                    }),
                    on_conflict: if polls {
                        OnConflict::Poll(patience)
                    } else {
                        OnConflict::Wait(Some(patience))
                    },
                    nfs_ranges_mandatory: false,
                };
                self.ask(Ask::Io(&request), None);
            }
            Step::NfsLock(c, owner, at, exclusive) => {
                let request = OwnedRangeRequest {
                    resource: ResourceId::main(DOC),
                    actor: client(c),
                    owner: RangeOwner(u128::from(owner)),
                    lock: RangeLock {
                        range: ByteRange::clamped(at, 3),
                        exclusive,
                    },
                    on_conflict: OnConflict::Wait(None),
                    reclaim: false,
                };
                self.ask(Ask::OwnedRange(&request), None);
            }
            _ => {}
        }
    }

    /// Without what stood in waiters' way when they were last looked at, as a move looks at them again.
    fn entries(&self) -> Vec<Entry> {
        let document = self.table.document(DOC);
        let mut entries = document.map_or_else(Vec::new, |d| listing::entries(d, self.now, None));
        for entry in &mut entries {
            if entry.waits_for.take().is_some() {
                entry.freed_by.clear();
            }
        }
        entries
    }

    /// Looks at all waiters once more. Nobody is granted by that: it would have been at once.
    fn look(&mut self) {
        self.run(&Step::Pass(0));
        let before = self.log.len();
        self.table.look_again(self.now, DOC);
        self.effects();
        let missed = self.log[before..].iter().filter(|l| l.starts_with("Ok"));
        let missed: Vec<_> = missed.collect();
        assert!(missed.is_empty(), "nobody woke this waiter: {missed:?}");
    }

    /// Moves the document into a fresh table with another clock, in these parts; those who wait ask again.
    fn moves(&mut self, parts: &[&dyn Fn(ClientId) -> bool], later: u64) {
        let first = self.table.fresh_ticket().0 + 1;
        let old = std::mem::replace(&mut self.table, LockTable::new(options(), first, 1));
        let (then, told) = (self.now, Arc::clone(&self.told));
        self.now = Now(then.0 + later);
        self.table.tick(self.now);
        for keep in parts {
            let document = old.document(DOC);
            let state = document.and_then(|d| DocumentState::of(d, then, keep));
            let bytes = postcard::to_stdvec(&state).expect("bytes");
            let state: Option<DocumentState> = postcard::from_bytes(&bytes).expect("the same");
            let sinks = |open: OpenRef| -> Option<Arc<dyn CacheSink>> {
                Some(Arc::new(Sink(Ticket(open.id.0), Arc::clone(&told))))
            };
            if let Some(state) = state {
                self.table.merge(self.now, state, &sinks);
            }
        }
        let document = self.table.document(DOC);
        let line: Vec<WaiterId> = document
            .into_iter()
            .flat_map(|d| d.queue.iter().map(|w| w.id))
            .collect();
        for id in line {
            let Some(kept) = self.waiting.remove(&id) else {
                continue;
            };
            match self
                .table
                .request(self.now, kept.as_ask(), Some(Ticket(id.0)))
            {
                Answer::Wait(again) if again == id => self.waiting.insert(id, kept),
                other => panic!("{id:?} waits on in its old place, not: {other:?}"),
            };
        }
        self.effects();
        assert!(self.told.lock().is_empty() || !parts.is_empty());
    }

    /// As long-lived as the words are, they name opens, not moments.
    fn outline(&self) -> Vec<String> {
        let words = |e: &Entry| {
            let id = e.id;
            format!(
                "{:?} {id} {:?} {:?} {:?} {} {:?} {:?} {} {} {:?}",
                e.kind,
                e.resource,
                (e.access, e.denies),
                e.range,
                e.exclusive,
                e.cache,
                e.breaking_to,
                e.disconnected,
                e.delete_pending,
                e.ends_in_ms
            )
        };
        let mut outline: Vec<_> = self.entries().iter().map(words).collect();
        outline.sort();
        outline
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_document_that_moves_as_a_whole_goes_on_as_before(
        steps in prop::collection::vec(step(), 1..50),
        at in 0..50usize,
        later in 0..100_000u64,
    ) {
        let (mut stays, mut moves) = (World::new(), World::new());
        for (n, step) in steps.iter().enumerate() {
            if n == at % steps.len() {
                stays.look();
                moves.look();
                let _ = stays.table.fresh_ticket();
                moves.moves(&[&|_| true], later);
            }
            stays.run(step);
            moves.run(step);
            let same = stays.log.iter().zip(&moves.log).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(&stays.log[same..], &moves.log[same..], "after {:?}", step);
            prop_assert_eq!(&*stays.told.lock(), &*moves.told.lock(), "after {:?}", step);
            prop_assert_eq!(stays.entries(), moves.entries(), "after {:?}", step);
        }
    }

    #[test]
    fn the_parts_of_all_nodes_together_are_the_document(
        steps in prop::collection::vec(step(), 1..50),
        first in 0..MEMBERS,
        later in 0..100_000u64,
    ) {
        let (mut stays, mut moves) = (World::new(), World::new());
        for step in &steps {
            stays.run(step);
            moves.run(step);
        }
        stays.look();
        moves.look();
        let of = |n: u64| move |c: ClientId| u64::from(c.member().0) == (first + n) % MEMBERS + 1;
        moves.moves(&[&of(0), &of(1), &of(2)], later);
        prop_assert_eq!(stays.outline(), moves.outline());
        if let Some(d) = moves.table.document(DOC) {
            d.opens.check();
            d.grants.check();
        }
    }

    #[test]
    fn a_node_that_is_gone_leaves_nothing_and_nobody_waits_for_it(
        steps in prop::collection::vec(step(), 1..50),
        member in 1..=MEMBERS,
    ) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        let gone = MemberId(u32::try_from(member).unwrap_or(0));
        world.table.drop_member(world.now, DOC, gone);
        if let Some(d) = world.table.document(DOC) {
            d.opens.check();
            d.grants.check();
            prop_assert!(d.opens.iter().all(|o| o.claim.client.member() != gone));
            prop_assert!(d.told.iter().all(|(_, c)| c.member() != gone));
            let of = |c: ClientId| c.member() == gone;
            prop_assert!(DocumentState::of(d, world.now, &of).is_none());
        }
        for other in (1..=MEMBERS).filter(|m| *m != member) {
            world.table.drop_member(world.now, DOC, MemberId(u32::try_from(other).unwrap_or(0)));
        }
        prop_assert!(world.table.document(DOC).is_none(), "nothing is left when all are gone");
    }
}
