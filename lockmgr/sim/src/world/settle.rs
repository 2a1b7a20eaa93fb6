//! Reads without a lock: is there anything of a document that is acknowledged and not committed?
//!
//! Stands for the lock service's `settle`, with one document at a time. What is not known is not asked again: only answers are judged.

use sluice_lockmgr::{Member, ShardEpoch, shard_of};

use super::{Event, World};
use crate::{Mutant, invariants};

/// A question on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) at: Member,
    from: Member,
    document: u64,
    /// When it was first asked.
    asked: u64,
    /// To whom it goes.
    to: Asked,
}

/// Who is asked.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Coordinator,
    /// Who is alone on the document.
    Holder,
    /// The coordinator's deputy: whether it has taken nothing over.
    Deputy {
        of: Member,
        turn: u64,
        epoch: ShardEpoch,
    },
}

impl World {
    /// A client of a node looks at a document.
    pub(super) fn settle_some(&mut self, member: Member, document: u64) {
        let now = self.now;
        let Some(node) = self.node(member).filter(|node| node.may_act(now)) else {
            return;
        };
        if node.tokens.decides(document) {
            return;
        }
        let Some((owner, _)) = node.tokens.owner(document) else {
            return;
        };
        let question = Question {
            at: owner,
            from: member,
            document,
            asked: now,
            to: Asked::Coordinator,
        };
        self.put(member, question);
    }

    fn put(&mut self, by: Member, question: Question) {
        if question.at == by {
            return self.settle_asked(question);
        }
        let wait = self.network_delay();
        self.after(wait, Event::Settle(question));
    }

    pub(super) fn settle_asked(&mut self, question: Question) {
        let Question {
            at, from, document, ..
        } = question;
        let trusting = self.plan.mutant == Mutant::OldNews;
        let Some(node) = self.node(at) else {
            return;
        };
        match question.to {
            Asked::Holder => {
                let has = node.may_act(self.now) && node.tokens.is_alone(document);
                if has || trusting {
                    self.settled(at, question);
                }
                return;
            }
            Asked::Deputy { of, turn, epoch } => {
                if node.tokens.guards(shard_of(document), of, epoch, turn) {
                    self.settled(of, question);
                }
                return;
            }
            Asked::Coordinator => {}
        }
        match node.tokens.holder(document) {
            Ok(Some(holder)) => self.put(
                at,
                Question {
                    at: holder,
                    to: Asked::Holder,
                    ..question
                },
            ),
            Ok(None) => match node.tokens.list_of(document) {
                Some((deputy, turn, epoch)) if at == from && !trusting => self.put(
                    at,
                    Question {
                        at: deputy,
                        to: Asked::Deputy {
                            of: at,
                            turn,
                            epoch,
                        },
                        ..question
                    },
                ),
                _ => self.settled(at, question),
            },
            Err(_) => {}
        }
    }

    /// `teller` knows it.
    fn settled(&mut self, teller: Member, question: Question) {
        let Question {
            from,
            document,
            asked,
            ..
        } = question;
        let acts = |node: &&crate::node::Node| node.may_act(self.now);
        // Whoever asked may be gone, and reads nothing then.
        if self.node(from).filter(acts).is_none() {
            return;
        }
        self.report.settled += 1;
        let nodes = self.nodes.iter().flatten().filter(acts);
        let others: Vec<(String, u64)> = nodes
            .filter(|node| node.me != teller)
            .filter_map(|node| {
                let gate = node.gates.get(&document)?;
                Some((node.me.to_string(), gate.since))
            })
            .collect();
        let teller = teller.to_string();
        if let Err(what) = invariants::settled::check(document, &teller, asked, &others) {
            self.violated("I5 coherent read", what);
        }
    }
}
