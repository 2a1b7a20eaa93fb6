//! A cluster in memory: machines, links, gates with a lock of the simplest kind behind them, and clients that use it.
//!
//! The lock is exclusive; whoever can't have it waits. The world checks at every step that no two clients have it and that no
//! two nodes have the gate of a document open.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sluice_lockmgr::{
    GrantId, Member, MemberEpoch, MemberId, Now, Revoked, SHARDS, ShardEpoch, ShardId, ShardMap,
    ShardOwner,
};

use crate::core::{
    Body, Effect, Event, Held, Part, RequestId, TokenMachine, TokenMessage, TokenOptions,
};

/// A client: its node's number and its own.
pub(super) type Client = (u32, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Lock(Client),
    Unlock(Client),
}

fn encode(op: Op) -> Bytes {
    let (kind, (node, client)) = match op {
        Op::Lock(c) => (0_u8, c),
        Op::Unlock(c) => (1, c),
    };
    Bytes::from(postcard::to_stdvec(&(kind, node, client)).expect("encodes"))
}

fn decode(bytes: &Bytes) -> Op {
    let (kind, node, client): (u8, u32, u64) = postcard::from_bytes(bytes).expect("an op");
    if kind == 0 {
        Op::Lock((node, client))
    } else {
        Op::Unlock((node, client))
    }
}

type Holds = BTreeSet<Client>;

fn state_of(holds: &Holds) -> Option<Bytes> {
    (!holds.is_empty()).then(|| Bytes::from(postcard::to_stdvec(holds).expect("encodes")))
}

/// Who waits at a gate: an own request, or another node's.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Waiter {
    Own(Op),
    Of(Member, RequestId, Op),
}

impl Waiter {
    fn op(&self) -> Op {
        match self {
            Waiter::Own(op) | Waiter::Of(_, _, op) => *op,
        }
    }
}

#[derive(Default)]
struct Gate {
    term: Option<u64>,
    holds: Holds,
    waiters: VecDeque<Waiter>,
}

pub(super) struct Node {
    pub me: Member,
    pub machine: TokenMachine,
    gates: BTreeMap<u64, Gate>,
    /// Own requests on their way.
    requests: BTreeMap<RequestId, (u64, Op)>,
    next_request: u64,
    version: u64,
    /// Surrenders whose changes are being committed.
    committing: VecDeque<Event>,
    /// They do not end.
    stalled: bool,
    /// Own clients' locks that this node has heard of: others in a mirror were never told to anybody.
    known: BTreeSet<(u64, u64)>,
    /// What clients hold, as they were told.
    pub held: BTreeMap<u64, BTreeSet<u64>>,
    /// Epochs of the shards that it was told.
    told: Vec<ShardEpoch>,
    outbox: VecDeque<Effect>,
    busy: bool,
    pub alive: bool,
    frozen: bool,
    /// It stands still, and hears nothing.
    hung: bool,
    /// What it said about deputies and lists.
    pub about_lists: Vec<Effect>,
}

pub(super) struct World {
    pub nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), VecDeque<TokenMessage>>,
    pub now: Now,
    pub map: ShardMap,
    seed: u64,
    /// Messages that went over links.
    pub sent: u64,
    pub forced: u64,
    /// What the registry says of the tokens that were taken away.
    revoked: Vec<Revoked>,
}

impl World {
    pub(super) fn new(count: u32, seed: u64, options: TokenOptions) -> Self {
        let member = |n: u32| Member {
            id: MemberId(n),
            epoch: MemberEpoch(u64::from(n)),
        };
        let nodes = (1..=count).map(|n| Node {
            me: member(n),
            machine: TokenMachine::new(member(n), options),
            gates: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            version: 0,
            committing: VecDeque::new(),
            stalled: false,
            known: BTreeSet::new(),
            held: BTreeMap::new(),
            told: vec![ShardEpoch(0); usize::from(SHARDS)],
            outbox: VecDeque::new(),
            busy: false,
            alive: true,
            frozen: false,
            hung: false,
            about_lists: Vec::new(),
        });
        let mut world = Self {
            nodes: nodes.collect(),
            links: BTreeMap::new(),
            now: Now(1_000),
            map: ShardMap::default(),
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            sent: 0,
            forced: 0,
            revoked: Vec::new(),
        };
        for at in 0..world.nodes.len() {
            for other in 1..=count {
                world.step(at, Event::NodeUp(member(other)));
            }
        }
        for shard in 0..SHARDS {
            let owner = world.nodes[usize::from(shard) % world.nodes.len()].me;
            world.own(ShardId(shard), owner);
        }
        world.tell_map_to_all();
        world.drain();
        world
    }

