//! Changes made again on top of a version that somebody else committed are the same changes: exactly the bytes that were
//! written here, nothing of what was only near them, whatever was sealed, committed or on its way to the store.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use sluice_repo::{ContentStore, Manifest, WorkingContent};
use sluice_repo_content::{Folder, Options, Store};

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, len: usize, fill: u8 },
    Append { len: usize, fill: u8 },
    SetLen(u64),
    Punch { offset: u64, len: u64 },
}

#[derive(Clone, Debug)]
enum Step {
    Ours(Change),
    /// We seal, and commit it.
    Commit,
    /// We seal, and the commit is refused: the other one's changes were committed before.
    Lose(Vec<Change>),
}

fn change() -> impl Strategy<Value = Change> {
    let len = || prop_oneof![1usize..200, 1000usize..70_000, 4_000_000usize..4_500_000];
    prop_oneof![
        4 => (0u64..9 << 20, len(), any::<u8>()).prop_map(|(offset, len, fill)| Change::Write { offset, len, fill }),
        6 => (0u64..200_000, 1usize..5000, any::<u8>()).prop_map(|(offset, len, fill)| Change::Write { offset, len, fill }),
        2 => (1usize..5000, any::<u8>()).prop_map(|(len, fill)| Change::Append { len, fill }),
        1 => (0u64..9 << 20).prop_map(Change::SetLen),
        2 => (0u64..100_000).prop_map(Change::SetLen),
        1 => (0u64..200_000, 1u64..100_000).prop_map(|(offset, len)| Change::Punch { offset, len }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => change().prop_map(Step::Ours),
        1 => Just(Step::Commit),
        2 => proptest::collection::vec(change(), 1..4).prop_map(Step::Lose),
    ];
    proptest::collection::vec(step, 1..30)
}

/// A change as it is made again: where it went and whether it cut are known by then.
#[derive(Clone, Debug)]
enum Done {
    Write(u64, Vec<u8>),
    Cut(usize),
    Extend(usize),
    Punch(usize, usize),
}

fn again(model: &mut Vec<u8>, done: &Done) {
    match done {
        Done::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            model.resize(model.len().max(end), 0);
            model[start..end].copy_from_slice(data);
        }
        Done::Cut(len) => model.truncate(*len),
        Done::Extend(len) => model.resize(model.len().max(*len), 0),
        Done::Punch(start, end) => {
            let (start, end) = ((*start).min(model.len()), (*end).min(model.len()));
            model[start..end].fill(0);
        }
    }
}

async fn make(content: &dyn WorkingContent, model: &mut Vec<u8>, change: &Change) -> Option<Done> {
    let done = match *change {
        Change::Write { offset, len, fill } => {
            let data: Vec<u8> = (0..len).map(|n| fill.wrapping_add((n / 7) as u8)).collect();
            let bytes = Bytes::from(data.clone());
            content.write(offset, bytes).await.expect("write");
            Done::Write(offset, data)
        }
        Change::Append { len, fill } => {
            let data = vec![fill; len];
            let offset = content.append(data.clone().into()).await.expect("append");
            assert_eq!(offset, model.len() as u64);
            Done::Write(offset, data)
        }
        Change::SetLen(len) => {
            let (old, new) = (model.len(), len as usize);
            content.set_len(len).await.expect("set_len");
            match new.cmp(&old) {
                std::cmp::Ordering::Less => Done::Cut(new),
                std::cmp::Ordering::Equal => return None,
                std::cmp::Ordering::Greater => Done::Extend(new),
            }
        }
        Change::Punch { offset, len } => {
            let end = (offset + len).min(model.len() as u64);
            content.punch(offset, len).await.expect("punch");
            if offset >= end {
                return None;
            }
            Done::Punch(offset as usize, end as usize)
        }
    };
    again(model, &done);
    Some(done)
}

async fn all(content: &dyn WorkingContent) -> Vec<u8> {
    content.read(0, u32::MAX).await.expect("read").concat()
}

async fn run(steps: Vec<Step>) {
    let folder = tempfile::tempdir().expect("folder");
    let objects = Arc::new(Folder::open(folder.path()).expect("open"));
    let store = Store::new(objects, Options::default()).expect("store");
    let mut base = Arc::new(Manifest::default());
    let ours = store.working(base.clone());
    let (mut committed, mut model) = (Vec::new(), Vec::new());
    let mut pending: Vec<Done> = Vec::new();
    for step in steps {
        match step {
            Step::Ours(change) => pending.extend(make(ours.as_ref(), &mut model, &change).await),
            Step::Commit => {
                let sealed = ours.seal().await.expect("seal");
                ours.committed(&sealed);
                base = sealed.manifest;
                committed.clone_from(&model);
                pending.clear();
            }
            Step::Lose(changes) => {
                ours.seal().await.expect("seal");
                let theirs = store.working(base.clone());
                for change in &changes {
                    make(theirs.as_ref(), &mut committed, change).await;
                }
                let sealed = theirs.seal().await.expect("seal");
                theirs.committed(&sealed);
                base = sealed.manifest;
                ours.rebase(base.clone());
                model.clone_from(&committed);
                for done in &pending {
                    again(&mut model, done);
                }
            }
        }
        assert_eq!(ours.len(), model.len() as u64);
        assert!(all(ours.as_ref()).await == model, "the bytes differ");
    }
    let sealed = ours.seal().await.expect("seal");
    ours.committed(&sealed);
    assert!(!ours.is_dirty());
    let stored = store.working(sealed.manifest);
    assert!(
        all(stored.as_ref()).await == model,
        "the stored bytes differ"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn changes_made_again_are_exactly_those_that_were_made(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(run(steps));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_beside_a_small_write_are_the_other_ones() {
    let folder = tempfile::tempdir().expect("folder");
    let objects = Arc::new(Folder::open(folder.path()).expect("open"));
    let store = Store::new(objects, Options::default()).expect("store");
    let ours = store.working(Arc::new(Manifest::default()));
    ours.write(0, Bytes::from(vec![b'0'; 30]))
        .await
        .expect("write");
    let first = ours.seal().await.expect("seal");
    // Lies in the same piece as what the seal has taken, and makes the working content differ from it.
    ours.write(10, Bytes::from_static(b"ours"))
        .await
        .expect("write");
    ours.committed(&first);
    let theirs = store.working(first.manifest.clone());
    theirs
        .write(0, Bytes::from_static(b"theirs"))
        .await
        .expect("write");
    theirs
        .write(14, Bytes::from_static(b"theirs"))
        .await
        .expect("write");
    let second = theirs.seal().await.expect("seal");
    ours.rebase(second.manifest);
    assert_eq!(all(ours.as_ref()).await, b"theirs0000ourstheirs0000000000");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_scattered_writes_are_all_made_again() {
    let folder = tempfile::tempdir().expect("folder");
    let objects = Arc::new(Folder::open(folder.path()).expect("open"));
    let store = Store::new(objects, Options::default()).expect("store");
    let ours = store.working(Arc::new(Manifest::default()));
    let mut model = vec![b't'; 40_000];
    for n in 0..15_000u64 {
        let offset = n * 7919 % 20_000 * 2;
        ours.write(offset, Bytes::from_static(b"o"))
            .await
            .expect("write");
        model[offset as usize] = b'o';
    }
    let theirs = store.working(Arc::new(Manifest::default()));
    theirs
        .write(0, Bytes::from(vec![b't'; 40_000]))
        .await
        .expect("write");
    let sealed = theirs.seal().await.expect("seal");
    ours.rebase(sealed.manifest);
    assert!(all(ours.as_ref()).await == model);
}
