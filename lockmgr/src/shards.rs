//! The shards behind [`crate::LockService`]: mutexes, waiting callers, timers, and the delivery of effects in order.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cache_grant::LeaseId;
use crate::env::Effect;
use crate::epoch::MemberId;
use crate::gate::{Admitted, GateHost, Residence};
use crate::lease_registry::LeaseRegistry;
use crate::obstacle::{Ask, Granted};
use crate::outcome::{Closed, Denial};
use crate::service::Clock;
use crate::table::{Answer, LockTable, TableOptions};
use crate::types::{ClientId, MEMBER_SHIFT, Now, OpenRef, Ticket, WaiterId};
use crate::wait::{Caller, Moved, Outcome, Wait};

/// Number of shards: far more than cores, so that two documents rarely meet in one.
const SHARDS: u64 = 128;
/// Longest sleep of the timer task; a bound on how long a lost wake-up could matter.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Deadlines this close to each other are dealt with together: each wake-up would hold up a request. All of them are much longer.
const SLEEP_MIN: Duration = Duration::from_millis(5);

/// One table with those who wait in it.
pub(crate) struct State {
    pub table: LockTable,
    pub waiting: HashMap<WaiterId, Caller>,
    /// Which documents may be decided about here; `None`: all.
    pub admitted: Option<Admitted>,
    /// Callers whose document has just left.
    pub moved: Vec<Caller>,
}

impl State {
    /// Whether a document may be decided about here; notes that it was asked for.
    fn uses(&mut self, document: u64, now: Now) -> bool {
        let Some(admitted) = &mut self.admitted else {
            return true;
        };
        match admitted.get_mut(&document) {
            Some(entry) => {
                entry.used = now;
                true
            }
            None => false,
        }
    }

    /// Whether a document is decided about here.
    fn has(&self, document: u64) -> bool {
        self.admitted
            .as_ref()
            .is_none_or(|admitted| admitted.contains_key(&document))
    }
}

/// What is delivered outside the shard's mutex, in the order in which the table said it.
enum Delivery {
    Effect(Effect),
    Answer(Caller, Result<Outcome, Moved>),
    /// An open of another node's client has ended that used a lease.
    LeaseUnused(LeaseId, Ticket, ClientId),
}

#[derive(Default)]
struct Outbox {
    queue: VecDeque<Delivery>,
    busy: bool,
}

struct Shard {
    /// Protects one table and its waiting callers.
    state: Mutex<State>,
    /// Taken after `state`, or alone; never held while a sink is called.
    outbox: Mutex<Outbox>,
    deadline: AtomicU64,
}

/// See the module's head.
pub(crate) struct Shards {
    clock: Arc<dyn Clock>,
    shards: Box<[Shard]>,
    pub(crate) leases: LeaseRegistry,
    /// The moment for which the timer task sleeps.
    alarm: AtomicU64,
    woken: Notify,
    stopping: AtomicBool,
    /// Nothing may be decided for now.
    frozen: AtomicBool,
    /// Which node this is, in a cluster.
    pub(crate) me: Option<MemberId>,
    pub(crate) host: OnceLock<Weak<dyn GateHost>>,
}

/// A request that was answered, or waits.
pub(crate) enum Started {
    Done(Outcome),
    Wait(Wait),
}

/// The document is not decided about on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Elsewhere;

impl Shards {
    /// `cluster`: this node's number, and from where on to number; without it every document is decided about here.
    pub(crate) fn new(
        options: TableOptions,
        clock: Arc<dyn Clock>,
        cluster: Option<(MemberId, u64)>,
    ) -> Self {
        let base = cluster.map_or(0, |(me, start)| first_id(me, start));
        let shard = |n| Shard {
            state: Mutex::new(State {
                table: LockTable::new(options, base + SHARDS + n, SHARDS),
                waiting: HashMap::new(),
                admitted: cluster.map(|_| Admitted::default()),
                moved: Vec::new(),
            }),
            outbox: Mutex::default(),
            deadline: AtomicU64::new(u64::MAX),
        };
        Self {
            clock,
            shards: (0..SHARDS).map(shard).collect(),
            leases: LeaseRegistry::default(),
            alarm: AtomicU64::new(u64::MAX),
            woken: Notify::new(),
            stopping: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            me: cluster.map(|(me, _)| me),
            host: OnceLock::new(),
        }
    }

