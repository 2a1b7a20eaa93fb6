//! A writing process is killed at random moments: what it had acknowledged is there, nothing is half there, and both
//! stores fit together.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_repo::{
    CaseMode, ContentStore, LastLink, ROOT, Replace, RepoError, Repository, WriteSession,
    check_all, collect_all,
};
use sluice_repo_content::{Folder, Options as ContentOptions, Store};
use sluice_repo_sqlite::{Options, SqliteRepository};
use sluice_repo_suite::{commit, commit_of, made, main_content, rename};

const FOLDER: &str = "SLUICE_CRASH_FOLDER";
const ROUNDS: u64 = 8;

async fn open(folder: &Path) -> (SqliteRepository, Store) {
    let repo = SqliteRepository::open(Options::new(folder.join("meta.db")))
        .await
        .expect("open");
    let objects = Folder::alone(folder.join("content")).expect("content");
    (
        repo,
        Store::new(Arc::new(objects), ContentOptions::default()).expect("store"),
    )
}

/// Content that can be told from its name and a number; small, middle or several chunks long.
fn bytes_of(name: &str, n: u64) -> Bytes {
    let len = [900, 150_000, 9_000_000][(n % 3) as usize] + n as usize;
    let start = name.bytes().map(u64::from).sum::<u64>() + n * 31;
    (0..len)
        .map(|at| (start + at as u64 / 5) as u8)
        .collect::<Vec<u8>>()
        .into()
}

/// The child: writes until it is killed, one line for each acknowledged commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_writes_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let (repo, store) = open(Path::new(&folder)).await;
    let (repo, store) = (Arc::new(repo), Arc::new(store));
    let tasks: Vec<_> = (0..3u64)
        .map(|worker| {
            let (repo, store) = (repo.clone(), store.clone());
            tokio::spawn(async move { write_for_ever(&repo, &store, worker).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("task");
    }
}

async fn write_for_ever(repo: &SqliteRepository, store: &Store, worker: u64) {
    let name = format!("doc-{worker}");
    let (node, mut base) = match repo.lookup(ROOT, &name, CaseMode::Sensitive).await {
        Ok(found) => (found.attributes.id, found.attributes.version.0),
        Err(_) => (made(repo, ROOT, &name).await.id, 0),
    };
    loop {
        let n = base + 1;
        let content = store.working(Arc::default());
        for (at, part) in bytes_of(&name, n).chunks(1 << 20).enumerate() {
            content
                .write((at as u64) << 20, Bytes::copy_from_slice(part))
                .await
                .expect("write");
        }
        let sealed = content.seal().await.expect("seal");
        let mut next = commit_of(main_content(node), base, u128::from(n) + 1, "");
        next.session = WriteSession(n.into());
        next.manifest = sealed.manifest.clone();
        base = commit(repo, next).await.expect("commit").version.0;
        content.committed(&sealed);
        println!("\nacked {name} {base}");
        // Names move, too.
        let new = made(repo, ROOT, &format!("new-{worker}-{n}")).await;
        let current = format!("current-{worker}");
        let replace = match repo.lookup(ROOT, &current, CaseMode::Sensitive).await {
            Ok(found) => Replace::Node(found.attributes.id, LastLink::Orphan),
            Err(_) => Replace::No,
        };
        rename(
            repo,
            (ROOT, &format!("new-{worker}-{n}")),
            (ROOT, &current),
            replace,
        )
        .await
        .expect("rename");
        println!("\nmoved {current} {}", new.id.0);
    }
}

/// Runs the child for a while and kills it; what it acknowledged, last one of each name.
fn run_and_kill(folder: &Path, after: Duration) -> HashMap<String, u64> {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_writes_until_it_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start the child");
    let output = child.stdout.take().expect("output");
    let reader = std::thread::spawn(move || {
        let mut acknowledged = HashMap::new();
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let mut words = line.split(' ');
            let (kind, name, number) = (words.next(), words.next(), words.next());
            if let (Some("acked" | "moved"), Some(name), Some(number)) = (kind, name, number) {
                acknowledged.insert(name.to_owned(), number.parse().expect("a number"));
            }
        }
        acknowledged
    });
    std::thread::sleep(after);
    child.kill().expect("kill");
    child.wait().expect("wait");
    reader.join().expect("reader")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill_and_nothing_is_half_there() {
    if std::env::var(FOLDER).is_ok() {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    for round in 0..ROUNDS {
        let acknowledged =
            run_and_kill(folder.path(), Duration::from_millis(150 + round * 97 % 400));
        let (repo, store) = open(folder.path()).await;
        let report = check_all(&repo, &store, false, true).await.expect("check");
        assert_eq!(report.problems, Vec::<String>::new(), "round {round}");
        for (name, number) in &acknowledged {
            let found = repo
                .lookup(ROOT, name, CaseMode::Sensitive)
                .await
                .expect("acknowledged name")
                .attributes;
            if name.starts_with("current") {
                assert!(found.id.0 >= *number, "an older rename is back");
                continue;
            }
            assert!(
                found.version.0 >= *number,
                "{name}: {number} was acknowledged"
            );
        }
        for worker in 0..3 {
            whole(&repo, &store, &format!("doc-{worker}")).await;
        }
        collect_all(&repo, &store, 0).await.expect("gc");
        let after = check_all(&repo, &store, false, true)
            .await
            .expect("check after gc");
        assert_eq!(
            after.problems,
            Vec::<String>::new(),
            "round {round}, after gc"
        );
        let stored = store.list().await.expect("list").len() as u64;
        assert_eq!(
            collect_all(&repo, &store, 0)
                .await
                .map(|r| (r.unreferenced, r.kept)),
            Ok((0, stored))
        );
        repo.close().await.expect("close");
    }
}

/// Every kept version of a document is what was written as a whole.
async fn whole(repo: &SqliteRepository, store: &Store, name: &str) {
    let node = match repo.lookup(ROOT, name, CaseMode::Sensitive).await {
        Ok(found) => found.attributes.id,
        Err(RepoError::NotFound) => return,
        Err(error) => panic!("{name}: {error}"),
    };
    for version in repo.versions(node).await.expect("versions") {
        let manifest = repo.version(node, version.version).await.expect("version");
        let bytes = store
            .read(&manifest, 0, u32::MAX)
            .await
            .expect("read")
            .concat();
        assert!(
            bytes == bytes_of(name, version.version.0),
            "{name} version {}",
            version.version.0
        );
    }
}
