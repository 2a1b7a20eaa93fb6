//! A node is lost whose NFS clients had locks: nobody gets what they had before they could take it again, whoever decided.

use std::time::Duration;

use sluice_lockmgr::{
    Access, ByteRange, Denial, LockService, OnConflict, OpenRequest, OwnedRangeRequest, Protocol,
    RangeLock, RangeOwner, ResourceId, ShareMode,
};

use crate::net::{Cluster, actor};

const DOCUMENT: u64 = 77;
const GRACE: Duration = Duration::from_secs(20);

fn lock_of(at: usize, client: u64, reclaim: bool) -> OwnedRangeRequest {
    OwnedRangeRequest {
        resource: ResourceId::main(DOCUMENT),
        actor: actor(at, Protocol::Nfs3, client, "u"),
        owner: RangeOwner(u128::from(client)),
        lock: RangeLock {
            range: ByteRange::WHOLE,
            exclusive: true,
        },
        on_conflict: OnConflict::Reject,
        reclaim,
    }
}

async fn lock(c: &mut Cluster, at: usize, client: u64, reclaim: bool) -> Result<(), Denial> {
    let (locks, request) = (c.nodes[at].locks.clone(), lock_of(at, client, reclaim));
    let call = c.run(async move { locks.lock_owned(request).await });
    call.await.expect("an answer")
}

/// Of an SMB client that lets nobody write meanwhile; closed again if it is granted.
async fn open(c: &mut Cluster, at: usize) -> Result<(), Denial> {
    let actor = actor(at, Protocol::Smb, 9, "u");
    let mut request = OpenRequest::new(ResourceId::main(DOCUMENT), actor, Access::WRITE);
    request.share = ShareMode::DENY_WRITE;
    let locks = c.nodes[at].locks.clone();
    let call = c.run(async move {
        let opened = locks.open(request).await?;
        let _ = locks.close(opened.open).await;
        Ok(())
    });
    call.await.expect("an answer")
}

/// Three nodes, the given one coordinates, and a client of the second has the lock.
async fn held(coordinator: usize) -> Cluster {
    let mut c = Cluster::new(3);
    c.give(DOCUMENT, Some(coordinator));
    lock(&mut c, 1, 1, false).await.expect("granted");
    c
}

fn kill(c: &mut Cluster) {
    c.left(1, &[DOCUMENT], GRACE);
    c.kill(1);
}

/// Nobody gets in, then the client that had the lock, through another node; then nobody again.
async fn only_a_reclaim_passes(c: &mut Cluster) {
    for at in [0, 2] {
        assert!(matches!(open(c, at).await, Err(Denial::Conflict(_))));
        assert!(matches!(
            lock(c, at, 5, false).await,
            Err(Denial::Conflict(_))
        ));
    }
    lock(c, 2, 1, true).await.expect("taken again");
    c.after(GRACE + Duration::from_secs(1)).await;
    for at in [0, 2] {
        let denied = open(c, at).await.expect_err("held");
        let words = denied.to_string();
        assert!(!words.contains("kept for NFS clients"), "{words}");
    }
}

#[tokio::test]
async fn a_lock_of_a_lost_node_that_was_alone_is_taken_again_before_anybody_else_comes() {
    let mut c = held(0).await;
    kill(&mut c);
    only_a_reclaim_passes(&mut c).await;
}

#[tokio::test]
async fn a_lock_of_a_lost_coordinator_is_taken_again_before_anybody_else_comes() {
    let mut c = held(1).await;
    kill(&mut c);
    only_a_reclaim_passes(&mut c).await;
}

#[tokio::test]
async fn who_waited_for_the_lock_when_its_node_was_lost_waits_for_the_one_who_takes_it_again() {
    for coordinator in [0, 1, 2] {
        let mut c = held(coordinator).await;
        let locks = c.nodes[2].locks.clone();
        let mut request = lock_of(2, 5, false);
        request.on_conflict = OnConflict::Wait(None);
        let waiter = tokio::spawn(async move { locks.lock_owned(request).await });
        c.settle().await;
        kill(&mut c);
        c.settle().await;
        assert!(!waiter.is_finished(), "coordinator {coordinator}");
        lock(&mut c, 0, 1, true).await.expect("taken again");
        c.after(GRACE + Duration::from_secs(1)).await;
        assert!(!waiter.is_finished(), "coordinator {coordinator}");
        let locks = c.nodes[0].locks.clone();
        let first = lock_of(0, 1, false);
        let unlocked = c.run(async move {
            let client = first.actor.client;
            locks
                .unlock_owned(first.resource, client, first.owner, ByteRange::WHOLE)
                .await;
        });
        unlocked.await.expect("an answer");
        c.settle().await;
        waiter.await.expect("no panic").expect("its turn");
    }
}

#[tokio::test]
async fn a_lock_that_nobody_takes_again_is_free_after_the_grace() {
    let mut c = held(0).await;
    kill(&mut c);
    assert!(open(&mut c, 2).await.is_err());
    c.after(GRACE - Duration::from_secs(1)).await;
    assert!(open(&mut c, 2).await.is_err());
    c.after(Duration::from_secs(2)).await;
    open(&mut c, 2).await.expect("nobody took it again");
}

#[tokio::test]
async fn what_is_kept_outlives_its_coordinator_and_is_not_kept_again_once_it_was_broken() {
    let mut c = held(0).await;
    kill(&mut c);
    assert!(open(&mut c, 2).await.is_err());
    c.kill(0);
    assert!(open(&mut c, 2).await.is_err(), "the heir keeps it");
    let entries = c.nodes[2].locks.explain(DOCUMENT).await;
    let kept = entries.first().expect("what keeps it");
    assert_eq!(kept.holder.node, "lost1");
    assert!(kept.ends_in_ms.is_some_and(|ms| ms <= 20_000));
    let locks = c.nodes[2].locks.clone();
    assert!(locks.force_release(sluice_lockmgr::OpenId(kept.id)).await);
    open(&mut c, 2).await.expect("an administrator broke it");
    c.after(Duration::from_secs(5)).await;
    open(&mut c, 2).await.expect("forgotten meanwhile");
}

#[tokio::test]
async fn a_stale_note_does_not_disturb_the_node_that_is_alone() {
    let mut c = Cluster::new(3);
    c.give(DOCUMENT, Some(0));
    lock(&mut c, 2, 7, false).await.expect("granted");
    kill(&mut c);
    lock(&mut c, 2, 8, false).await.expect_err("it is held");
    assert!(c.nodes[2].locks.residence(DOCUMENT).is_some());
    c.give(DOCUMENT, Some(2));
    let entries = c.nodes[2].locks.explain(DOCUMENT).await;
    assert!(entries.iter().all(|e| e.holder.node != "lost1"));
}
