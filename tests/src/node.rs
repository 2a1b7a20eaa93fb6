//! One real `sluice` process in a scratch folder, on ports of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::clients::{ftp::FtpClient, nfs3::Nfs3Client, smb::SmbClient};
use crate::cluster::Cluster;

/// Where the ports of test nodes begin, and how many there are.
const FIRST_PORT: u32 = 20_000;
const PORTS: u32 = 10_000;

/// The user that every test node has.
pub const USER: &str = "tester";
/// Its password.
pub const PASSWORD: &str = "Passw0rd!";

/// A running node.
pub struct TestNode {
    dir: tempfile::TempDir,
    child: Option<Child>,
    /// The rest of its cluster, if it stands for one.
    rest: Option<Box<dyn std::any::Any + Send + Sync>>,
    /// SMB, NFS, FTP and admin ports on 127.0.0.1.
    pub ports: Ports,
}

/// Ports of one node.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// SMB.
    pub smb: u16,
    /// NFS.
    pub nfs: u16,
    /// FTP control.
    pub ftp: u16,
    /// Admin HTTP.
    pub admin: u16,
}

/// What a node's configuration file says besides its ports.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `node.name`.
    pub name: String,
    /// `repository.metadata`, if not in its scratch folder.
    pub metadata: Option<String>,
    /// `repository.content`, if not in its scratch folder.
    pub content: Option<String>,
    /// Further keys of the section `[node]`.
    pub node_keys: String,
    /// Further sections.
    pub extra: String,
}

impl Ports {
    /// First and last port for passive FTP data connections.
    pub fn passive(self) -> (u16, u16) {
        let first = 40_000 + (self.ftp % 200) * 100;
        (first, first + 99)
    }
}

/// The program under test: `SLUICE_BIN`, or the release build in this test's own target folder.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SLUICE_BIN") {
        return path.into();
    }
    let mut dir = std::env::current_exe().expect("path of this test");
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    // Whatever profile the test has.
    dir.with_file_name("release").join("sluice")
}

/// Ports below those that the system gives to outgoing connections: a node that is killed must find its own free again.
fn free_ports() -> anyhow::Result<Ports> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(401);
    let mut listeners = Vec::new();
    // Held together so that four different ones come out.
    while listeners.len() < 4 {
        let tried = NEXT.fetch_add(1, Ordering::Relaxed);
        ensure!(tried < PORTS, "no free ports from {FIRST_PORT}");
        let port = FIRST_PORT + begin.wrapping_add(tried) % PORTS;
        listeners.extend(TcpListener::bind(("127.0.0.1", port as u16)).ok());
    }
    let port = |at: usize| listeners[at].local_addr().map(|address| address.port());
    Ok(Ports {
        smb: port(0)?,
        nfs: port(1)?,
        ftp: port(2)?,
        admin: port(3)?,
    })
}

impl TestNode {
    /// Starts a fresh node with the user [`USER`]; `extra` is added to its configuration file.
    pub fn start_with(extra: &str) -> anyhow::Result<TestNode> {
        TestNode::start_configured("", None, extra)
    }

    /// The same with its content elsewhere, for example in `s3://bucket/prefix`.
    pub fn start_with_content(content: &str, extra: &str) -> anyhow::Result<TestNode> {
        TestNode::start_configured("", Some(content), extra)
    }

    /// The same with further keys of the section `[node]`.
    pub fn start_with_node_keys(keys: &str) -> anyhow::Result<TestNode> {
        TestNode::start_configured(keys, None, "")
    }

    fn start_configured(
        node_keys: &str,
        content: Option<&str>,
        extra: &str,
    ) -> anyhow::Result<TestNode> {
        if content.is_none() && std::env::var_os("SLUICE_TEST_CLUSTER").is_some() {
            return Ok(Cluster::start_with(3, false, node_keys, extra)?.as_one());
        }
        let node = TestNode::start_at(&Place {
            name: "t1".into(),
            metadata: None,
            content: content.map(str::to_owned),
            node_keys: node_keys.into(),
            extra: extra.into(),
        })?;
        node.add_user(USER, PASSWORD, 1000)?;
        Ok(node)
    }

