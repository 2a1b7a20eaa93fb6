//! The async service around the lock table: what vfs calls.
//!
//! Sharded by document: each shard is one mutex around one table and the callers that wait in it. There is no global
//! lock, no lock is held across an await, and a request that nobody stands in the way of never waits for a task.
//! Order of locks: shard, then lease registry or outbox; never the other way round.

use std::sync::Arc;
use std::time::Duration;

use crate::cache_grant::{CacheSink, CacheState, GrantKey};
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
use crate::shards::{Shards, Started};
use crate::table::TableOptions;
use crate::types::{Access, Actor, ClientId, Now, OpenId, OpenRef, ResourceId, ShareMode};

/// Where the service reads the time; monotonic.
pub trait Clock: Send + Sync {
    /// The moment.
    fn now(&self) -> Now;
}

/// Time since the service was made.
#[derive(Debug)]
pub struct MonotonicClock(std::time::Instant);

impl Default for MonotonicClock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Now {
        Now::default().after(self.0.elapsed())
    }
}

/// Limits and times of the lock table.
#[derive(Clone, Copy, Debug)]
pub struct LockOptions {
    /// How long a holder may take to answer a break. Windows: 35 s.
    pub break_timeout: Duration,
    /// How long a client that was told to retry keeps its place in line without retrying.
    pub poll_lapse: Duration,
    /// Most waiting requests of one document.
    pub waiters_max: usize,
    /// Most byte ranges of one document.
    pub ranges_max: usize,
    /// Most opens of one document.
    pub opens_max: usize,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self {
            break_timeout: Duration::from_secs(35),
            poll_lapse: Duration::from_secs(5),
            waiters_max: 10_000,
            ranges_max: 100_000,
            opens_max: 100_000,
        }
    }
}

/// What `locks list` shows.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only this document.
    pub document: Option<u64>,
    /// Only this client.
    pub client: Option<ClientId>,
    /// At most so many entries; 0 means no limit.
    pub limit: usize,
}

/// Handle to the service; cheap to clone.
#[derive(Clone)]
pub struct LockService {
    shards: Arc<Shards>,
}

impl LockService {
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

    /// Runs break timers, wait deadlines and idle places until [`LockService::stop`]. Spawn it once.
    pub async fn run_timers(&self) {
        while !self.shards.is_stopping() {
            self.shards.sleep_until_due().await;
            self.shards.tick();
        }
    }

    /// Carries out what is due now; for runtimes and tests that own the time.
    pub fn tick(&self) {
        self.shards.tick();
    }

