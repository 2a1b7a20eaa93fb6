//! Which coordinators and deputies are silent.
//!
//! Messages keep their order: once a member has answered a probe it has heard all that it was asked before. One that does not
//! answer the probe after a request is complained about to all, by the shards of the requests. The deputy of these shards takes
//! them over only if its own probe is not answered either, and all other members answer one: without their reports the shards would
//! wait, and one that hears from nobody is itself cut off. All are told of a probe that is late, so that theirs, which may so be older than
//! the complaint, is on its way at the same time. A complaint about a member that is only slow costs a shard's move.
//! A deputy that does not say that it has heard what it was told is probed too.
//!
//! Owns the moments only; must never send anything, nor decide who owns what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sluice_lockmgr::{Member, ShardEpoch, ShardId};
use tokio::sync::Notify;

use crate::membership::{Held, LeaseClock, Ms};

/// Times after which a coordinator counts as silent. Together with the registry's part and the reports they are to stay well
/// below the tenth of a second that a client may notice.
#[derive(Clone, Copy, Debug)]
pub struct WatchOptions {
    /// So long after a request that is still on its way its coordinator is probed: most are answered sooner, and cost nothing.
    pub ask_patience: Duration,
    /// So long a probe may take, many times a round trip. Where answers were slow of late it may take longer.
    pub probe_patience: Duration,
    /// Complaints are repeated after this: the deputy may have been another one by then.
    pub complain_again: Duration,
    /// So long after an answered probe the next one comes, while requests from before it may still wait: their coordinator may
    /// have stopped since.
    pub probe_again: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            ask_patience: Duration::from_millis(5),
            probe_patience: Duration::from_millis(20),
            complain_again: Duration::from_millis(100),
            probe_again: Duration::from_millis(50),
        }
    }
}

/// Looks while a probe is on its way come much more often than that: if not, this node stood still, and proves nothing.
const STOOD_STILL: Ms = 15;
/// Between two looks while somebody may be silent: a part of the least patience.
const LOOK: Duration = Duration::from_millis(3);
/// A probe that is not answered for so long makes the others probe too. Long beside a round trip: those that answer cost nobody anything.
const LATE: Ms = 6;
/// So long after a complaint the deputy's own probe, which may be older, must still be unanswered.
const CONFIRMED: Ms = 6;
/// A probe may take so many times as long as the slowest that was answered of late, up to `PATIENCE_MAX`: on a busy machine all
/// answers are slow.
const TIMES_THE_SLOWEST: Ms = 2;
const PATIENCE_MAX: Ms = 60;
/// For so long the slowest answer counts.
const OF_LATE: Ms = 1000;
/// A deputy that answers probes and still does not say that it has heard is silent after this.
const DOUBTED_MAX: Ms = 1000;
/// A doubt that is not repeated for so long is over.
const DOUBT_OVER: Ms = 100;
/// A suspicion that can't be acted upon for so long is over; a complaint brings it anew.
const SUSPECTED_MAX: Ms = 1000;

/// Something to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Send a probe.
    Probe(Member, u64),
    /// Tell the others that a probe after requests to this member is late.
    Late(Member),
    /// Tell all of a silent member, and what was asked of it.
    Complain(Member, Vec<ShardId>),
    /// Take these shards of a silent member, under that turn.
    TakeOver(Member, u64, Vec<Held>),
    /// The deputy of that turn is silent.
    DeputySilent(u64),
}

/// Of whom answers are awaited, and about which shards.
pub(super) type Awaited = BTreeSet<(Member, ShardId)>;

/// This node's deputy does not say that it has heard.
struct Doubt {
    turn: u64,
    /// Since the last probe that was answered.
    since: Ms,
    first: Ms,
    last: Ms,
}

#[derive(Default)]
struct Peer {
    /// Shards of requests that no probe has followed yet, and when the first was sent.
    asked: BTreeSet<ShardId>,
    since: Ms,
    /// The probe that is on its way: its number, and since when nothing came.
    probe: Option<(u64, Ms)>,
    /// When it was sent.
    probed: Ms,
    /// When one was answered last.
    proved: Ms,
    /// Shards of requests before it, and those of them that were complained about.
    waiting: BTreeSet<ShardId>,
    complained: BTreeSet<ShardId>,
    next_complaint: Ms,
    /// Shards of requests that were heard and still wait, and when to probe again.
    heard_of: BTreeSet<ShardId>,
    again: Ms,
    /// The others were told that the probe is late.
    told_late: bool,
    /// A probe of another node to it is late.
    late: bool,
    /// Others complain about it, and this node is its deputy: the shards with their epochs and the turn.
    wanted: BTreeMap<ShardId, (ShardEpoch, u64)>,
    /// Since when.
    wanted_since: Ms,
    doubt: Option<Doubt>,
}

