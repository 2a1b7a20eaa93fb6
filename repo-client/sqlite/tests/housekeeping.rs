//! gc and check over both stores (invariant I8): what is needed stays, what is not goes, also while uploads are under way.

use std::sync::Arc;

use bytes::Bytes;
use sluice_repo::{
    ContentStore, ROOT, RepoError, Repository, VersionPolicy, WorkingContent, check_all,
    collect_all, collect_given_up,
};
use sluice_repo_content::{Folder, Options as ContentOptions, Store};
use sluice_repo_sqlite::{Options, SqliteRepository};
use sluice_repo_suite::{Fault, FaultyRepository, commit, commit_of, made, main_content, unlink};
use tempfile::TempDir;

async fn open() -> (SqliteRepository, Store, TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let repo = SqliteRepository::open(Options::new(folder.path().join("meta.db")))
        .await
        .expect("open");
    let objects = Folder::alone(folder.path().join("content")).expect("content");
    let store = Store::new(Arc::new(objects), ContentOptions::default()).expect("store");
    (repo, store, folder)
}

async fn publish(
    repo: &SqliteRepository,
    content: &dyn WorkingContent,
    node: sluice_repo::NodeId,
    base: u64,
) {
    let sealed = content.seal().await.expect("seal");
    let mut next = commit_of(main_content(node), base, u128::from(base) + 1, "");
    next.manifest = sealed.manifest.clone();
    next.versions = Some(VersionPolicy { count: 0, age_s: 0 });
    commit(repo, next).await.expect("commit");
    content.committed(&sealed);
}

