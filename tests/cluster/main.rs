//! Three real nodes on one PostgreSQL server: what each fault of a node, of the network and of the database does to clients of all
//! protocols on all nodes. One order of all operations has to explain what every client saw.

mod demo;
mod failover;
mod faults;
mod forced;
mod members;
mod metadata;
mod moves;
mod recovery;
mod verify;

use std::time::{Duration, Instant};

use sluice_tests::cluster::Cluster;
use sluice_tests::load::Load;

type Outcome = anyhow::Result<()>;

/// Runs a load over all nodes, lets `fault` happen in the middle, and judges what the clients saw.
fn through(mut cluster: Cluster, fault: impl FnOnce(&mut Cluster, &Load) -> Outcome) -> Outcome {
    let ports: Vec<_> = cluster.nodes.iter().map(|node| node.ports).collect();
    let load = Load::start(&ports)?;
    load.progress(150)?;
    fault(&mut cluster, &load)?;
    load.progress(150)?;
    cluster.wait_until_ready()?;
    load.finish(&ports[0])?;
    Ok(())
}

/// For this long a node is paused or cut off: longer than its lease, so that the others fence it.
const OVER_THE_LEASE: Duration = Duration::from_secs(9);

#[test]
fn a_killed_node_is_gone_at_once_and_comes_back() -> Outcome {
    through(Cluster::start()?, |cluster, load| {
        cluster.nodes[2].kill()?;
        let begin = Instant::now();
        cluster.wait_for_state(0, "gw3", "fenced")?;
        // Nobody waits for its lease: its process is seen to be gone.
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(4));
        load.progress(100)?;
        cluster.nodes[2].spawn()
    })
}

#[test]
fn a_paused_node_is_fenced_and_what_it_wakes_up_with_counts_for_nothing() -> Outcome {
    through(Cluster::start()?, |cluster, load| {
        cluster.nodes[1].pause()?;
        cluster.wait_for_state(0, "gw2", "rogue")?;
        load.progress(50)?;
        cluster.nodes[1].go_on()?;
        cluster.wait_for_state(0, "gw2", "live")
    })
}

#[test]
fn nodes_that_do_not_reach_each_other_go_on_through_the_database() -> Outcome {
    through(Cluster::start_wired()?, |cluster, load| {
        cluster.cut_all_peers(true);
        load.progress(60)?;
        anyhow::ensure!(cluster.state_of(0, "gw2")? == "live", "nobody is evicted");
        cluster.cut_all_peers(false);
        Ok(())
    })
}

#[test]
fn a_node_without_the_database_is_fenced_and_comes_back_when_it_reaches_it() -> Outcome {
    through(Cluster::start_wired()?, |cluster, load| {
        cluster.cut_database(2, true);
        std::thread::sleep(OVER_THE_LEASE);
        anyhow::ensure!(!cluster.node(2).is_ready(), "it may not act");
        load.progress(50)?;
        cluster.cut_database(2, false);
        Ok(())
    })
}

#[test]
fn all_freeze_while_the_database_is_down_and_thaw_with_all_their_state() -> Outcome {
    through(Cluster::start()?, |cluster, _| {
        cluster.server.kill()?;
        std::thread::sleep(OVER_THE_LEASE);
        cluster.server.start()?;
        cluster.wait_until_ready()?;
        for name in ["gw1", "gw2", "gw3"] {
            anyhow::ensure!(cluster.epoch_of(0, name)? <= 3, "nobody began anew");
        }
        Ok(())
    })
}

#[test]
fn all_thaw_on_a_promoted_synchronous_standby() -> Outcome {
    through(Cluster::start()?, |cluster, _| {
        let mut standby = cluster.server.standby()?;
        cluster.server.synchronous(true)?;
        cluster.server.kill()?;
        standby.promote()?;
        standby.stop()?;
        cluster.server.exchange_ports(&mut standby);
        standby.start()?;
        std::mem::swap(&mut cluster.server, &mut standby);
        cluster.wait_until_ready()?;
        anyhow::ensure!(cluster.epoch_of(0, "gw3")? == 3, "nobody began anew");
        Ok(())
    })
}

#[test]
fn nodes_are_restarted_one_after_the_other_while_clients_work() -> Outcome {
    through(Cluster::start()?, |cluster, load| {
        for at in 0..3 {
            let name = format!("gw{}", at + 1);
            let other = (at + 1) % 3;
            cluster.node(other).cli_ok(&["node", "drain", &name], "")?;
            cluster.nodes[at].wait_for_the_end()?;
            load.progress(50)?;
            cluster.nodes[at].spawn()?;
            cluster.wait_until_ready()?;
        }
        Ok(())
    })
}
