//! Nodes, their leases and their links: what the membership machine wants done.

use futures::FutureExt;
use sluice_lockmgr::{EpochRegistry, Member, RegistryError};
use sluice_lockmgr_cluster::core::{Body, Event as TokenEvent, TokenMessage};
use sluice_lockmgr_cluster::membership::{ClusterEvent, Input, LinkNote, Output};
use sluice_lockmgr_cluster::transport::DialError;

use super::{Call, DATABASE_PATIENCE_MS, Event, TICK_MS, World, pair};
use crate::Mutant;
use crate::node::Node;

/// Ticks between two calls of an address that refused.
const REDIAL_TICKS: u64 = 8;

fn unavailable() -> RegistryError {
    RegistryError::Unavailable("no answer in time".into())
}

impl World {
    pub(super) fn tick(&mut self, member: Member) {
        let Some(slot) = self.slot(member) else {
            return;
        };
        self.after(TICK_MS, Event::Tick(member));
        self.look_at_links(slot);
        self.input(member, Input::Tick);
        let now = self.now;
        let due = self
            .node(member)
            .is_some_and(|node| node.tokens.next_deadline() <= node.token_time(now));
        if due {
            self.tokens(member, TokenEvent::Tick);
        }
        self.check_patience(member);
    }

    /// Connections stand where both want them and reach each other; an address whose process is gone refuses.
    fn look_at_links(&mut self, slot: usize) {
        let Some(node) = self.nodes[slot].as_mut() else {
            return;
        };
        let (me, redial) = (node.me, node.ticks.is_multiple_of(REDIAL_TICKS));
        node.ticks += 1;
        let open: Vec<Member> = node.open.iter().copied().collect();
        for other in open {
            let at = self.slot(other);
            let both = at.and_then(|at| self.nodes[at].as_ref());
            let wanted = both.is_some_and(|other| other.open.contains(&me));
            match at {
                Some(at) => {
                    let stands = wanted && self.reachable(slot, at);
                    self.connect(pair(slot, at), stands);
                }
                None => {
                    // Another incarnation on the same address answers that it is not the one; none at all refuses.
                    let taken = self.nodes.iter().flatten().any(|n| n.me.id == other.id);
                    self.input(me, Input::Link(LinkNote::Disconnected(other)));
                    if redial && !taken {
                        self.input(me, Input::Link(LinkNote::Refused(other)));
                    }
                }
            }
        }
    }

    fn connect(&mut self, both: (usize, usize), stands: bool) {
        let changed = match stands {
            true => self.connected.insert(both),
            false => self.connected.remove(&both),
        };
        if !changed {
            return;
        }
        let of = |world: &Self, slot: usize| world.nodes[slot].as_ref().map(|node| node.me);
        let (Some(a), Some(b)) = (of(self, both.0), of(self, both.1)) else {
            return;
        };
        let note = |other| match stands {
            true => LinkNote::Connected(other),
            false => LinkNote::Disconnected(other),
        };
        self.after(0, Event::Input(a, Input::Link(note(b))));
        self.after(0, Event::Input(b, Input::Link(note(a))));
    }

    pub(super) fn input(&mut self, member: Member, input: Input) {
        let now = self.now;
        let Some(node) = self.node_mut(member) else {
            return;
        };
        let clock = node.clock.at(now);
        for output in node.membership.step(clock, input) {
            self.perform(member, output);
        }
    }

    fn perform(&mut self, member: Member, output: Output) {
        let clock = match self.node(member) {
            Some(node) => node.clock.at(self.now),
            None => return,
        };
        match output {
            Output::Renew { heard } => self.call(member, Call::Renew { sent: clock, heard }),
            Output::Look { map } => self.call(member, Call::Look { asked: clock, map }),
            Output::FenceExpired { victim, expires } => {
                self.call(member, Call::FenceExpired { victim, expires });
            }
            Output::FenceDead { victim } => self.call(member, Call::FenceDead { victim }),
            Output::Take(shards) => self.call(member, Call::Take(shards)),
            Output::HandOver { to, shards } => self.call(member, Call::HandOver { to, shards }),
            Output::DrawTurn { turn } => self.call(member, Call::DrawTurn { turn }),
            Output::TakeSilent { from, turn, shards } => {
                self.call(member, Call::TakeSilent { from, turn, shards });
            }
            Output::SetState { member: of, state } => {
                self.call(member, Call::SetState { member: of, state });
            }
            Output::HoldLife => self.call(member, Call::HoldLife),
            Output::CallBack { member: whom, .. } => self.call_back(member, whom),
            Output::Open { member: other, .. } => {
                if let Some(node) = self.node_mut(member) {
                    node.open.insert(other);
                }
            }
            Output::Close(other) => {
                if let Some(node) = self.node_mut(member) {
                    node.open.remove(&other);
                    node.closed.insert(other);
                }
                self.links.remove(&(other, member));
                self.links.remove(&(member, other));
            }
            Output::ValidUntil(until) => {
                if let Some(node) = self.node_mut(member) {
                    node.valid_until = until;
                }
            }
            Output::Tell(event) => self.cluster_event(member, event),
            Output::Connect(_) | Output::Admitted | Output::Drained | Output::Alarm(_) => {}
        }
    }

