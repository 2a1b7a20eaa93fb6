//! The membership of this node as a plain state machine: own lease, the others' leases, and the owners of the shards.
//!
//! No clock, no registry, no socket: what happened comes in with the moment, what to do comes out in order. The rules it keeps:
//! - the own lease counts from before the renewal was *sent*, with a margin, on the own clock;
//! - somebody is fenced for silence only if the own clock saw the same lease end for longer than that lease can have been
//!   good by any clock, without a gap in what was seen; and for death only if its process refuses calls and its life lock is free;
//! - nobody acts (fences, takes, calls back) without a lease of its own;
//! - members are announced before a shard map that was read with or before them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sluice_lockmgr::{
    FenceOutcome, Heartbeat, LeftLocks, Member, MemberList, MemberRecord, MemberState,
    RegistryError, RegistryTime, ShardEpoch, ShardId, ShardMap,
};

use super::ClusterEvent;
use super::lists::Lists;
use super::plan::Held;
use crate::transport::DialError;
use crate::transport::links::LinkNote;

/// Milliseconds of the node's own clock.
pub type Ms = u64;

/// Pause after a failed call of the registry.
const RETRY: Ms = 200;
/// Pause after an attempt to fence a process that refuses calls and whose life lock is not free: the registry hears of its end a
/// moment later. Each is twice as long; after the longest there is one attempt for each refusal, until a connection stands again.
const FENCE_PAUSE: (Ms, Ms) = (5, 80);

/// The machine's times.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a lease lasts from a renewal on.
    pub ttl: Ms,
    /// The own lease is taken to end this much early.
    pub margin: Ms,
    /// Between two renewals.
    pub renew: Ms,
    /// Between looks at the member list, ordinarily and when somebody seems lost.
    pub look: Ms,
    /// See `look`.
    pub look_suspicious: Ms,
    /// Longer between two looks than this is a gap: what was seen before it proves nothing.
    pub gap: Ms,
}

impl Timing {
    /// The times that fit a lease: with one of 6 s a renewal each second and a margin of 1 s.
    #[must_use]
    pub fn for_lease(lease: Duration) -> Self {
        let ttl = Ms::try_from(lease.as_millis()).unwrap_or(Ms::MAX / 2);
        Self {
            ttl,
            margin: ttl / 6,
            renew: ttl / 6,
            look: ttl / 12,
            look_suspicious: ttl / 24,
            gap: ttl / 3,
        }
    }

    /// How long a lease end must be seen unchanged before its holder is fenced: by then its own clock has ended the lease, also
    /// if the two clocks differ by a few per cent in rate and whatever the registry's clock did.
    pub(crate) fn unchanged(&self) -> Ms {
        self.ttl - self.margin / 2
    }
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// Time went by.
    Tick,
    /// A renewal was answered.
    Renewed {
        /// When it was sent.
        sent: Ms,
        /// How.
        result: Result<Heartbeat, RegistryError>,
    },
    /// What a former member left behind: to be told before what the look shows that found it.
    Left(LeftLocks),
    /// A look: the map (if it was asked for) was read before the members or with them.
    Looked {
        /// When it was asked for.
        asked: Ms,
        /// How.
        result: Result<(Option<ShardMap>, MemberList), RegistryError>,
    },
    /// An attempt to fence has ended.
    FenceTried {
        /// Whom.
        victim: Member,
        /// How.
        result: Result<FenceOutcome, RegistryError>,
    },
    /// An attempt to take or to hand over shards has ended, however: also after a failure its effect may have happened.
    ShardsMoved,
    /// A call to an advertised address has ended.
    CalledBack {
        /// Whom.
        member: Member,
        /// How.
        result: Result<(), DialError>,
    },
    /// An attempt to set a state has ended, however.
    StateSet,
    /// The life lock is held.
    LifeHeld,
    /// The life lock is lost.
    LifeLost,
    /// The life lock could not be had.
    LifeRefused,
    /// A turn is drawn; the version of the shard map then.
    TurnDrawn(Result<u64, RegistryError>),
    /// An attempt to take shards from a silent member has ended.
    TookSilent {
        /// From whom.
        from: Member,
        /// Under which of its turns.
        turn: u64,
        /// How.
        result: Result<Vec<Held>, RegistryError>,
    },
    /// A link says something.
    Link(LinkNote),
    /// The registry may have changed.
    Hint,
    /// This node is to give everything away.
    Drain,
}

