//! `sluice demo` from nothing to three nodes that serve, and to nothing again.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sluice_tests::clients::ftp::FtpClient;
use sluice_tests::node::binary;

/// One demo at a time: the ports that one has chosen and not taken yet look free to the next.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder for temporary files that the database's own account can get into.
fn scratch() -> anyhow::Result<tempfile::TempDir> {
    let scratch = tempfile::tempdir()?;
    std::fs::set_permissions(
        scratch.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o711),
    )?;
    Ok(scratch)
}

fn command(scratch: &Path) -> Command {
    let mut demo = Command::new(binary());
    demo.arg("demo")
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    demo
}

/// A demo that is up, its further output, and what it said.
fn start(scratch: &Path) -> anyhow::Result<(Child, Lines<BufReader<ChildStdout>>, Vec<String>)> {
    let mut demo = command(scratch).spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().context("its output")?).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        said.push(line?);
        if said
            .last()
            .is_some_and(|line| line.contains("Ctrl-C stops"))
        {
            break;
        }
    }
    Ok((demo, lines, said))
}

#[test]
fn a_killed_demo_leaves_neither_processes_nor_files_behind() -> anyhow::Result<()> {
    let (_alone, scratch) = (alone(), scratch()?);
    let (mut demo, lines, said) = start(scratch.path())?;
    let ports = ftp_ports(&said);
    ensure!(ports.len() == 3, "{}", said.join("\n"));
    demo.kill()?;
    demo.wait()?;
    drop(lines);
    let begin = Instant::now();
    loop {
        let left: Vec<_> = std::fs::read_dir(scratch.path())?.flatten().collect();
        let serving: Vec<_> = ports
            .iter()
            .filter(|port| std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok())
            .collect();
        if serving.is_empty() && left.is_empty() {
            break;
        }
        ensure!(
            begin.elapsed() < Duration::from_secs(60),
            "left behind: {left:?}; still serving: {serving:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn a_demo_that_is_killed_before_it_serves_leaves_nothing_behind_either() -> anyhow::Result<()> {
    let (_alone, scratch) = (alone(), scratch()?);
    let mut demo = command(scratch.path()).spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().context("its output")?).lines();
    // Its first line comes before its database is made.
    lines.next().context("a line")??;
    demo.kill()?;
    demo.wait()?;
    let begin = Instant::now();
    while std::fs::read_dir(scratch.path())?.next().is_some() {
        ensure!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The FTP ports of the nodes.
fn ftp_ports(said: &[String]) -> Vec<String> {
    said.iter()
        .filter(|line| line.starts_with("  gw"))
        .filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned))
        .collect()
}

#[test]
fn the_demo_serves_within_a_minute_and_leaves_nothing_behind() -> anyhow::Result<()> {
    let (_alone, scratch) = (alone(), scratch()?);
    let begin = Instant::now();
    let (mut demo, _lines, said) = start(scratch.path())?;
    let password = said
        .iter()
        .find_map(|line| line.split_once("with password "))
        .map(|(_, word)| word.trim().to_owned());
    let ports = ftp_ports(&said);
    let tried = password
        .context("a password")
        .and_then(|password| serves(&ports, &password));
    ensure!(begin.elapsed() < Duration::from_secs(60));
    let asked = Command::new("kill").arg(demo.id().to_string()).status()?;
    let ended = demo.wait()?;
    tried.with_context(|| said.join("\n"))?;
    ensure!(asked.success() && ended.success(), "it ended with {ended}");
    let left: Vec<_> = std::fs::read_dir(scratch.path())?.flatten().collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// What was written through the first node is read through the last.
fn serves(ports: &[String], password: &str) -> anyhow::Result<()> {
    let [first, .., last] = ports else {
        anyhow::bail!("three nodes");
    };
    let connect =
        |port: &String| FtpClient::connect(&format!("127.0.0.1:{port}"), "admin", password);
    let stored = connect(first)?.store("/docs/a.txt", b"through the first")?;
    ensure!(stored.code == 226, "{}", stored.text);
    let read = connect(last)?
        .retrieve("/docs/a.txt")?
        .map_err(|reply| anyhow::anyhow!("{}", reply.text))?;
    ensure!(read == b"through the first");
    Ok(())
}
