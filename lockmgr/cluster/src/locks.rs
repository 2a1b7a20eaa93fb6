//! The lock service of a cluster: the async runtime around the token machines.
//!
//! A call goes to the gate of the own lock table first; if the document is decided about here, that is all: one mutex, no
//! message. Otherwise the document's token machine says whether to try again here or whom to ask. Owns the calls on their way,
//! the requests that are evaluated for other nodes, and the sinks of clients whose documents are decided about elsewhere. Must
//! never decide a conflict (the table does) nor who decides (the machine does).
//!
//! Order of mutexes: machine, then its outbox; the maps below are taken alone.

mod calls;
mod ears;
mod effects;
mod machines;
mod message;
mod peer;
mod pieces;
mod service;
mod sinks;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_lockmgr::{
    Clock, EpochRegistry, GateHost, GatedLocks, LeftLocks, LockHost, LockOptions, Member, MemberId,
    Now, ShardId, Ticket,
};
use tokio::sync::{Notify, oneshot};

use crate::core::{Event, RequestId, TokenOptions};
use crate::membership::{BootClock, ClusterEvent, ClusterHandler};
use crate::transport::Peers;
use ears::Ears;
use machines::Machines;
use pieces::Pieces;
use sinks::OwnSinks;
use watch::Watch;
pub use watch::WatchOptions;

/// So many former members that left something are remembered.
const LEFT_MAX: usize = 64;

/// Limits and times.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterOptions {
    /// Of the lock table.
    pub locks: LockOptions,
    /// Of the tokens; `tokens_max` is of the whole node.
    pub tokens: TokenOptions,
    /// Of the looks whether coordinators are silent.
    pub watch: WatchOptions,
}

/// Locks that hold on all nodes of a cluster. A handle, cheap to clone; see the module's head.
#[derive(Clone)]
pub struct ClusterLocks {
    inner: Arc<Inner>,
}

/// What became of a call that was not let through here.
enum Resolved {
    /// Try here again.
    Run,
    /// Another node's answer.
    Answer(Bytes),
}

/// A call on its way.
struct Asking {
    op: Bytes,
    /// The coordinator that it was sent to last.
    to: Option<(Member, ShardId)>,
    resolved: oneshot::Sender<Resolved>,
}

/// Another node's request that waits here. It may be asked again, so each evaluation has a number.
struct Evaluation {
    number: u64,
    ticket: Ticket,
}

struct Inner {
    /// Itself, for those who must not keep it alive.
    this: Weak<Inner>,
    me: Member,
    peers: Arc<dyn Peers>,
    registry: Arc<dyn EpochRegistry>,
    clock: Arc<dyn Clock>,
    locks: GatedLocks,
    machines: Machines,
    host: OnceLock<Arc<dyn LockHost>>,
    runtime: tokio::runtime::Handle,
    /// The other live members.
    members: Mutex<BTreeSet<Member>>,
    /// For how long the file layer may read its copies.
    ears: Ears,
    /// Which coordinators are silent.
    watch: Watch,
    deputy_patience: Duration,
    next_number: AtomicU64,
    /// Own calls on their way.
    asking: Mutex<HashMap<RequestId, Asking>>,
    /// Other nodes' requests that wait here.
    evaluating: Mutex<HashMap<(Member, RequestId), Evaluation>>,
    /// Questions to other nodes.
    calls: Mutex<HashMap<u64, peer::Called>>,
    own_sinks: OwnSinks,
    /// Messages that a link did not take yet.
    late: Mutex<HashMap<Member, VecDeque<Bytes>>>,
    /// Long messages of others that are not all there yet.
    pieces: Pieces,
    /// A fence may be known now.
    asserted: Notify,
    /// The node may act again, or never again.
    thawed: Notify,
    /// Time for a look at the machines.
    woken: Notify,
    stopping: AtomicBool,
    lost: AtomicBool,
    /// All members that were live when this node began are known.
    members_known: AtomicBool,
    /// Whether the file layer is to hold still, and the turn of who tells it.
    told_frozen: (Mutex<bool>, tokio::sync::Mutex<()>),
    /// Since when this node may not act; at first because it is only joining.
    frozen_since: Mutex<Option<Now>>,
    /// The latest former members that have left something.
    left: Mutex<VecDeque<Member>>,
}

