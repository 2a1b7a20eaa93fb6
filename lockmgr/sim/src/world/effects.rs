//! What the token machine wants done: messages, gates, answers to clients.

use std::fmt::Write as _;

use sluice_lockmgr::{Member, MemberId, Revocation, shard_of};
use sluice_lockmgr_cluster::core::{
    Body, Effect, Event as TokenEvent, Part, RequestId, TokenMessage,
};
use sluice_lockmgr_cluster::membership::{Input, LinkNote};

use super::{Call, Event, World};
use crate::Mutant;
use crate::gate::{ClientId, Gate, Op, Waiter, encode, entries_of, op_of, state_of};
use crate::invariants;

impl World {
    pub(super) fn tokens(&mut self, member: Member, event: TokenEvent) {
        let now = self.now;
        let Some(node) = self.node_mut(member) else {
            return;
        };
        let time = node.token_time(now);
        node.tokens.step(event, time);
        let effects = node.tokens.take_effects();
        node.effects.extend(effects);
        // In order, also of what is said while they are carried out.
        if std::mem::replace(&mut node.busy, true) {
            return;
        }
        while let Some(effect) = self.node_mut(member).and_then(|n| n.effects.pop_front()) {
            self.carry_out(member, effect);
        }
        if let Some(node) = self.node_mut(member) {
            node.busy = false;
        }
        self.check_gates();
    }

    /// One node at most decides about a document, of those that may act.
    fn check_gates(&mut self) {
        let acting = |node: &&crate::node::Node| node.may_act(self.now);
        let mut open = std::collections::BTreeMap::new();
        let mut twice = None;
        for node in self.nodes.iter().flatten().filter(acting) {
            for document in node.gates.keys() {
                if let Some(other) = open.insert(*document, node.me) {
                    twice = Some(format!(
                        "{other} and {} both decide about document {document}",
                        node.me
                    ));
                }
            }
        }
        if let Some(what) = twice {
            self.violated("I1 single writer", what);
        }
    }

    // ---- requests of own clients ----

    pub(super) fn ask(&mut self, member: Member, document: u64, op: Op) {
        let acts = self.node(member).is_some_and(|n| n.may_act(self.now));
        if acts && self.local(member, document, Waiter::Own(op)) {
            return;
        }
        let Some(node) = self.node_mut(member) else {
            return;
        };
        if !acts && node.gates.contains_key(&document) {
            // Its lease has run out a moment before the machine hears of it: later.
            node.next_request += 1;
            let request = RequestId(node.next_request);
            node.requests.insert(request, (document, op));
            let event = TokenEvent::Request { document, request };
            return self.after(20, Event::Tokens(member, event));
        }
        node.next_request += 1;
        let request = RequestId(node.next_request);
        node.requests.insert(request, (document, op));
        self.tokens(member, TokenEvent::Request { document, request });
    }

    /// Nobody waits for a lock any more: wherever the wait is.
    pub(super) fn cancel(&mut self, member: Member, document: u64, owner: ClientId) {
        let is_wait = |op: &Op| matches!(op, Op::Lock(client, _) if *client == owner);
        let Some(node) = self.node_mut(member) else {
            return;
        };
        let request = node
            .requests
            .iter()
            .find(|(_, (_, op))| is_wait(op))
            .map(|(request, _)| *request);
        if let Some(request) = request {
            node.requests.remove(&request);
            return self.tokens(member, TokenEvent::Cancel { document, request });
        }
        let gone = |waiter: &Waiter| matches!(waiter, Waiter::Own(op) if is_wait(op));
        let served = match node.gates.get_mut(&document) {
            Some(gate) => gate.forget(gone),
            None => Vec::new(),
        };
        self.answer_all(member, document, served);
    }

    pub(super) fn let_go(&mut self, member: Member, document: u64, owner: ClientId) {
        if let Some(node) = self.node_mut(member)
            && let Some(held) = node.held.get_mut(&document)
        {
            held.remove(&owner);
        }
        self.ask(member, document, Op::Unlock(owner));
    }

    // ---- the lock behind a gate ----

    /// Puts a request to the gate; false if it is closed.
    fn local(&mut self, member: Member, document: u64, waiter: Waiter) -> bool {
        let gate = self
            .node_mut(member)
            .and_then(|n| n.gates.get_mut(&document));
        let Some(gate) = gate else {
            return false;
        };
        let answered = gate.apply(waiter);
        let twice = gate.twice;
        if let Err(what) = invariants::once::check(document, twice) {
            self.violated("I10 once", what);
        }
        self.answer_all(member, document, answered);
        true
    }

