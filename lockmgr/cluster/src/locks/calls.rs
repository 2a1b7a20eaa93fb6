//! A call, from the file layer to its answer.

use std::sync::Arc;
use std::time::Duration;

use sluice_lockmgr::{Begun, NotHere, Op, OpAnswer, OpenId, OpenRef, Ticket};
use tokio::sync::oneshot;

use super::message::{decode, encode};
use super::{Asking, Inner, Resolved};
use crate::core::{Event, RequestId};

/// How often it is looked whether a node that may not act may act again.
const FREEZE_LOOK: Duration = Duration::from_millis(20);

impl Inner {
    /// Has a call decided, here or elsewhere.
    pub(super) async fn call(self: &Arc<Self>, op: Op) -> OpAnswer {
        match self.try_here(&op, None).await {
            Ok(answer) => answer,
            Err(NotHere { ticket }) if gives_back(&op) => self.finish_elsewhere(op, ticket).await,
            Err(NotHere { ticket }) => self.call_elsewhere(op, ticket).await,
        }
    }

    /// Has a call decided that must come to its end even if its caller goes away.
    async fn finish_elsewhere(self: &Arc<Self>, op: Op, ticket: Option<Ticket>) -> OpAnswer {
        let (inner, lost) = (Arc::clone(self), op.lost());
        let task = self
            .runtime
            .spawn(async move { inner.call_elsewhere(op, ticket).await });
        task.await.unwrap_or(lost)
    }

    /// The same, by a number that was drawn before.
    pub(super) async fn call_by(self: &Arc<Self>, op: Op, ticket: Ticket) -> OpAnswer {
        match self.try_here(&op, Some(ticket)).await {
            Ok(answer) => answer,
            Err(NotHere { .. }) => self.call_elsewhere(op, Some(ticket)).await,
        }
    }

    /// Has a call decided here, if the gate lets it through.
    async fn try_here(&self, op: &Op, ticket: Option<Ticket>) -> Result<OpAnswer, NotHere> {
        while !self.peers.may_act() {
            if self.is_lost() || self.is_stopping() {
                return Err(NotHere { ticket });
            }
            tokio::select! {
                () = self.thawed.notified() => {}
                () = tokio::time::sleep(FREEZE_LOOK) => {}
            }
        }
        match self.locks.begin(op, ticket)? {
            Begun::Done(answer) => Ok(answer),
            Begun::Waiting(waiting) => waiting.answer().await,
        }
    }

    /// Has the token machine say who decides, until somebody has.
    pub(super) async fn call_elsewhere(
        self: &Arc<Self>,
        op: Op,
        ticket: Option<Ticket>,
    ) -> OpAnswer {
        let document = op.document();
        let ticket = ticket.unwrap_or_else(|| self.locks.ticket(document));
        let bytes = encode(&(ticket, &op));
        let mut given = Given {
            inner: self,
            document,
            request: None,
            made: made_open(&op, ticket),
        };
        let heard = op.sink().map(|sink| (heard_by(&op, ticket), sink));
        loop {
            if self.is_lost() || self.is_stopping() {
                given.settle();
                return op.lost();
            }
            if let Some((open, sink)) = &heard {
                self.own_sinks.keep(*open, Arc::clone(sink));
            }
            let request = RequestId(self.number());
            let (resolved, answer) = oneshot::channel();
            let asking = Asking {
                op: bytes.clone(),
                to: None,
                resolved,
            };
            self.asking.lock().insert(request, asking);
            given.request = Some(request);
            self.step(document, Event::Request { document, request });
            match answer.await {
                Ok(Resolved::Answer(bytes)) => {
                    given.settle();
                    let answer = decode(&bytes, "answer").unwrap_or_else(|| op.lost());
                    self.keep_or_forget(&op, ticket, &answer);
                    return answer;
                }
                Ok(Resolved::Run) => given.request = None,
                Err(_) => {
                    given.settle();
                    return op.lost();
                }
            }
            if let Ok(answer) = self.try_here(&op, Some(ticket)).await {
                given.settle();
                self.keep_or_forget(&op, ticket, &answer);
                // The table has the sink now.
                if let Some((open, _)) = &heard {
                    self.own_sinks.forget(*open);
                }
                return answer;
            }
        }
    }

    /// What another node's answer means for the sinks that are kept here.
    fn keep_or_forget(&self, op: &Op, ticket: Ticket, answer: &OpAnswer) {
        match (op, answer) {
            (Op::Open { .. } | Op::Reclaim { .. }, OpAnswer::Opened(Err(_))) => {
                self.own_sinks.forget(heard_by(op, ticket));
            }
            (Op::Close { open, .. }, OpAnswer::Closed(_)) => {
                self.own_sinks.forget(open.id);
            }
            _ => {}
        }
    }

    /// Closes an open that nobody uses. What it would delete stays.
    pub(super) fn abandon(self: &Arc<Self>, open: OpenRef) {
        if self.is_lost() || self.is_stopping() {
            return;
        }
        self.own_sinks.forget(open.id);
        let inner = Arc::clone(self);
        self.runtime.spawn(async move {
            let deleting = false;
            let closed = inner.call(Op::Close { open, deleting }).await.closed();
            if closed.delete_document || closed.delete_stream.is_some() {
                inner.call(Op::Deleted(open.resource)).await;
            }
        });
    }
}

/// Whether a call gives something back: it takes effect once it is made, as it does where nobody has to be asked.
fn gives_back(op: &Op) -> bool {
    matches!(
        op,
        Op::Close { .. }
            | Op::Deleted(_)
            | Op::SetDeletePending { .. }
            | Op::Disconnect { .. }
            | Op::ReleasePlace { .. }
            | Op::Unlock { .. }
            | Op::UnlockOwned { .. }
            | Op::AcknowledgeBreak(_)
    )
}

/// The open through which a call's caller hears.
fn heard_by(op: &Op, ticket: Ticket) -> OpenId {
    match op {
        Op::Reclaim { open, .. } => open.id,
        _ => OpenId(ticket.0),
    }
}

/// The open that a call would make.
fn made_open(op: &Op, ticket: Ticket) -> Option<OpenRef> {
    match op {
        Op::Open { request, .. } => Some(OpenRef {
            resource: request.resource,
            id: OpenId(ticket.0),
        }),
        _ => None,
    }
}

/// A call that is given up if its caller goes away.
struct Given<'a> {
    inner: &'a Arc<Inner>,
    document: u64,
    request: Option<RequestId>,
    made: Option<OpenRef>,
}

impl Given<'_> {
    fn settle(&mut self) {
        self.request = None;
        self.made = None;
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        let document = self.document;
        if let Some(request) = self.request {
            self.inner.asking.lock().remove(&request);
            let cancel = Event::Cancel { document, request };
            self.inner.step(document, cancel);
        }
        // It may have been granted somewhere all the same; nobody will ever use it.
        if let Some(open) = self.made {
            self.inner.abandon(open);
        }
    }
}
