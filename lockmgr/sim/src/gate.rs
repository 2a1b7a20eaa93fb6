//! The lock behind a gate: shared or exclusive, first come, first served. It stands for the lock table.
//!
//! As byte ranges do, a lock counts once for each time that it is carried out: nothing here makes it harmless to carry out
//! a client's request twice. What keeps that from happening is that the answers that are not on their way yet go with the
//! locks to whoever decides next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluice_lockmgr::{Member, MemberId};
use sluice_lockmgr_cluster::core::RequestId;

/// A client: the incarnation that it is on, and its number there.
pub(crate) type ClientId = (MemberId, u64, u64);

/// What clients ask. A client locks once, so this names a lock request for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Op {
    /// `true`: exclusive.
    Lock(ClientId, bool),
    Unlock(ClientId),
}

pub(crate) type Holds = BTreeMap<ClientId, bool>;

/// For how long an answer that came from elsewhere is kept.
const ANSWER_KEPT_MS: u64 = 600_000;

/// Answers that are known after they were sent.
const SENT_MAX: usize = 32;

/// Entries as they travel: locks, and requests of other nodes that were granted and perhaps not heard of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Entries {
    pub(crate) holds: Holds,
    pub(crate) answered: BTreeSet<Op>,
}

impl Entries {
    pub(crate) fn is_empty(&self) -> bool {
        self.holds.is_empty() && self.answered.is_empty()
    }
}

impl Op {
    pub(crate) fn client(&self) -> ClientId {
        match self {
            Op::Lock(client, _) | Op::Unlock(client) => *client,
        }
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(postcard::to_stdvec(value).unwrap_or_default())
}

pub(crate) fn op_of(bytes: &Bytes) -> Option<Op> {
    postcard::from_bytes(bytes).ok()
}

pub(crate) fn entries_of(bytes: &Bytes) -> Entries {
    postcard::from_bytes(bytes).unwrap_or_default()
}

/// Entries as they travel; none if there are none.
pub(crate) fn state_of(entries: &Entries) -> Option<Bytes> {
    (!entries.is_empty()).then(|| encode(entries))
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
    /// When it was opened.
    pub(crate) since: u64,
    pub(crate) holds: Holds,
    pub(crate) waiters: VecDeque<Waiter>,
    /// Lock requests of other nodes that were granted and not answered yet, and until when they are kept.
    pub(crate) answered: BTreeMap<Op, u64>,
    /// The last ones whose answers were sent.
    sent: VecDeque<Op>,
    /// A request that was carried out twice.
    pub(crate) twice: Option<Op>,
}

impl Gate {
    pub(crate) fn opened(now: u64) -> Self {
        Self {
            since: now,
            ..Self::default()
        }
    }

    fn free_for(&self, exclusive: bool) -> bool {
        self.holds.is_empty() || (!exclusive && self.holds.values().all(|held| !held))
    }

    /// Takes a request; those that are answered now, in order.
    pub(crate) fn apply(&mut self, waiter: Waiter) -> Vec<Waiter> {
        let mut answered = Vec::new();
        match waiter.op() {
            // Asked again: granted once, and answered each time.
            op @ Op::Lock(..) if self.answered.contains_key(&op) || self.sent.contains(&op) => {
                if matches!(waiter, Waiter::Own(_)) {
                    self.answered.remove(&op);
                }
                answered.push(waiter);
            }
            Op::Lock(client, exclusive) => {
                if self.holds.contains_key(&client) {
                    self.twice = Some(waiter.op());
                }
                let same = |w: &Waiter| matches!(w.op(), Op::Lock(other, _) if other == client);
                if let Some(place) = self.waiters.iter_mut().find(|w| same(w)) {
                    *place = waiter;
                } else if self.waiters.is_empty() && self.free_for(exclusive) {
                    self.grant(&waiter, client, exclusive);
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
            if let Some(waiter) = self.waiters.pop_front() {
                self.grant(&waiter, client, exclusive);
                answered.push(waiter);
            }
        }
    }

    fn grant(&mut self, waiter: &Waiter, client: ClientId, exclusive: bool) {
        self.holds.insert(client, exclusive);
        if let Waiter::Of(_, _, op) = waiter {
            self.answered.insert(*op, u64::MAX);
        }
    }

    /// The answer to a request is on its way, or nobody waits for it.
    pub(crate) fn sent(&mut self, op: Op) {
        if self.answered.remove(&op).is_some() {
            self.sent.push_back(op);
            if self.sent.len() > SENT_MAX {
                self.sent.pop_front();
            }
        }
    }

    /// Everything behind it that belongs to these clients.
    pub(crate) fn entries(&self, keep: impl Fn(&ClientId) -> bool) -> Entries {
        let holds = self.holds.iter().filter(|(client, _)| keep(client));
        let answered = self.answered.keys().filter(|op| keep(&op.client()));
        Entries {
            holds: holds.map(|(client, held)| (*client, *held)).collect(),
            answered: answered.copied().collect(),
        }
    }

    /// Puts in what was elsewhere.
    pub(crate) fn admit(&mut self, entries: Entries, now: u64) {
        self.holds.extend(entries.holds);
        self.answered.retain(|_, until| *until > now);
        for op in entries.answered {
            self.answered.entry(op).or_insert(now + ANSWER_KEPT_MS);
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
