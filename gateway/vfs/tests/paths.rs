//! The operations one by one, over a real repository and content folder.

mod common;

use bytes::Bytes;
use common::*;
use sluice_vfs::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_open_writes_every_door_reads_and_a_close_makes_durable() {
    let world = World::new().await;
    let smb = world.tree(Protocol::Smb, 1);
    let opened = smb
        .open(request(
            "a.txt",
            READ_WRITE,
            ShareMode::ALL,
            Disposition::Create,
        ))
        .await
        .expect("created");
    assert_eq!(opened.action, CreateAction::Created);
    opened
        .open
        .write(0, Bytes::from_static(b"hello world"), Stability::Unstable)
        .await
        .expect("written");
    let nfs = world.tree(Protocol::Nfs3, 2);
    let node = nfs.lookup(nfs.root(), "a.txt").await.expect("found");
    assert_eq!(node.size, 11, "attributes include uncommitted writes");
    let read = nfs.read(node.id, 6, 100).await.expect("read");
    assert_eq!(flat(&read), b"world");
    assert!(read.eof);
    assert_eq!(world.repo.get(node.id).await.expect("node").size, 0);
    let after = opened
        .open
        .close()
        .await
        .expect("closed")
        .expect("is there");
    assert_eq!(after.size, 11);
    assert_eq!(world.repo.get(node.id).await.expect("node").size, 11);
    assert_eq!(
        content(&world.tree(Protocol::Ftp, 3), "a.txt").await,
        b"hello world"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn momentary_writes_are_durable_after_a_commit_and_survive_a_new_start() {
    let world = World::new().await;
    let nfs = world.tree(Protocol::Nfs3, 2);
    let made = nfs
        .create(nfs.root(), "n", CreateMode::Guarded, NewNode::default())
        .await
        .expect("created");
    let refused = nfs
        .create(nfs.root(), "n", CreateMode::Guarded, NewNode::default())
        .await;
    assert_eq!(refused.expect_err("exists"), VfsError::Exists);
    nfs.write(made.id, 0, Bytes::from_static(b"abc"), Stability::Unstable)
        .await
        .expect("written");
    nfs.commit(made.id).await.expect("committed");
    nfs.write(made.id, 3, Bytes::from_static(b"def"), Stability::Durable)
        .await
        .expect("written");
    let verifier = world.vfs.write_verifier();
    assert_eq!(world.repo.get(made.id).await.expect("node").size, 6);
    nfs.write(made.id, 6, Bytes::from_static(b"ghi"), Stability::Unstable)
        .await
        .expect("written");
    world.vfs.shutdown().await.expect("stops cleanly");
    world.repo.close().await.expect("closes");
    let World { folder, .. } = world;
    let world = World::open(folder, &[]).await;
    assert_eq!(
        world.vfs.write_verifier(),
        verifier,
        "a clean stop loses nothing"
    );
    let ftp = world.tree(Protocol::Ftp, 3);
    assert_eq!(content(&ftp, "n").await, b"abcdefghi");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_made_listed_moved_and_removed() {
    let world = World::new().await;
    let nfs = world.tree(Protocol::Nfs3, 2);
    let dir = nfs
        .make_node(nfs.root(), "d", NewNode::default())
        .await
        .expect("a folder");
    assert_eq!(dir.kind, NodeKind::Directory);
    let ftp = world.tree(Protocol::Ftp, 3);
    put(&ftp, "d/one", b"1").await;
    put(&ftp, "d/two", b"22").await;
    let page = nfs.read_dir(dir.id, Cookie(0), 10).await.expect("listed");
    let names: Vec<&str> = page.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["one", "two"]);
    assert!(page.end);
    nfs.rename(dir.id, "one", nfs.root(), "uno", false)
        .await
        .expect("moved");
    assert_eq!(content(&ftp, "uno").await, b"1");
    let refused = nfs.rename(nfs.root(), "uno", dir.id, "two", false).await;
    assert_eq!(refused.expect_err("taken"), VfsError::Exists);
    nfs.rename(nfs.root(), "uno", dir.id, "two", true)
        .await
        .expect("replaced");
    assert_eq!(content(&ftp, "d/two").await, b"1");
    let refused = nfs.remove(nfs.root(), "d", RemoveKind::Directory).await;
    assert_eq!(refused.expect_err("full"), VfsError::NotEmpty);
    nfs.remove(dir.id, "two", RemoveKind::NotDirectory)
        .await
        .expect("removed");
    nfs.remove(nfs.root(), "d", RemoveKind::Directory)
        .await
        .expect("removed");
    let gone = nfs.lookup(nfs.root(), "d").await;
    assert_eq!(gone.expect_err("gone"), VfsError::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_whole_or_not_there() {
    let world = World::new().await;
    let ftp = world.tree(Protocol::Ftp, 3);
    let mut upload = ftp
        .upload(&path("u"), UploadMode::Replace)
        .await
        .expect("begun");
    upload
        .write(Bytes::from_static(b"half"))
        .await
        .expect("taken");
    let hidden = ftp.resolve(&path("u")).await;
    assert_eq!(hidden.expect_err("not visible"), VfsError::NotFound);
    upload.abort().await;
    let hidden = ftp.resolve(&path("u")).await;
    assert_eq!(hidden.expect_err("aborted"), VfsError::NotFound);
    put(&ftp, "u", b"first").await;
    let mut upload = ftp
        .upload(&path("u"), UploadMode::Replace)
        .await
        .expect("begun");
    upload
        .write(Bytes::from_static(b"second!"))
        .await
        .expect("taken");
    assert_eq!(
        content(&ftp, "u").await,
        b"first",
        "readable until the commit"
    );
    let receipt = upload.commit(None).await.expect("committed");
    assert_eq!(receipt.attributes.size, 7);
    assert_eq!(receipt.copy, None);
    assert_eq!(content(&ftp, "u").await, b"second!");
    let mut append = ftp
        .upload(&path("u"), UploadMode::Append)
        .await
        .expect("begun");
    append
        .write(Bytes::from_static(b" third"))
        .await
        .expect("taken");
    append.commit(None).await.expect("committed");
    assert_eq!(content(&ftp, "u").await, b"second! third");
    let mut resumed = ftp
        .upload(&path("u"), UploadMode::ResumeAt(8))
        .await
        .expect("begun");
    resumed
        .write(Bytes::from_static(b"last"))
        .await
        .expect("taken");
    resumed.commit(None).await.expect("committed");
    assert_eq!(content(&ftp, "u").await, b"second! last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_marked_for_deletion_goes_with_its_last_open() {
    let world = World::new().await;
    let smb = world.tree(Protocol::Smb, 1);
    put(&world.tree(Protocol::Ftp, 3), "x", b"x").await;
    let delete = request(
        "x",
        READ | AccessMask::DELETE,
        ShareMode::ALL,
        Disposition::Open,
    );
    let first = smb.open(delete.clone()).await.expect("open");
    let second = smb.open(delete.clone()).await.expect("open");
    first.open.set_delete_pending(true).await.expect("marked");
    assert!(second.open.delete_pending().await);
    let refused = smb.open(delete.clone()).await.map(|_| ());
    assert_eq!(refused.expect_err("pending"), VfsError::DeletePending);
    first.open.close().await.expect("closed");
    assert!(smb.resolve(&path("x")).await.is_ok(), "still open");
    assert_eq!(second.open.close().await.expect("closed"), None);
    let gone = smb.resolve(&path("x")).await;
    assert_eq!(gone.expect_err("gone"), VfsError::NotFound);
    let mut on_close = request(
        "y",
        READ | AccessMask::DELETE,
        ShareMode::ALL,
        Disposition::Create,
    );
    on_close.flags.delete_on_close = true;
    let open = smb.open(on_close).await.expect("open").open;
    assert!(smb.resolve(&path("Y")).await.is_ok(), "there while open");
    assert_eq!(open.close().await.expect("closed"), None);
    assert!(smb.resolve(&path("y")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_document_stays_readable_for_who_has_it_open() {
    let world = World::new().await;
    put(&world.tree(Protocol::Ftp, 3), "x", b"still here").await;
    let smb = world.tree(Protocol::Smb, 1);
    let open = smb
        .open(request("x", READ_WRITE, ShareMode::ALL, Disposition::Open))
        .await
        .expect("open")
        .open;
    let nfs = world.tree(Protocol::Nfs3, 2);
    nfs.remove(nfs.root(), "x", RemoveKind::NotDirectory)
        .await
        .expect("removed");
    assert!(nfs.lookup(nfs.root(), "x").await.is_err());
    assert_eq!(flat(&open.read(0, 100).await.expect("read")), b"still here");
    open.write(0, Bytes::from_static(b"S"), Stability::Durable)
        .await
        .expect("written");
    assert_eq!(open.close().await.expect("closed"), None);
    let node = open.content().node;
    assert!(
        world.repo.get(node).await.is_err(),
        "released with the last open"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_have_their_own_bytes_and_lengths() {
    let world = World::new().await;
    let smb = world.tree(Protocol::Smb, 1);
    put(&world.tree(Protocol::Ftp, 3), "s", b"main").await;
    let mut stream = request("s", READ_WRITE, ShareMode::ALL, Disposition::OpenIf);
    stream.stream = Some("note".to_owned());
    let opened = smb.open(stream).await.expect("open");
    assert_eq!(opened.action, CreateAction::Created);
    opened
        .open
        .write(0, Bytes::from_static(b"in the stream"), Stability::Unstable)
        .await
        .expect("written");
    assert_eq!(opened.open.attributes().await.expect("attributes").size, 13);
    let streams = opened.open.streams().await.expect("streams");
    assert_eq!(streams.len(), 1);
    assert_eq!(streams[0].size, 13);
    opened.open.close().await.expect("closed");
    let node = smb.resolve(&path("s")).await.expect("found");
    assert_eq!(node.size, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overwriting_empties_and_supersede_tells_so() {
    let world = World::new().await;
    let smb = world.tree(Protocol::Smb, 1);
    put(&world.tree(Protocol::Ftp, 3), "o", b"old content").await;
    let over = request("o", READ_WRITE, ShareMode::ALL, Disposition::OverwriteIf);
    let opened = smb.open(over).await.expect("open");
    assert_eq!(opened.action, CreateAction::Overwritten);
    assert_eq!(opened.attributes.size, 0);
    opened.open.close().await.expect("closed");
    let over = request("o", READ_WRITE, ShareMode::ALL, Disposition::Supersede);
    let opened = smb.open(over).await.expect("open");
    assert_eq!(opened.action, CreateAction::Superseded);
    assert_eq!(content(&world.tree(Protocol::Ftp, 3), "o").await, b"");
}
