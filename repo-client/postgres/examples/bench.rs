//! Speed of the repository on a PostgreSQL server of its own, with every commit on disk. Arguments: seconds for each line
//! (2), scratch folder (the system's).
//!
//! `cargo run --release -p sluice-repo-postgres --example bench`

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_repo::{
    CaseMode, Commit, ContentId, FencingToken, Manifest, NewKind, NodeId, OpId, Origin, ROOT,
    Repository, Version, WriteSession,
};
use sluice_repo_postgres::server::{Durability, PostgresServer};
use sluice_repo_postgres::{Database, Options, PostgresRepository, Writer};
use sluice_repo_suite::{file, made, made_folder, new_node};

/// Documents that commits and lookups choose from.
const DOCUMENTS: u64 = 20_000;
/// What a document holds.
const CONTENT: &[u8] = &[b'x'; 200];

struct Bench {
    repo: Arc<PostgresRepository>,
    seconds: u64,
    count: Arc<AtomicU64>,
}

impl Bench {
    /// Runs one operation over and over in so many tasks; `step(task, number)`.
    async fn run<F, Fut>(&self, what: &str, tasks: u64, step: F)
    where
        F: Fn(Arc<PostgresRepository>, u64, u64) -> Fut + Send + Sync + Clone + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let before = self.repo.transactions();
        let begin = Instant::now();
        let end = begin + Duration::from_secs(self.seconds);
        let running: Vec<_> = (0..tasks)
            .map(|task| {
                let (repo, count, step) = (self.repo.clone(), self.count.clone(), step.clone());
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    while Instant::now() < end {
                        let start = Instant::now();
                        step(repo.clone(), task, count.fetch_add(1, Ordering::Relaxed)).await;
                        took.push(start.elapsed());
                    }
                    took
                })
            })
            .collect();
        let mut took = Vec::new();
        for task in running {
            took.extend(task.await.expect("task"));
        }
        let per_s = took.len() as f64 / begin.elapsed().as_secs_f64();
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
        let transactions = self.repo.transactions() - before;
        println!(
            "{what:<34} {tasks:>3} tasks {per_s:>9.0}/s  p50 {:>6} us  p99 {:>6} us  {:>5.1} in a transaction",
            at(0.5),
            at(0.99),
            took.len() as f64 / transactions.max(1) as f64
        );
    }
}

fn commit(content: ContentId, base: Version, n: u64) -> Commit {
    Commit {
        content,
        base,
        fence: FencingToken(0),
        op: OpId(u128::from(n)),
        session: WriteSession(1),
        manifest: Arc::new(Manifest::inline(Bytes::from_static(CONTENT))),
        change: Default::default(),
        origin: Origin::default(),
        versions: None,
    }
}

/// A number that looks like chance.
fn scatter(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(2);
    let base = arguments
        .next()
        .map_or_else(std::env::temp_dir, Into::into)
        .join(format!("sluice-bench-{}", std::process::id()));
    let mut server = PostgresServer::create(&base, Durability::Disk).expect("server");
    server.start().expect("start");
    let database = Database::open(&server.url()).await.expect("database");
    let repo = PostgresRepository::open(database, Options::new(Writer::Alone))
        .await
        .expect("repository");
    let bench = Bench {
        repo: Arc::new(repo),
        seconds,
        count: Arc::new(AtomicU64::new(1)),
    };
    let documents = fill(&bench.repo).await;
    reads(&bench, documents.clone()).await;
    writes(&bench, documents).await;
    bench.repo.close().await.expect("close");
    server.stop().expect("stop");
    std::fs::remove_dir_all(&base).expect("remove");
}

/// Makes the documents, in folders of a thousand.
async fn fill(repo: &Arc<PostgresRepository>) -> Arc<Vec<NodeId>> {
    let mut documents = Vec::new();
    for folder in 0..DOCUMENTS / 1000 {
        let folder = made_folder(&**repo, ROOT, &format!("folder{folder}"))
            .await
            .id;
        let tasks: Vec<_> = (0..1000)
            .map(|n| {
                let repo = repo.clone();
                tokio::spawn(async move { made(&*repo, folder, &format!("document{n}")).await.id })
            })
            .collect();
        for task in tasks {
            documents.push(task.await.expect("task"));
        }
    }
    Arc::new(documents)
}

async fn reads(bench: &Bench, documents: Arc<Vec<NodeId>>) {
    for tasks in [1, 16, 64] {
        let all = documents.clone();
        bench
            .run("get by id", tasks, move |repo, _, n| {
                let node = all[(scatter(n) % DOCUMENTS) as usize];
                async move { assert_eq!(repo.get(node).await.expect("get").id, node) }
            })
            .await;
        bench
            .run("resolve folder/document", tasks, |repo, _, n| async move {
                let at = scatter(n) % DOCUMENTS;
                let names = [
                    format!("folder{}", at / 1000),
                    format!("document{}", at % 1000),
                ];
                let names = [names[0].as_str(), names[1].as_str()];
                let found = repo.resolve(ROOT, &names, CaseMode::Insensitive).await;
                assert_eq!(found.expect("resolve").len(), 2);
            })
            .await;
    }
}

async fn writes(bench: &Bench, documents: Arc<Vec<NodeId>>) {
    let versions: Arc<Vec<AtomicU64>> =
        Arc::new(documents.iter().map(|_| AtomicU64::new(0)).collect());
    for tasks in [1, 16, 64] {
        let (all, versions) = (documents.clone(), versions.clone());
        bench
            .run("commit 200 bytes", tasks, move |repo, task, n| {
                // Each task has documents of its own.
                let share = DOCUMENTS / tasks;
                let at = (task * share + scatter(n) % share) as usize;
                let (node, versions) = (all[at], versions.clone());
                let content = ContentId { node, stream: 0 };
                async move {
                    let version = Version(versions[at].fetch_add(1, Ordering::Relaxed));
                    let done = repo.commit(vec![commit(content, version, n)]).await;
                    assert!(done.iter().all(Result::is_ok), "{done:?}");
                }
            })
            .await;
        let folder = made_folder(&*bench.repo, ROOT, &format!("new{tasks}"))
            .await
            .id;
        bench
            .run(
                "create in one folder",
                tasks,
                move |repo, _, n| async move {
                    file(&*repo, folder, &format!("n{n}"))
                        .await
                        .expect("create");
                },
            )
            .await;
        bench
            .run(
                "create with 200 bytes",
                tasks,
                move |repo, _, n| async move {
                    let content = Arc::new(Manifest::inline(Bytes::from_static(CONTENT)));
                    let new = new_node(NewKind::File {
                        content: Some(content),
                    });
                    repo.create(folder, &format!("c{n}"), CaseMode::Insensitive, new)
                        .await
                        .expect("create");
                },
            )
            .await;
    }
}
