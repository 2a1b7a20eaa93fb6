//! A node's life in its cluster: what is opened once for the process, and what is made anew with each epoch.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use parking_lot::Mutex;
use sluice_config::{Cluster as ClusterSettings, MetadataUri, Settings};
use sluice_lockmgr::{EpochRegistry, LockService, MemberRecord, MemberState, MonotonicClock};
use sluice_lockmgr_cluster::locks::{ClusterLocks, ClusterOptions};
use sluice_lockmgr_cluster::membership::{Cluster, JoinOptions};
use sluice_lockmgr_cluster::transport::handshake::{Authenticator, ClusterSecret};
use sluice_lockmgr_cluster::transport::tcp::TcpTransport;
use sluice_repo_postgres::{Database, PostgresRegistry, RegistryOptions};

use super::{ClusterView, open_database, read_secret};

/// How long a leaving node tries to give its shards away; the others take them over anyway.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// Pause between two looks at who else is leaving.
const LOOK: Duration = Duration::from_millis(200);

/// What outlives a lost membership: the database, the listening socket, the secret.
pub struct Seat {
    name: String,
    advertise: String,
    secret: ClusterSecret,
    database: Database,
    registry: Arc<PostgresRegistry>,
    transport: Arc<TcpTransport>,
    /// Where the id of the cluster is remembered that this node belongs to.
    id_file: PathBuf,
    id: Mutex<Option<[u8; 16]>>,
}

/// One life: an epoch, and the lock service of it.
pub struct Life {
    cluster: Arc<Cluster>,
    locks: ClusterLocks,
    registry: Arc<PostgresRegistry>,
}

impl Seat {
    /// Takes the node's seat if the settings name a cluster: reads the secret, reaches the database, listens for peers.
    ///
    /// # Errors
    /// One sentence with the key and the remedy.
    pub async fn take(settings: &Settings) -> anyhow::Result<Option<Seat>> {
        let MetadataUri::Postgres(url) = &settings.repository.metadata else {
            return Ok(None);
        };
        let cluster = settings
            .cluster
            .as_ref()
            .context("cluster: the section is missing")?;
        let secret = secret(cluster)?;
        let database = open_database(url).await?;
        let authenticator = Authenticator::new(secret.clone())
            .context("cluster: no keys for the calls between nodes can be made")?;
        let transport = TcpTransport::bind(&cluster.listen.to_string(), authenticator)
            .await
            .with_context(|| {
                format!(
                    "cluster.listen: {} can't be listened on; choose a free address of this machine",
                    cluster.listen
                )
            })?;
        let id_file = settings.node.state_dir.join("cluster.id");
        Ok(Some(Seat {
            name: settings.node.name.clone(),
            advertise: cluster.advertise.to_string(),
            secret,
            registry: Arc::new(PostgresRegistry::new(
                database.clone(),
                RegistryOptions::default(),
            )),
            database,
            transport: Arc::new(transport),
            id: Mutex::new(remembered(&id_file)),
            id_file,
        }))
    }

    /// The shared database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The arbiter in it.
    pub fn registry(&self) -> &PostgresRegistry {
        &self.registry
    }

    /// Begins a life: a new epoch and its lock service. It takes part from [`Life::begin`] on, which is to follow soon.
    ///
    /// # Errors
    /// One sentence: the wrong cluster, a name that is taken.
    pub async fn join(&self) -> anyhow::Result<Life> {
        let mut options = JoinOptions::new(
            self.name.clone(),
            self.advertise.clone(),
            env!("CARGO_PKG_VERSION").to_owned(),
            self.secret.clone(),
        );
        options.expected = *self.id.lock();
        let registry = self.registry.clone();
        let cluster = Cluster::join(options, registry, self.transport.clone())
            .await
            .context("cluster: this node can't join")?;
        self.remember(cluster.id())?;
        let cluster = Arc::new(cluster);
        let locks = ClusterLocks::new(
            cluster.peers(),
            self.registry.clone(),
            Arc::new(MonotonicClock::default()),
            ClusterOptions::default(),
            start_number(),
        );
        Ok(Life {
            cluster,
            locks,
            registry: self.registry.clone(),
        })
    }

    fn remember(&self, id: [u8; 16]) -> anyhow::Result<()> {
        let known = self.id.lock().replace(id);
        if known != Some(id) {
            let text = format!("{:032x}\n", u128::from_be_bytes(id));
            crate::files::write_private(&self.id_file, text.as_bytes())?;
        }
        Ok(())
    }
}

fn secret(cluster: &ClusterSettings) -> anyhow::Result<ClusterSecret> {
    ClusterSecret::new(&read_secret(&cluster.secret_file)?).with_context(|| {
        format!(
            "cluster.secret_file: {} is too short; make a new one with: openssl rand -hex 32",
            cluster.secret_file.display()
        )
    })
}

fn remembered(path: &std::path::Path) -> Option<[u8; 16]> {
    let text = std::fs::read_to_string(path).ok()?;
    u128::from_str_radix(text.trim(), 16)
        .ok()
        .map(u128::to_be_bytes)
}

/// The first number of this life's opens: microseconds, of which a node makes fewer than pass, in the 48 bits that there are.
fn start_number() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default() & 0xffff_ffff_ffff
}

impl Life {
    /// This incarnation.
    pub fn member(&self) -> sluice_lockmgr::Member {
        self.cluster.me()
    }

    /// Its lock service.
    pub fn locks(&self) -> Arc<dyn LockService> {
        Arc::new(self.locks.clone())
    }

    /// What administrators see.
    pub fn view(&self) -> ClusterView {
        ClusterView::of_member(self.registry.clone(), self.cluster.clone())
    }

    /// Takes part from now on; returns when the others have let this node in.
    ///
    /// # Errors
    /// Nobody could call this node back.
    pub async fn begin(&self) -> anyhow::Result<()> {
        self.cluster
            .run(Arc::new(self.locks.clone()))
            .await
            .context("cluster")
    }

    /// Takes part without ever owning a shard, if told before shards are moved to a new member.
    pub fn take_no_shards(&self) {
        let cluster = self.cluster.clone();
        tokio::spawn(async move { cluster.drain().await });
    }

    /// Returns when this life is over against its will.
    pub async fn lost(&self) {
        self.cluster.lost().await;
    }

    /// Returns when this node was told to drain and has given its shards away.
    pub async fn drained(&self) {
        self.cluster.drained().await;
    }

    /// Gives the shards to others, as long as there are others who stay.
    pub async fn give_away(&self) {
        if self.cluster.status().peers.is_empty() {
            return;
        }
        tokio::select! {
            () = self.cluster.drain() => {}
            () = self.alone() => {}
            () = tokio::time::sleep(DRAIN_PATIENCE) => {
                tracing::warn!("not all shards could be given away in time; the others take them over");
            }
        }
    }

    /// Returns when no other member is going to stay: nobody would take anything.
    async fn alone(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let Ok(list) = self.registry.members().await else {
                continue;
            };
            let stays =
                |row: &MemberRecord| row.member != self.member() && row.state == MemberState::Live;
            if !list.members.iter().any(stays) {
                return;
            }
        }
    }

    /// Ends the membership in order.
    pub async fn leave(&self) {
        self.cluster.leave().await;
    }

    /// Ends a membership that is lost already.
    pub fn abandon(&self) {
        self.cluster.stop();
    }
}
