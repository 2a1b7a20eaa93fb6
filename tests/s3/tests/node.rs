//! A node on SQLite and S3: what is written through one protocol is read through the others, survives a restart, and a bucket that
//! refuses or belongs to others is told.

use hyper::Method;
use sluice_s3_tests::{BUCKET, Fault, KEY_ID, S3Server, SECRET};
use sluice_tests::clients::smb::{Cache, access, disposition, share};
use sluice_tests::node::TestNode;

fn server() -> (tokio::runtime::Runtime, S3Server) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(S3Server::start()).unwrap();
    (runtime, server)
}

fn start(server: &S3Server) -> anyhow::Result<TestNode> {
    TestNode::start_with_content(
        &format!("s3://{BUCKET}/cluster"),
        &format!(
            "[repository.s3]\nendpoint = \"{}\"\nregion = \"us-east-1\"\naccess_key_id = \"{KEY_ID}\"\n\
             secret_access_key = \"{SECRET}\"\nallow_http = true\n",
            server.endpoint()
        ),
    )
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

fn over_smb(node: &TestNode, path: &str, len: usize) -> Vec<u8> {
    let mut client = node.smb().unwrap();
    let file = client
        .create(
            path,
            access::READ,
            share::ALL,
            disposition::OPEN,
            Cache::None,
        )
        .unwrap()
        .expect("open");
    let mut found = Vec::new();
    while found.len() < len {
        let part = client
            .read(file, found.len() as u64, 1 << 16)
            .unwrap()
            .expect("read");
        found.extend(part);
    }
    client.close(file).unwrap();
    found
}

#[test]
fn all_protocols_share_content_in_a_bucket() {
    let (_runtime, server) = server();
    let mut node = start(&server).unwrap();
    let big = bytes(6 << 20);
    assert_eq!(
        node.ftp()
            .unwrap()
            .store("/docs/big.bin", &big)
            .unwrap()
            .code,
        226
    );
    assert!(server.requests(&Method::PUT) >= 2, "it is in the bucket");
    let (mut nfs, root) = node.nfs("a").unwrap();
    let (file, _) = nfs.lookup(&root, "big.bin").unwrap().unwrap();
    assert!(nfs.read_all(&file).unwrap() == big);
    assert!(over_smb(&node, "big.bin", big.len()) == big);

    let mut smb = node.smb().unwrap();
    let file = smb
        .create(
            "smb.bin",
            access::READ | access::WRITE,
            share::ALL,
            disposition::CREATE,
            Cache::None,
        )
        .unwrap()
        .expect("create");
    let part = bytes(60_000);
    for n in 0..4 {
        assert_eq!(smb.write(file, n * 60_000, &part).unwrap(), 0);
    }
    assert_eq!(smb.close(file).unwrap(), 0);
    assert!(
        node.ftp()
            .unwrap()
            .retrieve("/docs/smb.bin")
            .unwrap()
            .unwrap()
            == part.repeat(4)
    );

    node.stop().unwrap();
    node.spawn().unwrap();
    assert!(over_smb(&node, "big.bin", big.len()) == big);
    assert!(
        node.ftp()
            .unwrap()
            .retrieve("/docs/smb.bin")
            .unwrap()
            .unwrap()
            == part.repeat(4)
    );
    node.cli_ok(&["check"], "").unwrap();
    assert!(!node.log().contains(SECRET));
}

#[test]
fn a_bucket_that_refuses_is_told_and_the_old_document_stays() {
    let (_runtime, server) = server();
    let node = start(&server).unwrap();
    let old = bytes(200_000);
    let mut ftp = node.ftp().unwrap();
    assert_eq!(ftp.store("/docs/x", &old).unwrap().code, 226);
    server.inject(Method::PUT, usize::MAX, Fault::Status(403));
    let refused = ftp.store("/docs/x", &bytes(300_000)).unwrap();
    assert!(refused.code >= 400, "{refused:?}");
    assert!(node.ftp().unwrap().retrieve("/docs/x").unwrap().unwrap() == old);
    server.heal();
    assert_eq!(
        node.ftp()
            .unwrap()
            .store("/docs/x", &bytes(300_000))
            .unwrap()
            .code,
        226
    );
}

#[test]
fn the_bucket_of_another_repository_is_refused_at_the_start() {
    let (_runtime, server) = server();
    let _node = start(&server).unwrap();
    let refused = start(&server).map(drop).unwrap_err().to_string();
    assert!(
        refused.contains("repository.content") && refused.contains("another repository"),
        "{refused}"
    );
}
