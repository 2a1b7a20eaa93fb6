//! Property tests against a naive model: every open in a list, every byte with its locks, nothing clever.

use proptest::prelude::*;

use super::{actor, options};
use crate::env::Effect;
use crate::obstacle::{Ask, Granted};
use crate::outcome::Denial;
use crate::range::ByteRange;
use crate::request::{
    IoKind, IoRequest, OnConflict, OpenRequest, OwnedRangeRequest, PlaceRequest, RangeLock,
    RangeOwner, RangeRequest,
};
use crate::table::{Answer, LockTable};
use crate::types::{Access, Actor, Now, OpenRef, Protocol, ResourceId, ShareMode};
use std::time::Duration;

const DOC: ResourceId = ResourceId::main(7);
const BYTES: u64 = 12;

fn client(number: usize) -> Actor {
    let protocol = [
        Protocol::Smb,
        Protocol::Smb,
        Protocol::Nfs3,
        Protocol::Nfs3,
        Protocol::Ftp,
    ][number % 5];
    actor(protocol, number as u64 % 5 + 1, "u")
}

#[derive(Clone, Debug)]
enum Op {
    Open {
        client: usize,
        access: u8,
        share: u8,
    },
    Close(usize),
    Lock {
        open: usize,
        offset: u64,
        length: u64,
        exclusive: bool,
    },
    Unlock {
        open: usize,
        offset: u64,
        length: u64,
    },
    OpenIo {
        open: usize,
        offset: u64,
        length: u64,
        write: bool,
    },
    PlainIo {
        client: usize,
        offset: u64,
        length: u64,
        write: bool,
    },
    NfsLock {
        client: usize,
        owner: u8,
        offset: u64,
        length: u64,
        exclusive: bool,
    },
    NfsUnlock {
        client: usize,
        owner: u8,
        offset: u64,
        length: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let span = (0..BYTES, 1..BYTES);
    prop_oneof![
        (0..5usize, 0..8u8, 0..8u8).prop_map(|(client, access, share)| Op::Open {
            client,
            access,
            share
        }),
        (0..8usize).prop_map(Op::Close),
        (0..8usize, span.clone(), any::<bool>()).prop_map(|(open, (offset, length), exclusive)| {
            Op::Lock {
                open,
                offset,
                length,
                exclusive,
            }
        }),
        (0..8usize, span.clone()).prop_map(|(open, (offset, length))| Op::Unlock {
            open,
            offset,
            length
        }),
        (0..8usize, span.clone(), any::<bool>()).prop_map(|(open, (offset, length), write)| {
            Op::OpenIo {
                open,
                offset,
                length,
                write,
            }
        }),
        (2..4usize, span.clone(), any::<bool>()).prop_map(|(client, (offset, length), write)| {
            Op::PlainIo {
                client,
                offset,
                length,
                write,
            }
        }),
        (2..4usize, 0..2u8, span.clone(), any::<bool>()).prop_map(
            |(client, owner, (offset, length), exclusive)| {
                Op::NfsLock {
                    client,
                    owner,
                    offset,
                    length,
                    exclusive,
                }
            }
        ),
        (2..4usize, 0..2u8, span).prop_map(|(client, owner, (offset, length))| Op::NfsUnlock {
            client,
            owner,
            offset,
            length
        }),
    ]
}

struct ModelOpen {
    open: OpenRef,
    client: usize,
    access: u8,
    denies: u8,
    /// SMB ranges: first, last, exclusive.
    ranges: Vec<(u64, u64, bool)>,
}

/// An NFS owner's locks, byte by byte.
struct ModelOwner {
    client: usize,
    owner: u8,
    bytes: [Option<bool>; 2 * BYTES as usize],
}

impl ModelOwner {
    fn access(&self) -> u8 {
        self.bytes.iter().flatten().fold(0, |access, exclusive| {
            access | if *exclusive { 2 } else { 1 }
        })
    }
}

#[derive(Default)]
struct Model {
    opens: Vec<ModelOpen>,
    owners: Vec<ModelOwner>,
}

fn is_nfs(client: usize) -> bool {
    client == 2 || client == 3
}

impl Model {
    fn may_open(&self, client: usize, access: u8, denies: u8) -> bool {
        let opens = self
            .opens
            .iter()
            .all(|o| o.denies & access == 0 && denies & o.access == 0);
        opens
            && self
                .owners
                .iter()
                .all(|o| o.client == client || denies & o.access() == 0)
    }