impl ClusterLocks {
    /// The service of the node that `peers` speaks for. It is to be told what happens by [`ClusterHandler`]. Made within a
    /// runtime. `start` tells the node's incarnations apart: greater by more than the calls it can make in between.
    #[must_use]
    pub fn new(
        peers: Arc<dyn Peers>,
        registry: Arc<dyn EpochRegistry>,
        clock: Arc<dyn Clock>,
        options: ClusterOptions,
        start: u64,
    ) -> Self {
        let (me, began) = (peers.me(), clock.now());
        let inner = Arc::new_cyclic(|this| Inner {
            this: Weak::clone(this),
            me,
            locks: GatedLocks::new(options.locks, Arc::clone(&clock), me.id, start),
            machines: Machines::new(
                me,
                TokenOptions {
                    revoke_wait: registry.lease_time(),
                    ..options.tokens
                },
            ),
            peers,
            registry,
            clock,
            host: OnceLock::new(),
            runtime: tokio::runtime::Handle::current(),
            members: Mutex::default(),
            ears: Ears::new(Arc::new(BootClock)),
            watch: Watch::new(options.watch, Arc::new(BootClock)),
            deputy_patience: options.tokens.deputy_patience,
            next_number: AtomicU64::new(1),
            asking: Mutex::default(),
            evaluating: Mutex::default(),
            calls: Mutex::default(),
            own_sinks: OwnSinks::default(),
            late: Mutex::default(),
            pieces: Pieces::default(),
            asserted: Notify::new(),
            thawed: Notify::new(),
            woken: Notify::new(),
            stopping: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            members_known: AtomicBool::new(false),
            told_frozen: (Mutex::new(false), tokio::sync::Mutex::new(())),
            frozen_since: Mutex::new(Some(began)),
            left: Mutex::default(),
        });
        let host: Weak<dyn GateHost> = inner.this.clone();
        inner.locks.attach(host);
        Self { inner }
    }

    /// Carries out what is due now; for tests that own the time.
    pub fn tick(&self) {
        self.inner.locks.tick();
        self.inner.tick();
    }

    /// Documents that this node may decide about without asking.
    #[must_use]
    pub fn tokens_held(&self) -> usize {
        self.inner.machines.tokens_held()
    }
}

impl Inner {
    fn now(&self) -> Now {
        self.clock.now()
    }

    fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Lets the machine of a document take an event.
    fn step(self: &Arc<Self>, document: u64, event: Event) {
        self.step_at(self.machines.of(document), event);
    }

    fn step_at(self: &Arc<Self>, at: usize, event: Event) {
        let carry_out = |effect| self.carry_out(effect);
        self.machines.step(at, event, self.now(), &carry_out);
    }

    fn step_shards(self: &Arc<Self>, events: impl Iterator<Item = (ShardId, Event)>) {
        for (shard, event) in events {
            self.step_at(self.machines.of_shard(shard), event);
        }
    }

    fn step_all(self: &Arc<Self>, event: &Event) {
        for at in 0..self.machines.count() {
            self.step_at(at, event.clone());
        }
    }

    fn tick(self: &Arc<Self>) {
        for at in self.machines.due(self.now()) {
            self.step_at(at, Event::Tick);
        }
        self.send_late();
    }

    fn keep_left(self: &Arc<Self>, left: LeftLocks) {
        if !left.documents.is_empty() {
            let mut known = self.left.lock();
            known.push_back(left.member);
            let over = known.len().saturating_sub(LEFT_MAX);
            known.drain(..over);
        }
        self.tell_host_left();
        let until = self.now().after(left.ends_in);
        let node: Arc<str> = Arc::from(left.node);
        let mut by_machine = BTreeMap::<usize, Vec<u64>>::new();
        for document in left.documents {
            let at = self.machines.of(document);
            by_machine.entry(at).or_default().push(document);
        }
        for (at, documents) in by_machine {
            let event = Event::Left {
                member: left.member,
                node: Arc::clone(&node),
                documents,
                until,
            };
            self.step_at(at, event);
        }
    }

    fn tell_host_left(&self) {
        if let Some(host) = self.host.get() {
            let left: Vec<Member> = self.left.lock().iter().copied().collect();
            host.left(&left);
        }
    }

    /// This node may act from now on: what is kept is kept longer by the time in which it could not.
    fn keep_longer(self: &Arc<Self>) {
        let since = self.frozen_since.lock().take();
        if let Some(since) = since {
            let by = self.now().since(since);
            self.step_all(&Event::KeepLonger(by));
            for at in 0..self.machines.count() {
                self.machines.wait_delivered(at);
            }
        }
    }

