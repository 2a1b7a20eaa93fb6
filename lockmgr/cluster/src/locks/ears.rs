//! For how long copies may be read: what the file layer keeps of things that other nodes may change.
//!
//! A node reads its copies only while every other member has answered a ping of it that was sent less than [`TERM`] ago. Whoever is
//! about to change something tells all members and waits for their answers; a member that owes one gets no answer to its pings, so
//! that its copies are no more read at most [`TERM`] later, and it need not be waited for any longer. So a node that hangs holds up
//! the others for a tenth of a second, not until it is fenced. Once it has answered (messages keep their order) it is answered too.
//!
//! Owns the moments only; must never send anything, nor decide what a copy is worth.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sluice_lockmgr::Member;

use crate::membership::{LeaseClock, Ms};

/// How long copies may be read after the sending of a ping that was answered.
const TERM: Ms = 60;
/// What the teller waits beyond that: clocks differ in rate.
const MARGIN: Ms = TERM / 4;
/// A member that has owed an answer for so long gets none to its pings.
const GRACE: Ms = 15;
/// Between two pings of one member.
const EVERY: Ms = 20;
/// The same, after an answer that took longer than it is good for: the way is slow.
const EVERY_SLOW: Ms = 500;
/// Pings are sent while copies were asked for so recently.
const WANTED: Ms = 1000;
/// A member that never pinged may read copies without this node's leave: its answer is waited for, and looked for so often.
const LOOK_AGAIN: Ms = 100;

#[derive(Default)]
struct Peer {
    /// The ping that is on its way: its number and when it was sent.
    pinged: Option<(u64, Ms)>,
    next_ping: Ms,
    /// Copies may be read until then, as far as this member goes.
    fresh_until: Ms,

    /// It has pinged: it reads no copies without being answered.
    asks: bool,
    /// It may read copies until then at the latest, unless it is answered again.
    promised_until: Ms,
    /// What it was told and has not answered: since when.
    owes: BTreeMap<u64, Ms>,
    /// Its ping that is not answered.
    unanswered: Option<u64>,
}

impl Peer {
    fn owes_long(&self, now: Ms) -> bool {
        self.owes.values().any(|since| now >= since + GRACE)
    }

    fn promise(&mut self, now: Ms) {
        self.promised_until = now + TERM + MARGIN;
    }
}

#[derive(Default)]
struct State {
    peers: BTreeMap<Member, Peer>,
    next_number: u64,
}

/// See the module's head.
pub(super) struct Ears {
    clock: Arc<dyn LeaseClock>,
    state: Mutex<State>,
    /// The least of all members' `fresh_until`.
    fresh_until: AtomicU64,
    /// When copies were last asked for.
    wanted: AtomicU64,
}