    /// Starts a node in a new scratch folder; makes no user.
    pub fn start_at(place: &Place) -> anyhow::Result<TestNode> {
        let dir = tempfile::tempdir()?;
        let ports = free_ports()?;
        let base = dir.path().display();
        let (first_passive, last_passive) = ports.passive();
        let (own_metadata, own_content) = (
            format!("sqlite://{base}/meta.db"),
            format!("file://{base}/content"),
        );
        let config = format!(
            "[node]\nname = \"{}\"\nstate_dir = \"{base}/state\"\n{}\
             [repository]\nmetadata = \"{}\"\ncontent = \"{}\"\n\
             [smb]\nlisten = [\"127.0.0.1:{}\"]\n[nfs]\nlisten = [\"127.0.0.1:{}\"]\n\
             [ftp]\nlisten = [\"127.0.0.1:{}\"]\npassive_ports = \"{first_passive}-{last_passive}\"\n\
             [admin]\nlisten = [\"127.0.0.1:{}\"]\n{}",
            place.name,
            place.node_keys,
            place.metadata.as_ref().unwrap_or(&own_metadata),
            place.content.as_ref().unwrap_or(&own_content),
            ports.smb,
            ports.nfs,
            ports.ftp,
            ports.admin,
            place.extra,
        );
        std::fs::write(dir.path().join("sluice.toml"), config)?;
        let mut node = TestNode {
            dir,
            child: None,
            rest: None,
            ports,
        };
        node.spawn()?;
        Ok(node)
    }

    /// Starts a fresh node.
    pub fn start() -> anyhow::Result<TestNode> {
        TestNode::start_with("")
    }

    /// This node stands for a cluster: SMB and administration through it, NFS and FTP through others, so that every story
    /// between protocols is one between nodes.
    pub(crate) fn with(
        mut self,
        others: Ports,
        rest: impl std::any::Any + Send + Sync,
    ) -> TestNode {
        self.ports = others;
        self.rest = Some(Box::new(rest));
        self
    }