    fn shard(&self, document: u64) -> &Shard {
        let spread = document.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.at(spread % SHARDS)
    }

    fn at(&self, shard: u64) -> &Shard {
        // The remainder is below the number of shards.
        &self.shards[usize::try_from(shard % SHARDS).unwrap_or(0)]
    }

    /// Works on the table of a document, then carries out the effects.
    pub(crate) fn with<T>(&self, document: u64, work: impl FnOnce(&mut LockTable, Now) -> T) -> T {
        self.work(self.shard(document), |state, now| {
            work(&mut state.table, now)
        })
    }

    /// The same by an id that the table gave.
    pub(crate) fn with_shard_of_id<T>(
        &self,
        id: u64,
        work: impl FnOnce(&mut LockTable, Now) -> T,
    ) -> T {
        self.work(self.at(id % SHARDS), |state, now| {
            work(&mut state.table, now)
        })
    }

    /// Looks at every table, one after the other.
    pub(crate) fn for_each(&self, mut work: impl FnMut(&mut LockTable, Now)) {
        for shard in &self.shards {
            self.work(shard, |state, now| work(&mut state.table, now));
        }
    }

    fn work<T>(&self, shard: &Shard, work: impl FnOnce(&mut State, Now) -> T) -> T {
        let now = self.clock.now();
        let mut state = shard.state.lock();
        let result = work(&mut state, now);
        let effects = (state.table.has_effects() || !state.moved.is_empty()) && self.may_tell();
        if effects {
            self.post(shard, &mut state);
        }
        let deadline = state.table.next_deadline().0;
        let earlier = shard.deadline.swap(deadline, Ordering::AcqRel) > deadline;
        drop(state);
        if earlier && self.alarm.load(Ordering::Acquire) > deadline {
            self.woken.notify_one();
        }
        if effects {
            self.deliver(&shard.outbox);
        }
        result
    }

    /// Moves effects into the outbox while the shard is still locked, so that their order is the table's.
    fn post(&self, shard: &Shard, state: &mut State) {
        let mut outbox = shard.outbox.lock();
        for effect in state.table.take_effects() {
            match effect {
                Effect::LeaseUnused {
                    lease,
                    open,
                    client,
                } => {
                    let by = Ticket(open.0);
                    if self.is_mine(client) {
                        self.leases.leave(lease, by);
                    } else {
                        let unused = Delivery::LeaseUnused(lease, by, client);
                        outbox.queue.push_back(unused);
                    }
                }
                Effect::Answer { waiter, outcome } => {
                    if let Some(caller) = state.waiting.remove(&waiter) {
                        let answer = Delivery::Answer(caller, Ok(outcome));
                        outbox.queue.push_back(answer);
                    }
                }
                effect => outbox.queue.push_back(Delivery::Effect(effect)),
            }
        }
        let moved = state.moved.drain(..);
        let told = moved.map(|caller| Delivery::Answer(caller, Err(Moved)));
        outbox.queue.extend(told);
    }

