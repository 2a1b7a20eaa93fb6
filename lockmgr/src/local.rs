//! The lock service of one node: the table sharded, behind mutexes, with waiting callers and timers.
//!
//! Sharded by document: each shard is one mutex around one table and the callers that wait in it. There is no global
//! lock, no lock is held across an await, and a request that nobody stands in the way of never waits for a task.
//! Order of locks: shard, then lease registry or outbox; never the other way round.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::cache_grant::{CacheSink, CacheState, LeaseId};
use crate::caches::lease_of;
use crate::listing;
use crate::obstacle::{Ask, Granted};
use crate::outcome::{
    AckError, Closed, Denial, Entry, OpenState, Opened, RangeHolder, RangeNotLocked,
};
use crate::range::ByteRange;
use crate::request::{
    BreakAck, IoKind, IoRequest, OpenRequest, OwnedRangeRequest, RangeOwner, RangeRequest,
};
use crate::service::{Clock, ListFilter, LockHost, LockOptions, LockService, Note};
use crate::shards::{Elsewhere, Shards, Started};
use crate::table::LockTable;
use crate::types::{Access, Actor, ClientId, OpenId, OpenRef, ResourceId, ShareMode, Ticket};
use crate::wait::Outcome;

/// See the module's head. A handle, cheap to clone.
#[derive(Clone)]
pub struct LocalLocks {
    shards: Arc<Shards>,
}

impl LocalLocks {
    /// A service with its own shards. Spawn [`LockService::run_timers`] once.
    #[must_use]
    pub fn new(options: LockOptions, clock: Arc<dyn Clock>) -> Self {
        Self {
            shards: Arc::new(Shards::new((&options).into(), clock, None)),
        }
    }

    /// Carries out what is due now; for runtimes and tests that own the time.
    pub fn tick(&self) {
        self.shards.tick();
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<(), Denial> {
        self.outcome(ask, None).await.map(|_| ())
    }

    /// Nothing ever moves from here, so every request is answered.
    async fn outcome(&self, ask: Ask<'_>, lease: Option<(LeaseId, Ticket)>) -> Outcome {
        let ticket = lease.map(|(_, ticket)| ticket);
        match self.shards.start(ask, ticket, lease) {
            Ok(Started::Done(result)) => result,
            Ok(Started::Wait(wait)) => wait.answer().await.unwrap_or(Err(Denial::NodeLost)),
            Err(Elsewhere) => Err(Denial::NodeLost),
        }
    }
}

#[async_trait]
impl LockService for LocalLocks {
    fn attach(&self, _host: Arc<dyn LockHost>) {}

    async fn run_timers(&self) {
        while !self.shards.is_stopping() {
            self.shards.sleep_until_due().await;
            self.shards.tick();
        }
    }

