//! HAProxy with the example configuration in front of a node: all protocols pass, and the node knows its clients.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sluice_tests::clients::{ftp::FtpClient, nfs3::Nfs3Client, smb::SmbClient};
use sluice_tests::node::{PASSWORD, TestNode, USER};
use sluice_tests::tools::run;

type Outcome = anyhow::Result<()>;

/// Where the balancer listens; the node is on 127.0.0.1, and sees the balancer come from here.
const FRONT: &str = "127.0.0.2";

struct Balancer(Child);

impl Drop for Balancer {
    fn drop(&mut self) {
        // Nothing more can be done about a failure here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `deploy/haproxy.cfg` with this test's addresses and ports, and without the nodes that this test lacks.
fn configuration(node: &TestNode) -> anyhow::Result<String> {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/haproxy.cfg");
    let ports = node.ports;
    let (first, last) = ports.passive();
    let text = std::fs::read_to_string(example).context(example)?;
    let text = text
        .replace("10.0.0.10", FRONT)
        .replace("10.0.0.1", "127.0.0.1")
        .replace("maxconn 20000", "maxconn 200")
        .replace(":445", &format!(":{}", ports.smb))
        .replace(":2049", &format!(":{}", ports.nfs))
        .replace(":21\n", &format!(":{}\n", ports.ftp))
        .replace(":50000-50099", &format!(":{first}-{last}"))
        .replace("port 8480", &format!("port {}", ports.admin))
        .replace("defaults\n", &format!("defaults\n    source {FRONT}\n"));
    let (shared, others) = text
        .split_once("listen ftp-data-gw2")
        .context("the example has a range for each node")?;
    ensure!(others.contains("gw3"), "the example has three nodes");
    Ok(shared
        .lines()
        .filter(|line| !line.contains(" gw2 ") && !line.contains(" gw3 "))
        .map(|line| format!("{line}\n"))
        .collect())
}

fn start(node: &TestNode) -> anyhow::Result<Balancer> {
    let path = node.dir().join("haproxy.cfg");
    std::fs::write(&path, configuration(node)?)?;
    let path = path.display().to_string();
    run(Command::new("haproxy").args(["-c", "-f", &path]))?;
    let balancer = Balancer(
        Command::new("haproxy")
            .args(["-db", "-f", &path])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(node.dir().join("haproxy.log"))?)
            .spawn()?,
    );
    let begin = Instant::now();
    while TcpStream::connect((FRONT, node.ports.ftp)).is_err() {
        if begin.elapsed() > Duration::from_secs(10) {
            let log = std::fs::read_to_string(node.dir().join("haproxy.log"))?;
            bail!("HAProxy did not listen within 10 s: {log}");
        }
    }
    Ok(balancer)
}

#[test]
fn every_protocol_passes_the_balancer_and_the_node_knows_the_client_behind_it() -> Outcome {
    let node = TestNode::start_with_node_keys("proxy_protocol_from = [\"127.0.0.2/32\"]\n")?;
    let _balancer = start(&node)?;
    let mut ftp = FtpClient::connect(&format!("{FRONT}:{}", node.ports.ftp), USER, PASSWORD)?;
    let body = vec![b'x'; 200_000];
    ensure!(ftp.store("/docs/a.bin", &body)?.code == 226, "FTP upload");
    let mut smb = SmbClient::connect(
        &format!("{FRONT}:{}", node.ports.smb),
        USER,
        PASSWORD,
        "docs",
    )?;
    ensure!(smb.list("")?.0 >= 1, "SMB lists the upload");
    let mut nfs = Nfs3Client::connect(&format!("{FRONT}:{}", node.ports.nfs), 1000, "machine")?;
    let root = nfs.mount("/docs")?;
    let (file, size) = nfs
        .lookup(&root, "a.bin")?
        .map_err(|status| anyhow::anyhow!("lookup: {status}"))?;
    ensure!(size == 200_000 && nfs.read_all(&file)? == body, "NFS read");
    let sessions: Vec<serde_json::Value> =
        serde_json::from_str(&node.cli_ok(&["sessions", "--json"], "")?)?;
    ensure!(sessions.len() >= 2, "sessions are listed: {sessions:?}");
    for session in &sessions {
        let address = session["client"].as_str().context("a client")?;
        ensure!(
            address.starts_with("127.0.0.1"),
            "the client is shown, not the balancer: {session}"
        );
    }
    Ok(())
}

#[test]
fn nobody_but_the_balancer_may_claim_to_be_someone_else() -> Outcome {
    let node = TestNode::start_with_node_keys("proxy_protocol_from = [\"127.0.0.2/32\"]\n")?;
    // A header from elsewhere is taken as the protocol's own bytes, which it is not.
    let forged = format!(
        "printf '\\r\\n\\r\\n\\0\\r\\nQUIT\\n\\x21\\x11\\0\\014\\300\\0\\2\\7\\177\\0\\0\\1\\0\\1\\0\\1USER {USER}\\r\\n' \
         | timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{}; cat >&3; head -c 400 <&3'",
        node.ports.ftp
    );
    let answer = run(Command::new("bash").args(["-c", &forged]))?;
    ensure!(answer.starts_with("220 "), "greeted first: {answer}");
    ensure!(
        answer.contains("\n500 ") || answer.contains("\n502 ") || answer.contains("\n501 "),
        "the header is no command: {answer}"
    );
    Ok(())
}