    fn may_lock(
        &self,
        own: Option<usize>,
        owner: Option<(usize, u8)>,
        span: (u64, u64),
        exclusive: bool,
    ) -> bool {
        let smb = self.opens.iter().enumerate().all(|(at, o)| {
            o.ranges
                .iter()
                .filter(|r| r.0 <= span.1 && span.0 <= r.1)
                .all(|r| {
                    if own == Some(at) {
                        !exclusive
                    } else {
                        !exclusive && !r.2
                    }
                })
        });
        smb && self
            .owners
            .iter()
            .filter(|o| owner != Some((o.client, o.owner)))
            .all(|o| {
                (span.0..=span.1)
                    .all(|b| o.bytes[b as usize].is_none_or(|held| !held && !exclusive))
            })
    }

    fn may_touch(&self, own: Option<usize>, client: usize, span: (u64, u64), write: bool) -> bool {
        let smb = self.opens.iter().enumerate().all(|(at, o)| {
            o.ranges
                .iter()
                .filter(|r| r.0 <= span.1 && span.0 <= r.1)
                .all(|r| {
                    if own == Some(at) {
                        r.2 || !write
                    } else {
                        !r.2 && !write
                    }
                })
        });
        smb && (is_nfs(client)
            || self.owners.iter().all(|o| {
                (span.0..=span.1).all(|b| o.bytes[b as usize].is_none_or(|held| !held && !write))
            }))
    }
}

fn granted(answer: Answer) -> bool {
    match answer {
        Answer::Now(Ok(_)) => true,
        Answer::Now(Err(Denial::Conflict(_))) => false,
        other => panic!("{other:?}"),
    }
}

fn span(offset: u64, length: u64) -> (ByteRange, (u64, u64)) {
    (
        ByteRange::new(offset, length).expect("small"),
        (offset, offset + length - 1),
    )
}

fn step(table: &mut LockTable, model: &mut Model, op: &Op) {
    let now = Now(0);
    match *op {
        Op::Open {
            client: c,
            access,
            share,
        } => {
            let denies = if access == 0 { 0 } else { 7 & !share };
            let mut request = OpenRequest::new(DOC, client(c), Access::from_bits(access));
            request.share = ShareMode::sharing(Access::from_bits(share));
            let expected = model.may_open(c, access, denies);
            match table.request(now, Ask::Open(&request), None) {
                Answer::Now(Ok(Granted::Opened(opened))) => {
                    assert!(expected, "{op:?}");
                    let open = ModelOpen {
                        open: opened.open,
                        client: c,
                        access,
                        denies,
                        ranges: Vec::new(),
                    };
                    model.opens.push(open);
                }
                answer => assert!(!granted(answer) && !expected, "{op:?}"),
            }
        }
        Op::Close(n) => {
            if n < model.opens.len() {
                let gone = model.opens.remove(n);
                assert_eq!(
                    table.close(now, gone.open, false).last,
                    model.opens.is_empty()
                );
            }
        }
        Op::Lock {
            open: n,
            offset,
            length,
            exclusive,
        } => {
            let Some(open) = model.opens.get(n).filter(|o| o.client < 2).map(|o| o.open) else {
                return;
            };
            let (range, bytes) = span(offset, length);
            let expected = model.may_lock(Some(n), None, bytes, exclusive);
            let request = RangeRequest {
                open,
                locks: vec![RangeLock { range, exclusive }],
                on_conflict: OnConflict::Reject,
            };
            assert_eq!(
                granted(table.request(now, Ask::Ranges(&request), None)),
                expected,
                "{op:?}"
            );
            if expected {
                model.opens[n].ranges.push((bytes.0, bytes.1, exclusive));
            }
        }
        Op::Unlock {
            open: n,
            offset,
            length,
        } => {
            let Some(open) = model.opens.get(n).map(|o| o.open) else {
                return;
            };
            let (range, bytes) = span(offset, length);
            let ranges = &mut model.opens[n].ranges;
            let exact = |r: &(u64, u64, bool)| (r.0, r.1) == bytes;
            let at = ranges
                .iter()
                .position(|r| exact(r) && r.2)
                .or_else(|| ranges.iter().position(exact));
            assert_eq!(
                table.unlock(now, open, range).is_ok(),
                at.is_some(),
                "{op:?}"
            );
            if let Some(at) = at {
                ranges.remove(at);
            }
        }
        Op::OpenIo {
            open: n,
            offset,
            length,
            write,
        } => {
            let Some((open, c)) = model.opens.get(n).map(|o| (o.open, o.client)) else {
                return;
            };
            let (range, bytes) = span(offset, length);
            let kind = if write {
                IoKind::Write(range)
            } else {
                IoKind::Read(range)
            };
            let expected = model.may_touch(Some(n), c, bytes, write);
            assert_eq!(
                granted(table.request(now, Ask::OpenIo { open, kind }, None)),
                expected,
                "{op:?}"
            );
        }
        Op::PlainIo {
            client: c,
            offset,
            length,
            write,
        } => {
            let (range, bytes) = span(offset, length);
            let access = if write { 2 } else { 1 };
            let share = model
                .opens
                .iter()
                .all(|o| o.denies & access == 0 || (o.client == c && is_nfs(c)));
            let expected = share && model.may_touch(None, c, bytes, write);
            let request = IoRequest {
                resource: DOC,
                actor: client(c),
                kind: if write {
                    IoKind::Write(range)
                } else {
                    IoKind::Read(range)
                },
                place: None,
                on_conflict: OnConflict::Reject,
                nfs_ranges_mandatory: false,
            };
            assert_eq!(
                granted(table.request(now, Ask::Io(&request), None)),
                expected,
                "{op:?}"
            );
        }
        Op::NfsLock {
            client: c,
            owner,
            offset,
            length,
            exclusive,
        } => {
            let (range, bytes) = span(offset, length);
            let access = if exclusive { 2 } else { 1 };
            let share = model
                .opens
                .iter()
                .all(|o| o.denies & access == 0 || o.client == c);
            let expected = share && model.may_lock(None, Some((c, owner)), bytes, exclusive);
            let request = owned(c, owner, range, exclusive, OnConflict::Reject);
            assert_eq!(
                granted(table.request(now, Ask::OwnedRange(&request), None)),
                expected,
                "{op:?}"
            );
            if expected {
                set_bytes(model, c, owner, bytes, Some(exclusive));
            }
        }
        Op::NfsUnlock {
            client: c,
            owner,
            offset,
            length,
        } => {
            let (range, bytes) = span(offset, length);
            table.unlock_owned(
                now,
                DOC,
                client(c).client,
                Some(RangeOwner(u128::from(owner))),
                range,
            );
            set_bytes(model, c, owner, bytes, None);
        }
    }
}

fn owned(
    c: usize,
    owner: u8,
    range: ByteRange,
    exclusive: bool,
    on_conflict: OnConflict,
) -> OwnedRangeRequest {
    OwnedRangeRequest {
        resource: DOC,
        actor: client(c),
        owner: RangeOwner(u128::from(owner)),
        lock: RangeLock { range, exclusive },
        on_conflict,
        reclaim: false,
    }
}

fn set_bytes(model: &mut Model, c: usize, owner: u8, bytes: (u64, u64), held: Option<bool>) {
    let at = model
        .owners
        .iter()
        .position(|o| (o.client, o.owner) == (c, owner))
        .unwrap_or_else(|| {
            model.owners.push(ModelOwner {
                client: c,
                owner,
                bytes: [None; 2 * BYTES as usize],
            });
            model.owners.len() - 1
        });
    for byte in bytes.0..=bytes.1 {
        model.owners[at].bytes[byte as usize] = held;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_decides_as_the_naive_model_does(ops in prop::collection::vec(op(), 1..60)) {
        let mut table = LockTable::new(options(), 1, 1);
        let mut model = Model::default();
        for op in &ops {
            step(&mut table, &mut model, op);
        }
        for open in model.opens {
            let _ = table.close(Now(0), open.open, false);
        }
        for owner in model.owners {
            let id = client(owner.client).client;
            table.unlock_owned(Now(0), DOC, id, None, ByteRange::WHOLE);
        }
        prop_assert!(table.document(DOC.document).is_none(), "nothing is left when everybody has gone");
    }
}

#[derive(Clone, Debug)]
enum WaitOp {
    Open {
        client: usize,
        access: u8,
        share: u8,
        wait_ms: u64,
    },
    Close(usize),
    Write {
        client: usize,
        wait_ms: u64,
    },
    NfsLock {
        client: usize,
        owner: u8,
        offset: u64,
        exclusive: bool,
    },
    NfsUnlock {
        client: usize,
        owner: u8,
    },
    Pass(u64),
}

fn wait_op() -> impl Strategy<Value = WaitOp> {
    prop_oneof![
        (0..5usize, 1..8u8, 0..8u8, 0..40_000u64).prop_map(|(client, access, share, wait_ms)| {
            WaitOp::Open {
                client,
                access,
                share,
                wait_ms,
            }
        }),
        (0..8usize).prop_map(WaitOp::Close),
        (2..4usize, 0..40_000u64).prop_map(|(client, wait_ms)| WaitOp::Write { client, wait_ms }),
        (2..4usize, 0..3u8, 0..4u64, any::<bool>()).prop_map(
            |(client, owner, offset, exclusive)| WaitOp::NfsLock {
                client,
                owner,
                offset,
                exclusive
            }
        ),
        (2..4usize, 0..3u8).prop_map(|(client, owner)| WaitOp::NfsUnlock { client, owner }),
        (0..5000u64).prop_map(WaitOp::Pass),
    ]
}

/// Follows who waits and who was answered.
#[derive(Default)]
struct Followed {
    now: Now,
    waiting: Vec<crate::types::WaiterId>,
    opens: Vec<OpenRef>,
}

impl Followed {
    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Wait(id) => self.waiting.push(id),
            Answer::Now(Ok(Granted::Opened(opened))) => self.opens.push(opened.open),
            Answer::Now(_) => {}
        }
    }

