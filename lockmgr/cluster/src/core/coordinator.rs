//! The coordinator's part: giving documents to nodes, taking them back, deciding for all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sluice_lockmgr::{GrantId, Member, MemberId, Now, shard_of};

use super::effect::Effect;
use super::machine::TokenMachine;
use super::message::{Body, Part, RequestId};
use super::shard::Role;

/// Between two attempts to take a token away in the registry.
const RAISE_AGAIN: Duration = Duration::from_secs(1);

/// A request of a node that waits for the document to come here.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub from: Member,
    pub request: RequestId,
    pub op: Bytes,
}

/// How a document is decided about. A document without an entry is nobody's.
pub(super) enum Mode {
    /// By one node alone.
    Alone { holder: Member, grant: GrantId },
    /// The holder was asked to give it back.
    Revoking {
        holder: Member,
        grant: GrantId,
        /// Entries of others that go in with what the holder brings.
        parts: Parts,
        force: Force,
        /// When `force` goes on. [`Now::NEVER`]: not by itself.
        deadline: Now,
        /// Until when a holder that says that it is committing is waited for.
        busy_until: Now,
    },
    /// By this node for all.
    Central {
        /// The only node that has something, as long as that is so, and since when.
        only: Option<(MemberId, Now)>,
        /// When each node last asked.
        asked: BTreeMap<Member, Now>,
        since: Now,
        /// When to look again. [`Now::NEVER`]: it is being looked at.
        look: Now,
    },
    /// By nobody: this node is to decide, for itself or for all, once the document is on its list.
    Listing {
        /// What goes behind the gate.
        states: Parts,
        pinned: bool,
    },
    /// As central, and the gate is being closed if only this node (or nobody) has something.
    Returning { to: Option<Member> },
}

/// How far a token is from being taken away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Force {
    /// Its holder is asked to give it back; at the deadline force is used.
    Asked,
    /// The registry is asked to take it away. What became of that must be known before the document goes on, as its commits
    /// need the new fence. `returned`: the holder gave it back meanwhile, or is gone.
    Raising { returned: bool },
    /// The registry could not be asked; at the deadline it is asked again.
    Again { returned: bool },
    /// Taken away; at the deadline its holder has heard of that, or may not act.
    Raised,
}

/// Entries by the node whose clients they belong to.
pub(super) type Parts = Vec<(Member, Bytes)>;

/// One document at its coordinator.
pub(super) struct Coordination {
    pub mode: Mode,
    pub queue: VecDeque<Asked>,
    /// Requests that the lock table has.
    pub running: BTreeSet<(Member, RequestId)>,
    /// Transfers from node to node, and since when they are counted.
    transfers: (u32, Now),
}

impl Coordination {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            queue: VecDeque::new(),
            running: BTreeSet::new(),
            transfers: (0, Now::default()),
        }
    }

    pub(super) fn is_central(&self) -> bool {
        matches!(self.mode, Mode::Central { .. })
    }

    pub(super) fn holder(&self) -> Option<Member> {
        match self.mode {
            Mode::Alone { holder, .. } | Mode::Revoking { holder, .. } => Some(holder),
            Mode::Central { .. } | Mode::Returning { .. } | Mode::Listing { .. } => None,
        }
    }

    /// The token that is out, if it is this one of this node.
    fn is_out(&self, to: Member, token: GrantId) -> bool {
        match self.mode {
            Mode::Alone { holder, grant } | Mode::Revoking { holder, grant, .. } => {
                holder == to && grant == token
            }
            Mode::Central { .. } | Mode::Returning { .. } | Mode::Listing { .. } => false,
        }
    }
}

impl TokenMachine {
    pub(super) fn coordinate(&mut self, from: Member, body: Body) {
        match body {
            Body::Ask {
                document,
                request,
                coming,
                op,
            } => self.ask(document, Asked { from, request, op }, coming),
            Body::Cancel { document, request } => self.cancelled(document, from, request),
            Body::State {
                document,
                grant,
                state,
            } => self.came_back(document, from, grant, state),
            Body::GiveBack { grants } => {
                for (document, grant) in grants {
                    self.came_back(document, from, grant, None);
                }
            }
            Body::Busy { document, grant } => self.still_busy(document, from, grant),
            _ => {}
        }
    }

    fn coordination(&mut self, document: u64) -> Option<&mut Coordination> {
        self.doc_mut(document)?.coordination.as_mut()
    }

    // ---- requests ----

