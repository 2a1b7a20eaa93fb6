//! Deputies: documents that nobody holds go on while their coordinator is silent, before it is fenced.
//!
//! A coordinator tells one other member, its deputy, which documents it decides about itself (**list**): it opens a gate for its
//! own clients, or for all, only when the deputy has said that the document is on the list. What other nodes have they know
//! themselves. So the deputy may take a shard over from a coordinator that is silent and still a member: all others report, and
//! what is not on the list the silent one does not have. What is on it waits until that one reports, or is gone.
//!
//! The registry arbitrates by one number of the coordinator's, its **turn**: a take-over names the turn of the list and is
//! refused once the coordinator has drawn the next one. It does so when its deputy is silent, looks whether a shard was taken
//! before that, and only then goes on without a list ([`super::Event::Deputy`] tells of both).

use std::collections::{BTreeMap, BTreeSet};

use sluice_lockmgr::{Member, Now, ShardEpoch, ShardId, shard_of};

use super::coordinator::Mode;
use super::effect::Effect;
use super::machine::TokenMachine;
use super::message::{Body, Claim};
use super::node::NodeSide;
use super::shard::{Doc, Role};

/// Whom the lists of this node go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deputy {
    pub member: Member,
    pub turn: u64,
}

/// What the deputy knows of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// It was told.
    Told,
    /// It has said so.
    There,
    /// As `There`; it may be told that nothing is decided about the document here any more.
    Leaving,
}

/// The list of a shard at its coordinator.
#[derive(Default)]
pub(super) struct List(BTreeMap<u64, Listed>);

/// The list of a shard at the deputy of its coordinator.
pub(super) struct Ward {
    pub of: Member,
    /// Under which ownership of the shard it is complete.
    pub epoch: ShardEpoch,
    pub turn: u64,
    pub documents: BTreeSet<u64>,
}

/// A take-over from a silent coordinator.
#[derive(Clone, Copy)]
pub(super) struct Spared {
    pub of: Member,
    pub turn: u64,
    /// The new owner's.
    pub epoch: ShardEpoch,
}

/// What the silent former coordinator of an own shard may have.
pub(super) struct Missing {
    pub of: Member,
    pub documents: BTreeSet<u64>,
    /// What members have of these documents.
    pub claims: Vec<(Member, Claim)>,
}

impl Doc {
    /// Whether this node decides something of this document, as its coordinator for all, or alone; or has something there that a
    /// silent former coordinator knows of.
    fn is_of(&self, me: Member) -> bool {
        let coordinated = self.coordination.as_ref().is_some_and(|coordination| {
            coordination.holder() == Some(me)
                || matches!(
                    coordination.mode,
                    Mode::Central { .. } | Mode::Returning { .. }
                )
        });
        coordinated || self.side != NodeSide::Away || self.mirror.is_some()
    }
}

impl TokenMachine {
    // ---- the coordinator ----

    /// Another deputy, or none: by then nobody can take a shard over with an earlier list any more, and what was taken before
    /// that is known.
    pub(super) fn deputy_is(&mut self, deputy: Option<Deputy>) {
        self.deputy = deputy;
        self.leaving.clear();
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for id in &shards {
            if let Some(list) = self.shard_mut(*id).list.take() {
                for (document, listed) in list.0 {
                    if listed == Listed::Told {
                        self.may_decide(document);
                    }
                }
            }
        }
        for id in shards {
            self.send_list(id);
        }
    }

    /// Sends the list of an own shard. From now on it must be complete. Of one that is being rebuilt it has what this node has
    /// itself; what others say that they have goes on the list as whatever else is decided about.
    pub(super) fn send_list(&mut self, id: ShardId) {
        let (me, deputy) = (self.me, self.deputy);
        let Some(Deputy { member, turn }) = deputy else {
            return;
        };
        let shard = self.shard_mut(id);
        let ready = match &shard.role {
            Role::Mine => true,
            // By its own report it has heard all that it is to hear of former owners.
            Role::Rebuilding { silent, .. } => !silent.contains(&me),
            Role::Other => false,
        };
        if !ready {
            return;
        }
        let decided = shard.docs.iter().filter(|(_, doc)| doc.is_of(me));
        let documents: Vec<u64> = decided.map(|(document, _)| *document).collect();
        // The deputy has them before it hears anything that comes later.
        let there = documents.iter().map(|document| (*document, Listed::There));
        shard.list = Some(List(there.collect()));
        self.say(member, id, Body::List { turn, documents });
    }

    /// Whether the gate of an own document may be opened. If not, the deputy is told, and [`Self::may_decide`] comes later.
    pub(super) fn is_listed(&mut self, document: u64) -> bool {
        let (deputy, id) = (self.deputy, shard_of(document));
        let (Some(Deputy { member, turn }), Some(list)) = (deputy, &mut self.shard_mut(id).list)
        else {
            return true;
        };
        match list.0.get_mut(&document) {
            Some(Listed::Told) => false,
            Some(listed) => {
                *listed = Listed::There;
                true
            }
            None => {
                list.0.insert(document, Listed::Told);
                self.set_timer(self.options.deputy_patience, document);
                self.say(member, id, Body::Taking { turn, document });
                false
            }
        }
    }

