//! A disk that is really full under a node: a small file system of the test's own, in a mount namespace of its own, so that nothing is
//! left of it. Every client is told so in its protocol's words, what was there stays whole, and once there is room the node goes on
//! without a restart.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use sluice_tests::clients::ftp::FtpClient;
use sluice_tests::clients::nfs3::{Nfs3Client, Stable};
use sluice_tests::clients::smb::{Cache, SmbClient, access, disposition, share, status};
use sluice_tests::node::{PASSWORD, Place, TestNode, USER};

type Outcome = anyhow::Result<()>;

/// Where the small disk is; set for the process that has it.
const DISK: &str = "SLUICE_TEST_SMALL_DISK";
const DISK_MIB: usize = 48;
/// NFS3ERR_NOSPC (RFC 1813 2.6).
const NFS_NO_SPACE: u32 = 28;
const OLD: usize = 100_000;
/// A document of this length is in the metadata alone.
const SMALL: usize = 20_000;
/// Far more of them than the disk has room for.
const SMALL_MAX: usize = 10_000;
const PROTOCOLS: [&str; 3] = ["smb", "nfs", "ftp"];

/// The path of a small disk. `None`: the test was run (or can't be run) in another process, which has one.
fn small_disk(test: &str) -> anyhow::Result<Option<PathBuf>> {
    if let Some(disk) = std::env::var_os(DISK) {
        return Ok(Some(disk.into()));
    }
    let namespace = |program: &Path, args: &[&str]| {
        let mut command = Command::new("unshare");
        // Without root's rights it may be allowed in a user namespace.
        if !rights_of_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--propagation", "private"]);
        command.arg(program).args(args);
        command
    };
    let dir = tempfile::tempdir()?;
    let disk = dir.path().to_str().context("path")?;
    let mount = format!("mount -t tmpfs -o size={DISK_MIB}m,mode=0755 tmpfs {disk}");
    let tried = namespace(Path::new("sh"), &["-c", &mount]).output();
    match tried {
        Ok(tried) if tried.status.success() => {}
        Ok(tried) => {
            let why = String::from_utf8_lossy(&tried.stderr);
            eprintln!("skipped: no file system can be mounted here: {why}");
            return Ok(None);
        }
        Err(why) => {
            eprintln!("skipped: no mount namespace can be made here: {why}");
            return Ok(None);
        }
    }
    let inside = format!("{mount} && exec \"$0\" \"$@\"");
    let this = std::env::current_exe()?;
    let this = this.to_str().context("path")?;
    let name = format!("full_disk::{test}");
    let args = ["-c", &inside, this, "--exact", &name, "--nocapture"];
    let ran = namespace(Path::new("sh"), &args).env(DISK, disk).output()?;
    let (out, err) = (
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr),
    );
    ensure!(
        ran.status.success() && out.contains("1 passed"),
        "{out}{err}"
    );
    Ok(None)
}

fn rights_of_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

/// What takes all the room that is left, until it is removed.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(disk: &Path) -> anyhow::Result<Ballast> {
        let ballast = Ballast(disk.join("ballast"));
        let mut file = File::create(&ballast.0)?;
        let mut piece = vec![0xba; 1 << 20];
        // In ever smaller pieces down to the last page.
        while !piece.is_empty() {
            match file.write_all(&piece) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    piece.truncate(piece.len() / 2);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ballast)
    }

    fn remove(self) -> Outcome {
        Ok(std::fs::remove_file(&self.0)?)
    }
}

/// One client of each protocol.
struct Clients {
    ftp: FtpClient,
    smb: SmbClient,
    nfs: Nfs3Client,
    root: Vec<u8>,
}

/// Stored, or refused because there is no room.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Stored,
    Full,
}

impl Clients {
    fn of(node: &TestNode) -> anyhow::Result<Clients> {
        let (nfs, root) = node.nfs("full")?;
        Ok(Clients {
            ftp: node.ftp()?,
            smb: node.smb()?,
            nfs,
            root,
        })
    }

