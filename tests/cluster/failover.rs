//! How long the documents of a node that is killed, hangs, loses its power or is drained stay closed to others, and whether others'
//! documents pause meanwhile. Prints what it measured; `SLUICE_FAILOVERS` (default 2), `SLUICE_HANGS` (of both kinds) and
//! `SLUICE_DRAINS` (default 1) set how often.

use std::sync::atomic::{AtomicBool, Ordering};
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

fn times(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn report(what: &str, mut measured: Vec<Duration>) {
    measured.sort();
    let at = |part| percentile(&measured, part);
    println!(
        "{what}: p50 {:?}, p99 {:?} of {}",
        at(50),
        at(99),
        measured.len()
    );
}

/// A client of the third node has a document when `lose` happens to that node; `mend` brings it back.
fn lose_often(
    mut cluster: Cluster,
    rounds: usize,
    what: &str,
    lose: impl Fn(&mut Cluster) -> Outcome,
    mend: impl Fn(&mut Cluster) -> Outcome,
) -> Outcome {
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
            "before the loss"
        );
        let lost = Instant::now();
        lose(&mut cluster)?;
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
            ensure!(lost.elapsed() < STUCK, "still refused after {STUCK:?}");
        }
        held.push(lost.elapsed());
        others.push(longest);
        mend(&mut cluster)?;
        cluster.wait_until_ready()?;
    }
    report(&format!("{what}: held documents are free after"), held);
    report(
        &format!("{what}: a document that it did not hold waited at most"),
        others,
    );
    Ok(())
}

#[test]
fn a_killed_nodes_documents_are_free_again_and_other_documents_do_not_wait() -> Outcome {
    lose_often(
        Cluster::start()?,
        times("SLUICE_FAILOVERS", 2),
        "killed",
        |cluster| cluster.nodes[2].kill(),
        |cluster| cluster.nodes[2].spawn(),
    )
}

#[test]
fn a_hung_nodes_documents_are_free_again_after_its_lease() -> Outcome {
    lose_often(
        Cluster::start()?,
        times("SLUICE_HANGS", 1),
        "hung",
        |cluster| cluster.nodes[2].pause(),
        |cluster| {
            cluster.nodes[2].go_on()?;
            // It learns that it was fenced, and begins anew.
            cluster.wait_for_state(0, "gw3", "live")
        },
    )
}

#[test]
fn an_unreachable_nodes_documents_are_free_again_after_its_lease() -> Outcome {
    lose_often(
        Cluster::start_wired()?,
        times("SLUICE_HANGS", 1),
        "without power",
        |cluster| cluster.power_off(2),
        |cluster| cluster.power_on(2),
    )
}

/// Documents that a drained node decides about alone.
const DRAINED: usize = 32;

#[test]
fn a_drained_nodes_documents_pause_shortly() -> Outcome {
    let mut cluster = Cluster::start()?;
    let mut pauses = Vec::new();
    for _ in 0..times("SLUICE_DRAINS", 1) {
        let mut owner = cluster.node(2).smb()?;
        for document in 0..DRAINED {
            ensure!(open(&mut owner, &format!("drained{document}"))?.is_ok());
        }
        let (stop, mut askers) = (AtomicBool::new(false), Vec::new());
        for at in 0..2 {
            askers.push((at, cluster.node(at).smb()?));
        }
        let pause = std::thread::scope(|scope| {
            let stop = &stop;
            let askers: Vec<_> = askers
                .into_iter()
                .map(|(at, mut client)| {
                    scope.spawn(move || {
                        let (mut longest, mut turn) = (Duration::ZERO, at);
                        while !stop.load(Ordering::Relaxed) {
                            let asked = Instant::now();
                            // Each its own half, so that they are not in each other's way.
                            let opened = open(&mut client, &format!("drained{turn}"))?;
                            ensure!(opened.is_ok(), "{opened:?}");
                            longest = longest.max(asked.elapsed());
                            turn = (turn + 2) % DRAINED;
                        }
                        Ok(longest)
                    })
                })
                .collect();
            let drained = cluster
                .node(0)
                .cli_ok(&["node", "drain", "gw3"], "")
                .and_then(|_| cluster.nodes[2].wait_for_the_end());
            stop.store(true, Ordering::Relaxed);
            drained?;
            let longest = askers.into_iter().map(|asker| asker.join());
            longest
                .map(|asker| asker.unwrap_or_else(|_| anyhow::bail!("an asker panicked")))
                .collect::<anyhow::Result<Vec<_>>>()
        })?;
        pauses.extend(pause);
        cluster.nodes[2].spawn()?;
        cluster.wait_until_ready()?;
    }
    report("drained: an operation of others waited at most", pauses);
    Ok(())
}
