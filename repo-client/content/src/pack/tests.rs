use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_repo::{ContentStore, RepoError, Result, Unsettled};
use tempfile::TempDir;

use super::*;
use crate::{Folder, Objects, Options, Store};

fn bytes(fill: u8, len: usize) -> Bytes {
    (0..len).map(|n| fill.wrapping_add((n / 9) as u8)).collect()
}

fn folder() -> (Folder, TempDir) {
    folder_with(Arc::new(File::sync_data))
}

fn folder_with(sync: Sync) -> (Folder, TempDir) {
    let dir = tempfile::tempdir().expect("folder");
    let folder = Folder::alone_with(dir.path().into(), sync).expect("open");
    (folder, dir)
}

fn place(folder: &Folder, len: usize) -> ObjectId {
    folder.place(len as u64).expect("a place")
}

async fn stored(folder: &Folder, fill: u8, len: usize) -> ObjectId {
    let id = place(folder, len);
    let data = bytes(fill, len);
    let parts = vec![data.slice(..len / 3), data.slice(len / 3..)];
    folder.put(id, parts).await.expect("put");
    id
}

async fn read(folder: &Folder, id: ObjectId, len: usize) -> Result<Vec<u8>> {
    Ok(folder.get(id, vec![(0, len as u32)]).await?.concat())
}

async fn listed(folder: &Folder) -> HashSet<ObjectId> {
    let list = folder.list().await.expect("list");
    list.into_iter().map(|(id, _)| id).collect()
}

fn pack_path(dir: &TempDir, id: ObjectId) -> PathBuf {
    let (name, _) = find(id).expect("a packed object");
    name.path(&dir.path().join("v1").join(FOLDER))
}

fn pack_files(dir: &TempDir) -> HashSet<PathBuf> {
    let files = fs::read_dir(dir.path().join("v1").join(FOLDER)).expect("packs");
    files.map(|file| file.expect("file").path()).collect()
}

