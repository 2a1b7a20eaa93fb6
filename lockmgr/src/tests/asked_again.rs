//! A call of another node that took effect before its answer was on its way is asked again elsewhere, and gets the first answer.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use super::gate::{DOC, HOME, Node, OTHER, done, node, opened, poll, request, waits};
use crate::{
    Access, ByteRange, Closed, DocumentState, MemberId, OnConflict, Op, OpAnswer, OpenRef,
    RangeLock, RangeNotLocked, RangeRequest, Residence, ShareMode, Ticket,
};

const HEIR: MemberId = MemberId(3);

fn ten() -> ByteRange {
    ByteRange::new(0, 10).expect("a range")
}

fn lock(open: OpenRef, exclusive: bool) -> Op {
    let range = ten();
    Op::Lock(RangeRequest {
        open,
        locks: vec![RangeLock { range, exclusive }],
        on_conflict: OnConflict::Wait(None),
    })
}

fn unlock(open: OpenRef) -> Op {
    let range = ten();
    Op::Unlock { open, range }
}

/// A coordinator with an open of a client of another node, and that node.
fn scene() -> (Node, Node, OpenRef) {
    let (home, other) = (node(HOME), node(OTHER));
    home.locks.admit(DOC, Residence::Shared, Vec::new());
    let mut open = request(OTHER, 1, ShareMode::ALL);
    open.access = Access::WRITE.with(Access::DELETE);
    let open = opened(
        home.locks
            .begin(&Op::open(open), Some(other.locks.ticket(DOC))),
    );
    (home, other, open.open)
}

/// What the other node was told of its entries before the coordinator went, as bytes, goes to the next one.
fn inherit(home: &Node, heir: &Node) {
    let (_, part) = home.locks.part_of(DOC, OTHER, None).expect("is here");
    let bytes = postcard::to_stdvec(&part).expect("bytes");
    let part: Option<DocumentState> = postcard::from_bytes(&bytes).expect("the same");
    let parts = part.into_iter().collect();
    heir.locks.admit(DOC, Residence::Shared, parts);
}

fn ask(at: &Node, op: &Op, ticket: Ticket) -> OpAnswer {
    let answer = done(at.locks.begin(op, Some(ticket)));
    at.locks.answer_sent(DOC, ticket);
    answer
}

#[test]
fn a_shared_range_is_not_locked_twice() {
    let (home, other, open) = scene();
    let number = other.locks.ticket(DOC);
    let first = done(home.locks.begin(&lock(open, false), Some(number)));
    let heir = node(HEIR);
    inherit(&home, &heir);
    assert_eq!(ask(&heir, &lock(open, false), number), first);
    let once = ask(&heir, &unlock(open), other.locks.ticket(DOC));
    let twice = ask(&heir, &unlock(open), other.locks.ticket(DOC));
    assert_eq!(once, OpAnswer::Unlocked(Ok(())));
    assert_eq!(twice, OpAnswer::Unlocked(Err(RangeNotLocked)));
}

#[test]
fn an_exclusive_range_does_not_stand_in_its_own_way() {
    let (home, other, open) = scene();
    let number = other.locks.ticket(DOC);
    let first = done(home.locks.begin(&lock(open, true), Some(number)));
    let heir = node(HEIR);
    inherit(&home, &heir);
    assert_eq!(ask(&heir, &lock(open, true), number), first);
}

#[test]
fn a_range_that_was_waited_for_is_not_locked_twice() {
    let (home, other, open) = scene();
    let mine = request(HOME, 2, ShareMode::ALL);
    let mine = opened(home.locks.begin(&Op::open(mine), None)).open;
    assert_eq!(
        done(home.locks.begin(&lock(mine, true), None)),
        OpAnswer::Done(Ok(()))
    );
    let number = other.locks.ticket(DOC);
    let waiting = waits(home.locks.begin(&lock(open, true), Some(number)));
    let mut answer = pin!(waiting.answer());
    assert!(poll(answer.as_mut()).is_pending());
    done(home.locks.begin(&unlock(mine), None));
    // Granted, and the coordinator goes before it says so.
    let heir = node(HEIR);
    inherit(&home, &heir);
    assert_eq!(
        ask(&heir, &lock(open, true), number),
        OpAnswer::Done(Ok(()))
    );
    assert!(matches!(poll(answer.as_mut()), Poll::Ready(Ok(_))));
}

