//! Documents that tell by themselves whether they are whole, and how each protocol writes one so that it is durable.

use sluice_tests::clients::ftp::FtpClient;
use sluice_tests::clients::nfs3::{Nfs3Client, Stable};
use sluice_tests::clients::smb::{Cache, SmbClient, access, disposition, share};

/// Bytes in one write.
const PART_BYTES: usize = 60_000;

/// Number of a document that is made and nothing more.
pub const EMPTY: u32 = 0;

/// Content number `n`: its length and every byte follow from the number, so that a torn document shows.
pub fn content(n: u32) -> Vec<u8> {
    if n == EMPTY {
        return Vec::new();
    }
    let length = [100, 5_000, 70_000, 400_000][n as usize % 4] + n as usize % 97;
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.resize(length, (n % 251) as u8);
    bytes
}

/// Replaces a document of the share; whether the server says that it is durable.
pub fn put_over_smb(client: &mut SmbClient, name: &str, n: u32) -> anyhow::Result<bool> {
    let rights = access::READ | access::WRITE;
    let how = disposition::OVERWRITE_IF;
    let Ok(file) = client.create(name, rights, share::READ, how, Cache::None)? else {
        return Ok(false);
    };
    for (at, part) in content(n).chunks(PART_BYTES).enumerate() {
        if client.write(file, (at * PART_BYTES) as u64, part)? != 0 {
            return Ok(false);
        }
    }
    Ok(client.close(file)? == 0)
}

/// Makes a document in a folder; as [`put_over_smb`].
pub fn put_over_nfs(
    client: &mut Nfs3Client,
    folder: &[u8],
    name: &str,
    n: u32,
) -> anyhow::Result<bool> {
    let Ok(file) = client.create(folder, name)? else {
        return Ok(false);
    };
    for (at, part) in content(n).chunks(PART_BYTES).enumerate() {
        if client.write(&file, (at * PART_BYTES) as u64, part, Stable::Unstable)? != 0 {
            return Ok(false);
        }
    }
    Ok(client.commit(&file)?.is_ok())
}

/// Replaces a document of the share; as [`put_over_smb`].
pub fn put_over_ftp(client: &mut FtpClient, name: &str, n: u32) -> anyhow::Result<bool> {
    Ok(client.store(&format!("/docs/{name}"), &content(n))?.code == 226)
}
