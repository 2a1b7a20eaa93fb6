//! A node is lost whose NFS clients had locks: nobody gets what they had before they could take it again, whoever decided.

use std::time::Duration;

use sluice_lockmgr::{
    Access, ByteRange, Denial, LockService, OnConflict, OpenRequest, OwnedRangeRequest, Protocol,
    RangeLock, RangeOwner, ResourceId, ShareMode,
};

use sluice_lockmgr_cluster::membership::ClusterEvent;

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

/// One node hears what the dead second one left, and that it is dead.
fn hears(c: &Cluster, at: usize) {
    c.left_told(at, 1, &[DOCUMENT], GRACE);
    c.tell(at, ClusterEvent::NodeDown(c.nodes[1].member));
}

#[tokio::test]
async fn who_decides_and_hears_late_lets_nobody_in_before_the_lock_is_taken_again() {
    // The coordinator has the lost lock itself, or a token that it gave to the lost node.
    for shared in [true, false] {
        let mut c = held(0).await;
        if shared {
            lock(&mut c, 2, 5, false).await.expect_err("it is held");
        }
        c.die(1);
        hears(&c, 2);
        let locks = c.nodes[2].locks.clone();
        let early = tokio::spawn(async move { locks.lock_owned(lock_of(2, 1, true)).await });
        c.settle().await;
        if shared {
            let refused = early.await.expect("no panic").expect_err("still held");
            assert!(matches!(refused, Denial::Conflict(_)), "tried again later");
            hears(&c, 0);
        } else {
            assert!(!early.is_finished(), "it waits for the lost node");
            hears(&c, 0);
            c.settle().await;
            early.await.expect("no panic").expect("taken again");
        }
        only_a_reclaim_passes(&mut c).await;
    }
}

#[tokio::test]
async fn an_heir_that_hears_before_others_do_lets_only_a_reclaim_pass() {
    let mut c = held(1).await;
    c.die(1);
    let heir = 2;
    hears(&c, heir);
    c.give(DOCUMENT, Some(heir));
    let locks = c.nodes[0].locks.clone();
    let mut request = lock_of(0, 5, false);
    request.on_conflict = OnConflict::Wait(None);
    let waiter = tokio::spawn(async move { locks.lock_owned(request).await });
    c.settle().await;
    assert!(!waiter.is_finished());
    hears(&c, 0);
    c.settle().await;
    assert!(!waiter.is_finished());
    waiter.abort();
    c.settle().await;
    only_a_reclaim_passes(&mut c).await;
}

#[tokio::test]
async fn a_loss_in_the_middle_of_a_hand_over_leaves_no_gap() {
    for to in [0, 2] {
        let mut c = held(2 - to).await;
        // On its way from one to the other when the holder is lost; the new owner waits for reports.
        c.give(DOCUMENT, Some(to));
        c.die(1);
        hears(&c, to);
        hears(&c, 2 - to);
        only_a_reclaim_passes(&mut c).await;
    }
}

#[tokio::test]
async fn the_time_in_which_nobody_could_act_does_not_count() {
    // Decided about before that time, first asked for after it, and inherited within it.
    for asked_before in [true, false] {
        for inherited in [true, false] {
            let mut c = held(0).await;
            kill(&mut c);
            if asked_before {
                assert!(open(&mut c, 2).await.is_err());
            }
            c.after(Duration::from_secs(10)).await;
            for at in [0, 2] {
                c.tell(at, ClusterEvent::Frozen);
            }
            c.after(Duration::from_secs(30)).await;
            if inherited {
                c.give(DOCUMENT, Some(2));
                c.settle().await;
            }
            for at in [0, 2] {
                c.tell(at, ClusterEvent::Thawed);
            }
            let which = format!("asked {asked_before} inherited {inherited}");
            c.after(Duration::from_secs(9)).await;
            assert!(open(&mut c, 2).await.is_err(), "{which}");
            c.after(Duration::from_secs(2)).await;
            open(&mut c, 2).await.expect(&which);
        }
    }
}

#[tokio::test]
async fn what_was_over_or_broken_before_a_freeze_is_not_kept_after_it() {
    let mut c = held(0).await;
    kill(&mut c);
    assert!(open(&mut c, 2).await.is_err());
    let entries = c.nodes[0].locks.explain(DOCUMENT).await;
    let kept = entries.first().expect("what keeps it");
    let locks = c.nodes[0].locks.clone();
    assert!(locks.force_release(sluice_lockmgr::OpenId(kept.id)).await);
    for at in [0, 2] {
        c.tell(at, ClusterEvent::Frozen);
    }
    c.after(Duration::from_secs(2)).await;
    for at in [0, 2] {
        c.tell(at, ClusterEvent::Thawed);
    }
    c.settle().await;
    open(&mut c, 2).await.expect("broken");
}

#[tokio::test]
async fn the_longer_of_two_times_counts_whichever_is_heard_first() {
    for longer_first in [true, false] {
        let mut c = held(0).await;
        let mut times = [Duration::from_secs(19), Duration::from_secs(1)];
        if !longer_first {
            times.reverse();
        }
        for ends_in in times {
            c.left(1, &[DOCUMENT], ends_in);
        }
        c.kill(1);
        c.after(Duration::from_secs(2)).await;
        assert!(open(&mut c, 2).await.is_err(), "{longer_first}");
        c.after(Duration::from_secs(18)).await;
        open(&mut c, 2).await.expect("over");
    }
}

#[tokio::test]
async fn the_time_until_a_node_that_joins_may_act_does_not_count() {
    let mut c = Cluster::new(2);
    c.left_told(0, 1, &[DOCUMENT], GRACE);
    c.die(1);
    c.after(Duration::from_secs(18)).await;
    c.give(DOCUMENT, Some(0));
    c.tell(0, ClusterEvent::NodeDown(c.nodes[1].member));
    c.after(Duration::from_secs(18)).await;
    assert!(open(&mut c, 0).await.is_err(), "just begun");
    c.after(Duration::from_secs(3)).await;
    open(&mut c, 0).await.expect("over");
}