    fn call_back(&mut self, member: Member, whom: Member) {
        let (from, to) = (self.slot(member), self.slot(whom));
        let result = match (from, to) {
            (_, None) => Err(DialError::Refused),
            (Some(a), Some(b)) if self.reachable(a, b) => match &self.nodes[b] {
                Some(node) if !node.paused => Ok(()),
                _ => Err(DialError::Unreachable("no answer".into())),
            },
            _ => Err(DialError::Unreachable("no route".into())),
        };
        let wait = self.network_delay() * 2;
        let input = Input::CalledBack {
            member: whom,
            result,
        };
        self.after(wait, Event::Input(member, input));
    }

    fn cluster_event(&mut self, member: Member, event: ClusterEvent) {
        let event = match event {
            // Nobody here has NFS locks.
            ClusterEvent::Left(_) => return,
            ClusterEvent::NodeUp(other) => TokenEvent::NodeUp(other),
            ClusterEvent::NodeDown(other) => TokenEvent::NodeDown(other),
            ClusterEvent::Frozen => {
                self.set_frozen(member, true);
                TokenEvent::Frozen
            }
            ClusterEvent::Thawed => {
                self.set_frozen(member, false);
                TokenEvent::Thawed
            }
            ClusterEvent::Revoked(tokens) => {
                if self.plan.mutant == Mutant::DeafRenewal {
                    return;
                }
                TokenEvent::Revoked(tokens)
            }
            ClusterEvent::Deputy(deputy) => {
                self.report.voided += u64::from(deputy.is_none());
                TokenEvent::Deputy(deputy)
            }
            ClusterEvent::TookOver { from, turn, shards } => {
                self.report.taken_over += shards.len() as u64;
                for (_, took) in TokenEvent::of_silent(from, turn, shards, true) {
                    self.tokens(member, took);
                }
                return;
            }
            ClusterEvent::NotTaken { from, turn, shards } => {
                for (_, refused) in TokenEvent::of_silent(from, turn, shards, false) {
                    self.tokens(member, refused);
                }
                return;
            }
            ClusterEvent::Shards(map) => {
                let Some(node) = self.node_mut(member) else {
                    return;
                };
                node.known_map = map.version;
                let mut news = Vec::new();
                for ((shard, owner), known) in map.iter().zip(&mut node.told) {
                    if owner.epoch > *known {
                        *known = owner.epoch;
                        news.push((shard, owner));
                    }
                }
                TokenEvent::Shards(news)
            }
            ClusterEvent::Lost => {
                // The daemon drops everything and joins again.
                if let Some(slot) = self.slot(member) {
                    self.end(slot);
                    let wait = self.random.between(50, 500);
                    self.after(wait, Event::Start(slot));
                }
                return;
            }
        };
        self.tokens(member, event);
    }

    fn set_frozen(&mut self, member: Member, frozen: bool) {
        if let Some(node) = self.node_mut(member) {
            node.frozen = frozen;
        }
    }

    // ---- the database ----

    /// A statement is sent. Where the database can't be reached, the answer is that there was none.
    pub(super) fn call(&mut self, member: Member, call: Call) {
        let mut wait = self.network_delay();
        // Now and then a commit is stuck on its way for longer than a lease lasts.
        let commit = matches!(call, Call::Commit { .. });
        if commit && self.report.faults > 0 && self.random.one_in(300) {
            wait += self.random.between(1_000, 12_000);
        }
        self.after(wait, Event::Call(member, call));
    }

    pub(super) fn call_arrives(&mut self, member: Member, call: Call) {
        let slot = self.slot(member);
        let reachable =
            slot.is_none_or(|slot| self.database_reachable(slot)) && self.database_down <= self.now;
        // The process may be gone: what it sent is carried out all the same.
        let done = reachable || (self.database_down <= self.now && self.random.one_in(3));
        let input = match call {
            Call::Head { .. } | Call::Commit { .. } | Call::ForceFence(_) => {
                return self.data_call(member, call, done, reachable);
            }
            call => self.registry_call(member, call, done, reachable),
        };
        let wait = match reachable {
            true => self.network_delay(),
            false => DATABASE_PATIENCE_MS,
        };
        if let Some(input) = input {
            self.after(wait, Event::Input(member, input));
        }
    }

