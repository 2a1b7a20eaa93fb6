//! The node's part: asking for documents, being alone on them, giving them back.

use bytes::Bytes;
use sluice_lockmgr::{GrantId, Member, Revoked, ShardEpoch, ShardId, shard_of};

use super::effect::Effect;
use super::machine::TokenMachine;
use super::message::{Body, Part, RequestId, TokenMessage};
use super::shard::{Mirror, Pending};

/// Tokens that leave at once when so many of a shard are on their way back.
const GIVE_BACK_BATCH: usize = 64;

/// Idle tokens looked for at a time; the next token looks for more.
const RELEASES_MAX: usize = 8;

/// What a node is for a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NodeSide {
    /// Not alone: requests go to the coordinator (or are decided here because that is this node).
    #[default]
    Away,
    /// Alone: the gate is open.
    Alone { grant: GrantId },
    /// The token is asked for: the gate is closed, changes are being committed.
    Surrendering { grant: GrantId },
    /// The token is idle: the gate is being closed if nothing is behind it.
    Releasing { grant: GrantId, wanted: bool },
}

impl NodeSide {
    pub(super) fn grant(self) -> Option<GrantId> {
        match self {
            NodeSide::Away => None,
            NodeSide::Alone { grant }
            | NodeSide::Surrendering { grant }
            | NodeSide::Releasing { grant, .. } => Some(grant),
        }
    }
}

impl TokenMachine {
    // ---- own requests ----

    pub(super) fn request(&mut self, document: u64, request: RequestId) {
        let doc = self.enter(document);
        let here = matches!(doc.side, NodeSide::Alone { .. })
            || doc.coordination.as_ref().is_some_and(|c| c.is_central());
        if here {
            self.effects.push(Effect::Run { request });
            return;
        }
        doc.pending.push(Pending {
            request,
            sent: None,
        });
        self.dispatch(document);
    }

    pub(super) fn cancel(&mut self, document: u64, request: RequestId) {
        let Some(doc) = self.doc_mut(document) else {
            return;
        };
        let Some(at) = doc.pending.iter().position(|p| p.request == request) else {
            return;
        };
        let gone = doc.pending.remove(at);
        let shard = shard_of(document);
        if gone.sent.is_some()
            && let Some((owner, epoch)) = self.owner(document)
            && gone.sent == Some(epoch)
        {
            self.say(owner, shard, Body::Cancel { document, request });
        }
        self.forget_if_idle(document);
    }

    /// Sends what is not sent yet, if this node may not decide itself and a coordinator is known.
    pub(super) fn dispatch(&mut self, document: u64) {
        self.dispatch_before(document, None);
    }

    /// `coming`: the token that is brought right after it.
    fn dispatch_before(&mut self, document: u64, coming: Option<GrantId>) {
        let Some((owner, epoch)) = self.owner(document) else {
            return;
        };
        let shard = shard_of(document);

        let Some(doc) = self.doc_mut(document) else {
            return;
        };
        if doc.side != NodeSide::Away {
            return;
        }
        let mut unsent = Vec::new();
        for pending in doc.pending.iter_mut().filter(|p| p.sent.is_none()) {
            pending.sent = Some(epoch);
            unsent.push(pending.request);
        }
        if !unsent.is_empty() && self.giving.contains_key(&shard) {
            // The coordinator must know that the token is back before it is asked for it.
            self.flush_given();
        }
        for request in unsent {
            let body = Body::Ask {
                document,
                request,
                coming,
                op: Bytes::new(),
            };
            if owner == self.me {
                self.say(owner, shard, body);
            } else {
                self.effects.push(Effect::Forward {
                    to: owner,
                    message: TokenMessage { shard, epoch, body },
                    request,
                });
            }
        }
    }

    /// The same for a shard. `again`: also what was asked under earlier owners, who will not be listened to.
    pub(super) fn dispatch_shard(&mut self, id: ShardId, again: bool) {
        let shard = self.shard_mut(id);
        let epoch = shard.epoch;
        let mut documents = Vec::new();
        for (document, doc) in &mut shard.docs {
            if again {
                for pending in &mut doc.pending {
                    pending.sent = pending.sent.filter(|sent| *sent >= epoch);
                }
            }
            if doc.pending.iter().any(|p| p.sent.is_none()) {
                documents.push(*document);
            }
        }
        for document in documents {
            self.dispatch(document);
        }
    }