async fn stored(store: &Store) -> usize {
    store.list().await.expect("list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_under_way_survive_a_collection() {
    let (repo, store, _folder) = open().await;
    let node = made(&repo, ROOT, "x").await.id;
    let content = store.working(Arc::default());
    for n in 0..9u64 {
        content
            .write(n << 20, Bytes::from(vec![n as u8; 1 << 20]))
            .await
            .expect("write");
    }
    let sealed = content.seal().await.expect("seal");
    let report = collect_all(&repo, &store, 0).await.expect("gc");
    assert_eq!((report.unreferenced, report.kept), (0, 3));
    publish(&repo, &*content, node, 0).await;
    drop((content, sealed));
    assert_eq!(
        collect_all(&repo, &store, 0)
            .await
            .map(|r| (r.unreferenced, r.kept)),
        Ok((0, 3))
    );
    assert_eq!(
        check_all(&repo, &store, false, true)
            .await
            .map(|r| r.problems),
        Ok(vec![])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lost_versions_and_documents_held_is_deleted_once_nobody_reads_it() {
    let (repo, store, _folder) = open().await;
    let node = made(&repo, ROOT, "x").await.id;
    let content = store.working(Arc::default());
    content
        .write(0, Bytes::from(vec![1; 1 << 20]))
        .await
        .expect("write");
    publish(&repo, &*content, node, 0).await;
    let reader = store.working(repo.head(main_content(node)).await.expect("head").manifest);
    content
        .write(0, Bytes::from(vec![2; 1 << 20]))
        .await
        .expect("write");
    publish(&repo, &*content, node, 1).await;
    assert_eq!(
        (
            collect_given_up(&repo, &store, 0).await,
            stored(&store).await
        ),
        (Ok(0), 2)
    );
    assert_eq!(reader.read(0, 1).await.map(|r| r.concat()), Ok(vec![1]));
    drop(reader);
    assert_eq!(
        collect_given_up(&repo, &store, 3600).await,
        Ok(0),
        "not an hour old"
    );
    assert_eq!(
        (
            collect_given_up(&repo, &store, 0).await,
            stored(&store).await
        ),
        (Ok(1), 1)
    );
    drop(content);
    unlink(&repo, ROOT, "x").await.expect("unlink");
    assert_eq!(
        (
            collect_given_up(&repo, &store, 0).await,
            stored(&store).await
        ),
        (Ok(1), 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_are_deleted_and_missing_objects_are_told() {
    let (repo, store, _folder) = open().await;
    let node = made(&repo, ROOT, "x").await.id;
    let content = store.working(Arc::default());
    content
        .write(0, Bytes::from(vec![1; 1 << 20]))
        .await
        .expect("write");
    content.seal().await.expect("a seal that nobody commits");
    drop(content);
    let content = store.working(Arc::default());
    content
        .write(0, Bytes::from(vec![2; 1 << 20]))
        .await
        .expect("write");
    publish(&repo, &*content, node, 0).await;
    let report = collect_all(&repo, &store, 0).await.expect("gc");
    assert_eq!(
        (report.unreferenced, report.unreferenced_bytes, report.kept),
        (1, 1 << 20, 1)
    );
    let object = repo
        .head(main_content(node))
        .await
        .expect("head")
        .manifest
        .objects[0]
        .id;
    store.delete(&[object]).await.expect("lose it");
    let problems = check_all(&repo, &store, false, false)
        .await
        .expect("check")
        .problems;
    assert!(
        matches!(problems.as_slice(), [one] if one.contains("missing")),
        "{problems:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_content_is_collected_and_checked_like_objects_of_their_own() {
    let (repo, store, folder) = open().await;
    let sealed = |fill: u8| {
        let content = store.working(Arc::default());
        async move {
            let bytes = Bytes::from(vec![fill; 100_000]);
            content.write(0, bytes).await.expect("write");
            content
        }
    };
    let [one, two] = [
        made(&repo, ROOT, "one").await.id,
        made(&repo, ROOT, "two").await.id,
    ];
    publish(&repo, &*sealed(1).await, one, 0).await;
    publish(&repo, &*sealed(2).await, two, 0).await;
    let under_way = sealed(3).await;
    let pending = under_way.seal().await.expect("seal");
    drop(
        sealed(4)
            .await
            .seal()
            .await
            .expect("a seal that nobody commits"),
    );
    let report = collect_all(&repo, &store, 0).await.expect("gc");
    assert_eq!((report.unreferenced, report.kept), (1, 3));
    publish(&repo, &*sealed(5).await, two, 1).await;
    let report = collect_all(&repo, &store, 0).await.expect("gc");
    assert_eq!(
        (report.given_up, report.unreferenced, report.kept),
        (1, 0, 3)
    );
    let problems = check_all(&repo, &store, false, true)
        .await
        .map(|r| r.problems);
    assert_eq!(problems, Ok(vec![]));
    let read = store
        .read(&pending.manifest, 0, u32::MAX)
        .await
        .expect("read");
    assert!(
        read.concat() == vec![3; 100_000],
        "still there for its commit"
    );
    let packs = folder.path().join("content/v1/packs");
    let pack = std::fs::read_dir(packs).expect("packs").next();
    let pack = pack.expect("one pack").expect("entry").path();
    let mut bytes = std::fs::read(&pack).expect("read");
    let at = bytes
        .iter()
        .rposition(|b| *b == 5)
        .expect("the last one's bytes");
    bytes[at] = 6;
    std::fs::write(&pack, bytes).expect("damage");
    let problems = check_all(&repo, &store, false, true)
        .await
        .expect("check")
        .problems;
    let told = format!("node {} version 2", two.0);
    assert!(
        matches!(problems.as_slice(), [one] if one.starts_with(&told) && one.contains("checksum")),
        "{problems:?}"
    );
}

/// One seal that nobody commits, by the member of this epoch; the working content keeps it pinned at that member.
async fn left_over(store: &Store) -> Arc<dyn WorkingContent> {
    let content = store.working(Arc::default());
    content
        .write(0, Bytes::from(vec![1; 1 << 20]))
        .await
        .expect("write");
    content.seal().await.expect("seal");
    content
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_deletes_no_upload_of_another_until_that_one_is_fenced() {
    let (repo, _, folder) = open().await;
    let repo = FaultyRepository::new(Arc::new(repo));
    repo.set_members(&[7, 8, 9]);
    let member = |uploader| {
        let objects = Folder::open(folder.path().join("content")).expect("content");
        let options = ContentOptions {
            uploader,
            ..ContentOptions::default()
        };
        Store::new(Arc::new(objects), options).expect("store")
    };
    let (mine, other) = (member(7), member(8));
    let kept_by_mine = left_over(&mine).await;
    drop(left_over(&mine).await);
    drop(left_over(&other).await);
    let report = collect_all(&repo, &mine, 0).await.expect("gc");
    assert_eq!(
        (report.unreferenced, report.kept),
        (1, 2),
        "only the own one that is not pinned"
    );
    repo.set_members(&[7, 9]);
    let report = collect_all(&repo, &mine, 0).await.expect("gc");
    assert_eq!(
        (report.unreferenced, report.kept),
        (1, 1),
        "the other member is fenced"
    );
    drop(kept_by_mine);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_the_first_member_alone_deletes_what_was_given_up_and_not_before_its_time() {
    let (repo, store, _folder) = open().await;
    let content = left_over(&store).await;
    let node = made(&repo, ROOT, "x").await.id;
    publish(&repo, &*content, node, 0).await;
    drop(content);
    unlink(&repo, ROOT, "x").await.expect("unlink");
    let repo = FaultyRepository::new(Arc::new(repo));
    repo.set_members(&[0, 1]);
    assert_eq!(
        collect_given_up(&repo, &store, 0).await,
        Ok(0),
        "readers of the other member have time to tell"
    );
    repo.inject("garbage", 0, Fault::Error(RepoError::NotFound));
    repo.set_members(&[1, 2]);
    assert_eq!(collect_given_up(&repo, &store, 0).await, Ok(0));
    assert_eq!(repo.pending(), 1, "it did not even look");
}
