//! The conformance suite, the reference model and what is particular to this implementation.

use std::sync::Arc;

use proptest::prelude::*;
use sluice_repo::{CaseMode, LastLink, NameRef, ROOT, Replace, RepoError, Repository, Version};
use sluice_repo_sqlite::{Options, SqliteRepository};
use sluice_repo_suite::{
    Fault, FaultyRepository, commit, commit_of, file, made, main_content, rename, run_steps, steps,
    text, unlink,
};
use tempfile::TempDir;

async fn open() -> (SqliteRepository, TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    (open_in(&folder).await, folder)
}

async fn open_in(folder: &TempDir) -> SqliteRepository {
    SqliteRepository::open(Options::new(folder.path().join("meta.db")))
        .await
        .expect("open")
}

sluice_repo_suite::conformance!(open);

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn random_changes_leave_what_the_reference_model_says(steps in steps(60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (repo, _folder) = open().await;
            run_steps(&repo, &steps).await;
            let folder = tempfile::tempdir().expect("folder");
            let forgetful = Options { cached_nodes: 0, ..Options::new(folder.path().join("meta.db")) };
            let repo = SqliteRepository::open(forgetful).await.expect("open");
            run_steps(&repo, &steps).await;
        });
    }
}

#[tokio::test]
async fn everything_is_there_after_a_restart_and_orphans_are_gone() {
    let (repo, folder) = open().await;
    let node = made(&repo, ROOT, "x").await.id;
    commit(&repo, commit_of(main_content(node), 0, 1, "text"))
        .await
        .expect("commit");
    let orphan = made(&repo, ROOT, "orphan").await.id;
    repo.unlink(
        NameRef {
            parent: ROOT,
            name: "orphan",
            node: None,
        },
        LastLink::Orphan,
    )
    .await
    .expect("unlink");
    repo.close().await.expect("close");
    assert!(matches!(
        file(&repo, ROOT, "late").await,
        Err(RepoError::Unavailable(_))
    ));
    let repo = open_in(&folder).await;
    assert_eq!(text(&repo, main_content(node)).await, "text");
    assert_eq!(repo.get(orphan).await, Err(RepoError::Stale(orphan)));
    assert!(
        made(&repo, ROOT, "y").await.id > orphan,
        "ids are not reused"
    );
}