/// Ends a folder and whatever it still did.
fn end(mut folder: Folder) {
    let packs = folder.packs.take().map(|packs| Arc::downgrade(&packs));
    while packs.as_ref().is_some_and(|packs| packs.strong_count() > 0) {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn objects_in_a_pack_are_read_listed_and_deleted_one_by_one_and_their_room_is_freed() {
    let (folder, dir) = folder();
    let len = 70_001;
    let mut ids = Vec::new();
    for fill in 0..6 {
        ids.push(stored(&folder, fill, len).await);
    }
    assert_eq!(listed(&folder).await, ids.iter().copied().collect());
    let path = pack_path(&dir, ids[0]);
    let blocks = |path| fs::metadata(path).expect("pack").blocks();
    let before = blocks(&path);
    folder.delete(&[ids[1], ids[4]]).await.expect("delete");
    folder.delete(&[ids[1]]).await.expect("once more");
    assert!(before - blocks(&path) >= 2 * 70_001 / 512);
    let gone = read(&folder, ids[1], len).await.expect("a hole");
    assert!(gone.iter().all(|b| *b == 0));
    for (id, fill) in ids.iter().zip(0..).filter(|(_, n)| *n != 1 && *n != 4) {
        assert!(read(&folder, *id, len).await.expect("read") == bytes(fill, len));
    }
    let beyond = folder.get(ids[0], vec![(0, 18 * 4096 + 1)]).await;
    assert!(matches!(beyond, Err(RepoError::Corrupt(_))), "{beyond:?}");
    assert_eq!(listed(&folder).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_is_answered_by_a_sync_that_began_after_it_and_one_sync_answers_all_who_wait() {
    let (begun, begins) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let (begun, gate) = (Mutex::new(begun), Mutex::new(gate));
    let (folder, _dir) = folder_with(Arc::new(move |file: &File| {
        begun.lock().send(()).expect("test");
        gate.lock().recv().expect("test");
        file.sync_data()
    }));
    let folder = Arc::new(folder);
    let put = |fill| {
        let folder = folder.clone();
        tokio::spawn(async move { stored(&folder, fill, 40_000).await })
    };
    let first = put(1);
    begins.recv().expect("the first sync");
    let others = [put(2), put(3), put(4)];
    // They have written when the entries are there.
    while listed(&folder).await.len() < 4 {
        tokio::task::yield_now().await;
    }
    assert!(!first.is_finished() && others.iter().all(|put| !put.is_finished()));
    go.send(()).expect("end of the first sync");
    first.await.expect("first");
    begins.recv().expect("the second sync");
    assert!(others.iter().all(|put| !put.is_finished()));
    for _ in 0..3 {
        // More than are needed: one that wrote its entry may have joined after the second sync began.
        go.send(()).expect("end of a sync");
    }
    for put in others {
        put.await.expect("others");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_told_and_nothing_is_put_into_that_pack_any_more() {
    let fails = Arc::new(AtomicBool::new(false));
    let told = fails.clone();
    let (folder, dir) = folder_with(Arc::new(move |file: &File| {
        match told.swap(false, Ordering::AcqRel) {
            true => Err(ErrorKind::StorageFull.into()),
            false => file.sync_data(),
        }
    }));
    let good = stored(&folder, 1, 50_000).await;
    // It has its place already when the sync fails, and would be answered by a sync that succeeds but says nothing of lost pages.
    let late = place(&folder, 50_000);
    let bad = place(&folder, 50_000);
    fails.store(true, Ordering::Release);
    let failed = folder.put(bad, vec![bytes(2, 50_000)]).await;
    assert_eq!(failed, Err(RepoError::NoSpace));
    let failed = folder.put(late, vec![bytes(3, 50_000)]).await;
    assert_eq!(failed, Err(RepoError::NoSpace));
    let next = loop {
        // Until the next pack is made there is no place.
        if let Some(id) = folder.place(50_000) {
            break id;
        }
        tokio::task::yield_now().await;
    };
    assert_ne!(pack_path(&dir, next), pack_path(&dir, good));
    folder.put(next, vec![bytes(4, 50_000)]).await.expect("put");
    for (id, fill) in [(good, 1), (next, 4)] {
        assert!(read(&folder, id, 50_000).await.expect("read") == bytes(fill, 50_000));
    }
    folder.delete(&[bad, late]).await.expect("delete");
    assert_eq!(listed(&folder).await, HashSet::from([good, next]));
}

#[tokio::test]
async fn a_pack_without_objects_goes_but_not_while_one_is_under_way() {
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = syncs.clone();
    let (folder, dir) = folder_with(Arc::new(move |_: &File| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }));
    let len = 512 << 10;
    let first = stored(&folder, 1, len).await;
    let under_way = place(&folder, len);
    let path = pack_path(&dir, first);
    let mut ids = vec![first];
    // Fills the first pack and begins another one.
    while ids.last().is_none_or(|id| pack_path(&dir, *id) == path) {
        match folder.place(len as u64) {
            Some(id) => {
                folder.put(id, vec![bytes(2, len)]).await.expect("put");
                ids.push(id);
            }
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(syncs.load(Ordering::Relaxed), ids.len());
    let last = ids.pop().expect("one in the second pack");
    folder.delete(&ids).await.expect("delete");
    assert!(path.exists(), "an object of it is under way");
    let put = folder.put(under_way, vec![bytes(7, len)]).await;
    put.expect("put");
    assert!(read(&folder, under_way, len).await.expect("read") == bytes(7, len));
    folder.delete(&[under_way]).await.expect("delete");
    assert!(!path.exists(), "nothing is left in it");
    assert!(read(&folder, last, len).await.expect("read") == bytes(2, len));
    folder.delete(&[last]).await.expect("delete");
    assert!(pack_path(&dir, last).exists(), "it gets more");
    stored(&folder, 3, len).await;
}

#[tokio::test]
async fn after_a_crash_nothing_is_put_where_an_earlier_run_has_written() {
    let (folder, dir) = folder();
    let kept = stored(&folder, 1, 30_000).await;
    let torn = place(&folder, 60_000);
    let path = pack_path(&dir, kept);
    end(folder);
    // As far as it came: the entry and half of the object, which nobody has heard of.
    let (_, at) = find(torn).expect("packed");
    let file = OpenOptions::new().write(true).open(&path).expect("pack");
    file.write_all_at(&at.units.to_le_bytes(), entry(at.unit))
        .expect("entry");
    file.write_all_at(&bytes(9, 30_000), start(at))
        .expect("half");
    let before = fs::read(&path).expect("pack");
    let folder = Folder::alone(dir.path()).expect("open");
    let mut ids = HashSet::from([kept, torn]);
    for fill in 2..5 {
        let id = stored(&folder, fill, 60_000).await;
        assert_ne!(pack_path(&dir, id), path);
        ids.insert(id);
    }
    assert!(fs::read(&path).expect("pack") == before);
    assert_eq!(
        listed(&folder).await,
        ids,
        "gc finds what the crash has left"
    );
    folder.delete(&[torn]).await.expect("delete");
    assert!(read(&folder, kept, 30_000).await.expect("read") == bytes(1, 30_000));
}

#[tokio::test]
async fn a_document_whose_sync_has_failed_stays_in_memory_and_is_stored_by_the_next_seal() {
    let fails = AtomicBool::new(true);
    let (folder, _dir) = folder_with(Arc::new(move |file: &File| {
        match fails.swap(false, Ordering::AcqRel) {
            true => Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error())),
            false => file.sync_data(),
        }
    }));
    let store = Store::new(Arc::new(folder), Options::default()).expect("store");
    let content = store.working(Arc::default());
    content.write(0, bytes(1, 100_000)).await.expect("write");
    let refused = content.seal().await.map(|_| ());
    assert!(
        matches!(refused, Err(RepoError::Unavailable(_))),
        "{refused:?}"
    );
    let sealed = content.seal().await.expect("seal");
    let read = store.read(&sealed.manifest, 0, u32::MAX).await;
    assert!(read.expect("read").concat() == bytes(1, 100_000));
}

#[tokio::test]
async fn a_pack_that_somebody_has_deleted_takes_nothing() {
    let (folder, dir) = folder();
    let id = stored(&folder, 1, 50_000).await;
    fs::remove_file(pack_path(&dir, id)).expect("remove");
    let id = place(&folder, 50_000);
    let refused = folder.put(id, vec![bytes(2, 50_000)]).await;
    assert!(
        matches!(&refused, Err(RepoError::Unavailable(why)) if why.contains("deleted")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_earlier_runs_have_left_empty_goes_once_the_folder_is_known_to_be_ours() {
    let (one, dir) = folder();
    one.claim("a").await.expect("claim");
    let gone = stored(&one, 1, 50_000).await;
    one.delete(&[gone]).await.expect("delete");
    assert_eq!(pack_files(&dir).len(), 1);
    let cut_off = dir.path().join("v1").join(FOLDER).join("0000000001-000000");
    File::create(&cut_off).expect("a pack that a crash has cut off");
    let other = Folder::alone(dir.path()).expect("open");
    let refused = other.claim("b").await;
    assert!(matches!(refused, Err(RepoError::InUse(_))), "{refused:?}");
    end(other);
    assert_eq!(
        pack_files(&dir).len(),
        2,
        "another one's packs are left alone"
    );
    end(one);
    let again = Folder::alone(dir.path()).expect("open");
    again.claim("a").await.expect("claim");
    let id = stored(&again, 1, 50_000).await;
    assert_eq!(pack_files(&dir), HashSet::from([pack_path(&dir, id)]));
    let missing = read(&again, gone, 50_000).await;
    assert!(matches!(missing, Err(RepoError::Corrupt(_))), "{missing:?}");
}

#[tokio::test]
async fn short_and_long_objects_and_shared_folders_use_no_packs() {
    let (folder, dir) = folder();
    assert_eq!(folder.place(0), None);
    assert_eq!(folder.place((512 << 10) + 1), None);
    let shared = Folder::open(dir.path()).expect("open");
    assert_eq!(shared.place(50_000), None);
    let id = stored(&folder, 5, 50_000).await;
    assert!(read(&shared, id, 50_000).await.expect("read") == bytes(5, 50_000));
}

/// Takes an object for whoever makes it durable later.
async fn taken(folder: &Folder, fill: u8, len: usize) -> Arc<dyn Unsettled> {
    let id = place(folder, len);
    let taken = sluice_repo::in_own_task(folder.take(id, vec![bytes(fill, len)])).await;
    taken.expect("take").expect("it is left to the commit")
}

#[tokio::test]
async fn what_is_left_to_commits_is_made_durable_by_one_sync() {
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = syncs.clone();
    let (folder, _dir) = folder_with(Arc::new(move |_: &File| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }));
    let both = [
        taken(&folder, 1, 50_000).await,
        taken(&folder, 2, 50_000).await,
    ];
    assert_eq!(syncs.load(Ordering::Relaxed), 0);
    for one in &both {
        assert_eq!(one.settle(), Ok(()));
        assert!(!one.has_failed());
    }
    assert_eq!(syncs.load(Ordering::Relaxed), 1);
    let later = taken(&folder, 3, 50_000).await;
    assert_eq!(later.settle(), Ok(()));
    assert_eq!(syncs.load(Ordering::Relaxed), 2);
    // Who can't be held up leaves nothing to anybody.
    let id = place(&folder, 50_000);
    let taken = folder.take(id, vec![bytes(4, 50_000)]).await;
    assert!(taken.expect("take").is_none());
    assert_eq!(syncs.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn what_its_commit_could_not_make_durable_is_sealed_again_from_memory() {
    let fail = Arc::new(AtomicBool::new(false));
    let asked = fail.clone();
    let (folder, _dir) = folder_with(Arc::new(move |file: &File| {
        match asked.swap(false, Ordering::AcqRel) {
            true => Err(io::Error::from_raw_os_error(Errno::IO.raw_os_error())),
            false => file.sync_data(),
        }
    }));
    let durable = taken(&folder, 9, 50_000).await;
    assert_eq!(durable.settle(), Ok(()));
    let store = Store::new(Arc::new(folder), Options::default()).expect("store");
    let content = store.working(Arc::default());
    content.write(0, bytes(1, 100_000)).await.expect("write");
    let seal = async || {
        let sealed = sluice_repo::in_own_task(content.seal_for_commit()).await;
        let sealed = sealed.expect("seal");
        let unsettled = sealed.unsettled.clone();
        (sealed, unsettled)
    };
    let (lost, first) = seal().await;
    let (_, beside) = seal().await;
    let first = first.expect("left to the commit");
    let beside = beside.expect("left to the commit");
    fail.store(true, Ordering::Release);
    for one in [&first, &beside, &first] {
        let refused = one.settle();
        assert!(
            matches!(refused, Err(RepoError::Unavailable(_))),
            "{refused:?}"
        );
        assert!(one.has_failed());
    }
    assert_eq!(durable.settle(), Ok(()), "it was durable before");
    assert!(!durable.has_failed());
    assert!(content.is_dirty());
    let (sealed, again) = seal().await;
    assert_ne!(sealed.manifest, lost.manifest);
    // Nothing is left to the commit if the next pack is not there yet.
    if let Some(again) = again {
        assert_eq!(again.settle(), Ok(()));
    }
    content.committed(&sealed);
    assert!(!content.is_dirty());
    let read = store.read(&sealed.manifest, 0, u32::MAX).await;
    assert!(read.expect("read").concat() == bytes(1, 100_000));
}

#[tokio::test]
async fn a_seal_without_a_commit_takes_one_place() {
    let (folder, _dir) = folder();
    let folder = Arc::new(folder);
    let store = Store::new(folder.clone(), Options::default()).expect("store");
    let len = 100_000;
    let before = place(&folder, len);
    let content = store.working(Arc::default());
    content.write(0, bytes(1, len)).await.expect("write");
    let sealed = content.seal().await.expect("seal");
    let unit = |id: ObjectId| id.place().expect("packed").unit;
    let each = unit(sealed.manifest.objects[0].id) - unit(before);
    assert_eq!(unit(place(&folder, len)) - unit(before), 2 * each);
}

#[tokio::test]
async fn what_is_done_with_packs_is_counted_and_what_they_hold_once_it_was_looked_for() {
    let (folder, _dir) = folder();
    let counts = || folder.packs().expect("packs");
    let first = stored(&folder, 1, 5_000).await;
    let second = stored(&folder, 2, 100_000).await;
    let unit = u64::from(PackPlace::UNIT_BYTES);
    let (short, long) = (2 * unit, 25 * unit);
    let seen = counts();
    assert_eq!((seen.appended, seen.appended_bytes), (2, short + long));
    assert_eq!((seen.syncs, seen.held), (2, None));
    folder.delete(&[first]).await.expect("deleted");
    let seen = counts();
    assert_eq!((seen.deleted, seen.punched_bytes), (1, short));
    listed(&folder).await;
    let third = stored(&folder, 3, 5_000).await;
    folder.delete(&[second, third]).await.expect("deleted");
    stored(&folder, 4, 5_000).await;
    let held = counts().held.expect("looked for");
    assert_eq!((held.objects, held.bytes), (1, short));
    assert!(held.dead_bytes <= TABLE_BYTES, "{}", held.dead_bytes);
}

/// Waits for what another thread does.
fn until(what: &str, done: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(began.elapsed().as_secs() < 60, "{what}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn zeros_in_the_next_pack_never_take_the_place_of_an_object() {
    let (folder, dir) = folder_with(Arc::new(|_: &File| Ok(())));
    let len = 300_001_usize;
    let units = len.div_ceil(UNIT_BYTES as usize);
    let in_a_pack = (usize::from(UNITS) - usize::from(FIRST_UNIT)) / units;
    let mut ids = Vec::new();
    for n in 0..2 * in_a_pack + 10 {
        ids.push(stored(&folder, n as u8, len).await);
        if n == in_a_pack * 3 / 4 {
            let (name, _) = find(ids[0]).expect("packed");
            let next = PackName { number: 1, ..name }.path(&dir.path().join("v1").join(FOLDER));
            if ahead::is_of_use(&next) {
                let blocks = || fs::metadata(&next).expect("next").blocks() * 512;
                until("the next pack gets its zeros", || {
                    blocks() >= PACK_BYTES / 2
                });
            }
        }
    }
    for (n, id) in ids.iter().enumerate() {
        assert!(
            read(&folder, *id, len).await.expect("read") == bytes(n as u8, len),
            "{n}"
        );
    }
    assert_eq!(listed(&folder).await, ids.iter().copied().collect());
    let last = *ids.last().expect("stored");
    let path = pack_path(&dir, last);
    end(folder);
    let (_, at) = find(last).expect("packed");
    let len = || fs::metadata(&path).expect("pack").len();
    until("a stop gives back what is left", || {
        len() == start(at) + room(at)
    });
}

#[tokio::test]
async fn a_start_after_a_crash_takes_zeros_away_and_nothing_else() {
    let (one, dir) = folder();
    one.claim("a").await.expect("claim");
    stored(&one, 1, 50_000).await;
    let id = place(&one, 40_000);
    let blank = Bytes::from(vec![0; 40_000]);
    one.put(id, vec![blank.clone()]).await.expect("put");
    let path = pack_path(&dir, id);
    end(one);
    let (_, at) = find(id).expect("packed");
    let end_of_objects = start(at) + room(at);
    let file = OpenOptions::new().write(true).open(&path).expect("pack");
    file.set_len(PACK_BYTES).expect("zeros");
    let reopened = || async {
        let folder = Folder::alone(dir.path()).expect("open");
        folder.claim("a").await.expect("claim");
        folder
    };
    let again = reopened().await;
    assert_eq!(fs::metadata(&path).expect("pack").len(), end_of_objects);
    assert!(read(&again, id, 40_000).await.expect("read") == blank);
    end(again);
    // Bytes that no entry tells of: a table may be damaged.
    file.set_len(PACK_BYTES).expect("zeros");
    let lost = end_of_objects + 5 * UNIT_BYTES;
    file.write_all_at(b"lost", lost).expect("write");
    end(reopened().await);
    assert_eq!(fs::metadata(&path).expect("pack").len(), lost + UNIT_BYTES);
}
