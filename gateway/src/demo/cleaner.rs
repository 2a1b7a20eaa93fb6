//! What becomes of a demo that was killed: a process that stands by from before its first file until its end in order. Owns the
//! stopping of what a dead demo left; never acts while the demo lives.

use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

/// How long a process may take to end by itself, and the folder to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stands by in case the demo is killed; dropping it ends it without a trace.
pub(super) struct Cleaner {
    child: Child,
    /// It sees the end of this when the demo dies. After the child: a dropped one must not take that for the demo's death.
    input: ChildStdin,
}

impl Cleaner {
    /// For the demo in `folder`, which is removed unless it is to be kept.
    pub(super) fn start(folder: &Path, keep: bool) -> anyhow::Result<Cleaner> {
        let mut command = Command::new(std::env::current_exe().context("where this program is")?);
        command.arg("demo").arg("--clean-up").arg(folder);
        if keep {
            command.arg("--keep");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("the process that cleans up can't be started")?;
        let input = child.stdin.take().context("its input")?;
        Ok(Cleaner { child, input })
    }

    /// A node that ends with the demo: the cleaner waits for it.
    pub(super) async fn watch_over(&mut self, node: u32) -> anyhow::Result<()> {
        self.input
            .write_all(format!("{node}\n").as_bytes())
            .await
            .context("the process that cleans up has ended")
    }

    /// The demo ends in order: nothing is left to do.
    pub(super) async fn dismiss(mut self) {
        // It may have ended.
        let _ = self.child.kill().await;
    }
}

/// The cleaner's own life: reads the nodes' process ids until the demo ends; then waits for the nodes, which see its end too, stops
/// the database of the folder, and removes the folder unless it is to be kept.
pub(super) fn clean_up(folder: &Path, server: &Path, keep: bool) -> anyhow::Result<()> {
    let nodes: Vec<Process> = std::io::stdin()
        .lock()
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| Process::of(&line))
        .collect();
    for node in nodes {
        node.wait_or_kill();
    }
    let server = std::fs::read_to_string(server)
        .ok()
        .and_then(|text| Process::of(text.lines().next()?));
    if let Some(server) = server {
        server.signal(Signal::INT);
        server.wait_or_kill();
    }
    if keep { Ok(()) } else { remove(folder) }
}

/// Tries again for a while: processes of a database that was just being made write until they notice.
fn remove(folder: &Path) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        match std::fs::remove_dir_all(folder) {
            Err(error) if folder.exists() && begin.elapsed() > PATIENCE => {
                return Err(error).context(format!("{} can't be removed", folder.display()));
            }
            Err(_) if folder.exists() => std::thread::sleep(Duration::from_millis(50)),
            _ => return Ok(()),
        }
    }
}

/// A process, held so that no other one can get its number. Its end shows even where nobody asks how it ended and it stays a
/// zombie, as in a container without an init.
struct Process(OwnedFd);

impl Process {
    /// The one of this number, if there is one.
    fn of(number: &str) -> Option<Process> {
        let pid = number.trim().parse().ok().and_then(Pid::from_raw)?;
        pidfd_open(pid, PidfdFlags::empty()).ok().map(Process)
    }

    fn signal(&self, signal: Signal) {
        // It may have ended this moment.
        let _ = pidfd_send_signal(&self.0, signal);
    }

    fn wait_or_kill(&self) {
        let patience = Timespec::try_from(PATIENCE).ok();
        let ended = poll(
            &mut [PollFd::new(&self.0, PollFlags::IN)],
            patience.as_ref(),
        );
        if !matches!(ended, Ok(1)) {
            self.signal(Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_counts_as_ended_while_nobody_asked_how_it_ended() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let process = Process::of(&child.id().to_string()).unwrap();
        // Not INT: who starts tests in the background may have it ignored, which children inherit.
        process.signal(Signal::TERM);
        let begin = Instant::now();
        process.wait_or_kill();
        assert!(begin.elapsed() < PATIENCE);
        child.wait().unwrap();
    }
}
