//! Carries out what the token machines want.

use std::sync::Arc;

use bytes::Bytes;
use sluice_lockmgr::{
    Begun, DocumentState, Exported, GrantId, Member, MemberId, NotHere, Op, OpAnswer, Residence,
    Revocation, Ticket, shard_of,
};

use super::message::{PeerMessage, Tell, decode, encode};
use super::sinks::StandIn;
use super::{Evaluation, Inner, Resolved};
use crate::core::{Body, Effect, Event, Part, RequestId, TokenMessage};

impl Inner {
    pub(super) fn carry_out(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::Send { to, message } => {
                if matches!(message.body, Body::Taking { .. }) {
                    // Its patience is shorter than the usual pause between two looks.
                    self.watch.stir(self.deputy_patience * 2);
                }
                self.send(to, &PeerMessage::Token(message));
            }
            Effect::Forward {
                to,
                message,
                request,
            } => self.forward(to, message, request),
            Effect::Run { request } => self.resolve(request, Resolved::Run),
            Effect::Deliver { request, answer } => {
                self.resolve(request, Resolved::Answer(answer));
            }
            // Whoever gives a call up closes what it may have been granted by its number, and a call that is asked twice
            // is answered twice and carried out once: nothing is left to undo.
            Effect::Undo { .. } => {}
            Effect::Tell { tell, .. } => {
                if let Some(tell) = decode::<Tell>(&tell, "notice") {
                    self.own_sinks.tell(tell);
                }
            }
            Effect::Evaluate {
                document,
                from,
                request,
                op,
            } => self.evaluate(document, from, request, op),
            Effect::Abort {
                document,
                from,
                request,
            } => {
                let gone = self.evaluating.lock().remove(&(from, request));
                if let Some(evaluation) = gone {
                    self.locks.give_up(document, evaluation.ticket);
                    self.locks.answer_sent(document, evaluation.ticket);
                }
            }
            Effect::ForceFence {
                document,
                holder,
                grant,
            } => self.force_fence(document, holder, grant),
            Effect::DeputySilent { deputy, turn } => self.watch.doubts(deputy, turn),
            Effect::TakeOver {
                shard,
                epoch,
                of,
                turn,
            } => self.watch.suspects(of, shard, epoch, turn),
            Effect::Unlisted { document, holder } => {
                tracing::error!(document, %holder, "a node had a document of which its deputy did not know; its right is taken away, and what it had not committed is lost: please report this");
            }
            Effect::Asserted { .. } => self.asserted.notify_waiters(),
            effect => self.move_gate(effect),
        }
    }

    /// The effects on the gate.
    fn move_gate(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::KeepForReclaim {
                document,
                node,
                keep,
            } => self.locks.keep_for_reclaim(document, &node, keep),
            Effect::KeepLonger { document, keep } => self.locks.keep_longer(document, keep),
            Effect::Admit {
                document,
                term,
                states,
            } => {
                let residence = term.map_or(Residence::Shared, Residence::Alone);
                let states = states
                    .iter()
                    .filter_map(|state| decode::<DocumentState>(state, "state"));
                self.locks.admit(document, residence, states.collect());
            }
            Effect::Surrender { document, grant } => {
                let state = self.taken_out(self.locks.export(document));
                let done = Event::Surrendered {
                    document,
                    grant,
                    state,
                };
                self.after_commit(document, done);
            }
            Effect::Release { document, grant } => self.release(document, grant),
            Effect::Look { document } => {
                let holders = self.locks.holders(document);
                self.step(document, Event::Looked { document, holders });
            }
            Effect::Return { document, only } => {
                let exported = self.locks.hand_back(document, only);
                let state = exported.map(|exported| self.taken_out(Some(exported)));
                let returned = Event::Returned {
                    document,
                    only,
                    state,
                };
                self.step(document, returned);
            }
            Effect::Relinquish { document } => {
                let part = self.taken_out(self.locks.relinquish(document));
                self.step(document, Event::Relinquished { document, part });
            }
            Effect::Drop { document } => {
                // Closed first, so that nothing comes after what is void.
                self.locks.forget(document);
                if let Some(host) = self.host.get() {
                    host.revoked(document);
                }
            }
            Effect::DropMember { document, member } => {
                self.locks.drop_member_of(document, member.id);
            }
            _ => {}
        }
    }

    /// What was behind a gate, in bytes; sinks of own clients stay here.
    fn taken_out(&self, exported: Option<Exported>) -> Option<Bytes> {
        let exported = exported?;
        for (open, sink) in exported.sinks {
            self.own_sinks.keep(open.id, sink);
        }
        exported.state.map(|state| encode(&state))
    }

    /// Tells the machine, after what is uncommitted is committed.
    fn after_commit(self: &Arc<Self>, document: u64, done: Event) {
        let host = self.host.get();
        let Some(host) = host.filter(|host| host.has_uncommitted(document)).cloned() else {
            self.step(document, done);
            return;
        };
        let inner = Arc::clone(self);
        self.runtime.spawn(async move {
            host.surrender(document).await;
            inner.step(document, done);
        });
    }

    fn release(self: &Arc<Self>, document: u64, grant: GrantId) {
        let uncommitted = self
            .host
            .get()
            .is_some_and(|host| host.has_uncommitted(document));
        let done = !uncommitted && self.locks.close_if_idle(document);
        let released = Event::Released {
            document,
            grant,
            done,
        };
        if done {
            // A write that had passed the gate may have left something behind meanwhile.
            self.after_commit(document, released);
        } else {
            self.step(document, released);
        }
    }

    fn resolve(&self, request: RequestId, resolved: Resolved) {
        if let Some(asking) = self.asking.lock().remove(&request) {
            // A caller that is gone has given the call up already.
            let _ = asking.resolved.send(resolved);
        }
    }

    fn forward(&self, to: Member, mut message: TokenMessage, request: RequestId) {
        let known = self.asking.lock().get_mut(&request).map(|asking| {
            asking.to = Some((to, message.shard));
            asking.op.clone()
        });
        if let (Body::Ask { op, .. }, Some(known)) = (&mut message.body, known) {
            *op = known;
            self.watch.asks(to, message.shard);
            self.send(to, &PeerMessage::Token(message));
        }
    }

    // ---- for other nodes ----

    fn evaluate(self: &Arc<Self>, document: u64, from: Member, request: RequestId, bytes: Bytes) {
        let Some((ticket, mut op)) = decode::<(Ticket, Op)>(&bytes, "request") else {
            let answer = encode(&OpAnswer::Done(Err(sluice_lockmgr::Denial::NodeLost)));
            self.answered(document, from, request, answer, None);
            return;
        };
        if op.document() != document {
            let answer = encode(&op.lost());
            self.answered(document, from, request, answer, None);
            return;
        }
        if op.is_heard() {
            let open = match &op {
                Op::Reclaim { open, .. } => open.id,
                _ => sluice_lockmgr::OpenId(ticket.0),
            };
            op.put_sink(Arc::new(StandIn {
                inner: Arc::downgrade(self),
                member: from.id,
                open,
            }));
        }
        match self.locks.begin(&op, Some(ticket)) {
            Ok(Begun::Done(answer)) => self.answer(from, request, (ticket, &op), &answer),
            Ok(Begun::Waiting(waiting)) => {
                let inner = Arc::clone(self);
                let number = self.number();
                let evaluation = Evaluation { number, ticket };
                self.evaluating.lock().insert((from, request), evaluation);
                self.runtime.spawn(async move {
                    let answer = waiting.answer().await;
                    // Aborted, or asked again since then: this one's answer is nobody's.
                    if !inner.end_evaluation(from, request, number) {
                        return;
                    }
                    match answer {
                        Ok(answer) => inner.answer(from, request, (ticket, &op), &answer),
                        Err(NotHere { .. }) => inner.unanswered(document, from, request, bytes),
                    }
                });
            }
            Err(NotHere { .. }) => self.unanswered(document, from, request, bytes),
        }
    }

    fn end_evaluation(&self, from: Member, request: RequestId, number: u64) -> bool {
        let mut evaluating = self.evaluating.lock();
        let mine = evaluating
            .get(&(from, request))
            .is_some_and(|e| e.number == number);
        if mine {
            evaluating.remove(&(from, request));
        }
        mine
    }

    fn unanswered(self: &Arc<Self>, document: u64, from: Member, request: RequestId, op: Bytes) {
        let event = Event::Unanswered {
            document,
            from,
            request,
            op,
        };
        self.step(document, event);
    }

    fn answer(
        self: &Arc<Self>,
        from: Member,
        request: RequestId,
        (ticket, op): (Ticket, &Op),
        answer: &OpAnswer,
    ) {
        let document = op.document();
        let changes = op.changes(answer);
        let part = changes
            .then(|| self.part(document, from.id, Some(ticket)))
            .flatten();
        self.answered(document, from, request, encode(answer), part);
        if changes {
            // The machine has it: all that it says from now on comes after it.
            self.locks.answer_sent(document, ticket);
        }
    }

    fn answered(
        self: &Arc<Self>,
        document: u64,
        from: Member,
        request: RequestId,
        answer: Bytes,
        part: Option<Part>,
    ) {
        let event = Event::Answered {
            document,
            from,
            request,
            answer,
            part,
        };
        self.step(document, event);
    }

    /// `answered`: the call whose answer it goes with.
    fn part(&self, document: u64, member: MemberId, answered: Option<Ticket>) -> Option<Part> {
        let (version, state) = self.locks.part_of(document, member, answered)?;
        let state = state.map(|state| encode(&state));
        Some(Part { version, state })
    }

    /// The table has something to say to another node's client.
    pub(super) fn told(self: &Arc<Self>, document: u64, member: MemberId, tell: &Tell) {
        let Some(to) = self.live(member) else { return };
        let part = self.part(document, member, None);
        let event = Event::Told {
            document,
            to,
            tell: encode(tell),
            part,
        };
        self.step(document, event);
    }

    fn force_fence(self: &Arc<Self>, document: u64, holder: Member, grant: GrantId) {
        let owner = self
            .machines
            .look(document, |machine| machine.owner(document));
        let Some((_, epoch)) = owner.filter(|(owner, _)| *owner == self.me) else {
            return;
        };
        tracing::warn!(document, %holder, "a node does not give a document back; its right is taken away by force");
        let inner = Arc::clone(self);
        self.runtime.spawn(async move {
            let revocation = Revocation {
                document,
                grant,
                holder,
            };
            let raised = inner
                .registry
                .force_fence(inner.me, &revocation, epoch)
                .await;
            if let Err(error) = &raised {
                tracing::warn!(document, shard = shard_of(document).0, %error, "the document's fence can't be raised; it is tried again");
            }
            let fenced = Event::Fenced {
                document,
                grant,
                fence: raised.ok(),
            };
            inner.step(document, fenced);
        });
    }
}
