//! The servers under load: this gateway and the peers from Debian, started and stopped here, all on loopback.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sluice_tests::node::{PASSWORD, TestNode, USER};
use sluice_tests::tools::run;

use crate::work::Protocol;

const PEER_USER: &str = "slbench";
const PEER_PASSWORD: &str = "Passw0rd!";

/// One server, or one peer with one protocol.
pub struct Server {
    /// Its name in the table.
    pub name: &'static str,
    /// Addresses, where it speaks the protocol.
    pub smb: Option<String>,
    /// NFS.
    pub nfs: Option<String>,
    /// Another address for MOUNT, and the export's path.
    pub nfs_mount: Option<(String, String)>,
    /// FTP.
    pub ftp: Option<String>,
    /// Folder that clients work in over FTP.
    pub ftp_root: String,
    /// Login.
    pub user: String,
    /// Login.
    pub password: String,
    /// AUTH_SYS uid.
    pub uid: u32,
    /// The folder on disk where an operator's helper would sync what this peer has answered without a sync.
    pub synced_in: Option<PathBuf>,
    pid: u32,
    _process: Process,
}

enum Process {
    /// Another entry's.
    Shared,
    Own(Box<TestNode>),
    /// The folder goes when the peer has stopped.
    Peer(
        Child,
        #[allow(dead_code, reason = "kept for its drop")] tempfile::TempDir,
    ),
}

impl Drop for Process {
    fn drop(&mut self) {
        match self {
            Process::Own(node) => {
                if let Err(error) = node.stop() {
                    eprintln!("the node did not stop well: {error}");
                }
            }
            Process::Shared => {}
            Process::Peer(child, _) => {
                // The peer's children end with it; a failure leaves nothing to do here.
                let _ = Command::new("kill").arg(child.id().to_string()).status();
                let _ = child.wait();
            }
        }
    }
}

fn ticks(pid: u32) -> u64 {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return 0;
    };
    let after = text.rsplit(')').next().unwrap_or_default();
    // utime, stime and those of ended children (proc(5): fields 14 to 17).
    after
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum()
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|child| {
            std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|text| {
                text.rsplit(')')
                    .next()
                    .and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok())
                    == Some(pid)
            })
        })
        .collect()
}

impl Server {
    /// Whether it speaks the protocol.
    pub fn speaks(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Smb => self.smb.is_some(),
            Protocol::Nfs => self.nfs.is_some(),
            Protocol::Ftp => self.ftp.is_some(),
        }
    }

    /// The same peer, with a helper that syncs file and folder after each operation, so that its answers are as durable as this gateway's.
    fn with_sync(&self, docs: PathBuf) -> Server {
        Server {
            name: match self.name {
                "smbd" => "smbd+sync",
                "ganesha" => "ganesha+sync",
                _ => "vsftpd+sync",
            },
            smb: self.smb.clone(),
            nfs: self.nfs.clone(),
            nfs_mount: self.nfs_mount.clone(),
            ftp: self.ftp.clone(),
            ftp_root: self.ftp_root.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            uid: self.uid,
            synced_in: Some(docs),
            pid: self.pid,
            _process: Process::Shared,
        }
    }

    /// CPU time used so far by the process and its children.
    pub fn cpu(&self) -> Duration {
        let mut total = ticks(self.pid);
        for child in children(self.pid) {
            total += ticks(child) + children(child).into_iter().map(ticks).sum::<u64>();
        }
        Duration::from_millis(total * 10)
    }

    /// Starts this gateway and those peers that are installed; a missing one is said.
    pub fn start_all() -> anyhow::Result<Vec<Server>> {
        let mut servers = vec![own()?];
        make_user()?;
        for (name, start) in [
            ("smbd", smbd as fn() -> anyhow::Result<(Server, PathBuf)>),
            ("ganesha", ganesha),
            ("vsftpd", vsftpd),
        ] {
            match start() {
                Ok((server, docs)) => {
                    let synced = server.with_sync(docs);
                    servers.extend([server, synced]);
                }
                Err(error) => println!("without {name}: {error:#}"),
            }
        }
        Ok(servers)
    }
}

fn own() -> anyhow::Result<Server> {
    let node = TestNode::start()?;
    let local = |port| Some(format!("127.0.0.1:{port}"));
    Ok(Server {
        name: "sluice",
        smb: local(node.ports.smb),
        nfs: local(node.ports.nfs),
        nfs_mount: None,
        ftp: local(node.ports.ftp),
        ftp_root: "/docs".into(),
        user: USER.into(),
        password: PASSWORD.into(),
        uid: 1000,
        synced_in: None,
        pid: node.pid(),
        _process: Process::Own(Box::new(node)),
    })
}

/// The peers know users of the operating system only.
fn make_user() -> anyhow::Result<()> {
    run(Command::new("sh").arg("-c").arg(format!(
        "id {PEER_USER} >/dev/null 2>&1 || useradd -m {PEER_USER}; echo '{PEER_USER}:{PEER_PASSWORD}' | chpasswd"
    )))
    .map(drop)
}

