//! Stories of the whole service that no scenario file tells: nodes that die, calls that are given up, freezes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sluice_lockmgr::{
    Access, Denial, LockService, OnConflict, OpenRequest, Opened, Protocol, ResourceId, ShareMode,
};
use sluice_lockmgr_cluster::membership::{ClusterEvent, ClusterHandler};

use crate::net::{Cluster, actor};

const DOCUMENT: u64 = 77;

fn request(at: usize, client: u64, access: Access, share: ShareMode) -> OpenRequest {
    let actor = actor(at, Protocol::Smb, client, "u");
    let mut request = OpenRequest::new(ResourceId::main(DOCUMENT), actor, access);
    request.share = share;
    request
}

async fn open(
    cluster: &mut Cluster,
    at: usize,
    request: OpenRequest,
) -> Option<Result<Opened, Denial>> {
    let locks = cluster.nodes[at].locks.clone();
    cluster.run(async move { locks.open(request).await }).await
}

async fn close(cluster: &mut Cluster, at: usize, opened: Opened) {
    let locks = cluster.nodes[at].locks.clone();
    let closed = cluster.run(async move { locks.close(opened.open).await });
    assert!(!closed.await.expect("an answer").delete_document);
}

fn exclusive(at: usize, client: u64) -> OpenRequest {
    request(at, client, Access::WRITE, ShareMode::NONE)
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.give(DOCUMENT, Some(0));
    cluster
}

#[tokio::test]
async fn a_node_that_is_alone_needs_no_message() {
    let mut c = cluster();
    let first = open(&mut c, 1, exclusive(1, 1)).await.expect("an answer");
    let first = first.expect("granted");
    let delivered = c.delivered;
    assert!(c.nodes[1].locks.residence(DOCUMENT).is_some());
    close(&mut c, 1, first).await;
    for client in 2..20 {
        let again = open(&mut c, 1, exclusive(1, client)).await.expect("now");
        close(&mut c, 1, again.expect("granted")).await;
    }
    assert_eq!(c.delivered, delivered);
}

#[tokio::test]
async fn an_open_on_another_node_is_refused_with_its_holder_and_granted_after_the_close() {
    let mut c = cluster();
    let first = open(&mut c, 1, exclusive(1, 1)).await.expect("an answer");
    let denied = open(&mut c, 2, exclusive(2, 2)).await.expect("an answer");
    assert!(matches!(denied, Err(Denial::Conflict(_))), "{denied:?}");
    assert_eq!(c.nodes[1].locks.residence(DOCUMENT), None, "shared now");
    close(&mut c, 1, first.expect("granted")).await;
    let second = open(&mut c, 2, exclusive(2, 2)).await.expect("an answer");
    second.expect("granted");
}

#[tokio::test]
async fn a_waiting_open_of_another_node_is_granted_when_its_turn_comes() {
    let mut c = cluster();
    let first = open(&mut c, 1, exclusive(1, 1)).await.expect("an answer");
    let mut waits = exclusive(2, 2);
    waits.on_conflict = OnConflict::Wait(None);
    let locks = c.nodes[2].locks.clone();
    let task = tokio::spawn(async move { locks.open(waits).await });
    c.settle().await;
    assert!(!task.is_finished());
    close(&mut c, 1, first.expect("granted")).await;
    c.settle().await;
    assert!(task.is_finished());
    task.await.expect("no panic").expect("granted");
}

#[tokio::test]
async fn what_a_caller_that_is_gone_was_granted_is_closed_again() {
    let mut c = cluster();
    let first = open(&mut c, 1, exclusive(1, 1)).await.expect("an answer");
    let mut waits = exclusive(2, 2);
    waits.on_conflict = OnConflict::Wait(None);
    // Given up while it waits at the coordinator.
    assert!(open(&mut c, 2, waits).await.is_none());
    close(&mut c, 1, first.expect("granted")).await;
    c.settle().await;
    let third = open(&mut c, 0, exclusive(0, 3)).await.expect("an answer");
    third.expect("nobody has it");
}