    /// The gate is open now: all own requests that were on their way try again here.
    pub(super) fn run_pending(&mut self, document: u64) {
        let Some(doc) = self.doc_mut(document) else {
            return;
        };
        for pending in std::mem::take(&mut doc.pending) {
            let request = pending.request;
            self.effects.push(Effect::Run { request });
        }
    }

    // ---- what a coordinator says ----

    pub(super) fn hear_coordinator(
        &mut self,
        from: Member,
        id: ShardId,
        epoch: ShardEpoch,
        body: Body,
    ) {
        if matches!(body, Body::ReportAsk) {
            self.report_asked(from, id, epoch);
            return;
        }
        let shard = self.shard_mut(id);
        if epoch < shard.reported.max(shard.asked_anew) {
            return;
        }
        match body {
            Body::Grant {
                document,
                grant,
                state,
                fence,
            } => {
                self.learn(id, Some(from), epoch);
                self.granted(document, grant, state, fence);
            }
            Body::Surrender { document, grant } => self.surrender_asked(document, grant),
            Body::Revoked { document, grant } => {
                // Said after it was given: it comes no more.
                self.shard_mut(id).void.remove(&grant);
                self.revoked(document, grant);
            }
            Body::Void { document } => {
                let mirror = self.doc(document).and_then(|doc| doc.mirror.as_ref());
                if mirror.is_some_and(|mirror| mirror.age.0 < epoch) {
                    self.drop_entries(document);
                }
            }
            Body::Forced { document, fence } => self.raise_fence(document, fence),
            Body::Answer {
                document,
                request,
                answer,
                part,
            } => {
                self.take_part(document, epoch, part);
                self.answer(document, request, answer);
            }
            Body::Tell {
                document,
                tell,
                part,
            } => {
                self.take_part(document, epoch, part);
                self.effects.push(Effect::Tell { document, tell });
            }
            Body::Moved {
                document,
                request,
                asked,
                owner,
            } => {
                // That it owns the shard itself it must hear from its own membership: only then it knows all members whom it
                // has to ask what they hold.
                if owner != Some(self.me) {
                    self.learn(id, owner, epoch);
                }
                self.moved(document, request, asked);
            }
            _ => {}
        }
    }

    fn granted(&mut self, document: u64, grant: GrantId, state: Option<Bytes>, fence: Option<u64>) {
        if let Some(fence) = fence {
            self.raise_fence(document, fence);
        }
        let shard = self.shard_mut(shard_of(document));
        shard.latest = shard.latest.max(grant);
        if shard.void.contains(&grant) {
            return self.refuse(document);
        }
        self.next_term += 1;
        let term = self.next_term;
        let doc = self.enter(document);
        doc.mirror = None;
        doc.side = NodeSide::Alone { grant };
        self.tokens.push_back((document, grant));
        self.tokens_held += 1;
        self.effects.push(Effect::Admit {
            document,
            term: Some(term),
            states: state.into_iter().collect(),
        });
        self.run_pending(document);
        self.release_oldest();
    }

    /// A token that was taken away before it came. Its giver forgot what this node had asked: it is asked anew.
    fn refuse(&mut self, document: u64) {
        let pending = match self.doc_mut(document) {
            Some(doc) if doc.side == NodeSide::Away => std::mem::take(&mut doc.pending),
            _ => return,
        };
        for Pending { request, sent } in pending {
            if let Some((owner, epoch)) = self.owner(document)
                && sent == Some(epoch)
            {
                let body = Body::Cancel { document, request };
                self.say(owner, shard_of(document), body);
            }
            self.effects.push(Effect::Run { request });
        }
        self.forget_if_idle(document);
    }

