//! Properties of caches under random opens, writes, answers, disconnects and time.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{actor, options};
use crate::cache_grant::{
    BreakNotice, CacheRequest, CacheSink, CacheState, GrantKey, LeaseId, OplockLevel, RevokeReason,
};
use crate::caches::Who;
use crate::document::Document;
use crate::env::Effect;
use crate::obstacle::{Ask, Granted};
use crate::outcome::Closed;
use crate::range::ByteRange;
use crate::request::{IoKind, IoRequest, OnConflict, OpenRequest, StatOpen};
use crate::table::{Answer, LockTable};
use crate::types::{Access, Now, OpenId, OpenRef, Protocol, ResourceId, ShareMode, WaiterId};

const DOC: ResourceId = ResourceId::main(7);

struct Deaf;

impl CacheSink for Deaf {
    fn on_break(&self, _: &BreakNotice) {}
    fn on_revoked(&self, _: OpenRef, _: RevokeReason, _: Closed) {}
    fn on_cache_revoked(&self, _: ResourceId, _: GrantKey, _: RevokeReason) {}
}

#[derive(Clone, Debug)]
enum Op {
    Open {
        client: u8,
        cache: u8,
        access: u8,
        share: u8,
        overwrite: bool,
        stat: bool,
    },
    Close(usize),
    Write(usize),
    PlainWrite,
    PlainRead,
    Answer(usize, u32),
    Disconnect(usize),
    Reclaim(usize),
    Cancel(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let open = (
        0..3u8,
        0..9u8,
        0..8u8,
        prop_oneof![3 => Just(7u8), 1 => 0..8u8],
        any::<bool>(),
        0..6u8,
    )
        .prop_map(|(client, cache, access, share, overwrite, rare)| Op::Open {
            client,
            cache,
            access,
            share,
            overwrite: overwrite && rare == 0,
            stat: rare == 1,
        });
    prop_oneof![
        4 => open,
        2 => (0..6usize).prop_map(Op::Close),
        1 => (0..6usize).prop_map(Op::Write),
        1 => Just(Op::PlainWrite),
        1 => Just(Op::PlainRead),
        3 => (0..6usize, 0..8u32).prop_map(|(n, bits)| Op::Answer(n, bits)),
        1 => (0..6usize).prop_map(Op::Disconnect),
        1 => (0..6usize).prop_map(Op::Reclaim),
        1 => (0..6usize).prop_map(Op::Cancel),
        1 => (0..20_000u64).prop_map(Op::Pass),
    ]
}

fn cache(client: u8, number: u8) -> CacheRequest {
    let lease = |want| CacheRequest::Lease {
        lease: LeaseId {
            client_guid: [client; 16],
            key: [number % 2; 16],
        },
        want,
        v2: true,
        epoch: 0,
        parent: None,
    };
    match number {
        1 => CacheRequest::Oplock(OplockLevel::II),
        2 => CacheRequest::Oplock(OplockLevel::Exclusive),
        3 => CacheRequest::Oplock(OplockLevel::Batch),
        4 => lease(CacheState::R),
        5 => lease(CacheState::RH),
        6 => lease(CacheState::RW),
        7 => lease(CacheState::RWH),
        _ => CacheRequest::None,
    }
}

#[derive(Default)]
struct World {
    now: Now,
    opens: Vec<(u8, OpenRef)>,
    waiting: Vec<(WaiterId, Asked)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Open { client: u8, overwrite: bool },
    Change(Option<OpenId>),
    Read,
}

impl World {
    fn ask(&mut self, table: &mut LockTable, asked: Asked, ask: Ask<'_>) {
        match table.request(self.now, ask, None) {
            Answer::Wait(waiter) => self.waiting.push((waiter, asked)),
            Answer::Now(Ok(granted)) => self.granted(table, asked, granted),
            Answer::Now(Err(_)) => {}
        }
    }

    fn granted(&mut self, table: &LockTable, asked: Asked, granted: Granted) {
        match (asked, granted) {
            (Asked::Open { client, overwrite }, Granted::Opened(opened)) => {
                self.opens.push((client, opened.open));
                if overwrite {
                    nobody_else_caches(table, Some(opened.open.id));
                }
            }
            (Asked::Change(open), _) => nobody_else_caches(table, open),
            _ => {}
        }
    }