    /// Makes a request. `lease`: counted in the registry for this request.
    pub(crate) fn start(
        self: &Arc<Self>,
        ask: Ask<'_>,
        ticket: Option<Ticket>,
        lease: Option<(LeaseId, Ticket)>,
    ) -> Result<Started, Elsewhere> {
        let document = ask.resource().document;
        let stopping = self.is_stopping();
        let frozen = self.is_frozen();
        self.work(self.shard(document), |state, now| {
            if frozen || !state.uses(document, now) {
                return Err(Elsewhere);
            }
            Ok(match state.table.request(now, ask, ticket) {
                Answer::Now(result) => Started::Done(result),
                Answer::Wait(waiter) if stopping => {
                    state.table.cancel(now, document, waiter, false);
                    Started::Done(Err(Denial::Stopping))
                }
                Answer::Wait(waiter) => {
                    let (caller, wait) = Wait::new(self, document, waiter, lease);
                    state.waiting.insert(waiter, caller);
                    Started::Wait(wait)
                }
            })
        })
    }

    /// Works on the table of a document, if it may be decided about here.
    pub(crate) fn with_here<T>(
        &self,
        document: u64,
        work: impl FnOnce(&mut LockTable, Now) -> T,
    ) -> Result<T, Elsewhere> {
        let frozen = self.is_frozen();
        self.work(self.shard(document), |state, now| {
            if frozen || !state.uses(document, now) {
                return Err(Elsewhere);
            }
            Ok(work(&mut state.table, now))
        })
    }

    /// Works on everything that is kept for a document's shard.
    pub(crate) fn with_state<T>(
        &self,
        document: u64,
        work: impl FnOnce(&mut State, Now) -> T,
    ) -> T {
        self.work(self.shard(document), work)
    }

    /// The same for all shards, one after the other.
    pub(crate) fn each_state(&self, mut work: impl FnMut(&mut State, Now)) {
        for shard in &self.shards {
            self.work(shard, &mut work);
        }
    }

    /// How a document is admitted, if it is.
    pub(crate) fn residence(&self, document: u64) -> Option<Residence> {
        if self.is_frozen() {
            return None;
        }
        let state = self.shard(document).state.lock();
        let admitted = state.admitted.as_ref()?.get(&document)?;
        Some(admitted.residence)
    }

    /// A number for a request on this document.
    pub(crate) fn ticket(&self, document: u64) -> Ticket {
        let mut state = self.shard(document).state.lock();
        state.table.fresh_ticket()
    }

    fn is_mine(&self, client: ClientId) -> bool {
        self.me.is_none_or(|me| client.member() == me)
    }

    fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// What happens while the node is frozen (somebody gives a wait up, and another's turn comes) is told when it may act
    /// again.
    fn may_tell(&self) -> bool {
        !self.is_frozen() || self.is_stopping()
    }

    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Release);
        if !frozen {
            self.for_each(|_, _| ());
        }
        self.woken.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if self.is_frozen() {
            // Nobody may be told any more that something was granted: without an answer a wait ends as if stopped.
            self.each_state(|state, _| state.waiting.clear());
        }
        self.for_each(|table, _| table.cancel_all());
        self.woken.notify_one();
    }

    /// Sleeps until something is due, or something earlier becomes due.
    pub(crate) async fn sleep_until_due(&self) {
        let due = self
            .shards
            .iter()
            .map(|s| s.deadline.load(Ordering::Acquire))
            .min()
            .unwrap_or(u64::MAX);
        self.alarm.store(due, Ordering::Release);
        // A deadline set between the two lines above saw the old alarm: look again before sleeping.
        let again = self
            .shards
            .iter()
            .map(|s| s.deadline.load(Ordering::Acquire))
            .min()
            .unwrap_or(u64::MAX);
        let wait = Now(due.min(again)).since(self.clock.now()).min(SLEEP_MAX);
        let wait = if self.is_frozen() { SLEEP_MAX } else { wait };
        if wait.is_zero() {
            return;
        }
        tokio::select! {
            () = self.woken.notified() => {}
            () = tokio::time::sleep(wait.max(SLEEP_MIN)) => {}
        }
    }

    pub(crate) fn tick(&self) {
        if self.is_frozen() {
            return;
        }
        let now = self.clock.now().0;
        for shard in self
            .shards
            .iter()
            .filter(|s| s.deadline.load(Ordering::Acquire) <= now)
        {
            self.work(shard, |state, now| state.table.tick(now));
        }
    }
}

