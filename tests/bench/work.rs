//! The cases: what is done, how often, over how many connections, and what is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sluice_tests::clients::ftp::FtpClient;
use sluice_tests::clients::nfs3::{Handle, Nfs3Client, Stable};
use sluice_tests::clients::smb::{Cache, SmbClient, access, disposition, share};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use crate::peers::Server;

/// A protocol under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SMB 2.1.
    Smb,
    /// NFSv3.
    Nfs,
    /// FTP.
    Ftp,
}

/// What a case does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Create, write so many bytes, make durable, close.
    Upload(usize),
    /// Open (or look up), close.
    Open,
    /// List a folder of so many documents.
    List(usize),
    /// Rename.
    Rename,
    /// Write one large document.
    WriteLarge(usize),
    /// Read one large document that was just written, [`READS`] times.
    ReadLarge(usize),
}

/// One row of the table.
pub struct Case {
    /// Protocol.
    pub protocol: Protocol,
    job: Job,
    connections: usize,
    operations: usize,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    operations: f64,
    wall: Duration,
    /// Median time of an operation.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// Server CPU for each operation.
    pub cpu_per_operation: Duration,
}

impl Sample {
    /// Operations (or MiB) a second.
    pub fn rate(&self) -> f64 {
        self.operations / self.wall.as_secs_f64()
    }
}

/// How often a large document is read: once is over before processor time can be told, which comes in steps of 10 ms.
const READS: usize = 8;

/// Documents of each connection that are opened in turn.
const OPENED: usize = 500;
/// Documents of each connection that are renamed, and back, in turn.
const RENAMED: usize = 100;

/// All cases; `scale` multiplies how often. With 1 a sample takes some tenths of a second or more: in a few hundredths it tells how a machine
/// that rested comes to work, for each server a little differently.
pub fn cases(scale: f64) -> Vec<Case> {
    let times = |n: usize| ((n as f64 * scale) as usize).max(8);
    let large = ((256.0 * scale) as usize).max(16) << 20;
    let mut cases = Vec::new();
    for protocol in [Protocol::Smb, Protocol::Nfs, Protocol::Ftp] {
        let mut add = |job, connections, operations| {
            cases.push(Case {
                protocol,
                job,
                connections,
                operations,
            });
        };
        // Each upload over FTP takes a port of the server's for a minute.
        let uploads = match protocol {
            Protocol::Ftp => 1,
            Protocol::Smb | Protocol::Nfs => 3,
        };
        add(Job::Upload(4096), 1, times(400 * uploads));
        add(Job::Upload(4096), 8, times(1600 * uploads));
        add(Job::Upload(65536), 1, times(200 * uploads));
        add(Job::Upload(65536), 8, times(800 * uploads));
        if protocol != Protocol::Ftp {
            add(Job::Open, 1, times(15_000));
            add(Job::Open, 2, times(30_000));
        }
        add(Job::List(times(10_000)), 1, 3);
        add(Job::Rename, 1, times(600));
        add(Job::Rename, 8, times(2400));
        add(Job::WriteLarge(large), 1, 1);
        add(Job::ReadLarge(large), 1, READS);
    }
    cases
}

impl Case {
    /// Name of the row.
    pub fn title(&self) -> String {
        let protocol = format!("{:?}", self.protocol).to_lowercase();
        let job = match self.job {
            Job::Upload(bytes) => format!("upload-{}K", bytes >> 10),
            Job::Open => "open-close".to_owned(),
            Job::List(entries) => format!("list-{entries}"),
            Job::Rename => "rename".to_owned(),
            Job::WriteLarge(bytes) => format!("write-{}M", bytes >> 20),
            Job::ReadLarge(bytes) => format!("read-{}M", bytes >> 20),
        };
        format!("{protocol} {job} x{}", self.connections)
    }

    /// Whether the rate is in MiB a second.
    pub fn counts_bytes(&self) -> bool {
        matches!(self.job, Job::WriteLarge(_) | Job::ReadLarge(_))
    }

    /// Whether the peers answer this before it is durable.
    pub fn peers_skip_sync(&self) -> bool {
        match self.job {
            Job::Rename => true,
            Job::Upload(_) | Job::WriteLarge(_) => self.protocol == Protocol::Ftp,
            Job::Open | Job::List(_) | Job::ReadLarge(_) => false,
        }
    }

