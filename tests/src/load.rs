//! A load of clients of all protocols on a few documents, each client noting what it did and saw. They go to another node when theirs is
//! lost, as real clients do behind one address. What they noted is judged by [`crate::history`].

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::clients::ftp::FtpClient;
use crate::clients::nfs3::{Nfs3Client, Stable};
use crate::clients::smb::{Cache, SmbClient, access, disposition, share, status};
use crate::history::{Operation, What, check_log, check_register};
use crate::node::{PASSWORD, Ports, USER};

/// Bytes of one record of a log and of one value of a register.
pub const RECORD: usize = 32;
const LOGS: usize = 3;
const REGISTERS: usize = 2;
/// One READ takes all of a log, so that what it saw was there at one moment.
const LOG_MAX: u32 = 1 << 20;
/// A server that is busy or between two nodes says "later"; clients come back so soon.
const LATER: Duration = Duration::from_millis(20);

/// Value of every register before the load.
pub fn first_value() -> Vec<u8> {
    record("none", 0)
}

fn record(client: &str, n: u64) -> Vec<u8> {
    format!("{:<width$}\n", format!("{client}-{n}"), width = RECORD - 1).into_bytes()
}

/// What clients did, by document.
#[derive(Default)]
struct Notes {
    documents: Mutex<std::collections::BTreeMap<String, Vec<Operation>>>,
    acknowledged: AtomicU64,
    /// Clients that waited for an answer until their patience ended, while their connection stood.
    stuck: Mutex<Vec<String>>,
}

impl Notes {
    fn add(&self, document: &str, operation: Operation) {
        if operation.end.is_some() {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        let mut documents = self
            .documents
            .lock()
            .unwrap_or_else(|lost| lost.into_inner());
        documents
            .entry(document.into())
            .or_default()
            .push(operation);
    }
}

/// How an attempt ended that did not fail by a broken connection.
enum Outcome {
    /// Done, with the answer.
    Done,
    /// Refused before anything was done.
    Refused,
    /// An error whose effect is not known.
    Unclear,
}

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    notes: Arc<Notes>,
    workers: Vec<JoinHandle<()>>,
}

/// What a client does until the load stops or its connection breaks.
type Work = fn(&mut Worker) -> anyhow::Result<()>;

/// One client that works.
struct Worker {
    name: String,
    nodes: Vec<Ports>,
    at: usize,
    stop: Arc<AtomicBool>,
    notes: Arc<Notes>,
    /// Before the names of this load's documents.
    prefix: String,
    next: u64,
}

impl Load {
    /// Makes the documents over the first node, then starts two clients of each protocol, spread over the nodes.
    ///
    /// # Errors
    /// The documents could not be made.
    pub fn start(nodes: &[Ports]) -> anyhow::Result<Load> {
        Load::start_on(nodes, "")
    }

    /// The same on documents of its own, whose names begin with `prefix`.
    ///
    /// # Errors
    /// The documents could not be made.
    pub fn start_on(nodes: &[Ports], prefix: &str) -> anyhow::Result<Load> {
        let first = nodes.first().context("a node")?;
        let mut ftp = FtpClient::connect(&local(first.ftp), USER, PASSWORD)?;
        for log in 0..LOGS {
            anyhow::ensure!(ftp.store(&format!("/docs/{prefix}log{log}"), b"")?.code == 226);
        }
        for register in 0..REGISTERS {
            let path = format!("/docs/{prefix}register{register}");
            let made = ftp.store(&path, &first_value())?;
            anyhow::ensure!(made.code == 226, "{}", made.text);
        }
        let (stop, notes) = (Arc::new(AtomicBool::new(false)), Arc::new(Notes::default()));
        let kinds: [(&str, Work); 3] = [("smb", smb), ("nfs", nfs), ("ftp", ftp_client)];
        let mut workers = Vec::new();
        for number in 0..2 {
            for (offset, (kind, work)) in kinds.into_iter().enumerate() {
                let mut worker = Worker {
                    name: format!("{kind}{number}"),
                    nodes: nodes.to_vec(),
                    at: (number + offset) % nodes.len(),
                    stop: stop.clone(),
                    notes: notes.clone(),
                    prefix: prefix.to_owned(),
                    next: 0,
                };
                workers.push(std::thread::spawn(move || worker.run(work)));
            }
        }
        Ok(Load {
            stop,
            notes,
            workers,
        })
    }

