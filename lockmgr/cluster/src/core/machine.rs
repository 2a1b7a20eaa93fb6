//! The machine: its state, its events, and the loop back to itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use sluice_lockmgr::{GrantId, Member, MemberEpoch, MemberId, Now, ShardEpoch, ShardId, shard_of};

use super::deputy::{Deputy, Spared};
use super::effect::{Effect, Event};
use super::message::{Body, TokenMessage};
use super::node::NodeSide;
use super::shard::{Doc, Role, Shard};

/// Times and limits of the tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenOptions {
    /// Tokens that one machine keeps; the oldest idle ones are given back above it.
    pub tokens_max: usize,
    /// How long a holder may be silent after it was asked to give a token back.
    pub surrender_patience: Duration,
    /// How long a holder may say that it is still committing: much longer, because force costs its clients what they have not
    /// seen committed; but one whose commit never ends must not keep a document for ever.
    pub busy_patience: Duration,
    /// How long after a token was taken away by force in the registry its holder may still go by it: one lease.
    pub revoke_wait: Duration,
    /// How often a holder says that it is still committing.
    pub busy_every: Duration,
    /// How often a coordinator looks whether a document is still shared.
    pub look_every: Duration,
    /// How long nobody must have asked before a document without entries is forgotten.
    pub idle_after: Duration,
    /// How long only one node must have had something before it is alone again.
    pub alone_after: Duration,
    /// So many transfers within `transfers_within` keep a document at its coordinator.
    pub transfers_max: u32,
    /// See `transfers_max`.
    pub transfers_within: Duration,
    /// How long tokens that are given back wait for others to go with them.
    pub give_back_delay: Duration,
    /// How long the deputy may take to put a document on its list before it is doubted: with a probe that is not answered and the
    /// registry's answer well below the tenth of a second that a client may notice.
    pub deputy_patience: Duration,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self {
            tokens_max: 262_144,
            surrender_patience: Duration::from_secs(15),
            busy_patience: Duration::from_secs(120),
            revoke_wait: Duration::from_secs(6),
            busy_every: Duration::from_secs(5),
            look_every: Duration::from_secs(1),
            idle_after: Duration::from_secs(2),
            alone_after: Duration::from_secs(10),
            transfers_max: 4,
            transfers_within: Duration::from_secs(10),
            give_back_delay: Duration::from_millis(50),
            deputy_patience: Duration::from_millis(10),
        }
    }
}

/// See the module's head and [`super`].
pub struct TokenMachine {
    pub(super) me: Member,
    pub(super) options: TokenOptions,
    pub(super) now: Now,
    /// The other members.
    pub(super) live: BTreeSet<Member>,
    /// The latest incarnation of each node that is known to be gone.
    dead: BTreeMap<MemberId, MemberEpoch>,
    pub(super) shards: BTreeMap<ShardId, Shard>,
    /// When to look at which document.
    pub(super) timers: BTreeSet<(Now, u64)>,
    frozen: bool,
    pub(super) frozen_since: Option<Now>,
    /// What happened while frozen.
    held: VecDeque<Event>,
    /// What this machine says to itself.
    own: VecDeque<TokenMessage>,
    pub(super) effects: Vec<Effect>,
    pub(super) next_grant: u64,
    pub(super) next_term: u64,
    /// Tokens in order of age; outdated entries are skipped.
    pub(super) tokens: VecDeque<(u64, GrantId)>,
    pub(super) tokens_held: usize,
    /// Tokens on their way back, by shard, and when they leave.
    pub(super) giving: BTreeMap<ShardId, Vec<(u64, GrantId)>>,
    pub(super) giving_due: Now,
    pub(super) deputy: Option<Deputy>,
    /// Documents that the deputy may forget.
    pub(super) leaving: BTreeSet<u64>,
}

impl TokenMachine {
    /// A machine that knows no other member and no owner of any shard.
    #[must_use]
    pub fn new(me: Member, options: TokenOptions) -> Self {
        Self {
            me,
            options,
            now: Now::default(),
            live: BTreeSet::new(),
            dead: BTreeMap::new(),
            shards: BTreeMap::new(),
            timers: BTreeSet::new(),
            frozen: false,
            frozen_since: None,
            held: VecDeque::new(),
            own: VecDeque::new(),
            effects: Vec::new(),
            next_grant: 0,
            next_term: 0,
            tokens: VecDeque::new(),
            tokens_held: 0,
            giving: BTreeMap::new(),
            giving_due: Now::NEVER,
            deputy: None,
            leaving: BTreeSet::new(),
        }
    }

