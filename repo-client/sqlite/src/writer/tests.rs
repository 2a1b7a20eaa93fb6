//! The rules of the group commit.

use std::path::Path;

use super::*;
use crate::error::db;
use crate::pool::open_writer;

/// Keeps nothing but what was touched.
#[derive(Default)]
struct Notes(Mutex<Vec<Touch>>);

impl Kept for Notes {
    fn publish(&self, touched: Vec<Touch>, _carried_out: bool) {
        self.0.lock().extend(touched);
    }

    fn node(&self, _node: NodeId) -> Option<Arc<Attributes>> {
        None
    }

    fn names(&self, _parent: NodeId, _fold: &str) -> Option<Arc<[Entry]>> {
        None
    }
}

fn insert(tx: &mut Tx<'_>, key: i64, bytes: usize) -> Result<()> {
    tx.touch(Touch::Node(NodeId(key as u64)));
    tx.conn
        .execute(
            "INSERT INTO setting(key, value) VALUES (?1, zeroblob(?2))",
            rusqlite::params![key.to_string(), bytes as i64],
        )
        .map_err(db)
        .map(|_| ())
}

#[tokio::test]
async fn a_full_disk_refuses_the_change_that_does_not_fit_and_those_after_it_go_on() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("meta.db");
    let mut conn = open_writer(&path).expect("open");
    crate::schema::migrate(&mut conn).expect("schema");
    conn.execute_batch("PRAGMA max_page_count = 100")
        .expect("limit");
    let checkpointer = Checkpointer::start(&path, &conn).expect("checkpointer");
    let notes = Arc::new(Notes::default());
    let writer = Writer::start(conn, checkpointer, notes.clone()).expect("writer");
    assert_eq!(
        writer.change(Lasting::Now, |tx| insert(tx, 1, 10)).await,
        Ok(())
    );
    let (small, large, after) = tokio::join!(
        writer.change(Lasting::Now, |tx| insert(tx, 2, 10)),
        writer.change(Lasting::Now, |tx| insert(tx, 3, 1 << 20)),
        writer.change(Lasting::Now, |tx| insert(tx, 4, 10)),
    );
    assert_eq!(large, Err(RepoError::NoSpace));
    assert_eq!(
        writer.change(Lasting::Now, |tx| insert(tx, 5, 10)).await,
        Ok(())
    );
    let stored: i64 = writer
        .change(Lasting::Now, |tx| {
            tx.conn
                .query_row("SELECT count(*) FROM setting", [], |row| row.get(0))
                .map_err(db)
        })
        .await
        .expect("count");
    let answered = [Ok(()), small, large, after, Ok(())]
        .iter()
        .filter(|answer| answer.is_ok())
        .count();
    assert_eq!(
        stored as usize, answered,
        "what was answered, and nothing else"
    );
    assert!(notes.0.lock().contains(&Touch::Node(NodeId(5))));
}

/// A writer on a new database that makes durable what was answered before only after `settle_within`.
fn writer(folder: &Path, settle_within: Duration) -> Writer {
    let path = folder.join("meta.db");
    let mut conn = open_writer(&path).expect("open");
    crate::schema::migrate(&mut conn).expect("schema");
    let checkpointer = Checkpointer::start(&path, &conn).expect("checkpointer");
    Writer::start_with(
        conn,
        checkpointer,
        Arc::new(Notes::default()),
        settle_within,
    )
    .expect("writer")
}

const LONG: Duration = Duration::from_secs(1000);

async fn count(writer: &Writer) -> i64 {
    let counted = writer.change(Lasting::Now, |tx| {
        tx.conn
            .query_row("SELECT count(*) FROM setting", [], |row| row.get(0))
            .map_err(db)
    });
    counted.await.expect("count")
}

