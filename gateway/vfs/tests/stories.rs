//! Cross-protocol stories: who holds what, who comes second, and what he is told. After each the content is one that a serial
//! order explains.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use parking_lot::Mutex;
use sluice_repo::{OnConflict, RuleProtocol};
use sluice_vfs::*;

const NO: &str = "refused";

fn holder(error: VfsError) -> (ConflictKind, Protocol) {
    match error {
        VfsError::Conflict(conflict) => (conflict.kind, conflict.holder.protocol),
        other => panic!("not a conflict: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_smb_open_that_denies_writers_stops_upload_write_remove_and_rename() {
    let world = World::with(&[
        rule(RuleProtocol::Ftp, OnConflict::Reject),
        rule(RuleProtocol::Nfs3, OnConflict::Reject),
    ])
    .await;
    let (smb, nfs, ftp) = doors(&world);
    put(&ftp, "report", b"one").await;
    let open = smb
        .open(request("report", READ, DENY_WRITE, Disposition::Open))
        .await
        .expect("open")
        .open;
    let node = open.content().node;
    let stor = ftp.upload(&path("report"), UploadMode::Replace).await;
    assert_eq!(
        holder(stor.map(|_| ()).expect_err(NO)),
        (ConflictKind::Sharing, Protocol::Smb)
    );
    let write = nfs
        .write(node, 0, Bytes::from_static(b"x"), Stability::Unstable)
        .await;
    assert_eq!(holder(write.expect_err(NO)).1, Protocol::Smb);
    let cut = nfs
        .set_attributes(node, AttributeChange::default(), Some(0), None)
        .await;
    assert_eq!(holder(cut.expect_err(NO)).1, Protocol::Smb);
    let remove = nfs
        .remove(nfs.root(), "report", RemoveKind::NotDirectory)
        .await;
    assert_eq!(holder(remove.expect_err(NO)).1, Protocol::Smb);
    let away = nfs
        .rename(nfs.root(), "report", nfs.root(), "r2", false)
        .await;
    assert_eq!(holder(away.expect_err(NO)).1, Protocol::Smb);
    put(&ftp, "other", b"two").await;
    let over = nfs
        .rename(nfs.root(), "other", nfs.root(), "report", true)
        .await;
    assert_eq!(holder(over.expect_err(NO)).1, Protocol::Smb);
    assert_eq!(content(&ftp, "report").await, b"one", "reading is shared");
    open.close().await.expect("closed");
    put(&ftp, "report", b"three").await;
    assert_eq!(content(&ftp, "report").await, b"three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_rule_says_wait_ftp_is_held_and_nfs_is_told_to_come_back() {
    let world = World::new().await;
    let (smb, nfs, ftp) = doors(&world);
    put(&ftp, "w", b"old").await;
    let open = smb
        .open(request("w", READ, DENY_WRITE, Disposition::Open))
        .await
        .expect("open")
        .open;
    let node = open.content().node;
    let write = nfs
        .write(node, 0, Bytes::from_static(b"x"), Stability::Unstable)
        .await;
    assert_eq!(write.expect_err(NO), VfsError::Delay);
    let remove = nfs.remove(nfs.root(), "w", RemoveKind::NotDirectory).await;
    assert_eq!(remove.expect_err(NO), VfsError::Delay);
    let done = Arc::new(AtomicBool::new(false));
    let upload = {
        let (ftp, done) = (ftp.clone(), done.clone());
        tokio::spawn(async move {
            let receipt = put(&ftp, "w", b"by ftp").await;
            done.store(true, Ordering::SeqCst);
            receipt
        })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!done.load(Ordering::SeqCst), "the upload waits");
    open.close().await.expect("closed");
    let receipt = upload.await.expect("no panic");
    assert_eq!(receipt.copy, None);
    assert_eq!(content(&ftp, "w").await, b"by ftp");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_half_way_stops_writers_but_no_reader() {
    let world = World::with(&[rule(RuleProtocol::Nfs3, OnConflict::Reject)]).await;
    let (smb, nfs, ftp) = doors(&world);
    put(&ftp, "doc", b"old").await;
    let mut upload = ftp
        .upload(&path("doc"), UploadMode::Replace)
        .await
        .expect("begun");
    upload
        .write(Bytes::from_static(b"new"))
        .await
        .expect("taken");
    let write = smb
        .open(request("doc", WRITE, ShareMode::ALL, Disposition::Open))
        .await;
    assert_eq!(
        holder(write.map(|_| ()).expect_err(NO)),
        (ConflictKind::Sharing, Protocol::Ftp)
    );
    let over = smb
        .open(request(
            "doc",
            READ,
            ShareMode::ALL,
            Disposition::OverwriteIf,
        ))
        .await;
    assert_eq!(holder(over.map(|_| ()).expect_err(NO)).1, Protocol::Ftp);
    let node = nfs.lookup(nfs.root(), "doc").await.expect("found").id;
    let write = nfs
        .write(node, 0, Bytes::from_static(b"x"), Stability::Unstable)
        .await;
    assert_eq!(holder(write.expect_err(NO)).1, Protocol::Ftp);
    let remove = nfs
        .remove(nfs.root(), "doc", RemoveKind::NotDirectory)
        .await;
    assert_eq!(holder(remove.expect_err(NO)).1, Protocol::Ftp);
    let reader = smb
        .open(request("doc", READ, ShareMode::ALL, Disposition::Open))
        .await
        .expect("readers come in")
        .open;
    assert_eq!(flat(&reader.read(0, 10).await.expect("read")), b"old");
    upload.commit(None).await.expect("committed");
    assert_eq!(flat(&reader.read(0, 10).await.expect("read")), b"new");
    reader.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_to_a_new_name_holds_the_name() {
    let world = World::with(&[rule(RuleProtocol::Nfs3, OnConflict::Reject)]).await;
    let (smb, nfs, ftp) = doors(&world);
    let mut upload = ftp
        .upload(&path("fresh"), UploadMode::Replace)
        .await
        .expect("begun");
    upload
        .write(Bytes::from_static(b"ftp"))
        .await
        .expect("taken");
    let create = smb
        .open(request("fresh", WRITE, ShareMode::ALL, Disposition::OpenIf))
        .await;
    assert_eq!(holder(create.map(|_| ()).expect_err(NO)).1, Protocol::Ftp);
    let create = nfs
        .create(nfs.root(), "fresh", CreateMode::Guarded, NewNode::default())
        .await;
    assert_eq!(holder(create.expect_err(NO)).1, Protocol::Ftp);
    let mkdir = nfs.make_node(nfs.root(), "fresh", NewNode::default()).await;
    assert_eq!(holder(mkdir.expect_err(NO)).1, Protocol::Ftp);
    let second = {
        let other = world.tree(Protocol::Ftp, 9);
        tokio::spawn(async move { put(&other, "fresh", b"second ftp").await })
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(ftp.resolve(&path("fresh")).await.is_err(), "nothing to see");
    upload.commit(None).await.expect("committed");
    let receipt = second.await.expect("no panic");
    assert_eq!(receipt.copy, None);
    assert_eq!(content(&ftp, "fresh").await, b"second ftp");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_locked_over_smb_stops_momentary_writes_inside_it_only() {
    let world = World::with(&[rule(RuleProtocol::Nfs3, OnConflict::Reject)]).await;
    let (smb, nfs, ftp) = doors(&world);
    put(&ftp, "r", b"0123456789").await;
    let open = smb
        .open(request("r", READ, ShareMode::ALL, Disposition::Open))
        .await
        .expect("open")
        .open;
    let lock = RangeLock {
        offset: 0,
        length: 5,
        exclusive: true,
    };
    open.lock(&[lock], false).await.expect("locked");
    let node = open.content().node;
    let inside = nfs
        .write(node, 4, Bytes::from_static(b"x"), Stability::Unstable)
        .await;
    assert_eq!(
        holder(inside.expect_err(NO)),
        (ConflictKind::RangeIo, Protocol::Smb)
    );
    let read = nfs.read(node, 0, 2).await;
    assert_eq!(holder(read.expect_err(NO)).0, ConflictKind::RangeIo);
    nfs.write(node, 5, Bytes::from_static(b"X"), Stability::Unstable)
        .await
        .expect("beside it");
    open.unlock(0, 5).await.expect("unlocked");
    let again = open.unlock(0, 5).await;
    assert_eq!(again.expect_err(NO), VfsError::RangeNotLocked);
    open.close().await.expect("closed");
    assert_eq!(content(&ftp, "r").await, b"01234X6789");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_nfs_writer_waits_for_the_place_of_the_first() {
    let world = World::new().await;
    let (first, second) = (world.tree(Protocol::Nfs3, 2), world.tree(Protocol::Nfs3, 4));
    let root = first.root();
    let new = || NewNode::default();
    let a = first
        .create(root, "a", CreateMode::Guarded, new())
        .await
        .expect("a");
    let b = first
        .create(root, "b", CreateMode::Guarded, new())
        .await
        .expect("b");
    let x = |tree: &Tree, node| {
        let tree = tree.clone();
        async move {
            tree.write(node, 0, Bytes::from_static(b"x"), Stability::Unstable)
                .await
        }
    };
    x(&first, a.id).await.expect("takes the place");
    assert_eq!(x(&second, a.id).await.expect_err(NO), VfsError::Delay);
    x(&first, b.id).await.expect("not committed: it keeps both");
    assert_eq!(x(&second, a.id).await.expect_err(NO), VfsError::Delay);
    first.commit(a.id).await.expect("committed");
    x(&first, b.id).await.expect("goes on with another");
    x(&second, a.id).await.expect("the place is free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clients_own_place_is_not_in_its_way() {
    let world = World::with(&[rule(RuleProtocol::Nfs3, OnConflict::Reject)]).await;
    let nfs = world.tree(Protocol::Nfs3, 2);
    let root = nfs.root();
    put(&world.tree(Protocol::Ftp, 3), "target", b"old").await;
    let made = nfs
        .create(root, "tmp", CreateMode::Guarded, NewNode::default())
        .await
        .expect("created");
    let data = Bytes::from_static(b"new bytes");
    nfs.write(made.id, 0, data, Stability::Unstable)
        .await
        .expect("written");
    let change = AttributeChange {
        modified: Some(Timestamp(1_000_000_000)),
        ..AttributeChange::default()
    };
    nfs.set_attributes(made.id, change, Some(3), None)
        .await
        .expect("cut and dated");
    nfs.rename(root, "tmp", root, "target", true)
        .await
        .expect("moved over");
    nfs.commit(made.id).await.expect("committed");
    let after = nfs.lookup(root, "target").await.expect("found");
    assert_eq!((after.id, after.size), (made.id, 3));
    assert_eq!(after.modified, Timestamp(1_000_000_000));
    assert!(
        after.changed > Timestamp(1_000_000_000),
        "the change time is now"
    );
    let data = Bytes::from_static(b"more");
    nfs.write(made.id, 0, data, Stability::Unstable)
        .await
        .expect("written");
    nfs.remove(root, "target", RemoveKind::NotDirectory)
        .await
        .expect("removed");
    assert!(world.repo.get(made.id).await.is_err(), "nothing is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_rule_says_fork_the_later_writer_gets_a_conflicted_copy() {
    let world = World::with(&[
        rule(RuleProtocol::Ftp, OnConflict::Fork),
        rule(RuleProtocol::Smb, OnConflict::Fork),
    ])
    .await;
    let (smb, _, ftp) = doors(&world);
    put(&ftp, "plan.txt", b"one").await;
    let open = smb
        .open(request(
            "plan.txt",
            READ_WRITE,
            DENY_WRITE,
            Disposition::Open,
        ))
        .await
        .expect("open")
        .open;
    let receipt = put(&ftp, "plan.txt", b"two").await;
    let copy = receipt.copy.expect("a conflicted copy");
    assert!(
        copy.starts_with("plan (conflicted copy alice 2") && copy.ends_with(").txt"),
        "{copy}"
    );
    assert_eq!(content(&ftp, &copy).await, b"two");
    assert_eq!(content(&ftp, "plan.txt").await, b"one");
    let other = world.tree(Protocol::Smb, 8);
    let forked = other
        .open(request(
            "plan.txt",
            READ_WRITE,
            ShareMode::ALL,
            Disposition::Open,
        ))
        .await
        .expect("open")
        .open;
    assert_ne!(forked.content(), open.content());
    assert_eq!(flat(&forked.read(0, 9).await.expect("read")), b"one");
    forked
        .write(0, Bytes::from_static(b"ONE"), Stability::Unstable)
        .await
        .expect("written");
    let name = forked.path().await.expect("a path");
    forked.close().await.expect("closed");
    open.close().await.expect("closed");
    assert_eq!(content(&ftp, &name).await, b"ONE");
    assert_eq!(content(&ftp, "plan.txt").await, b"one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_a_name_that_is_being_uploaded_gets_one_beside_it_under_fork() {
    let world = World::with(&[rule(RuleProtocol::Smb, OnConflict::Fork)]).await;
    let (smb, _, ftp) = doors(&world);
    let upload = ftp
        .upload(&path("new"), UploadMode::Replace)
        .await
        .expect("begun");
    let opened = smb
        .open(request(
            "new",
            WRITE,
            ShareMode::ALL,
            Disposition::OverwriteIf,
        ))
        .await
        .expect("open");
    assert_eq!(opened.action, CreateAction::Created);
    let name = opened.open.path().await.expect("a path");
    assert!(name.starts_with("new (conflicted copy"), "{name}");
    let receipt = upload.commit(None).await.expect("committed");
    assert_eq!(receipt.copy, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_nfs_writer_under_fork_writes_to_its_copy() {
    let world = World::with(&[rule(RuleProtocol::Nfs3, OnConflict::Fork)]).await;
    let (smb, nfs, ftp) = doors(&world);
    put(&ftp, "f.txt", b"one").await;
    let open = smb
        .open(request("f.txt", READ, DENY_WRITE, Disposition::Open))
        .await
        .expect("open")
        .open;
    let node = open.content().node;
    nfs.set_attributes(node, AttributeChange::default(), Some(0), None)
        .await
        .expect("cuts its copy");
    for (offset, data) in [(0, &b"two"[..]), (3, &b"!"[..])] {
        nfs.write(node, offset, Bytes::from_static(data), Stability::Unstable)
            .await
            .expect("writes its copy");
    }
    nfs.commit(node).await.expect("commits its copy");
    let mut reserves = request("f.txt", WRITE, ShareMode::ALL, Disposition::Open);
    reserves.flags.poll = true;
    let refused = nfs.open(reserves).await.err();
    let refused = refused.expect("a copy would reserve nothing");
    assert!(matches!(refused, VfsError::Conflict(_)), "{refused}");
    open.close().await.expect("closed");
    assert_eq!(content(&ftp, "f.txt").await, b"one");
    let page = nfs
        .read_dir(nfs.root(), Cookie(0), 10)
        .await
        .expect("listed");
    assert_eq!(page.entries.len(), 2, "one copy for all writes");
    let copy = &page.entries[1].name;
    assert!(copy.starts_with("f (conflicted copy alice"), "{copy}");
    assert_eq!(content(&ftp, copy).await, b"two!");
}

/// Answers breaks as a client does: writes its dirty bytes, then gives the cache back.
#[derive(Default)]
struct Holder {
    broken: Mutex<Vec<CacheBreak>>,
    told: tokio::sync::Notify,
}

impl CacheListener for Holder {
    fn on_break(&self, notice: CacheBreak) {
        self.broken.lock().push(notice);
        self.told.notify_one();
    }
    fn on_revoked(&self, _open: OpenId) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dirty_smb_cache_comes_back_before_an_nfs_client_reads() {
    let world = World::new().await;
    let (smb, nfs, ftp) = doors(&world);
    put(&ftp, "c", b"old").await;
    let listener = Arc::new(Holder::default());
    let key = LeaseKey([7; 16]);
    let mut lease = request("c", READ_WRITE, ShareMode::ALL, Disposition::Open);
    lease.cache = CacheRequest::Lease {
        key,
        state: LeaseState(LeaseState::READ | LeaseState::HANDLE | LeaseState::WRITE),
        parent: None,
        epoch: 1,
        version: 2,
    };
    lease.listener = Some(listener.clone());
    let open = smb.open(lease).await.expect("open").open;
    let GrantedCache::Lease { state, .. } = open.cache().await else {
        panic!("no lease: {:?}", open.cache().await);
    };
    assert!(state.0 & LeaseState::WRITE != 0);
    let node = open.content().node;
    let read = {
        let nfs = nfs.clone();
        tokio::spawn(async move {
            loop {
                match nfs.read(node, 0, 10).await {
                    Err(VfsError::Delay) => tokio::task::yield_now().await,
                    other => return other,
                }
            }
        })
    };
    listener.told.notified().await;
    open.write(0, Bytes::from_static(b"dirty"), Stability::Unstable)
        .await
        .expect("the cache is written back");
    let kept = world
        .vfs
        .acknowledge_lease_break(
            [1; 16],
            key,
            LeaseState(LeaseState::READ | LeaseState::HANDLE),
        )
        .await;
    assert!(kept.is_ok(), "{kept:?}");
    let data = read.await.expect("no panic").expect("read");
    assert_eq!(flat(&data), b"dirty");
    open.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn makers_of_one_name_end_with_one_document() {
    let world = World::new().await;
    let mut makers = Vec::new();
    for host in 10..18 {
        let smb = world.tree(Protocol::Smb, host);
        makers.push(tokio::spawn(async move {
            let opened = smb
                .open(request(
                    "same",
                    READ_WRITE,
                    ShareMode::ALL,
                    Disposition::OpenIf,
                ))
                .await
                .expect("open");
            let node = opened.open.content().node;
            opened.open.close().await.expect("closed");
            (opened.action, node)
        }));
    }
    let mut created = 0;
    let mut nodes = Vec::new();
    for maker in makers {
        let (action, node) = maker.await.expect("no panic");
        created += usize::from(action == CreateAction::Created);
        nodes.push(node);
    }
    nodes.dedup();
    assert_eq!((created, nodes.len()), (1, 1));
}

fn doors(world: &World) -> (Tree, Tree, Tree) {
    (
        world.tree(Protocol::Smb, 1),
        world.tree(Protocol::Nfs3, 2),
        world.tree(Protocol::Ftp, 3),
    )
}
