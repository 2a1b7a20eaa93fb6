//! Stories of coordinators that are silent, and of their deputies. The first node coordinates, the second is its deputy.

use std::time::Duration;

use super::world::World;
use crate::core::{Body, Effect, Event, TokenMessage, TokenOptions};
use sluice_lockmgr::shard_of;

/// Three nodes, and two documents of one shard of the first.
fn world() -> (World, u64, u64) {
    let mut w = World::new(3, 7, TokenOptions::default());
    w.has_deputy(0, Some((1, 4)));
    w.drain();
    let one = w.document_of(0);
    let same = |other: &u64| shard_of(*other) == shard_of(one);
    let other = (one + 1..).find(same).expect("some document");
    (w, one, other)
}

#[test]
fn a_document_that_nobody_has_is_open_while_its_coordinator_is_silent() {
    let (mut w, document, _) = world();
    w.hang(0, true);
    w.lock(2, document, 1);
    w.drain();
    assert!(!w.holds(2, document, 1));
    assert!(w.take_over(1, 0, document));
    assert!(w.holds(2, document, 1));
    // The silent one goes on, and asks the new owner as all do.
    w.hang(0, false);
    w.lock(0, document, 1);
    w.drain();
    assert!(!w.holds(0, document, 1));
    w.unlock(2, document, 1);
    w.drain();
    assert!(w.holds(0, document, 1));
}

#[test]
fn a_document_on_the_list_waits_for_the_silent_coordinator_and_others_of_its_shard_do_not() {
    let (mut w, document, other) = world();
    w.lock(0, document, 1);
    w.drain();
    assert!(w.holds(0, document, 1));
    w.hang(0, true);
    assert!(w.take_over(1, 0, document));
    w.lock(2, document, 1);
    w.lock(2, other, 1);
    w.drain();
    assert!(!w.holds(2, document, 1) && w.holds(2, other, 1));
    w.hang(0, false);
    w.drain();
    assert!(w.holds(0, document, 1), "it had it all the time");
    w.unlock(0, document, 1);
    w.drain();
    assert!(w.holds(2, document, 1));
}

#[test]
fn a_document_on_the_list_is_free_once_the_silent_coordinator_is_gone() {
    let (mut w, document, _) = world();
    w.lock(0, document, 1);
    w.drain();
    w.hang(0, true);
    assert!(w.take_over(1, 0, document));
    w.lock(2, document, 1);
    w.drain();
    assert!(!w.holds(2, document, 1));
    w.kill(0);
    w.tell_map_to_all();
    w.drain();
    assert!(w.holds(2, document, 1));
}

#[test]
fn a_coordinator_decides_about_nothing_that_its_deputy_has_not_heard_of() {
    let (mut w, document, _) = world();
    w.hang(1, true);
    w.lock(0, document, 1);
    w.drain();
    assert!(!w.holds(0, document, 1));
    w.after(Duration::from_millis(250));
    let deputy = w.nodes[1].me;
    let silent = Effect::DeputySilent { deputy, turn: 4 };
    assert!(w.nodes[0].about_lists.contains(&silent));
    // The registry knows that the deputy's list counts no more.
    w.has_deputy(0, None);
    assert!(w.holds(0, document, 1));
    w.has_deputy(0, Some((2, 5)));
    w.drain();
    w.hang(0, true);
    assert!(w.take_over(2, 0, document));
    w.lock(2, document, 2);
    w.drain();
    assert!(!w.holds(2, document, 2), "the next deputy knows of it");
}

#[test]
fn what_the_coordinator_says_to_its_deputy_after_the_take_over_counts_no_more() {
    let (mut w, document, _) = world();
    w.lock(0, document, 1);
    w.hang(0, true);
    // Its word is on the way; the list was frozen when the shard was taken.
    let shard = shard_of(document);
    w.own(shard, w.nodes[1].me);
    w.tell_map(1);
    w.drain();
    assert!(!w.holds(0, document, 1));
    w.hang(0, false);
    w.drain();
    assert!(w.holds(0, document, 1), "as any node, from the new owner");
    assert!(w.residence(0, document).is_some());
}

#[test]
fn a_coordinator_that_stops_while_it_rebuilds_a_shard_holds_up_only_what_it_has() {
    let (mut w, document, other) = world();
    w.has_deputy(2, Some((0, 9)));
    w.lock(2, document, 1);
    w.lock(1, other, 1);
    w.drain();
    assert!(w.holds(2, document, 1) && w.holds(1, other, 1));
    // The third node gets the shard and has asked what the others have when it stops.
    let shard = shard_of(document);
    w.own(shard, w.nodes[2].me);
    w.tell_map(2);
    w.hang(2, true);
    w.drain();
    assert!(w.take_over(0, 2, document));
    w.lock(0, document, 5);
    w.lock(0, other, 5);
    w.drain();
    assert!(!w.holds(0, document, 5) && !w.holds(0, other, 5));
    w.unlock(1, other, 1);
    w.drain();
    assert!(w.holds(0, other, 5));
    w.hang(2, false);
    w.unlock(2, document, 1);
    w.drain();
    assert!(w.holds(0, document, 5));
}

#[test]
fn what_others_have_is_on_the_list_of_a_shard_before_its_new_owner_decides_about_it() {
    let (mut w, document, _) = world();
    w.has_deputy(2, Some((0, 9)));
    for (at, client) in [(1, 1), (2, 1)] {
        w.lock(at, document, client);
        w.drain();
    }
    assert!(w.is_open(0, document), "two nodes want it");
    let shard = shard_of(document);
    w.own(shard, w.nodes[2].me);
    w.tell_map(2);
    w.drain();
    assert!(w.is_open(2, document));
    w.hang(2, true);
    assert!(w.take_over(0, 2, document));
    w.unlock(1, document, 1);
    w.lock(1, document, 2);
    w.drain();
    assert!(!w.is_open(0, document) && !w.holds(1, document, 2));
    w.hang(2, false);
    w.drain();
    assert!(w.is_open(0, document));
    assert!(w.holds(1, document, 2) || w.holds(2, document, 1));
}

/// The coordinator counts on a word that its deputy never gave.
fn deceive(w: &mut World, document: u64) {
    let message = TokenMessage {
        shard: shard_of(document),
        epoch: w.map.owner(shard_of(document)).epoch,
        body: Body::Taken { turn: 4, document },
    };
    let from = w.nodes[1].me;
    w.step(0, Event::Message { from, message });
}

#[test]
fn a_token_that_the_list_did_not_tell_of_is_taken_away() {
    let (mut w, document, _) = world();
    w.lock(0, document, 1);
    deceive(&mut w, document);
    assert!(w.holds(0, document, 1));
    w.freeze(0, true);
    w.hang(0, true);
    // What it said is on the way.
    w.own(shard_of(document), w.nodes[1].me);
    let epoch = w.map.owner(shard_of(document)).epoch;
    w.tell_map(1);
    w.step(
        1,
        Event::TookOver {
            shard: shard_of(document),
            epoch,
            of: w.nodes[0].me,
            turn: 4,
        },
    );
    w.drain();
    w.lock(2, document, 1);
    w.drain();
    assert!(w.holds(2, document, 1));
    w.hang(0, false);
    w.drain();
    // It goes on; the world still looks away.
    w.step(0, Event::Thawed);
    w.drain();
    let holder = w.nodes[0].me;
    assert!(!w.holds(0, document, 1) && !w.is_open(0, document));
    let unlisted = Effect::Unlisted { document, holder };
    assert_eq!(w.nodes[1].about_lists, [unlisted]);
}
