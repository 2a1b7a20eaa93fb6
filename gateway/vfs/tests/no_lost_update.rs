//! Many clients count in one document, each under its own protocol's way of excluding others. No count may be lost.

mod common;

use bytes::Bytes;
use common::*;
use sluice_vfs::*;

const WORKERS: u8 = 3;
const TIMES: u64 = 20;

fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes)
        .expect("digits")
        .parse()
        .expect("a number")
}

fn digits(number: u64) -> Bytes {
    Bytes::from(format!("{number:08}"))
}

fn must_retry(error: &VfsError) -> bool {
    matches!(error, VfsError::Conflict(_) | VfsError::Delay)
}

/// An SMB program that opens the document for itself alone.
async fn count_over_smb(tree: Tree) {
    for _ in 0..TIMES {
        let open = loop {
            let alone = request("count", READ_WRITE, ShareMode::NONE, Disposition::Open);
            match tree.open(alone).await {
                Ok(opened) => break opened.open,
                Err(error) if must_retry(&error) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        let before = flat(&open.read(0, 8).await.expect("read"));
        open.write(0, digits(number(&before) + 1), Stability::Unstable)
            .await
            .expect("written");
        open.close().await.expect("closed");
    }
}

/// An NFS program that locks all bytes, as through NLM.
async fn count_over_nfs(tree: Tree, owner: u8) {
    let node = tree.lookup(tree.root(), "count").await.expect("found").id;
    for _ in 0..TIMES {
        let lock = NfsLock {
            owner: vec![owner],
            offset: 0,
            length: u64::MAX,
            exclusive: true,
        };
        while let Err(error) = tree.lock(node, lock.clone(), NfsLockHow::AtOnce).await {
            assert!(must_retry(&error), "{error}");
            tokio::task::yield_now().await;
        }
        let before = flat(&tree.read(node, 0, 8).await.expect("read"));
        tree.write(node, 0, digits(number(&before) + 1), Stability::Unstable)
            .await
            .expect("written");
        tree.commit(node).await.expect("committed");
        tree.unlock(node, &[owner], 0, u64::MAX)
            .await
            .expect("unlocked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exclusive_smb_opens_and_nfs_locks_lose_no_count() {
    let world = World::new().await;
    put(&world.tree(Protocol::Ftp, 3), "count", &digits(0)).await;
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let smb = world.tree(Protocol::Smb, 10 + worker);
        workers.push(tokio::spawn(count_over_smb(smb)));
        let nfs = world.tree(Protocol::Nfs3, 20 + worker);
        workers.push(tokio::spawn(count_over_nfs(nfs, worker)));
    }
    for worker in workers {
        worker.await.expect("no panic");
    }
    let end = content(&world.tree(Protocol::Ftp, 3), "count").await;
    assert_eq!(number(&end), 2 * u64::from(WORKERS) * TIMES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_to_their_own_parts_keep_all_parts_through_every_flush() {
    let world = World::new().await;
    let shared = ShareMode::ALL;
    let smb = world.tree(Protocol::Smb, 1);
    smb.open(request("parts", READ_WRITE, shared, Disposition::Create))
        .await
        .expect("created")
        .open
        .close()
        .await
        .expect("closed");
    let mut workers = Vec::new();
    for part in 0..6u8 {
        let smb = world.tree(Protocol::Smb, 10 + part);
        workers.push(tokio::spawn(async move {
            let open = smb
                .open(request("parts", READ_WRITE, shared, Disposition::Open))
                .await
                .expect("open")
                .open;
            for round in 0..12u64 {
                let offset = round * 6 * 50_000 + u64::from(part) * 50_000;
                let bytes = Bytes::from(vec![part + 1; 50_000]);
                let stability = if round % 3 == 0 {
                    Stability::Durable
                } else {
                    Stability::Unstable
                };
                open.write(offset, bytes, stability).await.expect("written");
            }
            open.close().await.expect("closed");
        }));
    }
    for worker in workers {
        worker.await.expect("no panic");
    }
    world.vfs.shutdown().await.expect("stops");
    world.repo.close().await.expect("closes");
    let World { folder, .. } = world;
    let world = World::open(folder, &[]).await;
    let all = content(&world.tree(Protocol::Ftp, 3), "parts").await;
    assert_eq!(all.len(), 6 * 12 * 50_000);
    for (at, piece) in all.chunks(50_000).enumerate() {
        let part = u8::try_from(at % 6).expect("small") + 1;
        assert!(piece.iter().all(|b| *b == part), "piece {at}");
    }
}
