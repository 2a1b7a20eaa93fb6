//! Metadata that nodes have cached: names that were there or missing, sizes, permissions. Whatever one node changes through any
//! protocol shows on the others at their very next request.

use std::time::Instant;

use anyhow::{Context, ensure};
use sluice_tests::clients::nfs3::{Nfs3Client, Stable};
use sluice_tests::clients::smb::Cache;
use sluice_tests::cluster::Cluster;

type Outcome = anyhow::Result<()>;

const STALE: u32 = 70;
const NO_ENTRY: u32 = 2;
const NO_ACCESS: u32 = 13;

const DELETE: u32 = 0x0001_0000;
const READ_ATTRIBUTES: u32 = 0x80;
const SHARE_ALL: u32 = 7;
const OPEN: u32 = 1;

fn found<T>(answer: Result<T, u32>) -> anyhow::Result<T> {
    answer.map_err(|status| anyhow::anyhow!("status {status}"))
}

/// Has the node read it often enough that it is in its cache.
fn warm(client: &mut Nfs3Client, dir: &[u8], names: &[&str]) -> Outcome {
    for _ in 0..3 {
        for name in names {
            if let Ok((file, _)) = client.lookup(dir, name)? {
                let _ = client.size(&file)?;
            }
        }
    }
    Ok(())
}

/// An owner on the first node with the document `f` in a folder of its own, and somebody else on the second.
struct Neighbours {
    owner: Nfs3Client,
    root: Vec<u8>,
    stranger: Nfs3Client,
    root2: Vec<u8>,
    dir: Vec<u8>,
}

fn neighbours(cluster: &Cluster) -> anyhow::Result<Neighbours> {
    let (mut owner, root) = cluster.node(0).nfs("owner")?;
    let address = format!("127.0.0.1:{}", cluster.node(1).ports.nfs);
    let mut stranger = Nfs3Client::connect(&address, 4242, "stranger")?;
    let root2 = stranger.mount("/docs")?;
    let dir = found(owner.mkdir(&root, "mine")?)?;
    found(owner.create(&dir, "f")?)?;
    Ok(Neighbours {
        owner,
        root,
        stranger,
        root2,
        dir,
    })
}

/// Changes on the first node through all protocols, each looked at from the other two at once.
fn story(cluster: &Cluster, rounds: usize) -> Outcome {
    let (mut writer, root) = cluster.node(0).nfs("writer")?;
    let (mut second, root2) = cluster.node(1).nfs("second")?;
    let mut smb = cluster.node(0).smb()?;
    let mut ftp = cluster.node(0).ftp()?;
    let mut third = cluster.node(2).ftp()?;
    for round in 0..rounds {
        let at = |what: &str| format!("{what} in round {round}");
        let folder = found(writer.mkdir(&root, &format!("d{round}"))?)?;
        let names = ["made", "stored", "moved"];
        let dir = found(second.lookup(&root2, &format!("d{round}"))?)
            .with_context(|| at("the folder"))?
            .0;
        warm(&mut second, &dir, &names)?;
        // Made over NFS where it was known to be missing.
        let file = found(writer.create(&folder, "made")?)?;
        let seen = found(second.lookup(&dir, "made")?).with_context(|| at("create"))?;
        ensure!(seen.1 == 0);
        warm(&mut second, &dir, &names)?;
        ensure!(writer.truncate(&file, 700)? == 0);
        ensure!(second.size(&seen.0)? == Ok(700), at("truncate"));
        // Written and not committed.
        warm(&mut second, &dir, &names)?;
        ensure!(writer.write(&file, 700, b"more", Stable::Unstable)? == 0);
        ensure!(second.size(&seen.0)? == Ok(704), at("an unstable write"));
        // Stored over FTP, seen over NFS and FTP.
        let path = format!("/docs/d{round}/stored");
        ensure!(ftp.store(&path, b"12345")?.code == 226);
        let stored = found(second.lookup(&dir, "stored")?).with_context(|| at("a store"))?;
        ensure!(stored.1 == 5, at("the size of a store"));
        let size = third.command(&format!("SIZE {path}"))?;
        ensure!(size.text.contains('5'), "{}", size.text);
        // Renamed over SMB.
        warm(&mut second, &dir, &names)?;
        let open = smb.create(
            &format!("d{round}\\stored"),
            DELETE | READ_ATTRIBUTES,
            SHARE_ALL,
            OPEN,
            Cache::None,
        )?;
        let open = found(open)?;
        ensure!(smb.rename(open, &format!("d{round}\\moved"), false)? == 0);
        ensure!(smb.close(open)? == 0);
        let old = second.lookup(&dir, "stored")?;
        ensure!(old.err() == Some(NO_ENTRY), at("the old name"));
        found(second.lookup(&dir, "moved")?).with_context(|| at("the new name"))?;
        ensure!(third.command(&format!("SIZE {path}"))?.code == 550);
        // Removed.
        warm(&mut second, &dir, &names)?;
        ensure!(writer.remove(&folder, "made")? == 0);
        ensure!(
            second.lookup(&dir, "made")?.err() == Some(NO_ENTRY),
            at("remove")
        );
        ensure!(
            second.size(&seen.0)?.err() == Some(STALE),
            at("a removed file")
        );
        ensure!(second.list(&dir)? == ["moved"], at("the listing"));
    }
    Ok(())
}