    fn registry_call(
        &mut self,
        member: Member,
        call: Call,
        done: bool,
        heard: bool,
    ) -> Option<Input> {
        let door = self.node(member)?.door.clone();
        fn now<T>(
            done: bool,
            heard: bool,
            call: impl std::future::Future<Output = Result<T, RegistryError>>,
        ) -> Result<T, RegistryError> {
            let result = if done { call.now_or_never() } else { None };
            result.filter(|_| heard).unwrap_or(Err(unavailable()))
        }
        Some(match call {
            Call::Renew { sent, heard: known } => Input::Renewed {
                sent,
                result: now(done, heard, door.renew(member, &known)),
            },
            Call::Look { asked, map } => Input::Looked {
                asked,
                result: now(done, heard, door.look(map, &[])).map(|s| (s.map, s.members)),
            },
            Call::FenceExpired { victim, expires } => Input::FenceTried {
                victim,
                result: now(done, heard, door.fence_expired(member, victim, expires)),
            },
            Call::FenceDead { victim } => Input::FenceTried {
                victim,
                result: now(done, heard, door.fence_dead(member, victim)),
            },
            Call::Take(shards) => {
                // However it ended: the machine reads the map again.
                let _ = now(done, heard, door.take_shards(member, &shards));
                Input::ShardsMoved
            }
            Call::HandOver { to, shards } => {
                let _ = now(done, heard, door.hand_over(member, to, &shards));
                Input::ShardsMoved
            }
            Call::DrawTurn { turn } => {
                let mut result = now(done, heard, door.draw_turn(member, turn));
                if self.plan.mutant == Mutant::NoLook {
                    let known = self.node(member)?.known_map;
                    result = result.map(|_| known);
                }
                Input::TurnDrawn(result)
            }
            Call::TakeSilent { from, turn, shards } => {
                let named = match self.plan.mutant {
                    Mutant::AnyTurn => self.database.registry.turn(from),
                    _ => turn,
                };
                let result = now(done, heard, door.take_silent(member, from, named, &shards));
                Input::TookSilent { from, turn, result }
            }
            Call::SetState { member: of, state } => {
                let _ = now(done, heard, door.set_state(member, of, state));
                Input::StateSet
            }
            Call::HoldLife => match now(done, heard, door.hold_life(member)) {
                Ok(life) => {
                    self.node_mut(member)?.life = Some(life);
                    Input::LifeHeld
                }
                Err(_) => Input::LifeRefused,
            },
            Call::Head { .. } | Call::Commit { .. } | Call::ForceFence(_) => return None,
        })
    }

    // ---- links ----

    pub(super) fn send(&mut self, from: Member, to: Member, message: TokenMessage) {
        if self
            .node(from)
            .is_some_and(|node| node.closed.contains(&to))
        {
            return;
        }
        self.complain_perhaps(from, to, &message);
        self.links.entry((from, to)).or_default().push_back(message);
        let at = self.now + self.network_delay();
        let last = self.link_times.entry((from, to)).or_default();
        *last = (*last).max(at);
        let wait = *last - self.now;
        self.after(wait, Event::Deliver { from, to });
    }

    /// Somebody finds that the receiver of a request is silent: mostly where it is, and now and then where it is not.
    fn complain_perhaps(&mut self, from: Member, to: Member, message: &TokenMessage) {
        let Body::Ask { .. } = message.body else {
            return;
        };
        let silent = self.slot(to).is_some_and(|slot| {
            let paused = self.nodes[slot].as_ref().is_some_and(|node| node.paused);
            let cut = self
                .slot(from)
                .is_some_and(|from| !self.reachable(from, slot));
            paused || cut || self.deaf[slot] > self.now
        });
        if !(silent || self.random.one_in(self.plan.spurious)) {
            return;
        }
        let all: Vec<Member> = self.nodes.iter().flatten().map(|node| node.me).collect();
        for member in all {
            let event = TokenEvent::Silent {
                shard: message.shard,
                of: to,
            };
            let wait = self.random.between(0, 60);
            self.after(wait, Event::Tokens(member, event));
        }
    }

    /// Directly, through the database's mailbox where there is no connection, or later.
    pub(super) fn deliver(&mut self, from: Member, to: Member) {
        let Some(receiver) = self.node(to) else {
            self.links.remove(&(from, to));
            return;
        };
        if receiver.closed.contains(&from) {
            self.links.remove(&(from, to));
            return;
        }
        let (a, b) = (self.slot(from), self.slot(to));
        let open = receiver.open.contains(&from);
        let deaf = |slot: Option<usize>| slot.is_some_and(|slot| self.deaf[slot] > self.now);
        let path = match (a, b) {
            _ if deaf(a) || deaf(b) => false,
            (Some(a), Some(b)) if self.reachable(a, b) => true,
            (Some(a), Some(b)) => {
                self.database_reachable(a) && self.database_reachable(b) && self.random.one_in(3)
            }
            // The sender is gone; what it had sent arrives, or does not.
            _ => self.random.one_in(2),
        };
        if a.is_none() && !path {
            self.links.remove(&(from, to));
            return;
        }
        if !open || !path {
            let wait = self.random.between(10, 40);
            return self.after(wait, Event::Deliver { from, to });
        }
        let next = self.links.get_mut(&(from, to)).and_then(|q| q.pop_front());
        if let Some(message) = next {
            self.tokens(to, TokenEvent::Message { from, message });
        }
    }

    /// Those who act on a document now.
    pub(super) fn holders(&self, document: u64) -> Vec<(String, bool)> {
        let acting = |node: &&Node| node.may_act(self.now);
        let mut holders = Vec::new();
        for node in self.nodes.iter().flatten().filter(acting) {
            for (owner, exclusive) in node.held.get(&document).into_iter().flatten() {
                holders.push((format!("{}/{}", node.me, owner.2), *exclusive));
            }
        }
        holders
    }
}
