//! Cross-protocol stories: who holds, who challenges, under which policy, and what the document says afterwards. One file a
//! story. Each starts its own node; the content at the end is always one that a serial order explains.

mod ftp_stor_half_way;
mod ftp_two_uploads;
mod names_and_views;
mod nfs_two_writers;
mod policy_deny_and_fork;
mod share_quota;
mod smb_deny_write;
mod smb_lease_broken_by_nfs;
mod smb_range_lock;

use sluice_tests::clients::smb::{Cache, SmbClient, access, disposition, share};

/// Makes a document over SMB with this content.
fn put(smb: &mut SmbClient, path: &str, content: &[u8]) {
    let file = smb
        .create(
            path,
            access::READ | access::WRITE,
            share::ALL,
            disposition::OVERWRITE_IF,
            Cache::None,
        )
        .expect("connection")
        .expect("create");
    assert_eq!(smb.write(file, 0, content).expect("connection"), 0);
    assert_eq!(smb.close(file).expect("connection"), 0);
}

/// Reads a document over SMB.
fn get(smb: &mut SmbClient, path: &str) -> Vec<u8> {
    let file = smb
        .create(
            path,
            access::READ,
            share::ALL,
            disposition::OPEN,
            Cache::None,
        )
        .expect("connection")
        .expect("open");
    let bytes = match file.size {
        0 => Vec::new(),
        size => smb
            .read(file, 0, size as u32)
            .expect("connection")
            .expect("read"),
    };
    smb.close(file).expect("connection");
    bytes
}
mod verify;