    /// Ends all waits, and new ones, with [`Denial::Stopping`].
    pub fn stop(&self) {
        self.shards.stop();
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<(), Denial> {
        match self.shards.start(ask, None) {
            Started::Done(result) => result.map(|_| ()),
            Started::Wait(wait) => wait.answer().await.map(|_| ()),
        }
    }

    /// Opens: calls caches back, checks share modes, waits as the policy says. Dropping the future gives up the wait;
    /// an open granted meanwhile is closed again.
    ///
    /// # Errors
    /// [`Denial`] names what stands in the way.
    pub async fn open(&self, request: OpenRequest) -> Result<Opened, Denial> {
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

    /// Closes an open: ends its ranges and its cache, wakes waiters. An unknown open is no error. If the answer names
    /// something to delete, delete it and then call [`LockService::deleted`]; until then nobody can open it.
    pub fn close(&self, open: OpenRef) -> Closed {
        self.shards.with(open.resource.document, |table, now| {
            table.close(now, open, false)
        })
    }

    /// Closes an open that was made with "delete on close": marks its document or stream for deletion first.
    pub fn close_deleting(&self, open: OpenRef) -> Closed {
        self.shards.with(open.resource.document, |table, now| {
            table.close(now, open, true)
        })
    }

    /// The deletion that a close asked for is done, or has failed: the mark goes, waiters look again.
    pub fn deleted(&self, resource: ResourceId) {
        self.shards
            .with(resource.document, |table, now| table.deleted(now, resource));
    }

    /// Changes access and share mode of an open (NFSv4 OPEN upgrade, OPEN_DOWNGRADE); never waits.
    ///
    /// # Errors
    /// [`Denial::Conflict`] if others stand in the way of the wider open; nothing has changed then.
    pub fn reshare(&self, open: OpenRef, access: Access, share: ShareMode) -> Result<(), Denial> {
        self.shards.with(open.resource.document, |table, now| {
            table.reshare(now, open, access, share)
        })
    }

    /// I/O by an open: meets mandatory ranges of others, calls back what others cache. Share modes were settled at open.
    /// Refuses at once on a range; waits only for caches. Does not allocate when nobody else is there.
    ///
    /// # Errors
    /// [`Denial::Conflict`] with a range; [`Denial::NoSuchOpen`] if it was revoked.
    pub async fn io(&self, open: OpenRef, kind: IoKind) -> Result<(), Denial> {
        self.ask(Ask::OpenIo { open, kind }).await
    }

    /// The part of [`LockService::io`] that needs no wait: `None` means call `io` and wait.
    pub fn try_io(&self, open: OpenRef, kind: IoKind) -> Option<Result<(), Denial>> {
        self.shards.with(open.resource.document, |table, now| {
            table.request_no_wait(now, Ask::OpenIo { open, kind })
        })
    }

    /// I/O without an open, checked like an open of that moment; takes or keeps the writer's place.
    ///
    /// # Errors
    /// [`Denial::Conflict`], or [`Denial::Retry`] under [`crate::OnConflict::Poll`].
    pub async fn io_without_open(&self, request: IoRequest) -> Result<(), Denial> {
        self.ask(Ask::Io(&request)).await
    }

    /// Gives up this client's writer's place, if it has one (its COMMIT, then work on another document).
    pub fn release_place(&self, resource: ResourceId, client: ClientId) {
        self.shards.with(resource.document, |table, now| {
            table.release_place(now, resource, client)
        });
    }

    /// Calls back what others cache of a document before it is deleted or renamed, and waits for it. `open` is excepted.
    ///
    /// # Errors
    /// [`Denial`] if the wait ends otherwise.
    pub async fn break_caches_before_move(
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

    /// SMB LOCK: all ranges or none. A request for several ranges must not wait (MS-SMB2 3.3.5.14).
    ///
    /// # Errors
    /// [`Denial`] names the range's holder.
    pub async fn lock(&self, request: RangeRequest) -> Result<(), Denial> {
        self.ask(Ask::Ranges(&request)).await
    }

    /// SMB unlock of one range that the open has locked exactly so.
    ///
    /// # Errors
    /// [`RangeNotLocked`].
    pub fn unlock(&self, open: OpenRef, range: ByteRange) -> Result<(), RangeNotLocked> {
        self.shards.with(open.resource.document, |table, now| {
            table.unlock(now, open, range)
        })
    }

    /// NLM LOCK, NFSv4 LOCK: POSIX rules; counts as an open of its owner.
    ///
    /// # Errors
    /// [`Denial`] names the holder.
    pub async fn lock_owned(&self, request: OwnedRangeRequest) -> Result<(), Denial> {
        self.ask(Ask::OwnedRange(&request)).await
    }

    /// NLM UNLOCK, NFSv4 LOCKU: splits what it meets; never fails.
    pub fn unlock_owned(
        &self,
        resource: ResourceId,
        client: ClientId,
        owner: RangeOwner,
        range: ByteRange,
    ) {
        let free = |table: &mut crate::table::LockTable, now| {
            table.unlock_owned(now, resource, client, Some(owner), range)
        };
        self.shards.with(resource.document, free);
    }

    /// Frees all ranges of one owner (`Some`) or of the whole client on a resource (NLM FREE_ALL, RELEASE_LOCKOWNER).
    pub fn unlock_all_owned(
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

    /// NLM TEST, NFSv4 LOCKT: who stands in the way, if anybody.
    pub fn test_owned(&self, request: &OwnedRangeRequest) -> Option<RangeHolder> {
        self.shards.with(request.resource.document, |table, _| {
            table.test_owned(request)
        })
    }

    /// Marks (or unmarks) the open's document, or its named stream, for deletion at its last close. Call
    /// [`LockService::break_caches_before_move`] first. The open needs delete access; the caller has checked that.
    ///
    /// # Errors
    /// [`Denial::NoSuchOpen`].
    pub fn set_delete_pending(&self, open: OpenRef, pending: bool) -> Result<(), Denial> {
        self.shards.with(open.resource.document, |table, now| {
            table.set_delete_pending(now, open, pending)
        })
    }

    /// A holder's answer to a break. Gives the rights that stay.
    ///
    /// # Errors
    /// [`AckError`], see MS-SMB2 3.3.5.22.
    pub fn acknowledge_break(&self, ack: BreakAck) -> Result<CacheState, AckError> {
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

    /// Which resource a lease is on, for an answer that names only its key.
    pub fn lease_resource(&self, lease: crate::cache_grant::LeaseId) -> Option<ResourceId> {
        self.shards.leases.resource(lease)
    }

    /// State of an open, if it exists.
    pub fn state(&self, open: OpenRef) -> Option<OpenState> {
        self.shards
            .with(open.resource.document, |table, _| table.state(open))
    }

    /// The connection of a durable open is lost: keep it for this long. Its cache can't be called back any more, so a
    /// conflict revokes it.
    ///
    /// # Errors
    /// [`Denial::NoSuchOpen`].
    pub fn disconnect(&self, open: OpenRef, keep: Duration) -> Result<(), Denial> {
        self.shards.with(open.resource.document, |table, now| {
            table.disconnect(now, open, keep)
        })
    }

    /// The client of a disconnected open is back (durable reconnect).
    ///
    /// # Errors
    /// [`Denial::NoSuchOpen`] if it was revoked meanwhile.
    pub fn reclaim(
        &self,
        open: OpenRef,
        actor: Actor,
        sink: Option<Arc<dyn CacheSink>>,
    ) -> Result<Opened, Denial> {
        self.shards.with(open.resource.document, |table, now| {
            table.reclaim(now, open, actor, sink)
        })
    }

    /// `locks break`: revokes an open, a place, the ranges of an owner, or a waiter by its listing id. False if there
    /// is none.
    pub fn force_release(&self, id: OpenId) -> bool {
        self.shards
            .with_shard_of_id(id.0, |table, now| table.force_release(now, id.0))
    }

    /// Everything that matches, in order of document and age.
    pub fn list(&self, filter: &ListFilter) -> Vec<Entry> {
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

    /// Everything about one document: opens, ranges, caches, and the line of waiters in its order.
    pub fn explain(&self, document: u64) -> Vec<Entry> {
        self.list(&ListFilter {
            document: Some(document),
            ..ListFilter::default()
        })
    }
}