impl Ears {
    pub(super) fn new(clock: Arc<dyn LeaseClock>) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            fresh_until: AtomicU64::new(Ms::MAX),
            wanted: AtomicU64::new(0),
        }
    }

    fn number(state: &mut State) -> u64 {
        state.next_number += 1;
        state.next_number
    }

    fn note_freshness(&self, state: &State) {
        let least = state.peers.values().map(|peer| peer.fresh_until).min();
        self.fresh_until
            .store(least.unwrap_or(Ms::MAX), Ordering::SeqCst);
    }

    /// The other members.
    pub(super) fn members(&self, others: &BTreeSet<Member>) {
        let mut state = self.state.lock();
        state.peers.retain(|member, _| others.contains(member));
        for member in others {
            state.peers.entry(*member).or_default();
        }
        self.note_freshness(&state);
    }

    // ---- the reader's part ----

    /// Whether copies may be read now.
    pub(super) fn are_fresh(&self) -> bool {
        let now = self.clock.now_ms();
        if self.wanted.load(Ordering::Relaxed) + WANTED / 4 < now {
            self.wanted.store(now, Ordering::Relaxed);
        }
        now < self.fresh_until.load(Ordering::SeqCst)
    }

    /// Whether pings are being sent.
    pub(super) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) + WANTED > self.clock.now_ms()
    }

    /// The pings that are to be sent now.
    pub(super) fn pings_due(&self) -> Vec<(Member, u64)> {
        if !self.are_wanted() {
            return Vec::new();
        }
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let due = |(_, peer): &(&Member, &Peer)| peer.pinged.is_none() && peer.next_ping <= now;
        let members: Vec<Member> = state.peers.iter().filter(due).map(|(m, _)| *m).collect();
        let mut pings = Vec::with_capacity(members.len());
        for member in members {
            let number = Self::number(&mut state);
            if let Some(peer) = state.peers.get_mut(&member) {
                peer.pinged = Some((number, now));
            }
            pings.push((member, number));
        }
        pings
    }

    /// A ping was answered.
    pub(super) fn ponged(&self, from: Member, number: u64) {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let Some(peer) = state.peers.get_mut(&from) else {
            return;
        };
        let Some((_, sent)) = peer.pinged.take_if(|(pinged, _)| *pinged == number) else {
            return;
        };
        peer.fresh_until = sent + TERM;
        peer.next_ping = match now >= peer.fresh_until {
            true => now + EVERY_SLOW,
            false => sent + EVERY,
        };
        self.note_freshness(&state);
    }

    // ---- the teller's part ----

    /// A member pings: whether it is to be answered now.
    pub(super) fn pinged(&self, from: Member, number: u64) -> bool {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        // One that is not known as a member yet is one all the same: it counts this node as one.
        let peer = state.peers.entry(from).or_default();
        peer.asks = true;
        let answer = !peer.owes_long(now);
        if answer {
            peer.promise(now);
        } else {
            peer.unanswered = Some(number);
        }
        self.note_freshness(&state);
        answer
    }

    /// A member is told something now. Gives the number of the answer that it owes.
    pub(super) fn told(&self, to: Member) -> u64 {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let number = Self::number(&mut state);
        if let Some(peer) = state.peers.get_mut(&to) {
            peer.owes.insert(number, now);
        }
        number
    }

    /// It has answered. Gives its ping that may be answered now.
    pub(super) fn answered(&self, from: Member, number: u64) -> Option<u64> {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let peer = state.peers.get_mut(&from)?;
        peer.owes.remove(&number);
        if peer.owes_long(now) {
            return None;
        }
        let ping = peer.unanswered.take()?;
        peer.promise(now);
        Some(ping)
    }

    /// How much longer an answer is to be waited for; `None`: no longer, whoever owes it reads no copies until it has answered.
    pub(super) fn patience(&self, of: Member, number: u64) -> Option<Duration> {
        let now = self.clock.now_ms();
        let state = self.state.lock();
        // One that is no member any more, or owes nothing, has its answer on the way.
        let owed = state.peers.get(&of).filter(|peer| peer.asks);
        let until = owed.and_then(|peer| {
            peer.owes.get(&number)?;
            // Since the first answer that it owes is late, none of its pings was answered.
            let first = peer.owes.values().min()?;
            Some(peer.promised_until.max(first + GRACE))
        });
        match until {
            None => Some(Duration::from_millis(LOOK_AGAIN)),
            Some(until) if now >= until => None,
            Some(until) => Some(Duration::from_millis(until - now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_lockmgr::{MemberEpoch, MemberId};

    use super::*;
    use crate::membership::ManualClock;

    fn member(id: u32) -> Member {
        Member {
            id: MemberId(id),
            epoch: MemberEpoch(u64::from(id)),
        }
    }

    fn pass(clock: &ManualClock, ms: Ms) {
        clock.advance(Duration::from_millis(ms));
    }

    /// A reader and a teller on one clock.
    fn pair() -> (Arc<ManualClock>, Ears, Ears) {
        let clock = Arc::new(ManualClock::default());
        pass(&clock, 10_000);
        let (reader, teller) = (Ears::new(clock.clone()), Ears::new(clock.clone()));
        reader.members(&BTreeSet::from([member(2)]));
        teller.members(&BTreeSet::from([member(1)]));
        (clock, reader, teller)
    }

    /// A ping and its answer, if there is one.
    fn ping(reader: &Ears, teller: &Ears) {
        reader.are_fresh();
        for (_, number) in reader.pings_due() {
            if teller.pinged(member(1), number) {
                reader.ponged(member(2), number);
            }
        }
    }

    #[test]
    fn copies_are_read_for_a_term_after_a_ping_that_was_answered() {
        let (clock, reader, teller) = pair();
        assert!(!reader.are_fresh(), "nobody has answered yet");
        ping(&reader, &teller);
        assert!(reader.are_fresh());
        pass(&clock, TERM - 1);
        assert!(reader.are_fresh());
        pass(&clock, 1);
        assert!(!reader.are_fresh());
    }

    #[test]
    fn a_node_without_others_reads_its_copies() {
        let (_, reader, _) = pair();
        reader.members(&BTreeSet::new());
        assert!(reader.are_fresh());
        reader.members(&BTreeSet::from([member(3)]));
        assert!(!reader.are_fresh());
    }

    #[test]
    fn the_term_counts_from_the_sending_of_the_ping() {
        let (clock, reader, teller) = pair();
        reader.are_fresh();
        let (_, number) = reader.pings_due()[0];
        pass(&clock, TERM - 10);
        assert!(teller.pinged(member(1), number));
        reader.ponged(member(2), number);
        assert!(reader.are_fresh());
        pass(&clock, 10);
        assert!(!reader.are_fresh());
    }

    #[test]
    fn whoever_owes_an_answer_reads_no_copies_when_the_teller_goes_on() {
        let (clock, reader, teller) = pair();
        let mut waited = 0;
        ping(&reader, &teller);
        let owed = teller.told(member(1));
        // It goes on pinging: that does not help it for long.
        while let Some(wait) = teller.patience(member(1), owed) {
            let step = 5.min(u64::try_from(wait.as_millis()).unwrap());
            pass(&clock, step);
            waited += step;
            ping(&reader, &teller);
            assert!(
                waited < 100,
                "the others wait for at most a tenth of a second"
            );
        }
        assert!(!reader.are_fresh());
        let next = teller.told(member(1));
        assert_eq!(teller.patience(member(1), next), None, "known as deaf");
        // Its answers arrive: so does the one to its ping.
        assert_eq!(teller.answered(member(1), next), None);
        let pong = teller.answered(member(1), owed).expect("a ping waits");
        reader.ponged(member(2), pong);
        pass(&clock, EVERY_SLOW);
        ping(&reader, &teller);
        assert!(reader.are_fresh());
    }

    #[test]
    fn a_member_that_never_pinged_is_waited_for() {
        let (clock, _, teller) = pair();
        let owed = teller.told(member(1));
        pass(&clock, 10_000);
        assert!(teller.patience(member(1), owed).is_some());
    }

    #[test]
    fn answers_that_come_soon_do_not_disturb_the_reader() {
        let (clock, reader, teller) = pair();
        ping(&reader, &teller);
        for _ in 0..50 {
            let owed = teller.told(member(1));
            pass(&clock, GRACE - 5);
            ping(&reader, &teller);
            assert_eq!(teller.answered(member(1), owed), None);
            pass(&clock, 5);
            ping(&reader, &teller);
            assert!(reader.are_fresh());
        }
    }
}
