//! The calls of [`crate::LockService`] on one document and their answers, as values that can cross nodes.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache_grant::{CacheSink, CacheState, LeaseId};
use crate::caches::lease_of;
use crate::outcome::{
    AckError, Closed, Denial, Entry, OpenState, Opened, RangeHolder, RangeNotLocked,
};
use crate::range::ByteRange;
use crate::request::{
    BreakAck, IoKind, IoRequest, OpenRequest, OwnedRangeRequest, RangeOwner, RangeRequest,
};
use crate::types::{Access, Actor, ClientId, OpenRef, ResourceId, ShareMode};

/// One call. The names are those of [`crate::LockService`]; make the calls that carry a sink with [`Op::open`] and
/// [`Op::reclaim`].
#[derive(Clone, Serialize, Deserialize)]
pub enum Op {
    /// Answered by [`OpAnswer::Opened`].
    Open {
        /// The request; its sink does not cross nodes.
        request: Box<OpenRequest>,
        /// It had a sink.
        heard: bool,
    },
    /// Answered by [`OpAnswer::Closed`].
    Close {
        /// Which open.
        open: OpenRef,
        /// As `close_deleting`.
        deleting: bool,
    },
    /// Answered by [`OpAnswer::Done`].
    Deleted(ResourceId),
    /// Answered by [`OpAnswer::Done`].
    Reshare {
        /// Which open.
        open: OpenRef,
        /// What it is to do.
        access: Access,
        /// What it is to let others do.
        share: ShareMode,
    },
    /// Answered by [`OpAnswer::Done`].
    SetDeletePending {
        /// Which open.
        open: OpenRef,
        /// Mark or unmark.
        pending: bool,
    },
    /// Answered by [`OpAnswer::State`].
    State(OpenRef),
    /// Answered by [`OpAnswer::Done`].
    Disconnect {
        /// Which open.
        open: OpenRef,
        /// How long it is kept.
        keep: Duration,
    },
    /// Answered by [`OpAnswer::Opened`].
    Reclaim {
        /// Which open.
        open: OpenRef,
        /// Who is back.
        actor: Actor,
        /// It had a sink.
        heard: bool,
        /// The sink; does not cross nodes.
        #[serde(skip)]
        sink: Option<Arc<dyn CacheSink>>,
    },
    /// Answered by [`OpAnswer::Done`].
    Io {
        /// Which open.
        open: OpenRef,
        /// What it does.
        kind: IoKind,
    },
    /// Answered by [`OpAnswer::Done`].
    IoWithoutOpen(Box<IoRequest>),
    /// Answered by [`OpAnswer::Done`].
    ReleasePlace {
        /// Where.
        resource: ResourceId,
        /// Whose.
        client: ClientId,
    },
    /// Answered by [`OpAnswer::Done`].
    BreakCachesBeforeMove {
        /// Of what.
        resource: ResourceId,
        /// Who asks.
        actor: Actor,
        /// Its own open.
        open: Option<OpenRef>,
    },
    /// Answered by [`OpAnswer::Done`].
    Lock(RangeRequest),
    /// Answered by [`OpAnswer::Unlocked`].
    Unlock {
        /// Whose.
        open: OpenRef,
        /// Which bytes.
        range: ByteRange,
    },
    /// Answered by [`OpAnswer::Done`].
    LockOwned(Box<OwnedRangeRequest>),
    /// Answered by [`OpAnswer::Done`].
    UnlockOwned {
        /// Of what.
        resource: ResourceId,
        /// Whose.
        client: ClientId,
        /// Which owner; `None`: all of the client.
        owner: Option<RangeOwner>,
        /// Which bytes.
        range: ByteRange,
    },
    /// Answered by [`OpAnswer::Tested`].
    TestOwned(Box<OwnedRangeRequest>),
    /// Answered by [`OpAnswer::Acknowledged`].
    AcknowledgeBreak(BreakAck),
    /// `explain`. Answered by [`OpAnswer::Entries`].
    Explain(u64),
}

/// The answer to an [`Op`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpAnswer {
    /// To what opens.
    Opened(Result<Opened, Denial>),
    /// To most calls.
    Done(Result<(), Denial>),
    /// To what closes.
    Closed(Closed),
    /// To an unlock.
    Unlocked(Result<(), RangeNotLocked>),
    /// To a test.
    Tested(Option<RangeHolder>),
    /// To a question for a state.
    State(Option<OpenState>),
    /// To the answer to a break.
    Acknowledged(Result<CacheState, AckError>),
    /// To a question for everything.
    Entries(Vec<Entry>),
}

impl Op {
    /// As [`crate::LockService::open`].
    #[must_use]
    pub fn open(request: OpenRequest) -> Self {
        Op::Open {
            heard: request.sink.is_some(),
            request: Box::new(request),
        }
    }

    /// As [`crate::LockService::reclaim`].
    #[must_use]
    pub fn reclaim(open: OpenRef, actor: Actor, sink: Option<Arc<dyn CacheSink>>) -> Self {
        Op::Reclaim {
            open,
            actor,
            heard: sink.is_some(),
            sink,
        }
    }

