//! Stories of the whole service that no scenario file tells: nodes that die, calls that are given up, freezes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_lockmgr::{
    Access, BreakAck, BreakNotice, CacheRequest, CacheSink, Closed, Denial, GrantKey, LockHost,
    LockService, Member, Note, OnConflict, OpenRef, OpenRequest, Opened, OplockLevel, Protocol,
    ResourceId, RevokeReason, ShareMode,
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

/// A file layer with something uncommitted.
#[derive(Default)]
struct Host {
    uncommitted: AtomicBool,
    surrendered: AtomicU64,
    notes: AtomicU64,
}

#[async_trait]
impl LockHost for Host {
    async fn surrender(&self, _: u64) {
        self.surrendered.fetch_add(1, Ordering::SeqCst);
        self.uncommitted.store(false, Ordering::SeqCst);
    }
    async fn settle(&self, _: u64) -> bool {
        self.uncommitted.swap(false, Ordering::SeqCst)
    }
    fn members(&self, _: &[Member]) {}

    fn noted(&self, _: Member, _: Note) {
        self.notes.fetch_add(1, Ordering::SeqCst);
    }
    async fn notes_hold(&self) {}
    fn has_uncommitted(&self, _: u64) -> bool {
        self.uncommitted.load(Ordering::SeqCst)
    }
    async fn frozen(&self, _: bool) {}
}

#[tokio::test]
async fn what_a_holder_has_not_committed_is_committed_before_others_act_or_look() {
    let mut c = cluster();
    let host = Arc::new(Host::default());
    c.nodes[1]
        .locks
        .attach(Arc::clone(&host) as Arc<dyn LockHost>);
    let share = ShareMode::ALL;
    let first = open(&mut c, 1, request(1, 1, Access::WRITE, share)).await;
    first.expect("an answer").expect("granted");
    host.uncommitted.store(true, Ordering::SeqCst);
    let locks = c.nodes[2].locks.clone();
    let settled = c.run(async move { locks.settle(&[DOCUMENT]).await }).await;
    assert_eq!(settled, Some(true), "there was something");
    assert!(!host.uncommitted.load(Ordering::SeqCst));
    assert!(
        c.nodes[1].locks.residence(DOCUMENT).is_some(),
        "it keeps on"
    );
    host.uncommitted.store(true, Ordering::SeqCst);
    let second = open(&mut c, 2, request(2, 2, Access::READ, share)).await;
    second.expect("an answer").expect("granted");
    assert_eq!(host.surrendered.load(Ordering::SeqCst), 1);
    assert!(!host.uncommitted.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_note_reaches_every_live_node_and_a_dead_one_is_not_waited_for() {
    let mut c = cluster();
    let hosts: Vec<Arc<Host>> = (0..3).map(|_| Arc::new(Host::default())).collect();
    for (node, host) in c.nodes.iter().zip(&hosts) {
        node.locks.attach(Arc::clone(host) as Arc<dyn LockHost>);
    }
    let locks = c.nodes[0].locks.clone();
    let told = c.run(async move { locks.announce_all(Note::RecordsChanged).await });
    assert!(told.await.is_some());
    let noted = |host: &Host| host.notes.load(Ordering::SeqCst);
    assert_eq!(
        hosts.iter().map(|h| noted(h)).collect::<Vec<_>>(),
        [0, 1, 1]
    );
    let locks = c.nodes[0].locks.clone();
    let task = tokio::spawn(async move { locks.announce_all(Note::RecordsChanged).await });
    tokio::task::yield_now().await;
    c.kill(2);
    c.settle().await;
    assert!(task.is_finished());
    assert_eq!(noted(&hosts[1]), 2);
}

#[tokio::test]
async fn a_break_is_told_on_the_clients_node_and_answered_there() {
    let mut c = cluster();
    let told = Arc::new(Breaks::default());
    let mut cached = request(1, 1, Access::READ.with(Access::WRITE), ShareMode::ALL);
    cached.cache = CacheRequest::Oplock(OplockLevel::Batch);
    cached.sink = Some(Arc::clone(&told) as Arc<dyn CacheSink>);
    let first = open(&mut c, 1, cached).await.expect("an answer");
    let first = first.expect("granted").open;
    let locks = c.nodes[2].locks.clone();
    let wanted = request(2, 2, Access::READ, ShareMode::ALL);
    let task = tokio::spawn(async move { locks.open(wanted).await });
    c.settle().await;
    assert!(!task.is_finished(), "waits for the answer");
    let notice = told.0.lock().pop().expect("told");
    assert_eq!(notice.grant, GrantKey::Oplock(first.id));
    let locks = c.nodes[1].locks.clone();
    let state = notice.to;
    let ack = BreakAck::Oplock { open: first, state };
    let kept = c
        .run(async move { locks.acknowledge_break(ack).await })
        .await;
    assert_eq!(kept, Some(Ok(state)));
    c.settle().await;
    task.await.expect("no panic").expect("granted");
    // By force, from a third node.
    let locks = c.nodes[0].locks.clone();
    let id = first.id;
    assert_eq!(
        c.run(async move { locks.force_release(id).await }).await,
        Some(true)
    );
    assert_eq!(told.1.load(Ordering::SeqCst), 1, "its client is told");
}

#[derive(Default)]
struct Breaks(Mutex<Vec<BreakNotice>>, AtomicU64);

impl CacheSink for Breaks {
    fn on_break(&self, notice: &BreakNotice) {
        self.0.lock().push(notice.clone());
    }
    fn on_revoked(&self, _: OpenRef, _: RevokeReason, _: Closed) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
    fn on_cache_revoked(&self, _: ResourceId, _: GrantKey, _: RevokeReason) {}
}