    /// The scratch folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the process (again) and waits until it says that it is ready.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        self.spawn_under(&[])
    }

    /// The same through another program, which becomes the node: its words come before the node's command.
    pub fn spawn_under(&mut self, other: &[String]) -> anyhow::Result<()> {
        let own = binary().into_os_string();
        let mut words = other.iter().map(Into::into).chain([own]);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))?;
        let mut child = Command::new(words.next().context("a program")?)
            .args(words)
            .args(["serve", "--config"])
            .arg(self.dir.path().join("sluice.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} can't be started; build it first", binary().display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let ready = lines.find(|line| line.as_ref().map_or(true, |line| line.contains("is ready")));
        self.child = Some(child);
        ensure!(
            matches!(ready, Some(Ok(_))),
            "the node did not start: {}",
            self.log()
        );
        // The rest of the greeting is read away so that the node never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(())
    }

    /// The scratch folder is not removed with this; where it is.
    pub fn keep(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    /// What the node logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Whether `/readyz` says that it serves.
    pub fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.ports.admin))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream
                .write_all(b"GET /readyz HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            std::io::Read::read_to_string(&mut stream, &mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// The process id; 0 if it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Kills it like a power cut would (SIGKILL).
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops it in its tracks (SIGSTOP), as a hung machine would.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("-STOP")
    }

    /// Lets it go on after [`Self::pause`].
    pub fn go_on(&self) -> anyhow::Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.child.as_ref().context("it does not run")?.id();
        let sent = Command::new("kill")
            .args([name, &pid.to_string()])
            .status()?;
        ensure!(sent.success(), "kill {name} {pid}");
        Ok(())
    }

    /// Waits until it has ended by itself, and well; fails if it takes over 20 s.
    pub fn wait_for_the_end(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        ended(&mut child)
    }

    /// Asks it to stop (SIGTERM) and waits; fails if it takes over 20 s.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        Command::new("kill").arg(child.id().to_string()).status()?;
        ended(&mut child)
    }

    /// Runs a `sluice` command against this node's configuration.
    pub fn cli(&self, args: &[&str], stdin: &str) -> anyhow::Result<Output> {
        let mut child = Command::new(binary())
            .arg("--config")
            .arg(self.dir.path().join("sluice.toml"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("stdin")?
            .write_all(stdin.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// Runs a `sluice` command that must succeed; its stdout.
    pub fn cli_ok(&self, args: &[&str], stdin: &str) -> anyhow::Result<String> {
        let output = self.cli(args, stdin)?;
        ensure!(
            output.status.success(),
            "sluice {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Adds a user.
    pub fn add_user(&self, name: &str, password: &str, uid: u32) -> anyhow::Result<()> {
        let (uid, line) = (uid.to_string(), format!("{password}\n"));
        self.cli_ok(
            &["user", "add", name, "--password-stdin", "--uid", &uid],
            &line,
        )
        .map(drop)
    }

    /// Adds a policy rule; its id comes back on the list, not here.
    pub fn policy(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut all = vec!["policy", "add", "--share", "docs"];
        all.extend(args);
        self.cli_ok(&all, "").map(drop)
    }

    /// What `sluice locks list --json` shows.
    fn locks(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let text = self.cli_ok(&["locks", "list", "--json"], "")?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        value.as_array().cloned().context("a list of locks")
    }

    fn until(
        &self,
        what: &str,
        fulfilled: impl Fn(&[serde_json::Value]) -> bool,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            if fulfilled(&self.locks()?) {
                return Ok(());
            }
        }
        bail!(
            "{what} did not come about within 20 s: {:#?}",
            self.locks()?
        )
    }

    /// Waits until somebody waits for the document through the protocol: the observable moment, not a guess of time.
    pub fn wait_for_waiter(&self, path: &str, protocol: &str) -> anyhow::Result<()> {
        self.until("a waiter", |locks| {
            locks.iter().any(|lock| {
                lock["kind"] == "waiter" && lock["path"] == path && lock["protocol"] == protocol
            })
        })
    }

    /// Waits until somebody holds the document through the protocol.
    pub fn wait_for_holder(&self, path: &str, protocol: &str) -> anyhow::Result<()> {
        self.until("a holder", |locks| {
            locks.iter().any(|lock| {
                lock["kind"] == "open" && lock["path"] == path && lock["protocol"] == protocol
            })
        })
    }

    /// Waits until nobody holds anything.
    pub fn wait_for_no_locks(&self) -> anyhow::Result<()> {
        self.until("an empty lock table", <[serde_json::Value]>::is_empty)
    }

    /// An SMB client on share docs.
    pub fn smb(&self) -> anyhow::Result<SmbClient> {
        SmbClient::connect(
            &format!("127.0.0.1:{}", self.ports.smb),
            USER,
            PASSWORD,
            "docs",
        )
    }

    /// An NFSv3 client that calls itself `machine`, and the root handle of docs.
    pub fn nfs(&self, machine: &str) -> anyhow::Result<(Nfs3Client, Vec<u8>)> {
        let mut client =
            Nfs3Client::connect(&format!("127.0.0.1:{}", self.ports.nfs), 1000, machine)?;
        let root = client.mount("/docs")?;
        Ok((client, root))
    }

    /// An FTP client.
    pub fn ftp(&self) -> anyhow::Result<FtpClient> {
        FtpClient::connect(&format!("127.0.0.1:{}", self.ports.ftp), USER, PASSWORD)
    }
}

/// Waits for a process that is about to end.
fn ended(child: &mut Child) -> anyhow::Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(20) {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "it stopped with {status}");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    bail!("it did not stop within 20 s")
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the node's log\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            // A failed test must not leave its node behind; nothing more can be done about a failure here.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
