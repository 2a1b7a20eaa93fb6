//! A byte range locked over SMB is mandatory for everybody.

use sluice_tests::clients::{
    nfs3::{Stable, status as nfs},
    smb::{Cache, access, disposition, share, status as smb_status},
};
use sluice_tests::node::TestNode;

#[test]
fn nfs_and_ftp_meet_the_range_and_only_the_range() {
    let node = TestNode::start().unwrap();
    for protocol in ["ftp", "nfs3"] {
        node.policy(&["--protocol", protocol, "--on-conflict", "reject"])
            .unwrap();
    }
    let mut smb = node.smb().unwrap();
    super::put(&mut smb, "a.txt", b"0123456789");
    // Open for reading only: a writer would meet the NFS client's writer's place, ranges or not.
    let file = smb
        .create(
            "a.txt",
            access::READ,
            share::ALL,
            disposition::OPEN,
            Cache::None,
        )
        .unwrap()
        .unwrap();
    assert_eq!(smb.lock(file, 4, 2, 2 | 16).unwrap(), 0);

    let (mut client, root) = node.nfs("app1").unwrap();
    let (handle, _) = client.lookup(&root, "a.txt").unwrap().unwrap();
    assert_eq!(
        client.write(&handle, 4, b"x", Stable::FileSync).unwrap(),
        nfs::ACCES
    );
    assert_eq!(
        client.read(&handle, 0, 10).unwrap().map(drop),
        Err(nfs::ACCES),
        "a read inside an exclusive range is refused too"
    );
    assert_eq!(
        client.write(&handle, 0, b"ab", Stable::FileSync).unwrap(),
        nfs::OK
    );
    let refusal = node.ftp().unwrap().store("/docs/a.txt", b"ftp").unwrap();
    assert_eq!(refusal.code, 450, "{}", refusal.text);
    assert_eq!(smb.lock(file, 4, 2, 4).unwrap(), 0);
    assert_eq!(smb.close(file).unwrap(), 0);
    assert_eq!(client.read_all(&handle).unwrap(), b"ab23456789");
}

#[test]
fn among_smb_clients_a_lock_is_refused_or_waits_and_io_is_refused() {
    let node = TestNode::start().unwrap();
    let mut smb = node.smb().unwrap();
    super::put(&mut smb, "a.txt", b"0123456789");
    let rights = access::READ | access::WRITE;
    let file = smb
        .create("a.txt", rights, share::ALL, disposition::OPEN, Cache::None)
        .unwrap()
        .unwrap();
    assert_eq!(smb.lock(file, 4, 2, 2 | 16).unwrap(), 0);
    let mut other = node.smb().unwrap();
    let second = other
        .create("a.txt", rights, share::ALL, disposition::OPEN, Cache::None)
        .unwrap()
        .unwrap();
    assert_eq!(
        other.lock(second, 5, 1, 2 | 16).unwrap(),
        smb_status::LOCK_NOT_GRANTED
    );
    assert_eq!(
        other.write(second, 5, b"y").unwrap(),
        smb_status::FILE_LOCK_CONFLICT
    );
    // A lock that may wait is answered as soon as the range is free.
    let waiting = other.send_lock(second, 5, 1, 2).unwrap();
    other.wait_pending(waiting).unwrap();
    assert_eq!(smb.lock(file, 4, 2, 4).unwrap(), 0);
    assert_eq!(other.receive(waiting).unwrap().status, 0);
    assert_eq!(smb.close(file).unwrap(), 0);
    assert_eq!(other.close(second).unwrap(), 0);
}
