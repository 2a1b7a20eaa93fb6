//! The world: one queue of events in the order of their moments, and what each of them does.

mod effects;
mod membership;
mod settle;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use futures::FutureExt;
use sluice_lockmgr::{EpochRegistry, JoinRequest, Member, RegistryTime, Revocation};
use sluice_lockmgr_cluster::core::{Event as TokenEvent, RequestId, TokenMessage};
use sluice_lockmgr_cluster::membership::{Held, Input};

use crate::database::{Commit, Committed, Database};
use crate::faults::Fault;
use crate::gate::{ClientId, Op};
use crate::node::{Clock, Node};
use crate::random::Random;
use crate::{Plan, Report, Violation};

/// Between two looks of a node at its clock.
const TICK_MS: u64 = 25;
/// After how long a node gives up on a database that does not answer.
const DATABASE_PATIENCE_MS: u64 = 2_000;

/// What happens at some moment.
#[derive(Debug)]
pub(crate) enum Event {
    /// The next message of a link arrives.
    Deliver { from: Member, to: Member },
    /// A node looks at its clock.
    Tick(Member),
    /// A statement reaches the database.
    Call(Member, Call),
    /// Its answer reaches the node.
    Answer(Member, Answer),
    /// The membership machine hears something.
    Input(Member, Input),
    /// The token machine hears something.
    Tokens(Member, TokenEvent),
    /// An answer to another node's request is given.
    Say {
        at: Member,
        document: u64,
        from: Member,
        request: RequestId,
        evaluation: u64,
        op: Op,
    },
    /// A node is asked whether something of a document is uncommitted.
    Settle(settle::Question),
    /// A client goes on; the owner says for which of its operations this was meant.
    Client(Member, usize, ClientId),
    /// The next fault.
    Fault,
    /// The database is there again.
    DatabaseUp,
    /// A node stood still and goes on.
    Resume(Member),
    /// A process starts.
    Start(usize),
}

/// A statement.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Renew {
        sent: u64,
        heard: Vec<u64>,
    },
    Look {
        asked: u64,
        map: bool,
    },
    FenceExpired {
        victim: Member,
        expires: RegistryTime,
    },
    FenceDead {
        victim: Member,
    },
    Take(Vec<Held>),
    HandOver {
        to: Member,
        shards: Vec<Held>,
    },
    SetState {
        member: Member,
        state: sluice_lockmgr::MemberState,
    },
    HoldLife,
    DrawTurn {
        turn: u64,
    },
    TakeSilent {
        from: Member,
        turn: u64,
        shards: Vec<Held>,
    },
    ForceFence(Revocation),
    Head {
        client: usize,
        owner: ClientId,
        document: u64,
    },
    Commit {
        client: usize,
        owner: ClientId,
        commit: Commit,
    },
}

/// An answer to a client's statement.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Head {
        client: usize,
        owner: ClientId,
        version: Option<u64>,
    },
    Commit {
        client: usize,
        owner: ClientId,
        outcome: Option<Committed>,
    },
}