impl Peer {
    fn awaits_nothing(&self) -> bool {
        self.asked.is_empty() && self.waiting.is_empty() && self.heard_of.is_empty()
    }

    /// What was answered meanwhile is forgotten.
    fn keep(&mut self, member: Member, awaited: &Awaited) {
        let still = |shard: &ShardId| awaited.contains(&(member, *shard));
        self.asked.retain(still);
        self.waiting.retain(still);
        self.complained.retain(still);
        self.heard_of.retain(still);
    }

    /// The probe is not answered: which shards are to be complained about now.
    fn complaint(&mut self, now: Ms, again: Ms) -> Vec<ShardId> {
        self.waiting.append(&mut self.asked);
        // They were heard, but before the probe was sent.
        self.waiting.append(&mut self.heard_of);
        if now >= self.next_complaint {
            self.complained.clear();
        }
        let news = self.waiting.difference(&self.complained);
        let news: Vec<ShardId> = news.copied().collect();
        if !news.is_empty() && self.complained.is_empty() {
            self.next_complaint = now + again;
        }
        self.complained.extend(news.iter().copied());
        news
    }

    /// The probe is not answered: what is to be taken over now, by turn.
    fn take_wanted(&mut self) -> BTreeMap<u64, Vec<Held>> {
        let mut by_turn: BTreeMap<u64, Vec<Held>> = BTreeMap::new();
        for (shard, (epoch, turn)) in std::mem::take(&mut self.wanted) {
            by_turn.entry(turn).or_default().push((shard, epoch));
        }
        by_turn
    }
}

#[derive(Default)]
struct State {
    peers: BTreeMap<Member, Peer>,
    last_probe: u64,
    last_look: Ms,
    stirred_until: Ms,
    /// How long the slowest answer to a probe took of late, and when it came.
    slowest: (Ms, Ms),
}

impl State {
    /// Since when members are suspected whose shards are wanted. What takes too long is forgotten.
    fn suspected(&mut self, now: Ms) -> Vec<(Member, Ms)> {
        let mut suspected = Vec::new();
        for (member, peer) in &mut self.peers {
            if now >= peer.wanted_since + SUSPECTED_MAX {
                peer.wanted.clear();
            }
            if !peer.wanted.is_empty() {
                suspected.push((*member, peer.wanted_since));
            }
        }
        suspected
    }

    /// Whether all others but this member have answered a probe since.
    fn others_answer(&self, but: Member, since: Ms) -> bool {
        let mut others = self.peers.iter().filter(|(member, _)| **member != but);
        others.all(|(_, peer)| peer.proved >= since)
    }

    fn patience(&self, now: Ms, least: Duration) -> Ms {
        let (slowest, at) = self.slowest;
        let counts = now < at + OF_LATE;
        let long = (slowest * TIMES_THE_SLOWEST).min(PATIENCE_MAX);
        ms(least).max(if counts { long } else { 0 })
    }
}

/// See the module's head.
pub(super) struct Watch {
    options: WatchOptions,
    clock: Arc<dyn LeaseClock>,
    state: Mutex<State>,
    /// Some probe is on its way.
    probing: AtomicBool,
    /// There is something to look at.
    pub(super) woken: Notify,
}

fn ms(duration: Duration) -> Ms {
    Ms::try_from(duration.as_millis()).unwrap_or(Ms::MAX)
}

impl Watch {
    pub(super) fn new(options: WatchOptions, clock: Arc<dyn LeaseClock>) -> Self {
        Self {
            options,
            clock,
            state: Mutex::default(),
            probing: AtomicBool::new(false),
            woken: Notify::new(),
        }
    }

    /// The other members.
    pub(super) fn members(&self, others: &BTreeSet<Member>) {
        let mut state = self.state.lock();
        state.peers.retain(|member, _| others.contains(member));
        for member in others {
            state.peers.entry(*member).or_default();
        }
    }

    /// A request goes to the coordinator of a shard. By now it is among those whose answers are awaited.
    pub(super) fn asks(&self, to: Member, shard: ShardId) {
        let now = self.clock.now_ms();
        if let Some(peer) = self.state.lock().peers.get_mut(&to)
            && peer.asked.insert(shard)
            && peer.asked.len() == 1
        {
            peer.since = now;
            self.woken.notify_one();
        }
    }