fn scratch() -> anyhow::Result<tempfile::TempDir> {
    // Beside this gateway's scratch folders: both sides are to use the same disk.
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777))?;
    std::fs::create_dir(dir.path().join("docs"))?;
    std::fs::set_permissions(
        dir.path().join("docs"),
        std::fs::Permissions::from_mode(0o777),
    )?;
    Ok(dir)
}

fn peer(
    name: &'static str,
    dir: tempfile::TempDir,
    mut command: Command,
    port: u16,
) -> anyhow::Result<Server> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // smbd ends its whole group with itself, before the benchmark could say why it failed.
        .process_group(0)
        .spawn()
        .with_context(|| format!("{:?} can't be started", command.get_program()))?;
    let pid = child.id();
    let process = Process::Peer(child, dir);
    let begin = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "port {port} is not served"
        );
        std::thread::yield_now();
    }
    Ok(Server {
        name,
        smb: None,
        nfs: None,
        nfs_mount: None,
        ftp: None,
        ftp_root: String::new(),
        user: PEER_USER.into(),
        password: PEER_PASSWORD.into(),
        uid: 0,
        synced_in: None,
        pid,
        _process: process,
    })
}

fn smbd() -> anyhow::Result<(Server, PathBuf)> {
    let dir = scratch()?;
    let base = dir.path().to_owned();
    for sub in ["lock", "state", "cache", "private", "pid", "ncalrpc", "log"] {
        std::fs::create_dir(base.join(sub))?;
    }
    let b = base.display();
    let config = format!(
        "[global]\nserver role = standalone server\nmap to guest = never\nsmb ports = 14446\n\
         bind interfaces only = yes\ninterfaces = lo\nlock directory = {b}/lock\nstate directory = {b}/state\n\
         cache directory = {b}/cache\nprivate dir = {b}/private\npid directory = {b}/pid\nncalrpc dir = {b}/ncalrpc\n\
         log file = {b}/log/log\npassdb backend = tdbsam:{b}/private/passdb.tdb\ndisable netbios = yes\n\
         load printers = no\ndisable spoolss = yes\nstrict sync = yes\n[docs]\npath = {b}/docs\nread only = no\n"
    );
    let file = base.join("smb.conf");
    std::fs::write(&file, config)?;
    run(Command::new("sh").arg("-c").arg(format!(
        "printf '{PEER_PASSWORD}\\n{PEER_PASSWORD}\\n' | smbpasswd -c {} -a -s {PEER_USER}",
        file.display()
    )))?;
    let mut command = Command::new("smbd");
    command
        .arg("-s")
        .arg(&file)
        .args(["-F", "--no-process-group"]);
    let mut server = peer("smbd", dir, command, 14446)?;
    server.smb = Some("127.0.0.1:14446".into());
    Ok((server, base.join("docs")))
}

fn ganesha() -> anyhow::Result<(Server, PathBuf)> {
    let dir = scratch()?;
    let base = dir.path().to_owned();
    let b = base.display();
    let config = format!(
        "NFS_CORE_PARAM {{ NFS_Port = 12049; MNT_Port = 12050; NLM_Port = 12051; Rquota_Port = 12052; Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; }}\n\
         EXPORT {{ Export_Id = 1; Path = {b}/docs; Pseudo = /docs; Access_Type = RW; Squash = None; SecType = sys; FSAL {{ Name = VFS; }} }}\n"
    );
    let file = base.join("ganesha.conf");
    std::fs::write(&file, config)?;
    let mut command = Command::new("ganesha.nfsd");
    command
        .arg("-F")
        .arg("-f")
        .arg(&file)
        .arg("-L")
        .arg(base.join("log"))
        .arg("-p")
        .arg(base.join("pid"));
    let export = base.join("docs");
    let mut server = peer("ganesha", dir, command, 12049)?;
    server.nfs = Some("127.0.0.1:12049".into());
    server.nfs_mount = Some(("127.0.0.1:12050".into(), path_text(&export)?));
    Ok((server, export))
}

fn path_text(path: &Path) -> anyhow::Result<String> {
    Ok(path
        .to_str()
        .context("a scratch path that is UTF-8")?
        .to_owned())
}

fn vsftpd() -> anyhow::Result<(Server, PathBuf)> {
    let dir = scratch()?;
    let base = dir.path().to_owned();
    let config = base.join("vsftpd.conf");
    std::fs::write(
        &config,
        "listen=YES\nlisten_address=127.0.0.1\nlisten_port=12121\nbackground=NO\nlocal_enable=YES\nwrite_enable=YES\n\
         anonymous_enable=NO\npam_service_name=vsftpd\nseccomp_sandbox=NO\npasv_min_port=30000\npasv_max_port=39000\nxferlog_enable=NO\n",
    )?;
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600))?;
    let mut command = Command::new("vsftpd");
    command.arg(&config);
    let docs = base.join("docs");
    let root = path_text(&docs)?;
    let mut server = peer("vsftpd", dir, command, 12121)?;
    server.ftp = Some("127.0.0.1:12121".into());
    server.ftp_root = root;
    Ok((server, docs))
}
