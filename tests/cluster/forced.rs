//! A node that lives and reaches the database, but answers nobody: the documents that it holds are taken away by force.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sluice_tests::clients::nfs3::{Nfs3Client, Stable};
use sluice_tests::clients::smb::{Cache, File, SmbClient, access, disposition};
use sluice_tests::cluster::Cluster;

use super::Outcome;

/// A holder may be silent for 2 s if it is asked for attributes and for 15 s if it is asked for the document; one lease later it has
/// heard of its loss or may not act; some time for a busy machine.
const TAKEN_AFTER: std::ops::Range<Duration> = Duration::from_secs(14)..Duration::from_secs(30);

const RIGHTS: u32 = access::READ | access::WRITE;

/// Neither a connection nor the relay through the database carries what the third node says or should hear.
fn silence(cluster: &Cluster, silent: bool) -> Outcome {
    let statement = if silent {
        "CREATE FUNCTION sluice.lost_mail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
         CREATE TRIGGER lost_mail BEFORE INSERT ON sluice.peer_mailbox FOR EACH ROW \
         WHEN (NEW.from_member = 3 OR NEW.to_member = 3) EXECUTE FUNCTION sluice.lost_mail()"
    } else {
        "DROP FUNCTION sluice.lost_mail() CASCADE"
    };
    cluster.server.sql(statement)?;
    cluster.cut_all_peers(silent);
    Ok(())
}

/// Waits until each node has its share of the shards, so that none changes its owner afterwards.
fn wait_until_spread(cluster: &Cluster) -> Outcome {
    let least = "SELECT min(shards) FROM (SELECT count(*) AS shards FROM sluice.lock_shard GROUP BY owner) AS o \
                 HAVING count(*) = 3";
    let begin = Instant::now();
    while cluster.server.sql(least)?.trim().parse().unwrap_or(0) < 4096 / 3 {
        ensure!(begin.elapsed() < Duration::from_secs(20), "it takes long");
    }
    Ok(())
}

/// The node that coordinates a document, by its handle.
fn coordinator(cluster: &Cluster, handle: &[u8]) -> anyhow::Result<u32> {
    let document = handle.get(8..16).context("a handle names its document")?;
    let document = u64::from_be_bytes(document.try_into()?);
    let shard = document.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
    let owner = format!("SELECT owner FROM sluice.lock_shard WHERE shard = {shard}");
    Ok(cluster.server.sql(&owner)?.trim().parse()?)
}

/// Documents that the third node has made and that another one coordinates.
fn held_elsewhere(
    cluster: &Cluster,
    client: &mut Nfs3Client,
    root: &[u8],
) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for number in 0..64 {
        let name = format!("held{number}");
        let handle = client
            .create(root, &name)?
            .map_err(|status| anyhow::anyhow!("{name}: {status}"))?;
        if coordinator(cluster, &handle)? != 3 {
            found.push((name, handle));
        }
        if found.len() == 2 {
            return Ok(found);
        }
    }
    anyhow::bail!("the third node coordinates everything")
}

fn exclusive(client: &mut SmbClient, name: &str) -> anyhow::Result<File> {
    client
        .create(name, RIGHTS, 0, disposition::OPEN, Cache::None)?
        .map_err(|status| anyhow::anyhow!("{name}: {status:#x}"))
}

/// Opens a document for itself alone and says how long that took and what was in it.
fn challenge(mut client: SmbClient, name: &str) -> anyhow::Result<(SmbClient, File, Vec<u8>)> {
    let begin = Instant::now();
    let file = exclusive(&mut client, name)?;
    let took = begin.elapsed();
    println!("{name} was taken away after {took:?}");
    ensure!(TAKEN_AFTER.contains(&took), "{name}: {took:?}");
    let found = client
        .read(file, 0, 100)?
        .map_err(|status| anyhow::anyhow!("{name}: {status:#x}"))?;
    ensure!(client.write(file, 0, b"taken")? == 0);
    ensure!(client.flush(file)? == 0);
    Ok((client, file, found))
}

