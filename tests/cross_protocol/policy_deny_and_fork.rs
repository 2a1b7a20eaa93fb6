//! Write policy as an administrator sets it on a running node: it holds at once, and it can be explained.

use sluice_tests::clients::{
    nfs3::{Stable, status as nfs},
    smb::{Cache, access, disposition, share, status as smb_status},
};
use sluice_tests::node::TestNode;

#[test]
fn a_protocol_can_be_made_read_only_below_a_path() {
    let node = TestNode::start().unwrap();
    let mut smb = node.smb().unwrap();
    let (mut client, root) = node.nfs("app1").unwrap();
    let dir = client.mkdir(&root, "inbox").unwrap().unwrap();
    let file = client.create(&dir, "a.txt").unwrap().unwrap();
    for protocol in ["smb", "nfs", "ftp"] {
        node.policy(&[
            "--path",
            "inbox/**",
            "--protocol",
            protocol,
            "--write",
            "deny",
        ])
        .unwrap();
    }
    let refused = smb
        .create(
            "inbox\\a.txt",
            access::WRITE,
            share::ALL,
            disposition::OPEN,
            Cache::None,
        )
        .unwrap();
    assert_eq!(refused, Err(smb_status::ACCESS_DENIED));
    assert_eq!(
        client.write(&file, 0, b"x", Stable::FileSync).unwrap(),
        nfs::ROFS
    );
    let refusal = node
        .ftp()
        .unwrap()
        .store("/docs/inbox/a.txt", b"x")
        .unwrap();
    assert_eq!(refusal.code, 550, "{}", refusal.text);
    let explained = node
        .cli_ok(
            &[
                "policy",
                "explain",
                "--share",
                "docs",
                "--protocol",
                "ftp",
                "inbox/a.txt",
            ],
            "",
        )
        .unwrap();
    assert!(explained.contains("denied by rule"), "{explained}");
    super::put(&mut smb, "outside.txt", b"still writable");
}

#[test]
fn exclusive_writers_are_one_per_document_whatever_the_share_modes_say() {
    let node = TestNode::start().unwrap();
    node.policy(&["--writers", "exclusive", "--on-conflict", "reject"])
        .unwrap();
    let mut one = node.smb().unwrap();
    let mut two = node.smb().unwrap();
    let rights = access::READ | access::WRITE;
    let held = one
        .create(
            "a.txt",
            rights,
            share::ALL,
            disposition::OPEN_IF,
            Cache::None,
        )
        .unwrap()
        .unwrap();
    let refused = two
        .create("a.txt", rights, share::ALL, disposition::OPEN, Cache::None)
        .unwrap();
    assert_eq!(refused, Err(smb_status::SHARING_VIOLATION));
    let explained = node
        .cli_ok(&["locks", "explain", "/docs/a.txt"], "")
        .unwrap();
    assert!(explained.contains("tester"), "{explained}");
    assert_eq!(one.close(held).unwrap(), 0);
    two.create("a.txt", rights, share::ALL, disposition::OPEN, Cache::None)
        .unwrap()
        .unwrap();
}
