//! The fence (invariants I2, I3): who was fenced changes nothing any more, nothing is overwritten unseen, and what was sent
//! twice is done once. Each guard is taken out of the database's functions in turn; then the rule must break, else the
//! test would prove nothing.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Scratch, wire::Wire};
use sluice_lockmgr::{Member, MemberEpoch, MemberId, ShardEpoch, shard_of};
use sluice_repo::{
    CaseMode, Commit, ContentId, FencingToken, LastLink, NameRef, PolicyRule, ROOT, RepoError,
    Repository, Version,
};
use sluice_repo_postgres::{Database, Options, PostgresRepository, Writer};
use sluice_repo_suite::{commit, commit_of, file, made, main_content};
use sqlx::{Connection, Row};

/// A guard in a function of the database: its text, and what stands there without it.
#[derive(Clone, Copy)]
struct Guard {
    function: &'static str,
    text: &'static str,
    without: &'static str,
}

const ROW_LOCK: Guard = Guard {
    function: "begin_batch",
    text: "epoch = p_epoch FOR KEY SHARE",
    without: "epoch = p_epoch",
};
const SHARD_LOCK: Guard = Guard {
    function: "commit_verdicts",
    text: "FOR KEY SHARE OF s",
    without: "",
};
const COMPARE_AND_SET: Guard = Guard {
    function: "commit_verdicts",
    text: "WHEN coalesce(c.version, 0) <> w.base THEN 10",
    without: "",
};
const BATCH_NUMBER: Guard = Guard {
    function: "begin_batch",
    text: "IF l.batch >= p_batch THEN RETURN l.answers; END IF;",
    without: "",
};
const OPERATION_ID: Guard = Guard {
    function: "commit_verdicts",
    text: "WHEN c.op = w.op OR",
    without: "WHEN false AND",
};

struct Cluster {
    scratch: Scratch,
    database: Database,
}

impl Cluster {
    /// A database with the members 1 and 2, and without some guards.
    async fn new(without: &[Guard]) -> Cluster {
        let scratch = Scratch::new();
        let database = scratch.database().await;
        scratch
            .sql(
                "INSERT INTO node_session(member, epoch, name, addr, version, state, expires_at)
                 SELECT n, 10 + n, 'n' || n, '', '', 1, clock_timestamp() + interval '1 hour'
                 FROM generate_series(1, 2) AS n",
            )
            .await;
        for guard in without {
            let mut conn = database.connect().await.expect("connect");
            let function: String = sqlx::query_scalar(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1",
            )
            .bind(guard.function)
            .fetch_one(&mut conn)
            .await
            .expect("the function");
            let mutant = function.replace(guard.text, guard.without);
            assert_ne!(mutant, function, "the guard is there");
            scratch.sql(&mutant).await;
        }
        Cluster { scratch, database }
    }

    async fn member(&self, id: u32) -> PostgresRepository {
        self.member_over(&self.database, id).await
    }

    async fn member_over(&self, database: &Database, id: u32) -> PostgresRepository {
        let member = Member {
            id: MemberId(id),
            epoch: MemberEpoch(10 + u64::from(id)),
        };
        PostgresRepository::open(database.clone(), Options::new(Writer::Member(member)))
            .await
            .expect("open")
    }

