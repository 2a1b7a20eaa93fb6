//! A shard as one node knows it: its owner, and how a new owner learns what the others have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sluice_lockmgr::{GrantId, Member, ShardEpoch, ShardId};

use super::coordinator::{Coordination, Mode, Parts};
use super::effect::Effect;
use super::left::Left;
use super::machine::TokenMachine;
use super::message::{Body, Claim, Held, RequestId};
use super::node::NodeSide;

/// Claims in one message of a report.
const CLAIMS_MAX: usize = 1_000;
/// Bytes of claims after which a message of a report ends.
const CLAIM_BYTES_MAX: usize = 4 << 20;

/// What a node is for a shard.
#[derive(Default)]
pub(super) enum Role {
    /// No coordinator.
    #[default]
    Other,
    /// Its new owner: waits for reports.
    Rebuilding {
        silent: BTreeSet<Member>,
        claims: Vec<(Member, Claim)>,
    },
    /// Its owner.
    Mine,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Shard {
    pub owner: Option<Member>,
    pub epoch: ShardEpoch,
    /// The latest owner's epoch that was told what this node has: earlier owners are not listened to any more.
    pub reported: ShardEpoch,
    /// What was asked under earlier owners was asked anew under this one's epoch: what they still say is not listened to.
    pub asked_anew: ShardEpoch,
    pub role: Role,
    pub docs: BTreeMap<u64, Doc>,
    /// Documents whose fence was raised by force in this epoch.
    pub forced: BTreeMap<u64, u64>,
    /// Documents that are kept for NFS clients of lost nodes.
    pub left: BTreeMap<u64, Left>,
    /// Tokens that were taken away before they were here: what brings them is still on its way.
    pub void: BTreeSet<GrantId>,
    /// The latest token that came: they come in their order.
    pub latest: GrantId,
    /// Messages for the coordinator that came before it could look at them.
    early: VecDeque<(Member, ShardEpoch, Body)>,
    /// Documents that are being closed since the shard was lost; a report waits for them.
    relinquishing: usize,
    /// Who waits for a report.
    report_due: Option<(Member, ShardEpoch)>,
}

/// An own request that is not decided here.
#[derive(Clone, Copy)]
pub(super) struct Pending {
    pub request: RequestId,
    /// The epoch with which it was sent; `None`: not yet.
    pub sent: Option<ShardEpoch>,
}

/// The own entries at the coordinator.
pub(super) struct Mirror {
    /// Of the part they came with.
    pub age: (ShardEpoch, u64),
    pub state: Bytes,
}

/// One document.
#[derive(Default)]
pub(super) struct Doc {
    pub side: NodeSide,
    pub pending: Vec<Pending>,
    pub mirror: Option<Mirror>,
    pub coordination: Option<Coordination>,
}

impl Doc {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.side, NodeSide::Away)
            && self.pending.is_empty()
            && self.mirror.is_none()
            && self.coordination.is_none()
    }

    /// Under which epoch this node's right was last confirmed, if it has one.
    pub(super) fn right_since(&self) -> Option<ShardEpoch> {
        match (self.side.grant(), &self.mirror) {
            (Some(grant), _) => Some(grant.epoch),
            (None, Some(mirror)) => Some(mirror.age.0),
            (None, None) => None,
        }
    }
}

impl TokenMachine {
    pub(super) fn node_up(&mut self, member: Member) {
        if member == self.me || self.is_dead(member) || !self.live.insert(member) {
            return;
        }
        let mut forced = Vec::new();
        for (id, shard) in &mut self.shards {
            match &mut shard.role {
                Role::Rebuilding { silent, .. } => {
                    silent.insert(member);
                    forced.push((*id, Body::ReportAsk));
                }
                Role::Mine => {
                    let raised = shard.forced.iter().map(|(document, fence)| {
                        let (document, fence) = (*document, *fence);
                        (*id, Body::Forced { document, fence })
                    });
                    forced.extend(raised);
                }
                Role::Other => {}
            }
        }
        for (shard, body) in forced {
            self.say(member, shard, body);
        }
    }