    fn surrender_asked(&mut self, document: u64, grant: GrantId) {
        let shard = shard_of(document);
        let side = self.doc(document).map(|d| d.side).unwrap_or_default();
        if side.grant() != Some(grant) {
            // It is on its way back, or was never taken.
            self.flush_given();
            if let Some((owner, _)) = self.owner(document) {
                let grants = vec![(document, grant)];
                self.say(owner, shard, Body::GiveBack { grants });
            }
            return;
        }
        match side {
            NodeSide::Alone { grant } => self.begin_surrender(document, grant),
            NodeSide::Releasing { grant, .. } => {
                self.enter(document).side = NodeSide::Releasing {
                    grant,
                    wanted: true,
                };
            }
            NodeSide::Away | NodeSide::Surrendering { .. } => {}
        }
    }

    fn begin_surrender(&mut self, document: u64, grant: GrantId) {
        self.enter(document).side = NodeSide::Surrendering { grant };
        self.tokens_held = self.tokens_held.saturating_sub(1);
        self.effects.push(Effect::Surrender { document, grant });
        self.set_timer(self.options.busy_every, document);
    }

    pub(super) fn surrendered(&mut self, document: u64, grant: GrantId, state: Option<Bytes>) {
        let shard = shard_of(document);
        let Some(doc) = self.doc_mut(document) else {
            return;
        };
        if doc.side != (NodeSide::Surrendering { grant }) {
            return;
        }
        doc.side = NodeSide::Away;
        if let Some(state) = &state {
            let epoch = self.shard_mut(shard).epoch;
            self.keep_mirror(document, state.clone(), epoch);
        }
        // Own requests go first, so that those who waited here keep their place before others.
        self.dispatch_before(document, Some(grant));
        if let Some((owner, _)) = self.owner(document) {
            let body = Body::State {
                document,
                grant,
                state,
            };
            self.say(owner, shard, body);
        }
        self.forget_if_idle(document);
    }

    /// What the registry says counts also where the coordinator could not be heard.
    pub(super) fn revoked_by_registry(&mut self, tokens: Vec<Revoked>) {
        for token in tokens {
            self.raise_fence(token.document, token.fence);
            let shard = self.shard_mut(shard_of(token.document));
            if token.grant > shard.latest && token.grant.epoch >= shard.reported {
                shard.void.insert(token.grant);
                self.drop_entries(token.document);
            }
            self.revoked(token.document, token.grant);
        }
    }

    /// What this node had at the coordinator went into a token that is void.
    fn drop_entries(&mut self, document: u64) {
        let had = self
            .doc_mut(document)
            .filter(|doc| doc.side == NodeSide::Away)
            .and_then(|doc| doc.mirror.take());
        if had.is_some() {
            self.effects.push(Effect::Drop { document });
            self.forget_if_idle(document);
        }
    }

    fn revoked(&mut self, document: u64, grant: GrantId) {
        let Some(doc) = self.doc_mut(document) else {
            return;
        };
        if doc.side.grant() != Some(grant) {
            return;
        }
        if matches!(doc.side, NodeSide::Alone { .. }) {
            self.tokens_held = self.tokens_held.saturating_sub(1);
        }
        let doc = self.enter(document);
        doc.side = NodeSide::Away;
        doc.mirror = None;
        self.effects.push(Effect::Drop { document });
        if let Some((owner, _)) = self.owner(document) {
            // Nobody need wait for the end of this node's lease.
            let grants = vec![(document, grant)];
            self.say(owner, shard_of(document), Body::GiveBack { grants });
        }
        self.dispatch(document);
        self.forget_if_idle(document);
    }

    pub(super) fn raise_fence(&mut self, document: u64, fence: u64) {
        let id = shard_of(document);
        let shard = self.shard_mut(id);
        if ShardEpoch::of_fence(fence) < shard.epoch {
            return;
        }
        let forced = shard.forced.entry(document).or_default();
        *forced = fence.max(*forced);
        self.effects.push(Effect::Asserted { shard: id });
    }

    fn take_part(&mut self, document: u64, epoch: ShardEpoch, part: Option<Part>) {
        let Some(part) = part else { return };
        let age = (epoch, part.version);
        let doc = self.enter(document);
        if doc.side != NodeSide::Away || doc.mirror.as_ref().is_some_and(|m| m.age >= age) {
            return;
        }
        doc.mirror = part.state.map(|state| Mirror { age, state });
        self.forget_if_idle(document);
    }

