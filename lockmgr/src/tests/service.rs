//! The service: waiting callers, giving up, delivery, leases across documents. Time is the test's own.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::actor;
use crate::{
    Access, BreakAck, BreakNotice, ByteRange, CacheRequest, CacheSink, CacheState, Clock, Closed,
    Denial, EntryKind, GrantKey, IoKind, LeaseId, ListFilter, LocalLocks, LockOptions, LockService,
    Now, OnConflict, OpenRef, OpenRequest, OplockLevel, Protocol, ResourceId, RevokeReason,
    ShareMode,
};

#[derive(Default)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Now {
        Now(self.0.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<BreakNotice>>, Mutex<Vec<(OpenRef, Closed)>>);

impl CacheSink for Told {
    fn on_break(&self, notice: &BreakNotice) {
        self.0.lock().push(notice.clone());
    }
    fn on_revoked(&self, open: OpenRef, _: RevokeReason, closed: Closed) {
        self.1.lock().push((open, closed));
    }
    fn on_cache_revoked(&self, _: ResourceId, _: GrantKey, _: RevokeReason) {}
}

fn service() -> (LocalLocks, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    (
        LocalLocks::new(LockOptions::default(), Arc::clone(&clock) as Arc<dyn Clock>),
        clock,
    )
}

fn request(client: u64, document: u64, access: Access, share: ShareMode) -> OpenRequest {
    let mut request = OpenRequest::new(
        ResourceId::main(document),
        actor(Protocol::Smb, client, "u"),
        access,
    );
    request.share = share;
    request
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("must not wait"),
    }
}

fn pending<F: Future>(future: std::pin::Pin<&mut F>) {
    assert!(
        future
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
}

#[test]
fn a_waiting_open_is_granted_when_the_holder_closes() {
    let (locks, _) = service();
    let first =
        now(locks.open(request(1, 5, Access::WRITE, ShareMode::DENY_WRITE))).expect("granted");
    let mut second = request(2, 5, Access::WRITE, ShareMode::DENY_WRITE);
    second.on_conflict = OnConflict::Wait(Some(Duration::from_secs(30)));
    let mut waiting = pin!(locks.open(second));
    pending(waiting.as_mut());
    let kinds: Vec<_> = now(locks.explain(5)).iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [EntryKind::Open, EntryKind::Waiter]);
    assert!(now(locks.close(first.open)).last);
    let second = now(waiting).expect("granted in turn");
    assert!(now(locks.close(second.open)).last);
    assert!(now(locks.list(&ListFilter::default())).is_empty());
}