    pub(super) fn node_down(&mut self, member: Member) {
        if member == self.me {
            return;
        }
        self.bury(member);
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for id in shards {
            let shard = self.shard_mut(id);
            shard.early.retain(|(from, ..)| *from != member);
            if let Role::Rebuilding { silent, claims } = &mut shard.role {
                silent.remove(&member);
                claims.retain(|(from, _)| *from != member);
                self.finish_if_reported(id);
            } else if matches!(shard.role, Role::Mine) {
                let documents: Vec<u64> = shard.docs.keys().copied().collect();
                for document in documents {
                    self.coordinated_node_down(document, member);
                }
            }
        }
    }

    /// A newer owner of a shard is known.
    pub(super) fn learn(&mut self, id: ShardId, owner: Option<Member>, epoch: ShardEpoch) {
        let (me, now) = (self.me, self.now);
        let shard = self.shard_mut(id);
        if epoch <= shard.epoch {
            return;
        }
        let lost = !matches!(shard.role, Role::Other);
        let before = shard.owner;
        (shard.owner, shard.epoch) = (owner, epoch);
        shard.forced.clear();
        shard.left.retain(|_, left| left.until > now);
        if lost {
            self.relinquish(id);
        }
        if owner == Some(me) {
            self.rebuild(id);
        }
        self.effects.push(Effect::Asserted { shard: id });
        // A live former owner may still have answered: what it says counts until this node has reported. If it is dead, all is
        // asked anew at once, and then nothing of owners before counts, or what they had carried out would be done twice.
        let silent = before.is_none_or(|owner| self.is_dead(owner));
        if silent {
            self.shard_mut(id).asked_anew = epoch;
        }
        self.dispatch_shard(id, silent);
        self.replay_early(id);
    }

    // ---- the new owner ----

    fn rebuild(&mut self, id: ShardId) {
        let mut silent = self.live.clone();
        silent.insert(self.me);
        let asked = silent.clone();
        self.shard_mut(id).role = Role::Rebuilding {
            silent,
            claims: Vec::new(),
        };
        for member in asked {
            self.say(member, id, Body::ReportAsk);
        }
    }

    fn report(&mut self, from: Member, id: ShardId, news: Vec<Claim>, last: bool) {
        if let Role::Rebuilding { silent, claims } = &mut self.shard_mut(id).role
            && silent.contains(&from)
        {
            claims.extend(news.into_iter().map(|claim| (from, claim)));
            if last {
                silent.remove(&from);
                self.finish_if_reported(id);
            }
        }
    }

    fn finish_if_reported(&mut self, id: ShardId) {
        let shard = self.shard_mut(id);
        let Role::Rebuilding { silent, claims } = &mut shard.role else {
            return;
        };
        if !silent.is_empty() {
            return;
        }
        let claims = std::mem::take(claims);
        shard.role = Role::Mine;
        let mut by_document: BTreeMap<u64, Claimed> = BTreeMap::new();
        for (from, claim) in claims {
            let claimed = by_document.entry(claim.document).or_default();
            match claim.held {
                Held::Alone(grant) => claimed.alone.push((from, grant)),
                Held::Part(part) => claimed.parts.push((from, part)),
            }
        }
        for (document, claimed) in by_document {
            self.restore(document, claimed);
        }
        self.replay_early(id);
    }

    fn restore(&mut self, document: u64, mut claimed: Claimed) {
        claimed.alone.sort_by_key(|(_, grant)| *grant);
        let Some((holder, grant)) = claimed.alone.pop() else {
            self.become_central(document, claimed.parts, VecDeque::new());
            return;
        };
        let shard = sluice_lockmgr::shard_of(document);
        // Where one node is alone, no other had anything.
        self.shard_mut(shard).left.remove(&document);
        for (other, grant) in claimed.alone {
            // Can't be: a token is given after the one before came back. If it is, the later one counts.
            self.say(other, shard, Body::Revoked { document, grant });
        }
        let mode = Mode::Alone { holder, grant };
        self.enter(document).coordination = Some(Coordination::new(mode));
        if !claimed.parts.is_empty() {
            self.revoke(document, VecDeque::new(), claimed.parts);
        }
    }

    // ---- the former owner ----