    fn stop(&self) {
        self.shards.stop();
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened, Denial> {
        let lease = lease_of(&request.cache).filter(|_| request.sink.is_some());
        let lease = lease.map(|lease| (lease, self.shards.ticket(request.resource.document)));
        if let Some((lease, ticket)) = lease {
            self.shards.leases.enter(lease, request.resource, ticket)?;
        }
        match self.outcome(Ask::Open(&request), lease).await {
            Ok(Granted::Opened(opened)) => Ok(opened),
            Ok(Granted::Done) => Err(Denial::NoSuchOpen),
            Err(denial) => {
                if let Some((lease, ticket)) = lease {
                    self.shards.leases.leave(lease, ticket);
                }
                Err(denial)
            }
        }
    }

    async fn close(&self, open: OpenRef) -> Closed {
        self.shards.with(open.resource.document, |table, now| {
            table.close(now, open, false)
        })
    }

    fn try_close(&self, open: OpenRef) -> Option<Closed> {
        Some(self.shards.with(open.resource.document, |table, now| {
            table.close(now, open, false)
        }))
    }

    async fn close_deleting(&self, open: OpenRef) -> Closed {
        self.shards.with(open.resource.document, |table, now| {
            table.close(now, open, true)
        })
    }

    async fn deleted(&self, resource: ResourceId) {
        self.shards
            .with(resource.document, |table, now| table.deleted(now, resource));
    }

    async fn reshare(&self, open: OpenRef, access: Access, share: ShareMode) -> Result<(), Denial> {
        self.shards.with(open.resource.document, |table, now| {
            table.reshare(now, open, access, share)
        })
    }

    async fn io(&self, open: OpenRef, kind: IoKind) -> Result<(), Denial> {
        self.ask(Ask::OpenIo { open, kind }).await
    }

    fn try_io(&self, open: OpenRef, kind: IoKind) -> Option<Result<(), Denial>> {
        self.shards.with(open.resource.document, |table, now| {
            table.request_no_wait(now, Ask::OpenIo { open, kind })
        })
    }

    async fn io_without_open(&self, request: IoRequest) -> Result<(), Denial> {
        self.ask(Ask::Io(&request)).await
    }

    async fn release_place(&self, resource: ResourceId, client: ClientId) {
        self.shards.with(resource.document, |table, now| {
            table.release_place(now, resource, client)
        });
    }

    async fn break_caches_before_move(
        &self,
        resource: ResourceId,
        actor: &Actor,
        open: Option<OpenRef>,
    ) -> Result<(), Denial> {
        self.ask(Ask::Move {
            resource,
            actor,
            open: open.map(|o| o.id),
        })
        .await
    }

    async fn lock(&self, request: RangeRequest) -> Result<(), Denial> {
        self.ask(Ask::Ranges(&request)).await
    }

    async fn unlock(&self, open: OpenRef, range: ByteRange) -> Result<(), RangeNotLocked> {
        self.shards.with(open.resource.document, |table, now| {
            table.unlock(now, open, range)
        })
    }

    async fn lock_owned(&self, request: OwnedRangeRequest) -> Result<(), Denial> {
        self.ask(Ask::OwnedRange(&request)).await
    }

    async fn unlock_owned(
        &self,
        resource: ResourceId,
        client: ClientId,
        owner: RangeOwner,
        range: ByteRange,
    ) {
        let free = |table: &mut LockTable, now| {
            table.unlock_owned(now, resource, client, Some(owner), range)
        };
        self.shards.with(resource.document, free);
    }

    async fn unlock_all_owned(
        &self,
        resource: ResourceId,
        client: ClientId,
        owner: Option<RangeOwner>,
    ) {
        let all = ByteRange::WHOLE;
        self.shards.with(resource.document, |table, now| {
            table.unlock_owned(now, resource, client, owner, all)
        });
    }

    async fn test_owned(&self, request: &OwnedRangeRequest) -> Option<RangeHolder> {
        self.shards.with(request.resource.document, |table, _| {
            table.test_owned(request)
        })
    }

    async fn set_delete_pending(&self, open: OpenRef, pending: bool) -> Result<(), Denial> {
        self.shards.with(open.resource.document, |table, now| {
            table.set_delete_pending(now, open, pending)
        })
    }

    async fn acknowledge_break(&self, ack: BreakAck) -> Result<CacheState, AckError> {
        let (resource, key, state) = ack.parts();
        self.shards.with(resource.document, |table, now| {
            table.acknowledge(now, resource, key, state)
        })
    }

    fn lease_resource(&self, lease: LeaseId) -> Option<ResourceId> {
        self.shards.leases.resource(lease)
    }

    fn keep_for_reclaim(&self, node: &str, documents: &[u64], keep: Duration) {
        let holder = listing::left_holder(node);
        for document in documents {
            self.shards.with(*document, |table, now| {
                table.keep_for_reclaim(now, *document, &holder, keep);
            });
        }
    }

    async fn state(&self, open: OpenRef) -> Option<OpenState> {
        self.shards
            .with(open.resource.document, |table, _| table.state(open))
    }

    async fn disconnect(&self, open: OpenRef, keep: Duration) -> Result<(), Denial> {
        self.shards.with(open.resource.document, |table, now| {
            table.disconnect(now, open, keep)
        })
    }

    async fn reclaim(
        &self,
        open: OpenRef,
        actor: Actor,
        sink: Option<Arc<dyn CacheSink>>,
    ) -> Result<Opened, Denial> {
        self.shards.with(open.resource.document, |table, now| {
            table.reclaim(now, open, actor, sink)
        })
    }

    async fn force_release(&self, id: OpenId) -> bool {
        self.shards
            .with_shard_of_id(id.0, |table, now| table.force_release(now, id.0))
    }

    async fn list(&self, filter: &ListFilter) -> Vec<Entry> {
        listing::list(&self.shards, filter)
    }

    fn residence(&self, _document: u64) -> Option<u64> {
        Some(0)
    }

    async fn fence(&self, _document: u64) -> Result<u64, Denial> {
        Ok(0)
    }

    async fn settle(&self, _documents: &[u64]) -> bool {
        false
    }

    fn announce(&self, _note: Note) {}

    async fn announce_all(&self, _note: Note) {}
}