    pub(super) fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed % u64::try_from(below.max(1)).expect("small")).expect("small")
    }

    /// A document whose coordinator is this node.
    pub(super) fn document_of(&self, at: usize) -> u64 {
        (1..)
            .find(|d| self.map.owner(sluice_lockmgr::shard_of(*d)).owner == Some(self.nodes[at].me))
            .expect("some document")
    }

    pub(super) fn own(&mut self, shard: ShardId, owner: Member) {
        let entry = &mut self.map.owners[usize::from(shard.0)];
        let epoch = ShardEpoch(entry.epoch.0 + 1);
        *entry = ShardOwner {
            owner: Some(owner),
            epoch,
        };
        self.map.version += 1;
    }

    pub(super) fn tell_map(&mut self, at: usize) {
        if self.nodes[at].alive {
            let told = &mut self.nodes[at].told;
            let mut news = Vec::new();
            for (shard, owner) in self.map.iter() {
                let known = &mut told[usize::from(shard.0)];
                if owner.epoch > *known {
                    *known = owner.epoch;
                    news.push((shard, owner));
                }
            }
            self.step(at, Event::Shards(news));
        }
    }

    pub(super) fn tell_map_to_all(&mut self) {
        for at in 0..self.nodes.len() {
            self.tell_map(at);
        }
    }

    /// A node dies; the others hear of it, and its shards go to the survivors.
    pub(super) fn kill(&mut self, at: usize) {
        let dead = self.nodes[at].me;
        self.nodes[at].alive = false;
        self.nodes[at].held.clear();
        self.nodes[at].gates.clear();
        self.links.retain(|(from, to), _| *from != at && *to != at);
        let alive: Vec<usize> = (0..self.nodes.len())
            .filter(|n| self.nodes[*n].alive)
            .collect();
        for (turn, shard) in (0..SHARDS).map(ShardId).enumerate() {
            if self.map.owner(shard).owner == Some(dead) {
                let owner = self.nodes[alive[turn % alive.len()]].me;
                self.own(shard, owner);
            }
        }
        for n in alive {
            self.step(n, Event::NodeDown(dead));
        }
    }

    pub(super) fn freeze(&mut self, at: usize, frozen: bool) {
        self.nodes[at].frozen = frozen;
        self.step(at, if frozen { Event::Frozen } else { Event::Thawed });
    }

    /// It stands still, or goes on.
    pub(super) fn hang(&mut self, at: usize, hung: bool) {
        self.nodes[at].hung = hung;
    }

    pub(super) fn has_deputy(&mut self, at: usize, deputy: Option<(usize, u64)>) {
        let deputy = deputy.map(|(deputy, turn)| (self.nodes[deputy].me, turn));
        self.step(at, Event::Deputy(deputy));
    }

    /// A node takes a document's shard over from a silent coordinator, if it has a list of it. The silent one hears nothing of that.
    pub(super) fn take_over(&mut self, at: usize, from: usize, document: u64) -> bool {
        let (of, me) = (self.nodes[from].me, self.nodes[at].me);
        let shard = sluice_lockmgr::shard_of(document);
        self.step(at, Event::Silent { shard, of });
        let Some(Effect::TakeOver { epoch, turn, .. }) = self.nodes[at].about_lists.pop() else {
            return false;
        };
        assert_eq!(self.map.owner(shard).epoch, epoch);
        self.own(shard, me);
        let epoch = self.map.owner(shard).epoch;
        self.tell_map(at);
        let took = Event::TookOver {
            shard,
            epoch,
            of,
            turn,
        };
        self.step(at, took);
        self.drain();
        true
    }

    /// Its commits do not end, or end.
    pub(super) fn stall(&mut self, at: usize, stalled: bool) {
        self.nodes[at].stalled = stalled;
    }

    /// A renewal brings a node what was taken away.
    pub(super) fn hear_revoked(&mut self, at: usize) {
        self.step(at, Event::Revoked(self.revoked.clone()));
    }

    /// Everything that somebody could still wait for, to explain a failure.
    pub(super) fn explain(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.alive) {
            let _ = writeln!(
                out,
                "{at}: asks {:?}, clients have {:?}",
                node.requests, node.held
            );
            for (document, gate) in &node.gates {
                let owner = self.map.owner(sluice_lockmgr::shard_of(*document));
                let _ = writeln!(
                    out,
                    "   {document} of {owner:?}: {:?} holds {:?} waits {:?}",
                    gate.term, gate.holds, gate.waiters
                );
            }
        }
        out
    }

    // ---- clients ----

    /// A client asks; the answer comes some time.
    pub(super) fn ask(&mut self, at: usize, document: u64, op: Op) {
        if self.nodes[at].frozen || !self.local(at, document, &Waiter::Own(op)) {
            let node = &mut self.nodes[at];
            node.next_request += 1;
            let request = RequestId(node.next_request);
            node.requests.insert(request, (document, op));
            self.step(at, Event::Request { document, request });
        }
    }

    pub(super) fn cancel(&mut self, at: usize, document: u64) -> bool {
        let Some((request, _)) = self.nodes[at]
            .requests
            .iter()
            .find(|(_, (d, op))| *d == document && matches!(op, Op::Lock(_)))
            .map(|(r, v)| (*r, *v))
        else {
            return false;
        };
        self.nodes[at].requests.remove(&request);
        self.step(at, Event::Cancel { document, request });
        true
    }

    pub(super) fn holds(&self, at: usize, document: u64, client: u64) -> bool {
        self.nodes[at]
            .held
            .get(&document)
            .is_some_and(|h| h.contains(&client))
    }

    pub(super) fn waits(&self, at: usize) -> usize {
        let node = &self.nodes[at];
        let own = |g: &Gate| {
            let own = g.waiters.iter().filter(|w| matches!(w, Waiter::Own(_)));
            own.count()
        };
        node.requests.len() + node.gates.values().map(own).sum::<usize>()
    }

    pub(super) fn residence(&self, at: usize, document: u64) -> Option<u64> {
        self.nodes[at].gates.get(&document).and_then(|g| g.term)
    }

    pub(super) fn is_open(&self, at: usize, document: u64) -> bool {
        self.nodes[at].gates.contains_key(&document)
    }

    // ---- the lock behind a gate ----

    /// Puts a request to the gate; false if it is closed.
    fn local(&mut self, at: usize, document: u64, waiter: &Waiter) -> bool {
        let Some(gate) = self.nodes[at].gates.get_mut(&document) else {
            return false;
        };
        let mut done = Vec::new();
        match waiter.op() {
            Op::Lock(_) if !gate.holds.is_empty() => gate.waiters.push_back(waiter.clone()),
            Op::Lock(client) => {
                gate.holds.insert(client);
                done.push(waiter.clone());
            }
            Op::Unlock(client) => {
                gate.holds.remove(&client);
                done.push(waiter.clone());
                if gate.holds.is_empty()
                    && let Some(next) = gate.waiters.pop_front()
                {
                    if let Op::Lock(client) = next.op() {
                        gate.holds.insert(client);
                    }
                    done.push(next);
                }
            }
        }
        for waiter in done {
            match waiter {
                Waiter::Own(op) => self.told(at, document, op),
                Waiter::Of(from, request, op) => {
                    let part = self.part(at, document, from);
                    let event = Event::Answered {
                        document,
                        from,
                        request,
                        answer: encode(op),
                        part: Some(part),
                    };
                    self.step(at, event);
                }
            }
        }
        true
    }

    fn part(&mut self, at: usize, document: u64, of: Member) -> Part {
        let node = &mut self.nodes[at];
        node.version += 1;
        let holds = node.gates.get(&document).map(|g| &g.holds);
        let own: Holds = holds
            .into_iter()
            .flatten()
            .filter(|(n, _)| *n == of.id.0)
            .copied()
            .collect();
        Part {
            version: node.version,
            state: state_of(&own),
        }
    }

    /// A client has its answer.
    fn told(&mut self, at: usize, document: u64, op: Op) {
        match op {
            Op::Lock((_, client)) => {
                self.nodes[at].known.insert((document, client));
                self.nodes[at]
                    .held
                    .entry(document)
                    .or_default()
                    .insert(client);
                let holders: usize = self
                    .nodes
                    .iter()
                    .filter(|n| n.alive && !n.frozen)
                    .filter_map(|n| n.held.get(&document))
                    .map(BTreeSet::len)
                    .sum();
                assert_eq!(holders, 1, "two clients have the lock of {document}");
            }
            Op::Unlock((_, client)) => {
                self.nodes[at].known.remove(&(document, client));
            }
        }
    }

    /// Of the own clients' entries, those that they know of.
    fn heard_of(&self, at: usize, document: u64, state: &Bytes) -> Holds {
        let node = &self.nodes[at];
        let holds: Holds = postcard::from_bytes(state).expect("a state");
        let own = |c: &Client| c.0 == node.me.id.0;
        let known = holds
            .into_iter()
            .filter(|c| !own(c) || node.known.contains(&(document, c.1)));
        known.collect()
    }

    /// A client gives its lock back: from now on it does not count on it.
    pub(super) fn unlock(&mut self, at: usize, document: u64, client: u64) {
        if let Some(held) = self.nodes[at].held.get_mut(&document) {
            held.remove(&client);
        }
        let id = self.nodes[at].me.id.0;
        self.ask(at, document, Op::Unlock((id, client)));
    }

    pub(super) fn lock(&mut self, at: usize, document: u64, client: u64) {
        let id = self.nodes[at].me.id.0;
        self.ask(at, document, Op::Lock((id, client)));
    }

    // ---- effects ----

    pub(super) fn step(&mut self, at: usize, event: Event) {
        let now = self.now;
        self.nodes[at].machine.step(event, now);
        let effects = self.nodes[at].machine.take_effects();
        self.nodes[at].outbox.extend(effects);
        // In order, also of what is said while they are carried out.
        if std::mem::replace(&mut self.nodes[at].busy, true) {
            return;
        }
        while let Some(effect) = self.nodes[at].outbox.pop_front() {
            self.carry_out(at, effect);
        }
        self.nodes[at].busy = false;
        self.check();
    }

    fn check(&self) {
        let mut open: BTreeMap<u64, usize> = BTreeMap::new();
        for node in self.nodes.iter().filter(|n| n.alive) {
            for document in node.gates.keys().filter(|_| !node.frozen) {
                *open.entry(*document).or_default() += 1;
            }
        }
        for (document, count) in open {
            assert!(count <= 1, "{count} nodes decide about {document}");
        }
    }

    fn index(&self, member: Member) -> usize {
        self.nodes
            .iter()
            .position(|n| n.me == member)
            .expect("a known member")
    }

    fn send(&mut self, at: usize, to: Member, mut message: TokenMessage) {
        if let Body::Report { claims, .. } = &mut message.body {
            for claim in claims {
                if let Held::Part { state, .. } = &mut claim.held {
                    let heard_of = self.heard_of(at, claim.document, state);
                    *state = Bytes::from(postcard::to_stdvec(&heard_of).expect("encodes"));
                }
            }
        }
        let to = self.index(to);
        assert_ne!(at, to, "nothing is sent to oneself");
        self.sent += 1;
        if self.nodes[to].alive {
            self.links.entry((at, to)).or_default().push_back(message);
        }
    }

    /// Takes everything out from behind a gate; own waiters ask again.
    fn close(&mut self, at: usize, document: u64) -> Option<Gate> {
        let gate = self.nodes[at].gates.remove(&document)?;
        let id = self.nodes[at].me.id.0;
        let own = gate.holds.iter().filter(|(n, _)| *n == id);
        let own: Vec<u64> = own.map(|(_, c)| *c).collect();
        let known = own.into_iter().map(|client| (document, client));
        self.nodes[at].known.extend(known);
        for waiter in &gate.waiters {
            match waiter {
                Waiter::Own(op) => self.ask(at, document, *op),
                Waiter::Of(from, request, op) => {
                    let event = Event::Unanswered {
                        document,
                        from: *from,
                        request: *request,
                        op: encode(*op),
                    };
                    self.step(at, event);
                }
            }
        }
        Some(gate)
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send(at, to, message),
            Effect::Forward {
                to,
                mut message,
                request,
            } => {
                if let Some((_, op)) = self.nodes[at].requests.get(&request)
                    && let Body::Ask { op: bytes, .. } = &mut message.body
                {
                    *bytes = encode(*op);
                    self.send(at, to, message);
                }
            }
            Effect::Run { request } => {
                if let Some((document, op)) = self.nodes[at].requests.remove(&request) {
                    self.ask(at, document, op);
                }
            }
            Effect::Deliver { request, answer } => {
                if let Some((document, _)) = self.nodes[at].requests.remove(&request) {
                    self.told(at, document, decode(&answer));
                }
            }
            Effect::Undo { document, answer } => {
                if let Op::Lock((_, client)) = decode(&answer) {
                    self.unlock(at, document, client);
                }
            }
            Effect::Admit {
                document,
                term,
                states,
            } => {
                let gate = self.nodes[at].gates.entry(document).or_default();
                gate.term = term;
                for state in states {
                    let holds = self.heard_of(at, document, &state);
                    if let Some(gate) = self.nodes[at].gates.get_mut(&document) {
                        gate.holds.extend(holds);
                    }
                }
            }
            effect => self.carry_out_gate(at, effect),
        }
    }

    fn carry_out_gate(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Surrender { document, grant } => {
                let state = self.close(at, document).and_then(|g| state_of(&g.holds));
                let done = Event::Surrendered {
                    document,
                    grant,
                    state,
                };
                self.nodes[at].committing.push_back(done);
            }
            Effect::Release { document, grant } => {
                let idle = self.is_idle(at, document);
                if idle {
                    self.nodes[at].gates.remove(&document);
                }
                let done = idle;
                self.step(
                    at,
                    Event::Released {
                        document,
                        grant,
                        done,
                    },
                );
            }
            Effect::Look { document } => {
                let gate = self.nodes[at].gates.get(&document);
                let holds = gate.into_iter().flat_map(|g| &g.holds);
                let mut holders: Vec<MemberId> = holds.map(|(n, _)| MemberId(*n)).collect();
                holders.dedup();
                self.step(at, Event::Looked { document, holders });
            }
            Effect::Return { document, only } => self.give_back(at, document, only),
            Effect::Relinquish { document } => {
                let id = self.nodes[at].me.id.0;
                let gate = self.close(at, document);
                let own: Holds = gate
                    .into_iter()
                    .flat_map(|g| g.holds)
                    .filter(|(n, _)| *n == id)
                    .collect();
                let part = state_of(&own);
                self.step(at, Event::Relinquished { document, part });
            }
            Effect::Drop { document } => {
                self.close(at, document);
                self.nodes[at].held.remove(&document);
            }
            Effect::Evaluate {
                document,
                from,
                request,
                op,
            } => {
                let waiter = Waiter::Of(from, request, decode(&op));
                assert!(self.local(at, document, &waiter), "the gate is open");
            }
            Effect::Abort {
                document,
                from,
                request,
            } => {
                if let Some(gate) = self.nodes[at].gates.get_mut(&document) {
                    gate.waiters.retain(
                        |w| !matches!(w, Waiter::Of(f, r, _) if *f == from && *r == request),
                    );
                }
            }
            Effect::DropMember { document, member } => {
                let gone: Vec<Client> = self.nodes[at]
                    .gates
                    .get(&document)
                    .into_iter()
                    .flat_map(|g| g.holds.iter().copied())
                    .filter(|(n, _)| *n == member.id.0)
                    .collect();
                for client in gone {
                    self.local(at, document, &Waiter::Own(Op::Unlock(client)));
                }
            }
            Effect::ForceFence {
                document, grant, ..
            } => {
                self.forced += 1;
                self.fenced(at, document, grant);
            }
            Effect::TakeOver { .. } | Effect::DeputySilent { .. } | Effect::Unlisted { .. } => {
                self.nodes[at].about_lists.push(effect);
            }
            _ => {}
        }
    }

    fn fenced(&mut self, at: usize, document: u64, grant: GrantId) {
        let shard = sluice_lockmgr::shard_of(document);
        let fence = self.map.owner(shard).epoch.fence() + self.forced;
        self.revoked.push(Revoked {
            id: self.forced,
            document,
            grant,
            fence,
        });
        let event = Event::Fenced {
            document,
            grant,
            fence: Some(fence),
        };
        self.step(at, event);
    }

    fn is_idle(&self, at: usize, document: u64) -> bool {
        self.nodes[at]
            .gates
            .get(&document)
            .is_none_or(|g| g.holds.is_empty() && g.waiters.is_empty())
    }

    fn give_back(&mut self, at: usize, document: u64, only: Option<MemberId>) {
        let fits = self.nodes[at].gates.get(&document).is_none_or(|g| {
            g.waiters.is_empty() && g.holds.iter().all(|(n, _)| Some(MemberId(*n)) == only)
        });
        let state = fits.then(|| self.close(at, document).and_then(|g| state_of(&g.holds)));
        let event = Event::Returned {
            document,
            only,
            state,
        };
        self.step(at, event);
    }

    // ---- time and messages ----

    /// Delivers one message or finishes one commit, chosen by chance. False if nothing is on its way.
    pub(super) fn deliver_one(&mut self) -> bool {
        let mut choices: Vec<(usize, Option<usize>)> = self
            .links
            .iter()
            .filter(|((_, to), queue)| {
                !queue.is_empty() && self.nodes[*to].alive && !self.nodes[*to].hung
            })
            .map(|((from, to), _)| (*from, Some(*to)))
            .collect();
        choices.extend(
            (0..self.nodes.len())
                .filter(|n| self.nodes[*n].alive && !self.nodes[*n].stalled)
                .filter(|n| !self.nodes[*n].committing.is_empty())
                .map(|n| (n, None)),
        );
        if choices.is_empty() {
            return false;
        }
        let (from, to) = choices[self.random(choices.len())];
        match to {
            Some(to) => {
                self.deliver(from, to);
            }
            None => {
                if let Some(event) = self.nodes[from].committing.pop_front() {
                    self.step(from, event);
                }
            }
        }
        true
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize) -> bool {
        let Some(message) = self
            .links
            .get_mut(&(from, to))
            .and_then(VecDeque::pop_front)
        else {
            return false;
        };
        let from = self.nodes[from].me;
        self.step(to, Event::Message { from, message });
        true
    }

    pub(super) fn drain(&mut self) {
        let mut steps = 0;
        while self.deliver_one() {
            steps += 1;
            assert!(steps < 1_000_000, "messages without end");
        }
    }

    pub(super) fn after(&mut self, wait: Duration) {
        let end = self.now.after(wait);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(250)).min(end);
            for at in 0..self.nodes.len() {
                let due = self.nodes[at].machine.next_deadline() <= self.now;
                if self.nodes[at].alive && !self.nodes[at].hung && due {
                    self.step(at, Event::Tick);
                }
            }
            self.drain();
        }
    }
}
