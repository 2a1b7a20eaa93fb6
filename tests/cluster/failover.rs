//! How long a killed node's documents stay closed to others, and whether others' documents pause meanwhile. Prints what it measured;
//! `SLUICE_FAILOVERS` sets how often (default 2).

use std::time::{Duration, Instant};

use anyhow::ensure;
use sluice_tests::clients::smb::{Cache, SmbClient, access, disposition, share, status};
use sluice_tests::cluster::Cluster;

use super::Outcome;

/// Far above the goal: whoever waits longer than this waits for ever.
const STUCK: Duration = Duration::from_secs(15);

fn open(client: &mut SmbClient, name: &str) -> anyhow::Result<Result<(), u32>> {
    let rights = access::READ | access::WRITE;
    match client.create(name, rights, 0, disposition::OPEN_IF, Cache::None)? {
        Ok(file) => {
            client.close(file)?;
            Ok(Ok(()))
        }
        Err(refusal) => Ok(Err(refusal)),
    }
}

fn percentile(sorted: &[Duration], part: usize) -> Duration {
    let at = (sorted.len() * part).div_ceil(100).max(1) - 1;
    sorted[at.min(sorted.len() - 1)]
}

#[test]
fn a_killed_nodes_documents_are_free_again_and_other_documents_do_not_wait() -> Outcome {
    let rounds: usize =
        std::env::var("SLUICE_FAILOVERS").map_or(2, |text| text.parse().expect("a number"));
    let mut cluster = Cluster::start()?;
    let (mut held, mut others) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut owner = cluster.node(2).smb()?;
        let name = format!("held{round}");
        let rights = access::READ | access::WRITE;
        let file = owner.create(
            &name,
            rights,
            share::READ,
            disposition::OPEN_IF,
            Cache::None,
        )?;
        ensure!(file.is_ok(), "the lost node's client has the document");
        let mut asker = cluster.node(0).smb()?;
        let mut neighbour = cluster.node(1).smb()?;
        let refused = open(&mut asker, &name)?;
        ensure!(refused == Err(status::SHARING_VIOLATION), "{refused:?}");
        ensure!(
            open(&mut neighbour, "neighbour")?.is_ok(),
            "before the kill"
        );
        let killed = Instant::now();
        cluster.nodes[2].kill()?;
        let mut longest = Duration::ZERO;
        loop {
            let asked = Instant::now();
            ensure!(
                open(&mut neighbour, "neighbour")?.is_ok(),
                "a neighbour's document"
            );
            longest = longest.max(asked.elapsed());
            if open(&mut asker, &name)?.is_ok() {
                break;
            }
            ensure!(killed.elapsed() < STUCK, "still refused after {STUCK:?}");
        }
        held.push(killed.elapsed());
        others.push(longest);
        cluster.nodes[2].spawn()?;
        cluster.wait_until_ready()?;
    }
    held.sort();
    others.sort();
    println!(
        "{rounds} kills: held documents free after p50 {:?}, p99 {:?}; a document that it did not hold waited at most p50 {:?}, p99 {:?}",
        percentile(&held, 50),
        percentile(&held, 99),
        percentile(&others, 50),
        percentile(&others, 99)
    );
    Ok(())
}
