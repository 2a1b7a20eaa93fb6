//! What the membership machine does because time has passed or something is now due.

use sluice_lockmgr::{Member, MemberState};

use super::ClusterEvent;
use super::machine::{Life, Machine, Moving, Ms, Output, Phase, SelfCall};
use super::plan;

/// Shards handed over in one transaction.
const HAND_OVER_MAX: usize = 512;
/// The members must have been the same for so long before shards move for balance.
const SETTLED: Ms = 1000;
/// Orphans that nobody took for so long are taken by everybody who sees them.
const ORPHANS_MAX: Ms = 1000;
/// Looks come at most so often.
const LOOK_PAUSE: Ms = 10;
/// Members other than the first call a joining node back after this, should the first not do it.
const CALL_BACK_PATIENCE: Ms = 1500;
/// A lease end unchanged for so long is suspicious.
const SUSPICIOUS: Ms = 2500;

impl Machine {
    /// Whether the own lease holds and the own process is provably alive.
    pub(super) fn may_act(&self, now: Ms) -> bool {
        now < self.lease_until && self.life == Life::Held && !self.history_lost
    }

    pub(super) fn turn(&mut self, now: Ms, out: &mut Vec<Output>) {
        if !self.may_act(now) {
            self.freeze(out);
            if self.phase == Phase::Frozen && now >= self.lease_until {
                // What was read while the lease was good for a moment does not count for the next thaw.
                self.look_after = None;
            }
        } else if self.phase == Phase::Frozen && self.look_after == Some(Ms::MAX) {
            self.thaw(out);
        }
        if let Life::Wanted { next_try } = self.life
            && now >= next_try
        {
            self.life = Life::Asked;
            out.push(Output::HoldLife);
        }
        if !self.renewing && now >= self.next_renew {
            self.renewing = true;
            let heard = self.heard.clone();
            out.push(Output::Renew { heard });
        }
        self.look_if_due(now, out);
        if self.phase == Phase::Frozen || !self.may_act(now) {
            return;
        }
        self.fence_the_lost(now, out);
        match self.phase {
            Phase::Joining => self.find_a_way_in(now, out),
            _ => self.call_joining_back(now, out),
        }
        self.see_to_lists(now, out);
        if self.phase == Phase::Live && self.moving == Moving::No && !self.balanced {
            self.move_shards(now, out);
        }
    }

    fn thaw(&mut self, out: &mut Vec<Output>) {
        self.phase = Phase::Live;
        self.look_after = None;
        out.push(Output::ValidUntil(self.lease_until));
        out.push(Output::Tell(ClusterEvent::Thawed));
    }

    fn look_if_due(&mut self, now: Ms, out: &mut Vec<Output>) {
        let wanted = self.want_look || self.want_map;
        let due = now >= self.next_look || wanted;
        if self.looking || !due || now < self.look_pause {
            return;
        }
        let suspicious = self.phase != Phase::Live
            || self.peers.values().any(|peer| {
                (peer.up && !peer.connected) || now > peer.unchanged_since + SUSPICIOUS
            });
        let interval = match suspicious {
            true => self.timing.look_suspicious,
            false => self.timing.look,
        };
        self.next_look = now + interval;
        self.looking = true;
        self.look_pause = now + LOOK_PAUSE;
        out.push(Output::Look { map: self.want_map });
        self.want_look = false;
        self.want_map = false;
    }

    fn fence_the_lost(&mut self, now: Ms, out: &mut Vec<Output>) {
        let (asked, unchanged) = (self.look_answered, self.timing.unchanged());
        for (member, peer) in &mut self.peers {
            if peer.fencing || now < peer.next_fence {
                continue;
            }
            if asked >= peer.unchanged_since + unchanged {
                peer.fencing = true;
                out.push(Output::FenceExpired {
                    victim: *member,
                    expires: peer.record.expires,
                });
            } else if peer.refused {
                peer.fencing = true;
                out.push(Output::FenceDead { victim: *member });
            }
        }
    }

    /// Not admitted yet: the members call us back; without any, we do it. Members that refuse calls may be dead ones.
    fn find_a_way_in(&mut self, now: Ms, out: &mut Vec<Output>) {
        let mut alone = true;
        for (member, peer) in &mut self.peers {
            if peer.record.state == MemberState::Joining {
                continue;
            }
            alone = false;
            if !peer.calling && now >= peer.next_call {
                peer.calling = true;
                out.push(Output::CallBack {
                    member: *member,
                    address: peer.record.advertise.clone(),
                });
            }
        }
        if let SelfCall::Next(at) = self.self_call
            && alone
            && self.list_version > 0
            && now >= at
        {
            self.self_call = SelfCall::Asked;
            out.push(Output::CallBack {
                member: self.me,
                address: self.address.clone(),
            });
        }
    }

    fn call_joining_back(&mut self, now: Ms, out: &mut Vec<Output>) {
        let first = !self
            .peers
            .iter()
            .any(|(member, peer)| *member < self.me && peer.record.state != MemberState::Joining);
        for (member, peer) in &mut self.peers {
            let due = first || now >= peer.first_seen + CALL_BACK_PATIENCE;
            let joining = peer.record.state == MemberState::Joining;
            if joining && due && !peer.calling && now >= peer.next_call {
                peer.calling = true;
                out.push(Output::CallBack {
                    member: *member,
                    address: peer.record.advertise.clone(),
                });
            }
        }
    }

    fn move_shards(&mut self, now: Ms, out: &mut Vec<Output>) {
        let mut alive: Vec<Member> = self.peers.keys().copied().collect();
        alive.push(self.me);
        alive.sort_unstable();
        let draining = |member: &Member| match self.peers.get(member) {
            Some(peer) => peer.record.state != MemberState::Live,
            None => self.draining,
        };
        let mut keepers: Vec<Member> = alive.iter().filter(|m| !draining(m)).copied().collect();
        let nobody_stays = keepers.is_empty();
        // One that hangs could not report what it has: what moves would wait for it.
        let silent = |member: &Member| {
            let peer = self.peers.get(member);
            peer.is_some_and(|peer| {
                now < peer.silent_until || now > peer.unchanged_since + SUSPICIOUS
            })
        };
        let orphans = plan::orphans(&self.map, &alive);
        if !orphans.is_empty() {
            if nobody_stays {
                // All are on their way out: somebody must serve until then.
                keepers.push(self.me);
            }
            let mut mine = plan::take_over(&self.map, &orphans, &keepers, self.me);
            if mine.is_empty() && now >= self.members_changed + ORPHANS_MAX && !self.draining {
                mine = orphans;
            }
            if !mine.is_empty() {
                self.moving = Moving::Asked;
                out.push(Output::Take(mine));
            }
            return;
        }
        let somebody_silent = self.peers.keys().any(silent);
        if !self.draining && (now < self.members_changed + SETTLED || somebody_silent) {
            return;
        }
        if self.draining && keepers.iter().any(|member| !silent(member)) {
            keepers.retain(|member| !silent(member));
        }
        if let Some((to, shards)) = plan::give_away(&self.map, &keepers, self.me, HAND_OVER_MAX) {
            self.moving = Moving::Asked;
            out.push(Output::HandOver { to, shards });
            return;
        }
        self.balanced = true;
        if self.draining && !self.drained && (nobody_stays || !self.owns_shards()) {
            self.drained = true;
            out.push(Output::Drained);
        }
    }

    fn owns_shards(&self) -> bool {
        self.map.iter().any(|(_, row)| row.owner == Some(self.me))
    }
}
