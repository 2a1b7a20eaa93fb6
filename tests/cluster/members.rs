//! Members come and go.

use std::time::{Duration, Instant};

use sluice_tests::cluster::Cluster;

type Outcome = anyhow::Result<()>;

#[test]
fn a_drained_node_leaves_and_the_others_have_its_documents() -> Outcome {
    let mut cluster = Cluster::start()?;
    let stored = cluster.node(1).ftp()?.store("/docs/a.txt", b"from gw2")?;
    anyhow::ensure!(stored.code == 226, "{}", stored.text);
    cluster.node(0).cli_ok(&["node", "drain", "gw2"], "")?;
    cluster.wait_for_state(0, "gw2", "left")?;
    cluster.nodes[1].wait_for_the_end()?;
    let (mut client, root) = cluster.node(2).nfs("app1")?;
    let (file, _) = client
        .lookup(&root, "a.txt")?
        .map_err(|status| anyhow::anyhow!("status {status}"))?;
    anyhow::ensure!(client.read_all(&file)? == b"from gw2");
    Ok(())
}

#[test]
fn the_last_node_is_not_drained_and_an_unknown_one_is_told() -> Outcome {
    let cluster = Cluster::start_with(1, false, "", "")?;
    for (name, word) in [("gw1", "no other node"), ("gw9", "there is no node gw9")] {
        let output = cluster.node(0).cli(&["node", "drain", name], "")?;
        anyhow::ensure!(output.status.code() == Some(1));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(told.contains(word), "{told}");
    }
    Ok(())
}

#[test]
fn users_and_policies_made_on_one_node_hold_on_the_others() -> Outcome {
    let cluster = Cluster::start()?;
    cluster.node(1).add_user("late", "Passw0rd!", 1001)?;
    let address = format!("127.0.0.1:{}", cluster.node(2).ports.ftp);
    let mut ftp = sluice_tests::clients::ftp::FtpClient::connect(&address, "late", "Passw0rd!")?;
    anyhow::ensure!(ftp.store("/docs/b.txt", b"b")?.code == 226);
    cluster
        .node(1)
        .policy(&["--protocol", "ftp", "--write", "deny"])?;
    let refused = ftp.store("/docs/b.txt", b"c")?;
    anyhow::ensure!(refused.code == 550, "{}", refused.text);
    Ok(())
}

#[test]
fn a_node_with_another_secret_is_refused_in_one_sentence() -> Outcome {
    let cluster = Cluster::start_with(1, false, "", "")?;
    let begin = Instant::now();
    let Err(error) = cluster.start_stranger() else {
        anyhow::bail!("it was let in");
    };
    let told = format!("{error:#}");
    anyhow::ensure!(told.contains("secret"), "{told}");
    anyhow::ensure!(begin.elapsed() < Duration::from_secs(20));
    Ok(())
}

#[test]
fn a_node_of_another_version_of_the_peer_protocol_is_refused_in_one_sentence() -> Outcome {
    let mut cluster = Cluster::start_with(1, false, "", "")?;
    for schema in ["schema - 1", "schema + 2"] {
        cluster.server.sql(&format!(
            "UPDATE sluice.cluster_identity SET schema = {schema}"
        ))?;
        let Err(error) = cluster.add(false, |_| {}) else {
            anyhow::bail!("it was let in");
        };
        let told = format!("{error:#}");
        anyhow::ensure!(told.contains("the cluster has peer protocol"), "{told}");
    }
    Ok(())
}