    /// `coming`: the token that its holder is about to bring.
    fn ask(&mut self, document: u64, asked: Asked, coming: Option<GrantId>) {
        let Some(coordination) = self.coordination(document) else {
            self.decide(document, false, Vec::new(), VecDeque::from([asked]));
            return;
        };
        match coordination.mode {
            Mode::Alone { holder, grant } if holder == asked.from => {
                // Without a token that comes back, it runs all that it had asked when the token reaches it.
                if coming == Some(grant) {
                    coordination.queue.push_back(asked);
                }
            }
            Mode::Alone { .. } => self.revoke(document, VecDeque::from([asked]), Vec::new()),
            Mode::Revoking { holder, grant, .. } if holder == asked.from => {
                if coming != Some(grant) {
                    return;
                }
                // The holder's own waiters were there before those who wanted the token.
                let queue = &mut coordination.queue;
                let at = queue.iter().position(|a| a.from != holder);
                queue.insert(at.unwrap_or(queue.len()), asked);
            }
            Mode::Revoking { .. } | Mode::Returning { .. } | Mode::Listing { .. } => {
                coordination.queue.push_back(asked);
            }
            Mode::Central { .. } => self.evaluate(document, asked),
        }
    }

    fn evaluate(&mut self, document: u64, asked: Asked) {
        let (now, me) = (self.now, self.me);
        let Asked { from, request, op } = asked;
        if let Some(coordination) = self.coordination(document) {
            if let Mode::Central { asked, .. } = &mut coordination.mode {
                asked.insert(from, now);
            }
            if from != me {
                coordination.running.insert((from, request));
            }
        }
        if from == me {
            self.run_pending(document);
        } else {
            self.effects.push(Effect::Evaluate {
                document,
                from,
                request,
                op,
            });
        }
    }

    fn cancelled(&mut self, document: u64, from: Member, request: RequestId) {
        let Some(coordination) = self.coordination(document) else {
            return;
        };
        coordination
            .queue
            .retain(|a| a.from != from || a.request != request);
        if coordination.running.remove(&(from, request)) {
            self.effects.push(Effect::Abort {
                document,
                from,
                request,
            });
        }
    }

    pub(super) fn answered(
        &mut self,
        document: u64,
        (from, request): (Member, RequestId),
        answer: Bytes,
        part: Option<Part>,
    ) {
        let wanted = self
            .coordination(document)
            .is_some_and(|c| c.running.remove(&(from, request)));
        if !wanted {
            self.effects.push(Effect::Undo { document, answer });
            return;
        }
        let body = Body::Answer {
            document,
            request,
            answer,
            part,
        };
        self.say(from, shard_of(document), body);
    }

    pub(super) fn unanswered(
        &mut self,
        document: u64,
        (from, request): (Member, RequestId),
        op: Bytes,
    ) {
        let wanted = self
            .coordination(document)
            .is_some_and(|c| c.running.remove(&(from, request)));
        if wanted {
            self.ask(document, Asked { from, request, op }, None);
        }
    }

    pub(super) fn told(&mut self, document: u64, to: Member, tell: Bytes, part: Option<Part>) {
        let shard = shard_of(document);
        let mine = self.doc(document).is_some_and(|d| d.coordination.is_some());
        if mine {
            let body = Body::Tell {
                document,
                tell,
                part,
            };
            self.say(to, shard, body);
        }
    }

    // ---- tokens ----

    /// Gives the document to a node; those of others who wait want it back at once.
    fn give(
        &mut self,
        document: u64,
        to: Member,
        state: Option<Bytes>,
        mut queue: VecDeque<Asked>,
    ) {
        let id = shard_of(document);
        self.next_grant += 1;
        let shard = self.shard_mut(id);
        let epoch = shard.epoch;
        let fence = shard.forced.get(&document).copied();
        let number = self.next_grant;
        let grant = GrantId { epoch, number };
        let mode = Mode::Alone { holder: to, grant };
        let doc = self.enter(document);
        match &mut doc.coordination {
            Some(coordination) => coordination.mode = mode,
            none => *none = Some(Coordination::new(mode)),
        }
        let body = Body::Grant {
            document,
            grant,
            state,
            fence,
        };
        self.say(to, id, body);
        if to != self.me {
            self.leave_list(document);
        }
        // It runs all that it had asked when the token reaches it.
        queue.retain(|asked| asked.from != to);
        if !queue.is_empty() {
            self.revoke(document, queue, Vec::new());
        }
    }

