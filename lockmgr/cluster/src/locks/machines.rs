//! The token machines of one node: one mutex each, and the delivery of their effects in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use sluice_lockmgr::{Member, Now, ShardId, shard_of};

use crate::core::{Effect, Event, TokenMachine, TokenOptions};

/// Number of machines; each has the shards with its number as remainder.
const MACHINES: usize = 64;

#[derive(Default)]
struct Outbox {
    queue: VecDeque<Effect>,
    busy: bool,
    /// Effects posted and carried out so far.
    posted: u64,
    carried: u64,
}

struct Slot {
    /// Protects one machine.
    machine: Mutex<TokenMachine>,
    /// Taken after `machine`, or alone; never held while an effect is carried out.
    outbox: Mutex<Outbox>,
    /// An effect is carried out, or its delivery has ended.
    delivered: Condvar,
    deadline: AtomicU64,
}

/// See the module's head.
pub(super) struct Machines {
    slots: Box<[Slot]>,
}

impl Machines {
    pub(super) fn new(me: Member, options: TokenOptions) -> Self {
        let options = TokenOptions {
            tokens_max: (options.tokens_max / MACHINES).max(1),
            ..options
        };
        let slot = |_| Slot {
            machine: Mutex::new(TokenMachine::new(me, options)),
            outbox: Mutex::default(),
            delivered: Condvar::new(),
            deadline: AtomicU64::new(u64::MAX),
        };
        Self {
            slots: (0..MACHINES).map(slot).collect(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn of_shard(&self, shard: ShardId) -> usize {
        usize::from(shard.0) % self.slots.len()
    }

    pub(super) fn of(&self, document: u64) -> usize {
        self.of_shard(shard_of(document))
    }

    /// Looks at the machine of a document.
    pub(super) fn look<T>(&self, document: u64, look: impl FnOnce(&TokenMachine) -> T) -> T {
        // The remainder is below the number of machines.
        look(&self.slots[self.of(document)].machine.lock())
    }

    /// The same, of the machine at this place.
    pub(super) fn look_at(&self, at: usize, look: impl FnOnce(&TokenMachine) -> bool) -> bool {
        let slot = self.slots.get(at);
        slot.is_some_and(|slot| look(&slot.machine.lock()))
    }

    /// The coordinator of a shard, as far as is known.
    pub(super) fn owner(&self, shard: ShardId) -> Option<Member> {
        let slot = self.slots.get(self.of_shard(shard))?;
        slot.machine.lock().shard_owner(shard)
    }

    pub(super) fn tokens_held(&self) -> usize {
        let held = |s: &Slot| s.machine.lock().tokens_held();
        self.slots.iter().map(held).sum()
    }

    /// Lets a machine take an event, then carries out what it wants. One caller at a time does so for all, so the order
    /// holds; an effect may cause further events.
    pub(super) fn step(&self, at: usize, event: Event, now: Now, carry_out: &dyn Fn(Effect)) {
        let Some(slot) = self.slots.get(at) else {
            return;
        };
        {
            let mut machine = slot.machine.lock();
            machine.step(event, now);
            let deadline = machine.next_deadline().0;
            slot.deadline.store(deadline, Ordering::Release);
            if !machine.has_effects() {
                return;
            }
            // Posted while the machine is still locked, so that their order is the machine's.
            let effects = machine.take_effects();
            let mut outbox = slot.outbox.lock();
            outbox.posted += effects.len() as u64;
            outbox.queue.extend(effects);
        }
        if std::mem::replace(&mut slot.outbox.lock().busy, true) {
            return;
        }
        let mut busy = Busy {
            slot,
            panicking: true,
        };
        let mut carried = 0;
        loop {
            let next = {
                let mut outbox = slot.outbox.lock();
                outbox.carried += carried;
                let next = outbox.queue.pop_front();
                // Told under the same lock that nothing is left, so that no effect is stranded.
                outbox.busy = next.is_some();
                next
            };
            slot.delivered.notify_all();
            match next {
                Some(effect) => carry_out(effect),
                None => break,
            }
            carried = 1;
        }
        busy.panicking = false;
    }

    /// Waits until what a machine wants so far is carried out, by whichever thread does it. Never to be called while
    /// carrying out an effect.
    pub(super) fn wait_delivered(&self, at: usize) {
        let Some(slot) = self.slots.get(at) else {
            return;
        };
        let mut outbox = slot.outbox.lock();
        let posted = outbox.posted;
        slot.delivered
            .wait_while(&mut outbox, |outbox| outbox.busy && outbox.carried < posted);
    }

    /// Machines whose time has come.
    pub(super) fn due(&self, now: Now) -> Vec<usize> {
        let due = |(_, s): &(usize, &Slot)| s.deadline.load(Ordering::Acquire) <= now.0;
        let slots = self.slots.iter().enumerate();
        slots.filter(due).map(|(at, _)| at).collect()
    }
}

/// Lets the next caller deliver even if one panics.
struct Busy<'a> {
    slot: &'a Slot,
    panicking: bool,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if self.panicking {
            self.slot.outbox.lock().busy = false;
            self.slot.delivered.notify_all();
        }
    }
}