    fn effects(&mut self, table: &mut LockTable) {
        for effect in table.take_effects() {
            if let Effect::Answer { waiter, outcome } = effect {
                let at = self
                    .waiting
                    .iter()
                    .position(|w| *w == waiter)
                    .expect("answered once");
                self.waiting.remove(at);
                self.answer(Answer::Now(outcome));
            }
        }
    }

    fn run(&mut self, table: &mut LockTable, op: &WaitOp) {
        let wait = |ms| OnConflict::Wait(Some(Duration::from_millis(ms)));
        match *op {
            WaitOp::Open {
                client: c,
                access,
                share,
                wait_ms,
            } => {
                let mut request = OpenRequest::new(DOC, client(c), Access::from_bits(access));
                request.share = ShareMode::sharing(Access::from_bits(share));
                request.on_conflict = wait(wait_ms);
                self.answer(table.request(self.now, Ask::Open(&request), None));
            }
            WaitOp::Close(n) if n < self.opens.len() => {
                let open = self.opens.remove(n);
                let _ = table.close(self.now, open, false);
            }
            WaitOp::Close(_) => {}
            WaitOp::Write { client: c, wait_ms } => {
                let request = IoRequest {
                    resource: DOC,
                    actor: client(c),
                    kind: IoKind::Write(ByteRange::clamped(0, 4)),
                    place: Some(PlaceRequest {
                        idle: Duration::from_secs(2),
                    }),
                    on_conflict: wait(wait_ms),
                    nfs_ranges_mandatory: false,
                };
                self.answer(table.request(self.now, Ask::Io(&request), None));
            }
            WaitOp::NfsLock {
                client: c,
                owner,
                offset,
                exclusive,
            } => {
                let range = ByteRange::clamped(offset, 3);
                let request = owned(c, owner, range, exclusive, OnConflict::Wait(None));
                self.answer(table.request(self.now, Ask::OwnedRange(&request), None));
            }
            WaitOp::NfsUnlock { client: c, owner } => {
                let owner = Some(RangeOwner(u128::from(owner)));
                table.unlock_owned(self.now, DOC, client(c).client, owner, ByteRange::WHOLE);
            }
            WaitOp::Pass(ms) => {
                self.now = self.now.after(Duration::from_millis(ms));
                table.tick(self.now);
            }
        }
        self.effects(table);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariant I7: once everybody lets go and time passes, every waiter has been granted, refused or timed out.
    #[test]
    fn every_waiter_is_answered_in_the_end(ops in prop::collection::vec(wait_op(), 1..60)) {
        let mut table = LockTable::new(options(), 1, 1);
        let mut followed = Followed::default();
        for op in &ops {
            followed.run(&mut table, op);
        }
        for _ in 0..ops.len() + 5 {
            while !followed.opens.is_empty() {
                followed.run(&mut table, &WaitOp::Close(0));
            }
            for client in 2..4 {
                for owner in 0..3 {
                    followed.run(&mut table, &WaitOp::NfsUnlock { client, owner });
                }
            }
            followed.run(&mut table, &WaitOp::Pass(60_000));
        }
        prop_assert!(followed.waiting.is_empty(), "{:?}", followed.waiting);
        prop_assert!(table.document(DOC.document).is_none());
        prop_assert_eq!(table.next_deadline(), Now::NEVER);
    }
}
