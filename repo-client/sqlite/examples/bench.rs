//! Measures the repository and content store on this machine:
//! `cargo run --release -p sluice-repo-sqlite --example bench -- FOLDER`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_repo::{
    CaseMode, ContentStore, Cookie, Manifest, NewKind, NodeId, ROOT, Repository, WorkingContent,
};
use sluice_repo_content::{Folder, Options as ContentOptions, Store};
use sluice_repo_sqlite::{Options, SqliteRepository};
use sluice_repo_suite::{commit, commit_of, made_folder, main_content, new_node};

const SECONDS: u64 = 3;

struct Bench {
    repo: Arc<SqliteRepository>,
    store: Arc<Store>,
    next: AtomicU64,
}

#[tokio::main]
async fn main() {
    let folder = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "bench-data".into());
    std::fs::create_dir_all(&folder).expect("folder");
    let repo = SqliteRepository::open(Options::new(format!("{folder}/meta.db")))
        .await
        .expect("open");
    let objects = Arc::new(Folder::alone(format!("{folder}/content")).expect("content folder"));
    let store = Store::new(objects, ContentOptions::default()).expect("store");
    let bench = Arc::new(Bench {
        repo: Arc::new(repo),
        store: Arc::new(store),
        next: AtomicU64::new(0),
    });
    if std::env::args().nth(2).is_some() {
        // Only the part about folders.
        return large_folder(&bench).await;
    }
    for workers in [1, 8] {
        small_documents(&bench, workers, 4 << 10).await;
    }
    for workers in [1, 8] {
        small_documents(&bench, workers, 64 << 10).await;
        small_documents(&bench, workers, 256 << 10).await;
    }
    commits(&bench, 1).await;
    commits(&bench, 8).await;
    for _ in 0..3 {
        sequential(&bench).await;
    }
    random_writes(&bench).await;
    large_folder(&bench).await;
    bench.repo.close().await.expect("close");
}

/// Creates documents with content, sealed and committed in one step, as a small import does.
async fn small_documents(bench: &Arc<Bench>, workers: u64, bytes: usize) {
    let dir = made_folder(
        &*bench.repo,
        ROOT,
        &format!("small-{workers}-{bytes}-{}", std::process::id()),
    )
    .await
    .id;
    let data = Bytes::from(vec![7u8; bytes]);
    let label = format!("create+commit {} KiB, {workers} at once", bytes >> 10);
    run(bench, workers, &label, move |bench| {
        let data = data.clone();
        async move {
            let n = bench.next.fetch_add(1, Ordering::Relaxed);
            let content = bench.store.working(Arc::default());
            content.write(0, data).await.expect("write");
            let sealed = content.seal().await.expect("seal");
            let new = new_node(NewKind::File {
                content: Some(sealed.manifest.clone()),
            });
            bench
                .repo
                .create(dir, &format!("{n}"), CaseMode::Insensitive, new)
                .await
                .expect("create");
            content.committed(&sealed);
        }
    })
    .await;
}

