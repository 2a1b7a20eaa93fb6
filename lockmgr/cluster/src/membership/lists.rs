//! The deputy of this node, to whom its lists go, and the taking over of shards from a silent member.
//!
//! The deputy is the next member by number that is there. One that is silent loses its place before anything else goes on: the
//! registry is told that this node's lists count no more (the next turn is drawn), and what was taken with them is read.

use std::collections::BTreeMap;

use sluice_lockmgr::{Member, MemberState, RegistryError};

use super::ClusterEvent;
use super::machine::{Machine, Ms, Output, Phase, Seen};
use super::plan::Held;

/// A deputy that was silent is not asked again for so long. Long enough for what stands still for a moment not to be asked at
/// every breath, short beside the time in which documents of a hung node would wait. Each further time it is twice as long: every
/// change of the deputy costs a list of each shard.
const SHUNNED: Ms = 2000;
/// The same where nobody else is there to be asked.
const SHUNNED_ALONE: Ms = 200;
const SHUNNED_DOUBLED_MAX: u32 = 5;
/// After so long without a time it begins anew.
const FORGIVEN: Ms = 60_000;
/// Nothing is given away for balance for so long after a complaint. By the end of it one that hangs has not renewed its lease for
/// so long that it shows ([`super::turn`]).
const COMPLAINED: Ms = 3000;
/// Shards that were taken from a silent member stay for so long, so that none go to and fro, unless it is gone by then: that
/// comes well before, and all is divided anew.
const KEEP_TAKEN: Ms = 15_000;
/// Pause after a turn that could not be drawn.
const DRAW_AGAIN: Ms = 100;

/// Where the lists of this node stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lists {
    /// Nobody has any.
    None,
    /// They go to this member.
    With(Member),
    /// They count no more, which the registry is to be told.
    Void { next_try: Ms },
    /// It is being told.
    Drawing,
    /// It knows. This version of the map, or a later one, must be read before this node goes on without.
    ReadFirst { version: u64 },
}

impl Machine {
    pub(super) fn see_to_lists(&mut self, now: Ms, out: &mut Vec<Output>) {
        match self.lists {
            Lists::None if self.phase == Phase::Live => {
                if let Some(deputy) = self.next_deputy(now) {
                    self.lists = Lists::With(deputy);
                    let deputy = Some((deputy, self.turn));
                    out.push(Output::Tell(ClusterEvent::Deputy(deputy)));
                }
            }
            Lists::With(deputy) if !self.stays(deputy) => {
                self.lists = Lists::Void { next_try: now };
                self.see_to_lists(now, out);
            }
            Lists::Void { next_try } if now >= next_try => {
                self.lists = Lists::Drawing;
                out.push(Output::DrawTurn {
                    turn: self.turn + 1,
                });
            }
            _ => {}
        }
    }

    /// Whether a member takes part and is not about to leave.
    fn stays(&self, member: Member) -> bool {
        let peer = self.peers.get(&member);
        peer.is_some_and(|peer| peer.up && peer.record.state == MemberState::Live)
    }

    fn next_deputy(&self, now: Ms) -> Option<Member> {
        let fits = |member: &Member, pause: Ms| {
            let peer = self.peers.get(member).filter(|peer| peer.connected);
            let heard = peer.is_some_and(|peer| match peer.shunned {
                None => true,
                Some((at, times)) => now >= at + (pause << times),
            });
            heard && self.stays(*member)
        };
        let mut order: Vec<Member> = self.peers.keys().copied().collect();
        order.sort_by_key(|member| (*member < self.me, *member));
        let find = |pause| order.iter().copied().find(|member| fits(member, pause));
        find(SHUNNED).or_else(|| find(SHUNNED_ALONE))
    }

    pub(super) fn deputy_silent(&mut self, now: Ms, turn: u64) {
        if let Lists::With(deputy) = self.lists
            && turn == self.turn
        {
            self.lists = Lists::Void { next_try: now };
            if let Some(peer) = self.peers.get_mut(&deputy) {
                let times = match peer.shunned {
                    Some((at, times)) if now < at + FORGIVEN => times + 1,
                    _ => 0,
                };
                peer.shunned = Some((now, times.min(SHUNNED_DOUBLED_MAX)));
            }
        }
    }

