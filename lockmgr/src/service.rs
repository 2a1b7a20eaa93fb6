//! The async service around the lock table: what vfs calls.
//!
//! Sharded by document id; each shard is one mutex around one lock table (no global lock, no guard across an await).

use std::sync::Arc;
use std::time::Duration;

use crate::cache_grant::CacheState;
use crate::outcome::{
    AckError, Closed, Denial, Entry, OpenState, Opened, RangeHolder, RangeNotLocked,
};
use crate::range::ByteRange;
use crate::request::{
    BreakAck, IoKind, IoRequest, OpenRequest, OwnedRangeRequest, RangeOwner, RangeRequest,
};
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
    clock: Arc<dyn Clock>,
}

impl LockService {
    /// A service with its own shards. Call [`LockService::run_timers`] in a task once.
    #[must_use]
    pub fn new(_options: LockOptions, clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    /// Runs break timers, wait deadlines and idle places until the service stops. Spawn it once.
    pub async fn run_timers(&self) {}

    /// Carries out what is due now; for runtimes and tests that own the time.
    pub fn tick(&self) {
        let _ = self.clock.now();
    }

    /// Refuses new waits and ends all waits with [`Denial::Stopping`].
    pub fn stop(&self) {}

    /// Opens: calls caches back, checks share modes, waits as the policy says. Dropping the future gives up the wait;
    /// an open granted meanwhile is closed again.
    ///
    /// # Errors
    /// [`Denial`] names what stands in the way.
    pub async fn open(&self, _request: OpenRequest) -> Result<Opened, Denial> {
        Err(Denial::Stopping)
    }

    /// Closes an open: ends its ranges and its cache, wakes waiters. An unknown open is no error.
    pub fn close(&self, _open: OpenRef) -> Closed {
        Closed::default()
    }

    /// Changes access and share mode of an open (NFSv4 OPEN upgrade, OPEN_DOWNGRADE); never waits for share modes.
    ///
    /// # Errors
    /// [`Denial::Conflict`] if others stand in the way of the wider open; nothing has changed then.
    pub async fn reshare(
        &self,
        _open: OpenRef,
        _access: Access,
        _share: ShareMode,
    ) -> Result<(), Denial> {
        Err(Denial::Stopping)
    }

    /// I/O by an open: meets mandatory ranges of others, calls back what others cache. Share modes were settled at open.
    /// Refuses at once on a range; waits only for caches. Does not allocate when nobody else is there.
    ///
    /// # Errors
    /// [`Denial::Conflict`] with a range; [`Denial::NoSuchOpen`] if it was revoked.
    pub async fn io(&self, _open: OpenRef, _kind: IoKind) -> Result<(), Denial> {
        Err(Denial::Stopping)
    }

    /// The part of [`LockService::io`] that needs no wait: `None` means call `io` and wait.
    pub fn try_io(&self, _open: OpenRef, _kind: IoKind) -> Option<Result<(), Denial>> {
        None
    }

    /// I/O without an open, checked like an open of that moment; takes or keeps the writer's place.
    ///
    /// # Errors
    /// [`Denial::Conflict`], or [`Denial::Retry`] under [`crate::OnConflict::Poll`].
    pub async fn io_without_open(&self, _request: IoRequest) -> Result<(), Denial> {
        Err(Denial::Stopping)
    }

    /// Gives up this client's writer's place, if it has one (its COMMIT, then work on another document).
    pub fn release_place(&self, _resource: ResourceId, _client: ClientId) {}

    /// Calls back what others cache of a document before it is deleted or renamed, and waits for it. `open` is excepted.
    ///
    /// # Errors
    /// [`Denial`] if the wait ends otherwise.
    pub async fn break_caches_before_move(
        &self,
        _resource: ResourceId,
        _actor: &Actor,
        _open: Option<OpenRef>,
    ) -> Result<(), Denial> {
        Err(Denial::Stopping)
    }

    /// SMB LOCK: all ranges or none.
    ///
    /// # Errors
    /// [`Denial`] names the range's holder.
    pub async fn lock(&self, _request: RangeRequest) -> Result<(), Denial> {
        Err(Denial::Stopping)
    }

    /// SMB unlock of one range that the open has locked exactly so.
    ///
    /// # Errors
    /// [`RangeNotLocked`].
    pub fn unlock(&self, _open: OpenRef, _range: ByteRange) -> Result<(), RangeNotLocked> {
        Err(RangeNotLocked)
    }

    /// NLM LOCK, NFSv4 LOCK: POSIX rules; counts as an open of its owner.
    ///
    /// # Errors
    /// [`Denial`] names the holder.
    pub async fn lock_owned(&self, _request: OwnedRangeRequest) -> Result<(), Denial> {
        Err(Denial::Stopping)
    }

    /// NLM UNLOCK, NFSv4 LOCKU: splits what it meets; never fails.
    pub fn unlock_owned(
        &self,
        _resource: ResourceId,
        _client: ClientId,
        _owner: RangeOwner,
        _range: ByteRange,
    ) {
    }

    /// Frees all ranges of one owner (`Some`) or of the whole client on a resource (NLM FREE_ALL, RELEASE_LOCKOWNER).
    pub fn unlock_all_owned(
        &self,
        _resource: ResourceId,
        _client: ClientId,
        _owner: Option<RangeOwner>,
    ) {
    }

    /// NLM TEST, NFSv4 LOCKT: who stands in the way, if anybody.
    pub fn test_owned(&self, _request: &OwnedRangeRequest) -> Option<RangeHolder> {
        None
    }

    /// Marks (or unmarks) the open's document, or its named stream, for deletion at its last close. Call
    /// [`LockService::break_caches_before_move`] first. The open needs delete access; the caller has checked that.
    ///
    /// # Errors
    /// [`Denial::NoSuchOpen`].
    pub fn set_delete_pending(&self, _open: OpenRef, _pending: bool) -> Result<(), Denial> {
        Err(Denial::Stopping)
    }

    /// A holder's answer to a break. Gives the rights that stay.
    ///
    /// # Errors
    /// [`AckError`], see MS-SMB2 3.3.5.22.
    pub fn acknowledge_break(&self, _ack: BreakAck) -> Result<CacheState, AckError> {
        Err(AckError::NoSuchGrant)
    }

    /// State of an open, if it exists.
    pub fn state(&self, _open: OpenRef) -> Option<OpenState> {
        None
    }

    /// The connection of a durable open is lost: keep it for this long. Its cache can't be called back any more, so a
    /// conflict revokes it.
    ///
    /// # Errors
    /// [`Denial::NoSuchOpen`].
    pub fn disconnect(&self, _open: OpenRef, _keep: Duration) -> Result<(), Denial> {
        Err(Denial::Stopping)
    }

    /// The client of a disconnected open is back (durable reconnect).
    ///
    /// # Errors
    /// [`Denial::NoSuchOpen`] if it was revoked meanwhile.
    pub fn reclaim(
        &self,
        _open: OpenRef,
        _actor: Actor,
        _sink: Option<Arc<dyn crate::cache_grant::CacheSink>>,
    ) -> Result<Opened, Denial> {
        Err(Denial::Stopping)
    }

    /// `locks break`: revokes an open, a place or a range by its listing id. False if there is none.
    pub fn force_release(&self, _id: OpenId) -> bool {
        false
    }

    /// Everything that matches, in order of document and age.
    pub fn list(&self, _filter: &ListFilter) -> Vec<Entry> {
        Vec::new()
    }

    /// Everything about one document: opens, ranges, caches, and the line of waiters in its order.
    pub fn explain(&self, document: u64) -> Vec<Entry> {
        self.list(&ListFilter {
            document: Some(document),
            ..ListFilter::default()
        })
    }
}
