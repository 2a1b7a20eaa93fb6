//! A share with a quota: each protocol refuses what goes beyond it in its own words, shows what is left, and takes documents again
//! after a deletion through another.

use sluice_tests::clients::nfs3::Stable;
use sluice_tests::clients::smb::{Cache, access, disposition, share, status};
use sluice_tests::node::TestNode;

const QUOTA: u64 = 1 << 20;
const NFS3ERR_DQUOT: u32 = 69;

#[test]
fn a_quota_is_met_in_the_words_of_each_protocol() {
    let mut node = TestNode::start().unwrap();
    node.cli_ok(&["share", "set", "docs", "--quota", "1M"], "")
        .unwrap();
    let mut ftp = node.ftp().unwrap();
    assert_eq!(ftp.store("/docs/a", &[1; 600_000]).unwrap().code, 226);
    let refused = ftp.store("/docs/b", &[2; 600_000]).unwrap();
    assert_eq!(refused.code, 552, "{refused:?}");

    let mut smb = node.smb().unwrap();
    let file = smb
        .create(
            "s",
            access::READ | access::WRITE,
            share::ALL,
            disposition::CREATE,
            Cache::None,
        )
        .unwrap()
        .expect("a name costs nothing");
    let (total, free) = smb.room(file).unwrap();
    assert_eq!(total, QUOTA);
    let left = QUOTA - 600_000;
    assert!((left - 4096..=left).contains(&free), "{free}");
    assert_eq!(smb.write(file, 0, &[3; 60_000]).unwrap(), status::OK);
    assert_eq!(
        smb.write(file, left, &[3; 1]).unwrap(),
        status::DISK_FULL,
        "the length counts"
    );
    assert_eq!(smb.close(file).unwrap(), status::OK);

    let (mut nfs, root) = node.nfs("a").unwrap();
    let (total, free) = nfs.room(&root).unwrap();
    assert_eq!((total, free), (QUOTA, left - 60_000));
    let target = nfs.create(&root, "n").unwrap().expect("create");
    let part = vec![4; 50_000];
    let mut offset = 0;
    let refused = loop {
        match nfs.write(&target, offset, &part, Stable::FileSync).unwrap() {
            0 => offset += 50_000,
            refused => break refused,
        }
    };
    assert_eq!(refused, NFS3ERR_DQUOT);
    assert_eq!(offset, 350_000, "all that fits");

    node.stop().unwrap();
    node.spawn().unwrap();
    let mut ftp = node.ftp().unwrap();
    assert_eq!(ftp.store("/docs/b", &[2; 100_000]).unwrap().code, 552);
    let (mut nfs, root) = node.nfs("a").unwrap();
    assert_eq!(nfs.remove(&root, "a").unwrap(), 0);
    assert_eq!(ftp.store("/docs/b", &[2; 600_000]).unwrap().code, 226);
}
