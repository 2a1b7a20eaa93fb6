//! The repository fails in the middle: the client is told, nothing that it wrote is lost, and the next try goes through.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use sluice_repo::{NodeId, RepoError};
use sluice_repo_suite::Fault;
use sluice_vfs::*;

/// As many times as a commit is tried.
const TRIES: usize = 4;

async fn writer(world: &World) -> std::sync::Arc<Open> {
    let smb = world.tree(Protocol::Smb, 1);
    let opened = smb
        .open(request(
            "f",
            READ_WRITE,
            ShareMode::ALL,
            Disposition::OpenIf,
        ))
        .await
        .expect("open");
    opened.open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_commit_is_told_and_its_bytes_are_committed_by_the_next() {
    let world = World::new().await;
    let open = writer(&world).await;
    open.write(0, Bytes::from_static(b"first"), Stability::Unstable)
        .await
        .expect("written");
    world
        .faults
        .inject("commit", 0, Fault::Error(RepoError::NoSpace));
    let told = open.flush().await;
    assert_eq!(told.expect_err("told"), VfsError::NoSpace);
    assert_eq!(flat(&open.read(0, 9).await.expect("read")), b"first");
    open.write(5, Bytes::from_static(b" second"), Stability::Unstable)
        .await
        .expect("written");
    open.flush().await.expect("goes through now");
    open.close().await.expect("closed");
    let ftp = world.tree(Protocol::Ftp, 3);
    assert_eq!(content(&ftp, "f").await, b"first second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_reply_was_lost_is_not_made_twice() {
    let world = World::new().await;
    let open = writer(&world).await;
    world.faults.inject("commit", 0, Fault::LostReply);
    open.write(0, Bytes::from_static(b"once"), Stability::Durable)
        .await
        .expect("tried again under its operation id");
    let node = open.content().node;
    let versions = world.repo.versions(node).await.expect("versions");
    assert_eq!(versions.len(), 1);
    open.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_carried_out_unheard_does_not_stop_the_next() {
    let world = World::new().await;
    let open = writer(&world).await;
    for _ in 0..TRIES {
        world.faults.inject("commit", 0, Fault::LostReply);
    }
    open.write(0, Bytes::from_static(b"unheard"), Stability::Unstable)
        .await
        .expect("written");
    let told = open.flush().await;
    assert!(matches!(told, Err(VfsError::Unavailable(_))), "{told:?}");
    assert_eq!(world.faults.pending(), 0);
    open.write(7, Bytes::from_static(b" and on"), Stability::Durable)
        .await
        .expect("finds its own commit");
    open.close().await.expect("closed");
    let ftp = world.tree(Protocol::Ftp, 3);
    assert_eq!(content(&ftp, "f").await, b"unheard and on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_document_made_over_nfs_is_answered_as_durable_only_when_it_is() {
    let world = World::new().await;
    let nfs = world.tree(Protocol::Nfs3, 2);
    let made = |name: &'static str, mode| nfs.create(nfs.root(), name, mode, NewNode::default());
    let guarded = made("g", CreateMode::Guarded).await.expect("made");
    // The timers ask for it from time to time, too, and would use up a single fault.
    for _ in 0..50 {
        let fault = Fault::Error(RepoError::Unavailable("no disk".into()));
        world.faults.inject("settle", 0, fault);
    }
    let told = nfs.commit(guarded.id).await;
    assert!(matches!(told, Err(VfsError::Unavailable(_))), "{told:?}");
    let empty = Bytes::new();
    let told = nfs
        .write(guarded.id, 0, empty, Stability::Durable)
        .await
        .map(drop);
    assert!(matches!(told, Err(VfsError::Unavailable(_))), "{told:?}");
    // Bytes bring the document along when they are committed.
    let unchecked = CreateMode::Unchecked { truncate: false };
    let made = made("u", unchecked).await.expect("made");
    nfs.write(made.id, 0, Bytes::from_static(b"x"), Stability::Durable)
        .await
        .expect("durable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_can_not_be_committed_leaves_the_old_content() {
    let world = World::new().await;
    let ftp = world.tree(Protocol::Ftp, 3);
    put(&ftp, "u", b"old").await;
    world
        .faults
        .inject("commit", 0, Fault::Error(RepoError::NoSpace));
    let mut upload = ftp
        .upload(&path("u"), UploadMode::Replace)
        .await
        .expect("begun");
    upload
        .write(Bytes::from_static(b"new"))
        .await
        .expect("taken");
    let told = upload.commit(None).await;
    assert_eq!(told.expect_err("told"), VfsError::NoSpace);
    assert_eq!(content(&ftp, "u").await, b"old");
    put(&ftp, "u", b"newer").await;
    assert_eq!(content(&ftp, "u").await, b"newer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_committed_unheard_is_what_everybody_sees_and_can_be_replaced() {
    let world = World::new().await;
    let ftp = world.tree(Protocol::Ftp, 3);
    put(&ftp, "u", b"old").await;
    for _ in 0..TRIES {
        world.faults.inject("commit", 0, Fault::LostReply);
    }
    let mut upload = ftp
        .upload(&path("u"), UploadMode::Replace)
        .await
        .expect("begun");
    upload
        .write(Bytes::from_static(b"new"))
        .await
        .expect("taken");
    let told = upload.commit(None).await;
    assert!(matches!(told, Err(VfsError::Unavailable(_))), "{told:?}");
    assert_eq!(content(&ftp, "u").await, b"new");
    put(&ftp, "u", b"newer").await;
    assert_eq!(content(&ftp, "u").await, b"newer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_open_has_created_is_durable_when_this_one_is_flushed_or_closed() {
    let world = World::new().await;
    let creator = writer(&world).await;
    let other = world.tree(Protocol::Smb, 2);
    let wanted = || {
        request(
            "f",
            AccessMask::READ_DATA,
            ShareMode::ALL,
            Disposition::Open,
        )
    };
    let found = other.open(wanted()).await.expect("found").open;
    let fault = || Fault::Error(RepoError::Unavailable("no disk".into()));
    world.faults.inject("settle_seen", 0, fault());
    let told = found.flush().await;
    assert!(matches!(told, Err(VfsError::Unavailable(_))), "{told:?}");
    found.flush().await.expect("durable");
    world.faults.inject("settle_seen", 0, fault());
    let told = found.close().await;
    assert!(matches!(told, Err(VfsError::Unavailable(_))), "{told:?}");
    assert_eq!(world.faults.pending(), 0);
    creator.close().await.expect("durable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_changes_can_not_become_durable_any_more_is_told_to_whoever_watches() {
    let world = World::new().await;
    assert_eq!(world.vfs.sound(), Ok(()));
    let fault = Fault::Error(RepoError::Unavailable("start the node again".into()));
    world.faults.inject("sound", 0, fault);
    let told = world.vfs.sound();
    assert!(matches!(told, Err(VfsError::Unavailable(_))), "{told:?}");
}

#[tokio::test]
async fn what_was_noted_in_the_last_run_is_forgotten_after_the_grace_though_nothing_serves_nfs() {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let world = World::open(folder.clone(), &[]).await;
    let _ = world.vfs.note_lock(NodeId(7)).await.expect("noted");
    world.vfs.shutdown().await.expect("all is committed");
    world.repo.close().await.expect("closes");
    drop(world);
    let times = VfsTimes {
        reclaim_grace: Duration::from_millis(200),
        forget_notes: Duration::from_millis(50),
        ..times()
    };
    let world = World::open_with(folder, &[], times).await;
    assert_eq!(world.repo.noted_locked().await, Ok(vec![NodeId(7)]));
    world.vfs.keep_left_locks().await.expect("kept");
    let forgotten = async {
        while world.repo.noted_locked().await != Ok(vec![]) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let forgotten = tokio::time::timeout(Duration::from_secs(20), forgotten);
    forgotten.await.expect("forgotten");
}