/// New versions of existing documents.
async fn commits(bench: &Arc<Bench>, workers: u64) {
    let label = format!("commit of a new version, {workers} at once");
    let n = bench.next.fetch_add(1 << 32, Ordering::Relaxed);
    let mut nodes = Vec::new();
    for worker in 0..workers {
        let new = new_node(NewKind::File { content: None });
        nodes.push(
            bench
                .repo
                .create(ROOT, &format!("v{n}-{worker}"), CaseMode::Sensitive, new)
                .await
                .expect("create")
                .attributes
                .id,
        );
    }
    let started = Instant::now();
    let tasks: Vec<_> = nodes
        .into_iter()
        .map(|node| {
            let bench = bench.clone();
            tokio::spawn(async move {
                let mut base = 0;
                while started.elapsed() < Duration::from_secs(SECONDS) {
                    let op = bench.next.fetch_add(1, Ordering::Relaxed);
                    commit(
                        &*bench.repo,
                        commit_of(main_content(node), base, op.into(), "text"),
                    )
                    .await
                    .expect("commit");
                    base += 1;
                }
                base
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await.expect("task");
    }
    println!(
        "{label}: {:.0}/s",
        total as f64 / started.elapsed().as_secs_f64()
    );
}

async fn run<F, R>(bench: &Arc<Bench>, workers: u64, label: &str, work: F)
where
    F: Fn(Arc<Bench>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send,
{
    let (started, before) = (Instant::now(), bench.repo.transactions());
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let (bench, work) = (bench.clone(), work.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while started.elapsed() < Duration::from_secs(SECONDS) {
                    let one = Instant::now();
                    work(bench.clone()).await;
                    times.push(one.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("task"));
    }
    times.sort_unstable();
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    let at = |share: f64| {
        times
            .get((times.len() as f64 * share) as usize)
            .copied()
            .unwrap_or_default()
    };
    let grouped = times.len() as f64 / (bench.repo.transactions() - before).max(1) as f64;
    println!(
        "{label}: {rate:.0}/s, p50 {:?}, p99 {:?}, {grouped:.1} a transaction",
        at(0.5),
        at(0.99)
    );
}

/// 256 MiB in writes of 1 MiB, until it is durable; then read back, cold and warm cache.
async fn sequential(bench: &Bench) {
    const BLOCKS: u64 = 256;
    let block = Bytes::from(
        (0..1u32 << 20)
            .map(|n| (n % 251) as u8)
            .collect::<Vec<u8>>(),
    );
    let content = bench.store.working(Arc::default());
    let started = Instant::now();
    for n in 0..BLOCKS {
        content.write(n << 20, block.clone()).await.expect("write");
    }
    let written = started.elapsed();
    let sealed = content.seal().await.expect("seal");
    let name = format!("large-{}", bench.next.fetch_add(1, Ordering::Relaxed));
    let new = new_node(NewKind::File {
        content: Some(sealed.manifest.clone()),
    });
    let node = bench
        .repo
        .create(ROOT, &name, CaseMode::Sensitive, new)
        .await
        .expect("create")
        .attributes
        .id;
    content.committed(&sealed);
    let durable = started.elapsed();
    let rate = |time: Duration| BLOCKS as f64 / time.as_secs_f64();
    println!(
        "256 MiB sequential: written {:.0} MiB/s, durable {:.0} MiB/s",
        rate(written),
        rate(durable)
    );
    let manifest = bench
        .repo
        .head(main_content(node))
        .await
        .expect("head")
        .manifest;
    for label in ["first", "again"] {
        let started = Instant::now();
        for n in 0..BLOCKS {
            let read = bench
                .store
                .read(&manifest, n << 20, 1 << 20)
                .await
                .expect("read");
            assert_eq!(read.iter().map(Bytes::len).sum::<usize>(), 1 << 20);
        }
        println!("  read {label}: {:.0} MiB/s", rate(started.elapsed()));
    }
    let started = Instant::now();
    for n in 0..20_000u64 {
        bench
            .store
            .read(&manifest, (n * 7919 % 65536) << 12, 4096)
            .await
            .expect("read");
    }
    println!(
        "  4 KiB reads from the cache: {:.0}/s",
        20_000.0 / started.elapsed().as_secs_f64()
    );
}

/// 4 KiB writes all over a document of 64 MiB, a commit after each 100.
async fn random_writes(bench: &Bench) {
    let new = new_node(NewKind::File { content: None });
    let node = bench
        .repo
        .create(
            ROOT,
            &format!("random-{}", bench.next.fetch_add(1, Ordering::Relaxed)),
            CaseMode::Sensitive,
            new,
        )
        .await;
    let node = node.expect("create").attributes.id;
    let content = bench.store.working(Arc::new(Manifest::default()));
    content
        .write(0, Bytes::from(vec![1; 64 << 20]))
        .await
        .expect("write");
    let mut base = publish(bench, node, &*content, 0).await;
    let started = Instant::now();
    for n in 0..5000u64 {
        content
            .write((n * 7919 % 16384) << 12, Bytes::from(vec![n as u8; 4096]))
            .await
            .expect("write");
        if n % 100 == 99 {
            base = publish(bench, node, &*content, base).await;
        }
    }
    println!(
        "4 KiB random writes, a commit each 100: {:.0}/s",
        5000.0 / started.elapsed().as_secs_f64()
    );
}

async fn publish(bench: &Bench, node: NodeId, content: &dyn WorkingContent, base: u64) -> u64 {
    let sealed = content.seal().await.expect("seal");
    let mut next = commit_of(main_content(node), base, (1 << 40) + u128::from(base), "");
    next.manifest = sealed.manifest.clone();
    next.session = sluice_repo::WriteSession(1);
    let version = commit(&*bench.repo, next).await.expect("commit").version.0;
    content.committed(&sealed);
    version
}

/// Creates, lookups, listing and renames in a folder that grows to 100,000 entries.
async fn large_folder(bench: &Arc<Bench>) {
    let dir = made_folder(&*bench.repo, ROOT, &format!("dir-{}", std::process::id()))
        .await
        .id;
    for tenth in 0..10u32 {
        let started = Instant::now();
        let tasks: Vec<_> = (0..32u32)
            .map(|worker| {
                let bench = bench.clone();
                tokio::spawn(async move {
                    for n in (tenth * 10_000..(tenth + 1) * 10_000)
                        .skip(worker as usize)
                        .step_by(32)
                    {
                        let new = new_node(NewKind::File { content: None });
                        bench
                            .repo
                            .create(dir, &format!("File {n}.txt"), CaseMode::Insensitive, new)
                            .await
                            .expect("create");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("task");
        }
        if tenth % 3 == 0 {
            println!(
                "creates (32 at once) to {} entries: {:.0}/s",
                (tenth + 1) * 10_000,
                10_000.0 / started.elapsed().as_secs_f64()
            );
        }
    }
    for label in ["first", "again"] {
        let started = Instant::now();
        for n in 0..50_000u64 {
            let name = format!("file {}.TXT", n * 7919 % 100_000);
            bench
                .repo
                .lookup(dir, &name, CaseMode::Insensitive)
                .await
                .expect("lookup");
        }
        println!(
            "case-insensitive lookups in 100,000, {label}: {:.0}/s",
            50_000.0 / started.elapsed().as_secs_f64()
        );
    }
    let started = Instant::now();
    let (mut after, mut count) = (Cookie(0), 0);
    loop {
        let page = bench.repo.read_dir(dir, after, 1000).await.expect("page");
        count += page.entries.len();
        after = page.entries.last().map_or(after, |e| e.cookie);
        if page.end {
            break;
        }
    }
    println!(
        "listing with attributes: {:.2} us an entry",
        started.elapsed().as_secs_f64() * 1e6 / count as f64
    );
}
