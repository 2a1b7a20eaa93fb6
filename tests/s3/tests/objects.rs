//! The content store on a real S3 server that is slow, fails, loses answers or lies: nothing acknowledged is lost, errors are
//! clear, and no call goes on for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use sluice_repo::{ContentStore, ObjectId, RepoError, WorkingContent};
use sluice_repo_content::{Objects, Options, S3, S3Options, Store};
use sluice_s3_tests::{BUCKET, Fault, KEY_ID, S3Server, SECRET};

fn options(server: &S3Server) -> S3Options {
    S3Options {
        endpoint: Some(server.endpoint()),
        region: Some("us-east-1".into()),
        credentials: Some((KEY_ID.into(), SECRET.into())),
        allow_http: true,
        request_timeout: Duration::from_secs(3),
        retry_for: Duration::from_secs(4),
        ..S3Options::new(BUCKET, "a/b")
    }
}

async fn start() -> (S3Server, Arc<S3>, Store) {
    let server = S3Server::start().await.expect("server");
    let objects = Arc::new(S3::new(options(&server)).expect("client"));
    let store = Store::new(
        objects.clone(),
        Options {
            uploads: 16,
            ..Options::default()
        },
    )
    .expect("store");
    (server, objects, store)
}

/// Bytes that differ from place to place.
fn bytes(len: usize, seed: u32) -> Bytes {
    (0..len as u32 / 4)
        .flat_map(|n| (n.wrapping_mul(0x9e37_79b9) ^ seed).to_le_bytes())
        .collect()
}