/// See the module's head.
pub(crate) struct World {
    plan: Plan,
    random: Random,
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    database: Database,
    nodes: Vec<Option<Node>>,
    links: BTreeMap<(Member, Member), VecDeque<TokenMessage>>,
    /// When the last message of a link arrives.
    link_times: BTreeMap<(Member, Member), u64>,
    connected: BTreeSet<(usize, usize)>,
    cut: BTreeMap<(usize, usize), u64>,
    database_cut: Vec<u64>,
    /// Until when each node hears and says nothing.
    deaf: Vec<u64>,
    database_down: u64,
    slow_until: u64,
    faults_end: bool,
    healed_at: u64,
    next_operation: u64,
    /// Newest version of each document that anybody was told of, and all of them: operation and version.
    acknowledged: BTreeMap<u64, (u64, Vec<(u64, u64)>)>,
    report: Report,
    broken: Option<(&'static str, String)>,
}

impl World {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut world = Self {
            random: Random::new(plan.seed),
            plan: plan.clone(),
            now: 1_000,
            queue: BTreeMap::new(),
            next_event: 0,
            database: Database::new(),
            nodes: (0..plan.nodes).map(|_| None).collect(),
            links: BTreeMap::new(),
            link_times: BTreeMap::new(),
            connected: BTreeSet::new(),
            cut: BTreeMap::new(),
            database_cut: vec![0; plan.nodes],
            deaf: vec![0; plan.nodes],
            database_down: 0,
            slow_until: 0,
            faults_end: false,
            healed_at: 0,
            next_operation: 0,
            acknowledged: BTreeMap::new(),
            report: Report::default(),
            broken: None,
        };
        for node in 0..plan.nodes {
            world.after(node as u64 * 10, Event::Start(node));
        }
        world.after(10_000, Event::Fault);
        world
    }

    pub(crate) fn run(mut self) -> Result<Report, Violation> {
        while self.report.operations < self.plan.operations || !self.faults_end {
            if self.report.operations >= self.plan.operations {
                self.end_faults();
            }
            let Some(((at, _), event)) = self.queue.pop_first() else {
                self.violated("I7 liveness", "nothing happens any more".into());
                break;
            };
            self.pass(at);
            self.happen(event);
            if self.broken.is_some() {
                break;
            }
        }
        if self.broken.is_none() {
            self.settle();
        }
        match self.broken {
            Some((invariant, what)) => Err(Violation {
                invariant,
                what,
                seed: self.plan.seed,
                at_ms: self.now,
            }),
            None => {
                self.report.ms = self.now;
                Ok(self.report)
            }
        }
    }

