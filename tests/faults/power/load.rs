//! The load of a loss of power, and what must be there after it: each document has one writer, which notes when it began each change and
//! when that was acknowledged as durable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use sluice_tests::clients::ftp::FtpClient;
use sluice_tests::clients::nfs3::Nfs3Client;
use sluice_tests::clients::smb::SmbClient;
use sluice_tests::node::{PASSWORD, TestNode, USER};

use crate::documents::{content, put_over_ftp, put_over_nfs, put_over_smb};

/// One change of a document.
#[derive(Clone, Debug)]
struct Change {
    begun: u64,
    acknowledged: Option<u64>,
    /// Under which name it is then, and the number of its content; `None`: it is gone.
    leaves: Option<(String, u32)>,
    /// Whether clients of its protocol see it in parts, so that its name may have anything until it is acknowledged.
    in_parts: bool,
}

/// All changes by document.
#[derive(Default)]
pub struct Ledger(BTreeMap<String, Vec<Change>>);

type Shared = Arc<Mutex<Ledger>>;

fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    since.as_micros() as u64
}

impl Ledger {
    /// When the first change began.
    pub fn begun(&self) -> u64 {
        self.0
            .values()
            .map(|changes| changes[0].begun)
            .min()
            .unwrap_or(0)
    }

    /// How many changes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        let changes = self.0.values().flatten();
        changes
            .filter(|change| change.acknowledged.is_some())
            .count()
    }

    /// What is not there as it must be if the power was lost at `moment`.
    pub fn lost(&self, node: &TestNode, moment: u64) -> Vec<String> {
        let (mut nfs, root) = node.nfs("verifier").unwrap();
        let mut lost = Vec::new();
        for (document, changes) in &self.0 {
            let names = changes.iter().filter_map(|c| c.leaves.as_ref());
            let mut names: Vec<&String> = names.map(|(name, _)| name).collect();
            names.sort();
            names.dedup();
            let found: Vec<(&String, Vec<u8>)> = names
                .into_iter()
                .filter_map(|name| match nfs.lookup(&root, name).unwrap() {
                    // Bytes that can't be read are none that anybody wrote.
                    Ok((file, _)) => Some((name, nfs.read_all(&file).unwrap_or(b"?".into()))),
                    Err(2) => None,
                    Err(status) => panic!("{name}: status {status}"),
                })
                .collect();
            let done = changes
                .iter()
                .rposition(|c| c.acknowledged.is_some_and(|at| at < moment));
            let last = done.map_or(&None, |at| &changes[at].leaves);
            let open = changes[done.map_or(0, |at| at + 1)..]
                .iter()
                .filter(|change| change.begun <= moment);
            let is = |leaves: &Option<(String, u32)>| match leaves {
                None => found.is_empty(),
                Some((name, n)) => {
                    matches!(&found[..], [(at, bytes)] if *at == name && *bytes == content(*n))
                }
            };
            let explained = is(last)
                || open.clone().any(|change| {
                    let alone = |name: &String| found.iter().all(|(at, _)| *at == name);
                    let name = change.leaves.as_ref().map(|(name, _)| name);
                    is(&change.leaves) || (change.in_parts && name.is_some_and(alone))
                });
            if !explained {
                let found: Vec<_> = found
                    .iter()
                    .map(|(name, bytes)| (name, bytes.len()))
                    .collect();
                let open: Vec<_> = open.collect();
                lost.push(format!(
                    "{document}: {last:?} acknowledged, {open:?} open, found {found:?}"
                ));
            }
        }
        lost
    }
}

/// One change and its place in the ledger. An error (the connection broke) ends the writer.
fn attempt(
    ledger: &Shared,
    document: &str,
    (leaves, in_parts): (Option<(String, u32)>, bool),
    change: impl FnOnce() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let noted = Change {
        begun: now(),
        acknowledged: None,
        leaves,
        in_parts,
    };
    let mut known = ledger.lock().unwrap();
    known.0.entry(document.into()).or_default().push(noted);
    drop(known);
    if change()? {
        let at = now();
        let mut known = ledger.lock().unwrap();
        let last = known
            .0
            .get_mut(document)
            .and_then(|changes| changes.last_mut());
        last.expect("just made").acknowledged = Some(at);
    }
    Ok(())
}

fn smb_writer(address: &str, who: u32, ledger: &Shared, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut client = SmbClient::connect(address, USER, PASSWORD, "docs")?;
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Few names, each replaced again and again.
        let name = format!("smb{who}-{}", n % 7);
        attempt(ledger, &name, (Some((name.clone(), n)), true), || {
            put_over_smb(&mut client, &name, n)
        })?;
    }
    Ok(())
}

fn nfs_writer(address: &str, who: u32, ledger: &Shared, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut client = Nfs3Client::connect(address, 1000, "loader")?;
    let root = client.mount("/docs")?;
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (name, moved) = (format!("nfs{who}-{n}"), format!("moved{who}-{n}"));
        attempt(ledger, &name, (Some((name.clone(), n)), true), || {
            put_over_nfs(&mut client, &root, &name, n)
        })?;
        if n % 2 == 0 {
            attempt(ledger, &name, (Some((moved.clone(), n)), false), || {
                Ok(client.rename(&root, &name, &root, &moved)? == 0)
            })?;
        }
        if n % 4 == 0 {
            attempt(ledger, &name, (None, false), || {
                Ok(client.remove(&root, &moved)? == 0)
            })?;
        }
    }
    Ok(())
}

fn ftp_writer(address: &str, who: u32, ledger: &Shared, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut client = FtpClient::connect(address, USER, PASSWORD)?;
    for n in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("ftp{who}-{}", n % 5);
        attempt(ledger, &name, (Some((name.clone(), n)), false), || {
            put_over_ftp(&mut client, &name, n)
        })?;
    }
    Ok(())
}

/// Starts two writers of each protocol.
pub fn start(node: &TestNode, ledger: &Shared, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    type Writer = fn(&str, u32, &Shared, &AtomicBool) -> anyhow::Result<()>;
    let writers = [
        (smb_writer as Writer, node.ports.smb),
        (nfs_writer, node.ports.nfs),
        (ftp_writer, node.ports.ftp),
    ];
    let mut started = Vec::new();
    for who in 0..2 {
        for (writer, port) in writers {
            let (ledger, stop) = (ledger.clone(), stop.clone());
            started.push(std::thread::spawn(move || {
                // The connection breaks when the node is killed: that is the end of the load.
                let _ = writer(&format!("127.0.0.1:{port}"), who, &ledger, &stop);
            }));
        }
    }
    started
}
