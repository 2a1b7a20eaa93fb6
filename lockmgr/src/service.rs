//! The lock service that the file layer calls: one trait, whether one node decides alone or a cluster together.
//!
//! Owns the calls, their promises and the options. [`crate::LocalLocks`] keeps the promises on one node; in a cluster
//! another implementation asks whichever node decides about a document. Calls that one task makes on one document take
//! effect in the order in which it awaited them. Nothing here decides a conflict.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::cache_grant::{CacheSink, CacheState, LeaseId};
use crate::epoch::Member;
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ListFilter {
    /// Only this document.
    pub document: Option<u64>,
    /// Only this client.
    pub client: Option<ClientId>,
    /// At most so many entries; 0 means no limit.
    pub limit: usize,
}

/// Something that every live node should hear of. The bytes are the file layer's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// Users, shares or policies have changed: read them again.
    RecordsChanged,
    /// Entries of folders or contents have changed: for those who watch them.
    Changed {
        /// What, in the file layer's form.
        bytes: Vec<u8>,
    },
    /// Documents lost their last name while somebody may have them open.
    Orphans {
        /// Which, in the file layer's form.
        bytes: Vec<u8>,
    },
    /// Metadata is about to change, or has changed: for those who cache it.
    Metadata {
        /// What, in the file layer's form.
        bytes: Vec<u8>,
    },
}

/// The file layer, as the lock service calls it back. [`crate::LocalLocks`] never does: it has nobody to share with.
#[async_trait]
pub trait LockHost: Send + Sync {
    /// Another node is about to act on the document: commit what is uncommitted. [`LockService::residence`] gives
    /// `None` for it already.
    async fn surrender(&self, document: u64);
    /// This node's right on the document was taken away by force: what is uncommitted is never to be committed, and whoever wrote
    /// it is to be told. No fence that came after the loss is given out before this was called. Must not block.
    fn revoked(&self, document: u64);
    /// Commit what is uncommitted, and keep going. Gives whether there was something.
    async fn settle(&self, document: u64) -> bool;
    /// The other live nodes. First called when all that were live when this node began are known, and again whenever
    /// somebody comes or goes; nothing that a node did, and no note of it, comes after it is missing here. Must not block.
    fn members(&self, others: &[Member]);

    /// The latest former members that are known to have left something that their clients may take again, also those that were
    /// gone before this node came.
    fn left(&self, former: &[Member]);
    /// A note from another node; those of one node come in their order. Must not block; what it asks for may go on after the call.
    fn noted(&self, from: Member, note: Note);
    /// Returns when what the notes so far ask for holds here.
    async fn notes_hold(&self);
    /// Whether the document has acknowledged changes that are not committed.
    fn has_uncommitted(&self, document: u64) -> bool;
    /// The node may not act for now (`true`), or may again: while it may not, nothing cached may be read out.
    async fn frozen(&self, frozen: bool);
}

/// See the module's head.
#[async_trait]
pub trait LockService: Send + Sync {
    // ---- life ----

    /// Names the file layer, once, before the first request.
    fn attach(&self, host: Arc<dyn LockHost>);

    /// Runs break timers, wait deadlines and idle places until [`LockService::stop`]. Spawn it once.
    async fn run_timers(&self);

    /// Ends all waits, and new ones, with [`Denial::Stopping`].
    fn stop(&self);

    /// Keeps documents for those who take NFS locks again that they lost with this node's last run (`node`): until then each
    /// stands as if locked exclusively as a whole by an NFS client. In a cluster the membership says what is kept.
    fn keep_for_reclaim(&self, _node: &str, _documents: &[u64], _keep: Duration) {}

    // ---- opens ----

    /// Opens: calls caches back, checks share modes, waits as the policy says. Dropping the future gives up the wait;
    /// an open granted meanwhile is closed again.
    ///
    /// # Errors
    /// [`Denial`] names what stands in the way.
    async fn open(&self, request: OpenRequest) -> Result<Opened, Denial>;

