//! What the rules need from outside the document at hand: the moment, ids, timers, and a list of effects to carry out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::cache_grant::{BreakNotice, CacheSink, GrantKey, LeaseId, RevokeReason};
use crate::epoch::MemberId;
use crate::obstacle::Granted;
use crate::outcome::{Closed, Denial};
use crate::table::TableOptions;
use crate::types::{ClientId, Now, OpenId, OpenRef, ResourceId, Ticket, WaiterId};

/// What the runtime has to carry out, in this order.
pub(crate) enum Effect {
    /// Tell a holder to give a cache back.
    Break {
        sink: Arc<dyn CacheSink>,
        notice: BreakNotice,
    },
    /// Tell a holder that its open is gone.
    Revoked {
        sink: Arc<dyn CacheSink>,
        open: OpenRef,
        reason: RevokeReason,
        closed: Closed,
    },
    /// Tell a holder that its cache is gone.
    CacheRevoked {
        sink: Arc<dyn CacheSink>,
        resource: ResourceId,
        grant: GrantKey,
        reason: RevokeReason,
    },
    /// A waiter has its answer.
    Answer {
        waiter: WaiterId,
        outcome: Result<Granted, Denial>,
    },
    /// An open that used this lease has ended.
    LeaseUnused {
        lease: LeaseId,
        open: OpenId,
        client: ClientId,
    },
}

/// What may become due on a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Break {
        stream: u32,
        key: GrantKey,
    },
    /// A place's idle time or a disconnected open's reclaim time.
    Open(OpenId),
    Waiter(WaiterId),
    /// Nobody has asked again for an answer that came from another table.
    Answer(Ticket),
}

/// A moment at which something may be due; looked at again then, so an outdated one does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timer {
    pub at: Now,
    pub document: u64,
    pub due: Due,
}

/// See the module's head.
pub(crate) struct Env {
    pub now: Now,
    pub options: TableOptions,
    pub effects: Vec<Effect>,
    timers: BinaryHeap<Reverse<Timer>>,
    next_id: u64,
    stride: u64,
    /// The node whose table this is.
    me: MemberId,
    /// The number of the request at hand, if it has one already.
    ticket: Option<u64>,
    /// Grows with every operation.
    pub revision: u64,
}

impl Env {
    /// Ids are `first`, `first + stride`, ...: a service gives each shard its own residue.
    pub(crate) fn new(options: TableOptions, first: u64, stride: u64) -> Self {
        Self {
            now: Now::default(),
            options,
            effects: Vec::new(),
            timers: BinaryHeap::new(),
            next_id: first,
            stride,
            me: ClientId(first).member(),
            ticket: None,
            revision: 0,
        }
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += self.stride;
        id
    }

    /// True for a call of another node.
    pub(crate) fn is_foreign(&self, ticket: Ticket) -> bool {
        ClientId(ticket.0).member() != self.me
    }

    /// From now on the request at hand has this number.
    pub(crate) fn set_ticket(&mut self, ticket: Option<u64>) {
        self.ticket = ticket;
    }

    /// The number of the request at hand: its waiter's, or its open's.
    pub(crate) fn request_id(&mut self) -> u64 {
        match self.ticket.take() {
            Some(ticket) => ticket,
            None => self.fresh_id(),
        }
    }

    pub(crate) fn set_timer(&mut self, at: Now, document: u64, due: Due) {
        if at != Now::NEVER {
            self.timers.push(Reverse(Timer { at, document, due }));
        }
    }

    pub(crate) fn next_deadline(&self) -> Now {
        self.timers.peek().map_or(Now::NEVER, |Reverse(t)| t.at)
    }

    pub(crate) fn pop_due(&mut self) -> Option<Timer> {
        if self.next_deadline() > self.now {
            return None;
        }
        self.timers.pop().map(|Reverse(t)| t)
    }
}