    fn run(&mut self, table: &mut LockTable, op: &Op) {
        match *op {
            Op::Open {
                client,
                cache: number,
                access,
                share,
                overwrite,
                stat,
            } => {
                let who = actor(Protocol::Smb, u64::from(client) + 1, "u");
                let mut request = OpenRequest::new(DOC, who, Access::from_bits(access));
                request.share = ShareMode::sharing(Access::from_bits(share));
                request.overwrite = overwrite;
                if stat {
                    request.access = Access::NONE;
                    request.stat = StatOpen::Attributes;
                }
                request.cache = cache(client, number);
                request.sink = Some(Arc::new(Deaf));
                self.ask(
                    table,
                    Asked::Open { client, overwrite },
                    Ask::Open(&request),
                );
            }
            Op::Close(n) if n < self.opens.len() => {
                let (_, open) = self.opens.remove(n);
                let _ = table.close(self.now, open, false);
            }
            Op::Write(n) if n < self.opens.len() => {
                let open = self.opens[n].1;
                let kind = IoKind::Write(ByteRange::clamped(0, 1));
                self.ask(
                    table,
                    Asked::Change(Some(open.id)),
                    Ask::OpenIo { open, kind },
                );
            }
            Op::PlainWrite => self.plain(
                table,
                IoKind::Write(ByteRange::clamped(0, 1)),
                Asked::Change(None),
            ),
            Op::PlainRead => self.plain(table, IoKind::Read(ByteRange::clamped(0, 1)), Asked::Read),
            Op::Answer(n, bits) if n < self.opens.len() => {
                let open = self.opens[n].1;
                if let Some(key) = table.state(open).and_then(|s| s.grant) {
                    let _ = table.acknowledge(self.now, DOC, key, CacheState::from_bits(bits));
                }
            }
            Op::Disconnect(n) if n < self.opens.len() => {
                let _ = table.disconnect(self.now, self.opens[n].1, Duration::from_secs(60));
            }
            Op::Reclaim(n) if n < self.opens.len() => {
                let (client, open) = self.opens[n];
                let who = actor(Protocol::Smb, u64::from(client) + 1, "u");
                let _ = table.reclaim(self.now, open, who, Some(Arc::new(Deaf)));
            }
            Op::Cancel(n) if n < self.waiting.len() => {
                let (waiter, _) = self.waiting.remove(n);
                assert!(table.cancel(self.now, DOC.document, waiter, false));
            }
            Op::Pass(ms) => {
                self.now = self.now.after(Duration::from_millis(ms));
                table.tick(self.now);
                assert!(table.next_deadline() > self.now);
            }
            _ => {}
        }
        for effect in table.take_effects() {
            match effect {
                Effect::Answer { waiter, outcome } => {
                    let at = self
                        .waiting
                        .iter()
                        .position(|(w, _)| *w == waiter)
                        .expect("answered once");
                    let (_, asked) = self.waiting.remove(at);
                    if let (Ok(Granted::Opened(opened)), Asked::Open { client, .. }) =
                        (outcome, asked)
                    {
                        self.opens.push((client, opened.open));
                    }
                }
                Effect::Revoked { open, .. } => self.opens.retain(|(_, o)| o.id != open.id),
                _ => {}
            }
        }
        if let Some(d) = table.document(DOC.document) {
            sole_right_is_sole(d);
            every_break_has_a_timer(d, table);
            d.opens.check();
            d.grants.check();
            grants_count_their_opens(d);
        }
    }

    fn plain(&mut self, table: &mut LockTable, kind: IoKind, asked: Asked) {
        let request = IoRequest {
            resource: DOC,
            actor: actor(Protocol::Nfs3, 9, "n"),
            kind,
            place: None,
            on_conflict: OnConflict::Wait(Some(Duration::from_secs(5))),
            nfs_ranges_mandatory: false,
        };
        self.ask(table, asked, Ask::Io(&request));
    }
}

/// After a change was let through, no other client holds a cache of the older state that it has not been told to drop.
fn nobody_else_caches(table: &LockTable, open: Option<OpenId>) {
    let Some(d) = table.document(DOC.document) else {
        return;
    };
    let lease = open.and_then(|id| d.opens.get(id)).and_then(|o| o.grant);
    let client = crate::types::ClientId(0);
    let who = Who {
        open,
        lease,
        client,
        protocol: Protocol::Smb,
        opening: None,
    };
    for grant in d.grants.iter().filter(|g| !who.owns(g.key)) {
        let told = grant.breaking.is_some_and(|b| b.then.is_empty());
        assert!(
            grant.state.is_empty() || told,
            "{:?} keeps {}",
            grant.key,
            grant.state
        );
        assert!(
            open.is_some() || grant.state.is_empty(),
            "through other doors nobody may still read the older state"
        );
    }
}

/// Who may cache writes is alone, or has been told to give the cache back.
fn sole_right_is_sole(d: &Document) {
    for grant in d
        .grants
        .iter()
        .filter(|g| g.state.has(CacheState::W) && g.breaking.is_none())
    {
        let others = d
            .opens
            .iter()
            .filter(|o| o.weighty && o.grant != Some(grant.key))
            .count();
        assert_eq!(
            others, 0,
            "{:?} caches writes beside other opens",
            grant.key
        );
    }
}

fn every_break_has_a_timer(d: &Document, table: &LockTable) {
    for breaking in d.grants.iter().filter_map(|g| g.breaking) {
        assert!(table.next_deadline() <= breaking.deadline);
    }
}

fn grants_count_their_opens(d: &Document) {
    for grant in d.grants.iter() {
        let mine = || {
            d.opens
                .iter()
                .filter(|o| o.grant == Some(grant.key) && o.stream == grant.stream)
        };
        assert_eq!(grant.opens as usize, mine().count());
        assert_eq!(grant.weighty as usize, mine().filter(|o| o.weighty).count());
        assert_eq!(
            grant.connected as usize,
            mine().filter(|o| !o.disconnected).count()
        );
        assert!(
            grant.connected > 0 || grant.breaking.is_none(),
            "nobody is there to answer"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn caches_stay_coherent_and_breaks_end(ops in prop::collection::vec(op(), 1..50)) {
        let mut table = LockTable::new(options(), 1, 1);
        let mut world = World::default();
        for op in &ops {
            world.run(&mut table, op);
        }
        for _ in 0..ops.len() + 2 {
            while !world.opens.is_empty() {
                world.run(&mut table, &Op::Close(0));
            }
            world.run(&mut table, &Op::Pass(36_000));
        }
        prop_assert!(world.waiting.is_empty());
        prop_assert!(table.document(DOC.document).is_none());
    }
}