    /// `since`: the ownership of the shard under which it is so.
    pub(super) fn keep_mirror(&mut self, document: u64, state: Bytes, since: ShardEpoch) {
        let age = (since, 0);
        self.enter(document).mirror = Some(Mirror { age, state });
    }

    fn answer(&mut self, document: u64, request: RequestId, answer: Bytes) {
        let asked = self.doc_mut(document).and_then(|doc| {
            let at = doc.pending.iter().position(|p| p.request == request)?;
            Some(doc.pending.remove(at))
        });
        self.effects.push(if asked.is_some() {
            Effect::Deliver { request, answer }
        } else {
            Effect::Undo { document, answer }
        });
        self.forget_if_idle(document);
    }

    fn moved(&mut self, document: u64, request: RequestId, asked: ShardEpoch) {
        let epoch = self.shard_mut(shard_of(document)).epoch;
        let Some(doc) = self.doc_mut(document) else {
            return;
        };
        let mut found = false;
        for pending in doc.pending.iter_mut() {
            if pending.request == request && pending.sent == Some(asked) {
                pending.sent = None;
                found = true;
            }
        }
        if found && epoch > asked {
            self.dispatch(document);
        } else if found {
            // Neither side knows a newer owner yet: ask again a little later.
            self.set_timer(self.options.give_back_delay, document);
        }
    }

    // ---- idle tokens ----

    fn release_oldest(&mut self) {
        if self.tokens.len() > 2 * self.tokens_held.max(1024) {
            let shards = &self.shards;
            self.tokens.retain(|(document, grant)| {
                let doc = shards.get(&shard_of(*document));
                doc.and_then(|s| s.docs.get(document))
                    .is_some_and(|d| d.side.grant() == Some(*grant))
            });
        }
        for _ in 0..RELEASES_MAX {
            if self.tokens_held <= self.options.tokens_max {
                return;
            }
            let Some((document, grant)) = self.tokens.pop_front() else {
                return;
            };
            if let Some(doc) = self.doc_mut(document)
                && doc.side == (NodeSide::Alone { grant })
            {
                doc.side = NodeSide::Releasing {
                    grant,
                    wanted: false,
                };
                self.tokens_held = self.tokens_held.saturating_sub(1);
                self.effects.push(Effect::Release { document, grant });
            }
        }
    }

    pub(super) fn released(&mut self, document: u64, grant: GrantId, done: bool) {
        let Some(NodeSide::Releasing {
            grant: held,
            wanted,
        }) = self.doc(document).map(|d| d.side)
        else {
            return;
        };
        if held != grant {
            return;
        }
        if !done {
            self.enter(document).side = NodeSide::Alone { grant };
            self.tokens.push_back((document, grant));
            self.tokens_held += 1;
            self.run_pending(document);
            if wanted {
                self.begin_surrender(document, grant);
            }
            return;
        }
        let shard = shard_of(document);
        self.enter(document).side = NodeSide::Away;
        let given = self.giving.entry(shard).or_default();
        given.push((document, grant));
        if wanted || given.len() >= GIVE_BACK_BATCH {
            self.flush_given();
        } else {
            let due = self.now.after(self.options.give_back_delay);
            self.giving_due = self.giving_due.min(due);
        }
        self.dispatch(document);
        self.forget_if_idle(document);
    }

    /// Sends the tokens that are on their way back.
    pub(super) fn flush_given(&mut self) {
        if self.leaving.is_empty() {
            self.giving_due = sluice_lockmgr::Now::NEVER;
        }
        for (shard, grants) in std::mem::take(&mut self.giving) {
            let owner = self.shards.get(&shard).and_then(|s| s.owner);
            if let Some(owner) = owner {
                self.say(owner, shard, Body::GiveBack { grants });
            }
        }
    }

    pub(super) fn node_due(&mut self, document: u64) {
        let shard = shard_of(document);
        if let Some(NodeSide::Surrendering { grant }) = self.doc(document).map(|d| d.side) {
            if let Some((owner, _)) = self.owner(document) {
                self.say(owner, shard, Body::Busy { document, grant });
            }
            self.set_timer(self.options.busy_every, document);
        }
        self.dispatch(document);
    }
}
