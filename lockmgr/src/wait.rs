//! A caller that waits for its turn: the two ends of its answer, and what becomes of it if it goes away meanwhile.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::cache_grant::LeaseId;
use crate::obstacle::Granted;
use crate::outcome::Denial;
use crate::shards::Shards;
use crate::types::{Ticket, WaiterId};

pub(crate) type Outcome = Result<Granted, Denial>;

/// The document has left this table, and with it the caller's place: ask again, by the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved;

/// The answering end, and the lease that the request is counted for.
pub(crate) struct Caller {
    pub answer: oneshot::Sender<Result<Outcome, Moved>>,
    pub lease: Option<(LeaseId, Ticket)>,
}

/// The waiting end; dropping it gives the wait up.
pub(crate) struct Wait {
    shards: Arc<Shards>,
    document: u64,
    waiter: WaiterId,
    answer: oneshot::Receiver<Result<Outcome, Moved>>,
    lease: Option<(LeaseId, Ticket)>,
    done: bool,
}

impl Wait {
    /// Both ends.
    pub(crate) fn new(
        shards: &Arc<Shards>,
        document: u64,
        waiter: WaiterId,
        lease: Option<(LeaseId, Ticket)>,
    ) -> (Caller, Wait) {
        let (caller, answer) = oneshot::channel();
        let wait = Wait {
            shards: Arc::clone(shards),
            document,
            waiter,
            answer,
            lease,
            done: false,
        };
        let caller = Caller {
            answer: caller,
            lease,
        };
        (caller, wait)
    }

    /// The number by which the request stands in line.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.waiter.0)
    }

    /// The answer, when it comes.
    pub(crate) async fn answer(mut self) -> Result<Outcome, Moved> {
        let outcome = (&mut self.answer).await;
        self.done = true;
        outcome.unwrap_or(Ok(Err(Denial::Stopping)))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if self.shards.give_up(self.document, self.waiter) {
            if let Some((lease, ticket)) = self.lease {
                self.shards.leases.leave(lease, ticket);
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
