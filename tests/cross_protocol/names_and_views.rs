//! One namespace: the same names and bytes at once through every door, and nothing outside the share through any.

use sluice_tests::clients::{
    nfs3::{Stable, status as nfs},
    smb::{Cache, access, disposition, share},
};
use sluice_tests::node::TestNode;

#[test]
fn what_one_protocol_acknowledged_the_others_show_at_once() {
    let node = TestNode::start().unwrap();
    let mut smb = node.smb().unwrap();
    let mut ftp = node.ftp().unwrap();
    let (mut client, root) = node.nfs("app1").unwrap();
    assert_eq!(ftp.store("/docs/f.txt", b"ftp").unwrap().code, 226);
    assert_eq!(super::get(&mut smb, "f.txt"), b"ftp");
    super::put(&mut smb, "F.TXT", b"smb, same document");
    let (file, size) = client.lookup(&root, "f.txt").unwrap().unwrap();
    assert_eq!(size, 18);
    assert_eq!(client.write(&file, 0, b"NFS", Stable::Unstable).unwrap(), 0);
    assert_eq!(super::get(&mut smb, "f.txt"), b"NFS, same document");
    assert_eq!(
        ftp.retrieve("/docs/f.txt").unwrap().unwrap(),
        b"NFS, same document"
    );
    // An SMB write that is acknowledged but neither flushed nor closed is visible too.
    let open = smb
        .create(
            "f.txt",
            access::READ | access::WRITE,
            share::ALL,
            disposition::OPEN,
            Cache::None,
        )
        .unwrap();
    // The NFS writer may still have its place; then the open is refused, which is right as well.
    if let Ok(open) = open {
        assert_eq!(smb.write(open, 0, b"SMB").unwrap(), 0);
        assert_eq!(client.read_all(&file).unwrap(), b"SMB, same document");
        smb.close(open).unwrap();
    }
}

#[test]
fn names_that_windows_cant_hold_are_mapped_both_ways() {
    let node = TestNode::start().unwrap();
    let mut smb = node.smb().unwrap();
    let (mut client, root) = node.nfs("app1").unwrap();
    let file = client.create(&root, "a:b?.txt").unwrap().unwrap();
    assert_eq!(client.write(&file, 0, b"x", Stable::FileSync).unwrap(), 0);
    assert_eq!(super::get(&mut smb, "a\u{f022}b\u{f025}.txt"), b"x");
    super::put(&mut smb, "c\u{f021}d", b"y");
    client.lookup(&root, "c*d").unwrap().unwrap();
}

#[test]
fn names_that_differ_only_in_case_are_both_reachable() {
    let node = TestNode::start().unwrap();
    let mut smb = node.smb().unwrap();
    let (mut client, root) = node.nfs("app1").unwrap();
    for (name, content) in [("Readme", b"upper"), ("readme", b"lower")] {
        let file = client.create(&root, name).unwrap().unwrap();
        assert_eq!(
            client.write(&file, 0, content, Stable::FileSync).unwrap(),
            0
        );
    }
    assert_eq!(super::get(&mut smb, "Readme"), b"upper");
    assert_eq!(super::get(&mut smb, "readme"), b"lower");
}

#[test]
fn no_path_leads_out_of_the_share() {
    let node = TestNode::start().unwrap();
    let mut smb = node.smb().unwrap();
    let (mut client, root) = node.nfs("app1").unwrap();
    let (above, _) = client.lookup(&root, "..").unwrap().unwrap();
    assert_eq!(
        client.lookup(&above, "docs").unwrap().map(drop),
        Err(nfs::NOENT),
        "the share's root is its own parent"
    );
    let outside = smb
        .create(
            "..\\..\\secret",
            access::READ,
            share::ALL,
            disposition::OPEN,
            Cache::None,
        )
        .unwrap();
    assert!(outside.is_err());
    let mut ftp = node.ftp().unwrap();
    let reply = ftp.command("CWD /docs/../../../etc").unwrap();
    assert_eq!(reply.code, 550, "{}", reply.text);
}
