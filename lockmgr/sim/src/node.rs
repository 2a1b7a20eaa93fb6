//! One incarnation of a node: its machines, its gates, its clients.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use sluice_lockmgr::{EpochRegistry, LifeLock, Member, Now, SHARDS, ShardEpoch};
use sluice_lockmgr_cluster::core::{Effect, RequestId, TokenMachine, TokenOptions};
use sluice_lockmgr_cluster::membership::{Machine, Timing};
use sluice_lockmgr_cluster::registry::Door;

use crate::client::Client;
use crate::gate::{ClientId, Gate, Op};
use crate::world::Event;

/// A node's own clock: it starts somewhere and runs a little fast or slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) start: u64,
    /// Millionths by which it is fast.
    pub(crate) drift: i64,
}

impl Clock {
    pub(crate) fn at(self, now: u64) -> u64 {
        let drift = i64::try_from(now).unwrap_or(i64::MAX) / 1_000 * self.drift / 1_000;
        (self.start + now).saturating_add_signed(drift)
    }
}

/// See the module's head.
pub(crate) struct Node {
    pub(crate) me: Member,
    pub(crate) clock: Clock,
    pub(crate) door: Arc<Door>,
    pub(crate) membership: Machine,
    pub(crate) tokens: TokenMachine,
    pub(crate) life: Option<Box<dyn LifeLock>>,
    /// End of the own lease by the own clock.
    pub(crate) valid_until: u64,
    pub(crate) frozen: bool,
    pub(crate) paused: bool,
    /// What happened to it while it stood still.
    pub(crate) deferred: Vec<Event>,
    /// Members with which it exchanges messages, and those with which it does so no more.
    pub(crate) open: BTreeSet<Member>,
    pub(crate) closed: BTreeSet<Member>,
    pub(crate) gates: BTreeMap<u64, Gate>,
    /// Own requests that are on their way.
    pub(crate) requests: BTreeMap<RequestId, (u64, Op)>,
    pub(crate) next_request: u64,
    pub(crate) parts: u64,
    /// Other nodes' requests that were put to a gate and not answered, by a number of that try.
    pub(crate) evaluating: BTreeMap<(Member, RequestId), (u64, Op)>,
    /// What clients hold, as they were told; `true`: exclusively.
    pub(crate) held: BTreeMap<u64, BTreeMap<ClientId, bool>>,
    /// Owners' epochs that the token machine was told.
    pub(crate) told: Vec<ShardEpoch>,
    /// The version of the shard map that it knows.
    pub(crate) known_map: u64,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) busy: bool,
    pub(crate) clients: Vec<Client>,
    pub(crate) next_owner: u64,
    /// Newest version that it knows of a document, and the term in which that was so.
    pub(crate) cache: BTreeMap<u64, (u64, u64)>,
    pub(crate) ticks: u64,
}

impl Node {
    pub(crate) fn new(
        me: Member,
        address: String,
        clock: Clock,
        sent: u64,
        door: Arc<Door>,
        life: Box<dyn LifeLock>,
        clients: u64,
    ) -> Self {
        let client = |n| Client::new((me.id, me.epoch.0, n));
        let timing = Timing::for_lease(door.lease_time());
        Self {
            me,
            clock,
            door,
            membership: Machine::new(me, address, timing, sent),
            tokens: TokenMachine::new(me, TokenOptions::default()),
            life: Some(life),
            valid_until: 0,
            frozen: false,
            paused: false,
            deferred: Vec::new(),
            open: BTreeSet::new(),
            closed: BTreeSet::new(),
            gates: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            parts: 0,
            evaluating: BTreeMap::new(),
            held: BTreeMap::new(),
            told: vec![ShardEpoch(0); usize::from(SHARDS)],
            known_map: 0,
            effects: VecDeque::new(),
            busy: false,
            clients: (0..clients).map(client).collect(),
            next_owner: clients,
            cache: BTreeMap::new(),
            ticks: 0,
        }
    }

    /// Whether it may grant and answer: its lease holds by its own clock.
    pub(crate) fn may_act(&self, now: u64) -> bool {
        !self.frozen && self.clock.at(now) < self.valid_until
    }

    pub(crate) fn token_time(&self, now: u64) -> Now {
        Now(self.clock.at(now))
    }

    /// The term since which it is alone on a document.
    pub(crate) fn residence(&self, document: u64) -> Option<u64> {
        self.gates.get(&document).and_then(|gate| gate.term)
    }
}
