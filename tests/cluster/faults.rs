//! Faults of all kinds, one after the other and two at a time, under a load of all protocols: read-modify-write under exclusive access,
//! appends and replacements, each value unique. `SLUICE_FAULT_MINUTES` sets for how long (default: 2), `SLUICE_FAULT_SEED`
//! which faults; the long form is half an hour. Each round has documents of its own, judged at its end.

use std::time::{Duration, Instant};

use anyhow::Context;
use sluice_tests::cluster::Cluster;
use sluice_tests::load::Load;

use super::Outcome;

/// Faults in one round.
const FAULTS: usize = 4;

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // The step of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Half of the times well within what a lease outlives, half around and beyond its end.
    fn length(&mut self) -> Duration {
        Duration::from_millis(match self.below(2) {
            0 => 50 + self.below(2_000),
            _ => 4_000 + self.below(6_000),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Kill(usize),
    Pause(usize),
    PowerOff(usize),
    CutPeersTo(usize),
    CutAllPeers,
    CutDatabase(usize),
    DatabaseDown,
    /// By so many seconds.
    ClockJump(i64),
    Drain(usize),
}

impl Fault {
    fn choose(random: &mut Random) -> Fault {
        let node = random.below(3) as usize;
        match random.below(16) {
            0..=2 => Fault::Kill(node),
            3..=5 => Fault::Pause(node),
            6..=7 => Fault::CutPeersTo(node),
            8 => Fault::CutAllPeers,
            9..=10 => Fault::CutDatabase(node),
            11 => Fault::DatabaseDown,
            12..=13 => Fault::PowerOff(node),
            14 => Fault::ClockJump([-3_600, 30, 3_600][node]),
            _ => Fault::Drain(node),
        }
    }

    fn begin(self, cluster: &mut Cluster) -> Outcome {
        match self {
            Fault::Kill(node) => cluster.nodes[node].kill()?,
            Fault::Pause(node) => cluster.nodes[node].pause()?,
            Fault::PowerOff(node) => cluster.power_off(node)?,
            Fault::ClockJump(seconds) => cluster.jump_clock(seconds)?,
            Fault::CutPeersTo(node) => cluster.cut_peers_to(node, true),
            Fault::CutAllPeers => cluster.cut_all_peers(true),
            Fault::CutDatabase(node) => cluster.cut_database(node, true),
            Fault::DatabaseDown => cluster.server.kill()?,
            Fault::Drain(node) => {
                let name = format!("gw{}", node + 1);
                cluster.node(node).cli_ok(&["node", "drain", &name], "")?;
                cluster.nodes[node].wait_for_the_end()?;
            }
        }
        Ok(())
    }

    fn end(self, cluster: &mut Cluster) -> Outcome {
        match self {
            Fault::Kill(node) | Fault::Drain(node) => cluster.nodes[node].spawn()?,
            Fault::Pause(node) => cluster.nodes[node].go_on()?,
            Fault::PowerOff(node) => cluster.power_on(node)?,
            Fault::ClockJump(_) => {}
            Fault::CutPeersTo(node) => cluster.cut_peers_to(node, false),
            Fault::CutAllPeers => cluster.cut_all_peers(false),
            Fault::CutDatabase(node) => cluster.cut_database(node, false),
            Fault::DatabaseDown => cluster.server.start()?,
        }
        Ok(())
    }

    /// Whether two faults can't be told apart or would wait for each other's end.
    fn excludes(self, other: Fault) -> bool {
        let drained = |fault| matches!(fault, Fault::Drain(_));
        let process = |fault| match fault {
            Fault::Kill(node) | Fault::Pause(node) | Fault::PowerOff(node) | Fault::Drain(node) => {
                Some(node)
            }
            _ => None,
        };
        // Without power a node is cut off already.
        let off = |fault| matches!(fault, Fault::PowerOff(_));
        let cut = |fault| matches!(fault, Fault::CutPeersTo(_) | Fault::CutDatabase(_));
        let database = |fault| matches!(fault, Fault::DatabaseDown | Fault::ClockJump(_));
        (off(self) && cut(other))
            || (cut(self) && off(other))
            || (database(self) && database(other))
            || drained(self)
            || drained(other)
            || std::mem::discriminant(&self) == std::mem::discriminant(&other)
            || (process(self).is_some() && process(self) == process(other))
    }
}

fn round(cluster: &mut Cluster, random: &mut Random, number: u64) -> anyhow::Result<u64> {
    let ports: Vec<_> = cluster.nodes.iter().map(|node| node.ports).collect();
    let load = Load::start_on(&ports, &format!("round{number}-"))?;
    load.progress(100)?;
    for _ in 0..FAULTS {
        let first = Fault::choose(random);
        let second = Some(Fault::choose(random))
            .filter(|second| !first.excludes(*second) && random.below(2) == 0);
        let lengths = (random.length(), random.length());
        println!("round {number}: {first:?} and {second:?} for {lengths:?}");
        first.begin(cluster).with_context(|| format!("{first:?}"))?;
        if let Some(second) = second {
            std::thread::sleep(Duration::from_millis(random.below(1_000)));
            second
                .begin(cluster)
                .with_context(|| format!("{second:?}"))?;
        }
        let (mut ends, mut slept) = (vec![first], Duration::ZERO);
        ends.extend(second);
        // A process starts only where it reaches the database and the others reach it.
        ends.sort_by_key(|fault| matches!(fault, Fault::Kill(_) | Fault::PowerOff(_)));
        let mut lengths = [lengths.0, lengths.1];
        lengths.sort();
        for (fault, length) in ends.into_iter().zip(lengths) {
            std::thread::sleep(length.saturating_sub(slept));
            slept = length;
            fault
                .end(cluster)
                .with_context(|| format!("end of {fault:?}"))?;
        }
        // Half of the times the next fault meets a cluster that has not recovered yet.
        if random.below(2) == 0 {
            cluster.wait_until_ready()?;
            load.progress(30)?;
        } else {
            std::thread::sleep(Duration::from_millis(random.below(1_500)));
        }
    }
    cluster.wait_until_ready()?;
    load.progress(50)?;
    load.finish(&ports[0])
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn one_order_explains_what_clients_saw_through_faults_of_all_kinds() -> Outcome {
    let minutes: f64 = number("SLUICE_FAULT_MINUTES").unwrap_or(2.0);
    let seed = number("SLUICE_FAULT_SEED").unwrap_or(1);
    let mut random = Random(seed);
    let mut cluster = Cluster::start_wired()?;
    let (begin, mut operations, mut rounds) = (Instant::now(), 0, 0);
    while rounds == 0 || begin.elapsed().as_secs_f64() < minutes * 60.0 {
        rounds += 1;
        let judged = round(&mut cluster, &mut random, rounds);
        operations += judged.map_err(|error| {
            let kept = cluster.keep_logs();
            error.context(format!("seed {seed}, round {rounds}; logs are in {kept:?}"))
        })?;
    }
    println!(
        "{operations} operations in {rounds} rounds and {:?}: one order explains them",
        begin.elapsed()
    );
    Ok(())
}
