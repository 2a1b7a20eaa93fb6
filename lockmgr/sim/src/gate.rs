//! The lock behind a gate: shared or exclusive, first come, first served. It stands for the lock table.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluice_lockmgr::{Member, MemberId};
use sluice_lockmgr_cluster::core::RequestId;

/// A client: the incarnation that it is on, and its number there.
pub(crate) type ClientId = (MemberId, u64, u64);

/// What clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Op {
    /// `true`: exclusive. The turn tells one wait of a client from the next.
    Lock(ClientId, bool),
    Unlock(ClientId),
}

pub(crate) type Holds = BTreeMap<ClientId, bool>;

pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(postcard::to_stdvec(value).unwrap_or_default())
}

pub(crate) fn op_of(bytes: &Bytes) -> Option<Op> {
    postcard::from_bytes(bytes).ok()
}

pub(crate) fn holds_of(bytes: &Bytes) -> Holds {
    postcard::from_bytes(bytes).unwrap_or_default()
}

/// Entries as they travel; none if there are none.
pub(crate) fn state_of(holds: &Holds) -> Option<Bytes> {
    (!holds.is_empty()).then(|| encode(holds))
}

/// Who waits: an own request, or another node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    Own(Op),
    Of(Member, RequestId, Op),
}

impl Waiter {
    pub(crate) fn op(&self) -> Op {
        match self {
            Waiter::Own(op) | Waiter::Of(_, _, op) => *op,
        }
    }
}

/// One document that this node decides about.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// This node is alone on the document since this term.
    pub(crate) term: Option<u64>,
    pub(crate) holds: Holds,
    pub(crate) waiters: VecDeque<Waiter>,
}

impl Gate {
    fn free_for(&self, exclusive: bool) -> bool {
        self.holds.is_empty() || (!exclusive && self.holds.values().all(|held| !held))
    }

    /// Takes a request; those that are answered now, in order.
    pub(crate) fn apply(&mut self, waiter: Waiter) -> Vec<Waiter> {
        let mut answered = Vec::new();
        match waiter.op() {
            // Asked twice, on two ways: granted once, and answered each time.
            Op::Lock(client, _) if self.holds.contains_key(&client) => answered.push(waiter),
            Op::Lock(client, exclusive) => {
                let same = |w: &Waiter| matches!(w.op(), Op::Lock(other, _) if other == client);
                if let Some(place) = self.waiters.iter_mut().find(|w| same(w)) {
                    *place = waiter;
                } else if self.waiters.is_empty() && self.free_for(exclusive) {
                    self.holds.insert(client, exclusive);
                    answered.push(waiter);
                } else {
                    self.waiters.push_back(waiter);
                }
            }
            Op::Unlock(client) => {
                self.holds.remove(&client);
                answered.push(waiter);
            }
        }
        self.serve(&mut answered);
        answered
    }

    /// Gives what is free to those in front.
    fn serve(&mut self, answered: &mut Vec<Waiter>) {
        while let Some(Op::Lock(client, exclusive)) = self.waiters.front().map(Waiter::op) {
            if !self.free_for(exclusive) {
                break;
            }
            self.holds.insert(client, exclusive);
            answered.extend(self.waiters.pop_front());
        }
    }

    /// Forgets waits that nobody waits any more; who is served by that.
    pub(crate) fn forget(&mut self, gone: impl Fn(&Waiter) -> bool) -> Vec<Waiter> {
        self.waiters.retain(|waiter| !gone(waiter));
        let mut answered = Vec::new();
        self.serve(&mut answered);
        answered
    }
}