    pub(super) fn turn_drawn(
        &mut self,
        now: Ms,
        result: Result<u64, RegistryError>,
        out: &mut Vec<Output>,
    ) {
        match result {
            Ok(version) => {
                self.turn += 1;
                self.lists = Lists::ReadFirst { version };
                self.map_was_told(out);
                if self.lists != Lists::None {
                    (self.want_look, self.want_map, self.look_pause) = (true, true, 0);
                }
            }
            Err(error) => {
                self.lists = Lists::Void {
                    next_try: now + DRAW_AGAIN,
                };
                self.registry_failed(&error, out);
            }
        }
    }

    /// The map that this node knows was told.
    pub(super) fn map_was_told(&mut self, out: &mut Vec<Output>) {
        if let Lists::ReadFirst { version } = self.lists
            && self.map.version >= version
        {
            self.lists = Lists::None;
            out.push(Output::Tell(ClusterEvent::Deputy(None)));
        }
        self.ask_what_was_taken(out);
    }

    /// Take-overs that happened though they failed: they are asked for again, for the answer.
    fn ask_what_was_taken(&mut self, out: &mut Vec<Output>) {
        for (from, peer) in &mut self.peers {
            let (turn, unsure) = &peer.unsure;
            let mine = |(shard, epoch): &&Held| {
                let row = self.map.owner(*shard);
                (row.owner, row.epoch.0) == (Some(self.me), epoch.0 + 1)
            };
            let shards: Vec<Held> = unsure.iter().filter(mine).copied().collect();
            if peer.taking.is_none() && !shards.is_empty() {
                let (from, turn) = (*from, *turn);
                peer.unsure.1.clear();
                peer.taking = Some(shards.clone());
                out.push(Output::TakeSilent { from, turn, shards });
            }
        }
    }

    /// What was wanted meanwhile.
    fn take_what_waits(&mut self, now: Ms, out: &mut Vec<Output>) {
        let waits = |peer: &&mut Seen| peer.taking.is_none() && !peer.take_next.1.is_empty();
        let mut due = Vec::new();
        for (member, peer) in &mut self.peers {
            if let Some(peer) = Some(peer).filter(waits) {
                let (turn, shards) = std::mem::take(&mut peer.take_next);
                due.push((*member, (turn, shards.into_iter().collect())));
            }
        }
        for (member, wanted) in due {
            self.take_silent(now, member, wanted, out);
        }
    }

    /// One attempt for each member at a time: what is wanted meanwhile goes together.
    pub(super) fn take_silent(
        &mut self,
        now: Ms,
        from: Member,
        (turn, shards): (u64, Vec<Held>),
        out: &mut Vec<Output>,
    ) {
        let serves = self.phase == Phase::Live && self.may_act(now) && !self.draining;
        let Some(peer) = self.peers.get_mut(&from).filter(|_| serves) else {
            return;
        };
        if peer.taking.is_some() {
            if peer.take_next.0 != turn {
                peer.take_next = (turn, BTreeMap::new());
            }
            peer.take_next.1.extend(shards);
            return;
        }
        peer.taking = Some(shards.clone());
        out.push(Output::TakeSilent { from, turn, shards });
    }

    pub(super) fn took_silent(
        &mut self,
        now: Ms,
        (from, turn): (Member, u64),
        result: Result<Vec<Held>, RegistryError>,
        out: &mut Vec<Output>,
    ) {
        // It may have happened even if it failed, and somebody else may have been quicker.
        (self.want_look, self.want_map) = (true, true);
        let mut asked = Vec::new();
        if let Some(peer) = self.peers.get_mut(&from) {
            asked = peer.taking.take().unwrap_or_default();
            if result.is_err() {
                if peer.unsure.0 != turn {
                    peer.unsure = (turn, Vec::new());
                }
                peer.unsure.1.extend(asked.iter().copied());
            }
        }
        if let Ok(shards) = result {
            self.look_pause = 0;
            asked.retain(|(shard, _)| !shards.iter().any(|(taken, _)| taken == shard));
            if !shards.is_empty() {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.silent_until = now + KEEP_TAKEN;
                }
                let took = ClusterEvent::TookOver { from, turn, shards };
                out.push(Output::Tell(took));
            }
            if !asked.is_empty() {
                let shards = asked;
                let refused = ClusterEvent::NotTaken { from, turn, shards };
                out.push(Output::Tell(refused));
            }
        }
        self.take_what_waits(now, out);
    }

    /// Somebody complains about a member: nothing goes to it for balance, nor to others, lest they find that it lacks something.
    pub(super) fn is_silent(&mut self, now: Ms, of: Member) {
        if let Some(peer) = self.peers.get_mut(&of) {
            peer.silent_until = peer.silent_until.max(now + COMPLAINED);
        }
    }
}