#[test]
fn what_one_node_changes_shows_on_the_others_that_had_cached_it() -> Outcome {
    let cluster = Cluster::start_wired()?;
    story(&cluster, 10)?;
    // Permissions of a folder that a stranger was let through a moment ago.
    let Neighbours {
        mut owner,
        root,
        mut stranger,
        root2,
        dir,
    } = neighbours(&cluster)?;
    let dir2 = found(stranger.lookup(&root2, "mine")?)?.0;
    for _ in 0..10 {
        warm(&mut stranger, &dir2, &["f"])?;
        ensure!(owner.set_mode(&dir, 0o700)? == 0);
        ensure!(stranger.lookup(&dir2, "f")?.err() == Some(NO_ACCESS));
        ensure!(owner.set_mode(&dir, 0o755)? == 0);
        found(stranger.lookup(&dir2, "f")?)?;
    }
    // Peers that do not reach each other tell each other through the database.
    cluster.cut_all_peers(true);
    let (mut writer, _) = cluster.node(0).nfs("late")?;
    let late = found(writer.mkdir(&root, "late")?)?;
    let late2 = found(stranger.lookup(&root2, "late")?)?.0;
    for round in 0..4 {
        let name = format!("n{round}");
        warm(&mut stranger, &late2, &[&name])?;
        found(writer.create(&late, &name)?)?;
        found(stranger.lookup(&late2, &name)?)?;
        ensure!(writer.remove(&late, &name)? == 0);
        ensure!(stranger.lookup(&late2, &name)?.err() == Some(NO_ENTRY));
    }
    cluster.cut_all_peers(false);
    Ok(())
}

#[test]
fn a_paused_node_is_waited_for_a_moment_only_and_shows_nothing_old_when_it_wakes() -> Outcome {
    let cluster = Cluster::start()?;
    let Neighbours {
        mut owner,
        mut stranger,
        root2,
        dir,
        ..
    } = neighbours(&cluster)?;
    ensure!(owner.set_mode(&dir, 0o755)? == 0);
    let dir2 = found(stranger.lookup(&root2, "mine")?)?.0;
    warm(&mut stranger, &dir2, &["f"])?;

    cluster.nodes[1].pause()?;
    let since = Instant::now();
    ensure!(owner.set_mode(&dir, 0o700)? == 0);
    let waited = since.elapsed();
    // Asked while it stands still, answered by what it wakes up with: its lease holds still.
    let asked = stranger.send_lookup(&dir2, "f")?;
    ensure!(
        cluster.state_of(0, "gw2")? == "live",
        "changes went on after {waited:?}, when it was fenced"
    );
    cluster.nodes[1].go_on()?;
    let reply = stranger.receive(asked)?;
    let status = reply.first_chunk::<4>().map(|b| u32::from_be_bytes(*b));
    ensure!(status == Some(NO_ACCESS), "status {status:?}");
    story(&cluster, 1)
}
