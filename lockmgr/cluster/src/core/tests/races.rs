//! Stories of two and three nodes: who decides, what crosses what, who dies when.

use std::time::Duration;

use super::world::World;
use crate::core::{Body, Effect, Event, RequestId, TokenMachine, TokenMessage, TokenOptions};
use sluice_lockmgr::{
    Member, MemberEpoch, MemberId, Now, ShardEpoch, ShardId, ShardOwner, shard_of,
};

/// The second node holds the lock and stands still; the third wants it.
fn wanted_of_a_frozen_holder() -> (World, u64) {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    w.freeze(1, true);
    w.lock(2, document, 1);
    (w, document)
}

fn world(nodes: u32) -> World {
    World::new(nodes, 7, TokenOptions::default())
}

#[test]
fn the_first_node_is_alone_and_later_requests_need_no_message() {
    let mut w = world(2);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    assert!(w.holds(1, document, 1));
    assert!(w.residence(1, document).is_some());
    let sent = w.sent;
    for client in 2..50 {
        w.unlock(1, document, client - 1);
        w.lock(1, document, client);
        assert!(w.holds(1, document, client));
    }
    assert_eq!(w.sent, sent);
}

#[test]
fn a_second_node_makes_the_document_central_and_the_state_goes_with_it() {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    w.lock(2, document, 1);
    w.drain();
    assert!(!w.holds(2, document, 1), "the lock came with the document");
    assert!(w.is_open(0, document));
    assert_eq!(w.residence(0, document), None);
    assert_eq!(w.residence(1, document), None);
    w.unlock(1, document, 1);
    w.drain();
    assert!(w.holds(2, document, 1));
}

#[test]
fn an_idle_token_goes_to_the_next_node_and_its_term_changes() {
    let mut w = world(2);
    let document = w.document_of(0);
    for at in [0, 1, 0, 1] {
        w.lock(at, document, 1);
        w.drain();
        assert!(w.holds(at, document, 1));
        assert!(w.residence(at, document).is_some());
        w.unlock(at, document, 1);
        w.drain();
    }
    // Too many transfers: it stays at its coordinator.
    for at in [0, 1, 0, 1, 0, 1] {
        w.lock(at, document, 1);
        w.drain();
        w.unlock(at, document, 1);
        w.drain();
    }
    assert!(w.is_open(0, document));
    assert_eq!(w.residence(0, document), None);
}

#[test]
fn a_central_document_goes_back_to_the_only_node_left_with_its_state() {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    w.lock(2, document, 1);
    w.drain();
    assert!(w.cancel(2, document));
    w.drain();
    w.after(Duration::from_secs(30));
    assert!(w.residence(1, document).is_some());
    w.unlock(1, document, 1);
    w.lock(1, document, 2);
    assert!(w.holds(1, document, 2), "without a message");
}

#[test]
fn an_empty_central_document_is_forgotten() {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.lock(2, document, 2);
    w.drain();
    for _ in 0..2 {
        for (at, client) in [(1, 1), (2, 2)] {
            if w.holds(at, document, client) {
                w.unlock(at, document, client);
                w.drain();
            }
        }
    }
    w.after(Duration::from_secs(5));
    assert!((0..3).all(|at| !w.is_open(at, document)));
}

#[test]
fn a_cancel_that_crosses_the_answer_gives_the_lock_back() {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.lock(2, document, 1);
    w.drain();
    let (first, second) = if w.holds(1, document, 1) {
        (1, 2)
    } else {
        (2, 1)
    };
    w.unlock(first, document, 1);
    while w.deliver(first, 0) {}
    // The answer is on its way to the second when it gives up.
    assert!(w.cancel(second, document));
    w.drain();
    w.lock(0, document, 9);
    w.drain();
    assert!(w.holds(0, document, 9));
}

#[test]
fn a_give_back_that_crosses_a_surrender_does_no_harm() {
    let options = TokenOptions {
        tokens_max: 1,
        ..TokenOptions::default()
    };
    let mut w = World::new(2, 3, options);
    let first = w.document_of(0);
    let second = (first + 1..)
        .find(|d| shard_of(*d) == shard_of(first))
        .expect("one more");
    w.lock(1, first, 1);
    w.drain();
    w.unlock(1, first, 1);
    w.lock(1, second, 1);
    // The token of the first is given back while the coordinator wants it.
    while w.deliver(1, 0) {}
    w.lock(0, first, 5);
    while w.deliver(0, 1) {}
    w.after(Duration::from_secs(1));
    assert!(w.holds(0, first, 5));
    assert!(w.holds(1, second, 1));
}

#[test]
fn the_coordinator_dies_while_a_node_is_alone() {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    let term = w.residence(1, document);
    w.kill(0);
    w.tell_map_to_all();
    w.drain();
    assert_eq!(w.residence(1, document), term, "it never lost it");
    w.lock(2, document, 1);
    w.drain();
    assert!(!w.holds(2, document, 1));
    w.unlock(1, document, 1);
    w.drain();
    assert!(w.holds(2, document, 1));
}

