//! How fast locks are on two nodes over loopback TCP with TLS: alone, at another node's coordinator, and handed over.
//!
//! `cargo run --release -p sluice-lockmgr-cluster --example locks`
//!
//! Each node has a runtime with one worker thread of its own, so that the system tells how much processor time each side used. What
//! the kernel does for a thread's packets counts for that thread. Callers run on the asking node's thread.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_lockmgr::{
    Access, Actor, ClientId, EpochRegistry, Holder, LockService, MonotonicClock, OnConflict,
    OpenRequest, Protocol, ResourceId, ShareMode, shard_of,
};
use sluice_lockmgr_cluster::locks::{ClusterLocks, ClusterOptions};
use sluice_lockmgr_cluster::membership::{Cluster, JoinOptions};
use sluice_lockmgr_cluster::registry::MemoryRegistry;
use sluice_lockmgr_cluster::transport::handshake::{Authenticator, ClusterSecret};
use sluice_lockmgr_cluster::transport::tcp::TcpTransport;
use tokio::runtime::{Handle, Runtime};

const ALONE: u32 = 400_000;
const CALLERS: u64 = 64;
const CALLS: u32 = 2_000;
const HAND_OVERS: usize = 2_000;

struct Node {
    cluster: Cluster,
    locks: ClusterLocks,
    runtime: Handle,
    thread: &'static str,
}

/// A runtime of one worker thread of this name.
fn runtime(thread: &'static str) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(thread)
        .enable_all()
        .build()
}

async fn start(registry: &MemoryRegistry, thread: &'static str) -> Result<Node, Box<dyn Error>> {
    let secret = ClusterSecret::new(b"a secret for measurements only").ok_or("secret")?;
    let transport = TcpTransport::bind("127.0.0.1:0", Authenticator::new(secret.clone())?).await?;
    let address = transport.local_addr().to_string();
    let options = JoinOptions::new(thread.into(), address, "1".into(), secret);
    let door: Arc<dyn EpochRegistry> = registry.door();
    let cluster = Cluster::join(options, Arc::clone(&door), Arc::new(transport)).await?;
    let clock = Arc::new(MonotonicClock::default());
    let options = ClusterOptions::default();
    let locks = ClusterLocks::new(cluster.peers(), door, clock, options, 1 << 20);
    let timers = locks.clone();
    tokio::spawn(async move { timers.run_timers().await });
    cluster.run(Arc::new(locks.clone())).await?;
    Ok(Node {
        cluster,
        locks,
        runtime: Handle::current(),
        thread,
    })
}

fn request(node: &Node, document: u64, client: u64, access: Access) -> OpenRequest {
    let actor = Actor {
        protocol: Protocol::Smb,
        client: ClientId(u64::from(node.cluster.me().id.0) << 48 | client),
        holder: Arc::new(Holder {
            protocol: Protocol::Smb,
            user: "user".into(),
            address: "192.0.2.1:1".into(),
            client_name: String::new(),
            node: "n".into(),
            path: "a/b".into(),
            rule: None,
            since_unix_ms: 0,
        }),
    };
    OpenRequest::new(ResourceId::main(document), actor, access)
}

/// Documents that a node coordinates.
fn documents_of(node: &Node, count: usize) -> Vec<u64> {
    let map = node.cluster.shard_map();
    let owned = |d: &u64| map.owner(shard_of(*d)).owner == Some(node.cluster.me());
    (1..1_000_000).filter(owned).take(count).collect()
}

/// Seconds that the threads of this name have been on a processor; 0 where the system doesn't tell.
fn cpu_seconds(thread: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let nanoseconds = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        let on_processor = times.split_whitespace().next()?.parse::<f64>().ok();
        on_processor.filter(|_| name.trim() == thread)
    };
    tasks.flatten().filter_map(nanoseconds).sum::<f64>() / 1e9
}

async fn alone(node: &Node, document: u64) -> Result<(), Box<dyn Error>> {
    let wanted = request(node, document, 1, Access::READ);
    let begin = Instant::now();
    for _ in 0..ALONE {
        let opened = node.locks.open(wanted.clone()).await?;
        let _ = node.locks.close(opened.open).await;
    }
    let pairs = f64::from(ALONE) / begin.elapsed().as_secs_f64();
    println!("alone: {pairs:.0} open+close/s in one task");
    Ok(())
}

