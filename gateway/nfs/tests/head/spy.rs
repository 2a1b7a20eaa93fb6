//! The lock service of one node that lets a test speak to the file layer as a cluster's would.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use sluice_lockmgr::{
    Access, AckError, Actor, BreakAck, ByteRange, CacheSink, CacheState, ClientId, Closed, Denial,
    Entry, IoKind, IoRequest, LeaseId, ListFilter, LocalLocks, LockHost, LockOptions, LockService,
    Member, MemberEpoch, MemberId, MonotonicClock, Note, OpenId, OpenRef, OpenRequest, OpenState,
    Opened, OwnedRangeRequest, RangeHolder, RangeNotLocked, RangeOwner, RangeRequest, ResourceId,
    ShareMode,
};
use tokio::sync::watch;

pub struct SpyLocks {
    locks: LocalLocks,
    host: OnceLock<Arc<dyn LockHost>>,
    /// Requests that took a lock again.
    again: watch::Sender<usize>,
    /// While set, who unlocks is not answered.
    pub hold_unlocks: AtomicBool,
    /// Unlocks carried out.
    unlocked: watch::Sender<usize>,
}

impl SpyLocks {
    pub fn new() -> Arc<Self> {
        let clock = Arc::new(MonotonicClock::default());
        Arc::new(Self {
            locks: LocalLocks::new(LockOptions::default(), clock),
            host: OnceLock::new(),
            again: watch::Sender::default(),
            hold_unlocks: AtomicBool::new(false),
            unlocked: watch::Sender::default(),
        })
    }

    /// Returns once somebody was refused who took a lock again, and asks again.
    pub async fn until_asked_again(&self) {
        let mut again = self.again.subscribe();
        again.wait_for(|n| *n > 1).await.expect("this keeps it");
    }

    /// How often somebody asked who took a lock again.
    pub fn asked_again(&self) -> usize {
        *self.again.borrow()
    }

    /// Returns once something was unlocked.
    pub async fn until_unlocked(&self) {
        let mut unlocked = self.unlocked.subscribe();
        unlocked.wait_for(|n| *n > 0).await.expect("this keeps it");
    }

    /// There are no other nodes.
    pub fn be_alone(&self) {
        self.host.get().expect("attached").members(&[]);
    }

    /// A node was there once, and is gone.
    pub fn hear_of_former(&self, number: u32) {
        let former = Member {
            id: MemberId(number),
            epoch: MemberEpoch(1),
        };
        self.host.get().expect("attached").left(&[former]);
    }

    /// The node may not act, or may again.
    pub async fn freeze(&self, frozen: bool) {
        self.host.get().expect("attached").frozen(frozen).await;
    }

    /// What the node's clients have on a document was taken away by force.
    pub async fn take_by_force(&self, document: u64) {
        for entry in self.locks.explain(document).await {
            self.locks.force_release(OpenId(entry.id)).await;
        }
        self.host.get().expect("attached").revoked(document);
    }
}

macro_rules! forward {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl LockService for SpyLocks {
            $(async fn $name(&self, $($arg: $type),*) -> $answer {
                self.locks.$name($($arg),*).await
            })*

            fn attach(&self, host: Arc<dyn LockHost>) {
                assert!(self.host.set(host).is_ok(), "one file layer");
            }
            fn stop(&self) {
                self.locks.stop();
            }
            fn keep_for_reclaim(&self, node: &str, documents: &[u64], keep: Duration) {
                self.locks.keep_for_reclaim(node, documents, keep);
            }
            async fn lock_owned(&self, request: OwnedRangeRequest) -> Result<(), Denial> {
                self.again.send_modify(|n| *n += usize::from(request.reclaim));
                self.locks.lock_owned(request).await
            }
            async fn unlock_owned(
                &self,
                resource: ResourceId,
                client: ClientId,
                owner: RangeOwner,
                range: ByteRange,
            ) {
                self.locks.unlock_owned(resource, client, owner, range).await;
                self.unlocked.send_modify(|n| *n += 1);
                while self.hold_unlocks.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            fn try_close(&self, open: OpenRef) -> Option<Closed> {
                self.locks.try_close(open)
            }
            fn try_io(&self, open: OpenRef, kind: IoKind) -> Option<Result<(), Denial>> {
                self.locks.try_io(open, kind)
            }
            fn lease_resource(&self, lease: LeaseId) -> Option<ResourceId> {
                self.locks.lease_resource(lease)
            }
            fn residence(&self, document: u64) -> Option<u64> {
                self.locks.residence(document)
            }
            fn announce(&self, note: Note) {
                self.locks.announce(note);
            }
        }
    };
}

forward! {
    run_timers() -> ();
    open(request: OpenRequest) -> Result<Opened, Denial>;
    close(open: OpenRef) -> Closed;
    close_deleting(open: OpenRef) -> Closed;
    deleted(resource: ResourceId) -> ();
    reshare(open: OpenRef, access: Access, share: ShareMode) -> Result<(), Denial>;
    set_delete_pending(open: OpenRef, pending: bool) -> Result<(), Denial>;
    state(open: OpenRef) -> Option<OpenState>;
    disconnect(open: OpenRef, keep: Duration) -> Result<(), Denial>;
    reclaim(open: OpenRef, actor: Actor, sink: Option<Arc<dyn CacheSink>>) -> Result<Opened, Denial>;
    io(open: OpenRef, kind: IoKind) -> Result<(), Denial>;
    io_without_open(request: IoRequest) -> Result<(), Denial>;
    release_place(resource: ResourceId, client: ClientId) -> ();
    break_caches_before_move(resource: ResourceId, actor: &Actor, open: Option<OpenRef>) -> Result<(), Denial>;
    lock(request: RangeRequest) -> Result<(), Denial>;
    unlock(open: OpenRef, range: ByteRange) -> Result<(), RangeNotLocked>;
    unlock_all_owned(resource: ResourceId, client: ClientId, owner: Option<RangeOwner>) -> ();
    test_owned(request: &OwnedRangeRequest) -> Option<RangeHolder>;
    acknowledge_break(ack: BreakAck) -> Result<CacheState, AckError>;
    force_release(id: OpenId) -> bool;
    list(filter: &ListFilter) -> Vec<Entry>;
    fence(document: u64) -> Result<u64, Denial>;
    settle(documents: &[u64]) -> bool;
    announce_all(note: Note) -> ();
}
