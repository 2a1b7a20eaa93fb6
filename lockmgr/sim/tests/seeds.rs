//! Seeded runs. The short form is CI's; `SLUICE_SIM_OPERATIONS` and `SLUICE_SIM_SEEDS` make it long, `SLUICE_SIM_SEED` shows one seed again.

use sluice_lockmgr_sim::{Faults, Mutant, Plan, run};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn a_healthy_cluster_loses_nobody() {
    let plan = Plan {
        faults: Faults::none(),
        ..Plan::new(1, 5_000)
    };
    let report = run(&plan).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(report.losses, 0);
}

#[test]
fn one_seed_is_one_run() {
    let plan = Plan::new(7, 3_000);
    let first = run(&plan).unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(run(&plan), Ok(first));
    assert_ne!(
        run(&Plan::new(8, 3_000)).map(|r| r.digest),
        Ok(first.digest)
    );
}

#[test]
fn every_invariant_holds_through_kills_pauses_partitions_and_a_failing_database() {
    let operations = number("SLUICE_SIM_OPERATIONS", 10_000);
    let seeds = match std::env::var("SLUICE_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (1..=number("SLUICE_SIM_SEEDS", 12)).collect(),
    };
    let mut total = sluice_lockmgr_sim::Report::default();
    for seed in seeds {
        match run(&Plan::new(seed, operations)) {
            Ok(report) => {
                total.operations += report.operations;
                total.faults += report.faults;
                total.losses += report.losses;
                total.fenced += report.fenced;
                total.forced += report.forced;
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{total:?}");
    assert!(total.faults > 0 && total.losses > 0, "{total:?}");
}

/// A rule is needed if leaving it out shows within some seeds.
fn is_found(mutant: Mutant) -> Option<&'static str> {
    (1..=10).find_map(|seed| {
        let plan = Plan {
            mutant,
            ..Plan::new(seed, 4_000)
        };
        run(&plan).err().map(|violation| violation.invariant)
    })
}

#[test]
fn commits_without_a_fence_are_found() {
    assert_eq!(is_found(Mutant::NoFence), Some("I3 fenced"));
}

#[test]
fn a_cache_that_outlives_its_term_is_found() {
    assert!(is_found(Mutant::NoTerm).is_some());
}

/// Coordinators that die often, of documents for which many clients of each node wait.
fn crowded(seed: u64, mutant: Mutant) -> Plan {
    Plan {
        documents: 2,
        clients: 6,
        mutant,
        faults: Faults {
            kill: 3,
            cut: 1,
            every_ms: 1_500,
            ..Faults::none()
        },
        ..Plan::new(seed, 4_000)
    }
}

#[test]
fn a_lock_that_is_asked_for_again_after_its_coordinator_died_is_taken_once() {
    for seed in 1..=number("SLUICE_SIM_SEEDS", 12) {
        if let Err(violation) = run(&crowded(seed, Mutant::None)) {
            panic!("{violation}");
        }
    }
}

#[test]
fn a_request_that_is_carried_out_twice_is_found() {
    let found = (1..=12).find_map(|seed| run(&crowded(seed, Mutant::Forgetful)).err());
    assert_eq!(found.map(|v| v.invariant), Some("I10 once"));
}

/// Nodes that keep their lease and answer nobody, on documents that mostly one node uses.
fn deaf(seed: u64, mutant: Mutant) -> Plan {
    Plan {
        documents: 200,
        mutant,
        faults: Faults {
            deaf: 3,
            database_cut: 1,
            kill: 1,
            every_ms: 15_000,
            ..Faults::none()
        },
        ..Plan::new(seed, 4_000)
    }
}

#[test]
fn a_token_taken_away_by_force_leaves_one_writer() {
    let mut forced = 0;
    for seed in 1..=number("SLUICE_SIM_SEEDS", 12) {
        match run(&deaf(seed, Mutant::None)) {
            Ok(report) => forced += report.forced,
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(forced > 10, "{forced} tokens");
    println!("{forced} tokens taken away");
}

#[test]
fn a_node_that_does_not_hear_that_its_token_was_taken_away_is_found() {
    let found = (1..=12).find_map(|seed| run(&deaf(seed, Mutant::DeafRenewal)).err());
    assert_eq!(found.map(|v| v.invariant), Some("I1 single writer"));
}