    /// As a program that saves a document: the first refusal ends it, and it closes what it has opened.
    fn smb(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<Told> {
        let rights = access::READ | access::WRITE;
        let made = disposition::OVERWRITE_IF;
        let file = self
            .smb
            .create(name, rights, share::READ, made, Cache::None)?;
        let file = match file {
            Ok(file) => file,
            Err(code) => return smb_told(&[code]),
        };
        let mut codes = Vec::new();
        for (at, part) in bytes.chunks(60_000).enumerate() {
            codes.push(self.smb.write(file, at as u64 * 60_000, part)?);
        }
        codes.push(self.smb.flush(file)?);
        codes.push(self.smb.close(file)?);
        smb_told(&codes)
    }

    fn nfs(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<Told> {
        let file = match self.nfs.create(&self.root, name)? {
            Ok(file) => file,
            Err(code) => return nfs_told(code),
        };
        for (at, part) in bytes.chunks(60_000).enumerate() {
            let code = self
                .nfs
                .write(&file, at as u64 * 60_000, part, Stable::Unstable)?;
            if code != 0 {
                return nfs_told(code);
            }
        }
        nfs_told(self.nfs.commit(&file)?.err().unwrap_or(0))
    }

    fn ftp(&mut self, name: &str, bytes: &[u8]) -> anyhow::Result<Told> {
        let reply = self.ftp.store(&format!("/docs/{name}"), bytes)?;
        match reply.code {
            226 => Ok(Told::Stored),
            452 => Ok(Told::Full),
            _ => bail!("FTP says {}", reply.text),
        }
    }

    fn one(&mut self, protocol: &str, verb: &str, bytes: &[u8]) -> anyhow::Result<Told> {
        let name = format!("{verb}-{protocol}");
        let told = match protocol {
            "smb" => self.smb(&name, bytes),
            "nfs" => self.nfs(&name, bytes),
            _ => self.ftp(&name, bytes),
        };
        told.with_context(|| name)
    }

    fn all(&mut self, verb: &str, bytes: &[u8]) -> anyhow::Result<[Told; 3]> {
        Ok([
            self.one("smb", verb, bytes)?,
            self.one("nfs", verb, bytes)?,
            self.one("ftp", verb, bytes)?,
        ])
    }

    /// The documents of all three, read over FTP.
    fn hold(&mut self, verb: &str, bytes: &[u8]) -> Outcome {
        for protocol in PROTOCOLS {
            let name = format!("/docs/{verb}-{protocol}");
            let got = self.ftp.retrieve(&name)?;
            ensure!(
                got.as_deref() == Ok(bytes),
                "{name}: {:?}",
                got.map(|got| got.len())
            );
        }
        Ok(())
    }
}

/// Stores small documents until there is no room for their metadata; how many were stored.
fn fill_metadata(clients: &mut Clients, protocol: &str) -> anyhow::Result<usize> {
    for n in 0..SMALL_MAX {
        let told = clients.one(protocol, &format!("small{n}"), &bytes(SMALL, n as u8))?;
        if told == Told::Full {
            return Ok(n);
        }
    }
    bail!("{protocol}: {SMALL_MAX} documents fit onto a disk of {DISK_MIB} MiB")
}

fn smb_told(codes: &[u32]) -> anyhow::Result<Told> {
    match codes.iter().find(|code| **code != status::OK) {
        None => Ok(Told::Stored),
        Some(&status::DISK_FULL) => Ok(Told::Full),
        Some(code) => bail!("NTSTATUS {code:#010x} among {codes:x?}"),
    }
}

fn nfs_told(code: u32) -> anyhow::Result<Told> {
    match code {
        0 => Ok(Told::Stored),
        NFS_NO_SPACE => Ok(Told::Full),
        _ => bail!("NFS status {code}"),
    }
}

/// Bytes that can't be stored in less room.
fn bytes(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|n| (n as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed)
        .collect()
}

fn node_on(disk: &Path, metadata_too: bool) -> anyhow::Result<TestNode> {
    let node = TestNode::start_at(&Place {
        name: "t1".into(),
        metadata: metadata_too.then(|| format!("sqlite://{}/meta.db", disk.display())),
        content: Some(format!("file://{}/content", disk.display())),
        ..Place::default()
    })?;
    node.add_user(USER, PASSWORD, 1000)?;
    Ok(node)
}

/// Fills the disk under documents of all protocols, tries documents of these lengths, and makes room again.
fn story(disk: &Path, metadata_too: bool, lengths: &[usize]) -> Outcome {
    let mut node = node_on(disk, metadata_too)?;
    let old = bytes(OLD, 1);
    let mut clients = Clients::of(&node)?;
    let stored = [Told::Stored, Told::Stored, Told::Stored];
    ensure!(clients.all("old", &old)? == stored);
    let ballast = Ballast::fill(disk)?;
    for len in lengths {
        let told = clients.all(&format!("new{len}"), &bytes(*len, 2))?;
        ensure!(
            told == [Told::Full, Told::Full, Told::Full],
            "{len} bytes: {told:?}"
        );
        // Over documents that are there: what could not be stored changes nothing.
        let over = clients.ftp("old-ftp", &bytes(*len, 3))?;
        ensure!(over == Told::Full, "{len} bytes: {over:?}");
        clients.hold("old", &old)?;
    }
    let mut small = Vec::new();
    if metadata_too {
        for protocol in PROTOCOLS {
            small.push((protocol, fill_metadata(&mut clients, protocol)?));
        }
        clients.hold("old", &old)?;
    }
    ballast.remove()?;
    for (protocol, count) in small {
        for n in 0..count {
            let name = format!("/docs/small{n}-{protocol}");
            let got = clients.ftp.retrieve(&name)?;
            ensure!(got.as_ref() == Ok(&bytes(SMALL, n as u8)), "{name}");
        }
    }
    for len in lengths {
        let new = bytes(*len, 4);
        ensure!(clients.all(&format!("new{len}"), &new)? == stored);
        clients.hold(&format!("new{len}"), &new)?;
    }
    clients.hold("old", &old)?;
    drop(clients);
    let log = node.log();
    ensure!(log.contains("no space left"), "{log}");
    node.stop()?;
    node.cli_ok(&["check"], "").map(drop)
}

#[test]
fn a_full_content_disk_is_told_and_outlived() -> Outcome {
    match small_disk("a_full_content_disk_is_told_and_outlived")? {
        Some(disk) => story(&disk, false, &[300_000, 3_000_000]),
        None => Ok(()),
    }
}

#[test]
fn a_full_disk_under_content_and_metadata_is_told_and_outlived() -> Outcome {
    match small_disk("a_full_disk_under_content_and_metadata_is_told_and_outlived")? {
        Some(disk) => story(&disk, true, &[300_000, 3_000_000]),
        None => Ok(()),
    }
}