#[tokio::test]
async fn what_was_answered_before_it_was_durable_is_durable_with_the_next_answer_that_promises_it()
{
    let folder = tempfile::tempdir().expect("folder");
    let writer = writer(folder.path(), LONG);
    let now = |key| writer.change(Lasting::Now, move |tx| insert(tx, key, 10));
    let soon = |key| writer.change(Lasting::Soon, move |tx| insert(tx, key, 10));
    assert_eq!(now(1).await, Ok(()));
    assert!(!writer.has_pending());
    assert_eq!(soon(2).await, Ok(()));
    assert!(writer.has_pending());
    let refused = writer
        .change(Lasting::Soon, |_| Err::<(), _>(RepoError::NotFound))
        .await;
    assert_eq!(refused, Err(RepoError::NotFound));
    assert!(
        writer.has_pending(),
        "a change that was none settles nothing"
    );
    // One that changes nothing settles what is there, too: it may have found it.
    assert_eq!(writer.change(Lasting::Now, |_| Ok(())).await, Ok(()));
    assert!(!writer.has_pending());
    assert_eq!(soon(3).await, Ok(()));
    assert_eq!(now(4).await, Ok(()));
    assert!(!writer.has_pending());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_before_it_was_durable_becomes_durable_without_anybody_asking() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = Arc::new(writer(folder.path(), SETTLE_WITHIN));
    for own in [false, true] {
        for key in 0..3 {
            let key = key + 10 * i64::from(own);
            let insert = writer.change(Lasting::Soon, move |tx| insert(tx, key, 10));
            let inserted = match own {
                true => sluice_repo::in_own_task(insert).await,
                false => insert.await,
            };
            assert_eq!(inserted, Ok(()));
            let settled = async {
                while writer.has_pending() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), settled)
                .await
                .expect("the writer's thread syncs");
        }
    }
}

#[tokio::test]
async fn what_was_seen_is_known_to_be_durable_only_after_a_sync_that_came_later() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = writer(folder.path(), LONG);
    let soon = |key| writer.change(Lasting::Soon, move |tx| insert(tx, key, 10));
    assert!(writer.has_settled(writer.seen()));
    assert_eq!(soon(1).await, Ok(()));
    let seen = writer.seen();
    assert!(!writer.has_settled(seen));
    assert_eq!(writer.change(Lasting::Now, |_| Ok(())).await, Ok(()));
    assert!(writer.has_settled(seen));
    assert_eq!(soon(2).await, Ok(()));
    assert!(writer.has_settled(seen), "what came later does not matter");
    // One under way may be in the log and not be counted.
    let held = writer.idle();
    let seen = writer.seen();
    drop(held);
    assert_eq!(writer.change(Lasting::Now, |_| Ok(())).await, Ok(()));
    assert!(!writer.has_settled(seen));
    assert_eq!(soon(3).await, Ok(()));
    assert!(!writer.has_settled(seen));
}

#[tokio::test]
async fn ids_are_durable_before_a_document_that_has_one_is_answered() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = writer(folder.path(), LONG);
    let id = || writer.change(Lasting::Soon, |tx| tx.new_id());
    let first = id().await.expect("id");
    assert!(!writer.has_pending(), "the block of ids was synced");
    assert_eq!(id().await, Ok(first + 1));
    let refused = writer
        .change(Lasting::Soon, |tx| {
            tx.new_id()?;
            Err::<(), _>(RepoError::NotFound)
        })
        .await;
    assert_eq!(refused, Err(RepoError::NotFound));
    assert_eq!(
        id().await,
        Ok(first + 3),
        "a refused change does not cost the block"
    );
}

#[tokio::test]
async fn a_change_that_is_refused_alone_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = writer(folder.path(), LONG);
    let refused = writer
        .change(Lasting::Now, |tx| {
            insert(tx, 1, 10)?;
            Err::<(), _>(RepoError::Exists)
        })
        .await;
    assert_eq!(refused, Err(RepoError::Exists));
    assert_eq!(count(&writer).await, 0);
    assert_eq!(
        writer.change(Lasting::Now, |tx| insert(tx, 1, 10)).await,
        Ok(())
    );
    assert_eq!(count(&writer).await, 1);
}

fn thread_name() -> Option<String> {
    std::thread::current().name().map(str::to_owned)
}

