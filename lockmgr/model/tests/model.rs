//! Explores the model: every order of events within the budgets of each plan. The short form is CI's; `SLUICE_MODEL_LONG=1` explores
//! larger budgets too (minutes, and some GiB of memory).

use std::collections::BTreeSet;
use std::time::Instant;

use sluice_lockmgr_model::{Handover, Mutant, Plan};
use stateright::{Checker, HasDiscoveries, Model};

fn explore(plan: Plan) {
    let begin = Instant::now();
    let checker = Handover(plan).checker().threads(2).spawn_bfs().join();
    println!(
        "{} states, at most {} steps from the first, in {:?}: {plan:?}",
        checker.unique_state_count(),
        checker.max_depth(),
        begin.elapsed()
    );
    checker.assert_properties();
    assert!(checker.is_done());
}

fn long() -> bool {
    std::env::var_os("SLUICE_MODEL_LONG").is_some()
}

#[test]
fn a_document_goes_from_node_to_node_and_everybody_gets_it_in_the_end() {
    explore(Plan::calm(2, 4));
    explore(Plan::calm(3, 4));
    let resends = 1;
    explore(Plan {
        resends,
        ..Plan::calm(2, 3)
    });
    for (nodes, asks) in [(2, 3), (3, 3)] {
        explore(Plan {
            shared: true,
            resends,
            ..Plan::calm(nodes, asks)
        });
    }
}

#[test]
fn a_lost_coordinator_or_holder_costs_nobody_a_change_or_his_turn() {
    let once = Plan {
        crashes: 1,
        starts: 1,
        resends: 1,
        ..Plan::calm(2, 3)
    };
    explore(once);
    explore(Plan {
        nodes: 3,
        asks: 2,
        ..once
    });
    let shared = Plan {
        shared: true,
        asks: 2,
        ..once
    };
    explore(shared);
    if long() {
        explore(Plan {
            crashes: 2,
            starts: 2,
            ..once
        });
        explore(Plan { nodes: 3, ..once });
        explore(Plan { nodes: 3, ..shared });
    }
}

#[test]
fn leases_that_end_and_rights_that_are_taken_by_force_leave_one_writer() {
    let late = Plan {
        ticks: 3,
        forces: 1,
        ..Plan::calm(2, 2)
    };
    explore(late);
    explore(Plan {
        forces: 0,
        starts: 1,
        ..late
    });
    if long() {
        explore(Plan { ticks: 4, ..late });
        explore(Plan {
            starts: 1,
            crashes: 1,
            ..late
        });
        explore(Plan {
            nodes: 3,
            ticks: 2,
            ..late
        });
    }
}

/// A rule is needed if leaving it out shows.
fn is_found(mutant: Mutant, plan: Plan) {
    let begin = Instant::now();
    let model = Handover(Plan { mutant, ..plan });
    let properties = model.properties();
    let names = properties.iter().map(|property| property.name);
    let invariants: BTreeSet<&'static str> = names.filter(|name| name.starts_with('I')).collect();
    let checker = model
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyOf(invariants.clone()))
        .spawn_bfs()
        .join();
    let mut found = checker.discoveries();
    found.retain(|name, _| invariants.contains(name));
    for (name, path) in &found {
        let steps = path.clone().into_actions().len();
        println!(
            "{mutant:?}: {name}, in {steps} steps, {:?}",
            begin.elapsed()
        );
    }
    assert!(!found.is_empty(), "{mutant:?} is not found");
}

#[test]
fn commits_without_row_locks_are_found() {
    let plan = Plan {
        crashes: 1,
        ..Plan::calm(2, 2)
    };
    is_found(Mutant::NoFence, plan);
    is_found(Mutant::PlainRead, plan);
}

#[test]
fn commits_without_a_comparison_of_versions_are_found() {
    let plan = Plan {
        shared: true,
        ..Plan::calm(2, 3)
    };
    is_found(Mutant::NoVersionCompare, plan);
}

#[test]
fn force_without_its_rules_is_found() {
    let plan = Plan {
        ticks: 3,
        forces: 1,
        ..Plan::calm(2, 2)
    };
    is_found(Mutant::ThawUnasked, plan);
    is_found(Mutant::TakesRevoked, plan);
    is_found(Mutant::NoWait, plan);
}

#[test]
fn messages_without_epochs_are_found() {
    let plan = Plan {
        crashes: 1,
        starts: 1,
        ..Plan::calm(2, 3)
    };
    is_found(Mutant::NoEpoch, plan);
}
