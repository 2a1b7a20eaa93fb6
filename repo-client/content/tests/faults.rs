//! When storage fails: a clear error, nothing lost, and it goes on when the cause is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use sluice_repo::{ContentStore, Manifest, ObjectId, RepoError, Result, WorkingContent};
use sluice_repo_content::{Folder, Objects, Options, Store};
use tempfile::TempDir;

/// Objects on a disk that can be full, and that can hold a put back.
struct Disk {
    inner: Folder,
    full: AtomicBool,
    puts: AtomicUsize,
    gate: tokio::sync::Semaphore,
}

#[async_trait]
impl Objects for Disk {
    async fn put(&self, id: ObjectId, parts: Vec<Bytes>) -> Result<()> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        let _pass = self.gate.acquire().await.expect("gate");
        if self.full.load(Ordering::Relaxed) {
            Err(RepoError::NoSpace)
        } else {
            self.inner.put(id, parts).await
        }
    }

    async fn get(&self, id: ObjectId, ranges: Vec<(u32, u32)>) -> Result<Vec<Bytes>> {
        self.inner.get(id, ranges).await
    }

    async fn delete(&self, ids: &[ObjectId]) -> Result<()> {
        self.inner.delete(ids).await
    }

    async fn claim(&self, repository: &str) -> Result<()> {
        self.inner.claim(repository).await
    }

    async fn list(&self) -> Result<Vec<(ObjectId, u64)>> {
        self.inner.list().await
    }

    fn room(&self) -> Result<(u64, u64)> {
        self.inner.room()
    }
}

fn disk() -> (Arc<Disk>, Store, TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let disk = Arc::new(Disk {
        inner: Folder::open(folder.path()).expect("open"),
        full: AtomicBool::new(false),
        puts: AtomicUsize::new(0),
        gate: tokio::sync::Semaphore::new(100),
    });
    let options = Options {
        buffer_bytes: 8 << 20,
        ..Options::default()
    };
    (
        disk.clone(),
        Store::new(disk, options).expect("store"),
        folder,
    )
}

fn block(fill: u8) -> Bytes {
    Bytes::from(vec![fill; 1 << 20])
}