    /// Asks the holder to give the document back.
    pub(super) fn revoke(&mut self, document: u64, wanted: VecDeque<Asked>, others: Parts) {
        let patience = self.options.surrender_patience;
        let until = self.now.after(patience);
        let busy_until = self.now.after(self.options.busy_patience);
        let Some(coordination) = self.coordination(document) else {
            return;
        };
        let Mode::Alone { holder, grant } = coordination.mode else {
            return;
        };
        coordination.queue.extend(wanted);
        coordination.mode = Mode::Revoking {
            holder,
            grant,
            parts: others,
            force: Force::Asked,
            deadline: until,
            busy_until,
        };
        self.set_timer(patience, document);
        self.say(
            holder,
            shard_of(document),
            Body::Surrender { document, grant },
        );
    }

    /// Holders may have been frozen with this node: their time to answer begins anew.
    pub(super) fn be_patient_again(&mut self) {
        let patience = self.options.surrender_patience;
        let until = self.now.after(patience);
        let longest = self.now.after(self.options.busy_patience);
        let mut asked = Vec::new();
        for (document, doc) in self.shards.values_mut().flat_map(|s| &mut s.docs) {
            if let Some(coordination) = &mut doc.coordination
                && let Mode::Revoking {
                    force: Force::Asked,
                    deadline,
                    busy_until,
                    ..
                } = &mut coordination.mode
            {
                (*deadline, *busy_until) = (until, longest);
                asked.push(*document);
            }
        }
        for document in asked {
            self.set_timer(patience, document);
        }
    }

    fn still_busy(&mut self, document: u64, from: Member, token: GrantId) {
        let patience = self.options.surrender_patience;
        let until = self.now.after(patience);
        if let Some(coordination) = self.coordination(document)
            && coordination.is_out(from, token)
            && let Mode::Revoking {
                force: Force::Asked,
                deadline,
                busy_until,
                ..
            } = &mut coordination.mode
        {
            *deadline = until.min(*busy_until);
            let wait = deadline.since(self.now);
            self.set_timer(wait, document);
        }
    }

    fn came_back(&mut self, document: u64, from: Member, token: GrantId, state: Option<Bytes>) {
        let Some(coordination) = self.coordination(document) else {
            return;
        };
        if !coordination.is_out(from, token) {
            return;
        }
        if let Mode::Revoking { parts, .. } = &mut coordination.mode {
            parts.extend(state.map(|state| (from, state)));
        } else if let Some(state) = state {
            let queue = std::mem::take(&mut coordination.queue);
            return self.decide_again(document, vec![(from, state)], queue);
        }
        self.no_token_out(document);
    }

    /// The token is back, or its holder is gone: the document goes on, unless its fence is being raised.
    fn no_token_out(&mut self, document: u64) {
        let Some(coordination) = self.coordination(document) else {
            return;
        };
        let mut states = Vec::new();
        if let Mode::Revoking { parts, force, .. } = &mut coordination.mode {
            if let Force::Raising { returned } | Force::Again { returned } = force {
                *returned = true;
                return;
            }
            states = std::mem::take(parts);
        }
        let queue = std::mem::take(&mut coordination.queue);
        self.decide_again(document, states, queue);
    }

    /// No token is out and the gate is closed: what becomes of the document.
    fn decide_again(&mut self, document: u64, states: Parts, queue: VecDeque<Asked>) {
        let pinned = self.count_transfer(document);
        self.decide(document, pinned, states, queue);
    }

    /// The same. `pinned`: it is not to go to one node alone.
    pub(super) fn decide(
        &mut self,
        document: u64,
        pinned: bool,
        states: Parts,
        queue: VecDeque<Asked>,
    ) {
        let first = queue.front().map(|asked| asked.from);
        if first.is_none() && states.is_empty() {
            if let Some(doc) = self.doc_mut(document) {
                doc.coordination = None;
            }
            self.leave_list(document);
            self.forget_if_idle(document);
            return;
        }
        let alone = states.is_empty() && !pinned && !self.is_left(document);
        let one = queue.iter().all(|asked| Some(asked.from) == first);
        let to = first.filter(|_| alone && one);
        if to.is_none_or(|to| to == self.me) && !self.is_listed(document) {
            let mode = Mode::Listing { states, pinned };
            let listing = self
                .enter(document)
                .coordination
                .get_or_insert_with(|| Coordination::new(Mode::Returning { to: None }));
            (listing.mode, listing.queue) = (mode, queue);
            return;
        }
        match to {
            Some(to) => self.give(document, to, None, queue),
            None => self.become_central(document, states, queue),
        }
    }

