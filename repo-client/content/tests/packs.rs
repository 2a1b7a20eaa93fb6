//! Where the bytes of a document go on a single node: into the metadata, a pack, or an object of its own.

use std::sync::Arc;

use bytes::Bytes;
use sluice_repo::{ContentStore, Manifest, Sealed, WorkingContent};
use sluice_repo_content::{Folder, Options, Store};
use tempfile::TempDir;

fn store() -> (Store, TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let objects = Folder::alone(folder.path()).expect("open");
    let store = Store::new(Arc::new(objects), Options::default()).expect("store");
    (store, folder)
}

async fn sealed(store: &Store, len: usize) -> (Arc<dyn WorkingContent>, Sealed) {
    let content = store.working(Arc::default());
    let bytes = Bytes::from(vec![7; len]);
    content.write(0, bytes).await.expect("write");
    let sealed = content.seal().await.expect("seal");
    let read = store.read(&sealed.manifest, 0, u32::MAX).await;
    assert!(read.expect("read").concat() == vec![7; len]);
    (content, sealed)
}

fn packed(manifest: &Manifest) -> bool {
    matches!(manifest.objects.as_slice(), [one] if one.id.place().is_some())
}

#[tokio::test]
async fn a_document_goes_where_its_length_costs_least() {
    let (store, _folder) = store();
    let _other = sealed(&store, 10).await;
    for (len, inline, in_pack) in [
        (24 << 10, true, false),
        ((24 << 10) + 1, false, true),
        (512 << 10, false, true),
        ((512 << 10) + 1, false, false),
    ] {
        let (_content, sealed) = sealed(&store, len).await;
        let manifest = sealed.manifest;
        assert_eq!(!manifest.inline.is_empty(), inline, "{len}");
        assert_eq!(packed(&manifest), in_pack, "{len}");
    }
}

#[tokio::test]
async fn the_end_of_a_long_document_goes_into_a_pack() {
    let (store, _folder) = store();
    let (_content, sealed) = sealed(&store, (4 << 20) + 10_000).await;
    let manifest = sealed.manifest;
    let places: Vec<bool> = manifest
        .objects
        .iter()
        .map(|o| o.id.place().is_some())
        .collect();
    assert_eq!(places, [false, true]);
}

#[tokio::test]
async fn a_document_that_is_committed_alone_shares_the_commits_sync() {
    let (store, _folder) = store();
    let len = 60_000;
    let (first, inline) = sealed(&store, len).await;
    assert!(!inline.manifest.inline.is_empty());
    let (second, in_pack) = sealed(&store, len).await;
    assert!(packed(&in_pack.manifest), "another one is on its way");
    first.committed(&inline);
    drop(second);
    let (_content, again) = sealed(&store, len).await;
    assert!(!again.manifest.inline.is_empty(), "none is any more");
}
