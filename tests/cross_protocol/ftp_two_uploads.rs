//! Two FTP uploads to one name: one after the other, or the second is told who is uploading, or becomes a conflicted copy.

use std::io::Write;

use sluice_tests::node::TestNode;

#[test]
fn by_default_the_second_waits_and_both_contents_were_whole_documents() {
    let node = TestNode::start().unwrap();
    let mut first = node.ftp().unwrap();
    let mut data = first.begin("STOR", "/docs/a.bin").unwrap().unwrap();
    data.write_all(&[1; 300_000]).unwrap();
    let mut second = node.ftp().unwrap();
    let waiting = std::thread::spawn(move || second.store("/docs/a.bin", &[2; 200_000]));
    node.wait_for_waiter("/docs/a.bin", "ftp").unwrap();
    drop(data);
    assert_eq!(first.reply().unwrap().code, 226);
    assert_eq!(waiting.join().unwrap().unwrap().code, 226);
    assert_eq!(
        first.retrieve("/docs/a.bin").unwrap().unwrap(),
        vec![2; 200_000]
    );
}

#[test]
fn under_reject_the_second_is_refused_and_the_first_stays() {
    let node = TestNode::start().unwrap();
    node.policy(&["--protocol", "ftp", "--on-conflict", "reject"])
        .unwrap();
    let mut first = node.ftp().unwrap();
    let mut data = first.begin("STOR", "/docs/a.bin").unwrap().unwrap();
    data.write_all(&[1; 300_000]).unwrap();
    let refusal = node
        .ftp()
        .unwrap()
        .store("/docs/a.bin", &[2; 200_000])
        .unwrap();
    assert_eq!(refusal.code, 450, "{}", refusal.text);
    drop(data);
    assert_eq!(first.reply().unwrap().code, 226);
    assert_eq!(
        first.retrieve("/docs/a.bin").unwrap().unwrap(),
        vec![1; 300_000]
    );
}

#[test]
fn under_fork_nobody_loses_anything() {
    let node = TestNode::start().unwrap();
    node.policy(&["--protocol", "ftp", "--on-conflict", "fork"])
        .unwrap();
    let mut first = node.ftp().unwrap();
    let mut data = first.begin("STOR", "/docs/a.bin").unwrap().unwrap();
    data.write_all(&[1; 30_000]).unwrap();
    let mut second = node.ftp().unwrap();
    let forked = second.store("/docs/a.bin", &[2; 20_000]).unwrap();
    assert_eq!(forked.code, 226, "{}", forked.text);
    assert!(forked.text.contains("conflicted copy"), "{}", forked.text);
    drop(data);
    assert_eq!(first.reply().unwrap().code, 226);
    assert_eq!(
        first.retrieve("/docs/a.bin").unwrap().unwrap(),
        vec![1; 30_000]
    );
    let (mut client, root) = node.nfs("app1").unwrap();
    let names = client.list(&root).unwrap();
    let copy = names
        .iter()
        .find(|name| name.contains("conflicted copy"))
        .expect("the copy is there");
    let (file, _) = client.lookup(&root, copy).unwrap().unwrap();
    assert_eq!(client.read_all(&file).unwrap(), vec![2; 20_000]);
    assert_eq!(names.len(), 2);
}