async fn write(content: &dyn WorkingContent, data: &Bytes) {
    for at in (0..data.len()).step_by(1 << 20) {
        let part = data.slice(at..data.len().min(at + (1 << 20)));
        content.write(at as u64, part).await.expect("write");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_goes_up_and_comes_back_and_its_objects_are_listed_and_deleted() {
    let (server, objects, store) = start().await;
    let content = store.working(Arc::default());
    let data = bytes(9 << 20, 1);
    write(&*content, &data).await;
    let sealed = content.seal().await.expect("seal");
    let fresh = Store::new(objects.clone(), Options::default()).expect("a store without a cache");
    let read = fresh
        .read(&sealed.manifest, 0, u32::MAX)
        .await
        .expect("read")
        .concat();
    assert!(read == data);
    let part = fresh
        .read(&sealed.manifest, 5_000_001, 70_000)
        .await
        .expect("read");
    assert!(part.concat() == data[5_000_001..5_070_001]);
    let mut listed = objects.list().await.expect("list");
    listed.sort();
    let mut named: Vec<(ObjectId, u64)> = sealed
        .manifest
        .objects
        .iter()
        .map(|o| (o.id, u64::from(o.len)))
        .collect();
    named.sort();
    assert_eq!(listed, named);
    assert!(server.bucket().join("a/b/v1").is_dir());
    let ids: Vec<ObjectId> = listed.iter().map(|(id, _)| *id).collect();
    objects.delete(&ids).await.expect("delete");
    objects
        .delete(&ids[..1])
        .await
        .expect("one that is gone is no error");
    assert_eq!(objects.list().await, Ok(vec![]));
    assert_eq!(store.probe().await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passing_failures_are_not_seen() {
    let (server, objects, store) = start().await;
    let content = store.working(Arc::default());
    let data = bytes(8 << 20, 2);
    for fault in [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Reset,
        Fault::LostReply,
        Fault::Slow(Duration::from_millis(300)),
    ] {
        server.inject(Method::PUT, 2, fault);
    }
    write(&*content, &data).await;
    let sealed = content.seal().await.expect("seal");
    let fresh = Store::new(objects, Options::default()).expect("store");
    for fault in [
        Fault::Status(500),
        Fault::Reset,
        Fault::Truncated(100_000),
        Fault::Changed,
    ] {
        server.inject(Method::GET, 1, fault);
    }
    let read = fresh
        .read(&sealed.manifest, 0, u32::MAX)
        .await
        .expect("read");
    assert!(read.concat() == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stays_down_is_told_in_time_and_nothing_acknowledged_is_lost() {
    let (server, _, store) = start().await;
    let content = store.working(Arc::default());
    let data = bytes(5 << 20, 3);
    server.inject(Method::PUT, usize::MAX, Fault::Status(503));
    write(&*content, &data).await;
    let begin = Instant::now();
    let refused = content.seal().await.map(|_| ());
    assert!(
        matches!(&refused, Err(RepoError::Unavailable(why)) if why.contains("s3://documents/a/b") && why.contains("503")),
        "{refused:?}"
    );
    assert!(!format!("{refused:?}").contains(SECRET));
    let tries = server.requests(&Method::PUT);
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        (4..100).contains(&tries),
        "{tries} tries, with growing pauses"
    );
    assert!(
        content.read(0, u32::MAX).await.expect("read").concat() == data,
        "still in memory"
    );
    server.heal();
    let sealed = content.seal().await.expect("it is back");
    assert!(
        store
            .read(&sealed.manifest, 0, u32::MAX)
            .await
            .expect("read")
            .concat()
            == data
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_answer_is_given_up_in_time() {
    let (server, objects, _) = start().await;
    server.inject(
        Method::PUT,
        usize::MAX,
        Fault::Slow(Duration::from_secs(60)),
    );
    let begin = Instant::now();
    let refused = objects.put(ObjectId(1), vec![bytes(4096, 4)]).await;
    assert!(
        matches!(refused, Err(RepoError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_lands_late_changes_nothing_that_is_read() {
    let (server, objects, store) = start().await;
    let content = store.working(Arc::default());
    let data = bytes(4 << 20, 5);
    server.inject(Method::PUT, 1, Fault::Late(Duration::from_millis(700)));
    write(&*content, &data).await;
    let sealed = content.seal().await.expect("the second try");
    server.settle().await;
    let fresh = Store::new(objects.clone(), Options::default()).expect("store");
    assert!(
        fresh
            .read(&sealed.manifest, 0, u32::MAX)
            .await
            .expect("read")
            .concat()
            == data
    );
    assert_eq!(
        objects.list().await.expect("list").len(),
        sealed.manifest.objects.len(),
        "the late one has the same name"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_and_missing_objects_are_told_as_such() {
    let (server, objects, store) = start().await;
    let content = store.working(Arc::default());
    write(&*content, &bytes(1 << 20, 6)).await;
    let sealed = content.seal().await.expect("seal");
    let fresh = Store::new(objects.clone(), Options::default()).expect("store");
    server.inject(Method::GET, 2, Fault::Changed);
    let read = fresh.read(&sealed.manifest, 0, u32::MAX).await;
    assert!(matches!(read, Err(RepoError::Corrupt(_))), "{read:?}");
    let id = sealed.manifest.objects[0].id;
    objects.delete(&[id]).await.expect("delete");
    let read = fresh.read(&sealed.manifest, 0, u32::MAX).await;
    assert!(
        matches!(&read, Err(RepoError::Corrupt(why)) if why.contains("missing")),
        "{read:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_claimed_once_and_wrong_access_is_told() {
    let (server, objects, _) = start().await;
    let other = S3::new(options(&server)).expect("another node");
    let claims = futures::join!(objects.claim("one"), other.claim("one"));
    assert_eq!(claims, (Ok(()), Ok(())));
    let refused = other.claim("two").await;
    assert!(
        matches!(&refused, Err(RepoError::InUse(why)) if why.contains("another repository")),
        "{refused:?}"
    );
    assert_eq!(objects.list().await, Ok(vec![]), "the mark is no object");
    let wrong = S3Options {
        credentials: Some((KEY_ID.into(), "wrong".into())),
        ..options(&server)
    };
    let refused = S3::new(wrong).expect("client").claim("one").await;
    assert!(
        matches!(&refused, Err(RepoError::ReadOnly(why)) if why.contains("s3://documents")),
        "{refused:?}"
    );
    server.inject(Method::PUT, 1, Fault::Status(404));
    let refused = objects.put(ObjectId(1), vec![bytes(16, 7)]).await;
    assert!(
        matches!(&refused, Err(RepoError::Unavailable(why)) if why.contains("404")),
        "a bucket that is not there: {refused:?}"
    );
    server.inject(Method::PUT, 1, Fault::Status(403));
    let refused = objects.put(ObjectId(1), vec![bytes(16, 7)]).await;
    assert!(
        matches!(&refused, Err(RepoError::ReadOnly(_))),
        "{refused:?}"
    );
}
