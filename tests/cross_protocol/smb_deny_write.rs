//! An SMB client has a document open and lets nobody else write: FTP STOR, NFSv3 WRITE, REMOVE and truncation meet it.

use sluice_tests::clients::{
    nfs3::{Stable, status as nfs},
    smb::{Cache, access, disposition, share},
};
use sluice_tests::node::TestNode;

#[test]
fn under_reject_every_challenger_is_told_at_once_in_its_own_words() {
    let node = TestNode::start().unwrap();
    for protocol in ["ftp", "nfs3"] {
        node.policy(&["--protocol", protocol, "--on-conflict", "reject"])
            .unwrap();
    }
    let mut smb = node.smb().unwrap();
    super::put(&mut smb, "a.txt", b"old");
    let held = smb
        .create(
            "a.txt",
            access::READ | access::WRITE,
            share::READ,
            disposition::OPEN,
            Cache::None,
        )
        .unwrap()
        .unwrap();

    let refusal = node
        .ftp()
        .unwrap()
        .store("/docs/a.txt", b"from ftp")
        .unwrap();
    assert_eq!(refusal.code, 450, "{}", refusal.text);
    assert!(
        refusal.text.contains("tester") && refusal.text.to_lowercase().contains("smb"),
        "the refusal names the holder: {}",
        refusal.text
    );

    let (mut client, root) = node.nfs("app1").unwrap();
    let (file, _) = client.lookup(&root, "a.txt").unwrap().unwrap();
    assert_eq!(
        client.write(&file, 0, b"nfs", Stable::FileSync).unwrap(),
        nfs::ACCES
    );
    assert_eq!(client.truncate(&file, 0).unwrap(), nfs::ACCES);
    assert_eq!(client.remove(&root, "a.txt").unwrap(), nfs::ACCES);
    assert_eq!(client.read_all(&file).unwrap(), b"old");

    assert_eq!(smb.write(held, 0, b"new").unwrap(), 0);
    assert_eq!(smb.close(held).unwrap(), 0);
    assert_eq!(client.read_all(&file).unwrap(), b"new");
    assert_eq!(client.remove(&root, "a.txt").unwrap(), nfs::OK);
}

#[test]
fn by_default_ftp_waits_for_its_turn_and_nfs_is_told_to_come_back() {
    let node = TestNode::start().unwrap();
    let mut smb = node.smb().unwrap();
    super::put(&mut smb, "a.txt", b"old");
    let held = smb
        .create(
            "a.txt",
            access::READ | access::WRITE,
            share::READ,
            disposition::OPEN,
            Cache::None,
        )
        .unwrap()
        .unwrap();
    let (mut client, root) = node.nfs("app1").unwrap();
    let (file, _) = client.lookup(&root, "a.txt").unwrap().unwrap();
    assert_eq!(
        client.write(&file, 0, b"nfs", Stable::FileSync).unwrap(),
        nfs::JUKEBOX
    );
    assert_eq!(client.remove(&root, "a.txt").unwrap(), nfs::JUKEBOX);

    let mut ftp = node.ftp().unwrap();
    let upload = std::thread::spawn(move || ftp.store("/docs/a.txt", b"from ftp"));
    node.wait_for_waiter("/docs/a.txt", "ftp").unwrap();
    assert_eq!(smb.write(held, 0, b"smb").unwrap(), 0);
    assert_eq!(smb.close(held).unwrap(), 0);
    let done = upload.join().unwrap().unwrap();
    assert_eq!(done.code, 226, "{}", done.text);
    assert_eq!(super::get(&mut smb, "a.txt"), b"from ftp");
    assert_eq!(client.read_all(&file).unwrap(), b"from ftp");
}

#[test]
fn a_wait_that_runs_out_ends_in_the_words_of_reject() {
    let node = TestNode::start().unwrap();
    for protocol in ["ftp", "nfs3"] {
        node.policy(&[
            "--protocol",
            protocol,
            "--on-conflict",
            "wait",
            "--wait",
            "1s",
        ])
        .unwrap();
    }
    let mut smb = node.smb().unwrap();
    super::put(&mut smb, "a.txt", b"old");
    let _held = smb
        .create(
            "a.txt",
            access::READ,
            share::READ,
            disposition::OPEN,
            Cache::None,
        )
        .unwrap()
        .unwrap();
    let refusal = node.ftp().unwrap().store("/docs/a.txt", b"x").unwrap();
    assert_eq!(refusal.code, 450, "{}", refusal.text);

    let (mut client, root) = node.nfs("app1").unwrap();
    let (file, _) = client.lookup(&root, "a.txt").unwrap().unwrap();
    let answers: Vec<u32> =
        std::iter::from_fn(|| Some(client.write(&file, 0, b"nfs", Stable::FileSync).unwrap()))
            .take(200)
            .scan(false, |ended, status| {
                let last = std::mem::replace(ended, status != nfs::JUKEBOX);
                (!last).then_some(status)
            })
            .collect();
    assert_eq!(answers.last(), Some(&nfs::ACCES), "{answers:?}");
    assert!(answers.len() > 1, "it was told to wait first");
    assert_eq!(super::get(&mut smb, "a.txt"), b"old");
}