    /// Operations that were answered so far.
    pub fn acknowledged(&self) -> u64 {
        self.notes.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets the load get some way.
    ///
    /// # Errors
    /// It stands still.
    pub fn progress(&self, operations: u64) -> anyhow::Result<()> {
        let (begin, goal) = (Instant::now(), self.acknowledged() + operations);
        while self.acknowledged() < goal {
            anyhow::ensure!(
                begin.elapsed() < Duration::from_secs(60),
                "the load stands still at {} operations",
                self.acknowledged()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends the load and judges it; `node` tells what the documents hold. Returns the number of operations answered.
    ///
    /// # Errors
    /// A lost, torn or doubled change, a read that no order explains, or a client that failed otherwise.
    pub fn finish(self, node: &Ports) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            if worker.join().is_err() {
                bail!("a client of the load panicked");
            }
        }
        let stuck = self.notes.stuck.lock().unwrap_or_else(|l| l.into_inner());
        anyhow::ensure!(stuck.is_empty(), "clients were left hanging: {stuck:#?}");
        let mut nfs = Nfs3Client::connect(&local(node.nfs), 1000, "judge")?;
        let root = nfs.mount("/docs")?;
        let documents = self
            .notes
            .documents
            .lock()
            .unwrap_or_else(|lost| lost.into_inner());
        for (name, operations) in documents.iter() {
            let (file, _) = lookup(&mut nfs, &root, name)?;
            let last = nfs.read_all(&file)?;
            let judged = if name.contains("register") {
                check_register(operations, &first_value())
            } else {
                check_log(operations, &last, RECORD)
            };
            if let Err(violation) = judged {
                let kept = keep(name, operations, &last)?;
                bail!("{name}: {violation}; the history is in {}", kept.display());
            }
        }
        Ok(self.notes.acknowledged.load(Ordering::Relaxed))
    }
}

/// Writes down a history that nothing explains, in the order of the beginnings, and what the document holds.
fn keep(name: &str, operations: &[Operation], last: &[u8]) -> anyhow::Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("sluice-{}-{name}", std::process::id()));
    let mut sorted: Vec<&Operation> = operations.iter().collect();
    sorted.sort_by_key(|operation| operation.begin);
    let mut text = String::new();
    let start = sorted.first().map(|operation| operation.begin);
    for operation in sorted {
        let ms = |at: Instant| start.map_or(0, |start| at.duration_since(start).as_micros());
        let (verb, bytes) = match &operation.what {
            What::Write(bytes) => ("wrote", bytes),
            What::Read(bytes) => ("read", bytes),
        };
        let tail = &bytes[bytes.len().saturating_sub(RECORD)..];
        let _ = writeln!(
            text,
            "{} us to {:?} us: {} {verb} {} bytes ending in {}",
            ms(operation.begin),
            operation.end.map(ms),
            operation.client,
            bytes.len(),
            String::from_utf8_lossy(tail).trim_end(),
        );
    }
    let _ = write!(text, "held at the end:\n{}", String::from_utf8_lossy(last));
    std::fs::write(&path, text)?;
    Ok(path)
}

fn local(port: u16) -> String {
    SocketAddr::from(([127, 0, 0, 1], port)).to_string()
}

fn lookup(nfs: &mut Nfs3Client, root: &[u8], name: &str) -> anyhow::Result<(Vec<u8>, u64)> {
    let begin = Instant::now();
    loop {
        match nfs.lookup(root, name)? {
            Ok(found) => return Ok(found),
            // NFS3ERR_JUKEBOX.
            Err(10_008) if begin.elapsed() < Duration::from_secs(60) => std::thread::sleep(LATER),
            Err(status) => bail!("lookup of {name}: status {status}"),
        }
    }
}

/// An answer did not come, and neither did the end of the connection.
fn is_timeout(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    let kinds = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    kinds
        .into_iter()
        .any(|error| matches!(error.kind(), TimedOut | WouldBlock))
}

impl Worker {
    fn run(&mut self, work: Work) {
        while !self.stop.load(Ordering::Relaxed) {
            // A broken connection is what this is about: on to the next node.
            if let Err(error) = work(self) {
                if is_timeout(&error) {
                    let mut stuck = self.notes.stuck.lock().unwrap_or_else(|l| l.into_inner());
                    stuck.push(format!("{} at {:?}: {error:#}", self.name, self.node()));
                }
                self.at = (self.at + 1) % self.nodes.len();
                std::thread::sleep(LATER);
            }
        }
    }