    /// Takes an event; what it wants done is taken with [`TokenMachine::take_effects`].
    pub fn step(&mut self, event: Event, now: Now) {
        self.now = self.now.max(now);
        match event {
            Event::Frozen => {
                self.frozen = true;
                self.frozen_since.get_or_insert(self.now);
            }
            Event::Thawed => {
                (self.frozen, self.frozen_since) = (false, None);
                self.be_patient_again();
                for event in std::mem::take(&mut self.held) {
                    self.handle(event);
                }
                self.assert_all();
            }
            Event::Revoked(tokens) => self.revoked_by_registry(tokens),
            Event::Left {
                member,
                node,
                documents,
                until,
            } => self.left(member, &node, &documents, until),
            Event::KeepLonger(by) => self.keep_left_longer(by),
            Event::NodeUp(member) => self.node_up(member),
            Event::NodeDown(member) => self.node_down(member),
            Event::Shards(owners) => {
                for (shard, owner) in owners {
                    self.learn(shard, owner.owner, owner.epoch);
                }
            }
            Event::TookOver {
                shard,
                epoch,
                of,
                turn,
            } => self.took_over(shard, Spared { of, turn, epoch }),
            Event::NotTaken {
                shard,
                epoch,
                of,
                turn,
            } => {
                let refused = Spared { of, turn, epoch };
                self.not_taken(shard, refused);
            }
            // What is due by then is due at the thaw.
            Event::Tick if self.frozen => {}
            event if self.frozen => self.held.push_back(event),
            event => self.handle(event),
        }
        while let Some(message) = self.own.pop_front() {
            self.message(self.me, message);
        }
    }

