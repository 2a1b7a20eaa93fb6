//! Where the bytes of a document go on a single node: into the metadata, a pack, or an object of its own.

use std::sync::Arc;

use bytes::Bytes;
use sluice_repo::{ContentStore, Manifest};
use sluice_repo_content::{Folder, Options, Store};
use tempfile::TempDir;

fn store() -> (Store, TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let objects = Folder::alone(folder.path()).expect("open");
    let store = Store::new(Arc::new(objects), Options::default()).expect("store");
    (store, folder)
}

async fn sealed(store: &Store, len: usize) -> Arc<Manifest> {
    let content = store.working(Arc::default());
    let bytes = Bytes::from(vec![7; len]);
    content.write(0, bytes).await.expect("write");
    let sealed = content.seal().await.expect("seal");
    let read = store.read(&sealed.manifest, 0, u32::MAX).await;
    assert!(read.expect("read").concat() == vec![7; len]);
    sealed.manifest
}

fn packed(manifest: &Manifest) -> bool {
    matches!(manifest.objects.as_slice(), [one] if one.id.place().is_some())
}

#[tokio::test]
async fn a_document_goes_where_its_length_costs_least() {
    let (store, _folder) = store();
    for (len, inline, in_pack) in [
        (24 << 10, true, false),
        ((24 << 10) + 1, false, true),
        (512 << 10, false, true),
        ((512 << 10) + 1, false, false),
    ] {
        let manifest = sealed(&store, len).await;
        assert_eq!(!manifest.inline.is_empty(), inline, "{len}");
        assert_eq!(packed(&manifest), in_pack, "{len}");
    }
}

#[tokio::test]
async fn the_end_of_a_long_document_goes_into_a_pack() {
    let (store, _folder) = store();
    let manifest = sealed(&store, (4 << 20) + 10_000).await;
    let places: Vec<bool> = manifest
        .objects
        .iter()
        .map(|o| o.id.place().is_some())
        .collect();
    assert_eq!(places, [false, true]);
}
