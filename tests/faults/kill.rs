//! Kill -9 at any moment of a load over all three protocols, restart: nothing acknowledged as durable is lost, nothing partial is
//! visible, `sluice check` is clean. `SLUICE_KILLS` sets how often (default 5; the long form has 50).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_tests::clients::ftp::FtpClient;
use sluice_tests::clients::nfs3::Nfs3Client;
use sluice_tests::clients::smb::SmbClient;
use sluice_tests::node::{PASSWORD, TestNode, USER};

use crate::documents::{EMPTY, content, put_over_ftp, put_over_nfs, put_over_smb};

/// What a writer knows: the last content that was acknowledged as durable, and those that it has tried since without an
/// answer (which may or may not be there, but whole).
#[derive(Clone, Default, Debug)]
struct Known {
    durable: Option<u32>,
    tried: Vec<u32>,
}

type Ledger = Arc<Mutex<BTreeMap<String, Known>>>;

/// One write and its place in the ledger. An error (the connection broke) ends the writer.
fn attempt(
    ledger: &Ledger,
    name: &str,
    n: u32,
    write: impl FnOnce() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut known = ledger.lock().unwrap();
    known.entry(name.into()).or_default().tried.push(n);
    drop(known);
    if write()? {
        let acknowledged = Known {
            durable: Some(n),
            tried: Vec::new(),
        };
        ledger.lock().unwrap().insert(name.into(), acknowledged);
    }
    Ok(())
}

fn smb_writer(address: &str, ledger: &Ledger, stop: &AtomicBool, first: u32) -> anyhow::Result<()> {
    let mut client = SmbClient::connect(address, USER, PASSWORD, "docs")?;
    for n in first.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("smb{}", n % 5);
        attempt(ledger, &name, n, || put_over_smb(&mut client, &name, n))?;
    }
    Ok(())
}

fn nfs_writer(address: &str, ledger: &Ledger, stop: &AtomicBool, first: u32) -> anyhow::Result<()> {
    let mut client = Nfs3Client::connect(address, 1000, "loader")?;
    let root = client.mount("/docs")?;
    for n in first.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // A new name each time: over NFSv3 replacing a document takes several calls and is not atomic.
        let name = format!("nfs{n}");
        attempt(ledger, &name, n, || {
            put_over_nfs(&mut client, &root, &name, n)
        })?;
        // Answered before it is on the disk, but what the process handed to the system does not end with the process.
        attempt(ledger, &format!("nfs-empty{n}"), EMPTY, || {
            Ok(client.create(&root, &format!("nfs-empty{n}"))?.is_ok())
        })?;
    }
    Ok(())
}

fn ftp_writer(address: &str, ledger: &Ledger, stop: &AtomicBool, first: u32) -> anyhow::Result<()> {
    let mut client = FtpClient::connect(address, USER, PASSWORD)?;
    for n in first.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("ftp{}", n % 5);
        attempt(ledger, &name, n, || put_over_ftp(&mut client, &name, n))?;
    }
    Ok(())
}

fn verify(node: &TestNode, ledger: &Ledger) {
    let (mut nfs, root) = node.nfs("verifier").unwrap();
    for (name, known) in ledger.lock().unwrap().iter() {
        let found = match nfs.lookup(&root, name).unwrap() {
            Ok((file, _)) => Some(nfs.read_all(&file).unwrap()),
            Err(2) => None,
            Err(status) => panic!("{name}: status {status}"),
        };
        let whole = |n: u32| found.as_deref() == Some(&content(n)[..]);
        // SMB and NFS create or truncate first and write then: what was in work when the node died may be empty or,
        // if a flush came before, a prefix; but what was acknowledged must be there unless it was in work again.
        let in_work = !known.tried.is_empty() && !name.starts_with("ftp");
        assert!(
            known.durable.is_some_and(whole)
                || known.tried.iter().any(|n| whole(*n))
                || in_work
                || (known.durable.is_none() && found.is_none()),
            "{name}: {known:?} but found {:?} bytes",
            found.map(|bytes| bytes.len())
        );
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9_at_any_moment() {
    let kills: u32 =
        std::env::var("SLUICE_KILLS").map_or(5, |text| text.parse().expect("a number"));
    let mut node = TestNode::start().unwrap();
    let ledger = Ledger::default();
    for round in 0..kills {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = [
            (
                smb_writer as fn(&str, &Ledger, &AtomicBool, u32) -> anyhow::Result<()>,
                node.ports.smb,
            ),
            (nfs_writer, node.ports.nfs),
            (ftp_writer, node.ports.ftp),
        ]
        .into_iter()
        .map(|(writer, port)| {
            let (ledger, stop) = (ledger.clone(), stop.clone());
            std::thread::spawn(move || {
                // The connection breaks when the node is killed: that is the point.
                let _ = writer(
                    &format!("127.0.0.1:{port}"),
                    &ledger,
                    &stop,
                    1 + round * 100_000,
                );
            })
        })
        .collect();
        // Not a wait for something to happen but the choice of the moment: it differs in each round.
        std::thread::sleep(Duration::from_millis(150 + u64::from(round * 37 % 200)));
        node.kill().unwrap();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
        let check = node.cli_ok(&["check"], "").unwrap();
        assert!(!check.contains("problem:"), "round {round}: {check}");
        node.spawn().unwrap();
        verify(&node, &ledger);
    }
    let durable = ledger
        .lock()
        .unwrap()
        .values()
        .filter(|known| known.durable.is_some())
        .count();
    assert!(
        durable >= kills as usize,
        "the load did get through: {durable} documents"
    );
}