    /// Waits until so many sessions wait for a lock.
    async fn blocked(&self, sessions: i64) {
        let mut conn = self.database.connect().await.expect("connect");
        for _ in 0..2000 {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
            )
            .fetch_one(&mut conn)
            .await
            .expect("look");
            if waiting >= sessions {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nobody waits");
    }
}

fn with_fence(content: ContentId, base: u64, n: u128, fence: u64) -> Commit {
    let mut commit = commit_of(content, base, n, "x");
    commit.fence = FencingToken(fence);
    commit
}

#[tokio::test]
async fn a_fenced_member_changes_nothing_any_more() {
    let cluster = Cluster::new(&[]).await;
    let (one, two) = (cluster.member(1).await, cluster.member(2).await);
    let content = main_content(made(&one, ROOT, "x").await.id);
    cluster
        .scratch
        .sql("DELETE FROM node_session WHERE member = 1")
        .await;
    assert_eq!(
        file(&one, ROOT, "y").await.map(|_| ()),
        Err(RepoError::Fenced)
    );
    assert_eq!(
        commit(&one, commit_of(content, 0, 1, "x"))
            .await
            .map(|_| ()),
        Err(RepoError::Fenced)
    );
    assert_eq!(
        two.check(false).await.expect("check").problems,
        Vec::<String>::new()
    );
    commit(&two, commit_of(content, 0, 2, "x"))
        .await
        .expect("the other member goes on");
}

#[tokio::test]
async fn a_commit_needs_the_current_epoch_of_its_shard_and_the_documents_own_fence() {
    let cluster = Cluster::new(&[]).await;
    let one = cluster.member(1).await;
    let content = main_content(made(&one, ROOT, "x").await.id);
    let shard = shard_of(content.node.0).0;
    cluster
        .scratch
        .sql(&format!(
            "UPDATE lock_shard SET epoch = 3 WHERE shard = {shard}"
        ))
        .await;
    let fence = ShardEpoch(3).fence();
    for old in [0, ShardEpoch(2).fence(), ShardEpoch(4).fence()] {
        let refused = commit(&one, with_fence(content, 0, 1, old)).await;
        assert_eq!(refused.map(|_| ()), Err(RepoError::Fenced), "{old}");
    }
    commit(&one, with_fence(content, 0, 2, fence))
        .await
        .expect("the current epoch");
    cluster
        .scratch
        .sql(&format!(
            "UPDATE node SET fence = {} WHERE id = {}",
            fence + 1,
            content.node.0
        ))
        .await;
    assert_eq!(
        commit(&one, with_fence(content, 1, 3, fence))
            .await
            .map(|_| ()),
        Err(RepoError::Fenced)
    );
    commit(&one, with_fence(content, 1, 4, fence + 1))
        .await
        .expect("the raised fence");
}

/// Whether a commit that is held up at its document lands after a fence was answered.
async fn lands_after_fence(without: &[Guard], fence: &str) -> bool {
    let cluster = Cluster::new(without).await;
    let one = Arc::new(cluster.member(1).await);
    let content = main_content(made(&*one, ROOT, "x").await.id);
    let mut holder = cluster.database.connect().await.expect("connect");
    let mut held = holder.begin().await.expect("begin");
    sqlx::query("SELECT 1 FROM node WHERE id = $1 FOR UPDATE")
        .bind(content.node.0 as i64)
        .execute(&mut *held)
        .await
        .expect("hold the document");
    let committer = one.clone();
    let late = tokio::spawn(async move {
        commit(&*committer, commit_of(content, 0, 1, "x"))
            .await
            .map(|done| done.version)
    });
    cluster.blocked(1).await;
    let fence = fence.replace("SHARD", &shard_of(content.node.0).0.to_string());
    let mut fencer = cluster.database.connect().await.expect("connect");
    sqlx::query("SET lock_timeout = '300ms'")
        .execute(&mut fencer)
        .await
        .expect("set");
    let answered = sqlx::query(sqlx::AssertSqlSafe(fence))
        .execute(&mut fencer)
        .await
        .is_ok();
    held.rollback().await.expect("let go");
    let landed = late.await.expect("task") == Ok(Version(1));
    assert!(landed || answered, "a fence that waits is after the commit");
    answered && landed
}

const FENCE_NODE: &str = "DELETE FROM node_session WHERE member = 1";
const TAKE_SHARD: &str = "UPDATE lock_shard SET epoch = epoch + 1 WHERE shard = SHARD";

#[tokio::test]
async fn no_commit_lands_after_its_node_was_fenced() {
    assert!(!lands_after_fence(&[], FENCE_NODE).await);
    assert!(
        lands_after_fence(&[ROW_LOCK], FENCE_NODE).await,
        "a plain look at the row is not enough"
    );
}

#[tokio::test]
async fn no_commit_lands_after_its_shard_was_taken_over() {
    assert!(!lands_after_fence(&[], TAKE_SHARD).await);
    assert!(
        lands_after_fence(&[SHARD_LOCK], TAKE_SHARD).await,
        "a plain look at the row is not enough"
    );
}

/// Whether two nodes that start from one version both commit.
async fn update_is_lost(without: &[Guard]) -> bool {
    let cluster = Cluster::new(without).await;
    let (one, two) = (cluster.member(1).await, cluster.member(2).await);
    let content = main_content(made(&one, ROOT, "x").await.id);
    commit(&one, commit_of(content, 0, 1, "one"))
        .await
        .expect("the first");
    commit(&two, commit_of(content, 0, 2, "two")).await.is_ok()
}

#[tokio::test]
async fn no_update_is_lost_between_nodes() {
    assert!(!update_is_lost(&[]).await);
    assert!(update_is_lost(&[COMPARE_AND_SET]).await);
}

/// What a create and a commit answer whose connection is cut while the server works on them, and that are sent again.
async fn cut_and_repeated(without: &[Guard]) -> (bool, bool) {
    let cluster = Cluster::new(without).await;
    let wire = Wire::to(cluster.scratch.server.port()).await;
    let url = cluster.scratch.url.replace(
        &format!(":{}/", cluster.scratch.server.port()),
        &format!(":{}/", wire.port),
    );
    let far = Database::open(&url).await.expect("through the wire");
    let one = Arc::new(cluster.member_over(&far, 1).await);
    let content = main_content(made(&cluster.member(2).await, ROOT, "x").await.id);
    let mut holder = cluster.database.connect().await.expect("connect");

    let mut held = holder.begin().await.expect("begin");
    sqlx::query("SELECT 1 FROM node WHERE id IN (1, $1) FOR UPDATE")
        .bind(content.node.0 as i64)
        .execute(&mut *held)
        .await
        .expect("hold folder and document");
    let (creator, committer) = (one.clone(), one.clone());
    let created = tokio::spawn(async move { file(&*creator, ROOT, "y").await.is_ok() });
    let committed = tokio::spawn(async move {
        let done = commit(&*committer, commit_of(content, 0, 1, "x")).await;
        done.map(|done| done.version) == Ok(Version(1))
    });
    cluster.blocked(2).await;
    wire.cut();
    // The repetitions wait for the first tries, which the server still has.
    cluster.blocked(4).await;
    held.rollback().await.expect("let go");
    let answers = (created.await.expect("task"), committed.await.expect("task"));
    assert_eq!(
        one.versions(content.node).await.map(|v| v.len()),
        Ok(1),
        "done once in any case"
    );
    answers
}

#[tokio::test]
async fn what_is_sent_again_over_a_new_connection_is_done_once_and_answered_right() {
    assert_eq!(cut_and_repeated(&[]).await, (true, true));
    // The number of the batch tells the create; a commit has its own id besides.
    assert_eq!(cut_and_repeated(&[BATCH_NUMBER]).await, (false, true));
    assert_eq!(
        cut_and_repeated(&[BATCH_NUMBER, OPERATION_ID]).await,
        (false, false)
    );
}

#[tokio::test]
async fn calls_wait_for_a_server_that_starts_again() {
    let mut server = sluice_repo_postgres::server::PostgresServer::temporary().expect("server");
    let database = Database::open(&server.url()).await.expect("database");
    let repo = PostgresRepository::open(database, Options::new(Writer::Alone))
        .await
        .expect("open");
    let content = main_content(made(&repo, ROOT, "x").await.id);
    repo.head(content).await.expect("head");
    server.kill().expect("kill");
    let restart = tokio::task::spawn_blocking(move || {
        server.start().expect("start");
        server
    });
    let (head, done) = tokio::join!(
        repo.head(content),
        commit(&repo, commit_of(content, 0, 1, "x"))
    );
    assert_eq!(done.map(|d| d.version), Ok(Version(1)));
    assert!(head.is_ok());
    let _server = restart.await.expect("server");
    assert_eq!(
        repo.check(false).await.expect("check").problems,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_member_leaves_the_orphans_of_others_alone() {
    let cluster = Cluster::new(&[]).await;
    let one = cluster.member(1).await;
    let orphan = made(&one, ROOT, "x").await.id;
    let entry = NameRef {
        parent: ROOT,
        name: "x",
        node: None,
    };
    one.unlink(entry, LastLink::Orphan).await.expect("unlink");
    let two = cluster.member(2).await;
    assert!(two.get(orphan).await.is_ok());
    assert_eq!(two.abandoned_orphans().await, Ok(vec![]));
    cluster
        .scratch
        .sql("DELETE FROM node_session WHERE member = 1")
        .await;
    assert_eq!(two.abandoned_orphans().await, Ok(vec![orphan]));
    two.release(orphan).await.expect("release");
    assert_eq!(two.get(orphan).await, Err(RepoError::Stale(orphan)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_records_moves_the_generation_of_other_nodes() {
    let cluster = Cluster::new(&[]).await;
    let (one, two) = (cluster.member(1).await, cluster.member(2).await);
    let mut listening = false;
    for _ in 0..1000 {
        let mut conn = cluster.database.connect().await.expect("connect");
        let watches: i64 = sqlx::query(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()",
        )
        .fetch_one(&mut conn)
        .await
        .and_then(|row| row.try_get(0))
        .expect("look");
        if watches == 2 {
            listening = true;
            break;
        }
    }
    assert!(listening);
    let before = two.records_generation();
    let rule = PolicyRule {
        id: 0,
        share: None,
        path: None,
        protocol: None,
        user: None,
        group: None,
        client: None,
        write: None,
        writers: None,
        on_conflict: None,
        wait_ms: None,
    };
    one.put_policy(rule).await.expect("put");
    for _ in 0..1000 {
        if two.records_generation() > before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nobody told the other node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_change_the_same_folders_at_once_leave_no_contradiction() {
    let cluster = Cluster::new(&[]).await;
    let (one, two) = (
        Arc::new(cluster.member(1).await),
        Arc::new(cluster.member(2).await),
    );
    let mut tasks = Vec::new();
    for (n, repo) in [(1u32, one.clone()), (2, two)] {
        for round in 0..20u32 {
            let repo = repo.clone();
            tasks.push(tokio::spawn(async move {
                let name = format!("f{}", round % 5);
                let _ = file(&*repo, ROOT, &name).await;
                let _ = sluice_repo_suite::folder(&*repo, ROOT, &format!("d{n}")).await;
                let found = repo.lookup(ROOT, &name, CaseMode::Sensitive).await;
                if let Ok(found) = found {
                    let content = main_content(found.attributes.id);
                    let base = found.attributes.version.0;
                    let op = (u128::from(n) << 32) | (u128::from(round) + 1);
                    let _ = commit(&*repo, commit_of(content, base, op, "x")).await;
                    let entry = NameRef {
                        parent: ROOT,
                        name: &name,
                        node: Some(content.node),
                    };
                    let _ = repo.unlink(entry, LastLink::Delete).await;
                }
            }));
        }
    }
    for task in tasks {
        task.await.expect("task");
    }
    assert_eq!(
        one.check(false).await.expect("check").problems,
        Vec::<String>::new()
    );
}