    fn answer_all(&mut self, member: Member, document: u64, answered: Vec<Waiter>) {
        for waiter in answered {
            match waiter {
                Waiter::Own(op) => self.told(member, document, op),
                Waiter::Of(from, request, op) => {
                    let Some(evaluation) = self.evaluation(member, from, request) else {
                        continue;
                    };
                    let answer = Event::Say {
                        at: member,
                        document,
                        from,
                        request,
                        evaluation,
                        op,
                    };
                    // Other tasks may be quicker, now and then by far.
                    let wait = match self.random.below(40) {
                        0 => self.random.between(10, 300),
                        1..=8 => self.random.between(0, 6),
                        _ => 0,
                    };
                    match wait {
                        0 => self.say(member, document, from, request, op),
                        wait => self.after(wait, answer),
                    }
                }
            }
        }
    }

    fn evaluation(&self, member: Member, from: Member, request: RequestId) -> Option<u64> {
        let evaluating = &self.node(member)?.evaluating;
        evaluating.get(&(from, request)).map(|(number, _)| *number)
    }

    /// The same, unless it was given up or asked again meanwhile.
    pub(super) fn say_later(
        &mut self,
        member: Member,
        document: u64,
        (from, request, evaluation): (Member, RequestId, u64),
        op: Op,
    ) {
        if self.evaluation(member, from, request) == Some(evaluation) {
            self.say(member, document, from, request, op);
        }
    }

    /// The answer to another node's request is on its way.
    pub(super) fn say(
        &mut self,
        member: Member,
        document: u64,
        from: Member,
        request: RequestId,
        op: Op,
    ) {
        if let Some(node) = self.node_mut(member) {
            node.evaluating.remove(&(from, request));
        }
        let event = TokenEvent::Answered {
            document,
            from,
            request,
            answer: encode(&op),
            part: self.part(member, document, from, op),
        };
        self.tokens(member, event);
        if let Some(gate) = self
            .node_mut(member)
            .and_then(|n| n.gates.get_mut(&document))
        {
            gate.sent(op);
        }
    }

    /// What a node's clients have, with the answers that it has not heard; `answered`: but for this one.
    fn part(&mut self, member: Member, document: u64, of: Member, answered: Op) -> Option<Part> {
        let forgetful = self.plan.mutant == Mutant::Forgetful;
        let node = self.node_mut(member)?;
        node.parts += 1;
        let gate = node.gates.get(&document)?;
        let mut entries = gate.entries(|client| client.0 == of.id);
        entries.answered.remove(&answered);
        if forgetful {
            entries.answered.clear();
        }
        Some(Part {
            version: node.parts,
            state: state_of(&entries),
        })
    }

    /// A client has its answer.
    fn told(&mut self, member: Member, document: u64, op: Op) {
        let Some(node) = self.node_mut(member) else {
            return;
        };
        match op {
            Op::Lock(owner, exclusive) => {
                node.held
                    .entry(document)
                    .or_default()
                    .insert(owner, exclusive);
                self.lock_granted(member, document, owner);
            }
            Op::Unlock(_) => {}
        }
    }

    // ---- effects ----