/// What to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Renew the lease.
    Renew {
        /// The revocations that the last renewal brought.
        heard: Vec<u64>,
    },
    /// Read the members.
    Look {
        /// Read the shard map too, before them or with them.
        map: bool,
    },
    /// Fence a member whose lease ended.
    FenceExpired {
        /// Whom.
        victim: Member,
        /// When its lease ended.
        expires: RegistryTime,
    },
    /// Fence a member whose process is dead.
    FenceDead {
        /// Whom.
        victim: Member,
    },
    /// Take these shards.
    Take(Vec<Held>),
    /// Draw a turn.
    DrawTurn {
        /// Which.
        turn: u64,
    },
    /// Take shards from a silent member.
    TakeSilent {
        /// From whom.
        from: Member,
        /// Under which of its turns.
        turn: u64,
        /// Which.
        shards: Vec<Held>,
    },
    /// Give shards away.
    HandOver {
        /// To whom.
        to: Member,
        /// Which.
        shards: Vec<Held>,
    },
    /// Call an advertised address.
    CallBack {
        /// Whom.
        member: Member,
        /// Where.
        address: String,
    },
    /// Move a member to another stage.
    SetState {
        /// Whom.
        member: Member,
        /// Which.
        state: MemberState,
    },
    /// Take the life lock.
    HoldLife,
    /// Messages for this member are taken from now on...
    Open {
        /// Whom.
        member: Member,
        /// Where.
        address: String,
    },
    /// ...and exchanged with it from now on.
    Connect(Member),
    /// Exchange no messages with it any more.
    Close(Member),
    /// The own lease holds until then; 0: not now.
    ValidUntil(Ms),
    /// Tell the token runtime.
    Tell(ClusterEvent),
    /// This node takes part now.
    Admitted,
    /// This node owns no shard any more and is to get none, or there is nobody to give them to.
    Drained,
    /// Tell the administrator.
    Alarm(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Has a lease, is not admitted yet.
    Joining,
    Live,
    Frozen,
    /// Lost: nothing happens any more.
    Ended,
}

/// What is known of another member.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub record: MemberRecord,
    /// Announced to the token runtime.
    pub up: bool,
    pub connected: bool,
    /// Since when its lease end has been seen unchanged (the moment at which the first such answer was there).
    pub unchanged_since: Ms,
    pub first_seen: Ms,
    /// Its address refused a call after the last connection.
    pub refused: bool,
    /// A fence or call-back is under way.
    pub fencing: bool,
    pub calling: bool,
    pub next_fence: Ms,
    /// Before the next attempt, should its life lock not be free yet.
    pub fence_pause: Ms,
    pub next_call: Ms,
    /// When it was silent as the deputy, and how often before.
    pub shunned: Option<(Ms, u32)>,
    /// Others complained about it, or shards were taken from it: none are given away for balance before that.
    pub silent_until: Ms,
    /// These shards are being taken from it.
    pub taking: Option<Vec<Held>>,
    /// These are to be taken next, under that turn.
    pub take_next: (u64, BTreeMap<ShardId, ShardEpoch>),
    /// These may have been taken, under that turn: there was no answer.
    pub unsure: (u64, Vec<Held>),
}

