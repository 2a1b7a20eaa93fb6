//! An FTP upload is half way: nobody sees a part of it, nobody else writes, and an abort leaves the old document.

use std::io::Write;

use sluice_tests::clients::{
    nfs3::{Stable, status as nfs},
    smb::{Cache, access, disposition, share, status as smb_status},
};
use sluice_tests::node::TestNode;

#[test]
fn other_writers_are_refused_and_readers_see_the_old_content_until_the_commit() {
    let node = TestNode::start().unwrap();
    node.policy(&["--protocol", "nfs3", "--on-conflict", "reject"])
        .unwrap();
    let mut smb = node.smb().unwrap();
    super::put(&mut smb, "a.txt", b"old");
    let (mut client, root) = node.nfs("app1").unwrap();
    let (file, _) = client.lookup(&root, "a.txt").unwrap().unwrap();

    let mut ftp = node.ftp().unwrap();
    let mut data = ftp.begin("STOR", "/docs/a.txt").unwrap().unwrap();
    data.write_all(&[b'n'; 100_000]).unwrap();

    let refused = smb
        .create(
            "a.txt",
            access::READ | access::WRITE,
            share::ALL,
            disposition::OPEN,
            Cache::None,
        )
        .unwrap();
    assert_eq!(refused, Err(smb_status::SHARING_VIOLATION));
    assert_eq!(
        client.write(&file, 0, b"nfs", Stable::FileSync).unwrap(),
        nfs::ACCES
    );
    assert_eq!(client.remove(&root, "a.txt").unwrap(), nfs::ACCES);
    assert_eq!(super::get(&mut smb, "a.txt"), b"old");
    assert_eq!(client.read_all(&file).unwrap(), b"old");

    data.write_all(&[b'n'; 100_000]).unwrap();
    drop(data);
    let done = ftp.reply().unwrap();
    assert_eq!(done.code, 226, "{}", done.text);
    assert_eq!(super::get(&mut smb, "a.txt"), vec![b'n'; 200_000]);
    assert_eq!(client.size(&file).unwrap(), Ok(200_000));
}

#[test]
fn a_new_name_is_invisible_until_the_commit_and_gone_after_an_abort() {
    let node = TestNode::start().unwrap();
    let (mut client, root) = node.nfs("app1").unwrap();
    let mut ftp = node.ftp().unwrap();
    let mut data = ftp.begin("STOR", "/docs/new.bin").unwrap().unwrap();
    data.write_all(&[7; 50_000]).unwrap();
    assert_eq!(client.list(&root).unwrap(), Vec::<String>::new());
    assert_eq!(
        client.lookup(&root, "new.bin").unwrap().map(drop),
        Err(nfs::NOENT)
    );
    // The control connection goes away in the middle: the transfer is aborted.
    drop(ftp);
    drop(data);
    node.wait_for_no_locks().unwrap();
    assert_eq!(client.list(&root).unwrap(), Vec::<String>::new());

    let done = node
        .ftp()
        .unwrap()
        .store("/docs/new.bin", &[9; 70_000])
        .unwrap();
    assert_eq!(done.code, 226, "{}", done.text);
    assert_eq!(client.list(&root).unwrap(), ["new.bin"]);
}
