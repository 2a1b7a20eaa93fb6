//! A loss of power at any moment of a load over all three protocols: every change of a file that the process made is recorded, and from
//! that the folders are put together again as a disk may hold them that had lost its power then ([`disk`]). A node that starts on them
//! has everything that was acknowledged as durable before that moment.
//!
//! `SLUICE_POWER_CUTS=50 cargo test --profile checks -p sluice-tests --test faults power -- --ignored --nocapture`; `SLUICE_POWER_SEED` repeats
//! the choice of moments and of what is lost, not the load.

mod disk;
mod load;
mod trace;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluice_tests::node::TestNode;

use disk::{Chance, Disk};
use load::Ledger;

/// What a node keeps in its scratch folder; the rest is the test's.
const KEPT: [&str; 5] = ["meta.db", "meta.db-wal", "meta.db-shm", "content", "state"];

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// All files with their bytes, and all folders, that the node keeps.
fn contents(base: &Path) -> (Vec<(PathBuf, Vec<u8>)>, Vec<PathBuf>) {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let mut left: Vec<PathBuf> = KEPT.iter().map(|name| base.join(name)).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let inside = std::fs::read_dir(&path).unwrap();
            left.extend(inside.map(|entry| entry.unwrap().path()));
            folders.push(path);
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            files.push((path, bytes));
        }
    }
    (files, folders)
}

fn wipe(base: &Path) {
    for path in KEPT.iter().map(|name| base.join(name)) {
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else if path.exists() {
            std::fs::remove_file(path).unwrap();
        }
    }
}

/// The recorder writes on when the process has ended; its last line in each file says so.
fn wait_for_the_recorder(prefix: &Path, pid: u32) {
    let last = PathBuf::from(format!("{}.{pid}", prefix.display()));
    let begun = Instant::now();
    loop {
        let text = std::fs::read(&last).unwrap_or_default();
        if text.ends_with(b"+++\n") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "strace ended");
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "a long form: needs strace and leave to trace"]
fn nothing_acknowledged_is_lost_with_the_power_at_any_moment() {
    let cuts = number("SLUICE_POWER_CUTS", 20);
    let seed = number("SLUICE_POWER_SEED", 1);
    let mut node = TestNode::start().unwrap();
    let base = node.dir().to_owned();
    let recorded = tempfile::tempdir().unwrap();
    let prefix = recorded.path().join("calls");
    node.stop().unwrap();
    let (files, folders) = contents(&base);
    node.spawn_under(&trace::tracer(&prefix)).unwrap();
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let writers = load::start(&node, &ledger, &stop);
    // Not a wait for something to happen but the length of the load.
    std::thread::sleep(Duration::from_secs(number("SLUICE_POWER_SECONDS", 4)));
    let pid = node.pid();
    node.kill().unwrap();
    stop.store(true, Ordering::Relaxed);
    writers
        .into_iter()
        .for_each(|writer| writer.join().unwrap());
    wait_for_the_recorder(&prefix, pid);
    let events = trace::read(&prefix, &base).unwrap();
    let ledger = std::mem::take(&mut *ledger.lock().unwrap());
    let disk = Disk::new(files, folders, &events);
    let begun = ledger.begun();
    let during: Vec<_> = events.iter().filter(|event| event.ended > begun).collect();
    println!(
        "{} calls, {} acknowledged changes",
        during.len(),
        ledger.acknowledged()
    );
    assert!(ledger.acknowledged() > 50, "the load did get through");
    for cut in 0..cuts {
        let mut chance = Chance(seed * 1_000_003 + cut + 1);
        chance.below(1);
        let event = during[chance.below(during.len() as u64) as usize];
        let moment = event.begun + chance.below(event.ended - event.begun + 1);
        wipe(&base);
        disk.cut(moment, &mut chance).unwrap();
        let about = format!("seed {seed}, cut {cut}, at {moment}");
        node.spawn()
            .unwrap_or_else(|error| panic!("{about}: {error}"));
        let lost = ledger.lost(&node, moment);
        node.stop().unwrap();
        let check = node.cli(&["check"], "").unwrap();
        let found = String::from_utf8_lossy(&check.stdout);
        if !lost.is_empty() || !check.status.success() || found.contains("problem:") {
            let kept = node.keep();
            panic!("{about}: {}: {}\n{found}", kept.display(), lost.join("; "));
        }
    }
}
