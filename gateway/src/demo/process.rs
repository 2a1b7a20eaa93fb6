//! The processes of a demo's nodes: starts them, watches them and ends them. What becomes of them after a demo that was killed is
//! `cleaner`'s.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use super::layout::NodePlace;

/// How long a node may take to start.
const START_PATIENCE: Duration = Duration::from_secs(40);
/// How long it may take to commit what is open when it is told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A running node; killed when dropped.
pub(super) struct NodeProcess {
    name: String,
    child: Child,
    pid: u32,
    /// Kept apart: waiting for the child would close it, and the node would take that for the demo's end.
    _input: ChildStdin,
}

impl NodeProcess {
    /// Starts it and waits until it serves; also the administrator's password, if this start made him.
    pub(super) async fn start(place: &NodePlace) -> anyhow::Result<(NodeProcess, Option<String>)> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&place.log)
            .with_context(|| format!("{} can't be written", place.log.display()))?;
        let mut child = Command::new(std::env::current_exe().context("where this program is")?)
            .args(["serve", "--until-eof", "--config"])
            .arg(&place.config)
            // Never written to; ends with the demo, also with one that is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C is for the demo, which stops nodes and database in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("node {} can't be started", place.name))?;
        let pid = child.id().unwrap_or_default();
        let input = child.stdin.take().context("its input")?;
        let output = child.stdout.take().context("its output")?;
        let mut lines = BufReader::new(output).lines();
        let greeting = tokio::time::timeout(START_PATIENCE, greeting(&mut lines)).await;
        let Ok(Some(password)) = greeting else {
            let log = std::fs::read_to_string(&place.log).unwrap_or_default();
            let last = log.lines().last().unwrap_or("it said nothing");
            bail!("node {} did not start: {last}", place.name);
        };
        // Read on, so that the node never stands before a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let name = place.name.clone();
        let node = NodeProcess {
            name,
            child,
            pid,
            _input: input,
        };
        Ok((node, password))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells people when it ends by itself; ends it when told to.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        tokio::select! {
            status = self.child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |s| s.to_string());
                println!("sluice: node {} (process {}) ended: {status}", self.name, self.pid);
                return;
            }
            () = stop.cancelled() => {}
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended this moment.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(STOP_PATIENCE, self.child.wait())
            .await
            .is_err()
        {
            println!(
                "sluice: node {} did not stop in time and is killed",
                self.name
            );
            let _ = self.child.kill().await;
        }
    }
}

/// Reads until the node is ready and its greeting's password line is past; nothing if it ended before.
async fn greeting(
    lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
) -> Option<Option<String>> {
    let mut ready = false;
    let mut password = None;
    while let Ok(Some(line)) = lines.next_line().await {
        ready |= line.contains("is ready");
        if let Some((_, word)) = line.split_once("with password ") {
            password = Some(word.trim().to_owned());
        }
        if ready && line.starts_with("Connect to") {
            return Some(password);
        }
    }
    None
}
