//! [`LockService`] as a cluster keeps it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use sluice_lockmgr::{
    Access, AckError, Actor, BreakAck, ByteRange, CacheSink, CacheState, ClientId, Closed, Denial,
    Entry, IoKind, IoRequest, LeaseId, ListFilter, LockHost, LockService, Note, Op, OpAnswer,
    OpenId, OpenRef, OpenRequest, OpenState, Opened, OwnedRangeRequest, RangeHolder,
    RangeNotLocked, RangeOwner, RangeRequest, Residence, ResourceId, ShardEpoch, ShareMode,
};

use super::ClusterLocks;
use super::message::{Call, PeerMessage, Reply};
use sluice_lockmgr::{Begun, NotHere};

/// How often the machines' timers are looked at.
const TIMER_LOOK: Duration = Duration::from_millis(50);
/// How often pings are looked for while copies are read.
const PING_LOOK: Duration = Duration::from_millis(5);

impl ClusterLocks {
    async fn call(&self, op: Op) -> OpAnswer {
        self.inner.call(op).await
    }
}

#[async_trait]
impl LockService for ClusterLocks {
    fn attach(&self, host: Arc<dyn LockHost>) {
        // A second one would be a mistake of composition; the first one stays.
        let _ = self.inner.host.set(host);
        self.inner.tell_host_members();
        self.inner.tell_host_left();
    }

