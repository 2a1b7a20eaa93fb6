//! Bytes: reading, writing, committing, and what survives a restart.

use bytes::Bytes;
use sluice_nfs_wire::nfs3::*;
use sluice_nfs_wire::xdr::Payload;

use crate::client::{Client, fresh_xid};
use crate::server::Server;

fn written(result: WriteRes) -> WriteOk {
    match result {
        WriteRes::Ok(ok) => ok,
        WriteRes::Fail(status, _) => panic!("WRITE failed: {status:?}"),
    }
}

async fn commit(client: &mut Client, file: &FileHandle) -> CommitOk {
    let args = CommitArgs {
        file: file.clone(),
        offset: 0,
        count: 0,
    };
    match client.nfs(Procedure::Commit, &args).await {
        CommitRes::Ok(ok) => ok,
        CommitRes::Fail(status, _) => panic!("COMMIT failed: {status:?}"),
    }
}

#[tokio::test]
async fn what_is_written_is_read_by_all_at_once() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "x").await;
    let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let ok = written(client.write(&file, 0, &data, Stability::Unstable).await);
    assert_eq!(ok.count as usize, data.len());
    let mut other = Client::connect_as(server.address, "client-b", 1000).await;
    assert_eq!(other.read(&file, 0, 1 << 20).await, (data.clone(), true));
    assert_eq!(
        other.read(&file, 100, 50).await,
        (data[100..150].to_vec(), false)
    );
    assert_eq!(other.read(&file, 1 << 30, 50).await, (vec![], true));
    assert_eq!(other.attributes(&file).await.size, data.len() as u64);
}

#[tokio::test]
async fn stable_writes_say_so_and_the_verifier_stays() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "x").await;
    let stable = written(client.write(&file, 0, b"abc", Stability::FileSync).await);
    assert_eq!(stable.committed, Stability::FileSync);
    let unstable = written(client.write(&file, 3, b"def", Stability::Unstable).await);
    assert_eq!(commit(&mut client, &file).await.verifier, unstable.verifier);
    assert_eq!(stable.verifier, unstable.verifier);
    assert_eq!(client.read(&file, 0, 100).await.0, b"abcdef");
}

#[tokio::test]
async fn handles_and_committed_bytes_outlive_a_restart() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "x").await;
    written(client.write(&file, 0, b"kept", Stability::Unstable).await);
    commit(&mut client, &file).await;
    let server = server.restart().await;
    let mut client = Client::connect(server.address).await;
    assert_eq!(client.read(&file, 0, 100).await.0, b"kept");
    assert_eq!(client.root().await, root);
}

#[tokio::test]
async fn calls_of_one_connection_run_side_by_side() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "x").await;
    let chunk = vec![7u8; 64 * 1024];
    let mut waiting = std::collections::HashSet::new();
    for i in 0..100u64 {
        let args = WriteArgs {
            file: file.clone(),
            offset: i * chunk.len() as u64,
            count: chunk.len() as u32,
            stable: Stability::Unstable,
            data: Payload(vec![Bytes::from(chunk.clone())]),
        };
        let xid = fresh_xid();
        let message = client.message(xid, PROGRAM, VERSION, Procedure::Write as u32, &args);
        client.send(&message).await;
        waiting.insert(xid);
    }
    while !waiting.is_empty() {
        let (xid, _, results) = client.reply().await;
        assert!(waiting.remove(&xid), "each call is answered once");
        written(results.last().expect("results of WRITE"));
    }
    commit(&mut client, &file).await;
    assert_eq!(
        client.attributes(&file).await.size,
        100 * chunk.len() as u64
    );
}

#[tokio::test]
async fn a_write_that_states_more_than_it_brings_is_invalid() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "x").await;
    let mut args = WriteArgs {
        file: file.clone(),
        offset: 0,
        count: 10,
        stable: Stability::FileSync,
        data: Payload(vec![Bytes::from_static(b"abc")]),
    };
    let refused: WriteRes = client.nfs(Procedure::Write, &args).await;
    assert_eq!(refused.status(), Status::Inval);
    args.count = 2;
    assert_eq!(written(client.nfs(Procedure::Write, &args).await).count, 2);
    assert_eq!(client.read(&file, 0, 10).await.0, b"ab");
}

#[tokio::test]
async fn offsets_beyond_all_files_are_refused_or_empty() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let file = client.new_file(&root, "x").await;
    let refused = client
        .write(&file, u64::MAX - 1, b"abcd", Stability::FileSync)
        .await;
    assert!(
        matches!(refused.status(), Status::FBig | Status::Inval),
        "{:?}",
        refused.status()
    );
    assert_eq!(client.read(&file, u64::MAX, 1 << 20).await, (vec![], true));
    assert_eq!(
        client
            .write(&root, 0, b"x", Stability::FileSync)
            .await
            .status(),
        Status::IsDir
    );
}

#[tokio::test]
async fn a_second_writer_is_told_to_come_later_and_then_gets_its_turn() {
    let server = Server::start().await;
    let mut first = Client::connect(server.address).await;
    let root = first.root().await;
    let file = first.new_file(&root, "x").await;
    written(first.write(&file, 0, b"first", Stability::FileSync).await);
    let mut second = Client::connect_as(server.address, "client-b", 1000).await;
    let start = std::time::Instant::now();
    let early = second.write(&file, 0, b"later", Stability::FileSync).await;
    assert_eq!(early.status(), Status::Jukebox);
    assert!(
        start.elapsed().as_millis() < 1000,
        "a waiting client is answered soon"
    );
    while second
        .write(&file, 0, b"later", Stability::FileSync)
        .await
        .status()
        != Status::Ok
    {
        assert!(start.elapsed().as_secs() < 20, "the place is given up");
    }
    assert_eq!(first.read(&file, 0, 10).await.0, b"later");
}

#[tokio::test]
async fn the_file_system_states_its_limits() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let object = client.root().await;
    let args = ObjectArgs { object };
    let FsinfoRes::Ok(info) = client.nfs(Procedure::Fsinfo, &args).await else {
        panic!("FSINFO");
    };
    assert_eq!((info.read_max, info.write_max), (1 << 20, 1 << 20));
    let FsstatRes::Ok(stat) = client.nfs(Procedure::Fsstat, &args).await else {
        panic!("FSSTAT");
    };
    assert!(stat.free_bytes > 0 && stat.free_bytes <= stat.total_bytes);
    let PathconfRes::Ok(limits) = client.nfs(Procedure::Pathconf, &args).await else {
        panic!("PATHCONF");
    };
    assert_eq!(limits.name_max, 255);
}