#[tokio::test]
async fn the_coordinator_dies_and_what_the_others_have_is_kept() {
    let mut c = cluster();
    let first = open(&mut c, 1, exclusive(1, 1)).await.expect("an answer");
    let first = first.expect("granted");
    let denied = open(&mut c, 2, exclusive(2, 2)).await.expect("an answer");
    assert!(denied.is_err());
    let mut waits = exclusive(2, 2);
    waits.on_conflict = OnConflict::Wait(None);
    let locks = c.nodes[2].locks.clone();
    let task = tokio::spawn(async move { locks.open(waits).await });
    c.settle().await;
    c.kill(0);
    c.settle().await;
    assert!(!task.is_finished(), "the first has it still");
    let state = {
        let locks = c.nodes[1].locks.clone();
        c.run(async move { locks.state(first.open).await }).await
    };
    assert!(state.expect("an answer").is_some());
    close(&mut c, 1, first).await;
    c.settle().await;
    task.await.expect("no panic").expect("granted");
}

#[tokio::test]
async fn what_a_dead_node_had_is_free() {
    let mut c = cluster();
    let first = open(&mut c, 1, exclusive(1, 1)).await.expect("an answer");
    first.expect("granted");
    c.kill(1);
    c.settle().await;
    let second = open(&mut c, 2, exclusive(2, 2)).await.expect("an answer");
    second.expect("granted");
}

#[tokio::test]
async fn a_fence_waits_for_the_new_owner_and_is_its_epoch() {
    let mut c = cluster();
    let first = open(&mut c, 1, exclusive(1, 1)).await.expect("an answer");
    first.expect("granted");
    let locks = c.nodes[1].locks.clone();
    let before = locks.fence(DOCUMENT).await.expect("a fence");
    c.give(DOCUMENT, Some(2));
    let task = tokio::spawn(async move { locks.fence(DOCUMENT).await });
    tokio::task::yield_now().await;
    assert!(!task.is_finished(), "the new owner does not know yet");
    c.settle().await;
    let after = task.await.expect("no panic").expect("a fence");
    assert!(after > before);
}

#[tokio::test]
async fn a_frozen_node_answers_nothing_until_the_thaw() {
    let mut c = cluster();
    let first = open(&mut c, 1, exclusive(1, 1)).await.expect("an answer");
    close(&mut c, 1, first.expect("granted")).await;
    c.nodes[1].peers.acts.store(false, Ordering::SeqCst);
    c.nodes[1].locks.event(ClusterEvent::Frozen);
    assert_eq!(c.nodes[1].locks.residence(DOCUMENT), None);
    let locks = c.nodes[1].locks.clone();
    let task = tokio::spawn(async move { locks.open(exclusive(1, 2)).await });
    c.settle().await;
    assert!(!task.is_finished());
    c.nodes[1].peers.acts.store(true, Ordering::SeqCst);
    c.nodes[1].locks.event(ClusterEvent::Thawed);
    tokio::time::timeout(Duration::from_secs(5), task)
        .await
        .expect("goes on")
        .expect("no panic")
        .expect("granted");
}

#[tokio::test]
async fn a_lost_node_answers_that_it_is_lost() {
    let mut c = cluster();
    let first = open(&mut c, 1, exclusive(1, 1)).await.expect("an answer");
    first.expect("granted");
    c.nodes[1].peers.acts.store(false, Ordering::SeqCst);
    c.nodes[1].locks.event(ClusterEvent::Frozen);
    let locks = c.nodes[1].locks.clone();
    let task = tokio::spawn(async move { locks.open(exclusive(1, 2)).await });
    c.settle().await;
    c.nodes[1].locks.event(ClusterEvent::Lost);
    let answer = tokio::time::timeout(Duration::from_secs(5), task).await;
    let answer = answer.expect("in time").expect("no panic");
    assert!(matches!(answer, Err(Denial::NodeLost)), "{answer:?}");
    let fence = c.nodes[1].locks.fence(DOCUMENT).await;
    assert!(matches!(fence, Err(Denial::NodeLost)));
    assert_eq!(Arc::strong_count(&c.nodes[1].peers), 2);
}