    /// Prepares, runs and measures once; names differ in each round so that nothing is found there.
    pub fn run(&self, server: &Server, round: usize) -> anyhow::Result<Sample> {
        let label = format!(
            "{}-{round}{}",
            self.title().replace(' ', "-"),
            if server.synced_in.is_some() { "s" } else { "" }
        );
        let mut clients = (0..self.connections)
            .map(|_| Client::connect(self.protocol, server))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let folder = format!("b-{label}");
        clients[0].make_folder(&folder)?;
        for client in &mut clients {
            client.enter(&folder)?;
        }
        self.prepare(&mut clients)?;
        let each = self.operations.div_ceil(self.connections);
        let synced_in = server.synced_in.as_ref().map(|docs| docs.join(&folder));
        let synced_in = synced_in.as_deref();
        let (cpu, begin) = (server.cpu(), Instant::now());
        let times = std::thread::scope(|scope| {
            let threads: Vec<_> = clients
                .iter_mut()
                .enumerate()
                .map(|(at, client)| scope.spawn(move || self.repeat(client, at, each, synced_in)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a client thread"))
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        let wall = begin.elapsed();
        let cpu = server.cpu().saturating_sub(cpu);
        let mut times: Vec<Duration> = times.into_iter().flatten().collect();
        times.sort();
        let operations = match self.job {
            Job::WriteLarge(bytes) | Job::ReadLarge(bytes) => {
                (bytes >> 20) as f64 * times.len() as f64
            }
            _ => times.len() as f64,
        };
        Ok(Sample {
            operations,
            wall,
            p50: times[times.len() / 2],
            p99: times[(times.len() * 99 / 100).min(times.len() - 1)],
            cpu_per_operation: cpu.div_f64(operations),
        })
    }

    fn prepare(&self, clients: &mut [Client]) -> anyhow::Result<()> {
        let each = self.operations.div_ceil(self.connections);
        for (at, client) in clients.iter_mut().enumerate() {
            match self.job {
                Job::Open | Job::Rename => {
                    let documents = match self.job {
                        Job::Open => each.min(OPENED),
                        _ => each.min(RENAMED),
                    };
                    for n in 0..documents {
                        client.upload(&name(at, n), &[1; 100])?;
                    }
                }
                Job::List(entries) => {
                    for n in 0..entries {
                        client.upload(&name(at, n), b"")?;
                    }
                }
                Job::ReadLarge(bytes) => client.write_large("large", bytes)?,
                Job::Upload(_) | Job::WriteLarge(_) => {}
            }
        }
        Ok(())
    }

    fn repeat(
        &self,
        client: &mut Client,
        at: usize,
        each: usize,
        synced_in: Option<&Path>,
    ) -> anyhow::Result<Vec<Duration>> {
        let content = match self.job {
            Job::Upload(bytes) => vec![7; bytes],
            _ => Vec::new(),
        };
        (0..each)
            .map(|n| {
                let begin = Instant::now();
                match self.job {
                    Job::Upload(_) => client.upload(&name(at, n), &content)?,
                    Job::Open => client.open_close(&name(at, n % OPENED))?,
                    Job::List(entries) => {
                        let found = client.list()?;
                        ensure!(found >= entries, "the listing has {found} of {entries}");
                    }
                    Job::Rename => {
                        let plain = name(at, n % RENAMED);
                        let renamed = format!("r{plain}");
                        match (n / RENAMED).is_multiple_of(2) {
                            true => client.rename(&plain, &renamed)?,
                            false => client.rename(&renamed, &plain)?,
                        }
                    }
                    Job::WriteLarge(bytes) => client.write_large("large", bytes)?,
                    Job::ReadLarge(bytes) => client.read_large("large", bytes)?,
                }
                if let Some(folder) = synced_in {
                    match self.job {
                        Job::Upload(_) => File::open(folder.join(name(at, n)))?.sync_all()?,
                        Job::WriteLarge(_) => File::open(folder.join("large"))?.sync_all()?,
                        _ => {}
                    }
                    File::open(folder)?.sync_all()?;
                }
                Ok(begin.elapsed())
            })
            .collect()
    }
}

fn name(client: usize, n: usize) -> String {
    format!("document-{client}-{n:06}.dat")
}

const BLOCK: usize = 1 << 20;
const WINDOW: usize = 8;

/// Sends a request for each block of `bytes`, at most [`WINDOW`] of them without an answer.
fn windowed<C, I>(
    client: &mut C,
    bytes: usize,
    mut send: impl FnMut(&mut C, u64) -> anyhow::Result<I>,
    mut receive: impl FnMut(&mut C, I) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut sent = VecDeque::with_capacity(WINDOW);
    for n in 0..bytes / BLOCK {
        if sent.len() == WINDOW
            && let Some(oldest) = sent.pop_front()
        {
            receive(client, oldest)?;
        }
        sent.push_back(send(client, (n * BLOCK) as u64)?);
    }
    sent.into_iter().try_for_each(|id| receive(client, id))
}

/// One connection, in one folder.
enum Client {
    Smb(Box<SmbClient>, String),
    Nfs(Box<Nfs3Client>, Handle),
    Ftp(Box<FtpClient>, String),
}

fn done(status: u32) -> anyhow::Result<()> {
    ensure!(status == 0, "status {status:#010x}");
    Ok(())
}

impl Client {
    fn connect(protocol: Protocol, server: &Server) -> anyhow::Result<Client> {
        let (user, password) = (&server.user, &server.password);
        Ok(match protocol {
            Protocol::Smb => {
                let address = server.smb.as_ref().context("no SMB")?;
                let client = SmbClient::connect(address, user, password, "docs")?;
                Client::Smb(Box::new(client), String::new())
            }
            Protocol::Nfs => {
                let address = server.nfs.as_ref().context("no NFS")?;
                let mut client = Nfs3Client::connect(address, server.uid, "bench")?;
                let root = match &server.nfs_mount {
                    Some((mount, path)) => {
                        Nfs3Client::connect(mount, server.uid, "bench")?.mount(path)?
                    }
                    None => client.mount("/docs")?,
                };
                Client::Nfs(Box::new(client), root)
            }
            Protocol::Ftp => {
                let address = server.ftp.as_ref().context("no FTP")?;
                let client = FtpClient::connect(address, user, password)?;
                Client::Ftp(Box::new(client), server.ftp_root.clone())
            }
        })
    }

    fn make_folder(&mut self, folder: &str) -> anyhow::Result<()> {
        match self {
            Client::Smb(client, _) => {
                let id = client.send_create(
                    folder,
                    access::READ,
                    share::ALL,
                    disposition::OPEN_IF,
                    1,
                    Cache::None,
                )?;
                let dir = client
                    .created(id)?
                    .map_err(|code| anyhow::anyhow!("{code:#x}"))?;
                done(client.close(dir)?)
            }
            Client::Nfs(client, root) => client
                .mkdir(root, folder)?
                .map(drop)
                .map_err(|code| anyhow::anyhow!("mkdir: {code}")),
            Client::Ftp(client, root) => {
                let reply = client.command(&format!("MKD {root}/{folder}"))?;
                ensure!(reply.code == 257, "{}", reply.text);
                Ok(())
            }
        }
    }

    fn enter(&mut self, folder: &str) -> anyhow::Result<()> {
        match self {
            Client::Smb(_, at) => *at = format!("{folder}\\"),
            Client::Nfs(client, root) => {
                *root = client
                    .lookup(root, folder)?
                    .map_err(|code| anyhow::anyhow!("lookup: {code}"))?
                    .0;
            }
            Client::Ftp(client, root) => {
                let reply = client.command(&format!("CWD {root}/{folder}"))?;
                ensure!(reply.code == 250, "{}", reply.text);
            }
        }
        Ok(())
    }

    fn upload(&mut self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        match self {
            Client::Smb(client, folder) => {
                let path = format!("{folder}{name}");
                let rights = access::READ | access::WRITE;
                let file = client
                    .create(
                        &path,
                        rights,
                        share::READ,
                        disposition::OVERWRITE_IF,
                        Cache::None,
                    )?
                    .map_err(|code| anyhow::anyhow!("create: {code:#x}"))?;
                if !content.is_empty() {
                    done(client.write(file, 0, content)?)?;
                    done(client.flush(file)?)?;
                }
                done(client.close(file)?)
            }
            Client::Nfs(client, dir) => {
                let file = client
                    .create(dir, name)?
                    .map_err(|code| anyhow::anyhow!("create: {code}"))?;
                if !content.is_empty() {
                    done(client.write(&file, 0, content, Stable::Unstable)?)?;
                    client
                        .commit(&file)?
                        .map_err(|code| anyhow::anyhow!("commit: {code}"))?;
                }
                Ok(())
            }
            Client::Ftp(client, _) => {
                let reply = client.store(name, content)?;
                ensure!(reply.code == 226, "{}", reply.text);
                Ok(())
            }
        }
    }

    fn open_close(&mut self, name: &str) -> anyhow::Result<()> {
        match self {
            Client::Smb(client, folder) => {
                let file = client
                    .create(
                        &format!("{folder}{name}"),
                        access::READ,
                        share::ALL,
                        disposition::OPEN,
                        Cache::None,
                    )?
                    .map_err(|code| anyhow::anyhow!("open: {code:#x}"))?;
                done(client.close(file)?)
            }
            Client::Nfs(client, dir) => {
                let found = client.lookup(dir, name)?;
                found
                    .map(drop)
                    .map_err(|code| anyhow::anyhow!("lookup: {code}"))
            }
            Client::Ftp(..) => Ok(()),
        }
    }

    fn list(&mut self) -> anyhow::Result<usize> {
        Ok(match self {
            Client::Smb(client, folder) => client.list(folder.trim_end_matches('\\'))?.0,
            Client::Nfs(client, dir) => client.list(dir)?.len(),
            Client::Ftp(client, _) => match client.begin("LIST", "")? {
                Ok(mut data) => {
                    let mut text = Vec::new();
                    data.read_to_end(&mut text)?;
                    client.reply()?;
                    text.iter().filter(|byte| **byte == b'\n').count()
                }
                Err(reply) => anyhow::bail!("{}", reply.text),
            },
        })
    }

    fn rename(&mut self, from: &str, to: &str) -> anyhow::Result<()> {
        match self {
            Client::Smb(client, folder) => {
                let rights = access::DELETE | access::ATTRIBUTES;
                let file = client
                    .create(
                        &format!("{folder}{from}"),
                        rights,
                        share::ALL,
                        disposition::OPEN,
                        Cache::None,
                    )?
                    .map_err(|code| anyhow::anyhow!("open: {code:#x}"))?;
                done(client.rename(file, &format!("{folder}{to}"), false)?)?;
                done(client.close(file)?)
            }
            Client::Nfs(client, dir) => done(client.rename(dir, from, dir, to)?),
            Client::Ftp(client, _) => {
                client.command(&format!("RNFR {from}"))?;
                let reply = client.command(&format!("RNTO {to}"))?;
                ensure!(reply.code == 250, "{}", reply.text);
                Ok(())
            }
        }
    }

    fn write_large(&mut self, name: &str, bytes: usize) -> anyhow::Result<()> {
        let block = vec![5; BLOCK];
        match self {
            Client::Smb(client, folder) => {
                let rights = access::READ | access::WRITE;
                let file = client
                    .create(
                        &format!("{folder}{name}"),
                        rights,
                        share::READ,
                        disposition::OVERWRITE_IF,
                        Cache::None,
                    )?
                    .map_err(|code| anyhow::anyhow!("create: {code:#x}"))?;
                windowed(
                    &mut **client,
                    bytes,
                    |client, at| client.send_write(file, at, &block),
                    |client, id| done(client.receive(id)?.status),
                )?;
                done(client.flush(file)?)?;
                done(client.close(file)?)
            }
            Client::Nfs(client, dir) => {
                let file = client
                    .create(dir, name)?
                    .map_err(|code| anyhow::anyhow!("create: {code}"))?;
                windowed(
                    &mut **client,
                    bytes,
                    |client, at| client.send_write(&file, at, &block, Stable::Unstable),
                    |client, id| done(u32::from_be_bytes(client.receive(id)?[..4].try_into()?)),
                )?;
                client
                    .commit(&file)?
                    .map(drop)
                    .map_err(|code| anyhow::anyhow!("commit: {code}"))
            }
            Client::Ftp(client, _) => {
                let mut data = match client.begin("STOR", name)? {
                    Ok(data) => data,
                    Err(reply) => anyhow::bail!("{}", reply.text),
                };
                for _ in 0..bytes / BLOCK {
                    data.write_all(&block)?;
                }
                drop(data);
                let reply = client.reply()?;
                ensure!(reply.code == 226, "{}", reply.text);
                Ok(())
            }
        }
    }

    fn read_large(&mut self, name: &str, bytes: usize) -> anyhow::Result<()> {
        match self {
            Client::Smb(client, folder) => {
                let file = client
                    .create(
                        &format!("{folder}{name}"),
                        access::READ,
                        share::ALL,
                        disposition::OPEN,
                        Cache::None,
                    )?
                    .map_err(|code| anyhow::anyhow!("open: {code:#x}"))?;
                windowed(
                    &mut **client,
                    bytes,
                    |client, at| client.send_read(file, at, BLOCK as u32),
                    |client, id| {
                        let reply = client.receive(id)?;
                        ensure!(reply.body.len() > BLOCK, "{:#x}", reply.status);
                        done(reply.status)
                    },
                )?;
                done(client.close(file)?)
            }
            Client::Nfs(client, dir) => {
                let (file, _) = client
                    .lookup(dir, name)?
                    .map_err(|code| anyhow::anyhow!("lookup: {code}"))?;
                windowed(
                    &mut **client,
                    bytes,
                    |client, at| client.send_read(&file, at, BLOCK as u32),
                    |client, id| {
                        let reply = client.receive(id)?;
                        ensure!(reply.len() > BLOCK, "a reply of {} bytes", reply.len());
                        done(u32::from_be_bytes(reply[..4].try_into()?))
                    },
                )?;
                Ok(())
            }
            Client::Ftp(client, _) => {
                let mut data = match client.begin("RETR", name)? {
                    Ok(data) => data,
                    Err(reply) => anyhow::bail!("{}", reply.text),
                };
                let (mut block, mut total) = (vec![0; BLOCK], 0);
                loop {
                    let n = data.read(&mut block)?;
                    if n == 0 {
                        break;
                    }
                    total += n;
                }
                client.reply()?;
                ensure!(total == bytes, "{total} of {bytes} bytes");
                Ok(())
            }
        }
    }
}
