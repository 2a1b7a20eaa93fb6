//! What this node changes, as the others know it: a unit is *held* from before the first change, when every other node has said
//! that it uses its cached values no more, until a while after the last one. Further changes of a held unit cost no message.
//!
//! Order of what the others hear is the order of what happens here: everything is said under one mutex, or by the one task that
//! waits for the answers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluice_lockmgr::Member;
use sluice_repo::NodeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Others;
use super::note::{MetaNote, UNITS_MAX};
use super::unit::Unit;

/// After so long without an answer of all other nodes the administrator is told.
const LONG: Duration = Duration::from_secs(10);
/// Held units beyond which idle ones are given up at once.
const HELD_MAX: usize = 50_000;
/// Names of one folder that are held singly; more and all its names are held together.
const SINGLE_NAMES_MAX: u32 = 4;

/// A unit to be held; a single name with its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) unit: Unit,
    pub(super) name_of: Option<NodeId>,
}

#[derive(Debug)]
struct Held {
    /// The others know of it when this batch is answered.
    batch: u64,
    /// Changes under way, and contents with uncommitted writes.
    users: u32,
    used: Instant,
    name_of: Option<NodeId>,
}

#[derive(Default)]
struct State {
    held: HashMap<Unit, Held>,
    /// Names held singly, by folder.
    names: HashMap<NodeId, u32>,
    /// Units of the next batch.
    queue: Vec<Unit>,
    batch: u64,
    sending: bool,
    /// Those who have to hear: all other live nodes, whether they have greeted this one or do not know it yet.
    hearers: BTreeSet<Member>,
    /// Changes under way that may change anything.
    all: u32,
}

/// See the module's head.
pub(super) struct Holds {
    others: Arc<dyn Others>,
    stopping: CancellationToken,
    runtime: tokio::runtime::Handle,
    state: Mutex<State>,
    /// Batches that are answered.
    answered: watch::Sender<u64>,
}

/// What a change has told the others; to be given back with [`Holds::done`].
pub(super) struct Grip {
    units: Vec<Unit>,
    batch: u64,
    asked: bool,
}

impl Grip {
    /// Whether others had to be asked.
    pub(super) fn asked(&self) -> bool {
        self.asked
    }
}

impl Holds {
    pub(super) fn new(others: Arc<dyn Others>, stopping: CancellationToken) -> Holds {
        Holds {
            others,
            stopping,
            runtime: tokio::runtime::Handle::current(),
            state: Mutex::default(),
            answered: watch::Sender::new(0),
        }
    }

    /// Holds units; nobody else uses a cached value of them when this returns. `None`: this node is stopping.
    pub(super) async fn hold(self: &Arc<Self>, wanted: &[Wanted]) -> Option<Grip> {
        let mut grip = self.grip(wanted);
        if *self.answered.borrow() < grip.batch {
            grip.asked = true;
            let mut answered = self.answered.subscribe();
            tokio::select! {
                _ = answered.wait_for(|answered| *answered >= grip.batch) => {}
                () = self.stopping.cancelled() => {
                    self.done(grip);
                    return None;
                }
            }
        }
        Some(grip)
    }

    fn grip(self: &Arc<Self>, wanted: &[Wanted]) -> Grip {
        let mut state = self.state.lock();
        let mut grip = Grip {
            units: Vec::with_capacity(wanted.len()),
            batch: 0,
            asked: false,
        };
        for wanted in wanted {
            let wanted = state.together(*wanted);
            let batch = state.take(wanted, 1);
            grip.batch = grip.batch.max(batch);
            grip.units.push(wanted.unit);
        }
        self.send_queue(state);
        grip
    }

    /// Begins to hold a unit that will be wanted soon.
    pub(super) fn expect(self: &Arc<Self>, unit: Unit) {
        let mut state = self.state.lock();
        if !state.hearers.is_empty() {
            let wanted = Wanted {
                unit,
                name_of: None,
            };
            state.take(wanted, 0);
            self.send_queue(state);
        }
    }

    /// The changes are over.
    pub(super) fn done(&self, grip: Grip) {
        let mut state = self.state.lock();
        for unit in grip.units {
            if let Some(held) = state.held.get_mut(&unit) {
                held.users = held.users.saturating_sub(1);
                held.used = Instant::now();
            }
        }
    }

    fn send_queue(self: &Arc<Self>, mut state: parking_lot::MutexGuard<'_, State>) {
        if state.sending || state.queue.is_empty() {
            return;
        }
        state.sending = true;
        drop(state);
        let holds = Arc::clone(self);
        self.runtime
            .spawn(async move { holds.send_batches().await });
    }