#[test]
fn the_coordinator_dies_while_central_and_the_holders_keep_what_they_have() {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    w.lock(2, document, 1);
    w.drain();
    w.kill(0);
    w.tell_map_to_all();
    w.drain();
    assert!(w.holds(1, document, 1));
    assert!(!w.holds(2, document, 1), "what the first has was rebuilt");
    w.unlock(1, document, 1);
    w.drain();
    assert!(w.holds(2, document, 1), "asked again");
}

#[test]
fn what_the_dead_node_held_is_free() {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    w.lock(2, document, 1);
    w.drain();
    w.kill(1);
    w.tell_map_to_all();
    w.drain();
    assert!(w.holds(2, document, 1));
}

#[test]
fn a_token_whose_holder_dies_silently_goes_on() {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    w.lock(2, document, 1);
    w.kill(1);
    w.tell_map_to_all();
    w.drain();
    assert!(w.holds(2, document, 1));
}

#[test]
fn a_holder_that_never_answers_is_fenced_by_force() {
    let (mut w, document) = wanted_of_a_frozen_holder();
    w.after(Duration::from_secs(20));
    assert_eq!(w.forced, 1);
    assert!(
        !w.holds(2, document, 1),
        "its lease may have been prolonged just before"
    );
    w.after(Duration::from_secs(5));
    assert!(w.holds(2, document, 1));
}

#[test]
fn a_holder_that_hears_that_it_was_fenced_by_force_gives_way_at_once() {
    let (mut w, document) = wanted_of_a_frozen_holder();
    w.after(Duration::from_secs(16));
    assert_eq!(w.forced, 1);
    // By its renewal, before it thaws.
    w.hear_revoked(1);
    w.drain();
    assert!(w.holds(2, document, 1));
    w.freeze(1, false);
    w.drain();
    assert!(!w.holds(1, document, 1));
}

/// The second node holds the lock, is asked to give it back and does not get done with its commit.
fn wanted_of_a_holder_that_commits() -> (World, u64) {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    w.stall(1, true);
    w.lock(2, document, 1);
    w.after(Duration::from_secs(100));
    assert_eq!(w.forced, 0, "it says that it is committing");
    assert!(!w.holds(2, document, 1));
    (w, document)
}

#[test]
fn a_holder_that_is_committing_is_waited_for() {
    let (mut w, document) = wanted_of_a_holder_that_commits();
    w.stall(1, false);
    w.after(Duration::from_secs(60));
    assert_eq!(w.forced, 0);
    assert!(w.holds(1, document, 1));
    w.unlock(1, document, 1);
    w.drain();
    assert!(w.holds(2, document, 1));
}

#[test]
fn a_holder_whose_commit_never_ends_is_fenced_by_force() {
    let (mut w, document) = wanted_of_a_holder_that_commits();
    w.after(Duration::from_secs(30));
    assert_eq!(w.forced, 1);
    assert!(w.holds(2, document, 1));
    assert!(!w.holds(1, document, 1), "its clients were told");
    // A commit that ends after all brings nothing back.
    w.stall(1, false);
    w.after(Duration::from_secs(30));
    assert!(w.holds(2, document, 1));
    assert!(!w.holds(1, document, 1));
}

#[test]
fn nobody_is_fenced_by_force_for_silence_while_all_were_frozen() {
    let mut w = world(3);
    let document = w.document_of(0);
    w.lock(1, document, 1);
    w.drain();
    for at in 0..3 {
        w.freeze(at, true);
    }
    w.lock(2, document, 1);
    w.freeze(2, false);
    w.after(Duration::from_secs(60));
    w.freeze(0, false);
    w.after(Duration::from_secs(1));
    w.freeze(1, false);
    w.after(Duration::from_secs(1));
    assert_eq!(w.forced, 0);
    assert!(w.holds(1, document, 1));
    // Asked before the freeze, answered after it.
    w.unlock(1, document, 1);
    w.drain();
    assert!(w.holds(2, document, 1));
    w.lock(1, document, 2);
    w.freeze(0, true);
    w.after(Duration::from_secs(60));
    w.freeze(0, false);
    w.after(Duration::from_secs(1));
    assert_eq!(w.forced, 0);
}

#[test]
fn a_frozen_node_grants_nothing_and_goes_on_after_the_thaw() {
    let mut w = world(2);
    let document = w.document_of(0);
    w.freeze(0, true);
    w.lock(1, document, 1);
    w.lock(0, document, 2);
    w.drain();
    assert!(!w.holds(1, document, 1) && !w.holds(0, document, 2));
    w.freeze(0, false);
    w.drain();
    assert!(w.holds(1, document, 1) != w.holds(0, document, 2));
}

#[test]
fn a_shard_is_handed_over_in_the_middle_of_everything() {
    let mut w = world(3);
    let document = w.document_of(0);
    let shard = shard_of(document);
    w.lock(1, document, 1);
    w.drain();
    w.lock(2, document, 1);
    w.drain();
    let third = w.nodes[2].me;
    w.own(shard, third);
    // The old owner hears of it last.
    w.tell_map(2);
    w.drain();
    w.tell_map(1);
    w.unlock(1, document, 1);
    w.drain();
    w.tell_map(0);
    w.drain();
    assert!(w.holds(2, document, 1));
    assert!(!w.is_open(0, document));
}

