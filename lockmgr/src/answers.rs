//! Answers that must not be lost with who gave them: to calls of other nodes that took effect here, by the call's number, until
//! they are on their way.
//!
//! A node keeps a copy of what its clients have, renewed with every message about it, and such a message may overtake the answer
//! to the call that made the change. If this node then goes, the call is asked again elsewhere, where the copy went. So these
//! answers are part of the copy, and whoever is asked again gives the first answer again instead of locking, unlocking or
//! closing a second time. Opens need no answer kept: an open has the number of its call.
//!
//! A node may also ask again while the answer is on its way: a token that was taken away before it came makes it ask anew for
//! all that it had asked. So the last answers are known for a while after they were sent; they go nowhere.
//!
//! Must never hold an answer to what may be asked twice without harm: reads, refusals, plain I/O.

use std::collections::VecDeque;

use crate::document::Document;
use crate::env::Env;
use crate::epoch::MemberId;
use crate::op::OpAnswer;
use crate::types::{ClientId, Ticket, WaiterId};

/// See the module's head. Few at any moment: as many as calls are being answered.
#[derive(Default)]
pub(crate) struct Answers {
    kept: Vec<(Ticket, OpAnswer)>,
    /// The last ones that were sent, the latest last.
    sent: VecDeque<(Ticket, OpAnswer)>,
}

/// Answers of a document that are known after they were sent.
const SENT_MAX: usize = 32;

/// Whose call it is: tickets, like clients, carry their node's number.
fn caller(ticket: Ticket) -> ClientId {
    ClientId(ticket.0)
}

impl Answers {
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(crate) fn get(&self, ticket: Ticket) -> Option<&OpAnswer> {
        let mut all = self.kept.iter().chain(&self.sent);
        let found = all.find(|(number, _)| *number == ticket);
        found.map(|(_, answer)| answer)
    }

    /// The first answer to a call counts.
    pub(crate) fn keep(&mut self, ticket: Ticket, answer: OpAnswer) {
        if self.get(ticket).is_none() {
            self.kept.push((ticket, answer));
        }
    }

    /// It is on its way, or nobody waits for it any more.
    pub(crate) fn sent(&mut self, ticket: Ticket) {
        if let Some(at) = self.kept.iter().position(|(number, _)| *number == ticket) {
            if self.sent.len() >= SENT_MAX {
                self.sent.pop_front();
            }
            self.sent.push_back(self.kept.swap_remove(at));
        }
    }

    pub(crate) fn forget_all(&mut self) {
        self.kept.clear();
        self.sent.clear();
    }

    pub(crate) fn forget_member(&mut self, member: MemberId) {
        let stays = |(ticket, _): &(Ticket, OpAnswer)| caller(*ticket).member() != member;
        self.kept.retain(stays);
        self.sent.retain(stays);
    }

    /// Those to calls of these clients' nodes.
    pub(crate) fn of(&self, keep: &dyn Fn(ClientId) -> bool) -> Vec<(Ticket, OpAnswer)> {
        let kept = self.kept.iter();
        kept.filter(|(ticket, _)| keep(caller(*ticket)))
            .cloned()
            .collect()
    }
}

/// A waiter of another node was granted byte ranges.
pub(crate) fn keep_granted(d: &mut Document, env: &Env, waiter: WaiterId) {
    let ticket = Ticket(waiter.0);
    if env.is_foreign(ticket) {
        d.answers.keep(ticket, OpAnswer::Done(Ok(())));
    }
}