#[test]
fn an_unlock_asked_again_frees_nothing_else() {
    let (home, other, open) = scene();
    for _ in 0..2 {
        ask(&home, &lock(open, false), other.locks.ticket(DOC));
    }
    let number = other.locks.ticket(DOC);
    done(home.locks.begin(&unlock(open), Some(number)));
    let heir = node(HEIR);
    inherit(&home, &heir);
    assert_eq!(
        ask(&heir, &unlock(open), number),
        OpAnswer::Unlocked(Ok(()))
    );
    assert_eq!(
        ask(&heir, &unlock(open), other.locks.ticket(DOC)),
        OpAnswer::Unlocked(Ok(())),
        "the second lock is still there"
    );
}

#[test]
fn a_close_that_was_told_to_delete_is_told_so_again() {
    let (home, other, open) = scene();
    let number = other.locks.ticket(DOC);
    let close = Op::Close {
        open,
        deleting: true,
    };
    let first = done(home.locks.begin(&close, Some(number)));
    let heir = node(HEIR);
    inherit(&home, &heir);
    let again = ask(&heir, &close, number);
    assert_eq!(again, first);
    let Closed {
        delete_document, ..
    } = again.closed();
    assert!(delete_document);
}

#[test]
fn a_kept_open_is_disconnected_and_reclaimed_once() {
    let (home, other, open) = scene();
    let keep = Duration::from_secs(60);
    let number = other.locks.ticket(DOC);
    let gone = Op::Disconnect { open, keep };
    done(home.locks.begin(&gone, Some(number)));
    let heir = node(HEIR);
    inherit(&home, &heir);
    assert_eq!(ask(&heir, &gone, number), OpAnswer::Done(Ok(())));

    let number = other.locks.ticket(DOC);
    let back = Op::reclaim(open, request(OTHER, 1, ShareMode::ALL).actor, None);
    let first = done(heir.locks.begin(&back, Some(number)));
    assert!(matches!(first, OpAnswer::Opened(Ok(_))));
    let second = node(HOME);
    inherit(&heir, &second);
    assert_eq!(ask(&second, &back, number), first);
}

#[test]
fn a_node_that_decides_itself_now_gets_the_first_answer_once() {
    let (home, other, open) = scene();
    let number = other.locks.ticket(DOC);
    done(home.locks.begin(&lock(open, true), Some(number)));
    inherit(&home, &other);
    let again = done(other.locks.begin(&lock(open, true), Some(number)));
    assert_eq!(again, OpAnswer::Done(Ok(())));
    done(other.locks.begin(&unlock(open), None));
    let close = Op::Close {
        open,
        deleting: false,
    };
    done(other.locks.begin(&close, None));
    assert!(other.locks.close_if_idle(DOC), "nothing is kept");
}

#[test]
fn an_answer_that_is_on_its_way_is_kept_no_longer() {
    let (home, other, open) = scene();
    let number = other.locks.ticket(DOC);
    let close = Op::Close {
        open,
        deleting: false,
    };
    done(home.locks.begin(&close, Some(number)));
    let (_, with) = home.locks.part_of(DOC, OTHER, None).expect("is here");
    let (_, without) = home
        .locks
        .part_of(DOC, OTHER, Some(number))
        .expect("is here");
    assert!(with.is_some() && without.is_none());
    home.locks.answer_sent(DOC, number);
    assert!(home.locks.close_if_idle(DOC));
}

#[test]
fn an_answer_that_nobody_asks_for_again_is_forgotten_in_the_end() {
    let (home, other, open) = scene();
    let close = Op::Close {
        open,
        deleting: false,
    };
    done(home.locks.begin(&close, Some(other.locks.ticket(DOC))));
    let heir = node(HEIR);
    inherit(&home, &heir);
    assert!(!heir.locks.close_if_idle(DOC));
    heir.clock.0.store(601_000, Ordering::Relaxed);
    heir.locks.tick();
    assert!(heir.locks.close_if_idle(DOC));
}

#[test]
fn answers_go_with_the_node_that_waited_for_them() {
    let (home, other, open) = scene();
    done(
        home.locks
            .begin(&lock(open, true), Some(other.locks.ticket(DOC))),
    );
    home.locks.drop_member_of(DOC, OTHER);
    assert!(home.locks.close_if_idle(DOC));
}

#[test]
fn what_is_asked_again_while_its_answer_is_on_its_way_is_not_done_twice() {
    let (home, other, open) = scene();
    let number = other.locks.ticket(DOC);
    let first = ask(&home, &lock(open, false), number);
    assert_eq!(ask(&home, &lock(open, false), number), first);
    let once = ask(&home, &unlock(open), other.locks.ticket(DOC));
    let twice = ask(&home, &unlock(open), other.locks.ticket(DOC));
    assert_eq!(once, OpAnswer::Unlocked(Ok(())));
    assert_eq!(twice, OpAnswer::Unlocked(Err(RangeNotLocked)));
}
