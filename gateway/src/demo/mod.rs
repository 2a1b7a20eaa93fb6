//! `sluice demo`: a cluster of three gateways and its own PostgreSQL on this machine, from nothing, in one command. Everything
//! lives in one folder; Ctrl-C stops all of it. The nodes are processes of this very program with ordinary configuration files.

mod cleaner;
mod layout;
mod process;

use std::path::{Path, PathBuf};

use anyhow::Context;
use sluice_repo_postgres::server::{Durability, PostgresServer};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use cleaner::Cleaner;
use layout::Layout;
use process::NodeProcess;

/// Where a demo that is kept lives, below the current folder.
const KEPT: &str = "sluice-demo";
/// The folder of its database.
const DATABASE: &str = "postgres";
/// Its nodes.
const NODES: u16 = 3;

/// Runs until Ctrl-C or SIGTERM. `keep`: in `./sluice-demo`, which stays and is used again by the next one.
///
/// # Errors
/// One sentence: PostgreSQL is missing, a node did not start.
pub async fn run(keep: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (folder, scratch) = folder(keep)?;
    let demo = tokio::select! {
        started = start(&folder, keep) => started,
        _ = tokio::signal::ctrl_c() => Ok(None),
        _ = terminate.recv() => Ok(None),
    };
    let outcome = match demo {
        Ok(Some(demo)) => demo.run_until(terminate).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Some(scratch) = scratch
        && outcome.is_ok()
    {
        drop(scratch);
    } else if !keep {
        eprintln!("sluice: its logs are in {}", folder.display());
    }
    outcome
}

/// Stands by for the demo in `folder`, whose process holds the other end of standard input, and cleans up after it when it is
/// killed.
///
/// # Errors
/// The folder can't be removed.
pub fn clean_up(folder: &Path, keep: bool) -> anyhow::Result<()> {
    let server = PostgresServer::pid_file(&folder.join(DATABASE));
    cleaner::clean_up(folder, &server, keep)
}

/// A folder that goes away when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing more can be done about a leftover in the temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn folder(keep: bool) -> anyhow::Result<(PathBuf, Option<Scratch>)> {
    let folder = if keep {
        std::env::current_dir()
            .context("the current folder is gone")?
            .join(KEPT)
    } else {
        std::env::temp_dir().join(format!("sluice-demo-{}", std::process::id()))
    };
    layout::make_folder(&folder)?;
    let scratch = (!keep).then(|| Scratch(folder.clone()));
    Ok((folder, scratch))
}

/// A running demo. Dropping it stops everything hard.
struct Demo {
    nodes: Vec<NodeProcess>,
    cleaner: Cleaner,
    /// After the nodes, which use it.
    server: PostgresServer,
}

async fn start(folder: &Path, keep: bool) -> anyhow::Result<Option<Demo>> {
    let mut cleaner = Cleaner::start(folder, keep)?;
    println!(
        "sluice: starting PostgreSQL and {NODES} nodes in {}",
        folder.display()
    );
    let server = tokio::task::spawn_blocking({
        let folder = folder.to_owned();
        move || database(&folder)
    })
    .await
    .context("the start broke off")??;
    let layout = Layout::make(folder, &server.url(), NODES)?;
    let mut nodes = Vec::new();
    let mut password = None;
    // The first one makes the cluster, its user and its share; the others join it.
    for place in &layout.nodes {
        let (node, first_password) = NodeProcess::start(place).await?;
        cleaner.watch_over(node.pid()).await?;
        password = password.or(first_password);
        println!(
            "sluice: node {} is ready (process {})",
            place.name,
            node.pid()
        );
        nodes.push(node);
    }
    print!("{}", layout::welcome(&layout, &nodes, password.as_deref()));
    Ok(Some(Demo {
        nodes,
        cleaner,
        server,
    }))
}

/// The server of this folder: the one from last time, or a new one.
fn database(folder: &Path) -> anyhow::Result<PostgresServer> {
    let (place, access) = (folder.join(DATABASE), folder.join("postgres.access"));
    let mut server = match std::fs::read_to_string(&access) {
        Ok(text) => {
            let (port, password) = text
                .trim()
                .split_once(' ')
                .and_then(|(port, password)| Some((port.parse().ok()?, password)))
                .with_context(|| {
                    format!(
                        "{} can't be read; delete {}",
                        access.display(),
                        folder.display()
                    )
                })?;
            PostgresServer::existing(&place, Durability::Disk, port, password)?
        }
        Err(_) => {
            let server = PostgresServer::create(&place, Durability::Disk)?;
            let text = format!("{} {}\n", server.port(), server.password());
            crate::files::write_private(&access, text.as_bytes())?;
            server
        }
    };
    server.start()?;
    Ok(server)
}

impl Demo {
    async fn run_until(self, mut terminate: tokio::signal::unix::Signal) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let mut nodes = JoinSet::new();
        for node in self.nodes {
            nodes.spawn(node.watch(stop.clone()));
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        println!("\nsluice: stopping");
        self.cleaner.dismiss().await;
        stop.cancel();
        while nodes.join_next().await.is_some() {}
        let mut server = self.server;
        tokio::task::spawn_blocking(move || server.stop())
            .await
            .context("the end broke off")??;
        Ok(())
    }
}