#[tokio::test]
async fn a_second_process_is_told_that_the_repository_is_open() {
    let (repo, folder) = open().await;
    let path = folder.path().join("meta.db");
    let second = SqliteRepository::open(Options::new(&path)).await;
    assert!(matches!(second, Err(RepoError::InUse(_))));
    assert!(SqliteRepository::in_use(&path));
    repo.close().await.expect("close");
    assert!(!SqliteRepository::in_use(&path));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_come_together_share_a_transaction() {
    let (repo, _folder) = open().await;
    let repo = Arc::new(repo);
    let before = repo.transactions();
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let repo = repo.clone();
            tokio::spawn(async move { file(&*repo, ROOT, &format!("{n}")).await.map(|_| ()) })
        })
        .collect();
    for task in tasks {
        task.await.expect("task").expect("create");
    }
    let used = repo.transactions() - before;
    assert!(used <= 100, "{used} transactions for 200 changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_commit_on_one_base_one_wins() {
    let (repo, _folder) = open().await;
    let repo = Arc::new(repo);
    let content = main_content(made(&*repo, ROOT, "x").await.id);
    let tasks: Vec<_> = (1..=32u128)
        .map(|n| {
            let repo = repo.clone();
            tokio::spawn(async move {
                commit(&*repo, commit_of(content, 0, n, "x"))
                    .await
                    .map(|c| c.version)
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.expect("task") {
            Ok(version) => won += version.0,
            Err(error) => assert_eq!(error, RepoError::Conflict(Version(1))),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_an_answered_change_undone() {
    let (repo, _folder) = open().await;
    let repo = Arc::new(repo);
    let content = main_content(made(&*repo, ROOT, "x").await.id);
    let (answered, watch) = tokio::sync::watch::channel(0u64);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (repo, watch) = (repo.clone(), watch.clone());
            tokio::spawn(async move {
                while watch.has_changed().is_ok() {
                    let known = *watch.borrow();
                    let head = repo.head(content).await.expect("head").version.0;
                    let node = repo.get(content.node).await.expect("get").version.0;
                    let named = repo
                        .lookup(ROOT, "x", CaseMode::Insensitive)
                        .await
                        .expect("lookup")
                        .attributes;
                    assert!(
                        head >= known && node >= known && named.version.0 >= known,
                        "{known} was answered"
                    );
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for base in 0..150u64 {
        commit(&*repo, commit_of(content, base, u128::from(base) + 1, "x"))
            .await
            .expect("commit");
        answered.send_replace(base + 1);
    }
    drop(answered);
    for reader in readers {
        reader.await.expect("reader");
    }
}

#[tokio::test]
async fn a_lost_reply_is_retried_without_a_second_version() {
    let (repo, _folder) = open().await;
    let faulty = FaultyRepository::new(Arc::new(repo));
    let content = main_content(made(&faulty, ROOT, "x").await.id);
    faulty.inject("commit", 0, Fault::LostReply);
    let lost = commit(&faulty, commit_of(content, 0, 1, "x")).await;
    assert!(matches!(lost, Err(RepoError::Unavailable(_))));
    let again = commit(&faulty, commit_of(content, 0, 1, "x"))
        .await
        .expect("retry");
    assert_eq!((again.version, faulty.pending()), (Version(1), 0));
    faulty.inject("create", 1, Fault::Error(RepoError::NoSpace));
    made(&faulty, ROOT, "fits").await;
    assert_eq!(
        file(&faulty, ROOT, "too much").await.map(|_| ()),
        Err(RepoError::NoSpace)
    );
}

#[tokio::test]
async fn check_finds_and_repairs_what_someone_broke_in_the_file() {
    let (repo, folder) = open().await;
    let node = made(&repo, ROOT, "x").await.id;
    let lost = made(&repo, ROOT, "lost").await.id;
    commit(&repo, commit_of(main_content(node), 0, 1, "text"))
        .await
        .expect("commit");
    repo.close().await.expect("close");
    let conn = rusqlite::Connection::open(folder.path().join("meta.db")).expect("open the file");
    conn.execute_batch(&format!(
        "UPDATE node SET nlink = 7, size = 99 WHERE id = {}; DELETE FROM entry WHERE node = {};
         INSERT INTO entry(parent, cookie, name, fold, node) VALUES (1, 999999999, 'no', 'no', 424242);",
        node.0, lost.0
    ))
    .expect("break it");
    drop(conn);
    let repo = open_in(&folder).await;
    // Its name is kept in memory from now on.
    let dangling = repo.lookup(ROOT, "no", CaseMode::Sensitive).await;
    assert!(dangling.is_err());
    let found = repo.check(false).await.expect("check");
    assert_eq!(
        (found.problems.len(), found.repaired),
        (5, 0),
        "{:?}",
        found.problems
    );
    assert_eq!(repo.check(true).await.expect("repair").repaired, 4);
    assert_eq!(
        repo.check(false).await.expect("check").problems,
        Vec::<String>::new()
    );
    let back = repo
        .lookup(ROOT, &format!("lost-{}", lost.0), CaseMode::Sensitive)
        .await
        .expect("lost and found");
    assert_eq!(back.attributes.id, lost);
    let fixed = repo.get(node).await.expect("get");
    assert_eq!((fixed.size, fixed.link_count), (4, 1));
    made(&repo, ROOT, "no").await;
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_left_alone() {
    let (repo, folder) = open().await;
    repo.close().await.expect("close");
    let conn = rusqlite::Connection::open(folder.path().join("meta.db")).expect("open the file");
    conn.execute("UPDATE schema_version SET version = 99", [])
        .expect("update");
    drop(conn);
    let newer = SqliteRepository::open(Options::new(folder.path().join("meta.db"))).await;
    assert!(
        matches!(newer.map(|_| ()), Err(RepoError::Unavailable(why)) if why.contains("newer program"))
    );
}

#[tokio::test]
async fn one_refused_change_does_not_undo_the_others_of_its_transaction() {
    let (repo, _folder) = open().await;
    let taken = made(&repo, ROOT, "taken").await.id;
    let (a, b, c, d) = tokio::join!(
        file(&repo, ROOT, "one"),
        file(&repo, ROOT, "taken"),
        rename(&repo, (ROOT, "taken"), (ROOT, "moved"), Replace::No),
        unlink(&repo, ROOT, "nothing"),
    );
    assert!(a.is_ok() && b.is_err() && c.is_ok() && d.is_err());
    assert_eq!(
        repo.lookup(ROOT, "moved", CaseMode::Sensitive)
            .await
            .map(|f| f.attributes.id),
        Ok(taken)
    );
    assert!(repo.lookup(ROOT, "one", CaseMode::Sensitive).await.is_ok());
    assert_eq!(
        repo.check(false).await.expect("check").problems,
        Vec::<String>::new()
    );
}