#[test]
fn a_wait_ends_in_a_refusal_that_names_the_holder() {
    let (locks, clock) = service();
    let first = now(locks.open(request(1, 5, Access::WRITE, ShareMode::NONE))).expect("granted");
    let mut second = request(2, 5, Access::READ, ShareMode::ALL);
    second.on_conflict = OnConflict::Wait(Some(Duration::from_secs(30)));
    let mut waiting = pin!(locks.open(second));
    pending(waiting.as_mut());
    clock.0.store(30_000, Ordering::Relaxed);
    locks.tick();
    match now(waiting) {
        Err(Denial::Conflict(conflict)) => assert_eq!(conflict.open, Some(first.open.id)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn giving_up_a_wait_leaves_nothing_behind() {
    let (locks, _) = service();
    let first = now(locks.open(request(1, 5, Access::WRITE, ShareMode::NONE))).expect("granted");
    let mut second = request(2, 5, Access::READ, ShareMode::ALL);
    second.on_conflict = OnConflict::Wait(None);
    {
        let mut waiting = Box::pin(locks.open(second.clone()));
        pending(waiting.as_mut());
    }
    assert_eq!(now(locks.explain(5)).len(), 1);
    {
        // Granted, but never received: closed again.
        let mut waiting = Box::pin(locks.open(second));
        pending(waiting.as_mut());
        let _ = now(locks.close(first.open));
        assert_eq!(now(locks.explain(5)).len(), 1);
    }
    assert!(now(locks.explain(5)).is_empty());
}

#[test]
fn a_break_is_told_and_its_answer_lets_the_other_in() {
    let (locks, _) = service();
    let told = Arc::new(Told::default());
    let mut first = request(1, 5, Access::READ, ShareMode::ALL);
    first.cache = CacheRequest::Oplock(OplockLevel::Batch);
    first.sink = Some(Arc::clone(&told) as Arc<dyn CacheSink>);
    let first = now(locks.open(first)).expect("granted");
    assert_eq!(first.cache.oplock(), Some(OplockLevel::Batch));
    let mut waiting = pin!(locks.open(request(2, 5, Access::READ, ShareMode::ALL)));
    pending(waiting.as_mut());
    let notice = told.0.lock().pop().expect("told");
    assert_eq!(
        (notice.from, notice.to, notice.ack_required),
        (CacheState::RWH, CacheState::R, true)
    );
    let ack = BreakAck::Oplock {
        open: first.open,
        state: CacheState::R,
    };
    assert_eq!(now(locks.acknowledge_break(ack)), Ok(CacheState::R));
    now(waiting).expect("granted");
    let whole = IoKind::Read(ByteRange::WHOLE);
    assert_eq!(locks.try_io(first.open, whole), Some(Ok(())));
    assert_eq!(now(locks.io(first.open, whole)), Ok(()));
}

#[test]
fn a_lease_key_is_for_one_document_until_its_last_open_ends() {
    let (locks, _) = service();
    let lease = LeaseId {
        client_guid: [1; 16],
        key: [2; 16],
    };
    let leased = |document| {
        let mut request = request(1, document, Access::READ, ShareMode::ALL);
        let want = CacheState::RH;
        request.cache = CacheRequest::Lease {
            lease,
            want,
            v2: true,
            epoch: 4,
            parent: None,
        };
        request.sink = Some(Arc::new(Told::default()) as Arc<dyn CacheSink>);
        request
    };
    let first = now(locks.open(leased(5))).expect("granted");
    assert_eq!(first.cache.epoch, 5);
    let second = now(locks.open(leased(5))).expect("granted");
    assert_eq!(now(locks.open(leased(6))), Err(Denial::LeaseKeyInUse));
    assert_eq!(locks.lease_resource(lease), Some(ResourceId::main(5)));
    let _ = now(locks.close(first.open));
    assert_eq!(now(locks.open(leased(6))), Err(Denial::LeaseKeyInUse));
    let _ = now(locks.close(second.open));
    now(locks.open(leased(6))).expect("free again");
}

#[test]
fn stopping_ends_waits_and_revocation_tells_the_holder() {
    let (locks, _) = service();
    let told = Arc::new(Told::default());
    let mut first = request(1, 5, Access::DELETE, ShareMode::NONE);
    first.sink = Some(Arc::clone(&told) as Arc<dyn CacheSink>);
    let first = now(locks.open(first)).expect("granted");
    now(locks.set_delete_pending(first.open, true)).expect("open");
    assert!(now(locks.force_release(first.open.id)));
    assert!(!now(locks.force_release(first.open.id)));
    let (open, closed) = told.1.lock().pop().expect("told");
    assert!(open == first.open && closed.delete_document);
    now(locks.deleted(open.resource));
    let _second = now(locks.open(request(1, 5, Access::WRITE, ShareMode::NONE))).expect("granted");
    let mut third = request(2, 5, Access::WRITE, ShareMode::NONE);
    third.on_conflict = OnConflict::Wait(None);
    let mut waiting = pin!(locks.open(third.clone()));
    pending(waiting.as_mut());
    locks.stop();
    assert_eq!(now(waiting), Err(Denial::Stopping));
    assert_eq!(now(locks.open(third)), Err(Denial::Stopping));
}

#[tokio::test]
async fn the_timer_task_ends_waits_by_itself() {
    let locks = LocalLocks::new(
        LockOptions::default(),
        Arc::new(crate::MonotonicClock::default()),
    );
    let timers = locks.clone();
    let task = tokio::spawn(async move { timers.run_timers().await });
    let _first = locks
        .open(request(1, 5, Access::WRITE, ShareMode::NONE))
        .await
        .expect("granted");
    let mut second = request(2, 5, Access::READ, ShareMode::ALL);
    second.on_conflict = OnConflict::Wait(Some(Duration::from_millis(20)));
    assert!(matches!(locks.open(second).await, Err(Denial::Conflict(_))));
    locks.stop();
    task.await.expect("the task ends");
}

/// Four threads fight for one document, some giving up at random moments: never two inside, everybody gets out.
#[test]
fn exclusive_opens_exclude_each_other_under_real_concurrency() {
    let locks = LocalLocks::new(
        LockOptions::default(),
        Arc::new(crate::MonotonicClock::default()),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("runtime");
    let inside = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..8u64)
        .map(|client| {
            let (locks, inside) = (locks.clone(), Arc::clone(&inside));
            runtime.spawn(async move {
                for round in 0..400u64 {
                    let mut request = request(client, 5, Access::WRITE, ShareMode::NONE);
                    request.on_conflict = OnConflict::Wait(None);
                    let opening = locks.open(request);
                    let opened = if (round + client) % 3 == 0 {
                        tokio::select! {
                            biased;
                            opened = opening => opened,
                            () = tokio::task::yield_now() => continue,
                        }
                    } else {
                        opening.await
                    };
                    let opened = opened.expect("granted in the end");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    let _ = now(locks.close(opened.open));
                }
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).expect("no panic");
    }
    assert!(
        now(locks.list(&ListFilter::default())).is_empty(),
        "{:?}",
        now(locks.list(&ListFilter::default()))
    );
}
