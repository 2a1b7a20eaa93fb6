//! Clients of all protocols on the same documents while the node is killed and started again: one order of all operations
//! explains what each of them saw.

use std::time::{Duration, Instant};

use sluice_tests::load::Load;
use sluice_tests::node::TestNode;

type Outcome = anyhow::Result<()>;

/// Lets the load get some way.
fn progress(load: &Load, operations: u64) -> Outcome {
    let (begin, goal) = (Instant::now(), load.acknowledged() + operations);
    while load.acknowledged() < goal {
        anyhow::ensure!(
            begin.elapsed() < Duration::from_secs(60),
            "the load stands still at {} operations",
            load.acknowledged()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn one_order_explains_what_all_clients_saw_through_kills_of_the_node() -> Outcome {
    let mut node = TestNode::start()?;
    let load = Load::start(&[node.ports])?;
    for _ in 0..3 {
        progress(&load, 150)?;
        node.kill()?;
        node.spawn()?;
    }
    progress(&load, 150)?;
    let operations = load.finish(&node.ports)?;
    anyhow::ensure!(operations >= 600, "{operations} operations");
    Ok(())
}