    /// Closes an open: ends its ranges and its cache, wakes waiters. An unknown open is no error. If the answer names
    /// something to delete, delete it and then call [`LockService::deleted`]; until then nobody can open it.
    async fn close(&self, open: OpenRef) -> Closed;

    /// As [`LockService::close`] where it needs no other node: `None` means nothing has been done, call `close`.
    fn try_close(&self, open: OpenRef) -> Option<Closed>;

    /// Closes an open that was made with "delete on close": marks its document or stream for deletion first.
    async fn close_deleting(&self, open: OpenRef) -> Closed;

    /// The deletion that a close asked for is done, or has failed: the mark goes, waiters look again.
    async fn deleted(&self, resource: ResourceId);

    /// Changes access and share mode of an open (NFSv4 OPEN upgrade, OPEN_DOWNGRADE); never waits for a holder.
    ///
    /// # Errors
    /// [`Denial::Conflict`] if others stand in the way of the wider open; nothing has changed then.
    async fn reshare(&self, open: OpenRef, access: Access, share: ShareMode) -> Result<(), Denial>;

    /// Marks (or unmarks) the open's document, or its named stream, for deletion at its last close. Call
    /// [`LockService::break_caches_before_move`] first. The open needs delete access; the caller has checked that.
    ///
    /// # Errors
    /// [`Denial::NoSuchOpen`].
    async fn set_delete_pending(&self, open: OpenRef, pending: bool) -> Result<(), Denial>;

    /// State of an open, if it exists.
    async fn state(&self, open: OpenRef) -> Option<OpenState>;

    /// The connection of a durable open is lost: keep it for this long. Its cache can't be called back any more, so a
    /// conflict revokes it.
    ///
    /// # Errors
    /// [`Denial::NoSuchOpen`].
    async fn disconnect(&self, open: OpenRef, keep: Duration) -> Result<(), Denial>;

    /// The client of a disconnected open is back (durable reconnect).
    ///
    /// # Errors
    /// [`Denial::NoSuchOpen`] if it was revoked meanwhile.
    async fn reclaim(
        &self,
        open: OpenRef,
        actor: Actor,
        sink: Option<Arc<dyn CacheSink>>,
    ) -> Result<Opened, Denial>;

    // ---- I/O ----

    /// I/O by an open: meets mandatory ranges of others, calls back what others cache. Share modes were settled at open.
    /// Refuses at once on a range; waits only for caches. Does not allocate when nobody else is there.
    ///
    /// # Errors
    /// [`Denial::Conflict`] with a range; [`Denial::NoSuchOpen`] if it was revoked.
    async fn io(&self, open: OpenRef, kind: IoKind) -> Result<(), Denial>;

    /// The part of [`LockService::io`] that needs no wait: `None` means call `io` and wait.
    fn try_io(&self, open: OpenRef, kind: IoKind) -> Option<Result<(), Denial>>;

    /// I/O without an open, checked like an open of that moment; takes or keeps the writer's place.
    ///
    /// # Errors
    /// [`Denial::Conflict`], or [`Denial::Retry`] under [`crate::OnConflict::Poll`].
    async fn io_without_open(&self, request: IoRequest) -> Result<(), Denial>;

    /// Gives up this client's writer's place, if it has one (its COMMIT, then work on another document).
    async fn release_place(&self, resource: ResourceId, client: ClientId);

    /// Calls back what others cache of a document before it is deleted or renamed, and waits for it. `open` is excepted.
    ///
    /// # Errors
    /// [`Denial`] if the wait ends otherwise.
    async fn break_caches_before_move(
        &self,
        resource: ResourceId,
        actor: &Actor,
        open: Option<OpenRef>,
    ) -> Result<(), Denial>;

    // ---- byte ranges ----

