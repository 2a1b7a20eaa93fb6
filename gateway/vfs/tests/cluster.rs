//! Two nodes on one repository: no acknowledged byte is lost and no reader sees an older state, however documents go from
//! node to node under their writers.

mod common;
#[path = "common/twins.rs"]
mod twins;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use common::*;
use sluice_repo::{Cookie, RepoError};
use sluice_repo_suite::Fault;
use sluice_vfs::*;
use twins::{KINDS, Kind, Twins};

const PART: u64 = 1000;

async fn opened(tree: &Tree, name: &str) -> Arc<Open> {
    let wish = request(name, READ_WRITE, ShareMode::ALL, Disposition::OpenIf);
    tree.open(wish).await.expect("open").open
}

async fn write(open: &Open, offset: u64, bytes: Vec<u8>) {
    open.write(offset, Bytes::from(bytes), Stability::Unstable)
        .await
        .expect("written");
}

/// I2: versions of a document go up by one each, and what is kept reads.
async fn lineage(twins: &Twins, node: NodeId) {
    let repo = &twins.nodes[0].repo;
    let versions = repo.versions(node).await.expect("versions");
    let head = repo
        .head(ContentId { node, stream: 0 })
        .await
        .expect("head");
    assert_eq!(versions.first().map(|v| v.version), Some(head.version));
    let report = repo.check(false).await.expect("checked");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disjoint_writes_of_both_nodes_are_all_kept() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "parts", b"").await;
        let mut workers = Vec::new();
        for worker in 0..6u64 {
            let tree = twins.tree((worker % 2) as usize, Protocol::Smb, 10 + worker as u8);
            workers.push(tokio::spawn(async move {
                for round in 0..10 {
                    let open = opened(&tree, "parts").await;
                    let part = round * 6 + worker;
                    write(&open, part * PART, vec![worker as u8 + 1; PART as usize]).await;
                    if round % 3 == 0 {
                        open.flush().await.expect("flushed");
                    }
                    open.close().await.expect("closed");
                }
            }));
        }
        for worker in workers {
            worker.await.expect("no panic");
        }
        for node in 0..2 {
            let all = content(&twins.tree(node, Protocol::Ftp, 3), "parts").await;
            assert_eq!(all.len() as u64, 60 * PART);
            for (at, piece) in all.chunks(PART as usize).enumerate() {
                let worker = (at % 6) as u8 + 1;
                assert!(piece.iter().all(|b| *b == worker), "part {at} on {node}");
            }
        }
        let found = twins.tree(0, Protocol::Smb, 1);
        let found = found.resolve(&path("parts")).await.expect("there");
        lineage(&twins, found.id).await;
        let surrenders = twins.town.surrenders.load(Ordering::Relaxed);
        assert!(surrenders > 0 || matches!(kind, Kind::Cluster));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_without_an_open_on_both_nodes_are_all_kept() {
    let shared = sluice_repo::PolicyRule {
        writers: Some(sluice_repo::Writers::Shared),
        ..rule(
            sluice_repo::RuleProtocol::Nfs3,
            sluice_repo::OnConflict::Reject,
        )
    };
    for kind in KINDS {
        let twins = Twins::with(kind, std::slice::from_ref(&shared)).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "f", b"").await;
        let node = twins.tree(0, Protocol::Nfs3, 1);
        let node = node.lookup(node.root(), "f").await.expect("there").id;
        let mut workers = Vec::new();
        for worker in 0..4u64 {
            // No writer's place: nothing of these writes stays in the lock table.
            let tree = twins.tree((worker % 2) as usize, Protocol::Nfs3, 10 + worker as u8);
            workers.push(tokio::spawn(async move {
                for round in 0..15u64 {
                    let offset = (round * 4 + worker) * PART;
                    let bytes = Bytes::from(vec![worker as u8 + 1; PART as usize]);
                    loop {
                        match tree
                            .write(node, offset, bytes.clone(), Stability::Unstable)
                            .await
                        {
                            Ok(_) => break,
                            Err(VfsError::Delay | VfsError::Conflict(_)) => {
                                tokio::task::yield_now().await;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    let own = tree.read(node, offset, PART as u32).await.expect("read");
                    assert!(flat(&own) == bytes, "its own write is missing");
                }
            }));
        }
        for worker in workers {
            worker.await.expect("no panic");
        }
        for at in 0..2 {
            let tree = twins.tree(at, Protocol::Nfs3, 1);
            let all = tree.read(node, 0, 1 << 20).await.expect("read");
            let all = flat(&all);
            assert_eq!(all.len() as u64, 60 * PART);
            for (at, piece) in all.chunks(PART as usize).enumerate() {
                assert!(piece.iter().all(|b| *b == (at % 4) as u8 + 1), "part {at}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_of_both_nodes_follow_each_other() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "log", b"").await;
        let mut workers = Vec::new();
        for worker in 0..6usize {
            let tree = twins.tree(worker % 2, Protocol::Smb, 10 + worker as u8);
            workers.push(tokio::spawn(async move {
                let open = opened(&tree, "log").await;
                let mut offsets = Vec::new();
                for round in 0..10 {
                    let line = Bytes::from(format!("{worker}:{round:04}\n"));
                    let at = open.append(line, Stability::Unstable).await;
                    offsets.push(at.expect("appended"));
                }
                open.close().await.expect("closed");
                offsets
            }));
        }
        let mut offsets = HashSet::new();
        for worker in workers {
            offsets.extend(worker.await.expect("no panic"));
        }
        assert_eq!(offsets.len(), 60);
        let all = content(&twins.tree(1, Protocol::Ftp, 3), "log").await;
        let text = String::from_utf8(all).expect("text");
        let lines: HashSet<&str> = text.lines().collect();
        assert_eq!(text.len(), 60 * 7);
        for worker in 0..6 {
            for round in 0..10 {
                let line = format!("{worker}:{round:04}");
                assert!(lines.contains(line.as_str()), "{line} is missing");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_on_the_other_node_sees_each_acknowledged_write() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "f", &[0; 8]).await;
        let writer = opened(&twins.tree(0, Protocol::Smb, 1), "f").await;
        let reader = opened(&twins.tree(1, Protocol::Smb, 1), "f").await;
        let nfs = twins.tree(1, Protocol::Nfs3, 2);
        let node = writer.content().node;
        for round in 1..60u64 {
            write(&writer, 0, round.to_be_bytes().to_vec()).await;
            let seen = match round % 2 {
                0 => flat(&reader.read(0, 8).await.expect("read")),
                _ => flat(&nfs.read(node, 0, 8).await.expect("read")),
            };
            assert_eq!(seen, round.to_be_bytes());
            if round % 7 == 0 {
                writer.set_size(8 + round).await.expect("resized");
                let shown = reader.attributes().await.expect("attributes");
                assert_eq!(shown.size, 8 + round);
            }
        }
        writer.close().await.expect("closed");
        reader.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_both_nodes_never_see_time_go_back() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(
            &twins.tree(0, Protocol::Ftp, 3),
            "clock",
            &0u64.to_be_bytes(),
        )
        .await;
        let latest = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut readers = Vec::new();
        for reader in 0..4usize {
            let tree = twins.tree(reader % 2, Protocol::Smb, 20 + reader as u8);
            let (latest, stop) = (latest.clone(), stop.clone());
            readers.push(tokio::spawn(async move {
                let mut looks = 0;
                while !stop.load(Ordering::Acquire) || looks == 0 {
                    let known = latest.load(Ordering::Acquire);
                    let open = opened(&tree, "clock").await;
                    let bytes = flat(&open.read(0, 8).await.expect("read"));
                    let seen = u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
                    assert!(seen >= known, "saw {seen} after {known} was acknowledged");
                    latest.fetch_max(seen, Ordering::AcqRel);
                    open.close().await.expect("closed");
                    looks += 1;
                }
            }));
        }
        let writers = [
            twins.tree(0, Protocol::Smb, 1),
            twins.tree(1, Protocol::Smb, 2),
        ];
        for round in 1..80u64 {
            let open = opened(&writers[(round % 2) as usize], "clock").await;
            write(&open, 0, round.to_be_bytes().to_vec()).await;
            latest.fetch_max(round, Ordering::AcqRel);
            open.close().await.expect("closed");
        }
        stop.store(true, Ordering::Release);
        for reader in readers {
            reader.await.expect("no panic");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncation_and_writes_of_the_other_node_leave_one_order() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        for round in 0..20u8 {
            let name = format!("cut{round}");
            put(&twins.tree(0, Protocol::Ftp, 3), &name, &[b'o'; 3000]).await;
            let cutter = opened(&twins.tree(0, Protocol::Smb, 1), &name).await;
            let writer = opened(&twins.tree(1, Protocol::Smb, 1), &name).await;
            let cut = async { cutter.set_size(1000).await.expect("cut") };
            let writes = async {
                write(&writer, 500, vec![b'w'; 100]).await;
                write(&writer, 2000, vec![b'w'; 100]).await;
            };
            tokio::join!(cut, writes);
            cutter.close().await.expect("closed");
            writer.close().await.expect("closed");
            let all = content(&twins.tree(1, Protocol::Ftp, 3), &name).await;
            assert_eq!(&all[500..600], [b'w'; 100]);
            match all.len() {
                // The second write came before the cut.
                1000 => {}
                // It came after: what lies between reads as zeros, or as before if the cut came between.
                2100 => {
                    assert!(all[1000..2000].iter().all(|b| *b == 0));
                    assert_eq!(&all[2000..], [b'w'; 100]);
                }
                other => panic!("{other} bytes"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_meets_the_writer_of_the_other_node() {
    let at_once = rule(
        sluice_repo::RuleProtocol::Ftp,
        sluice_repo::OnConflict::Reject,
    );
    for kind in KINDS {
        let twins = Twins::with(kind, std::slice::from_ref(&at_once)).await;
        let ftp = twins.tree(1, Protocol::Ftp, 3);
        put(&ftp, "u", b"old").await;
        let open = opened(&twins.tree(0, Protocol::Smb, 1), "u").await;
        write(&open, 3, b" and written".to_vec()).await;
        let refused = ftp.upload(&path("u"), UploadMode::Replace).await;
        match refused.err() {
            Some(VfsError::Conflict(conflict)) => assert_eq!(conflict.holder.node, "n0"),
            other => panic!("{other:?}"),
        }
        // Appending reads what is there: the other node's write is in it although nobody flushed it.
        open.close().await.expect("closed");
        let mut upload = ftp
            .upload(&path("u"), UploadMode::Append)
            .await
            .expect("begun");
        upload
            .write(Bytes::from_static(b" and appended"))
            .await
            .expect("taken");
        let late = request("u", READ_WRITE, ShareMode::ALL, Disposition::Open);
        let late = twins.tree(0, Protocol::Smb, 1).open(late).await;
        assert!(matches!(late.err(), Some(VfsError::Conflict(_))));
        upload.commit(None).await.expect("committed");
        let all = content(&twins.tree(0, Protocol::Ftp, 4), "u").await;
        assert_eq!(all, b"old and written and appended");
        let reader = opened(&twins.tree(0, Protocol::Smb, 1), "u").await;
        assert_eq!(flat(&reader.read(0, 100).await.expect("read")), all);
        put(&twins.tree(0, Protocol::Ftp, 4), "v", b"new name").await;
        assert_eq!(content(&ftp, "v").await, b"new name");
        reader.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_in_listings_include_what_the_other_node_has_not_committed() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "f", b"12345").await;
        let here = twins.tree(1, Protocol::Smb, 1);
        let before = here
            .read_dir(here.root(), Cookie(0), 10)
            .await
            .expect("listed");
        assert_eq!(before.entries[0].attributes.size, 5);
        let open = opened(&twins.tree(0, Protocol::Smb, 1), "f").await;
        write(&open, 5, b"67890".to_vec()).await;
        let listed = here
            .read_dir(here.root(), Cookie(0), 10)
            .await
            .expect("listed");
        assert_eq!(listed.entries[0].attributes.size, 10);
        write(&open, 10, b"1".to_vec()).await;
        let found = here.lookup(here.root(), "f").await.expect("found");
        assert_eq!(found.size, 11);
        write(&open, 11, b"2".to_vec()).await;
        let found = here.resolve(&path("f")).await.expect("found");
        assert_eq!(found.size, 12);
        write(&open, 12, b"3".to_vec()).await;
        let nfs = twins.tree(1, Protocol::Nfs3, 1);
        let found = nfs.attributes(found.id, false).await.expect("found");
        assert_eq!(found.size, 13);
        open.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_could_not_be_committed_for_the_other_node_are_not_lost() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "f", &[b'.'; 30]).await;
        let first = opened(&twins.tree(0, Protocol::Smb, 1), "f").await;
        write(&first, 0, b"first".to_vec()).await;
        twins.nodes[0]
            .faults
            .inject("commit", 0, Fault::Error(RepoError::NoSpace));
        let second = opened(&twins.tree(1, Protocol::Smb, 1), "f").await;
        assert_eq!(twins.nodes[0].faults.pending(), 0);
        write(&second, 10, b"second".to_vec()).await;
        // The first node still answers for its write, and brings it in on top of the second's.
        let seen = flat(&first.read(0, 30).await.expect("read"));
        assert_eq!(seen, b"first.....second..............");
        let seen = flat(&second.read(0, 30).await.expect("read"));
        assert_eq!(seen, b"first.....second..............");
        first.close().await.expect("closed");
        second.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unheard_commit_is_not_put_over_the_other_nodes_newer_bytes() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "f", b"..........").await;
        let first = opened(&twins.tree(0, Protocol::Smb, 1), "f").await;
        write(&first, 0, b"older".to_vec()).await;
        for _ in 0..4 {
            twins.nodes[0].faults.inject("commit", 0, Fault::LostReply);
        }
        let second = opened(&twins.tree(1, Protocol::Smb, 1), "f").await;
        write(&second, 0, b"newer".to_vec()).await;
        assert_eq!(flat(&first.read(0, 10).await.expect("read")), b"newer.....");
        first.close().await.expect("closed");
        second.close().await.expect("closed");
        let all = content(&twins.tree(0, Protocol::Ftp, 3), "f").await;
        assert_eq!(all, b"newer.....");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_under_an_old_epoch_asks_for_the_new_one() {
    let twins = Twins::new().await;
    put(&twins.tree(0, Protocol::Ftp, 3), "f", b"one").await;
    let open = opened(&twins.tree(0, Protocol::Smb, 1), "f").await;
    write(&open, 0, b"two".to_vec()).await;
    twins.nodes[0]
        .faults
        .inject("commit", 0, Fault::Error(RepoError::Fenced));
    let town = twins.town.clone();
    let flushed = tokio::spawn(async move {
        open.flush().await.expect("under the new epoch");
        open
    });
    while twins.nodes[0].faults.pending() > 0 {
        tokio::task::yield_now().await;
    }
    town.epoch.store(2, Ordering::Release);
    flushed
        .await
        .expect("no panic")
        .close()
        .await
        .expect("closed");
    assert_eq!(content(&twins.tree(1, Protocol::Ftp, 3), "f").await, b"two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_not_act_neither_reads_from_memory_nor_writes_until_it_may_again() {
    let twins = Twins::new().await;
    put(&twins.tree(0, Protocol::Ftp, 3), "f", b"old").await;
    let open = opened(&twins.tree(0, Protocol::Smb, 1), "f").await;
    assert_eq!(flat(&open.read(0, 3).await.expect("read")), b"old");
    let host = twins.town.host(0).expect("attached");
    host.frozen(true).await;
    let reader = open.clone();
    let read = tokio::spawn(async move { reader.read(0, 3).await });
    let writer = open.clone();
    let bytes = Bytes::from_static(b"ours");
    let written = tokio::spawn(async move { writer.write(3, bytes, Stability::Unstable).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!read.is_finished() && !written.is_finished());
    host.frozen(false).await;
    assert_eq!(flat(&read.await.expect("no panic").expect("read")), b"old");
    written.await.expect("no panic").expect("written");
    assert_eq!(flat(&open.read(0, 9).await.expect("read")), b"oldours");
    // Cut off for good: who waits is told.
    host.frozen(true).await;
    let reader = open.clone();
    let read = tokio::spawn(async move { reader.read(0, 3).await });
    tokio::task::yield_now().await;
    twins.nodes[0].vfs.abandon();
    let told = read.await.expect("no panic").err();
    assert!(matches!(told, Some(VfsError::Unavailable(_))), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_leaves_everything_committed() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "f", b"").await;
        let open = opened(&twins.tree(0, Protocol::Smb, 1), "f").await;
        write(&open, 0, b"unflushed".to_vec()).await;
        twins.nodes[0]
            .vfs
            .shutdown()
            .await
            .expect("all is committed");
        let node = open.content().node;
        let head = twins.nodes[1]
            .repo
            .head(ContentId { node, stream: 0 })
            .await;
        assert_eq!(head.expect("head").manifest.size, 9);
    }
}