    /// The machines are to be looked at often for so long.
    pub(super) fn stir(&self, time: Duration) {
        self.state.lock().stirred_until = self.clock.now_ms() + ms(time);
        self.woken.notify_one();
    }

    /// The deputy of that turn has not said for a while that it has heard what it was told.
    pub(super) fn doubts(&self, deputy: Member, turn: u64) {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let Some(peer) = state.peers.get_mut(&deputy) else {
            return;
        };
        if let Some(doubt) = &mut peer.doubt
            && doubt.turn == turn
            && now < doubt.last + DOUBT_OVER
        {
            doubt.last = now;
            return;
        }
        peer.doubt = Some(Doubt {
            turn,
            since: now,
            first: now,
            last: now,
        });
        self.woken.notify_one();
    }

    /// A probe of another node to a member is late: there may be a complaint about it soon.
    pub(super) fn is_late(&self, of: Member) {
        if let Some(peer) = self.state.lock().peers.get_mut(&of)
            && peer.probe.is_none()
        {
            peer.late = true;
            self.woken.notify_one();
        }
    }

    /// This node is the deputy of a member about which others complain.
    pub(super) fn suspects(&self, of: Member, shard: ShardId, epoch: ShardEpoch, turn: u64) {
        let now = self.clock.now_ms();
        if let Some(peer) = self.state.lock().peers.get_mut(&of) {
            if peer.wanted.is_empty() {
                peer.wanted_since = now;
            }
            peer.wanted.insert(shard, (epoch, turn));
            self.woken.notify_one();
        }
    }

    /// Something came from a member. One that says things, and yet does not answer for long, is silent all the same.
    pub(super) fn heard(&self, from: Member) {
        if !self.probing.load(Ordering::Relaxed) {
            return;
        }
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let longest = state.patience(now, self.options.probe_patience) * 5;
        if let Some(peer) = state.peers.get_mut(&from)
            && now < peer.probed + longest
            && let Some((_, since)) = &mut peer.probe
        {
            *since = now;
        }
    }

    /// A probe was answered.
    pub(super) fn answered(&self, from: Member, number: u64) {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        let State { peers, slowest, .. } = &mut *state;
        if let Some(peer) = peers.get_mut(&from)
            && peer.probe.is_some_and(|(sent, _)| sent == number)
        {
            peer.probe = None;
            peer.proved = now;
            peer.heard_of.append(&mut peer.waiting);
            peer.complained.clear();
            peer.again = now + ms(self.options.probe_again);
            peer.wanted.clear();
            if let Some(doubt) = &mut peer.doubt {
                doubt.since = now;
            }
            let took = now.saturating_sub(peer.probed);
            if took >= slowest.0 || now >= slowest.1 + OF_LATE {
                *slowest = (took, now);
            }
        }
    }

    /// These shards have another coordinator now.
    pub(super) fn moved(&self, from: Member, shards: &[ShardId]) {
        if let Some(peer) = self.state.lock().peers.get_mut(&from) {
            peer.waiting.retain(|shard| !shards.contains(shard));
            peer.heard_of.retain(|shard| !shards.contains(shard));
        }
    }