    fn node(&self) -> Ports {
        self.nodes[self.at]
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// The next document and a record that nobody else writes.
    fn turn(&mut self, kind: &str, count: usize) -> (String, Vec<u8>) {
        self.next += 1;
        let document = format!("{}{kind}{}", self.prefix, self.next as usize % count);
        (document, record(&self.name, self.next))
    }

    /// A write with its place in the notes; an error counts as "may have happened" and ends the connection.
    fn write(
        &self,
        document: &str,
        value: Vec<u8>,
        attempt: impl FnOnce() -> anyhow::Result<Outcome>,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        let outcome = attempt();
        let end = matches!(outcome, Ok(Outcome::Done)).then(Instant::now);
        if !matches!(outcome, Ok(Outcome::Refused)) {
            self.note(document, What::Write(value), begin, end);
        }
        match outcome? {
            Outcome::Done => Ok(()),
            Outcome::Refused | Outcome::Unclear => {
                std::thread::sleep(LATER);
                Ok(())
            }
        }
    }

    /// A read with its place in the notes.
    fn read(
        &self,
        document: &str,
        attempt: impl FnOnce() -> anyhow::Result<Option<Vec<u8>>>,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        match attempt()? {
            Some(bytes) => self.note(document, What::Read(bytes), begin, Some(Instant::now())),
            None => std::thread::sleep(LATER),
        }
        Ok(())
    }

    fn note(&self, document: &str, what: What, begin: Instant, end: Option<Instant>) {
        let operation = Operation {
            what,
            begin,
            end,
            client: self.name.clone(),
        };
        self.notes.add(document, operation);
    }
}

/// Read, then append what nobody else wrote, with the document denied to everybody else meanwhile; and reads of registers.
fn smb(worker: &mut Worker) -> anyhow::Result<()> {
    let mut client = SmbClient::connect(&local(worker.node().smb), USER, PASSWORD, "docs")?;
    while worker.goes_on() {
        let (log, value) = worker.turn("log", LOGS);
        smb_append(worker, &mut client, &log, value)?;
        let (register, _) = worker.turn("register", REGISTERS);
        worker.read(&register, || {
            let Ok(file) = client.create(
                &register,
                access::READ,
                share::ALL,
                disposition::OPEN,
                Cache::None,
            )?
            else {
                return Ok(None);
            };
            let bytes = client.read(file, 0, RECORD as u32)?;
            client.close(file)?;
            Ok(bytes.ok())
        })?;
    }
    Ok(())
}

fn smb_append(
    worker: &Worker,
    client: &mut SmbClient,
    log: &str,
    value: Vec<u8>,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    let rights = access::READ | access::WRITE;
    let Ok(file) = client.create(log, rights, 0, disposition::OPEN, Cache::None)? else {
        std::thread::sleep(LATER);
        return Ok(());
    };
    let seen = match client.read(file, 0, LOG_MAX)? {
        Ok(bytes) => bytes,
        Err(status::END_OF_FILE) => Vec::new(),
        Err(_) => {
            client.close(file)?;
            return Ok(());
        }
    };
    let end = seen.len() as u64;
    worker.note(log, What::Read(seen), begin, Some(Instant::now()));
    worker.write(log, value.clone(), || {
        let written = client.write(file, end, &value)?;
        let closed = client.close(file)?;
        Ok(if written == status::OK && closed == status::OK {
            Outcome::Done
        } else {
            Outcome::Unclear
        })
    })
}

/// Replaces registers by one stable WRITE each; reads logs and registers.
fn nfs(worker: &mut Worker) -> anyhow::Result<()> {
    let mut client = Nfs3Client::connect(&local(worker.node().nfs), 1000, &worker.name)?;
    let root = client.mount("/docs")?;
    while worker.goes_on() {
        let (register, value) = worker.turn("register", REGISTERS);
        let (file, _) = lookup(&mut client, &root, &register)?;
        worker.write(&register, value.clone(), || {
            Ok(match client.write(&file, 0, &value, Stable::FileSync)? {
                0 => Outcome::Done,
                // NFS3ERR_JUKEBOX, NFS3ERR_ACCES: another writer's place.
                10_008 | 13 => Outcome::Refused,
                _ => Outcome::Unclear,
            })
        })?;
        let (log, _) = worker.turn("log", LOGS);
        let (file, _) = lookup(&mut client, &root, &log)?;
        worker.read(&log, || {
            let read = client.read(&file, 0, LOG_MAX)?;
            Ok(read.ok().filter(|(_, all)| *all).map(|(bytes, _)| bytes))
        })?;
    }
    Ok(())
}

/// Appends to logs (APPE), reads registers and logs (RETR).
fn ftp_client(worker: &mut Worker) -> anyhow::Result<()> {
    let mut client = FtpClient::connect(&local(worker.node().ftp), USER, PASSWORD)?;
    while worker.goes_on() {
        let (log, value) = worker.turn("log", LOGS);
        worker.write(&log, value.clone(), || {
            let reply = client.append(&format!("/docs/{log}"), &value)?;
            Ok(match reply {
                Ok(reply) if reply.code == 226 => Outcome::Done,
                Ok(_) => Outcome::Unclear,
                Err(_) => Outcome::Refused,
            })
        })?;
        for (kind, count) in [("log", LOGS), ("register", REGISTERS)] {
            let (document, _) = worker.turn(kind, count);
            worker.read(&document, || {
                Ok(client.retrieve(&format!("/docs/{document}"))?.ok())
            })?;
        }
    }
    Ok(())
}