    /// On which document.
    #[must_use]
    pub fn document(&self) -> u64 {
        match self {
            Op::Open { request, .. } => request.resource.document,
            Op::IoWithoutOpen(request) => request.resource.document,
            Op::Lock(request) => request.open.resource.document,
            Op::LockOwned(request) | Op::TestOwned(request) => request.resource.document,
            Op::Close { open, .. }
            | Op::Reshare { open, .. }
            | Op::SetDeletePending { open, .. }
            | Op::State(open)
            | Op::Disconnect { open, .. }
            | Op::Reclaim { open, .. }
            | Op::Io { open, .. }
            | Op::Unlock { open, .. } => open.resource.document,
            Op::Deleted(resource)
            | Op::ReleasePlace { resource, .. }
            | Op::BreakCachesBeforeMove { resource, .. }
            | Op::UnlockOwned { resource, .. } => resource.document,
            Op::AcknowledgeBreak(
                BreakAck::Oplock {
                    open: OpenRef { resource, .. },
                    ..
                }
                | BreakAck::Lease { resource, .. }
                | BreakAck::Delegation { resource, .. },
            ) => resource.document,
            Op::Explain(document) => *document,
        }
    }

    /// Whether somebody is to be told of breaks and losses: its sink, or at another node one that stands for it.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        match self {
            Op::Open { heard, .. } | Op::Reclaim { heard, .. } => *heard,
            _ => false,
        }
    }

    /// Gives a call that came from another node the sink that stands for its caller's; others are left alone.
    pub fn put_sink(&mut self, stand_in: Arc<dyn CacheSink>) {
        match self {
            Op::Open {
                request,
                heard: true,
            } => request.sink = Some(stand_in),
            Op::Reclaim {
                sink, heard: true, ..
            } => *sink = Some(stand_in),
            _ => {}
        }
    }

    /// The sink of an own call.
    #[must_use]
    pub fn sink(&self) -> Option<&Arc<dyn CacheSink>> {
        match self {
            Op::Open { request, .. } => request.sink.as_ref(),
            Op::Reclaim { sink, .. } => sink.as_ref(),
            _ => None,
        }
    }

    /// The lease that an open would use.
    #[must_use]
    pub fn lease(&self) -> Option<(LeaseId, ResourceId)> {
        match self {
            Op::Open {
                request,
                heard: true,
            } => lease_of(&request.cache).map(|lease| (lease, request.resource)),
            _ => None,
        }
    }

    /// Whether this answer to the call may tell of a change to what its caller's node has.
    #[must_use]
    pub fn changes(&self, answer: &OpAnswer) -> bool {
        let refused = matches!(
            answer,
            OpAnswer::Opened(Err(_))
                | OpAnswer::Done(Err(_))
                | OpAnswer::Unlocked(Err(_))
                | OpAnswer::Acknowledged(Err(_))
        );
        let reads = match self {
            Op::Io { .. } | Op::State(_) | Op::TestOwned(_) | Op::Explain(_) => true,
            Op::IoWithoutOpen(request) => request.place.is_none(),
            _ => false,
        };
        !refused && !reads
    }

    /// What to answer if this node is no member any more, or its peers answer nonsense.
    #[must_use]
    pub fn lost(&self) -> OpAnswer {
        let lost = Denial::NodeLost;
        match self {
            Op::Open { .. } | Op::Reclaim { .. } => OpAnswer::Opened(Err(lost)),
            Op::Close { .. } => OpAnswer::Closed(Closed::default()),
            Op::Unlock { .. } => OpAnswer::Unlocked(Err(RangeNotLocked)),
            Op::TestOwned(_) => OpAnswer::Tested(None),
            Op::State(_) => OpAnswer::State(None),
            Op::AcknowledgeBreak(_) => OpAnswer::Acknowledged(Err(AckError::NoSuchGrant)),
            Op::Explain(_) => OpAnswer::Entries(Vec::new()),
            _ => OpAnswer::Done(Err(lost)),
        }
    }
}

impl OpAnswer {
    /// Of an open or reclaim.
    ///
    /// # Errors
    /// The refusal.
    pub fn opened(self) -> Result<Opened, Denial> {
        match self {
            OpAnswer::Opened(result) => result,
            OpAnswer::Done(Err(denial)) => Err(denial),
            _ => Err(Denial::NodeLost),
        }
    }

    /// Of most calls.
    ///
    /// # Errors
    /// The refusal.
    pub fn done(self) -> Result<(), Denial> {
        match self {
            OpAnswer::Done(result) => result,
            OpAnswer::Opened(Err(denial)) => Err(denial),
            _ => Err(Denial::NodeLost),
        }
    }

    /// Of a close.
    pub fn closed(self) -> Closed {
        match self {
            OpAnswer::Closed(closed) => closed,
            _ => Closed::default(),
        }
    }

    /// Of an unlock.
    ///
    /// # Errors
    /// As [`crate::LockService::unlock`].
    pub fn unlocked(self) -> Result<(), RangeNotLocked> {
        match self {
            OpAnswer::Unlocked(result) => result,
            _ => Err(RangeNotLocked),
        }
    }

    /// Of a test.
    #[must_use]
    pub fn tested(self) -> Option<RangeHolder> {
        match self {
            OpAnswer::Tested(holder) => holder,
            _ => None,
        }
    }

    /// Of a question for an open's state.
    #[must_use]
    pub fn state(self) -> Option<OpenState> {
        match self {
            OpAnswer::State(state) => state,
            _ => None,
        }
    }

    /// Of the answer to a break.
    ///
    /// # Errors
    /// As [`crate::LockService::acknowledge_break`].
    pub fn acknowledged(self) -> Result<CacheState, AckError> {
        match self {
            OpAnswer::Acknowledged(result) => result,
            _ => Err(AckError::NoSuchGrant),
        }
    }

    /// Of a question for everything.
    #[must_use]
    pub fn entries(self) -> Vec<Entry> {
        match self {
            OpAnswer::Entries(entries) => entries,
            _ => Vec::new(),
        }
    }
}
