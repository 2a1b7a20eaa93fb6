//! NFSv3 has no open: the first writer takes the writer's place until it is idle for 2 s or commits and goes on elsewhere.

use std::time::{Duration, Instant};

use sluice_tests::clients::nfs3::{Stable, status as nfs};
use sluice_tests::node::TestNode;

#[test]
fn the_second_writer_is_told_to_come_back_until_the_first_is_idle() {
    let node = TestNode::start().unwrap();
    let (mut one, root) = node.nfs("app1").unwrap();
    let (mut two, _) = node.nfs("app2").unwrap();
    let file = one.create(&root, "a.txt").unwrap().unwrap();
    assert_eq!(one.write(&file, 0, b"one", Stable::Unstable).unwrap(), 0);
    let begin = Instant::now();
    assert_eq!(
        two.write(&file, 0, b"two", Stable::Unstable).unwrap(),
        nfs::JUKEBOX
    );
    // The client retries, as a kernel does, until the place is free.
    let mut status = nfs::JUKEBOX;
    while status == nfs::JUKEBOX && begin.elapsed() < Duration::from_secs(20) {
        status = two.write(&file, 0, b"two", Stable::Unstable).unwrap();
    }
    assert_eq!(status, nfs::OK);
    assert!(
        begin.elapsed() >= Duration::from_millis(1500),
        "the place was kept while its writer could still be busy"
    );
    assert_eq!(one.read_all(&file).unwrap(), b"two");
}

#[test]
fn under_reject_the_second_is_refused_and_under_shared_both_write() {
    let node = TestNode::start().unwrap();
    node.policy(&[
        "--protocol",
        "nfs3",
        "--path",
        "strict/**",
        "--on-conflict",
        "reject",
    ])
    .unwrap();
    node.policy(&[
        "--protocol",
        "nfs3",
        "--path",
        "free/**",
        "--writers",
        "shared",
    ])
    .unwrap();
    let (mut one, root) = node.nfs("app1").unwrap();
    let (mut two, _) = node.nfs("app2").unwrap();
    for (folder, expected) in [("strict", nfs::ACCES), ("free", nfs::OK)] {
        let dir = one.mkdir(&root, folder).unwrap().unwrap();
        let file = one.create(&dir, "a.txt").unwrap().unwrap();
        assert_eq!(one.write(&file, 0, b"1111", Stable::Unstable).unwrap(), 0);
        assert_eq!(
            two.write(&file, 2, b"22", Stable::Unstable).unwrap(),
            expected,
            "{folder}"
        );
    }
    let (file, _) = one.walk(&root, "free/a.txt").unwrap().unwrap();
    assert_eq!(one.read_all(&file).unwrap(), b"1122");
}

#[test]
fn one_machine_is_one_writer_over_any_number_of_connections() {
    let node = TestNode::start().unwrap();
    let (mut one, root) = node.nfs("app1").unwrap();
    let (mut same, _) = node.nfs("app1").unwrap();
    let file = one.create(&root, "a.txt").unwrap().unwrap();
    assert_eq!(one.write(&file, 0, b"ab", Stable::Unstable).unwrap(), 0);
    assert_eq!(same.write(&file, 2, b"cd", Stable::Unstable).unwrap(), 0);
    assert_eq!(one.read_all(&file).unwrap(), b"abcd");
}