    fn relinquish(&mut self, id: ShardId) {
        let shard = self.shard_mut(id);
        let was_owner = matches!(shard.role, Role::Mine);
        shard.role = Role::Other;
        shard.early.clear();
        if !was_owner {
            return;
        }
        let documents: Vec<u64> = shard.docs.keys().copied().collect();
        for document in documents {
            let Some(coordination) = self
                .doc_mut(document)
                .and_then(|doc| doc.coordination.take())
            else {
                continue;
            };
            for (from, request) in coordination.running {
                self.effects.push(Effect::Abort {
                    document,
                    from,
                    request,
                });
            }
            if matches!(
                coordination.mode,
                Mode::Central { .. } | Mode::Returning { .. }
            ) {
                self.shard_mut(id).relinquishing += 1;
                self.effects.push(Effect::Relinquish { document });
            }
            self.forget_if_idle(document);
        }
    }

    pub(super) fn relinquished(&mut self, document: u64, part: Option<Bytes>) {
        let id = sluice_lockmgr::shard_of(document);
        if let Some(part) = part {
            self.keep_mirror(document, part);
        }
        let shard = self.shard_mut(id);
        shard.relinquishing = shard.relinquishing.saturating_sub(1);
        self.send_report(id);
    }

    // ---- everybody ----

    /// A new owner asks what this node has.
    pub(super) fn report_asked(&mut self, from: Member, id: ShardId, epoch: ShardEpoch) {
        self.learn(id, Some(from), epoch);
        let shard = self.shard_mut(id);
        if epoch < shard.epoch || epoch <= shard.reported {
            return;
        }
        shard.reported = epoch;
        // What earlier owners gave is not listened to any more.
        shard.void.retain(|grant| grant.epoch >= epoch);
        shard.report_due = Some((from, epoch));
        self.send_report(id);
        self.dispatch_shard(id, true);
    }

    fn send_report(&mut self, id: ShardId) {
        let shard = self.shard_mut(id);
        if shard.relinquishing > 0 {
            return;
        }
        let Some((to, _)) = shard.report_due.take().filter(|(_, e)| *e == shard.epoch) else {
            return;
        };
        let mut claims = Vec::new();
        let mut bytes = 0;
        let mut parts = Vec::new();
        for (document, doc) in &shard.docs {
            let held = match (doc.side.grant(), &doc.mirror) {
                (Some(grant), _) => Held::Alone(grant),
                (None, Some(mirror)) => Held::Part(mirror.state.clone()),
                (None, None) => continue,
            };
            if let Held::Part(part) = &held {
                bytes += part.len();
            }
            claims.push(Claim {
                document: *document,
                held,
            });
            if claims.len() >= CLAIMS_MAX || bytes >= CLAIM_BYTES_MAX {
                parts.push(std::mem::take(&mut claims));
                bytes = 0;
            }
        }
        for claims in parts {
            let last = false;
            self.say(to, id, Body::Report { claims, last });
        }
        let last = true;
        self.say(to, id, Body::Report { claims, last });
        self.effects.push(Effect::Asserted { shard: id });
    }

    /// What is said to a coordinator: looked at under the right epoch, and not before the reports are in.
    pub(super) fn hear_node(&mut self, from: Member, id: ShardId, epoch: ShardEpoch, body: Body) {
        let me = self.me;
        let shard = self.shard_mut(id);
        if epoch > shard.epoch {
            shard.early.push_back((from, epoch, body));
            return;
        }
        let owner = shard.owner;
        if epoch < shard.epoch || owner != Some(me) {
            if let Body::Ask {
                document, request, ..
            } = body
            {
                let body = Body::Moved {
                    document,
                    request,
                    asked: epoch,
                    owner,
                };
                self.say(from, id, body);
            }
            return;
        }
        match (body, &shard.role) {
            (Body::Report { claims, last }, _) => self.report(from, id, claims, last),
            (body, Role::Rebuilding { .. }) => shard.early.push_back((from, epoch, body)),
            (body, _) => self.coordinate(from, body),
        }
    }

    fn replay_early(&mut self, id: ShardId) {
        for (from, epoch, body) in std::mem::take(&mut self.shard_mut(id).early) {
            self.hear_node(from, id, epoch, body);
        }
    }
}

/// What members have of one document.
#[derive(Default)]
struct Claimed {
    alone: Vec<(Member, GrantId)>,
    parts: Parts,
}