    async fn run_timers(&self) {
        let tables = self.inner.locks.clone();
        let machines = async {
            while !self.inner.is_stopping() {
                tokio::select! {
                    () = tokio::time::sleep(TIMER_LOOK) => {}
                    () = self.inner.woken.notified() => {}
                }
                self.inner.tick();
            }
        };
        let pings = async {
            while !self.inner.is_stopping() {
                let pause = match self.inner.ears.are_wanted() {
                    true => PING_LOOK,
                    false => TIMER_LOOK,
                };
                tokio::time::sleep(pause).await;
                self.inner.send_pings();
            }
        };
        let silent = async {
            while !self.inner.is_stopping() {
                let next = self.inner.watch.next_look().unwrap_or(TIMER_LOOK);
                let pause = next.min(TIMER_LOOK);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.inner.watch.woken.notified() => {}
                }
                self.inner.look_for_the_silent();
                self.inner.tick();
            }
        };
        tokio::join!(tables.run_timers(), machines, pings, silent);
    }

    fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.locks.stop();
        self.inner.asking.lock().clear();
        self.inner.asserted.notify_waiters();
        self.inner.woken.notify_waiters();
    }

    // ---- opens ----

    async fn open(&self, request: OpenRequest) -> Result<Opened, Denial> {
        let op = Op::open(request);
        let Some((lease, resource)) = op.lease() else {
            return self.call(op).await.opened();
        };
        let ticket = self.inner.locks.ticket(op.document());
        let in_use = self.inner.locks.enter_lease(lease, resource, ticket)?;
        let result = self.inner.call_by(op, ticket).await.opened();
        if result.is_ok() {
            in_use.keep();
        }
        result
    }

    async fn close(&self, open: OpenRef) -> Closed {
        let deleting = false;
        self.call(Op::Close { open, deleting }).await.closed()
    }

    fn try_close(&self, open: OpenRef) -> Option<Closed> {
        if !self.inner.peers.may_act() {
            return None;
        }
        let deleting = false;
        match self.inner.locks.begin(&Op::Close { open, deleting }, None) {
            Ok(Begun::Done(answer)) => Some(answer.closed()),
            Ok(Begun::Waiting(_)) | Err(NotHere { .. }) => None,
        }
    }

    async fn close_deleting(&self, open: OpenRef) -> Closed {
        let deleting = true;
        self.call(Op::Close { open, deleting }).await.closed()
    }

    async fn deleted(&self, resource: ResourceId) {
        self.call(Op::Deleted(resource)).await;
    }

    async fn reshare(&self, open: OpenRef, access: Access, share: ShareMode) -> Result<(), Denial> {
        let op = Op::Reshare {
            open,
            access,
            share,
        };
        self.call(op).await.done()
    }

    async fn set_delete_pending(&self, open: OpenRef, pending: bool) -> Result<(), Denial> {
        self.call(Op::SetDeletePending { open, pending })
            .await
            .done()
    }

    async fn state(&self, open: OpenRef) -> Option<OpenState> {
        self.call(Op::State(open)).await.state()
    }

    async fn disconnect(&self, open: OpenRef, keep: Duration) -> Result<(), Denial> {
        self.call(Op::Disconnect { open, keep }).await.done()
    }

    async fn reclaim(
        &self,
        open: OpenRef,
        actor: Actor,
        sink: Option<Arc<dyn CacheSink>>,
    ) -> Result<Opened, Denial> {
        self.call(Op::reclaim(open, actor, sink)).await.opened()
    }

    // ---- I/O ----

    async fn io(&self, open: OpenRef, kind: IoKind) -> Result<(), Denial> {
        self.call(Op::Io { open, kind }).await.done()
    }

    fn try_io(&self, open: OpenRef, kind: IoKind) -> Option<Result<(), Denial>> {
        if !self.inner.peers.may_act() {
            return None;
        }
        self.inner.locks.try_io(open, kind).ok().flatten()
    }

    async fn io_without_open(&self, request: IoRequest) -> Result<(), Denial> {
        self.call(Op::IoWithoutOpen(Box::new(request))).await.done()
    }

    async fn release_place(&self, resource: ResourceId, client: ClientId) {
        self.call(Op::ReleasePlace { resource, client }).await;
    }

    async fn break_caches_before_move(
        &self,
        resource: ResourceId,
        actor: &Actor,
        open: Option<OpenRef>,
    ) -> Result<(), Denial> {
        let op = Op::BreakCachesBeforeMove {
            resource,
            actor: actor.clone(),
            open,
        };
        self.call(op).await.done()
    }

    // ---- byte ranges ----

    async fn lock(&self, request: RangeRequest) -> Result<(), Denial> {
        self.call(Op::Lock(request)).await.done()
    }

    async fn unlock(&self, open: OpenRef, range: ByteRange) -> Result<(), RangeNotLocked> {
        self.call(Op::Unlock { open, range }).await.unlocked()
    }

    async fn lock_owned(&self, request: OwnedRangeRequest) -> Result<(), Denial> {
        self.call(Op::LockOwned(Box::new(request))).await.done()
    }

    async fn unlock_owned(
        &self,
        resource: ResourceId,
        client: ClientId,
        owner: RangeOwner,
        range: ByteRange,
    ) {
        let op = Op::UnlockOwned {
            resource,
            client,
            owner: Some(owner),
            range,
        };
        self.call(op).await;
    }

    async fn unlock_all_owned(
        &self,
        resource: ResourceId,
        client: ClientId,
        owner: Option<RangeOwner>,
    ) {
        let op = Op::UnlockOwned {
            resource,
            client,
            owner,
            range: ByteRange::WHOLE,
        };
        self.call(op).await;
    }

    async fn test_owned(&self, request: &OwnedRangeRequest) -> Option<RangeHolder> {
        let op = Op::TestOwned(Box::new(request.clone()));
        self.call(op).await.tested()
    }

    // ---- caches ----

    async fn acknowledge_break(&self, ack: BreakAck) -> Result<CacheState, AckError> {
        self.call(Op::AcknowledgeBreak(ack)).await.acknowledged()
    }

    fn lease_resource(&self, lease: LeaseId) -> Option<ResourceId> {
        self.inner.locks.lease_resource(lease)
    }

    // ---- people ----

    async fn force_release(&self, id: OpenId) -> bool {
        if self.inner.locks.force_release(id) {
            return true;
        }
        for member in self.inner.others() {
            let answer = self.inner.question(member, Call::ForceRelease(id)).await;
            if let Some(Reply::Done(true)) = answer {
                return true;
            }
        }
        false
    }

    async fn list(&self, filter: &ListFilter) -> Vec<Entry> {
        self.inner.list_everywhere(filter).await
    }

    async fn explain(&self, document: u64) -> Vec<Entry> {
        self.call(Op::Explain(document)).await.entries()
    }

    // ---- other nodes ----

    fn residence(&self, document: u64) -> Option<u64> {
        match self.inner.locks.residence(document)? {
            Residence::Alone(term) if self.inner.peers.may_act() => Some(term),
            Residence::Alone(_) | Residence::Shared => None,
        }
    }

    async fn fence(&self, document: u64) -> Result<u64, Denial> {
        loop {
            let asserted = self.inner.asserted.notified();
            tokio::pin!(asserted);
            // Counted among those who wait before it is looked, so that nothing is missed.
            asserted.as_mut().enable();
            if self.inner.is_lost() {
                return Err(Denial::NodeLost);
            }
            if self.inner.is_stopping() {
                return Err(Denial::Stopping);
            }
            let fence = self
                .inner
                .machines
                .look(document, |machine| machine.fence(document));
            match fence {
                Some(fence) => {
                    if ShardEpoch::of_fence(fence).fence() != fence {
                        // Raised by force, perhaps because this node's right was taken away: the file layer hears that first.
                        self.inner
                            .machines
                            .wait_delivered(self.inner.machines.of(document));
                    }
                    return Ok(fence);
                }
                None => asserted.await,
            }
        }
    }

    async fn settle(&self, documents: &[u64]) -> bool {
        self.inner.settle_all(documents).await
    }

    fn may_read_copies(&self) -> bool {
        self.inner.peers.may_act() && self.inner.ears.are_fresh()
    }

    fn announce(&self, note: Note) {
        for member in self.inner.others() {
            self.inner.send(member, &PeerMessage::Note(note.clone()));
        }
    }

    async fn announce_to_readers(&self, note: Note) {
        let told = self.inner.others().into_iter().map(|member| {
            let (inner, note) = (Arc::clone(&self.inner), note.clone());
            self.inner
                .runtime
                .spawn(async move { inner.tell_reader(member, note).await })
        });
        for task in told.collect::<Vec<_>>() {
            let _ = task.await;
        }
    }

    async fn announce_all(&self, note: Note) {
        let asked = self.inner.others().into_iter().map(|member| {
            let (inner, note) = (Arc::clone(&self.inner), note.clone());
            self.inner
                .runtime
                .spawn(async move { inner.question(member, Call::Note(note)).await })
        });
        for task in asked.collect::<Vec<_>>() {
            // A node that can't be asked is no member any more.
            let _ = task.await;
        }
    }
}