/// Who has a document open, as a node tells it.
fn openers(cluster: &Cluster, at: usize, name: &str) -> anyhow::Result<Vec<String>> {
    let text = cluster.node(at).cli_ok(&["locks", "list", "--json"], "")?;
    let locks: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    let opens = locks
        .iter()
        .filter(|lock| lock["kind"] == "open" && lock["path"] == format!("/docs/{name}"));
    Ok(opens.map(|lock| lock["node"].to_string()).collect())
}

#[test]
fn what_a_silent_node_holds_is_taken_away_and_what_it_had_not_committed_is_refused() -> Outcome {
    let cluster = Cluster::start_wired()?;
    wait_until_spread(&cluster)?;
    let (mut nfs, root) = cluster.node(2).nfs("app1")?;
    let mut smb = cluster.node(2).smb()?;
    let held = held_elsewhere(&cluster, &mut nfs, &root)?;
    let [(of_smb, _), (of_nfs, handle)] = held.as_slice() else {
        anyhow::bail!("two documents");
    };
    let file = exclusive(&mut smb, of_smb)?;
    ensure!(smb.write(file, 0, b"saved")? == 0 && smb.flush(file)? == 0);
    ensure!(nfs.write(handle, 0, b"saved", Stable::FileSync)? == 0);
    let verifier = nfs.commit(handle)?.map_err(|s| anyhow::anyhow!("{s}"))?;
    let challengers = [cluster.node(0).smb()?, cluster.node(0).smb()?];
    silence(&cluster, true)?;
    let taken_away = AtomicBool::new(false);
    let (taken, refused) = std::thread::scope(|scope| {
        // Goes on writing, so that something is always uncommitted, until it hears that its open is gone.
        let (smb, nfs, taken_away) = (&mut smb, &mut nfs, &taken_away);
        let holder = scope.spawn(move || -> anyhow::Result<u32> {
            loop {
                let late = taken_away.load(Ordering::Relaxed);
                let status = smb.write(file, 0, b"never")?;
                if status != 0 {
                    return Ok(status);
                }
                ensure!(!late, "its open is there still");
                nfs.write(handle, 0, b"never", Stable::Unstable)?;
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let challengers = challengers.into_iter().zip([of_smb, of_nfs]);
        let challengers: Vec<_> = challengers
            .map(|(client, name)| scope.spawn(move || challenge(client, name)))
            .collect();
        let taken: anyhow::Result<Vec<_>> = challengers
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| anyhow::bail!("it panicked")))
            .collect();
        taken_away.store(true, Ordering::Relaxed);
        silence(&cluster, false)?;
        let refused = holder
            .join()
            .unwrap_or_else(|_| anyhow::bail!("it panicked"));
        Ok::<_, anyhow::Error>((taken?, refused?))
    })?;
    println!("the holder's write was refused with {refused:#x}");
    ensure!(smb.flush(file)? != 0, "the old open is gone");
    for (client, _, found) in &taken {
        ensure!(found == b"saved", "{:?}", String::from_utf8_lossy(found));
        client.set_patience(Duration::from_secs(10))?;
    }
    for at in 0..3 {
        for name in [of_smb, of_nfs] {
            let openers = openers(&cluster, at, name)?;
            ensure!(openers == ["\"gw1\""], "on node {at}: {openers:?}");
        }
    }
    // A client without opens learns by the verifier that it has to write again.
    let now = nfs.commit(handle)?.map_err(|s| anyhow::anyhow!("{s}"))?;
    ensure!(now != verifier, "the lost writes are told");
    for (mut client, file, _) in taken {
        ensure!(client.close(file)? == 0);
    }
    for (_, handle) in &held {
        ensure!(nfs.read_all(handle)? == b"taken");
    }
    ensure!(nfs.write(handle, 0, b"again", Stable::FileSync)? == 0);
    let file = exclusive(&mut smb, of_smb)?;
    ensure!(smb.close(file)? == 0, "the former holder goes on");
    Ok(())
}