    /// After the last fault everybody must get on: each client completes something more, within the stated patience.
    fn settle(&mut self) {
        let goal = self.report.operations + self.plan.clients * self.plan.nodes as u64 * 2;
        while self.report.operations < goal && self.broken.is_none() {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return self.violated("I7 liveness", "nothing happens any more".into());
            };
            self.pass(at);
            self.happen(event);
        }
        for (document, (_, told)) in &self.acknowledged {
            let history = self.database.history(*document);
            if let Err(what) = crate::invariants::lineage::check(*document, history, told) {
                self.broken = Some(("I2 lineage", what));
                return;
            }
        }
    }

    fn end_faults(&mut self) {
        self.faults_end = true;
        let longest = [self.database_down, self.slow_until]
            .into_iter()
            .chain(self.database_cut.iter().copied())
            .chain(self.deaf.iter().copied())
            .chain(self.cut.values().copied())
            .max()
            .unwrap_or(0);
        // Pauses and restarts are on the queue; the longest takes 14 s.
        self.healed_at = longest.max(self.now) + 14_000;
    }

    fn pass(&mut self, at: u64) {
        let by = at.saturating_sub(self.now);
        self.database.registry.advance(Duration::from_millis(by));
        self.now = self.now.max(at);
    }

    fn happen(&mut self, event: Event) {
        self.note(&event);
        if let Some(member) = event.member()
            && let Some(node) = self.node_mut(member)
            && node.paused
            && !matches!(event, Event::Resume(_))
        {
            // A statement that was sent goes its way.
            if !matches!(event, Event::Call(..)) {
                node.deferred.push(event);
                return;
            }
        }
        match event {
            Event::Deliver { from, to } => self.deliver(from, to),
            Event::Tick(member) => self.tick(member),
            Event::Call(member, call) => self.call_arrives(member, call),
            Event::Answer(member, answer) => self.answered(member, answer),
            Event::Input(member, input) => self.input(member, input),
            Event::Tokens(member, event) => self.tokens(member, event),
            Event::Say {
                at,
                document,
                from,
                request,
                evaluation,
                op,
            } => self.say_later(at, document, (from, request, evaluation), op),
            Event::Settle(question) => self.settle_asked(question),
            Event::Client(member, client, owner) => self.client_goes_on(member, client, owner),
            Event::Fault => self.fault(),
            Event::DatabaseUp => {
                if self.database_down <= self.now {
                    self.database.registry.set_down(false);
                }
            }
            Event::Resume(member) => self.resume(member),
            Event::Start(node) => self.start(node),
        }
    }

    /// Every event goes into the fingerprint.
    fn note(&mut self, event: &Event) {
        let kind = match event {
            Event::Deliver { from, to } => 1 + from.epoch.0 * 31 + to.epoch.0 * 37,
            Event::Tick(member) => 2 + member.epoch.0 * 41,
            Event::Call(member, _) => 3 + member.epoch.0 * 43,
            Event::Answer(member, _) => 4 + member.epoch.0 * 47,
            Event::Input(member, _) => 5 + member.epoch.0 * 53,
            Event::Tokens(member, _) => 6 + member.epoch.0 * 59,
            Event::Say { at, .. } => 9 + at.epoch.0 * 67,
            Event::Client(member, client, _) => 7 + member.epoch.0 * 61 + *client as u64,
            _ => 8,
        };
        let digest = &mut self.report.digest;
        *digest = (*digest ^ kind ^ (self.now << 20))
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(17);
    }

    // ---- helpers ----

    pub(crate) fn after(&mut self, wait: u64, event: Event) {
        self.next_event += 1;
        self.queue.insert((self.now + wait, self.next_event), event);
    }

    fn violated(&mut self, invariant: &'static str, what: String) {
        self.broken.get_or_insert((invariant, what));
    }

    fn slot(&self, member: Member) -> Option<usize> {
        self.nodes
            .iter()
            .position(|node| node.as_ref().is_some_and(|node| node.me == member))
    }

    fn node(&self, member: Member) -> Option<&Node> {
        self.nodes.iter().flatten().find(|node| node.me == member)
    }

    fn node_mut(&mut self, member: Member) -> Option<&mut Node> {
        self.nodes
            .iter_mut()
            .flatten()
            .find(|node| node.me == member)
    }

    fn reachable(&self, a: usize, b: usize) -> bool {
        self.cut.get(&pair(a, b)).is_none_or(|end| *end <= self.now)
    }

    fn database_reachable(&self, node: usize) -> bool {
        self.database_down <= self.now
            && self
                .database_cut
                .get(node)
                .is_none_or(|end| *end <= self.now)
    }

    fn network_delay(&mut self) -> u64 {
        let slow = if self.now < self.slow_until { 60 } else { 1 };
        let delay = match self.random.below(20) {
            0 => self.random.between(1, 30),
            _ => self.random.between(0, 2),
        };
        delay * slow
    }

    // ---- processes ----

    /// A process starts: it joins, or tries again.
    fn start(&mut self, slot: usize) {
        if self.nodes[slot].is_some() {
            return;
        }
        let name = format!("n{slot}");
        let door = self.database.registry.door();
        let request = JoinRequest {
            name: name.clone(),
            advertise: name.clone(),
            version: String::new(),
        };
        let joined = if self.database_reachable(slot) {
            door.join(&request).now_or_never()
        } else {
            None
        };
        let Some(Ok(joined)) = joined else {
            return self.after(300, Event::Start(slot));
        };
        let clock = Clock {
            start: self.random.between(0, 1 << 30),
            drift: i64::try_from(self.random.below(40_001)).unwrap_or(0) - 20_000,
        };
        let (now, me) = (clock.at(self.now), joined.member);
        let node = Node::new(me, name, clock, now, door, joined.life, self.plan.clients);
        self.nodes[slot] = Some(node);
        self.after(0, Event::Tick(me));
        for client in 0..usize::try_from(self.plan.clients).unwrap_or(0) {
            let owner = (me.id, me.epoch.0, client as u64);
            let pause = self.random_pause();
            self.after(pause, Event::Client(me, client, owner));
        }
    }

    fn random_pause(&mut self) -> u64 {
        self.random.between(0, 30)
    }

    /// The process ends: its connections break, its life lock is free, what it sent goes its way.
    fn end(&mut self, slot: usize) {
        if self.nodes[slot].take().is_some() {
            self.report.losses += 1;
            self.connected.retain(|(a, b)| *a != slot && *b != slot);
            for node in self.nodes.iter_mut().flatten() {
                // The others see the connection break when they next look.
                node.ticks = 0;
            }
        }
    }

    fn resume(&mut self, member: Member) {
        let Some(node) = self.node_mut(member) else {
            return;
        };
        node.paused = false;
        let deferred = std::mem::take(&mut node.deferred);
        // Its clients may be quicker than what others said meanwhile.
        for document in 1..=self.plan.documents {
            self.settle_some(member, document);
        }
        for event in deferred {
            self.after(0, event);
        }
    }

    // ---- faults ----

    fn fault(&mut self) {
        if self.faults_end {
            return;
        }
        let mean = self.plan.faults.every_ms;
        let next = self.random.between(mean / 4, mean * 2);
        self.after(next, Event::Fault);
        let Some(fault) = self.plan.faults.choose(&mut self.random, self.nodes.len()) else {
            return;
        };
        self.report.faults += 1;
        match fault {
            Fault::Kill { node, down } => {
                if self.nodes[node].is_some() {
                    self.end(node);
                    self.after(down, Event::Start(node));
                }
            }
            Fault::Pause { node, length } => {
                if let Some(node) = self.nodes[node].as_mut().filter(|node| !node.paused) {
                    node.paused = true;
                    let me = node.me;
                    self.after(length, Event::Resume(me));
                }
            }
            Fault::Cut { a, b, length } => {
                if a != b {
                    let end = self.cut.entry(pair(a, b)).or_default();
                    *end = (*end).max(self.now + length);
                }
            }
            Fault::DatabaseCut { node, length } => {
                self.database_cut[node] = self.database_cut[node].max(self.now + length);
                self.life_breaks(node);
            }
            Fault::DatabaseDown { length } => {
                self.database_down = self.database_down.max(self.now + length);
                self.database.registry.set_down(true);
                self.after(length, Event::DatabaseUp);
                for node in 0..self.nodes.len() {
                    self.life_breaks(node);
                }
            }
            Fault::ClockJump { by } => {
                self.database.registry.advance(Duration::from_millis(by));
            }
            Fault::Deaf { node, length } => {
                self.deaf[node] = self.deaf[node].max(self.now + length);
            }
            Fault::Slow { length } => self.slow_until = self.slow_until.max(self.now + length),
        }
    }

    /// The connection with the life lock is gone; the database knows at once, the node some time.
    fn life_breaks(&mut self, slot: usize) {
        let Some(node) = &mut self.nodes[slot] else {
            return;
        };
        let (me, door) = (node.me, node.door.clone());
        door.lose_life(me);
        // A lock is lost once: with a second notice the node would ask twice, and its own lock would refuse it for ever.
        if node.life.take().is_none() {
            return;
        }
        let wait = self.random.between(0, 1_500);
        self.after(wait, Event::Input(me, Input::LifeLost));
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Event {
    /// Whose event it is.
    fn member(&self) -> Option<Member> {
        match self {
            Event::Deliver { to, .. } => Some(*to),
            Event::Say { at, .. } => Some(*at),
            Event::Settle(question) => Some(question.at),
            Event::Tick(member)
            | Event::Call(member, _)
            | Event::Answer(member, _)
            | Event::Input(member, _)
            | Event::Tokens(member, _)
            | Event::Client(member, ..)
            | Event::Resume(member) => Some(*member),
            _ => None,
        }
    }
}