    /// SMB LOCK: all ranges or none. A request for several ranges must not wait (MS-SMB2 3.3.5.14).
    ///
    /// # Errors
    /// [`Denial`] names the range's holder.
    async fn lock(&self, request: RangeRequest) -> Result<(), Denial>;

    /// SMB unlock of one range that the open has locked exactly so.
    ///
    /// # Errors
    /// [`RangeNotLocked`].
    async fn unlock(&self, open: OpenRef, range: ByteRange) -> Result<(), RangeNotLocked>;

    /// NLM LOCK, NFSv4 LOCK: POSIX rules; counts as an open of its owner.
    ///
    /// # Errors
    /// [`Denial`] names the holder.
    async fn lock_owned(&self, request: OwnedRangeRequest) -> Result<(), Denial>;

    /// NLM UNLOCK, NFSv4 LOCKU: splits what it meets; never fails.
    async fn unlock_owned(
        &self,
        resource: ResourceId,
        client: ClientId,
        owner: RangeOwner,
        range: ByteRange,
    );

    /// Frees all ranges of one owner (`Some`) or of the whole client on a resource (NLM FREE_ALL, RELEASE_LOCKOWNER).
    async fn unlock_all_owned(
        &self,
        resource: ResourceId,
        client: ClientId,
        owner: Option<RangeOwner>,
    );

    /// NLM TEST, NFSv4 LOCKT: who stands in the way, if anybody.
    async fn test_owned(&self, request: &OwnedRangeRequest) -> Option<RangeHolder>;

    // ---- caches ----

    /// A holder's answer to a break. Gives the rights that stay.
    ///
    /// # Errors
    /// [`AckError`], see MS-SMB2 3.3.5.22.
    async fn acknowledge_break(&self, ack: BreakAck) -> Result<CacheState, AckError>;

    /// Which resource a lease is on, for an answer that names only its key. Leases belong to a client of this node.
    fn lease_resource(&self, lease: LeaseId) -> Option<ResourceId>;

    // ---- people ----

    /// `locks break`: revokes an open, a place, the ranges of an owner, or a waiter by its listing id. False if there
    /// is none.
    async fn force_release(&self, id: OpenId) -> bool;

    /// Everything that matches, in order of document and age; of all nodes.
    async fn list(&self, filter: &ListFilter) -> Vec<Entry>;

    /// Everything about one document: opens, ranges, caches, and the line of waiters in its order.
    async fn explain(&self, document: u64) -> Vec<Entry> {
        self.list(&ListFilter {
            document: Some(document),
            ..ListFilter::default()
        })
        .await
    }

    // ---- other nodes ----

    /// `Some(term)`: this node alone acts on the document's data, since that term; another term means that it could have
    /// been changed elsewhere in between. `None`: shared with other nodes now, or not ours. Cheap.
    fn residence(&self, document: u64) -> Option<u64>;

    /// The epoch under which this node's right on the document holds now; waits through a take-over. It goes with each
    /// commit, so that a node that has lost its right without knowing can't commit. 0 where no other node is.
    ///
    /// # Errors
    /// [`Denial`] if the right is gone for good.
    async fn fence(&self, document: u64) -> Result<u64, Denial>;

    /// Changes that other nodes have acknowledged to their clients but not committed are committed when this returns.
    /// False: there were none, what was read from the repository before is still as it is now.
    async fn settle(&self, documents: &[u64]) -> bool;

    /// Whether what the file layer keeps of things that other nodes may change can be read out now: this node is sure that the
    /// others count it as live, and that it has heard what they told.
    fn may_read_copies(&self) -> bool {
        true
    }

    /// Tells all other live nodes of a change that copies depend on, before it is made: returns when each has taken note, is no
    /// member any more, or may not read copies until it has.
    async fn announce_to_readers(&self, note: Note) {
        self.announce_all(note).await;
    }

    /// Tells all other live nodes, some time soon.
    fn announce(&self, note: Note);

    /// The same, and waits until each has taken note or is no member any more.
    async fn announce_all(&self, note: Note);
}
