//! A shard as one node knows it: its owner, and how a new owner learns what the others have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use sluice_lockmgr::{GrantId, Member, ShardEpoch, ShardId};

use super::coordinator::{Coordination, Mode, Parts};
use super::deputy::{List, Missing, Spared, Ward};
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
    /// At the coordinator: what its deputy knows. `None`: it has no list of the shard.
    pub list: Option<List>,
    /// At the coordinator's deputy: the list.
    pub ward: Option<Ward>,
    /// The latest take-over from a silent coordinator.
    pub spared: Option<Spared>,
    /// At a new owner: documents that the silent former one may have.
    pub missing: Option<Missing>,
}

impl Shard {
    /// Whether a document waits for the silent former owner.
    pub(super) fn misses(&self, document: u64) -> bool {
        let missing = self.missing.as_ref();
        missing.is_some_and(|missing| missing.documents.contains(&document))
    }
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
            shard.ward.take_if(|ward| ward.of == member);
            if let Role::Rebuilding { silent, claims } = &mut shard.role {
                silent.remove(&member);
                claims.retain(|(from, _)| *from != member);
                self.finish_if_reported(id);
            } else if matches!(shard.role, Role::Mine) {
                let documents: Vec<u64> = shard.docs.keys().copied().collect();
                for document in documents {
                    self.coordinated_node_down(document, member);
                }
                if let Some(missing) = &mut self.shard_mut(id).missing {
                    missing.claims.retain(|(from, _)| *from != member);
                    if missing.of == member {
                        self.nothing_missing(id);
                    }
                }
            }
        }
    }

    /// A newer owner of a shard is known.
    pub(super) fn learn(&mut self, id: ShardId, owner: Option<Member>, epoch: ShardEpoch) {
        let (me, acted) = (self.me, self.frozen_since.unwrap_or(self.now));
        let shard = self.shard_mut(id);
        if epoch <= shard.epoch {
            return;
        }
        let lost = !matches!(shard.role, Role::Other);
        let before = shard.owner;
        // A list tells of one owner: who comes next may go by it.
        let follows = owner == Some(me) && epoch.0 == shard.epoch.0 + 1;
        let old = shard.epoch;
        shard.ward.take_if(|ward| !follows || ward.epoch != old);
        (shard.list, shard.missing) = (None, None);
        (shard.owner, shard.epoch) = (owner, epoch);
        shard.forced.clear();
        shard.left.retain(|_, left| left.until > acted);
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
        let shard = self.shard_mut(id);
        let news = news.into_iter().map(|claim| (from, claim));
        if let Role::Rebuilding { silent, claims } = &mut shard.role
            && silent.contains(&from)
        {
            claims.extend(news);
            if last {
                silent.remove(&from);
                if from == self.me {
                    self.send_list(id);
                }
                self.finish_if_reported(id);
            }
        } else if let Some(missing) = shard.missing.as_mut().filter(|m| m.of == from) {
            let listed =
                |claimed: &(Member, Claim)| missing.documents.contains(&claimed.1.document);
            let (old, others): (Vec<_>, Vec<_>) = news.partition(listed);
            missing.claims.extend(old);
            if last {
                self.nothing_missing(id);
            }
            self.refuse_unlisted(id, others);
        }
    }

    /// What the silent former owner has and its list did not say. If not from this node, it can't be; if it is, others may have
    /// it by now, and they count.
    fn refuse_unlisted(&mut self, id: ShardId, claims: Vec<(Member, Claim)>) {
        let epoch = self.shard_mut(id).epoch;
        for (holder, Claim { document, held }) in claims {
            let void = match held {
                Held::Alone(grant) if grant.epoch < epoch => Body::Revoked { document, grant },
                Held::Part { since, .. } if since < epoch => Body::Void { document },
                Held::Alone(_) | Held::Part { .. } => continue,
            };
            self.effects.push(Effect::Unlisted { document, holder });
            self.say(holder, id, void);
        }
    }

    pub(super) fn finish_if_reported(&mut self, id: ShardId) {
        let shard = self.shard_mut(id);
        let (epoch, spared) = (shard.epoch, shard.spared);
        let Role::Rebuilding { silent, claims } = &mut shard.role else {
            return;
        };
        let stands_in = |ward: &mut Ward| {
            let of = ward.of;
            let spared = spared.is_some_and(|s| (s.of, s.turn, s.epoch) == (of, ward.turn, epoch));
            spared && silent.iter().all(|member| *member == of)
        };
        let missing = if silent.is_empty() {
            None
        } else if let Some(ward) = shard.ward.take_if(stands_in) {
            Some((ward.of, ward.documents))
        } else {
            return;
        };
        let mut claims = std::mem::take(claims);
        shard.role = Role::Mine;
        shard.ward = None;
        if let Some((of, documents)) = missing {
            let late = |claimed: &mut (Member, Claim)| documents.contains(&claimed.1.document);
            let late = claims.extract_if(.., late).collect();
            shard.missing = Some(Missing {
                of,
                documents,
                claims: late,
            });
        }
        let listed = shard.list.is_some();
        self.effects.push(Effect::Asserted { shard: id });
        self.restore_all(claims);
        if !listed {
            self.send_list(id);
        }
        self.replay_early(id);
    }

    /// The silent former owner has reported, or is gone.
    fn nothing_missing(&mut self, id: ShardId) {
        if let Some(missing) = self.shard_mut(id).missing.take() {
            self.effects.push(Effect::Asserted { shard: id });
            self.restore_all(missing.claims);
            self.replay_early(id);
        }
    }

    fn restore_all(&mut self, claims: Vec<(Member, Claim)>) {
        let mut by_document: BTreeMap<u64, Claimed> = BTreeMap::new();
        for (from, claim) in claims {
            let claimed = by_document.entry(claim.document).or_default();
            match claim.held {
                Held::Alone(grant) => claimed.alone.push((from, grant)),
                Held::Part { state, .. } => claimed.parts.push((from, state)),
            }
        }
        for (document, claimed) in by_document {
            self.restore(document, claimed);
        }
    }

    fn restore(&mut self, document: u64, mut claimed: Claimed) {
        claimed.alone.sort_by_key(|(_, grant)| *grant);
        let Some((holder, grant)) = claimed.alone.pop() else {
            return self.decide(document, false, claimed.parts, VecDeque::new());
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
            self.keep_from_before(document, part);
        }
        let shard = self.shard_mut(id);
        shard.relinquishing = shard.relinquishing.saturating_sub(1);
        self.send_report(id);
    }

    /// What this node decided about as the owner, and has now as anybody else has it. A new owner has not heard of it.
    pub(super) fn keep_from_before(&mut self, document: u64, part: Bytes) {
        let epoch = self.shard_mut(sluice_lockmgr::shard_of(document)).epoch;
        let before = ShardEpoch(epoch.0.saturating_sub(1));
        self.keep_mirror(document, part, before);
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
                (None, Some(mirror)) => Held::Part {
                    since: mirror.age.0,
                    state: mirror.state.clone(),
                },
                (None, None) => continue,
            };
            if let Held::Part { state, .. } = &held {
                bytes += state.len();
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
            (body, _) => {
                if let Some(body) = self.hold_if_missing(from, id, epoch, body) {
                    self.coordinate(from, body);
                }
            }
        }
    }

    /// Keeps for later what is about documents that the silent former owner may have; the rest.
    fn hold_if_missing(
        &mut self,
        from: Member,
        id: ShardId,
        epoch: ShardEpoch,
        body: Body,
    ) -> Option<Body> {
        let shard = self.shard_mut(id);
        let late = match body {
            body if shard.missing.is_none() => return Some(body),
            Body::GiveBack { grants } => {
                let misses = |grant: &(u64, GrantId)| shard.misses(grant.0);
                let (late, grants): (Vec<_>, Vec<_>) = grants.into_iter().partition(misses);
                if !late.is_empty() {
                    let held = Body::GiveBack { grants: late };
                    shard.early.push_back((from, epoch, held));
                }
                return Some(Body::GiveBack { grants });
            }
            body => match body {
                Body::Ask { document, .. }
                | Body::Cancel { document, .. }
                | Body::State { document, .. }
                | Body::Busy { document, .. }
                    if shard.misses(document) =>
                {
                    body
                }
                body => return Some(body),
            },
        };
        shard.early.push_back((from, epoch, late));
        None
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