    async fn send_batches(self: Arc<Self>) {
        loop {
            let (units, batch) = {
                let mut state = self.state.lock();
                if state.queue.is_empty() {
                    state.sending = false;
                    return;
                }
                let batch = state.batch + 1;
                state.batch = batch;
                (std::mem::take(&mut state.queue), batch)
            };
            for units in units.chunks(UNITS_MAX) {
                let note = MetaNote::Hold(units.to_vec());
                let told = self.others.announce_to_readers(note.into());
                tokio::pin!(told);
                while tokio::time::timeout(LONG, &mut told).await.is_err() {
                    tracing::warn!(
                        "changes of metadata wait for a node that does not say that it heard of them; `sluice nodes` shows who is cut off"
                    );
                }
            }
            self.answered.send_replace(batch);
        }
    }

    /// A node begins to cache: it is told all that is held, and from now on whatever will be.
    pub(super) fn hello(&self, from: Member) {
        let mut state = self.state.lock();
        state.hearers.insert(from);
        let units: Vec<Unit> = state.held.keys().copied().collect();
        for units in units.chunks(UNITS_MAX) {
            self.others.announce(MetaNote::Hold(units.to_vec()).into());
        }
        if state.all > 0 {
            self.others.announce(MetaNote::HoldAll.into());
        }
    }

    /// Holds everything; nobody else uses any cached value when this returns.
    pub(super) async fn hold_all(&self) {
        self.state.lock().all += 1;
        self.others
            .announce_to_readers(MetaNote::HoldAll.into())
            .await;
    }

    pub(super) fn release_all(&self) {
        let mut state = self.state.lock();
        state.all = state.all.saturating_sub(1);
        if state.all == 0 {
            self.others.announce(MetaNote::ReleaseAll.into());
        }
    }

    /// Whether something here changes the unit, or has pinned it.
    pub(super) fn is_used(&self, unit: Unit) -> bool {
        let state = self.state.lock();
        state.held.get(&unit).is_some_and(|held| held.users > 0)
    }

    /// The other live nodes, some of them perhaps known already.
    pub(super) fn came(&self, others: &[Member]) {
        self.state.lock().hearers.extend(others);
    }

    /// A node is no member any more.
    pub(super) fn gone(&self, member: Member) {
        self.state.lock().hearers.remove(&member);
    }

    /// Gives up what was not changed for so long.
    pub(super) fn give_up_idle(&self, idle_for: Duration) {
        let mut state = self.state.lock();
        let answered = *self.answered.borrow();
        let crowded = state.held.len() > HELD_MAX;
        let idle: Vec<Unit> = state
            .held
            .iter()
            .filter(|(_, held)| held.users == 0 && held.batch <= answered)
            .filter(|(_, held)| crowded || held.used.elapsed() >= idle_for)
            .map(|(unit, _)| *unit)
            .collect();
        for unit in &idle {
            state.drop_held(*unit);
        }
        if state.hearers.is_empty() {
            return;
        }
        // Still under the mutex: who holds one of them again says so after this.
        for units in idle.chunks(UNITS_MAX) {
            let note = MetaNote::Release(units.to_vec());
            self.others.announce(note.into());
        }
    }

    /// Units held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state.lock().held.len()
    }
}

impl State {
    /// All names of the folder instead of one more, if many change.
    fn together(&self, wanted: Wanted) -> Wanted {
        let Some(folder) = wanted.name_of else {
            return wanted;
        };
        let all = Wanted {
            unit: Unit::names(folder),
            name_of: None,
        };
        let single = self.names.get(&folder).copied().unwrap_or(0);
        let many = single >= SINGLE_NAMES_MAX || self.held.contains_key(&all.unit);
        if many && !self.held.contains_key(&wanted.unit) {
            all
        } else {
            wanted
        }
    }

    /// Holds a unit for more users; gives the batch whose answer makes it so.
    fn take(&mut self, wanted: Wanted, users: u32) -> u64 {
        let alone = self.hearers.is_empty();
        let batch = if alone { 0 } else { self.batch + 1 };
        let held = self.held.entry(wanted.unit).or_insert_with(|| {
            if !alone {
                self.queue.push(wanted.unit);
            }
            if let Some(folder) = wanted.name_of {
                *self.names.entry(folder).or_default() += 1;
            }
            Held {
                batch,
                users: 0,
                used: Instant::now(),
                name_of: wanted.name_of,
            }
        });
        held.users += users;
        held.used = Instant::now();
        held.batch
    }

    fn drop_held(&mut self, unit: Unit) {
        let Some(folder) = self.held.remove(&unit).and_then(|held| held.name_of) else {
            return;
        };
        if let Some(count) = self.names.get_mut(&folder) {
            *count -= 1;
            if *count == 0 {
                self.names.remove(&folder);
            }
        }
    }
}
