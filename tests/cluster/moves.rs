//! Clients whose node is lost go on at another: they send again what was not answered, and learn what is lost.

use std::io::Write;

use anyhow::{Context, ensure};
use sluice_tests::clients::nfs3::{Nfs3Client, Stable};
use sluice_tests::clients::smb::{Cache, SmbClient, access, disposition, share};
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

const OLD: &[u8] = b"what was acknowledged as saved";
const NEW: &[u8] = b"what was not";
/// The NTSTATUS of a handle that the server does not know.
const FILE_CLOSED: u32 = 0xC000_0128;

#[test]
fn an_smb_client_works_on_at_another_node_and_is_told_that_its_handle_is_gone() -> Outcome {
    let mut cluster = Cluster::start_with(2, false, "", "")?;
    let open = |client: &mut SmbClient, disposition| {
        client
            .create(
                "doc",
                access::READ | access::WRITE,
                share::READ,
                disposition,
                Cache::None,
            )?
            .map_err(|status| anyhow::anyhow!("{status:#010x}"))
    };
    let mut client = cluster.node(1).smb()?;
    let file = open(&mut client, disposition::CREATE)?;
    ensure!(client.write(file, 0, OLD)? == 0 && client.close(file)? == 0);
    let file = open(&mut client, disposition::OPEN)?;
    ensure!(client.write(file, 0, NEW)? == 0, "not flushed");
    cluster.nodes[1].kill()?;
    ensure!(client.flush(file).is_err(), "the connection broke");

    let mut client = cluster.node(0).smb()?;
    let told = client.flush(file)?;
    ensure!(told == FILE_CLOSED, "{told:#010x}");
    let told = client.write(file, 0, NEW)?;
    ensure!(told == FILE_CLOSED, "{told:#010x}");
    let file = open(&mut client, disposition::OPEN)?;
    let found = client.read(file, 0, 100)?;
    ensure!(found.as_deref() == Ok(OLD), "{found:?}");
    ensure!(client.write(file, 0, NEW)? == 0 && client.close(file)? == 0);
    let stored = [NEW, &OLD[NEW.len()..]].concat();
    let (mut reader, root) = cluster.node(0).nfs("app1")?;
    let (handle, _) = reader
        .lookup(&root, "doc")?
        .map_err(|s| anyhow::anyhow!("{s}"))?;
    ensure!(reader.read_all(&handle)? == stored);
    Ok(())
}

#[test]
fn an_nfs_client_learns_at_another_node_that_it_has_to_write_again() -> Outcome {
    let mut cluster = Cluster::start_with(2, false, "", "")?;
    let (mut here, root) = cluster.node(1).nfs("app1")?;
    let file = here
        .create(&root, "doc")?
        .map_err(|s| anyhow::anyhow!("{s}"))?;
    let verifier = here.commit(&file)?;
    ensure!(here.write(&file, 0, NEW, Stable::Unstable)? == 0);
    cluster.nodes[1].kill()?;
    // The handle is good at every node; the verifier says that what was not committed may be lost.
    let (mut there, _) = cluster.node(0).nfs("app1")?;
    let other = there.commit(&file)?;
    ensure!(
        other.is_ok() && other != verifier,
        "{verifier:?}, then {other:?}"
    );
    ensure!(there.write(&file, 0, NEW, Stable::Unstable)? == 0);
    ensure!(there.commit(&file)? == other, "nothing more was lost");
    ensure!(there.read_all(&file)? == NEW);
    Ok(())
}

#[test]
fn ftp_transfers_go_on_at_another_node_where_they_broke_off() -> Outcome {
    let mut cluster = Cluster::start_with(2, false, "", "")?;
    let mut client = cluster.node(1).ftp()?;
    ensure!(client.store("/docs/doc", OLD)?.code == 226);
    let mut upload = client
        .begin("STOR", "/docs/doc")?
        .map_err(|reply| anyhow::anyhow!(reply.text))?;
    upload.write_all(NEW)?;
    cluster.nodes[1].kill()?;
    let mut client = cluster.node(0).ftp()?;
    ensure!(client.command("TYPE I")?.code == 200);
    ensure!(client.command("REST 9")?.code == 350);
    let rest = client
        .retrieve("/docs/doc")?
        .map_err(|reply| anyhow::anyhow!(reply.text))?;
    ensure!(rest == OLD[9..], "the broken upload shows nowhere");
    ensure!(client.command("REST 9")?.code == 350);
    let stored = client.store("/docs/doc", NEW)?;
    ensure!(stored.code == 226, "{}", stored.text);
    let whole = client
        .retrieve("/docs/doc")?
        .map_err(|reply| anyhow::anyhow!(reply.text))?;
    ensure!(whole == [&OLD[..9], NEW].concat());
    Ok(())
}
