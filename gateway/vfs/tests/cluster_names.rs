//! Two nodes on one repository: names, nameless documents, watches and records.

mod common;
#[path = "common/twins.rs"]
mod twins;

use std::sync::Arc;

use bytes::Bytes;
use common::*;
use sluice_repo::RepoError;
use sluice_vfs::*;
use twins::{KINDS, Twins};

async fn opened(tree: &Tree, name: &str) -> Arc<Open> {
    let all = READ_WRITE | AccessMask::DELETE;
    let wish = request(name, all, ShareMode::ALL, Disposition::OpenIf);
    tree.open(wish).await.expect("open").open
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_removed_on_one_node_lives_on_for_who_has_it_open_on_the_other() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "f", b"kept").await;
        let open = opened(&twins.tree(0, Protocol::Smb, 1), "f").await;
        let node = open.content().node;
        let nfs = twins.tree(1, Protocol::Nfs3, 1);
        nfs.remove(nfs.root(), "f", RemoveKind::NotDirectory)
            .await
            .expect("removed");
        assert_eq!(flat(&open.read(0, 9).await.expect("read")), b"kept");
        open.write(4, Bytes::from_static(b" on"), Stability::Durable)
            .await
            .expect("written");
        assert_eq!(flat(&open.read(0, 9).await.expect("read")), b"kept on");
        let repo = &twins.nodes[1].repo;
        repo.get(node).await.expect("still there");
        open.close().await.expect("closed");
        let gone = repo.get(node).await;
        assert!(matches!(gone, Err(RepoError::Stale(_))), "{gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orphan_whose_node_is_lost_is_released_by_the_other() {
    let twins = Twins::new().await;
    put(&twins.tree(0, Protocol::Ftp, 3), "f", b"kept").await;
    let nfs = twins.tree(1, Protocol::Nfs3, 1);
    let node = nfs.lookup(nfs.root(), "f").await.expect("there").id;
    let lost = twins.open_of_lost_node(node).await;
    nfs.remove(nfs.root(), "f", RemoveKind::NotDirectory)
        .await
        .expect("removed");
    let repo = &twins.nodes[1].repo;
    repo.get(node).await.expect("still there");
    twins.drop_open_of_lost_node(lost).await;
    let mut rounds = 0;
    while repo.get(node).await.is_ok() {
        rounds += 1;
        assert!(rounds < 400, "the orphan stays");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_marked_for_deletion_goes_with_its_last_close_on_any_node() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        put(&twins.tree(0, Protocol::Ftp, 3), "f", b"bytes").await;
        let first = opened(&twins.tree(0, Protocol::Smb, 1), "f").await;
        let second = opened(&twins.tree(1, Protocol::Smb, 1), "f").await;
        first.set_delete_pending(true).await.expect("marked");
        assert!(second.delete_pending().await);
        let third = request("f", READ, ShareMode::ALL, Disposition::Open);
        let third = twins.tree(1, Protocol::Smb, 2).open(third).await;
        assert!(matches!(third.err(), Some(VfsError::DeletePending)));
        first.close().await.expect("closed");
        let there = twins.tree(0, Protocol::Ftp, 3);
        there.resolve(&path("f")).await.expect("still named");
        assert_eq!(second.close().await.expect("closed"), None);
        assert_eq!(
            there.resolve(&path("f")).await.err(),
            Some(VfsError::NotFound)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renames_of_both_nodes_to_one_name_leave_one_document_and_no_error_but_exists() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        for round in 0..10 {
            let ftp = [
                twins.tree(0, Protocol::Ftp, 3),
                twins.tree(1, Protocol::Ftp, 3),
            ];
            let target = format!("target{round}");
            put(&ftp[0], "a", b"a").await;
            put(&ftp[1], "b", b"b").await;
            let root = ftp[0].root();
            let (a, b) = tokio::join!(
                ftp[0].rename(root, "a", root, &target, true),
                ftp[1].rename(root, "b", root, &target, true),
            );
            a.expect("renamed");
            b.expect("renamed");
            let left = content(&ftp[0], &target).await;
            assert!(left == b"a" || left == b"b");
            let (a, b) = tokio::join!(
                ftp[0].remove(root, &target, RemoveKind::NotDirectory),
                ftp[1].remove(root, &target, RemoveKind::NotDirectory),
            );
            for answer in [a, b] {
                assert!(
                    matches!(answer, Ok(()) | Err(VfsError::NotFound)),
                    "{answer:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_with_documents_open_on_the_other_node_does_not_move_over_smb() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        let smb = [
            twins.tree(0, Protocol::Smb, 1),
            twins.tree(1, Protocol::Smb, 1),
        ];
        let root = smb[0].root();
        let folder = smb[0].make_node(root, "d", NewNode::default()).await;
        folder.expect("made");
        let open = opened(&smb[1], "d/f").await;
        let refused = smb[0].rename(root, "d", root, "e", false).await;
        assert_eq!(refused.err(), Some(VfsError::AccessDenied));
        open.close().await.expect("closed");
        smb[0]
            .rename(root, "d", root, "e", false)
            .await
            .expect("moved");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_under_upload_on_one_node_is_held_against_makers_on_the_other() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        let ftp = twins.tree(0, Protocol::Ftp, 3);
        let upload = ftp
            .upload(&path("new"), UploadMode::Replace)
            .await
            .expect("begun");
        let smb = twins.tree(1, Protocol::Smb, 1);
        // The same name for SMB.
        let wish = request("NEW", READ_WRITE, ShareMode::ALL, Disposition::Create);
        assert!(matches!(
            smb.open(wish.clone()).await.err(),
            Some(VfsError::Conflict(_))
        ));
        upload.abort().await;
        let open = smb.open(wish).await.expect("free again").open;
        open.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_on_one_node_hears_of_changes_on_the_other() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        let here = twins.tree(0, Protocol::Smb, 1);
        let names = ChangeFilter(ChangeFilter::FILE_NAME | ChangeFilter::SIZE);
        let mut watch = here
            .watch(here.root(), names, false)
            .await
            .expect("watches");
        put(&twins.tree(1, Protocol::Ftp, 3), "f", b"1").await;
        let heard = watch.next().await.expect("goes on").expect("not too many");
        assert_eq!(heard[0].action, ChangeAction::Added);
        assert_eq!(heard[0].path, "f");
        let open = opened(&twins.tree(1, Protocol::Smb, 2), "f").await;
        open.write(1, Bytes::from_static(b"2"), Stability::Unstable)
            .await
            .expect("written");
        let heard = watch.next().await.expect("goes on").expect("not too many");
        assert_eq!(heard[0].action, ChangeAction::Modified);
        open.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_made_on_one_node_is_offered_by_the_other() {
    for kind in KINDS {
        let twins = Twins::with(kind, &[]).await;
        let change = ShareChange {
            comment: Some("told to all".to_owned()),
            ..ShareChange::default()
        };
        let admin = twins.nodes[0].vfs.admin();
        admin.set_share("docs", change).await.expect("changed");
        let told = async {
            loop {
                let share = twins.nodes[1].vfs.share(Protocol::Smb, "docs");
                if share.expect("there").comment == "told to all" {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let limit = std::time::Duration::from_secs(10);
        let told = tokio::time::timeout(limit, told).await;
        told.expect("the other node has the old record");
    }
}
