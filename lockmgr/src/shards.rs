//! The shards behind [`crate::LockService`]: mutexes, waiting callers, timers, and the delivery of effects in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::cache_grant::LeaseId;
use crate::env::Effect;
use crate::obstacle::{Ask, Granted};
use crate::outcome::Denial;
use crate::service::Clock;
use crate::table::{Answer, LockTable, TableOptions};
use crate::types::{Now, ResourceId, WaiterId};

/// Number of shards: far more than cores, so that two documents rarely meet in one.
const SHARDS: u64 = 128;
/// Longest sleep of the timer task; a bound on how long a lost wake-up could matter.
const SLEEP_MAX: Duration = Duration::from_secs(60);

type Outcome = Result<Granted, Denial>;

/// A caller that waits, and the lease that its request is counted for.
struct Caller {
    answer: oneshot::Sender<Outcome>,
    lease: Option<LeaseId>,
}

struct State {
    table: LockTable,
    waiting: HashMap<WaiterId, Caller>,
}

/// What is delivered outside the shard's mutex, in the order in which the table said it.
enum Delivery {
    Effect(Effect),
    Answer(Caller, Outcome),
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
}

/// A request that was answered, or waits.
pub(crate) enum Started<'a> {
    Done(Outcome),
    Wait(Wait<'a>),
}

/// A wait; dropping it gives the wait up.
pub(crate) struct Wait<'a> {
    shards: &'a Shards,
    document: u64,
    waiter: WaiterId,
    answer: oneshot::Receiver<Outcome>,
    lease: Option<LeaseId>,
    done: bool,
}

impl Shards {
    pub(crate) fn new(options: TableOptions, clock: Arc<dyn Clock>) -> Self {
        let shard = |n| Shard {
            state: Mutex::new(State {
                table: LockTable::new(options, SHARDS + n, SHARDS),
                waiting: HashMap::new(),
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
        let effects = state.table.has_effects();
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
                Effect::LeaseUnused(lease) => self.leases.leave(lease),
                Effect::Answer { waiter, outcome } => {
                    if let Some(caller) = state.waiting.remove(&waiter) {
                        outbox.queue.push_back(Delivery::Answer(caller, outcome));
                    }
                }
                effect => outbox.queue.push_back(Delivery::Effect(effect)),
            }
        }
    }

    /// Makes a request. `lease`: counted in the registry for this request.
    pub(crate) fn start(&self, ask: Ask<'_>, lease: Option<LeaseId>) -> Started<'_> {
        let document = ask.resource().document;
        let stopping = self.is_stopping();
        let started = self.work(self.shard(document), |state, now| {
            match state.table.request(now, ask) {
                Answer::Now(result) => Err(result),
                Answer::Wait(waiter) if stopping => {
                    state.table.cancel(now, document, waiter, false);
                    Err(Err(Denial::Stopping))
                }
                Answer::Wait(waiter) => {
                    let (caller, answer) = oneshot::channel();
                    state.waiting.insert(
                        waiter,
                        Caller {
                            answer: caller,
                            lease,
                        },
                    );
                    Ok((waiter, answer))
                }
            }
        });
        match started {
            Err(result) => Started::Done(result),
            Ok((waiter, answer)) => Started::Wait(Wait {
                shards: self,
                document,
                waiter,
                answer,
                lease,
                done: false,
            }),
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
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
        if wait.is_zero() {
            return;
        }
        tokio::select! {
            () = self.woken.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    pub(crate) fn tick(&self) {
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
            Delivery::Effect(Effect::Answer { .. } | Effect::LeaseUnused(_)) => {}
        }
    }

    /// Takes back what was granted to a caller that is gone.
    fn undo(&self, outcome: Outcome, lease: Option<LeaseId>) {
        match (outcome, lease) {
            (Ok(Granted::Opened(opened)), _) => {
                // Never used, so nobody would carry out a deletion that was waiting for its end: the document stays.
                let open = opened.open;
                self.with(open.resource.document, |table, now| {
                    let closed = table.close(now, open, false);
                    if closed.delete_document || closed.delete_stream.is_some() {
                        table.deleted(now, open.resource);
                    }
                });
            }
            (_, Some(lease)) => self.leases.leave(lease),
            (_, None) => {}
        }
    }
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

impl Wait<'_> {
    /// The answer, when it comes.
    pub(crate) async fn answer(mut self) -> Outcome {
        let outcome = (&mut self.answer).await.unwrap_or(Err(Denial::Stopping));
        self.done = true;
        outcome
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let shard = self.shards.shard(self.document);
        let (document, waiter) = (self.document, self.waiter);
        let waited = self.shards.work(shard, |state, now| {
            state.waiting.remove(&waiter);
            state.table.cancel(now, document, waiter, false)
        });
        if waited {
            if let Some(lease) = self.lease {
                self.shards.leases.leave(lease);
            }
            return;
        }
        // The answer was on its way. If it is still in the outbox, its sender finds this end closed and takes it back.
        self.answer.close();
        if let Ok(outcome) = self.answer.try_recv() {
            self.shards.undo(outcome, self.lease);
        }
    }
}

/// Which document a lease key is in use for (MS-SMB2 3.3.5.9.8), and by how many opens and requests.
#[derive(Default)]
pub(crate) struct LeaseRegistry {
    /// Protects one part of the keys. Taken alone or after a shard.
    parts: [Mutex<HashMap<LeaseId, (ResourceId, u32)>>; 16],
}

impl LeaseRegistry {
    fn part(&self, lease: LeaseId) -> &Mutex<HashMap<LeaseId, (ResourceId, u32)>> {
        let sum = lease
            .key
            .iter()
            .chain(&lease.client_guid)
            .fold(0u8, |sum, byte| sum ^ byte);
        &self.parts[usize::from(sum) % 16]
    }

    pub(crate) fn enter(&self, lease: LeaseId, resource: ResourceId) -> Result<(), Denial> {
        let mut part = self.part(lease).lock();
        let entry = part.entry(lease).or_insert((resource, 0));
        if entry.0 != resource {
            return Err(Denial::LeaseKeyInUse);
        }
        entry.1 += 1;
        Ok(())
    }

    pub(crate) fn leave(&self, lease: LeaseId) {
        let mut part = self.part(lease).lock();
        if let Some(entry) = part.get_mut(&lease) {
            entry.1 = entry.1.saturating_sub(1);
            if entry.1 == 0 {
                part.remove(&lease);
            }
        }
    }

    pub(crate) fn resource(&self, lease: LeaseId) -> Option<ResourceId> {
        self.part(lease)
            .lock()
            .get(&lease)
            .map(|(resource, _)| *resource)
    }
}