async fn all(content: &dyn WorkingContent) -> Vec<u8> {
    content.read(0, u32::MAX).await.expect("read").concat()
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() {
    let (disk, store, _folder) = disk();
    let content = store.working(Arc::default());
    disk.full.store(true, Ordering::Relaxed);
    let mut acknowledged = 0;
    let refused = loop {
        match content
            .write(acknowledged << 20, block(acknowledged as u8))
            .await
        {
            Ok(()) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 64, "memory is bounded");
    };
    assert_eq!(refused, RepoError::NoSpace);
    assert_eq!(content.seal().await.map(|_| ()), Err(RepoError::NoSpace));
    assert_eq!(content.len(), acknowledged << 20);
    disk.full.store(false, Ordering::Relaxed);
    content
        .write(acknowledged << 20, block(acknowledged as u8))
        .await
        .expect("room again");
    let sealed = content.seal().await.expect("seal");
    let bytes = store
        .read(&sealed.manifest, 0, u32::MAX)
        .await
        .expect("read")
        .concat();
    assert_eq!(bytes.len() as u64, (acknowledged + 1) << 20);
    assert!(
        bytes
            .chunks(1 << 20)
            .enumerate()
            .all(|(n, part)| part.iter().all(|b| *b == n as u8))
    );
}

#[tokio::test]
async fn chunks_are_stored_while_more_data_arrives_and_the_writer_waits_for_a_slow_disk() {
    let (disk, store, _folder) = disk();
    let content = store.working(Arc::default());
    let hold = disk.gate.acquire_many(100).await.expect("hold");
    for n in 0..8u64 {
        content.write(n << 20, block(n as u8)).await.expect("write");
    }
    tokio::task::yield_now().await;
    assert_eq!(
        disk.puts.load(Ordering::Relaxed),
        2,
        "two full chunks are on their way"
    );
    let mut ninth = std::pin::pin!(content.write(8 << 20, block(8)));
    assert!(
        futures::poll!(&mut ninth).is_pending(),
        "8 MiB are in memory, the limit"
    );
    drop(hold);
    ninth.await.expect("write");
    content.seal().await.expect("seal");
    assert_eq!(all(&*content).await.len(), 9 << 20);
}

#[tokio::test]
async fn an_aborted_upload_leaves_no_object() {
    let (_disk, store, _folder) = disk();
    let content = store.working(Arc::default());
    for n in 0..9u64 {
        content.write(n << 20, block(1)).await.expect("write");
    }
    drop(content);
    for _ in 0..2000 {
        tokio::task::yield_now().await;
        tokio::task::spawn_blocking(|| ())
            .await
            .expect("a turn of the blocking threads");
        if store.list().await.expect("list").is_empty() {
            return;
        }
    }
    panic!(
        "objects of an aborted upload stay: {:?}",
        store.list().await
    );
}

#[tokio::test]
async fn objects_of_a_living_content_are_pinned_until_it_is_gone() {
    let (_disk, store, _folder) = disk();
    let content = store.working(Arc::default());
    content.write(0, block(1)).await.expect("write");
    let sealed = content.seal().await.expect("seal");
    let object = sealed.manifest.objects[0].id;
    assert!(store.pinned().contains(&object));
    content.committed(&sealed);
    assert!(
        store.pinned().contains(&object),
        "readers of this content need it"
    );
    drop(content);
    assert!(store.pinned().is_empty());
    assert_eq!(
        store.list().await.map(|l| l.len()),
        Ok(1),
        "what was sealed is left to gc"
    );
}

#[tokio::test]
async fn a_changed_byte_is_found_by_read_and_verify() {
    let (_disk, store, folder) = disk();
    let content = store.working(Arc::default());
    content.write(0, block(1)).await.expect("write");
    let manifest: Arc<Manifest> = content.seal().await.expect("seal").manifest;
    let id = manifest.objects[0].id.0;
    let path = folder.path().join(format!("v1/{:02x}/{id:032x}", id as u8));
    let mut bytes = std::fs::read(&path).expect("object");
    bytes[700_000] ^= 1;
    std::fs::write(&path, bytes).expect("damage it");
    assert!(
        store.read(&manifest, 0, 4096).await.is_ok(),
        "another page is whole"
    );
    assert!(matches!(
        store.read(&manifest, 690_000, 20_000).await,
        Err(RepoError::Corrupt(_))
    ));
    assert!(matches!(
        store.verify(&manifest.objects[0]).await,
        Err(RepoError::Corrupt(_))
    ));
    std::fs::remove_file(&path).expect("lose it");
    assert!(matches!(
        store.verify(&manifest.objects[0]).await,
        Err(RepoError::Corrupt(_))
    ));
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_by_its_path() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("file");
    std::fs::write(&file, b"").expect("a file where a folder should be");
    let refused = Folder::open(&file).map(|_| ());
    assert!(
        matches!(&refused, Err(RepoError::Unavailable(why)) if why.contains("file")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn bytes_come_back_as_the_slices_that_were_written() {
    let (_disk, store, _folder) = disk();
    let content = store.working(Arc::default());
    let data = block(3);
    content.write(0, data.clone()).await.expect("write");
    let read = content.read(4096, 100_000).await.expect("read");
    assert_eq!(read.len(), 1);
    assert_eq!(read[0].as_ptr(), data[4096..].as_ptr(), "no copy");
}

#[tokio::test]
async fn a_store_is_claimed_by_the_first_repository_and_refuses_others() {
    let (disk, store, folder) = disk();
    let two = Store::new(disk, Options::default()).expect("another node");
    let claims = futures::join!(store.claim("a"), two.claim("a"));
    assert_eq!(claims, (Ok(()), Ok(())));
    let refused = store.claim("b").await;
    assert!(
        matches!(&refused, Err(RepoError::InUse(why)) if why.contains("another repository")),
        "{refused:?}"
    );
    assert_eq!(store.claim("a").await, Ok(()));
    assert_eq!(store.list().await, Ok(vec![]), "the mark is no object");
    assert!(folder.path().join("v1/store.json").exists());
}
