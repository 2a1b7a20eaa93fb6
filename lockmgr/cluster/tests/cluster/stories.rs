//! Stories of the whole service that no scenario file tells: nodes that die, calls that are given up, freezes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use sluice_lockmgr::{
    Access, BreakAck, BreakNotice, ByteRange, CacheRequest, CacheSink, Closed, Denial, GrantKey,
    Holder, LockHost, LockService, Member, Note, OnConflict, OpenRef, OpenRequest, Opened,
    OplockLevel, Protocol, RangeLock, RangeNotLocked, RangeRequest, ResourceId, RevokeReason,
    ShareMode,
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
    fn left(&self, _former: &[Member]) {}
    async fn surrender(&self, _: u64) {
        self.surrendered.fetch_add(1, Ordering::SeqCst);
        self.uncommitted.store(false, Ordering::SeqCst);
    }
    fn revoked(&self, _: u64) {}
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

fn range(offset: u64) -> ByteRange {
    ByteRange::new(offset, 10).expect("a range")
}

/// Waits for these bytes of an open, exclusively.
fn lock(
    cluster: &Cluster,
    at: usize,
    open: OpenRef,
    offsets: &[u64],
) -> tokio::task::JoinHandle<Result<(), Denial>> {
    let exclusive = |offset: &u64| RangeLock {
        range: range(*offset),
        exclusive: true,
    };
    let request = RangeRequest {
        open,
        locks: offsets.iter().map(exclusive).collect(),
        on_conflict: OnConflict::Wait(None),
    };
    let locks = cluster.nodes[at].locks.clone();
    tokio::spawn(async move { locks.lock(request).await })
}

async fn unlock(
    cluster: &mut Cluster,
    at: usize,
    open: OpenRef,
    offset: u64,
) -> Result<(), RangeNotLocked> {
    let locks = cluster.nodes[at].locks.clone();
    let unlocked = cluster.run(async move { locks.unlock(open, range(offset)).await });
    unlocked.await.expect("an answer")
}

/// Two ranges are granted at one moment. The first answer tells their node of both; the coordinator dies before the second.
#[tokio::test]
async fn a_range_that_is_asked_for_again_after_its_coordinator_died_is_locked_once() {
    let mut c = cluster();
    let shared = |at, client| request(at, client, Access::WRITE, ShareMode::ALL);
    let mut opens = Vec::new();
    for (at, client) in [(2, 1), (1, 2), (1, 3)] {
        let opened = open(&mut c, at, shared(at, client))
            .await
            .expect("an answer");
        opens.push(opened.expect("granted").open);
    }
    let both = lock(&c, 2, opens[0], &[0, 10]);
    c.settle().await;
    assert!(both.is_finished());
    let first = lock(&c, 1, opens[1], &[0]);
    let second = lock(&c, 1, opens[2], &[10]);
    c.settle().await;
    assert!(!first.is_finished() && !second.is_finished());

    let locks = c.nodes[2].locks.clone();
    let holder = opens[0];
    tokio::spawn(async move { locks.close(holder).await });
    for _ in 0..1_000 {
        if first.is_finished() || second.is_finished() {
            break;
        }
        tokio::task::yield_now().await;
        c.deliver_one(0);
        tokio::task::yield_now().await;
    }
    assert!(first.is_finished() != second.is_finished());
    c.kill(0);
    c.settle().await;
    for task in [first, second] {
        assert!(task.is_finished(), "it does not wait for its own lock");
        task.await.expect("no panic").expect("granted");
    }
    for (open, offset) in [(opens[1], 0), (opens[2], 10)] {
        assert_eq!(unlock(&mut c, 1, open, offset).await, Ok(()));
        assert_eq!(unlock(&mut c, 1, open, offset).await, Err(RangeNotLocked));
    }
}

#[tokio::test]
async fn a_state_longer_than_a_link_carries_arrives_all_the_same() {
    let mut c = cluster();
    let long = |at, client| {
        let mut request = request(at, client, Access::READ, ShareMode::ALL);
        request.actor.holder = Arc::new(Holder {
            path: "p".repeat(1 << 20),
            ..Holder::clone(&request.actor.holder)
        });
        request
    };
    for client in 0..70 {
        let opened = open(&mut c, 1, long(1, client)).await.expect("an answer");
        opened.expect("granted");
    }
    // Node 1 was alone: all that it has goes to the coordinator, and back to it as its copy.
    let other = open(&mut c, 2, long(2, 1)).await.expect("an answer");
    other.expect("granted");
    let one_more = open(&mut c, 1, long(1, 100)).await.expect("an answer");
    one_more.expect("granted");
    c.kill(0);
    c.settle().await;
    let denied = open(&mut c, 2, exclusive(2, 2)).await.expect("an answer");
    assert!(
        matches!(denied, Err(Denial::Conflict(_))),
        "nothing is forgotten"
    );
}

async fn settled(c: &mut Cluster, at: usize) -> Option<bool> {
    let locks = c.nodes[at].locks.clone();
    c.run(async move { locks.settle(&[DOCUMENT]).await }).await
}

#[tokio::test]
async fn a_coordinator_says_that_nobody_has_a_document_only_if_its_deputy_has_taken_nothing() {
    let mut c = cluster();
    c.settle().await;
    assert_eq!(settled(&mut c, 0).await, Some(false), "it has no deputy");
    let deputy = |c: &Cluster, at: usize, turn| Some((c.nodes[at].member, turn));
    let event = ClusterEvent::Deputy(deputy(&c, 1, 0));
    c.nodes[0].locks.event(event);
    c.settle().await;
    c.nodes[1].alive = false;
    assert_eq!(settled(&mut c, 0).await, None, "it may own nothing by now");
    c.nodes[1].alive = true;
    let event = ClusterEvent::Deputy(deputy(&c, 2, 1));
    c.nodes[0].locks.event(ClusterEvent::Deputy(None));
    c.nodes[0].locks.event(event);
    c.settle().await;
    assert_eq!(settled(&mut c, 0).await, Some(false));
    // The shard is taken over, and the former owner has not heard of that.
    c.nodes[0].alive = false;
    c.give(DOCUMENT, Some(2));
    c.settle().await;
    c.nodes[0].alive = true;
    assert_eq!(settled(&mut c, 0).await, None);
}

#[tokio::test]
async fn who_asks_a_silent_coordinator_whether_all_is_committed_asks_its_successor() {
    let mut c = cluster();
    c.nodes[0].alive = false;
    let locks = c.nodes[2].locks.clone();
    let asked = tokio::spawn(async move { locks.settle(&[DOCUMENT]).await });
    c.settle().await;
    assert!(!asked.is_finished());
    // What it was asked it never answers.
    c.nodes[0].alive = true;
    c.give(DOCUMENT, Some(1));
    let answered = async {
        while !asked.is_finished() {
            c.settle().await;
        }
        asked.await
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), answered).await;
    assert!(!in_time.expect("an answer").expect("no panic"));
}