    /// When to look next, at the latest; `None`: there is nothing to look for.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let now = self.clock.now_ms();
        let state = self.state.lock();
        let busy = |peer: &Peer| {
            let idle = peer.asked.is_empty() && peer.waiting.is_empty();
            // A pause in the looks would be taken for one of this node.
            let probed = peer.probe.is_some() && now < peer.probed + SUSPECTED_MAX;
            !idle || probed || peer.late || !peer.wanted.is_empty() || peer.doubt.is_some()
        };
        if state.stirred_until > now || state.peers.values().any(busy) {
            return Some(LOOK);
        }
        let heard_of = state.peers.values().filter(|p| !p.heard_of.is_empty());
        let again = heard_of.map(|peer| peer.again).min()?;
        Some(LOOK.max(Duration::from_millis(again.saturating_sub(now))))
    }

    /// What is to be done now. `awaited` is asked for only if it matters.
    pub(super) fn due(&self, awaited: impl FnOnce() -> Awaited) -> Vec<Due> {
        let (now, options) = (self.clock.now_ms(), self.options);
        let mut state = self.state.lock();
        let patience = state.patience(now, options.probe_patience);
        let suspected = state.suspected(now);
        let is_sure = |(member, since): &&(Member, Ms)| state.others_answer(*member, *since);
        let sure: BTreeSet<Member> = suspected.iter().filter(is_sure).map(|s| s.0).collect();
        let State {
            peers,
            last_probe,
            last_look,
            ..
        } = &mut *state;
        // This node may have stood still itself: what came meanwhile is not read yet.
        let stood_still = now > std::mem::replace(last_look, now) + STOOD_STILL;
        if !peers.values().all(Peer::awaits_nothing) {
            let awaited = awaited();
            for (member, peer) in &mut *peers {
                peer.keep(*member, &awaited);
            }
        }
        let mut due = Vec::new();
        for (member, peer) in &mut *peers {
            if let Some((_, sent)) = &mut peer.probe
                && stood_still
            {
                *sent = now;
            }
            peer.doubt.take_if(|doubt| now >= doubt.last + DOUBT_OVER);
            if !peer.heard_of.is_empty() && now >= peer.again && peer.probe.is_none() {
                peer.asked.append(&mut peer.heard_of);
                peer.since = now.saturating_sub(ms(options.ask_patience));
            }
            match peer.probe {
                None => {
                    let asked = !peer.asked.is_empty();
                    let late = asked && now >= peer.since + ms(options.ask_patience);
                    let others = suspected.iter().filter(|(suspect, _)| suspect != member);
                    let control = others.map(|(_, since)| *since).max();
                    let control = control.is_some_and(|since| peer.proved < since);
                    let wanted = std::mem::take(&mut peer.late) || !peer.wanted.is_empty();
                    if late || control || wanted || peer.doubt.is_some() {
                        *last_probe += 1;
                        peer.probe = Some((*last_probe, now));
                        peer.probed = now;
                        peer.waiting = std::mem::take(&mut peer.asked);
                        peer.told_late = false;
                        due.push(Due::Probe(*member, *last_probe));
                    }
                }
                Some((_, sent)) if now >= sent + patience => {
                    let shards = peer.complaint(now, ms(options.complain_again));
                    if !shards.is_empty() {
                        due.push(Due::Complain(*member, shards));
                    }
                    if sure.contains(member) && now >= peer.wanted_since + CONFIRMED {
                        for (turn, shards) in peer.take_wanted() {
                            due.push(Due::TakeOver(*member, turn, shards));
                        }
                    }
                    let silent = |doubt: &mut Doubt| now >= doubt.since + patience;
                    if let Some(doubt) = peer.doubt.take_if(silent) {
                        due.push(Due::DeputySilent(doubt.turn));
                    }
                }
                Some((_, sent)) => {
                    let late = now >= sent + LATE && !peer.waiting.is_empty();
                    if late && !std::mem::replace(&mut peer.told_late, true) {
                        due.push(Due::Late(*member));
                    }
                }
            }
            let too_long = |doubt: &mut Doubt| now >= doubt.first + DOUBTED_MAX;
            if let Some(doubt) = peer.doubt.take_if(too_long) {
                due.push(Due::DeputySilent(doubt.turn));
            }
        }
        let probing = peers.values().any(|peer| peer.probe.is_some());
        self.probing.store(probing, Ordering::Relaxed);
        due
    }
}

#[cfg(test)]
mod tests {
    use sluice_lockmgr::{MemberEpoch, MemberId};

    use super::*;
    use crate::membership::ManualClock;

    const PEER: Member = Member {
        id: MemberId(2),
        epoch: MemberEpoch(7),
    };

    fn watch() -> (Arc<ManualClock>, Watch) {
        let clock = Arc::new(ManualClock::default());
        let watch = Watch::new(
            WatchOptions::default(),
            Arc::<ManualClock>::clone(&clock) as _,
        );
        watch.members(&BTreeSet::from([PEER]));
        (clock, watch)
    }

    /// What is due while time goes by and answers about these shards are awaited.
    fn pass(clock: &ManualClock, watch: &Watch, ms: u64, awaited: &[u16]) -> Vec<Due> {
        let mut due = Vec::new();
        for _ in 0..ms {
            clock.advance(Duration::from_millis(1));
            due.extend(look(watch, awaited));
        }
        due
    }

    fn look(watch: &Watch, awaited: &[u16]) -> Vec<Due> {
        let awaited = awaited.iter().map(|shard| (PEER, ShardId(*shard)));
        watch.due(|| awaited.collect())
    }