/// See the module's head.
pub struct Machine {
    pub(super) me: Member,
    pub(super) address: String,
    pub(super) timing: Timing,
    pub(super) phase: Phase,
    pub(super) draining: bool,
    pub(super) drained: bool,
    /// End of the own lease by the own clock, margin taken off.
    pub(super) lease_until: Ms,
    pub(super) life: Life,
    pub(super) renewing: bool,
    /// Revocations that were told on, for the next renewal.
    pub(super) heard: Vec<u64>,
    pub(super) next_renew: Ms,
    pub(super) looking: bool,
    /// No look before that.
    pub(super) look_pause: Ms,
    /// When the last answered look was asked: what it showed was so at this moment or later.
    pub(super) look_answered: Ms,
    pub(super) next_look: Ms,
    pub(super) want_look: bool,
    pub(super) want_map: bool,
    last_look: Option<Ms>,
    /// After a freeze nothing read before counts: a look asked after this moment must succeed before the thaw.
    pub(super) look_after: Option<Ms>,
    pub(super) history_lost: bool,
    pub(super) list_version: u64,
    pub(super) map: Arc<ShardMap>,
    pub(super) peers: BTreeMap<Member, Seen>,
    /// An own attempt to move shards is under way, or its result is not read yet.
    pub(super) moving: Moving,
    pub(super) members_changed: Ms,
    /// Nothing is to be moved until the map or the member list changes.
    pub(super) balanced: bool,
    pub(super) self_call: SelfCall,
    pub(super) lists: Lists,
    /// The turn that was drawn last.
    pub(super) turn: u64,
    /// The own admission was seen in a list that was read at this moment.
    admission_seen: Option<Ms>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Held,
    Wanted { next_try: Ms },
    Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moving {
    No,
    Asked,
    /// The map must be read after this moment before the next move.
    ReadFirst(Ms),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SelfCall {
    Next(Ms),
    Asked,
}

impl Machine {
    /// A node that joined just now: `sent` is the moment before the join was sent, from which its first lease counts.
    pub fn new(me: Member, address: String, timing: Timing, sent: Ms) -> Self {
        Self {
            me,
            address,
            timing,
            phase: Phase::Joining,
            draining: false,
            drained: false,
            lease_until: sent + timing.ttl - timing.margin,
            life: Life::Held,
            renewing: false,
            heard: Vec::new(),
            next_renew: sent + timing.renew,
            looking: false,
            look_pause: 0,
            look_answered: 0,
            next_look: 0,
            want_look: true,
            want_map: true,
            last_look: None,
            look_after: None,
            history_lost: false,
            list_version: 0,
            map: Arc::default(),
            peers: BTreeMap::new(),
            moving: Moving::No,
            members_changed: sent,
            balanced: false,
            self_call: SelfCall::Next(0),
            lists: Lists::None,
            turn: 0,
            admission_seen: None,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn map(&self) -> &Arc<ShardMap> {
        &self.map
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// The other members that were announced.
    pub(crate) fn members_up(&self) -> impl Iterator<Item = Member> + '_ {
        let up = self.peers.iter().filter(|(_, peer)| peer.up);
        up.map(|(member, _)| *member)
    }

    pub(crate) fn lease_until(&self) -> Ms {
        self.lease_until
    }

    /// Takes what happened and then looks at the time.
    pub fn step(&mut self, now: Ms, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        if self.phase == Phase::Ended {
            return out;
        }
        match input {
            Input::Tick => {}
            Input::Renewed { sent, result } => self.renewed(now, sent, result, &mut out),
            Input::Left(left) => out.push(Output::Tell(ClusterEvent::Left(left))),
            Input::Looked { asked, result } => self.looked(now, asked, result, &mut out),
            Input::FenceTried { victim, result } => self.fence_tried(now, victim, result),
            Input::ShardsMoved => {
                self.moving = Moving::ReadFirst(now);
                (self.want_map, self.look_pause) = (true, 0);
            }
            Input::CalledBack { member, result } => self.called_back(now, member, result, &mut out),
            Input::StateSet => self.want_look = true,
            Input::Hint => (self.want_look, self.want_map) = (true, true),
            Input::LifeHeld => {
                self.life = Life::Held;
                self.next_renew = self.next_renew.min(now);
            }
            Input::LifeLost => self.life = Life::Wanted { next_try: now },
            Input::LifeRefused => {
                self.life = Life::Wanted {
                    next_try: now + 100,
                };
            }
            Input::TurnDrawn(result) => self.turn_drawn(now, result, &mut out),
            Input::TookSilent { from, turn, result } => {
                self.took_silent(now, (from, turn), result, &mut out);
            }
            Input::Link(LinkNote::DeputySilent { turn }) => self.deputy_silent(now, turn),
            Input::Link(LinkNote::TakeOver { from, turn, shards }) => {
                self.take_silent(now, from, (turn, shards), &mut out);
            }
            Input::Link(LinkNote::Silent(of)) => self.is_silent(now, of),
            Input::Link(note) => self.link_note(note),
            Input::Drain if self.draining => {}
            Input::Drain => out.push(Output::SetState {
                member: self.me,
                state: MemberState::Draining,
            }),
        }
        if self.phase != Phase::Ended {
            self.turn(now, &mut out);
        }
        out
    }

    fn renewed(
        &mut self,
        now: Ms,
        sent: Ms,
        result: Result<Heartbeat, RegistryError>,
        out: &mut Vec<Output>,
    ) {
        self.renewing = false;
        match result {
            Ok(heartbeat) => {
                self.next_renew = sent + self.timing.renew;
                // Before the lease is prolonged: whoever took them away counts on it.
                self.heard = heartbeat.revoked.iter().map(|token| token.id).collect();
                if !heartbeat.revoked.is_empty() {
                    out.push(Output::Tell(ClusterEvent::Revoked(heartbeat.revoked)));
                }
                let until = sent + self.timing.ttl - self.timing.margin;
                if until > self.lease_until {
                    self.lease_until = until;
                    if self.phase == Phase::Live && self.life == Life::Held {
                        out.push(Output::ValidUntil(until));
                    }
                }
                self.want_look |= heartbeat.members != self.list_version;
                self.want_map |= heartbeat.shards != self.map.version;
                if self.phase == Phase::Frozen && self.look_after.is_none() {
                    self.look_after = Some(now);
                    self.want_map = true;
                }
            }
            Err(error) => {
                self.next_renew = now + RETRY;
                self.registry_failed(&error, out);
            }
        }
    }

    /// What a failure means for the own membership.
    pub(super) fn registry_failed(&mut self, error: &RegistryError, out: &mut Vec<Output>) {
        match error {
            RegistryError::Fenced => self.lose(out),
            RegistryError::HistoryLost(why) => {
                if !self.history_lost {
                    self.history_lost = true;
                    out.push(Output::Alarm(why.clone()));
                }
                self.freeze(out);
            }
            _ => {}
        }
    }

    pub(super) fn lose(&mut self, out: &mut Vec<Output>) {
        self.phase = Phase::Ended;
        out.push(Output::ValidUntil(0));
        out.extend(self.peers.keys().map(|member| Output::Close(*member)));
        out.push(Output::Tell(ClusterEvent::Lost));
    }

    pub(super) fn freeze(&mut self, out: &mut Vec<Output>) {
        if self.phase == Phase::Live {
            self.phase = Phase::Frozen;
            self.look_after = None;
            out.push(Output::ValidUntil(0));
            out.push(Output::Tell(ClusterEvent::Frozen));
        }
    }

    fn looked(
        &mut self,
        now: Ms,
        asked: Ms,
        result: Result<(Option<ShardMap>, MemberList), RegistryError>,
        out: &mut Vec<Output>,
    ) {
        self.looking = false;
        let (map, list) = match result {
            Ok(view) => view,
            Err(error) => {
                (self.want_look, self.want_map) = (true, true);
                self.look_pause = now + RETRY;
                return self.registry_failed(&error, out);
            }
        };
        let gap = self
            .last_look
            .is_none_or(|last| asked.saturating_sub(last) > self.timing.gap);
        self.last_look = Some(now);
        self.look_answered = asked;
        if self.list_version != list.version {
            self.list_version = list.version;
            self.balanced = false;
        }
        let Some(own) = list.members.iter().find(|record| record.member == self.me) else {
            return self.lose(out);
        };
        let own_state = own.state;
        self.draining = own_state == MemberState::Draining;
        self.forget_the_gone(now, &list, out);
        self.note_leases(now, gap, list);
        if map.is_some() {
            if let Moving::ReadFirst(after) = self.moving
                && asked >= after
            {
                self.moving = Moving::No;
            }
            if self.look_after.is_some_and(|after| asked >= after) {
                self.look_after = Some(Ms::MAX);
            }
        }
        let read = map.is_some();
        let admitted = self.phase == Phase::Joining
            && own_state != MemberState::Joining
            && self.knows_map_since_admission(now, asked, read);
        if admitted {
            self.phase = Phase::Live;
            out.push(Output::ValidUntil(self.lease_until));
            out.push(Output::Admitted);
        }
        let newer = map.filter(|map| map.version > self.map.version);
        let changed = newer.is_some();
        if let Some(map) = newer {
            self.map = Arc::new(map);
            self.balanced = false;
        }
        if self.phase != Phase::Joining {
            self.announce(now, out);
            if changed || admitted {
                out.push(Output::Tell(ClusterEvent::Shards(Arc::clone(&self.map))));
            }
            self.map_was_told(out);
        }
    }

    /// Whoever took a shard over before this node was admitted did not ask it what it has: it must know of that before it asks
    /// anybody for anything.
    fn knows_map_since_admission(&mut self, now: Ms, asked: Ms, read: bool) -> bool {
        let since = *self.admission_seen.get_or_insert(now);
        let knows = read && asked > since;
        if !knows {
            (self.want_look, self.want_map, self.look_pause) = (true, true, 0);
        }
        knows
    }

    fn forget_the_gone(&mut self, now: Ms, list: &MemberList, out: &mut Vec<Output>) {
        let gone: Vec<Member> = self
            .peers
            .keys()
            .filter(|member| !list.members.iter().any(|record| record.member == **member))
            .copied()
            .collect();
        for member in gone {
            self.members_changed = now;
            if self.peers.remove(&member).is_some_and(|peer| peer.up) {
                out.push(Output::Close(member));
                out.push(Output::Tell(ClusterEvent::NodeDown(member)));
            }
        }
    }

    fn note_leases(&mut self, now: Ms, gap: bool, list: MemberList) {
        for record in list.members {
            if record.member == self.me {
                continue;
            }
            let peer = self.peers.entry(record.member).or_insert_with(|| Seen {
                record: record.clone(),
                up: false,
                connected: false,
                unchanged_since: now,
                first_seen: now,
                refused: false,
                fencing: false,
                calling: false,
                next_fence: 0,
                fence_pause: FENCE_PAUSE.0,
                next_call: 0,
                shunned: None,
                silent_until: 0,
                taking: None,
                take_next: Default::default(),
                unsure: Default::default(),
            });
            if gap || peer.record.expires != record.expires {
                peer.unchanged_since = now;
            }
            peer.record = record;
        }
    }

    fn announce(&mut self, now: Ms, out: &mut Vec<Output>) {
        for (member, peer) in &mut self.peers {
            if !peer.up && peer.record.state != MemberState::Joining {
                peer.up = true;
                self.members_changed = now;
                out.push(Output::Open {
                    member: *member,
                    address: peer.record.advertise.clone(),
                });
                out.push(Output::Tell(ClusterEvent::NodeUp(*member)));
                out.push(Output::Connect(*member));
            }
        }
    }

    fn fence_tried(
        &mut self,
        now: Ms,
        victim: Member,
        result: Result<FenceOutcome, RegistryError>,
    ) {
        if let Some(peer) = self.peers.get_mut(&victim) {
            peer.fencing = false;
            let soon = peer.fence_pause <= FENCE_PAUSE.1;
            if peer.refused && soon && result == Ok(FenceOutcome::Alive) {
                peer.next_fence = now + peer.fence_pause;
                peer.fence_pause *= 2;
            } else {
                peer.next_fence = now + 100;
                // The next refused call brings the next attempt.
                peer.refused = false;
            }
        }
        // An own lease that ran out shows as `Fenced` here too; the next renewal tells which it is.
        if matches!(result, Ok(FenceOutcome::Fenced | FenceOutcome::Gone)) {
            (self.want_look, self.want_map, self.look_pause) = (true, true, 0);
        }
    }

    fn called_back(
        &mut self,
        now: Ms,
        member: Member,
        result: Result<(), DialError>,
        out: &mut Vec<Output>,
    ) {
        let admit = Output::SetState {
            member,
            state: MemberState::Live,
        };
        if member == self.me {
            self.self_call = SelfCall::Next(now + 500);
            if result.is_ok() && self.phase == Phase::Joining && self.may_act(now) {
                out.push(admit);
            }
            return;
        }
        let Some(peer) = self.peers.get_mut(&member) else {
            return;
        };
        peer.calling = false;
        peer.next_call = now + 500;
        peer.refused = result == Err(DialError::Refused);
        let joining = peer.record.state == MemberState::Joining;
        if result.is_ok() && joining && self.phase == Phase::Live {
            out.push(admit);
        }
    }

    fn link_note(&mut self, note: LinkNote) {
        match note {
            LinkNote::Connected(member) => {
                if let Some(peer) = self.peers.get_mut(&member) {
                    peer.connected = true;
                    peer.refused = false;
                    peer.fence_pause = FENCE_PAUSE.0;
                }
            }
            LinkNote::Disconnected(member) => {
                if let Some(peer) = self.peers.get_mut(&member) {
                    peer.connected = false;
                }
                self.want_look = true;
            }
            LinkNote::Refused(member) => {
                if let Some(peer) = self.peers.get_mut(&member) {
                    peer.refused = !peer.connected;
                }
            }
            LinkNote::UnknownCaller => self.want_look = true,
            LinkNote::DeputySilent { .. } | LinkNote::TakeOver { .. } | LinkNote::Silent(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
