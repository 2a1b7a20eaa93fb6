//! The checks themselves: small conversations with the heads of two nodes. Each works on a document of its own, so that none
//! depends on another's leftovers.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail, ensure};
use sluice_clients::ftp::FtpClient;
use sluice_clients::nfs3::{Nfs3Client, Stable};
use sluice_clients::smb::{Cache, SmbClient, access, disposition, share, status};

use super::{Scratch, Target};

/// A check: what it left out, if anything, or why it failed.
pub(super) type Check = fn(&Target, &Target, &Scratch) -> anyhow::Result<String>;

/// All checks, in the order of the table.
pub(super) const ALL: &[(&str, Check)] = &[
    ("content", content),
    ("metadata", metadata),
    ("cache", cache),
    ("cache recall", recall),
    ("lock", lock),
    ("upload", upload),
    ("policy", records),
];

static NEXT: AtomicU64 = AtomicU64::new(0);
const NFS_JUKEBOX: u32 = 10_008;
const NFS_ACCES: u32 = 13;
const BATCH_OPLOCK: u8 = 9;

pub(super) fn name(kind: &str) -> String {
    format!("{kind}-{}.bin", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn body(seed: u64, length: usize) -> Vec<u8> {
    let byte = |at: usize| ((at as u64).wrapping_mul(seed | 1) >> 3) as u8;
    (0..length).map(byte).collect()
}

pub(super) fn smb(target: &Target, scratch: &Scratch) -> anyhow::Result<SmbClient> {
    let address = target.heads.smb.context("serves no SMB")?.to_string();
    SmbClient::connect(&address, &scratch.user, &scratch.password, &scratch.share)
}

fn nfs(target: &Target, scratch: &Scratch) -> anyhow::Result<(Nfs3Client, Vec<u8>)> {
    let address = target.heads.nfs.context("serves no NFS")?.to_string();
    let machine = format!("verify-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut client = Nfs3Client::connect(&address, scratch.uid, &machine)?;
    let root = client.mount(&format!("/{}", scratch.share))?;
    Ok((client, root))
}

fn ftp(target: &Target, scratch: &Scratch) -> anyhow::Result<FtpClient> {
    let address = target.heads.ftp.context("serves no FTP")?.to_string();
    FtpClient::connect(&address, &scratch.user, &scratch.password)
}

fn path(scratch: &Scratch, name: &str) -> String {
    format!("/{}/{name}", scratch.share)
}

pub(super) fn put(
    target: &Target,
    scratch: &Scratch,
    name: &str,
    bytes: &[u8],
) -> anyhow::Result<()> {
    let reply = ftp(target, scratch)?.store(&path(scratch, name), bytes)?;
    ensure!(reply.code == 226, "upload: {}", reply.text.trim());
    Ok(())
}

/// What the node shows over each protocol, at once.
fn shows(target: &Target, scratch: &Scratch, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let got = ftp(target, scratch)?
        .retrieve(&path(scratch, name))?
        .map_err(|reply| anyhow::anyhow!("FTP: {}", reply.text.trim()))?;
    ensure!(got == bytes, "FTP shows other bytes");
    let (mut client, root) = nfs(target, scratch)?;
    let (file, size) = client
        .lookup(&root, name)?
        .map_err(|status| anyhow::anyhow!("NFS LOOKUP: status {status}"))?;
    ensure!(size == bytes.len() as u64, "NFS shows {size} bytes");
    ensure!(client.read_all(&file)? == bytes, "NFS shows other bytes");
    let mut client = smb(target, scratch)?;
    let file = client
        .create(
            name,
            access::READ,
            share::ALL,
            disposition::OPEN,
            Cache::None,
        )?
        .map_err(|status| anyhow::anyhow!("SMB CREATE: status {status:#010x}"))?;
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let part = client
            .read(file, got.len() as u64, 60_000)?
            .map_err(|status| anyhow::anyhow!("SMB READ: status {status:#010x}"))?;
        ensure!(!part.is_empty(), "SMB shows {} bytes", got.len());
        got.extend(part);
    }
    client.close(file)?;
    ensure!(got == bytes, "SMB shows other bytes");
    Ok(())
}

/// Bytes that one node acknowledged are the other's, in all sizes that are stored differently.
fn content(from: &Target, to: &Target, scratch: &Scratch) -> anyhow::Result<String> {
    for length in [1, 5_000, 300_000, 5_000_000] {
        let (name, bytes) = (name("content"), body(length as u64 + 7, length));
        put(from, scratch, &name, &bytes)?;
        shows(to, scratch, &name, &bytes).with_context(|| format!("{length} bytes"))?;
    }
    Ok(String::new())
}

/// Names made, changed and removed on one node are so on the other.
fn metadata(from: &Target, to: &Target, scratch: &Scratch) -> anyhow::Result<String> {
    let (first, second) = (name("name"), name("renamed"));
    put(from, scratch, &first, b"x")?;
    let (mut there, there_root) = nfs(to, scratch)?;
    ensure!(
        there.lookup(&there_root, &first)?.is_ok(),
        "a new name is not there"
    );
    let (mut here, root) = nfs(from, scratch)?;
    let moved = here.rename(&root, &first, &root, &second)?;
    ensure!(moved == 0, "RENAME: status {moved}");
    ensure!(
        there.lookup(&there_root, &first)?.is_err(),
        "the old name is still there"
    );
    ensure!(
        there.lookup(&there_root, &second)?.is_ok(),
        "the new name is not there"
    );
    let removed = here.remove(&root, &second)?;
    ensure!(removed == 0, "REMOVE: status {removed}");
    ensure!(
        there.lookup(&there_root, &second)?.is_err(),
        "a removed name is still there"
    );
    ensure!(
        !there.list(&there_root)?.contains(&second),
        "a removed name is still listed"
    );
    Ok(String::new())
}

/// A node that has read a document shows the next version of it at once, and acknowledged writes of an open file too.
fn cache(from: &Target, to: &Target, scratch: &Scratch) -> anyhow::Result<String> {
    let name = name("cache");
    for round in 0..3 {
        let bytes = body(round + 11, 20_000 + round as usize);
        put(from, scratch, &name, &bytes)?;
        shows(to, scratch, &name, &bytes).with_context(|| format!("version {}", round + 1))?;
    }
    let mut client = smb(from, scratch)?;
    let rights = access::READ | access::WRITE;
    let file = client
        .create(&name, rights, share::ALL, disposition::OPEN, Cache::None)?
        .map_err(|status| anyhow::anyhow!("SMB CREATE: status {status:#010x}"))?;
    let (mut there, root) = nfs(to, scratch)?;
    let (seen, _) = there
        .lookup(&root, &name)?
        .map_err(|status| anyhow::anyhow!("NFS LOOKUP: status {status}"))?;
    for round in 0..3_u8 {
        let written = client.write(file, 0, &[round; 100])?;
        ensure!(written == status::OK, "SMB WRITE: status {written:#010x}");
        let (bytes, _) = there
            .read(&seen, 0, 100)?
            .map_err(|status| anyhow::anyhow!("NFS READ: status {status}"))?;
        ensure!(
            bytes == [round; 100],
            "an acknowledged write of an open file is not seen"
        );
    }
    client.close(file)?;
    Ok(String::new())
}

/// A client's cache on one node is called back before the other node's client gets what it asks for.
fn recall(from: &Target, to: &Target, scratch: &Scratch) -> anyhow::Result<String> {
    let name = name("recall");
    put(from, scratch, &name, b"old")?;
    let mut holder = smb(from, scratch)?;
    let rights = access::READ | access::WRITE;
    let file = holder
        .create(
            &name,
            rights,
            share::ALL,
            disposition::OPEN,
            Cache::Oplock(BATCH_OPLOCK),
        )?
        .map_err(|status| anyhow::anyhow!("SMB CREATE: status {status:#010x}"))?;
    ensure!(file.oplock == BATCH_OPLOCK, "no batch oplock was granted");
    let mut asker = smb(to, scratch)?;
    let asked = asker.send_create(
        &name,
        access::READ,
        share::ALL,
        disposition::OPEN,
        0,
        Cache::None,
    )?;
    holder
        .wait_break()
        .context("the cache was not called back")?;
    let written = holder.write(file, 0, b"new")?;
    ensure!(written == status::OK, "SMB WRITE: status {written:#010x}");
    let answered = holder.acknowledge_oplock(file, 0)?;
    ensure!(
        answered == status::OK,
        "acknowledgement: status {answered:#010x}"
    );
    let opened = asker
        .created(asked)?
        .map_err(|status| anyhow::anyhow!("SMB CREATE after the recall: status {status:#010x}"))?;
    let bytes = asker
        .read(opened, 0, 3)?
        .map_err(|status| anyhow::anyhow!("SMB READ: status {status:#010x}"))?;
    ensure!(
        bytes == b"new",
        "what was cached is not shown after the recall"
    );
    asker.close(opened)?;
    holder.close(file)?;
    Ok(String::new())
}

/// A document that a client of one node has for itself is refused to every protocol of the other, and free after.
fn lock(from: &Target, to: &Target, scratch: &Scratch) -> anyhow::Result<String> {
    let name = name("lock");
    put(from, scratch, &name, b"held")?;
    let mut holder = smb(from, scratch)?;
    let rights = access::READ | access::WRITE;
    let file = holder
        .create(&name, rights, 0, disposition::OPEN, Cache::None)?
        .map_err(|status| anyhow::anyhow!("SMB CREATE: status {status:#010x}"))?;
    let mut other = smb(to, scratch)?;
    match other.create(
        &name,
        access::READ,
        share::ALL,
        disposition::OPEN,
        Cache::None,
    )? {
        Err(status::SHARING_VIOLATION) => {}
        Err(status) => bail!("SMB CREATE: status {status:#010x} instead of a sharing violation"),
        Ok(_) => bail!("SMB opened a document that is denied to it"),
    }
    let (mut client, root) = nfs(to, scratch)?;
    let (handle, _) = client
        .lookup(&root, &name)?
        .map_err(|status| anyhow::anyhow!("NFS LOOKUP: status {status}"))?;
    let written = client.write(&handle, 0, b"lost?", Stable::FileSync)?;
    ensure!(
        matches!(written, NFS_ACCES | NFS_JUKEBOX),
        "NFS WRITE: status {written} instead of a refusal"
    );
    let refused = ftp(to, scratch)?.store(&path(scratch, &name), b"lost?")?;
    ensure!(refused.code == 450, "FTP STOR: {}", refused.text.trim());
    ensure!(
        refused.text.contains(&scratch.user),
        "the refusal does not name the holder: {}",
        refused.text.trim()
    );
    holder.close(file)?;
    put(to, scratch, &name, b"free")?;
    shows(from, scratch, &name, b"free")?;
    Ok(String::new())
}

/// An upload in work on one node shows nothing on the other, keeps other writers out, and appears whole.
fn upload(from: &Target, to: &Target, scratch: &Scratch) -> anyhow::Result<String> {
    use std::io::Write;

    let (name, bytes) = (name("upload"), body(3, 400_000));
    put(from, scratch, &name, b"old version")?;
    let mut uploader = ftp(from, scratch)?;
    let mut data = uploader
        .begin("STOR", &path(scratch, &name))?
        .map_err(|reply| anyhow::anyhow!("FTP STOR: {}", reply.text.trim()))?;
    data.write_all(&bytes[..100_000])?;
    shows(to, scratch, &name, b"old version").context("while it is uploaded")?;
    let refused = ftp(to, scratch)?.store(&path(scratch, &name), b"other")?;
    ensure!(
        refused.code == 450,
        "a second upload: {}",
        refused.text.trim()
    );
    data.write_all(&bytes[100_000..])?;
    data.shutdown(std::net::Shutdown::Write)?;
    drop(data);
    let done = uploader.reply()?;
    ensure!(done.code == 226, "the upload: {}", done.text.trim());
    shows(to, scratch, &name, &bytes).context("after the upload")?;
    Ok(String::new())
}

/// Users and shares made through one node hold on every other: this run's own do.
fn records(_: &Target, to: &Target, scratch: &Scratch) -> anyhow::Result<String> {
    smb(to, scratch)?;
    nfs(to, scratch)?;
    ftp(to, scratch)?;
    Ok(String::new())
}

/// Removes what the checks left in the share.
pub(super) fn clean(target: &Target, scratch: &Scratch) -> anyhow::Result<()> {
    let (mut client, root) = nfs(target, scratch)?;
    for name in client.list(&root)? {
        client.remove(&root, &name)?;
    }
    Ok(())
}