/// Everything by chance: clients that lock, unlock and give up on three nodes, shards that move, nodes that freeze and die.
fn chaos(seed: u64, deaths: bool) {
    let options = TokenOptions {
        tokens_max: 3,
        ..TokenOptions::default()
    };
    let mut w = World::new(4, seed, options);
    let documents: Vec<u64> = (1..=6).collect();
    let mut next_client = 0;
    let mut left = if deaths { 2 } else { 0 };
    for _ in 0..3_000 {
        let at = w.random(4);
        let document = documents[w.random(documents.len())];
        match w.random(100) {
            0..30 if w.nodes[at].alive && w.waits(at) < 8 => {
                next_client += 1;
                w.lock(at, document, next_client);
            }
            30..55 if w.nodes[at].alive => {
                let held = w.nodes[at].held.get(&document);
                if let Some(client) = held.and_then(|h| h.first().copied()) {
                    w.unlock(at, document, client);
                }
            }
            55..58 if w.nodes[at].alive => {
                w.cancel(at, document);
            }
            58..60 if w.nodes[at].alive => {
                let to = w.random(4);
                if w.nodes[to].alive {
                    let owner = w.nodes[to].me;
                    w.own(shard_of(document), owner);
                    let order = w.random(4);
                    for n in 0..4 {
                        w.tell_map((n + order) % 4);
                        if w.random(2) == 0 {
                            w.deliver_one();
                        }
                    }
                }
            }
            60 => w.after(Duration::from_millis(300)),
            61 if left > 0 && w.nodes[at].alive && w.random(4) == 0 => {
                left -= 1;
                w.kill(at);
                let order = w.random(4);
                for n in 0..4 {
                    w.deliver_one();
                    w.tell_map((n + order) % 4);
                }
            }
            62 if w.nodes[at].alive => {
                w.freeze(at, true);
                w.deliver_one();
                w.freeze(at, false);
            }
            _ => {
                w.deliver_one();
            }
        }
    }
    // Nobody new: everybody who waits gets it in the end, as those who have it give it back.
    for _ in 0..2_000 {
        w.drain();
        let held: Vec<(usize, u64, u64)> = (0..4)
            .filter(|at| w.nodes[*at].alive)
            .flat_map(|at| {
                let held = w.nodes[at].held.iter();
                held.flat_map(move |(d, h)| h.iter().map(move |c| (at, *d, *c)))
                    .collect::<Vec<_>>()
            })
            .collect();
        if held.is_empty() && (0..4).all(|at| !w.nodes[at].alive || w.waits(at) == 0) {
            return;
        }
        for (at, document, client) in held {
            w.unlock(at, document, client);
        }
        w.after(Duration::from_millis(250));
    }
    panic!("seed {seed}: somebody waits for ever\n{}", w.explain());
}

#[test]
fn chance_without_deaths_keeps_one_holder_and_lets_nobody_wait_for_ever() {
    for seed in 1..15 {
        chaos(seed, false);
    }
}

#[test]
fn chance_with_deaths_keeps_one_holder_and_lets_nobody_wait_for_ever() {
    for seed in 1..15 {
        chaos(seed, true);
    }
}

#[test]
fn shards_are_spread() {
    let w = world(3);
    assert_ne!(w.map.owner(ShardId(0)), w.map.owner(ShardId(1)));
}

#[test]
fn who_hears_of_others_that_it_owns_a_shard_waits_until_it_knows_all_members() {
    let member = |id| Member {
        id: MemberId(id),
        epoch: MemberEpoch(u64::from(id)),
    };
    let (me, old, joined) = (member(1), member(2), member(3));
    let (document, request) = (5, RequestId(1));
    let shard = shard_of(document);
    let owned = |owner, epoch| {
        let owner = ShardOwner {
            owner: Some(owner),
            epoch: ShardEpoch(epoch),
        };
        Event::Shards(vec![(shard, owner)])
    };
    let mut machine = TokenMachine::new(me, TokenOptions::default());
    let now = Now::default();
    machine.step(Event::NodeUp(old), now);
    machine.step(owned(old, 1), now);
    machine.step(Event::Request { document, request }, now);
    let moved = TokenMessage {
        shard,
        epoch: ShardEpoch(2),
        body: Body::Moved {
            document,
            request,
            asked: ShardEpoch(1),
            owner: Some(me),
        },
    };
    machine.take_effects();
    machine.step(
        Event::Message {
            from: old,
            message: moved,
        },
        now,
    );
    assert_eq!(machine.take_effects(), [], "nobody is asked yet");
    machine.step(Event::NodeUp(joined), now);
    machine.step(owned(me, 2), now);
    let asked = |to| {
        let message = TokenMessage {
            shard,
            epoch: ShardEpoch(2),
            body: Body::ReportAsk,
        };
        Effect::Send { to, message }
    };
    let effects = machine.take_effects();
    assert!(effects.contains(&asked(old)) && effects.contains(&asked(joined)));
    assert!(!machine.coordinates(document));
}