    #[test]
    fn a_member_that_answers_probes_is_not_complained_about_however_long_a_request_waits() {
        let (clock, watch) = watch();
        watch.asks(PEER, ShardId(5));
        assert_eq!(look(&watch, &[5, 6]), []);
        assert_eq!(pass(&clock, &watch, 5, &[5, 6]), [Due::Probe(PEER, 1)]);
        for number in 1..9 {
            assert_eq!(pass(&clock, &watch, 4, &[5, 6]), []);
            watch.answered(PEER, number);
            let rest = watch.next_look().expect("it may stop yet");
            assert!(rest > LOOK * 10, "{rest:?}");
            let again = Due::Probe(PEER, number + 1);
            assert_eq!(pass(&clock, &watch, 50, &[5, 6]), [again]);
        }
        watch.answered(PEER, 9);
        assert_eq!(pass(&clock, &watch, 9_000, &[]), []);
    }

    #[test]
    fn a_member_that_stops_after_it_heard_a_request_is_complained_about() {
        let (clock, watch) = watch();
        watch.asks(PEER, ShardId(5));
        pass(&clock, &watch, 5, &[5, 6]);
        watch.answered(PEER, 1);
        let complaint = Due::Complain(PEER, vec![ShardId(5)]);
        let due = pass(&clock, &watch, 70, &[5, 6]);
        assert_eq!(due, [Due::Probe(PEER, 2), Due::Late(PEER), complaint]);
    }

    #[test]
    fn a_request_that_is_over_costs_no_probe() {
        let (clock, watch) = watch();
        watch.asks(PEER, ShardId(5));
        clock.advance(Duration::from_millis(50));
        assert_eq!(look(&watch, &[]), []);
        assert_eq!(watch.next_look(), None);
    }

    #[test]
    fn a_silent_member_is_complained_about_at_once_for_each_shard_and_again_later() {
        let (clock, watch) = watch();
        watch.asks(PEER, ShardId(5));
        pass(&clock, &watch, 5, &[5, 6]);
        let five = Due::Complain(PEER, vec![ShardId(5)]);
        assert_eq!(pass(&clock, &watch, 20, &[5, 6]), [Due::Late(PEER), five]);
        assert_eq!(look(&watch, &[5, 6]), []);
        watch.asks(PEER, ShardId(6));
        let six = Due::Complain(PEER, vec![ShardId(6)]);
        assert_eq!(look(&watch, &[5, 6]), [six]);
        let both = Due::Complain(PEER, vec![ShardId(5), ShardId(6)]);
        assert_eq!(pass(&clock, &watch, 100, &[5, 6]), [both]);
        watch.moved(PEER, &[ShardId(5), ShardId(6)]);
        assert_eq!(pass(&clock, &watch, 100, &[5, 6]), []);
    }

    #[test]
    fn a_deputy_takes_over_only_from_a_member_that_does_not_answer_it_either() {
        let (clock, watch) = watch();
        let take = || Due::TakeOver(PEER, 1, vec![(ShardId(5), ShardEpoch(3))]);
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        assert_eq!(look(&watch, &[]), [Due::Probe(PEER, 1)]);
        watch.answered(PEER, 1);
        assert_eq!(pass(&clock, &watch, 20, &[]), []);
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        assert_eq!(look(&watch, &[]), [Due::Probe(PEER, 2)]);
        assert_eq!(pass(&clock, &watch, 20, &[]), [take()]);
        assert_eq!(look(&watch, &[]), []);
        // The next complaint finds the same probe unanswered.
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        assert_eq!(pass(&clock, &watch, CONFIRMED - 1, &[]), []);
        assert_eq!(pass(&clock, &watch, 1, &[]), [take()]);
    }

    #[test]
    fn a_deputy_probes_as_soon_as_a_probe_of_others_is_late() {
        let (clock, watch) = watch();
        watch.is_late(PEER);
        assert_eq!(look(&watch, &[]), [Due::Probe(PEER, 1)]);
        assert_eq!(pass(&clock, &watch, 20, &[]), []);
        assert_eq!(watch.next_look(), Some(LOOK));
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        let take = Due::TakeOver(PEER, 1, vec![(ShardId(5), ShardEpoch(3))]);
        assert_eq!(pass(&clock, &watch, CONFIRMED, &[]), [take]);
        // One that answers is left alone.
        watch.answered(PEER, 1);
        watch.is_late(PEER);
        assert_eq!(look(&watch, &[]), [Due::Probe(PEER, 2)]);
        watch.answered(PEER, 2);
        assert_eq!(pass(&clock, &watch, 100, &[]), []);
        assert_eq!(watch.next_look(), None);
    }

