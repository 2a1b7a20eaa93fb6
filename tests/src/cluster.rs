//! A cluster of real `sluice` processes on one PostgreSQL server and one content folder, each part of which can be killed, stopped
//! or cut off.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sluice_repo_postgres::server::PostgresServer;

use crate::node::{PASSWORD, Place, Ports, TestNode, USER};
use crate::wire::Wire;

/// A running cluster. Its parts stop when it is dropped: nodes first.
pub struct Cluster {
    /// The nodes, by their names gw1, gw2, ...
    pub nodes: Vec<TestNode>,
    wires: Vec<Wires>,
    /// The database.
    pub server: PostgresServer,
    shared: tempfile::TempDir,
}

/// Where a node can be cut off.
struct Wires {
    /// From the node to the database.
    database: Wire,
    /// From the other nodes to this one.
    peers: Wire,
}

impl Cluster {
    /// Three nodes that reach each other directly.
    pub fn start() -> anyhow::Result<Cluster> {
        Cluster::start_with(3, false, "", "")
    }

    /// Three nodes whose connections to the database and to each other can be cut.
    pub fn start_wired() -> anyhow::Result<Cluster> {
        Cluster::start_with(3, true, "", "")
    }

    /// So many nodes, wired or not, with more keys of `[node]` and more sections in their configuration files.
    pub fn start_with(
        count: usize,
        wired: bool,
        node_keys: &str,
        extra: &str,
    ) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::empty()?;
        for _ in 0..count {
            cluster.add(wired, |place| {
                place.node_keys = node_keys.into();
                place.extra.push_str(extra);
            })?;
        }
        Ok(cluster)
    }

    /// Three nodes whose content is elsewhere, for example in `s3://bucket/prefix`, with more sections in their configuration files.
    pub fn start_with_content(content: &str, extra: &str) -> anyhow::Result<Cluster> {
        let mut cluster = Cluster::empty()?;
        for _ in 0..3 {
            cluster.add(false, |place| {
                place.content = Some(content.to_owned());
                place.extra.push_str(extra);
            })?;
        }
        Ok(cluster)
    }

    /// The database alone; nodes are to be added.
    pub fn empty() -> anyhow::Result<Cluster> {
        let shared = tempfile::tempdir()?;
        write_private(
            &shared.path().join("secret"),
            "a secret of the test cluster only",
        )?;
        Ok(Cluster {
            nodes: Vec::new(),
            wires: Vec::new(),
            server: PostgresServer::temporary()?,
            shared,
        })
    }

    /// Starts the next node, wired or not, with a change of its configuration.
    pub fn add(&mut self, wired: bool, change: impl FnOnce(&mut Place)) -> anyhow::Result<()> {
        let name = format!("gw{}", self.nodes.len() + 1);
        let node = self
            .start_node(&name, "secret", wired, change)
            .with_context(|| format!("node {name}"))?;
        if self.nodes.is_empty() {
            node.add_user(USER, PASSWORD, 1000)?;
        }
        self.nodes.push(node);
        Ok(())
    }

    fn start_node(
        &mut self,
        name: &str,
        secret: &str,
        wired: bool,
        change: impl FnOnce(&mut Place),
    ) -> anyhow::Result<TestNode> {
        let secret = self.shared.path().join(secret);
        let listen = free_address()?;
        let mut advertise = listen;
        let mut metadata = self.server.url();
        if wired {
            let server = SocketAddr::from(([127, 0, 0, 1], self.server.port()));
            let wires = Wires {
                database: Wire::to(server)?,
                peers: Wire::to(listen)?,
            };
            advertise = wires.peers.address();
            metadata = metadata.replace(
                &format!(":{}/", server.port()),
                &format!(":{}/", wires.database.address().port()),
            );
            self.wires.push(wires);
        }
        let mut place = Place {
            name: name.to_owned(),
            metadata: Some(metadata),
            content: Some(format!(
                "file://{}",
                self.shared.path().join("content").display()
            )),
            node_keys: String::new(),
            extra: format!(
                "[cluster]\nlisten = \"{listen}\"\nadvertise = \"{advertise}\"\nsecret_file = \"{}\"\n",
                secret.display()
            ),
        };
        change(&mut place);
        TestNode::start_at(&place)
    }

    /// Tries to start a node on the same database that does not know the cluster's secret.
    pub fn start_stranger(mut self) -> anyhow::Result<TestNode> {
        write_private(
            &self.shared.path().join("other"),
            "the secret of some other cluster",
        )?;
        self.start_node("stranger", "other", false, |_| {})
    }

    /// The cluster as one node: each protocol through another one.
    #[must_use]
    pub fn as_one(mut self) -> TestNode {
        let first = self.nodes.remove(0);
        let ports = Ports {
            nfs: self
                .nodes
                .first()
                .map_or(first.ports.nfs, |node| node.ports.nfs),
            ftp: self
                .nodes
                .last()
                .map_or(first.ports.ftp, |node| node.ports.ftp),
            ..first.ports
        };
        first.with(ports, self)
    }

    /// A node, from 0.
    pub fn node(&self, at: usize) -> &TestNode {
        &self.nodes[at]
    }

    fn wires(&self, at: usize) -> &Wires {
        self.wires
            .get(at)
            .expect("a cluster that was started with wires")
    }

    /// Cuts or heals a node's connections to the database.
    pub fn cut_database(&self, at: usize, cut: bool) {
        switch(&self.wires(at).database, cut);
    }

    /// Cuts or heals the connections that the other nodes make to a node.
    pub fn cut_peers_to(&self, at: usize, cut: bool) {
        switch(&self.wires(at).peers, cut);
    }

    /// A machine without power: its node does nothing any more, and nobody hears the end of a connection.
    pub fn power_off(&self, at: usize) -> anyhow::Result<()> {
        self.cut_database(at, true);
        self.cut_peers_to(at, true);
        self.node(at).pause()
    }

    /// It starts again.
    pub fn power_on(&mut self, at: usize) -> anyhow::Result<()> {
        self.nodes[at].kill()?;
        self.cut_database(at, false);
        self.cut_peers_to(at, false);
        self.nodes[at].spawn()
    }

    /// The database's clock jumps: as seen by it, all leases end so many seconds earlier (or, below zero, later).
    pub fn jump_clock(&self, seconds: i64) -> anyhow::Result<()> {
        let statement = format!(
            "UPDATE node_session SET expires_at = expires_at - make_interval(secs => {seconds})"
        );
        self.server.sql(&statement)?;
        Ok(())
    }

    /// Cuts or heals all connections between the nodes; all reach the database still.
    pub fn cut_all_peers(&self, cut: bool) {
        for wires in &self.wires {
            switch(&wires.peers, cut);
        }
    }

    /// What `sluice nodes` on a node says of another: the state of its latest life.
    pub fn state_of(&self, at: usize, name: &str) -> anyhow::Result<String> {
        let latest = self.latest(at, name)?;
        Ok(latest["state"].as_str().unwrap_or("unknown").to_owned())
    }

    /// The epoch of another node's latest life.
    pub fn epoch_of(&self, at: usize, name: &str) -> anyhow::Result<u64> {
        self.latest(at, name)?["epoch"].as_u64().context("an epoch")
    }

    fn latest(&self, at: usize, name: &str) -> anyhow::Result<serde_json::Value> {
        let text = self.node(at).cli_ok(&["nodes", "--json"], "")?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let latest = value
            .as_array()
            .context("a list of nodes")?
            .iter()
            .filter(|node| node["name"] == name)
            .max_by_key(|node| node["epoch"].as_u64());
        latest.cloned().context("no such node")
    }

    /// Waits until a node sees another in a state.
    pub fn wait_for_state(&self, at: usize, name: &str, state: &str) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut last = String::new();
        while begin.elapsed() < Duration::from_secs(30) {
            // A node that is frozen may refuse for a while.
            last = self
                .state_of(at, name)
                .unwrap_or_else(|error| error.to_string());
            if last == state {
                return Ok(());
            }
        }
        bail!("{name} is {last} and not {state} after 30 s")
    }

    /// Keeps what the nodes logged beyond the end of the cluster; where.
    pub fn keep_logs(&self) -> Vec<std::path::PathBuf> {
        let kept = self.nodes.iter().filter_map(|node| {
            let name = format!("sluice-{}-node-{}.log", std::process::id(), node.ports.smb);
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, node.log()).is_ok().then_some(path)
        });
        kept.collect()
    }

    /// Waits until every running node may act.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        for node in self.nodes.iter().filter(|node| node.pid() != 0) {
            while !node.is_ready() {
                ensure!(
                    begin.elapsed() < Duration::from_secs(30),
                    "a node is not ready after 30 s: {}",
                    node.log()
                );
            }
        }
        Ok(())
    }

    /// Waits until a node has renewed its lease twice: it has long read by then who coordinates what.
    pub fn wait_for_renewals(&self, name: &str) -> anyhow::Result<()> {
        let lease =
            format!("SELECT max(expires_at) FROM sluice.node_session WHERE name = '{name}'");
        let begin = Instant::now();
        for _ in 0..2 {
            let last = self.server.sql(&lease)?;
            while self.server.sql(&lease)? == last {
                ensure!(
                    begin.elapsed() < Duration::from_secs(20),
                    "{name} does not renew its lease"
                );
            }
        }
        Ok(())
    }

    /// Waits until each of the three nodes coordinates a third of all documents.
    pub fn wait_until_spread(&self) -> anyhow::Result<()> {
        let uneven = "SELECT count(*) FROM (SELECT 1 FROM sluice.lock_shard GROUP BY owner HAVING count(*) NOT IN (1365, 1366)) AS u";
        let begin = Instant::now();
        while self.server.sql(uneven)?.trim() != "0" {
            ensure!(
                begin.elapsed() < Duration::from_secs(20),
                "the shards are not spread after 20 s"
            );
        }
        Ok(())
    }
}

fn switch(wire: &Wire, cut: bool) {
    if cut { wire.cut() } else { wire.heal() }
}

/// Below the range of outgoing connections, so that it is still free when a node starts again.
fn free_address() -> anyhow::Result<SocketAddr> {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 4000)?;
    for _ in 0..1000 {
        let port = 16_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 4000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr()?);
        }
    }
    bail!("no free port between 16000 and 20000")
}

fn write_private(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}