    /// The document is on the list, or there is none.
    pub(super) fn may_decide(&mut self, document: u64) {
        if let Some(coordination) = self.coordination(document)
            && let Mode::Listing { states, pinned } = &mut coordination.mode
        {
            let (states, pinned) = (std::mem::take(states), *pinned);
            let queue = std::mem::take(&mut coordination.queue);
            self.decide(document, pinned, states, queue);
        }
    }

    /// True if the document went from node to node too often of late.
    fn count_transfer(&mut self, document: u64) -> bool {
        let (now, options) = (self.now, self.options);
        let Some(coordination) = self.coordination(document) else {
            return false;
        };
        let (count, since) = &mut coordination.transfers;
        if now.since(*since) > options.transfers_within {
            (*count, *since) = (0, now);
        }
        *count += 1;
        *count > options.transfers_max
    }

    pub(super) fn become_central(&mut self, document: u64, states: Parts, queue: VecDeque<Asked>) {
        let mode = self.central();
        let doc = self.enter(document);
        // The own entries are among the states; from now on the gate has them.
        doc.mirror = None;
        match &mut doc.coordination {
            Some(coordination) => coordination.mode = mode,
            none => *none = Some(Coordination::new(mode)),
        }
        self.keep_left(document);
        self.effects.push(Effect::Admit {
            document,
            term: None,
            states: states.into_iter().map(|(_, state)| state).collect(),
        });
        self.set_timer(self.options.look_every, document);
        for asked in queue {
            self.evaluate(document, asked);
        }
        // Own requests that were not asked yet need not be asked.
        self.run_pending(document);
    }

    fn central(&self) -> Mode {
        Mode::Central {
            only: None,
            asked: BTreeMap::new(),
            since: self.now,
            look: self.now.after(self.options.look_every),
        }
    }

    // ---- back to one node ----

    pub(super) fn coordinator_due(&mut self, document: u64) {
        let now = self.now;
        let Some(coordination) = self.coordination(document) else {
            return;
        };
        match &mut coordination.mode {
            Mode::Revoking {
                force: Force::Raised,
                deadline,
                ..
            } if *deadline <= now => self.no_token_out(document),
            Mode::Revoking {
                holder,
                grant,
                force,
                deadline,
                ..
            } if *deadline <= now => {
                let returned = matches!(force, Force::Again { returned: true });
                (*force, *deadline) = (Force::Raising { returned }, Now::NEVER);
                let (holder, grant) = (*holder, *grant);
                self.effects.push(Effect::ForceFence {
                    document,
                    holder,
                    grant,
                });
            }
            Mode::Central { look, .. } if *look <= now => {
                *look = Now::NEVER;
                self.effects.push(Effect::Look { document });
            }
            _ => {}
        }
    }

    pub(super) fn looked(&mut self, document: u64, holders: &[MemberId]) {
        let (now, options) = (self.now, self.options);
        let Some(coordination) = self.coordination(document) else {
            return;
        };
        let running = !coordination.running.is_empty();
        let Mode::Central {
            only,
            asked,
            since,
            look,
        } = &mut coordination.mode
        else {
            return;
        };
        *look = now.after(options.look_every);
        let quiet = |asked: &BTreeMap<Member, Now>, but: Option<MemberId>, wait| {
            let latest = asked.iter().filter(|(m, _)| Some(m.id) != but);
            let latest = latest.map(|(_, at)| *at).max().unwrap_or(*since);
            now.since(latest) >= wait
        };
        let back = match holders {
            _ if running => None,
            [] if quiet(asked, None, options.idle_after) => Some(None),
            [one] => {
                let (who, from) = *only.get_or_insert((*one, now));
                if who != *one {
                    *only = Some((*one, now));
                    None
                } else {
                    let long = now.since(from) >= options.alone_after
                        && quiet(asked, Some(*one), options.alone_after);
                    long.then_some(Some(*one))
                }
            }
            _ => None,
        };
        if holders.len() != 1 {
            *only = None;
        }
        let to = back.flatten().and_then(|id| self.member(id));
        match back {
            // Its clients are about to be dropped with it.
            Some(Some(_)) if to.is_none() => self.set_timer(options.look_every, document),
            Some(only) => {
                if let Some(coordination) = self.coordination(document) {
                    coordination.mode = Mode::Returning { to };
                }
                self.effects.push(Effect::Return { document, only });
            }
            None => self.set_timer(options.look_every, document),
        }
    }

