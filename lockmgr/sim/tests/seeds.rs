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
                total.taken_over += report.taken_over;
                total.voided += report.voided;
                total.settled += report.settled;
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{total:?}");
    assert!(total.faults > 0 && total.losses > 0, "{total:?}");
    assert!(total.taken_over > 0 && total.voided > 0, "{total:?}");
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

/// Coordinators that stand still, mostly for less than their lease, while others ask them for documents that nobody has.
fn silent(seed: u64, mutant: Mutant) -> Plan {
    Plan {
        documents: 60,
        spurious: 50,
        mutant,
        faults: Faults {
            pause: 6,
            cut: 2,
            slow: 1,
            database_cut: 1,
            kill: 1,
            every_ms: 2_000,
            ..Faults::none()
        },
        ..Plan::new(seed, 6_000)
    }
}

#[test]
fn shards_of_silent_coordinators_go_on_and_leave_one_writer() {
    let (mut taken, mut voided, mut settled) = (0, 0, 0);
    for seed in 1..=number("SLUICE_SIM_SEEDS", 12) {
        match run(&silent(seed, Mutant::None)) {
            Ok(report) => {
                taken += report.taken_over;
                voided += report.voided;
                settled += report.settled;
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    assert!(
        taken > 100 && voided > 100,
        "{taken} shards, {voided} times"
    );
    assert!(settled > 1_000, "{settled} answers");
    println!(
        "{taken} shards taken over, {voided} times without a deputy, {settled} answers that all is committed"
    );
}

/// A list that lacks something shows when its coordinator reports, or sooner.
fn is_found_incomplete(mutant: Mutant) {
    let found = (1..=12).find_map(|seed| run(&silent(seed, mutant)).err());
    let found = found.map(|violation| violation.invariant);
    let ways = ["I1 single writer", "I5 coherent read", "I11 complete list"];
    assert!(
        found.is_some_and(|found| ways.contains(&found)),
        "{mutant:?}: {found:?}"
    );
}

#[test]
fn a_coordinator_that_does_not_wait_for_its_deputy_is_found() {
    is_found_incomplete(Mutant::HastyTaking);
}

#[test]
fn a_deputy_that_takes_over_with_a_list_of_an_earlier_turn_is_found() {
    is_found_incomplete(Mutant::AnyTurn);
}

#[test]
fn a_coordinator_that_does_not_look_what_its_deputy_took_is_found() {
    is_found_incomplete(Mutant::NoLook);
}

#[test]
fn a_coordinator_that_goes_by_old_news_of_holders_is_found() {
    let found = (1..=12).find_map(|seed| run(&silent(seed, Mutant::OldNews)).err());
    assert_eq!(found.map(|v| v.invariant), Some("I5 coherent read"));
}

#[test]
fn a_list_that_is_not_complete_is_found() {
    is_found_incomplete(Mutant::ShortList);
    is_found_incomplete(Mutant::EarlyLeft);
}