    /// What is to be done since the last call, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// True if there is something to take.
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// When [`Event::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Now {
        let timer = self.timers.first().map_or(Now::NEVER, |(at, _)| *at);
        timer.min(self.giving_due)
    }

    /// Who coordinates a document, and since which epoch, as far as is known.
    #[must_use]
    pub fn owner(&self, document: u64) -> Option<(Member, ShardEpoch)> {
        let shard = self.shards.get(&shard_of(document))?;
        shard
            .owner
            .filter(|owner| !self.is_dead(*owner))
            .map(|owner| (owner, shard.epoch))
    }

    /// Who coordinates a shard, as far as is known.
    #[must_use]
    pub fn shard_owner(&self, shard: ShardId) -> Option<Member> {
        self.shards.get(&shard)?.owner
    }

    /// At the coordinator: the node that is alone on a document. `Err` if this node does not coordinate it now.
    ///
    /// # Errors
    /// The coordinator, if it is another and known.
    pub fn holder(&self, document: u64) -> Result<Option<Member>, Option<Member>> {
        let shard = self.shards.get(&shard_of(document));
        match shard.map(|s| (&s.role, s)) {
            Some((Role::Mine, shard)) if shard.misses(document) => Err(None),
            Some((Role::Mine, shard)) => Ok(shard
                .docs
                .get(&document)
                .and_then(|d| d.coordination.as_ref()?.holder())),
            _ => Err(self
                .owner(document)
                .map(|(owner, _)| owner)
                .filter(|o| *o != self.me)),
        }
    }

    /// At the coordinator: who has the list of a document's shard, under which turn and ownership. That nobody is alone on a document
    /// counts for own clients only once the deputy says that it guards the shard still ([`Self::guards`]): it may have taken it over,
    /// and given the document out, while this node stood still.
    #[must_use]
    pub fn list_of(&self, document: u64) -> Option<(Member, u64, ShardEpoch)> {
        let shard = self.shards.get(&shard_of(document))?;
        let Deputy { member, turn } = self.deputy.filter(|_| shard.list.is_some())?;
        Some((member, turn, shard.epoch))
    }

    /// At the deputy: whether it has the list of a shard, and nobody else owns the shard now as far as is known. By then this node
    /// has given out nothing of it.
    #[must_use]
    pub fn guards(&self, shard: ShardId, of: Member, epoch: ShardEpoch, turn: u64) -> bool {
        self.shards.get(&shard).is_some_and(|shard| {
            let ward = shard.ward.as_ref();
            let listed = ward.is_some_and(|w| (w.of, w.epoch, w.turn) == (of, epoch, turn));
            listed && (shard.owner, shard.epoch) == (Some(of), epoch)
        })
    }

    /// True if nobody else has a document now: this node is alone on it, also while it gives it back.
    #[must_use]
    pub fn is_alone(&self, document: u64) -> bool {
        self.doc(document)
            .is_some_and(|doc| doc.side.grant().is_some())
    }

    /// True if this node decides about a document, for itself alone or for others.
    #[must_use]
    pub fn decides(&self, document: u64) -> bool {
        self.shards
            .get(&shard_of(document))
            .and_then(|s| s.docs.get(&document))
            .is_some_and(|d| {
                matches!(d.side, NodeSide::Alone { .. } | NodeSide::Releasing { .. })
                    || d.coordination.as_ref().is_some_and(|c| c.is_central())
            })
    }

    /// The fence under which this node's right on a document holds now; `None` while that is open, until
    /// [`Effect::Asserted`] for its shard.
    #[must_use]
    pub fn fence(&self, document: u64) -> Option<u64> {
        let shard = self.shards.get(&shard_of(document))?;
        if self.frozen || shard.owner.is_none_or(|o| self.is_dead(o)) {
            return None;
        }
        let asserted = shard.reported >= shard.epoch
            || shard
                .docs
                .get(&document)
                .is_none_or(|doc| doc.right_since().is_none_or(|since| since >= shard.epoch));
        let fence = shard.epoch.fence();
        asserted.then(|| shard.forced.get(&document).map_or(fence, |f| fence.max(*f)))
    }

    /// Number of tokens held, for metrics and tests.
    #[must_use]
    pub fn tokens_held(&self) -> usize {
        self.tokens_held
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Request { document, request } => self.request(document, request),
            Event::Cancel { document, request } => self.cancel(document, request),
            Event::Message { from, message } if !self.is_dead(from) => self.message(from, message),
            Event::Message { .. } => {}
            Event::Surrendered {
                document,
                grant,
                state,
            } => self.surrendered(document, grant, state),
            Event::Released {
                document,
                grant,
                done,
            } => self.released(document, grant, done),
            Event::Looked { document, holders } => self.looked(document, &holders),
            Event::Returned {
                document,
                only,
                state,
            } => self.returned(document, only, state),
            Event::Relinquished { document, part } => self.relinquished(document, part),
            Event::Answered {
                document,
                from,
                request,
                answer,
                part,
            } => self.answered(document, (from, request), answer, part),
            Event::Unanswered {
                document,
                from,
                request,
                op,
            } => self.unanswered(document, (from, request), op),
            Event::Told {
                document,
                to,
                tell,
                part,
            } => self.told(document, to, tell, part),
            Event::Fenced {
                document,
                grant,
                fence,
            } => self.fenced(document, grant, fence),
            Event::Deputy(deputy) => {
                self.deputy_is(deputy.map(|(member, turn)| Deputy { member, turn }));
            }
            Event::Silent { shard, of } => self.silent(shard, of),
            Event::Tick => self.tick(),
            Event::TookOver { .. }
            | Event::NotTaken { .. }
            | Event::Revoked(_)
            | Event::Left { .. }
            | Event::KeepLonger(_)
            | Event::NodeUp(_)
            | Event::NodeDown(_)
            | Event::Shards(_)
            | Event::Frozen
            | Event::Thawed => {}
        }
    }

    fn message(&mut self, from: Member, message: TokenMessage) {
        let TokenMessage { shard, epoch, body } = message;
        match body {
            Body::Ask { .. }
            | Body::Cancel { .. }
            | Body::State { .. }
            | Body::Busy { .. }
            | Body::GiveBack { .. }
            | Body::Report { .. } => self.hear_node(from, shard, epoch, body),
            Body::List { .. } | Body::Taking { .. } | Body::Taken { .. } | Body::Left { .. } => {
                self.hear_of_lists(from, shard, epoch, body);
            }
            body => self.hear_coordinator(from, shard, epoch, body),
        }
    }

    fn tick(&mut self) {
        while let Some((at, document)) = self.timers.first().copied() {
            if at > self.now {
                break;
            }
            self.timers.pop_first();
            self.node_due(document);
            self.coordinator_due(document);
            self.listing_due(document);
        }
        if self.giving_due <= self.now {
            self.flush_given();
            self.flush_leaving();
        }
    }

    // ---- helpers of all parts ----

    pub(super) fn is_dead(&self, member: Member) -> bool {
        self.dead
            .get(&member.id)
            .is_some_and(|epoch| member.epoch <= *epoch)
    }

    pub(super) fn bury(&mut self, member: Member) {
        self.live.remove(&member);
        let last = self.dead.entry(member.id).or_default();
        *last = (*last).max(member.epoch);
    }

    /// Says something under the shard's current epoch; to itself by way of the loop.
    pub(super) fn say(&mut self, to: Member, shard: ShardId, body: Body) {
        let epoch = self.shards.get(&shard).map_or(ShardEpoch(0), |s| s.epoch);
        let message = TokenMessage { shard, epoch, body };
        if to == self.me {
            self.own.push_back(message);
        } else if !self.is_dead(to) {
            self.effects.push(Effect::Send { to, message });
        }
    }

    pub(super) fn doc(&self, document: u64) -> Option<&Doc> {
        self.shards.get(&shard_of(document))?.docs.get(&document)
    }

    pub(super) fn doc_mut(&mut self, document: u64) -> Option<&mut Doc> {
        self.shards
            .get_mut(&shard_of(document))?
            .docs
            .get_mut(&document)
    }

    pub(super) fn shard_mut(&mut self, shard: ShardId) -> &mut Shard {
        self.shards.entry(shard).or_default()
    }

    /// The document's entry, made if it is new.
    pub(super) fn enter(&mut self, document: u64) -> &mut Doc {
        self.shard_mut(shard_of(document))
            .docs
            .entry(document)
            .or_default()
    }

    /// Forgets a document that nothing is known about.
    pub(super) fn forget_if_idle(&mut self, document: u64) {
        if let Some(shard) = self.shards.get_mut(&shard_of(document))
            && shard.docs.get(&document).is_some_and(Doc::is_idle)
        {
            shard.docs.remove(&document);
        }
    }

    pub(super) fn set_timer(&mut self, wait: Duration, document: u64) {
        self.timers.insert((self.now.after(wait), document));
    }

    fn assert_all(&mut self) {
        for shard in self.shards.keys() {
            self.effects.push(Effect::Asserted { shard: *shard });
        }
    }
}
