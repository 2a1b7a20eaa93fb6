//! An SMB client caches writes under a lease; an NFS read calls the cache back and sees what was cached.

use sluice_tests::clients::{
    nfs3::status as nfs,
    smb::{Cache, access, disposition, share},
};
use sluice_tests::node::TestNode;

#[test]
fn an_nfs_read_waits_for_the_cached_writes() {
    let node = TestNode::start().unwrap();
    let mut smb = node.smb().unwrap();
    super::put(&mut smb, "a.txt", b"old");
    let key = *b"lease-key-of-one";
    let file = smb
        .create(
            "a.txt",
            access::READ | access::WRITE,
            share::ALL,
            disposition::OPEN,
            Cache::Lease(key, 7),
        )
        .unwrap()
        .unwrap();
    assert_eq!(
        file.lease, 7,
        "alone on the document: read, handle and write"
    );

    let (mut client, root) = node.nfs("app1").unwrap();
    let reader = std::thread::spawn(move || {
        let handle = loop {
            match client.lookup(&root, "a.txt").unwrap() {
                Ok((handle, _)) => break handle,
                Err(status) => assert_eq!(status, nfs::JUKEBOX),
            }
        };
        loop {
            match client.read(&handle, 0, 100).unwrap() {
                Ok((bytes, _)) => return bytes,
                Err(status) => assert_eq!(status, nfs::JUKEBOX),
            }
        }
    });
    // The client writes its cache back before it gives the lease up.
    smb.wait_break().unwrap();
    assert_eq!(smb.write(file, 0, b"cached").unwrap(), 0);
    assert_eq!(smb.acknowledge_lease(key, 3).unwrap(), 0);
    assert_eq!(reader.join().unwrap(), b"cached");
    assert_eq!(smb.close(file).unwrap(), 0);
}

#[test]
fn an_ftp_upload_calls_a_read_cache_back_before_it_is_visible() {
    let node = TestNode::start().unwrap();
    let mut smb = node.smb().unwrap();
    super::put(&mut smb, "a.txt", b"old");
    let key = *b"lease-key-of-two";
    let file = smb
        .create(
            "a.txt",
            access::READ,
            share::ALL,
            disposition::OPEN,
            Cache::Lease(key, 1),
        )
        .unwrap()
        .unwrap();
    assert_eq!(file.lease, 1);
    let mut ftp = node.ftp().unwrap();
    let upload = std::thread::spawn(move || ftp.store("/docs/a.txt", b"new content"));
    smb.wait_break().unwrap();
    let done = upload.join().unwrap().unwrap();
    assert_eq!(done.code, 226, "{}", done.text);
    assert_eq!(smb.close(file).unwrap(), 0);
    assert_eq!(super::get(&mut smb, "a.txt"), b"new content");
}