/// An open on each node keeps every document at its coordinator; the callers share the documents. `more`: opens that the asking
/// node has on each besides.
async fn at_the_coordinator(
    near: &Node,
    far: &Node,
    documents: &[u64],
    more: u64,
) -> Result<(), Box<dyn Error>> {
    let mut kept = Vec::new();
    for document in documents {
        for (node, client) in (0..=more)
            .map(|more| (near, CALLERS + 10 + more))
            .chain([(far, 1)])
        {
            let wanted = request(node, *document, client, Access::READ);
            kept.push((node, node.locks.open(wanted).await?));
        }
    }
    let calls = if more == 0 { CALLS } else { CALLS / 20 };
    let begin = Instant::now();
    let cpu = [near, far].map(|node| cpu_seconds(node.thread));
    let tasks = (0..CALLERS)
        .zip(documents.iter().cycle())
        .map(|(client, document)| {
            let wanted = request(near, *document, 10 + client, Access::READ);
            let locks = near.locks.clone();
            near.runtime.spawn(async move {
                for _ in 0..calls {
                    if let Ok(opened) = locks.open(wanted.clone()).await {
                        let _ = locks.close(opened.open).await;
                    }
                }
            })
        });
    for task in tasks.collect::<Vec<_>>() {
        task.await?;
    }
    let (pairs, wall) = (f64::from(calls) * CALLERS as f64, begin.elapsed());
    println!(
        "at another node's coordinator, {CALLERS} callers on {} documents, {more} more opens on each: {:.0} open+close/s; for each second of processor time \
         {:.0} at the coordinator, {:.0} at the asking node with its callers",
        documents.len(),
        pairs / wall.as_secs_f64(),
        pairs / (cpu_seconds(far.thread) - cpu[1]),
        pairs / (cpu_seconds(near.thread) - cpu[0]),
    );
    for (node, opened) in kept {
        let _ = node.locks.close(opened.open).await;
    }
    Ok(())
}

async fn hand_over(near: &Node, far: &Node, document: u64) -> Result<(), Box<dyn Error>> {
    let exclusive = |node: &Node, client| {
        let mut wanted = request(node, document, client, Access::WRITE);
        wanted.share = ShareMode::NONE;
        wanted.on_conflict = OnConflict::Wait(None);
        wanted
    };
    let mut times = Vec::with_capacity(HAND_OVERS);
    let (mut holder, mut other) = (near, far);
    let mut held = holder.locks.open(exclusive(holder, 1)).await?;
    for _ in 0..HAND_OVERS {
        let locks = other.locks.clone();
        let wanted = exclusive(other, 1);
        let waits = other.runtime.spawn(async move {
            let opened = locks.open(wanted).await;
            (opened, Instant::now())
        });
        tokio::time::sleep(Duration::from_micros(500)).await;
        let begin = Instant::now();
        let _ = holder.locks.close(held.open).await;
        let (opened, at) = waits.await?;
        times.push(at.saturating_duration_since(begin));
        held = opened?;
        std::mem::swap(&mut holder, &mut other);
    }
    let _ = holder.locks.close(held.open).await;
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied();
    println!(
        "hand-over of a contended document: p50 {:?}, p99 {:?}",
        at(50).unwrap_or_default(),
        at(99).unwrap_or_default()
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let registry = MemoryRegistry::new(Duration::from_secs(6));
    let mut nodes = Vec::new();
    let mut runtimes = Vec::new();
    for thread in ["node-a", "node-b"] {
        let runtime = runtime(thread)?;
        nodes.push(runtime.block_on(start(&registry, thread))?);
        runtimes.push(runtime);
    }
    let main = runtime("main")?;
    main.block_on(measure(&nodes[0], &nodes[1]))?;
    nodes.iter().for_each(|node| node.cluster.stop());
    Ok(())
}

async fn measure(a: &Node, b: &Node) -> Result<(), Box<dyn Error>> {
    while documents_of(b, 64).len() < 64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let documents = documents_of(b, 64);
    alone(a, documents[0]).await?;
    at_the_coordinator(a, b, &documents, 0).await?;
    at_the_coordinator(a, b, &documents[..1], 0).await?;
    at_the_coordinator(a, b, &documents[..1], 1000).await?;
    hand_over(a, b, documents[1]).await
}
