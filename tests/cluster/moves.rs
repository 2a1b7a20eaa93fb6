//! Clients whose node is lost send again what was not answered, to another node.

use anyhow::{Context, ensure};
use sluice_tests::clients::nfs3::Nfs3Client;
use sluice_tests::cluster::Cluster;

type Outcome = anyhow::Result<()>;

const NFS: u32 = 100_003;
const LOOKUP_MISSING: u32 = 2;

fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

/// The same bytes under the same number; the status and what follows it.
fn exchange(
    client: &mut Nfs3Client,
    xid: u32,
    procedure: u32,
    args: &[u8],
) -> anyhow::Result<(u32, Vec<u8>)> {
    client.send_as(xid, NFS, procedure, &[args])?;
    let reply = client.receive(xid)?;
    let (status, rest) = reply.split_first_chunk().context("a status")?;
    Ok((u32::from_be_bytes(*status), rest.to_vec()))
}

/// The handle in the result of a creating procedure.
fn handle(result: &[u8]) -> Option<&[u8]> {
    let length = u32::from_be_bytes(*result.get(4..)?.first_chunk()?) as usize;
    result.get(8..8 + length)
}

#[test]
fn what_one_node_carried_out_another_answers_in_the_same_way_when_it_is_sent_again() -> Outcome {
    let cluster = Cluster::start_with(2, false, "", "")?;
    let (mut here, root) = cluster.node(0).nfs("app1")?;
    let (mut there, _) = cluster.node(1).nfs("app1")?;
    let at = |name: &str| [opaque(&root), opaque(name.as_bytes())].concat();
    let file = here
        .create(&root, "file")?
        .map_err(|s| anyhow::anyhow!("{s}"))?;
    let attributes = words(&[1, 0o755, 0, 0, 0, 0, 0]);
    let guarded = [words(&[1]), attributes.clone()].concat();
    let calls = [
        ("MKDIR", 9, [at("folder"), attributes.clone()].concat()),
        ("CREATE", 8, [at("made"), guarded].concat()),
        (
            "SYMLINK",
            10,
            [at("link"), attributes, opaque(b"file")].concat(),
        ),
        ("LINK", 15, [opaque(&file), at("second")].concat()),
        ("RENAME", 14, [at("made"), at("moved")].concat()),
        ("REMOVE", 12, at("second")),
        ("RMDIR", 13, at("folder")),
    ];
    for (number, (name, procedure, args)) in calls.iter().enumerate() {
        let xid = 0x7700_0000 + number as u32;
        let (first, made) = exchange(&mut here, xid, *procedure, args)?;
        ensure!(first == 0, "{name}: {first}");
        let (again, found) = exchange(&mut there, xid, *procedure, args)?;
        ensure!(again == 0, "{name} sent again: {again}");
        if matches!(procedure, 8..=10) {
            ensure!(
                handle(&made).is_some() && handle(&made) == handle(&found),
                "{name}"
            );
        }
        let (anew, _) = exchange(&mut there, xid + 0x100, *procedure, args)?;
        ensure!(anew != 0, "{name} as a new call");
    }
    Ok(())
}

#[test]
fn a_remove_sent_again_after_its_node_died_does_not_remove_what_came_after() -> Outcome {
    let mut cluster = Cluster::start_with(2, false, "", "")?;
    let (mut here, root) = cluster.node(1).nfs("app1")?;
    let (mut there, _) = cluster.node(0).nfs("app1")?;
    let args = [opaque(&root), opaque(b"name")].concat();
    here.create(&root, "name")?
        .map_err(|s| anyhow::anyhow!("{s}"))?;
    let (first, _) = exchange(&mut here, 0x7800_0000, 12, &args)?;
    ensure!(first == 0, "REMOVE: {first}");
    cluster.nodes[1].kill()?;
    there
        .create(&root, "name")?
        .map_err(|s| anyhow::anyhow!("{s}"))?;
    let (again, _) = exchange(&mut there, 0x7800_0000, 12, &args)?;
    ensure!(again == 0, "sent again: {again}");
    ensure!(
        there.lookup(&root, "name")?.is_ok(),
        "the later file is gone"
    );
    let (anew, _) = exchange(&mut there, 0x7800_0001, 12, &args)?;
    ensure!(anew == 0, "a new call: {anew}");
    ensure!(there.lookup(&root, "name")?.err() == Some(LOOKUP_MISSING));
    Ok(())
}