    fn live(&self, id: MemberId) -> Option<Member> {
        let members = self.members.lock();
        members.iter().rev().find(|m| m.id == id).copied()
    }

    fn members_changed(&self, change: impl FnOnce(&mut BTreeSet<Member>) -> bool) {
        {
            let mut members = self.members.lock();
            change(&mut members);
            self.ears.members(&members);
            self.watch.members(&members);
        }
        self.tell_host_members();
    }

    fn tell_host_members(&self) {
        if let Some(host) = self.host.get()
            && self.members_known.load(Ordering::Acquire)
        {
            host.members(&self.others());
        }
    }

    fn tell_host_frozen(&self, frozen: bool) {
        if let Some(host) = self.host.get().cloned() {
            *self.told_frozen.0.lock() = frozen;
            let inner = self.this.clone();
            self.runtime.spawn(async move {
                let Some(inner) = inner.upgrade() else { return };
                // One at a time, and each tells how it is by then: the last one tells how it stays.
                let _one = inner.told_frozen.1.lock().await;
                let frozen = *inner.told_frozen.0.lock();
                host.frozen(frozen).await;
            });
        }
    }

    /// This node is no member any more: nothing it was asked or has asked will come to anything.
    fn lose(self: &Arc<Self>) {
        self.lost.store(true, Ordering::Release);
        self.locks.freeze(true);
        self.asking.lock().clear();
        self.calls.lock().clear();
        self.late.lock().clear();
        self.evaluating.lock().clear();
        self.locks.stop();
        self.asserted.notify_waiters();
        self.thawed.notify_waiters();
    }
}

impl ClusterHandler for ClusterLocks {
    fn event(&self, event: ClusterEvent) {
        let inner = &self.inner;
        match event {
            ClusterEvent::NodeUp(member) => {
                if member != inner.me {
                    inner.members_changed(|members| members.insert(member));
                    inner.step_all(&Event::NodeUp(member));
                }
            }
            ClusterEvent::Left(left) => inner.keep_left(left),
            ClusterEvent::NodeDown(member) => {
                inner.members_changed(|members| members.remove(&member));
                inner.late.lock().remove(&member);
                inner.pieces.forget(member);
                inner.calls.lock().retain(|_, called| called.to != member);
                inner.step_all(&Event::NodeDown(member));
            }
            ClusterEvent::Revoked(tokens) => {
                let mut by_machine = BTreeMap::<usize, Vec<_>>::new();
                for token in tokens {
                    let at = inner.machines.of(token.document);
                    by_machine.entry(at).or_default().push(token);
                }
                for (at, tokens) in by_machine {
                    inner.step_at(at, Event::Revoked(tokens));
                    // The gates are closed before the lease is prolonged.
                    inner.machines.wait_delivered(at);
                }
            }
            ClusterEvent::Shards(map) => {
                if !inner.members_known.load(Ordering::Acquire) {
                    inner.keep_longer();
                }
                let mut news = vec![Vec::new(); inner.machines.count()];
                for (shard, owner) in map.iter() {
                    if let Some(news) = news.get_mut(inner.machines.of_shard(shard)) {
                        news.push((shard, owner));
                    }
                }
                for (at, news) in news.into_iter().enumerate() {
                    inner.step_at(at, Event::Shards(news));
                }
                // Whoever was live when this map was read was announced before.
                if !inner.members_known.swap(true, Ordering::AcqRel) {
                    inner.tell_host_members();
                }
            }
            ClusterEvent::Deputy(deputy) => inner.step_all(&Event::Deputy(deputy)),
            ClusterEvent::TookOver { from, turn, shards } => {
                inner.step_shards(Event::of_silent(from, turn, shards, true));
            }
            ClusterEvent::NotTaken { from, turn, shards } => {
                inner.step_shards(Event::of_silent(from, turn, shards, false));
            }
            ClusterEvent::Frozen => {
                inner.frozen_since.lock().get_or_insert(inner.now());
                inner.step_all(&Event::Frozen);
                inner.locks.freeze(true);
                inner.tell_host_frozen(true);
            }
            ClusterEvent::Thawed => {
                inner.keep_longer();
                inner.locks.freeze(false);
                inner.step_all(&Event::Thawed);
                inner.thawed.notify_waiters();
                inner.tell_host_frozen(false);
            }
            ClusterEvent::Lost => inner.lose(),
        }
    }

    fn received(&self, from: Member, message: Bytes) {
        self.inner.received(from, &message);
    }
}
