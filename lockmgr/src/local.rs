//! The lock service of one node: the table sharded, behind mutexes, with waiting callers and timers.
//!
//! Sharded by document: each shard is one mutex around one table and the callers that wait in it. There is no global
//! lock, no lock is held across an await, and a request that nobody stands in the way of never waits for a task.
//! Order of locks: shard, then lease registry or outbox; never the other way round.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::cache_grant::{CacheSink, CacheState, GrantKey, LeaseId};
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
use crate::shards::{Shards, Started};
use crate::table::{LockTable, TableOptions};
use crate::types::{Access, Actor, ClientId, OpenId, OpenRef, ResourceId, ShareMode};

/// See the module's head. A handle, cheap to clone.
#[derive(Clone)]
pub struct LocalLocks {
    shards: Arc<Shards>,
}

impl LocalLocks {
    /// A service with its own shards. Spawn [`LockService::run_timers`] once.
    #[must_use]
    pub fn new(options: LockOptions, clock: Arc<dyn Clock>) -> Self {
        let options = TableOptions {
            break_timeout: options.break_timeout,
            poll_lapse: options.poll_lapse,
            waiters_max: options.waiters_max,
            ranges_max: options.ranges_max,
            opens_max: options.opens_max,
        };
        Self {
            shards: Arc::new(Shards::new(options, clock)),
        }
    }

    /// Carries out what is due now; for runtimes and tests that own the time.
    pub fn tick(&self) {
        self.shards.tick();
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<(), Denial> {
        match self.shards.start(ask, None) {
            Started::Done(result) => result.map(|_| ()),
            Started::Wait(wait) => wait.answer().await.map(|_| ()),
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
        if let Some(lease) = lease {
            self.shards.leases.enter(lease, request.resource)?;
        }
        let result = match self.shards.start(Ask::Open(&request), lease) {
            Started::Done(result) => result,
            Started::Wait(wait) => wait.answer().await,
        };
        match result {
            Ok(Granted::Opened(opened)) => Ok(opened),
            Ok(Granted::Done) => Err(Denial::NoSuchOpen),
            Err(denial) => {
                if let Some(lease) = lease {
                    self.shards.leases.leave(lease);
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
        let (resource, key, state) = match ack {
            BreakAck::Oplock { open, state } => (open.resource, GrantKey::Oplock(open.id), state),
            BreakAck::Lease {
                lease,
                resource,
                state,
            } => (resource, GrantKey::Lease(lease), state),
            BreakAck::Delegation { client, resource } => {
                (resource, GrantKey::Delegation(client), CacheState::NONE)
            }
        };
        self.shards.with(resource.document, |table, now| {
            table.acknowledge(now, resource, key, state)
        })
    }

    fn lease_resource(&self, lease: LeaseId) -> Option<ResourceId> {
        self.shards.leases.resource(lease)
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
        let mut entries = Vec::new();
        if let Some(document) = filter.document {
            self.shards.with(document, |table, now| {
                entries.extend(
                    table
                        .document(document)
                        .into_iter()
                        .flat_map(|d| listing::entries(d, now, filter.client)),
                );
            });
        } else {
            self.shards.for_each(|table, now| {
                let full = filter.limit != 0 && entries.len() >= filter.limit;
                if !full {
                    entries.extend(
                        table
                            .documents()
                            .flat_map(|d| listing::entries(d, now, filter.client)),
                    );
                }
            });
            entries.sort_by_key(|e| e.resource.document);
        }
        if filter.limit != 0 {
            entries.truncate(filter.limit);
        }
        entries
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
