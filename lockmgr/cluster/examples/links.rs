//! How fast the links between two nodes are: small calls one after the other, and many in flight, over loopback TCP with TLS.
//!
//! `cargo run --release -p sluice-lockmgr-cluster --example links`

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_lockmgr::{EpochRegistry, Member};
use sluice_lockmgr_cluster::membership::{Cluster, ClusterEvent, ClusterHandler, JoinOptions};
use sluice_lockmgr_cluster::registry::MemoryRegistry;
use sluice_lockmgr_cluster::transport::Peers;
use sluice_lockmgr_cluster::transport::handshake::{Authenticator, ClusterSecret};
use sluice_lockmgr_cluster::transport::tcp::TcpTransport;
use tokio::sync::Notify;

const MESSAGE_BYTES: usize = 70;
const CALLS: u64 = 20_000;
const PIPELINED: u64 = 1_000_000;

/// Sends every message back, or counts what came back.
#[derive(Default)]
struct End {
    echo: OnceLock<Arc<dyn Peers>>,
    came: AtomicU64,
    arrived: Notify,
    up: Notify,
}

impl ClusterHandler for End {
    fn event(&self, event: ClusterEvent) {
        if matches!(event, ClusterEvent::NodeUp(_)) {
            self.up.notify_one();
        }
    }

    fn received(&self, from: Member, message: Bytes) {
        if let Some(peers) = self.echo.get() {
            // A full link would lose the answer; the caller bounds what is in flight.
            let _ = peers.send(from, message);
        } else {
            self.came.fetch_add(1, Ordering::Relaxed);
            self.arrived.notify_one();
        }
    }
}

async fn start(
    registry: &MemoryRegistry,
    name: &str,
    end: &Arc<End>,
) -> Result<Cluster, Box<dyn Error>> {
    let secret = ClusterSecret::new(b"a secret for measurements only").ok_or("secret")?;
    let transport = TcpTransport::bind("127.0.0.1:0", Authenticator::new(secret.clone())?).await?;
    let address = transport.local_addr().to_string();
    let options = JoinOptions::new(name.into(), address, "1".into(), secret);
    let door: Arc<dyn EpochRegistry> = registry.door();
    let cluster = Cluster::join(options, door, Arc::new(transport)).await?;
    cluster.run(Arc::<End>::clone(end)).await?;
    Ok(cluster)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = MemoryRegistry::new(Duration::from_secs(6));
    let (near, far) = (Arc::new(End::default()), Arc::new(End::default()));
    let a = start(&registry, "a", &near).await?;
    let b = start(&registry, "b", &far).await?;
    near.up.notified().await;
    far.up.notified().await;
    let _ = far.echo.set(b.peers());
    let (peers, to) = (a.peers(), b.me());
    let message = Bytes::from(vec![7; MESSAGE_BYTES]);

    let mut times = Vec::new();
    for call in 1..=CALLS {
        let before = Instant::now();
        peers.send(to, message.clone())?;
        while near.came.load(Ordering::Relaxed) < call {
            near.arrived.notified().await;
        }
        times.push(before.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get(times.len() * part / 1000)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "one call at a time: p50 {:?}, p99 {:?}, {:.0}/s",
        at(500),
        at(990),
        CALLS as f64 / times.iter().sum::<Duration>().as_secs_f64()
    );

    for window in [16, 256, 4096] {
        let start = near.came.load(Ordering::Relaxed);
        let before = Instant::now();
        for sent in 0..PIPELINED {
            while sent >= near.came.load(Ordering::Relaxed) - start + window {
                near.arrived.notified().await;
            }
            peers.send(to, message.clone())?;
        }
        while near.came.load(Ordering::Relaxed) - start < PIPELINED {
            near.arrived.notified().await;
        }
        println!(
            "{window} calls in flight: {:.0}/s (each two frames)",
            PIPELINED as f64 / before.elapsed().as_secs_f64()
        );
    }
    a.leave().await;
    b.leave().await;
    Ok(())
}
