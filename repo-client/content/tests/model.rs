//! A working content behaves like an array of bytes, whatever is written, cut, punched, sealed and committed in whatever
//! order; and what a seal returned reads the same for ever.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use sluice_repo::{ContentStore, Manifest, WorkingContent};
use sluice_repo_content::{Folder, Options, Store};

#[derive(Clone, Debug)]
enum Step {
    Write { offset: u64, len: usize, fill: u8 },
    SetLen(u64),
    Punch { offset: u64, len: u64 },
    Seal { commit: bool },
    Reopen,
    Abort,
    Read { offset: u64, len: u32 },
}

const SPAN: u64 = 9 << 20;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![1usize..200, 1000usize..70_000, 4_000_000usize..5_000_000];
    let step = prop_oneof![
        6 => (0..SPAN, len.clone(), any::<u8>()).prop_map(|(offset, len, fill)| Step::Write { offset, len, fill }),
        4 => (0u64..200_000, 1usize..5000, any::<u8>()).prop_map(|(offset, len, fill)| Step::Write { offset, len, fill }),
        1 => (0..SPAN).prop_map(Step::SetLen),
        1 => (0u64..100_000).prop_map(Step::SetLen),
        1 => (0..SPAN, 0..SPAN).prop_map(|(offset, len)| Step::Punch { offset, len }),
        3 => any::<bool>().prop_map(|commit| Step::Seal { commit }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Abort),
        3 => (0..SPAN, 1u32..600_000).prop_map(|(offset, len)| Step::Read { offset, len }),
    ];
    proptest::collection::vec(step, 1..40)
}

async fn read(content: &dyn WorkingContent, offset: u64, len: u32) -> Vec<u8> {
    content.read(offset, len).await.expect("read").concat()
}

fn part(model: &[u8], offset: u64, len: u32) -> &[u8] {
    let from = (offset as usize).min(model.len());
    &model[from..(from + len as usize).min(model.len())]
}

async fn run(steps: Vec<Step>, buffer_bytes: u64, packs: bool) {
    let folder = tempfile::tempdir().expect("folder");
    let open = if packs { Folder::alone } else { Folder::open };
    let objects = Arc::new(open(folder.path().to_path_buf()).expect("open"));
    let options = Options {
        buffer_bytes,
        cache_bytes: 1 << 20,
        ..Options::default()
    };
    let store = Store::new(objects, options).expect("store");
    let mut base = Arc::new(Manifest::default());
    let mut content = store.working(base.clone());
    let mut model: Vec<u8> = Vec::new();
    let mut committed: Vec<(Arc<Manifest>, Vec<u8>)> = Vec::new();
    for step in steps {
        match step {
            Step::Write { offset, len, fill } => {
                let data: Vec<u8> = (0..len).map(|n| fill.wrapping_add((n / 7) as u8)).collect();
                let end = offset as usize + len;
                model.resize(model.len().max(end), 0);
                model[offset as usize..end].copy_from_slice(&data);
                content
                    .write(offset, Bytes::from(data))
                    .await
                    .expect("write");
            }
            Step::SetLen(len) => {
                model.resize(len as usize, 0);
                content.set_len(len).await.expect("set_len");
            }
            Step::Punch { offset, len } => {
                let end = ((offset + len) as usize).min(model.len());
                if (offset as usize) < end {
                    model[offset as usize..end].fill(0);
                }
                content.punch(offset, len).await.expect("punch");
            }
            Step::Seal { commit } => {
                let sealed = content.seal().await.expect("seal");
                let encoded = Manifest::decode(sealed.manifest.encode().into()).expect("decode");
                assert_eq!(encoded, *sealed.manifest);
                if commit {
                    content.committed(&sealed);
                    assert!(!content.is_dirty());
                    base = sealed.manifest.clone();
                    committed.push((sealed.manifest, model.clone()));
                }
            }
            Step::Reopen | Step::Abort => {
                if matches!(step, Step::Reopen) {
                    content = store.working(base.clone());
                } else {
                    content.reset(base.clone());
                }
                model = committed
                    .last()
                    .map(|(_, model)| model.clone())
                    .unwrap_or_default();
            }
            Step::Read { offset, len } => {
                assert!(
                    read(&*content, offset, len).await == part(&model, offset, len),
                    "at {offset}+{len}"
                );
            }
        }
        assert_eq!(content.len(), model.len() as u64);
    }
    assert!(read(&*content, 0, 20 << 20).await == model, "at the end");
    for (manifest, model) in &committed {
        let bytes = store
            .read(manifest, 0, 20 << 20)
            .await
            .expect("read a version")
            .concat();
        assert!(bytes == *model, "a committed version changed");
        for object in &manifest.objects {
            store.verify(object).await.expect("verify");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_working_content_behaves_like_an_array_of_bytes(
        steps in steps(), buffer in prop_oneof![Just(1u64 << 20), Just(64 << 20)], packs in any::<bool>()
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        runtime.block_on(run(steps, buffer, packs));
    }
}