impl Shards {
    /// Delivers what is in the outbox. One caller at a time delivers for all, so the order holds; a sink may call back
    /// in.
    fn deliver(&self, outbox: &Mutex<Outbox>) {
        if std::mem::replace(&mut outbox.lock().busy, true) {
            return;
        }
        let mut busy = Busy {
            outbox,
            panicking: true,
        };
        loop {
            let next = {
                let mut locked = outbox.lock();
                let next = locked.queue.pop_front();
                // Told under the same lock that nothing is left, so that no delivery is stranded.
                locked.busy = next.is_some();
                next
            };
            match next {
                Some(delivery) => self.carry_out(delivery),
                None => break,
            }
        }
        busy.panicking = false;
    }

    fn carry_out(&self, delivery: Delivery) {
        match delivery {
            Delivery::Answer(caller, outcome) => {
                if let Err(outcome) = caller.answer.send(outcome) {
                    self.undo(outcome, caller.lease);
                }
            }
            Delivery::Effect(Effect::Break { sink, notice }) => sink.on_break(&notice),
            Delivery::Effect(Effect::Revoked {
                sink,
                open,
                reason,
                closed,
            }) => {
                sink.on_revoked(open, reason, closed);
            }
            Delivery::Effect(Effect::CacheRevoked {
                sink,
                resource,
                grant,
                reason,
            }) => {
                sink.on_cache_revoked(resource, grant, reason);
            }
            Delivery::LeaseUnused(lease, by, client) => {
                if let Some(host) = self.host() {
                    host.lease_unused(client.member(), lease, by);
                }
            }
            Delivery::Effect(Effect::Answer { .. } | Effect::LeaseUnused { .. }) => {}
        }
    }

    pub(crate) fn host(&self) -> Option<Arc<dyn GateHost>> {
        self.host.get().and_then(Weak::upgrade)
    }

    /// Takes back what was granted to a caller that is gone.
    pub(crate) fn undo(&self, outcome: Result<Outcome, Moved>, lease: Option<(LeaseId, Ticket)>) {
        match (outcome, lease) {
            (Ok(Ok(Granted::Opened(opened))), _) => self.close_unused(opened.open),
            (_, Some((lease, ticket))) => self.leases.leave(lease, ticket),
            (_, None) => {}
        }
    }

    /// Closes an open that was never used, so that nobody would carry out a deletion that was waiting for its end: the
    /// document stays.
    fn close_unused(&self, open: OpenRef) {
        let document = open.resource.document;
        let here = self.work(self.shard(document), |state, now| {
            if !state.has(document) {
                return false;
            }
            let Closed {
                delete_document,
                delete_stream,
                ..
            } = state.table.close(now, open, false);
            if delete_document || delete_stream.is_some() {
                state.table.deleted(now, open.resource);
            }
            true
        });
        if !here && let Some(host) = self.host() {
            host.abandoned(open);
        }
    }

    /// Ends a wait whose caller is gone; false if it is answered already, or has moved.
    pub(crate) fn give_up(&self, document: u64, waiter: WaiterId) -> bool {
        self.work(self.shard(document), |state, now| {
            state.waiting.remove(&waiter);
            state.table.cancel(now, document, waiter, false)
        })
    }
}

/// The first number of a node's opens and waiters. `start` tells its incarnations apart.
fn first_id(me: MemberId, start: u64) -> u64 {
    let within = (start % (1 << MEMBER_SHIFT)) / SHARDS * SHARDS;
    (u64::from(me.0) << MEMBER_SHIFT) + within
}

/// Lets the next caller deliver even if a sink panics.
struct Busy<'a> {
    outbox: &'a Mutex<Outbox>,
    panicking: bool,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if self.panicking {
            self.outbox.lock().busy = false;
        }
    }
}
