//! Quotas of shares: what counts, who is refused, and when there is room again.

mod common;

use bytes::Bytes;
use common::*;
use sluice_vfs::*;

const LIMIT: u64 = 100_000;

async fn limited() -> World {
    let mut world = World::new().await;
    limit(&mut world, LIMIT).await;
    world
}

async fn limit(world: &mut World, bytes: u64) {
    let change = ShareChange {
        quota_bytes: Some(bytes),
        ..ShareChange::default()
    };
    let admin = world.vfs.admin();
    admin.set_share("docs", change).await.expect("set");
    world.share = world.vfs.share(Protocol::Smb, "docs").expect("the share");
}

fn bytes(len: u64) -> Bytes {
    Bytes::from(vec![7; len as usize])
}

async fn open(tree: &Tree, name: &str) -> std::sync::Arc<Open> {
    let request = request(name, READ_WRITE, ShareMode::ALL, Disposition::OpenIf);
    tree.open(request).await.expect("open").open
}

async fn store(tree: &Tree, name: &str, len: u64) -> Result<(), VfsError> {
    let mut upload = tree.upload(&path(name), UploadMode::Replace).await?;
    upload.write(bytes(len)).await?;
    upload.commit(None).await.map(|_| ())
}

async fn free(tree: &Tree) -> u64 {
    let space = tree.space().await.expect("space");
    assert_eq!(space.total, LIMIT);
    space.free
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_beyond_the_quota_is_refused_through_every_door_and_nothing_else_is() {
    let world = limited().await;
    let smb = world.tree(Protocol::Smb, 1);
    let file = open(&smb, "a").await;
    file.write(0, bytes(60_000), Stability::Unstable)
        .await
        .expect("fits");
    assert_eq!(free(&smb).await, 40_000, "what is not committed yet counts");
    let refused = file.write(60_000, bytes(40_001), Stability::Unstable).await;
    assert_eq!(refused.err(), Some(VfsError::QuotaExceeded));
    assert_eq!(file.set_size(100_001).await, Err(VfsError::QuotaExceeded));
    file.write(0, bytes(60_000), Stability::Durable)
        .await
        .expect("no growth");
    let ftp = world.tree(Protocol::Ftp, 2);
    let refused = store(&ftp, "b", 40_001).await;
    assert_eq!(refused, Err(VfsError::QuotaExceeded));
    store(&ftp, "b", 40_000).await.expect("fits");
    assert_eq!(free(&ftp).await, 0);
    let nfs = world.tree(Protocol::Nfs3, 3);
    let node = nfs
        .create(nfs.root(), "c", CreateMode::Guarded, NewNode::default())
        .await
        .expect("a name costs nothing")
        .id;
    let refused = nfs.write(node, 0, bytes(1), Stability::Unstable).await;
    assert_eq!(refused.err(), Some(VfsError::QuotaExceeded));
    let cut = nfs
        .set_attributes(node, AttributeChange::default(), Some(1), None)
        .await;
    assert_eq!(cut.err(), Some(VfsError::QuotaExceeded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_cut_or_given_up_makes_room_at_once() {
    let world = limited().await;
    let (smb, ftp) = (world.tree(Protocol::Smb, 1), world.tree(Protocol::Ftp, 2));
    store(&ftp, "a", 90_000).await.expect("fits");
    store(&ftp, "a", 95_000)
        .await
        .expect("only the difference counts");
    assert_eq!(store(&ftp, "b", 10_000).await, Err(VfsError::QuotaExceeded));
    store(&ftp, "a", 50_000).await.expect("shorter");
    store(&ftp, "b", 50_000).await.expect("fits now");
    ftp.remove(ftp.root(), "b", RemoveKind::NotDirectory)
        .await
        .expect("remove");
    let file = open(&smb, "a").await;
    file.write(50_000, bytes(50_000), Stability::Durable)
        .await
        .expect("fits now");
    file.set_size(10_000).await.expect("cut");
    file.flush().await.expect("flush");
    let mut upload = ftp
        .upload(&path("c"), UploadMode::Replace)
        .await
        .expect("upload");
    upload.write(bytes(90_000)).await.expect("fits");
    assert_eq!(free(&ftp).await, 0, "an upload under way counts");
    upload.abort().await;
    assert_eq!(free(&ftp).await, 90_000);
    let stream = OpenRequest {
        stream: Some("s".to_owned()),
        ..request("a", READ_WRITE, ShareMode::ALL, Disposition::OpenIf)
    };
    let stream = smb.open(stream).await.expect("open").open;
    let refused = stream.write(0, bytes(90_001), Stability::Durable).await;
    assert_eq!(refused.err(), Some(VfsError::QuotaExceeded));
    stream
        .write(0, bytes(30_000), Stability::Durable)
        .await
        .expect("fits");
    assert_eq!(free(&smb).await, 60_000, "streams count");
    smb.rename(smb.root(), "a", smb.root(), "z", false)
        .await
        .expect("rename");
    assert_eq!(free(&smb).await, 60_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_the_same_after_a_restart_and_a_new_quota_holds_at_once() {
    let world = limited().await;
    store(&world.tree(Protocol::Ftp, 2), "a", 70_000)
        .await
        .expect("fits");
    world.vfs.shutdown().await.expect("stop");
    world.repo.close().await.expect("close");
    let folder = world.folder.clone();
    drop(world);
    let mut world = World::open(folder, &[]).await;
    let ftp = world.tree(Protocol::Ftp, 2);
    assert_eq!(store(&ftp, "b", 30_001).await, Err(VfsError::QuotaExceeded));
    limit(&mut world, 2 * LIMIT).await;
    store(&ftp, "b", 130_000)
        .await
        .expect("fits now, also for who came in before");
    limit(&mut world, 0).await;
    store(&world.tree(Protocol::Ftp, 2), "c", 10 * LIMIT)
        .await
        .expect("no quota");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_side_by_side_stay_within_the_quota_and_can_use_all_of_it() {
    let world = limited().await;
    let mut tasks = Vec::new();
    for host in 1..=4 {
        let tree = world.tree(Protocol::Smb, host);
        tasks.push(tokio::spawn(async move {
            let file = open(&tree, &format!("f{host}")).await;
            let mut len = 0;
            while file
                .write(len, bytes(1_000), Stability::Unstable)
                .await
                .is_ok()
            {
                len += 1_000;
                if len % 7_000 == 0 {
                    file.flush().await.expect("flush");
                }
            }
            file.flush().await.expect("flush");
            len
        }));
    }
    let mut total = 0;
    for task in tasks {
        total += task.await.expect("writer");
    }
    let held = world.repo.usage(world.share.root).await.expect("usage");
    assert_eq!(held, total);
    assert!((LIMIT - 4_000..=LIMIT).contains(&held), "{held}");
}