    pub(super) fn returned(
        &mut self,
        document: u64,
        only: Option<MemberId>,
        state: Option<Option<Bytes>>,
    ) {
        let me = self.me;
        let returning = self.coordination(document).and_then(|c| match c.mode {
            Mode::Returning { to } if to.map(|m| m.id) == only => {
                Some((to, std::mem::take(&mut c.queue)))
            }
            _ => None,
        });
        let Some((to, queue)) = returning else {
            // The shard is another node's now. What was behind the gate of own entries is what this node has there.
            if let (Some(Some(state)), true) = (state, only == Some(me.id)) {
                self.keep_from_before(document, state);
            }
            return;
        };
        let to = to.filter(|to| !self.is_dead(*to));
        match (to, state) {
            (_, None) => self.stay_central(document, queue),
            (Some(to), Some(Some(state))) => {
                self.count_transfer(document);
                self.give(document, to, Some(state), queue);
            }
            // Nobody has anything, or its clients went with it.
            (_, Some(_)) => self.decide_again(document, Vec::new(), queue),
        }
    }

    /// Others had something after all.
    fn stay_central(&mut self, document: u64, queue: VecDeque<Asked>) {
        let mode = self.central();
        if let Some(coordination) = self.coordination(document) {
            coordination.mode = mode;
        }
        self.keep_left(document);
        self.set_timer(self.options.look_every, document);
        for asked in queue {
            self.evaluate(document, asked);
        }
        self.run_pending(document);
    }

    fn member(&self, id: MemberId) -> Option<Member> {
        if id == self.me.id {
            return Some(self.me);
        }
        self.live.iter().find(|m| m.id == id).copied()
    }

    // ---- force, and the end of nodes ----

    pub(super) fn fenced(&mut self, document: u64, token: GrantId, fence: Option<u64>) {
        let id = shard_of(document);
        let (now, options) = (self.now, self.options);
        if let Some(fence) = fence {
            self.raise_fence(document, fence);
        }
        let Some(coordination) = self.coordination(document) else {
            return;
        };
        let Mode::Revoking {
            holder,
            grant,
            force: force @ Force::Raising { .. },
            deadline,
            ..
        } = &mut coordination.mode
        else {
            return;
        };
        if *grant != token {
            return;
        }
        let returned = *force == Force::Raising { returned: true };
        let wait = match fence {
            Some(_) => options.revoke_wait,
            None => RAISE_AGAIN,
        };
        *force = match fence {
            Some(_) => Force::Raised,
            None => Force::Again { returned },
        };
        *deadline = now.after(wait);
        let (holder, grant) = (*holder, *grant);
        self.set_timer(wait, document);
        let Some(fence) = fence else { return };
        for member in self.live.clone() {
            self.say(member, id, Body::Forced { document, fence });
        }
        if returned {
            self.no_token_out(document);
        } else {
            // It may be heard sooner than the registry.
            self.say(holder, id, Body::Revoked { document, grant });
        }
    }

    pub(super) fn coordinated_node_down(&mut self, document: u64, member: Member) {
        let Some(coordination) = self.coordination(document) else {
            return;
        };
        coordination.queue.retain(|asked| asked.from != member);
        let gone: Vec<(Member, RequestId)> = coordination
            .running
            .iter()
            .filter(|(from, _)| *from == member)
            .copied()
            .collect();
        coordination.running.retain(|(from, _)| *from != member);
        if let Mode::Revoking { parts, .. } | Mode::Listing { states: parts, .. } =
            &mut coordination.mode
        {
            parts.retain(|(from, _)| *from != member);
        }
        let central = matches!(
            coordination.mode,
            Mode::Central { .. } | Mode::Returning { .. }
        );
        let held = coordination.holder() == Some(member);
        if held {
            return self.no_token_out(document);
        }
        for (from, request) in gone {
            self.effects.push(Effect::Abort {
                document,
                from,
                request,
            });
        }
        if central {
            self.effects.push(Effect::DropMember { document, member });
        }
    }

    /// True if this node owns the document's shard and has all reports.
    #[must_use]
    pub fn coordinates(&self, document: u64) -> bool {
        self.shards
            .get(&shard_of(document))
            .is_some_and(|s| matches!(s.role, Role::Mine))
    }
}