    fn listed(&mut self, document: u64, epoch: ShardEpoch, turn: u64) {
        let id = shard_of(document);
        let current = self.deputy.is_some_and(|deputy| deputy.turn == turn);
        if !current || self.shard_mut(id).epoch != epoch {
            return;
        }
        let list = self.shard_mut(id).list.as_mut();
        if let Some(listed @ Listed::Told) = list.and_then(|list| list.0.get_mut(&document)) {
            *listed = Listed::There;
            self.may_decide(document);
        }
    }

    /// Time went by for a document whose listing may be awaited.
    pub(super) fn listing_due(&mut self, document: u64) {
        let Some(deputy) = self.deputy else { return };
        let list = self
            .shards
            .get(&shard_of(document))
            .and_then(|s| s.list.as_ref());
        if list.is_some_and(|list| list.0.get(&document) == Some(&Listed::Told)) {
            self.set_timer(self.options.deputy_patience, document);
            let Deputy { member, turn } = deputy;
            let deputy = member;
            self.effects.push(Effect::DeputySilent { deputy, turn });
        }
    }

    /// This node does not decide about an own document any more. The deputy need not know at once: it may be back soon.
    pub(super) fn leave_list(&mut self, document: u64) {
        let list = self.shard_mut(shard_of(document)).list.as_mut();
        if let Some(listed @ Listed::There) = list.and_then(|list| list.0.get_mut(&document)) {
            *listed = Listed::Leaving;
            self.leaving.insert(document);
            let due = self.now.after(self.options.give_back_delay);
            self.giving_due = self.giving_due.min(due);
        }
    }

    pub(super) fn flush_leaving(&mut self) {
        self.giving_due = Now::NEVER;
        let Some(Deputy { member, turn }) = self.deputy else {
            return;
        };
        let mut left: BTreeMap<ShardId, Vec<u64>> = BTreeMap::new();
        for document in std::mem::take(&mut self.leaving) {
            let id = shard_of(document);
            // It may be wanted again since.
            if let Some(list) = &mut self.shard_mut(id).list
                && list.0.get(&document) == Some(&Listed::Leaving)
            {
                list.0.remove(&document);
                left.entry(id).or_default().push(document);
            }
        }
        for (id, documents) in left {
            self.say(member, id, Body::Left { turn, documents });
        }
    }

    // ---- the deputy ----

    pub(super) fn hear_of_lists(
        &mut self,
        from: Member,
        id: ShardId,
        epoch: ShardEpoch,
        body: Body,
    ) {
        if let Body::Taken { turn, document } = body {
            return self.listed(document, epoch, turn);
        }
        if let Body::List { turn, documents } = body {
            self.learn(id, Some(from), epoch);
            let shard = self.shard_mut(id);
            if shard.epoch == epoch && shard.owner == Some(from) {
                let documents = documents.into_iter().collect();
                shard.ward = Some(Ward {
                    of: from,
                    epoch,
                    turn,
                    documents,
                });
            }
            return;
        }
        let shard = self.shard_mut(id);
        // Under a newer owner the former one gets no leave any more.
        if shard.epoch != epoch {
            return;
        }
        let Some(ward) = shard.ward.as_mut().filter(|ward| ward.of == from) else {
            return;
        };
        match body {
            Body::Taking { turn, document } if turn == ward.turn => {
                ward.documents.insert(document);
                self.say(from, id, Body::Taken { turn, document });
            }
            Body::Left { turn, documents } if turn == ward.turn => {
                for document in documents {
                    ward.documents.remove(&document);
                }
            }
            _ => {}
        }
    }

    /// Somebody does not hear from the coordinator of a shard.
    pub(super) fn silent(&mut self, id: ShardId, of: Member) {
        let Some(shard) = self.shards.get(&id) else {
            return;
        };
        if let Some(ward) = &shard.ward
            && ward.of == of
            && ward.epoch == shard.epoch
            && !self.is_dead(of)
        {
            let (epoch, turn) = (ward.epoch, ward.turn);
            self.effects.push(Effect::TakeOver {
                shard: id,
                epoch,
                of,
                turn,
            });
        }
    }

    /// The registry has not: what the list is worth is over.
    pub(super) fn not_taken(&mut self, id: ShardId, refused: Spared) {
        let Spared { of, turn, epoch } = refused;
        let ward = &mut self.shard_mut(id).ward;
        ward.take_if(|ward| (ward.of, ward.turn, ward.epoch) == (of, turn, epoch));
    }

    /// The registry has given a shard of a silent coordinator to this node, its deputy.
    pub(super) fn took_over(&mut self, id: ShardId, spared: Spared) {
        let shard = self.shard_mut(id);
        if shard.epoch <= spared.epoch {
            shard.spared = Some(spared);
            // The membership may have been quicker.
            self.finish_if_reported(id);
        }
    }
}