    fn carry_out(&mut self, member: Member, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send_perhaps_wrong(member, to, message),
            Effect::Unlisted { document, holder } => {
                let what = format!("{member} did not know that {holder} had document {document}");
                self.violated("I11 complete list", what);
            }
            Effect::DeputySilent { turn, .. } => {
                self.input(member, Input::Link(LinkNote::DeputySilent { turn }));
            }
            Effect::TakeOver {
                shard,
                epoch,
                of: from,
                turn,
            } => {
                let shards = vec![(shard, epoch)];
                let take = LinkNote::TakeOver { from, turn, shards };
                // Its own probe is not answered, or comes back too late.
                let wait = self.random.between(0, 40);
                self.after(wait, Event::Input(member, Input::Link(take)));
            }
            Effect::Forward {
                to,
                mut message,
                request,
            } => {
                let op = self
                    .node(member)
                    .and_then(|n| n.requests.get(&request))
                    .map(|(_, op)| *op);
                if let (Some(op), Body::Ask { op: bytes, .. }) = (op, &mut message.body) {
                    *bytes = encode(&op);
                    self.send(member, to, message);
                }
            }
            Effect::Run { request } => {
                let taken = self
                    .node_mut(member)
                    .and_then(|n| n.requests.remove(&request));
                if let Some((document, op)) = taken {
                    self.ask(member, document, op);
                }
            }
            Effect::Deliver { request, answer } => {
                let taken = self
                    .node_mut(member)
                    .and_then(|n| n.requests.remove(&request));
                if let (Some((document, _)), Some(op)) = (taken, op_of(&answer)) {
                    self.told(member, document, op);
                }
            }
            // Whoever gives a wait up lets go of what it may have been granted.
            Effect::Undo { .. } => {}
            Effect::Admit {
                document,
                term,
                states,
            } => {
                let now = self.now;
                if let Some(node) = self.node_mut(member) {
                    let gate = node
                        .gates
                        .entry(document)
                        .or_insert_with(|| Gate::opened(now));
                    gate.term = term;
                    for state in &states {
                        gate.admit(entries_of(state), now);
                    }
                }
            }
            effect => self.carry_out_gate(member, effect),
        }
    }

    /// With what a mutant makes of it.
    fn send_perhaps_wrong(&mut self, member: Member, to: Member, mut message: TokenMessage) {
        let mutant = self.plan.mutant;
        match &mut message.body {
            Body::Taking { turn, document } if mutant == Mutant::HastyTaking => {
                let (turn, document) = (*turn, *document);
                let body = Body::Taken { turn, document };
                let answer = TokenMessage {
                    body,
                    ..message.clone()
                };
                let answered = TokenEvent::Message {
                    from: to,
                    message: answer,
                };
                self.tokens(member, answered);
            }
            Body::Taking { turn, document } if mutant == Mutant::EarlyLeft => {
                let (turn, documents) = (*turn, vec![*document]);
                let left = TokenMessage {
                    body: Body::Left { turn, documents },
                    ..message.clone()
                };
                self.send(member, to, message);
                return self.send(member, to, left);
            }
            Body::List { documents, .. } if mutant == Mutant::ShortList => documents.clear(),
            _ => {}
        }
        self.send(member, to, message);
    }

    fn carry_out_gate(&mut self, member: Member, effect: Effect) {
        match effect {
            Effect::Surrender { document, grant } => {
                let state = self
                    .close(member, document)
                    .and_then(|gate| state_of(&gate.entries(|_| true)));
                let event = TokenEvent::Surrendered {
                    document,
                    grant,
                    state,
                };
                // What is uncommitted is committed first.
                let wait = self.random.between(0, 8);
                self.after(wait, Event::Tokens(member, event));
            }
            Effect::Release { document, grant } => {
                let idle = self.node(member).is_some_and(|node| {
                    node.gates.get(&document).is_none_or(|gate| {
                        gate.waiters.is_empty() && gate.entries(|_| true).is_empty()
                    })
                });
                if idle && let Some(node) = self.node_mut(member) {
                    node.gates.remove(&document);
                }
                let event = TokenEvent::Released {
                    document,
                    grant,
                    done: idle,
                };
                self.tokens(member, event);
            }
            Effect::Look { document } => {
                let gate = self.node(member).and_then(|n| n.gates.get(&document));
                let holds = gate.into_iter().flat_map(|gate| gate.holds.keys());
                let waits = gate
                    .into_iter()
                    .flat_map(|gate| gate.waiters.iter().map(|waiter| waiter.op().client().0));
                let mut holders: Vec<MemberId> =
                    holds.map(|client| client.0).chain(waits).collect();
                holders.sort();
                holders.dedup();
                self.tokens(member, TokenEvent::Looked { document, holders });
            }
            Effect::Return { document, only } => self.give_back(member, document, only),
            Effect::Relinquish { document } => {
                let part = self
                    .close(member, document)
                    .and_then(|gate| state_of(&gate.entries(|client| client.0 == member.id)));
                self.tokens(member, TokenEvent::Relinquished { document, part });
            }
            Effect::Drop { document } => {
                self.close(member, document);
                if let Some(node) = self.node_mut(member) {
                    node.held.remove(&document);
                }
            }
            Effect::Evaluate {
                document,
                from,
                request,
                op,
            } => {
                let Some(op) = op_of(&op) else {
                    return;
                };
                if let Some(node) = self.node_mut(member) {
                    node.parts += 1;
                    let number = node.parts;
                    node.evaluating.insert((from, request), (number, op));
                }
                if !self.local(member, document, Waiter::Of(from, request, op)) {
                    let event = TokenEvent::Unanswered {
                        document,
                        from,
                        request,
                        op: encode(&op),
                    };
                    self.tokens(member, event);
                }
            }
            Effect::Abort {
                document,
                from,
                request,
            } => {
                if let Some(node) = self.node_mut(member)
                    && let Some((_, op)) = node.evaluating.remove(&(from, request))
                    && let Some(gate) = node.gates.get_mut(&document)
                {
                    gate.sent(op);
                }
                let gone = |waiter: &Waiter| matches!(waiter, Waiter::Of(f, r, _) if *f == from && *r == request);
                self.forget(member, document, gone);
            }
            Effect::DropMember {
                document,
                member: dead,
            } => self.drop_member(member, document, dead),
            Effect::ForceFence {
                document,
                holder,
                grant,
            } => {
                self.report.forced += 1;
                let revocation = Revocation {
                    document,
                    grant,
                    holder,
                };
                self.call(member, Call::ForceFence(revocation));
            }
            _ => {}
        }
    }

    fn forget(&mut self, member: Member, document: u64, gone: impl Fn(&Waiter) -> bool) {
        let gate = self
            .node_mut(member)
            .and_then(|n| n.gates.get_mut(&document));
        let served = gate.map(|gate| gate.forget(gone)).unwrap_or_default();
        self.answer_all(member, document, served);
    }

    fn drop_member(&mut self, member: Member, document: u64, dead: Member) {
        if let Some(node) = self.node_mut(member)
            && let Some(gate) = node.gates.get_mut(&document)
        {
            let stays = |client: ClientId| client.0 != dead.id || client.1 > dead.epoch.0;
            gate.holds.retain(|client, _| stays(*client));
            gate.answered.retain(|op, _| stays(op.client()));
        }
        let gone = |waiter: &Waiter| matches!(waiter, Waiter::Of(from, ..) if *from == dead);
        self.forget(member, document, gone);
    }

    /// Takes everything out from behind a gate; own waiters ask again, others' requests go back unanswered.
    fn close(&mut self, member: Member, document: u64) -> Option<Gate> {
        let node = self.node_mut(member)?;
        let gate = node.gates.remove(&document)?;
        for waiter in &gate.waiters {
            match waiter {
                Waiter::Own(op) => self.ask(member, document, *op),
                Waiter::Of(from, request, op) => {
                    let event = TokenEvent::Unanswered {
                        document,
                        from: *from,
                        request: *request,
                        op: encode(op),
                    };
                    self.tokens(member, event);
                }
            }
        }
        Some(gate)
    }

    fn give_back(&mut self, member: Member, document: u64, only: Option<MemberId>) {
        let fits = self.node(member).is_some_and(|node| {
            node.gates.get(&document).is_none_or(|gate| {
                gate.waiters.is_empty() && gate.holds.keys().all(|client| Some(client.0) == only)
            })
        });
        let state = fits.then(|| {
            self.close(member, document)
                .and_then(|gate| state_of(&gate.entries(|_| true)))
        });
        let event = TokenEvent::Returned {
            document,
            only,
            state,
        };
        self.tokens(member, event);
    }

    /// Everything that somebody could still wait for.
    pub(super) fn explain(&self) -> String {
        let mut out = String::new();
        for node in self.nodes.iter().flatten() {
            let _ = writeln!(
                out,
                "{}: acts {}, paused {}, asks {:?}, clients have {:?}",
                node.me,
                node.may_act(self.now),
                node.paused,
                node.requests,
                node.held
            );
            for (document, gate) in &node.gates {
                let _ = writeln!(
                    out,
                    "   document {document} of {:?}: {:?} holds {:?} waits {:?}",
                    node.tokens.owner(*document),
                    gate.term,
                    gate.holds,
                    gate.waiters
                );
            }
            for document in 1..=self.plan.documents {
                let _ = writeln!(
                    out,
                    "   {document} in {:?}: owner {:?} holder {:?}",
                    shard_of(document),
                    node.tokens.owner(document),
                    node.tokens.holder(document)
                );
            }
        }
        out
    }
}