/// Tries until `look` finds something.
async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found)
        .await
        .expect("it comes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_be_held_up_carries_out_his_own_change_and_nobody_else_does() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = writer(folder.path(), LONG);
    let name = || writer.change(Lasting::Now, |_| Ok(thread_name()));
    let by_thread = Ok(Some("repo-writer".to_owned()));
    assert_eq!(name().await, by_thread);
    // The writer's thread may not have let go yet.
    until(async || {
        let here = sluice_repo::in_own_task(name()).await;
        assert!(here.is_ok());
        (here != by_thread).then_some(())
    })
    .await;
    // A reader that has the writer's connection for a moment keeps nobody waiting.
    let idle = until(async || writer.idle()).await;
    assert!(idle.conn().is_some());
    let (done, ()) = tokio::join!(sluice_repo::in_own_task(name()), async move {
        tokio::task::yield_now().await;
        drop(idle);
    });
    assert_eq!(done, by_thread);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_and_the_writers_thread_together_lose_no_change() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = Arc::new(writer(folder.path(), SETTLE_WITHIN));
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let writer = writer.clone();
            tokio::spawn(async move {
                for n in 0..40 {
                    let lasting = if n % 3 == 0 {
                        Lasting::Soon
                    } else {
                        Lasting::Now
                    };
                    let change = writer.change(lasting, move |tx| insert(tx, task * 1000 + n, 10));
                    let done = match (task + n) % 2 {
                        0 => sluice_repo::in_own_task(change).await,
                        _ => change.await,
                    };
                    assert_eq!(done, Ok(()));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("task");
    }
    assert_eq!(count(&writer).await, 320);
    writer.stop();
    let late = writer.change(Lasting::Now, |_| Ok(())).await;
    assert_eq!(late, Err(closed()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_carried_out_while_others_become_durable_and_answered_after_a_sync_of_its_own()
{
    let folder = tempfile::tempdir().expect("folder");
    let writer = writer(folder.path(), LONG);
    let turn = until(async || writer.shared.turn()).await;
    drop(until(async || writer.idle()).await);
    let change = writer.change(Lasting::Now, |tx| insert(tx, 1, 10));
    let mut change = std::pin::pin!(sluice_repo::in_own_task(change));
    tokio::select! {
        biased;
        _ = &mut change => panic!("it is not durable"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(writer.shared.queue.lock().carried.len(), 1);
    assert!(writer.has_pending());
    drop(turn);
    assert_eq!(change.await, Ok(()));
    assert!(!writer.has_pending());
}

/// Something that a change needs first; what is to happen when it is asked for.
struct Need<F>(F);

impl<F> std::fmt::Debug for Need<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a need")
    }
}

impl<F: Fn() -> Result<()> + Send + Sync> Unsettled for Need<F> {
    fn settle(&self) -> Result<()> {
        (self.0)()
    }

    fn has_failed(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_comes_after_what_it_needs_and_is_refused_without_it() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = writer(folder.path(), LONG);
    let met = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (meet, look) = (met.clone(), met.clone());
    let need = Arc::new(Need(move || {
        meet.store(true, Ordering::Release);
        Ok(())
    }));
    let seen = writer.change_after(need, move |_| Ok(look.load(Ordering::Acquire)));
    assert_eq!(seen.await, Ok(true));
    let lacking = Arc::new(Need(|| Err(RepoError::NoSpace)));
    let (refused, beside) = tokio::join!(
        writer.change_after(lacking, |tx| insert(tx, 1, 10)),
        writer.change(Lasting::Now, |tx| insert(tx, 2, 10)),
    );
    assert_eq!(refused, Err(RepoError::NoSpace));
    assert_eq!(beside, Ok(()));
    assert_eq!(count(&writer).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_answered_early_does_not_wait_for_one_that_is_being_made_durable() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = Arc::new(writer(folder.path(), LONG));
    let (began, begun) = oneshot::channel::<()>();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(Some((began, wait)));
    let need = Arc::new(Need(move || {
        if let Some((began, wait)) = held.lock().take() {
            let _ = began.send(());
            let _ = wait.recv_timeout(Duration::from_secs(60));
        }
        Ok(())
    }));
    let slow = tokio::spawn({
        let writer = writer.clone();
        async move { writer.change_after(need, |tx| insert(tx, 1, 10)).await }
    });
    begun.await.expect("it is being made durable");
    let early = writer.change(Lasting::Soon, |tx| insert(tx, 2, 10));
    assert_eq!(early.await, Ok(()));
    assert!(!slow.is_finished());
    go.send(()).expect("it waits");
    assert_eq!(slow.await.expect("task"), Ok(()));
    assert!(!writer.has_pending(), "all before it is durable, too");
}

#[tokio::test]
async fn after_a_sync_that_failed_all_is_refused_the_thread_sleeps_and_the_log_is_left_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = writer(folder.path(), SETTLE_WITHIN);
    // The first sync looks for it by its name.
    let (log, aside) = (
        folder.path().join("meta.db-wal"),
        folder.path().join("aside"),
    );
    std::fs::rename(&log, &aside).expect("rename");
    assert_eq!(writer.sound(), Ok(()));
    let soon = |key| writer.change(Lasting::Soon, move |tx| insert(tx, key, 10));
    assert_eq!(soon(1).await, Ok(()));
    until(async || writer.sound().err()).await;
    until(async || writer.shared.queue.lock().asleep.then_some(())).await;
    assert!(writer.has_pending(), "it is not durable for all that");
    for lasting in [Lasting::Now, Lasting::Soon] {
        let refused = writer.change(lasting, |tx| insert(tx, 2, 10)).await;
        assert!(
            matches!(refused, Err(RepoError::Unavailable(_))),
            "{refused:?}"
        );
    }
    until(async || writer.shared.queue.lock().asleep.then_some(())).await;
    let before = std::fs::read(&aside).expect("log");
    std::fs::rename(&aside, &log).expect("rename");
    writer.stop();
    assert!(std::fs::read(&log).expect("log") == before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_without_content_are_durable_while_content_of_others_hangs() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = Arc::new(writer(folder.path(), LONG));
    for own in [true, false] {
        let key = 10 * i64::from(own);
        let (began, begun) = oneshot::channel::<()>();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let held = Mutex::new(Some((began, wait)));
        let hangs = Arc::new(Need(move || {
            if let Some((began, wait)) = held.lock().take() {
                let _ = began.send(());
                let _ = wait.recv_timeout(Duration::from_secs(60));
            }
            Ok(())
        }));
        let with_content = |need, key| {
            let writer = writer.clone();
            let change = async move {
                writer
                    .change_after(need, move |tx| insert(tx, key, 10))
                    .await
            };
            tokio::spawn(async move {
                match own {
                    true => sluice_repo::in_own_task(change).await,
                    false => change.await,
                }
            })
        };
        let slow = with_content(hangs, key);
        begun.await.expect("its content is being made durable");
        // Comes while somebody is at it: the stage's thread finds it when he has finished.
        let behind = with_content(Arc::new(Need(|| Ok(()))), key + 1);
        let change = |key| writer.change(Lasting::Now, move |tx| insert(tx, key, 10));
        assert_eq!(change(key + 2).await, Ok(()));
        assert_eq!(
            sluice_repo::in_own_task(change(key + 3)).await,
            Ok(()),
            "also on the caller's own thread"
        );
        assert!(!writer.has_pending());
        assert!(!slow.is_finished());
        go.send(()).expect("it waits");
        assert_eq!(slow.await.expect("task"), Ok(()));
        assert_eq!(behind.await.expect("task"), Ok(()));
    }
    assert_eq!(count(&writer).await, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_its_content_is_finished_before_the_writer_stops() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = Arc::new(writer(folder.path(), LONG));
    let (began, begun) = std::sync::mpsc::channel::<()>();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (began, wait) = (Mutex::new(began), Mutex::new(wait));
    let slow = Arc::new(Need(move || {
        let _ = began.lock().send(());
        let _ = wait.lock().recv_timeout(Duration::from_secs(60));
        Ok(())
    }));
    let change = tokio::spawn({
        let (writer, slow) = (writer.clone(), slow.clone());
        async move { writer.change_after(slow, |_| Ok(())).await }
    });
    let begun = tokio::task::spawn_blocking(move || begun.recv_timeout(Duration::from_secs(60)));
    assert_eq!(begun.await.expect("task"), Ok(()));
    let stopping = tokio::task::spawn_blocking({
        let writer = writer.clone();
        move || writer.stop()
    });
    until(async || writer.shared.stage.is_closed().then_some(())).await;
    let late = writer.change_after(slow, |_| Ok(())).await;
    assert_eq!(late, Err(closed()));
    go.send(()).expect("it waits");
    stopping.await.expect("stop");
    assert_eq!(change.await.expect("task"), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_during_a_sync_waits_from_then_on_and_not_since_what_that_sync_has_settled() {
    let folder = tempfile::tempdir().expect("folder");
    let writer = writer(folder.path(), LONG);
    let soon = |key| writer.change(Lasting::Soon, move |tx| insert(tx, key, 10));
    assert_eq!(soon(1).await, Ok(()));
    let turn = until(async || writer.shared.turn()).await;
    assert!(writer.shared.queue.lock().unsynced.is_some());
    assert_eq!(writer.shared.sync_all(), Ok(()));
    let synced = Instant::now();
    assert_eq!(soon(2).await, Ok(()));
    drop(turn);
    let since = writer.shared.queue.lock().unsynced;
    assert!(since.is_some_and(|since| since >= synced));
}