    #[test]
    fn a_deputy_that_does_not_hear_from_the_others_takes_nothing_over() {
        let (clock, watch) = watch();
        let other = Member {
            id: MemberId(3),
            epoch: MemberEpoch(8),
        };
        watch.members(&BTreeSet::from([PEER, other]));
        clock.advance(Duration::from_millis(1));
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        let both = [Due::Probe(PEER, 1), Due::Probe(other, 2)];
        assert_eq!(look(&watch, &[]), both);
        assert_eq!(pass(&clock, &watch, 500, &[]), []);
        watch.answered(other, 2);
        let take = Due::TakeOver(PEER, 1, vec![(ShardId(5), ShardEpoch(3))]);
        assert_eq!(look(&watch, &[]), [take]);
        // Without an answer it is over some time.
        clock.advance(Duration::from_millis(1));
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        assert_eq!(pass(&clock, &watch, 2_000, &[]), [Due::Probe(other, 3)]);
        assert!(watch.next_look().is_none());
    }

    #[test]
    fn a_node_that_stood_still_itself_takes_over_nothing_before_it_has_looked_for_long_enough() {
        let (clock, watch) = watch();
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        look(&watch, &[]);
        clock.advance(Duration::from_millis(500));
        assert_eq!(look(&watch, &[]), []);
        assert_eq!(pass(&clock, &watch, 19, &[]), []);
        assert_eq!(pass(&clock, &watch, 1, &[]).len(), 1);
    }

    #[test]
    fn a_member_that_says_other_things_is_waited_for_but_not_for_ever() {
        let (clock, watch) = watch();
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        look(&watch, &[]);
        let mut waited = 0;
        loop {
            watch.heard(PEER);
            waited += 1;
            if !pass(&clock, &watch, 1, &[]).is_empty() {
                break;
            }
        }
        assert_eq!(waited, 119);
    }

    #[test]
    fn what_was_answered_is_not_complained_about_though_other_requests_wait() {
        let (clock, watch) = watch();
        for shard in 0..100 {
            watch.asks(PEER, ShardId(shard));
        }
        assert_eq!(pass(&clock, &watch, 5, &[7]), [Due::Probe(PEER, 1)]);
        watch.answered(PEER, 1);
        for shard in 100..200 {
            watch.asks(PEER, ShardId(shard));
        }
        let due = pass(&clock, &watch, 60, &[7, 150]);
        let complaint = Due::Complain(PEER, vec![ShardId(7), ShardId(150)]);
        assert_eq!(due, [Due::Probe(PEER, 2), Due::Late(PEER), complaint]);
        watch.answered(PEER, 2);
        assert_eq!(pass(&clock, &watch, 1, &[]), []);
        assert_eq!(watch.next_look(), None);
    }

    #[test]
    fn where_answers_are_slow_silence_is_longer() {
        let (clock, watch) = watch();
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        look(&watch, &[]);
        pass(&clock, &watch, 15, &[]);
        watch.answered(PEER, 1);
        watch.suspects(PEER, ShardId(5), ShardEpoch(3), 1);
        look(&watch, &[]);
        assert_eq!(pass(&clock, &watch, 29, &[]), []);
        assert_eq!(pass(&clock, &watch, 1, &[]).len(), 1);
    }

    #[test]
    fn a_deputy_is_silent_if_it_does_not_answer_a_probe_either() {
        let (clock, watch) = watch();
        watch.doubts(PEER, 4);
        assert_eq!(look(&watch, &[]), [Due::Probe(PEER, 1)]);
        for _ in 0..3 {
            assert_eq!(pass(&clock, &watch, 5, &[]), []);
            watch.doubts(PEER, 4);
        }
        assert_eq!(pass(&clock, &watch, 5, &[]), [Due::DeputySilent(4)]);
        assert_eq!(pass(&clock, &watch, 200, &[]), []);
    }

    #[test]
    fn a_deputy_that_answers_probes_is_waited_for_but_not_for_ever() {
        let (clock, watch) = watch();
        let mut waited = 0;
        loop {
            watch.doubts(PEER, 4);
            let due = look(&watch, &[]);
            if due.contains(&Due::DeputySilent(4)) || waited > 9_999 {
                break;
            }
            for probe in due {
                let Due::Probe(_, number) = probe else {
                    panic!("{probe:?}");
                };
                watch.answered(PEER, number);
            }
            clock.advance(Duration::from_millis(1));
            waited += 1;
        }
        assert_eq!(waited, DOUBTED_MAX);
    }
}
