//! Programs, versions, credentials, and input that no client would send.

use bytes::Bytes;
use sluice_nfs_wire::auth::{AUTH_TLS, AuthStat, OpaqueAuth};
use sluice_nfs_wire::mount::{self, Exports, MntRes, MountStat};
use sluice_nfs_wire::nfs3::{self, *};
use sluice_nfs_wire::nlm;
use sluice_nfs_wire::portmap::{self, IPPROTO_TCP, Mapping};
use sluice_nfs_wire::record::single_fragment_header;
use sluice_nfs_wire::rpc::ReplyHead;
use sluice_nfs_wire::xdr::Opaque;

use crate::client::Client;
use crate::server::Server;

#[tokio::test]
async fn programs_and_versions_that_are_not_served_are_told_so() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let head = |(head, _)| head;
    let mismatch = |low, high| ReplyHead::ProgMismatch { low, high };
    assert_eq!(
        head(client.call(nfs3::PROGRAM, 4, 1, &()).await),
        mismatch(3, 3),
        "NFSv4"
    );
    assert_eq!(
        head(client.call(mount::PROGRAM, 4, 0, &()).await),
        mismatch(1, 3)
    );
    assert_eq!(
        head(client.call(nlm::PROGRAM, 5, 0, &()).await),
        mismatch(1, 4)
    );
    assert_eq!(
        head(client.call(300_000, 1, 0, &()).await),
        ReplyHead::ProgUnavail
    );
    assert_eq!(
        head(client.call(nfs3::PROGRAM, 3, 22, &()).await),
        ReplyHead::ProcUnavail
    );
    assert_eq!(
        head(client.call(nfs3::PROGRAM, 3, 0, &()).await),
        ReplyHead::Success
    );
}

#[tokio::test]
async fn a_probe_for_tls_is_refused_and_the_connection_goes_on() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let usual = client.cred.clone();
    client.cred = OpaqueAuth {
        flavor: AUTH_TLS,
        body: Opaque::default(),
    };
    let (head, _) = client.call(nfs3::PROGRAM, 3, 0, &()).await;
    assert_eq!(head, ReplyHead::AuthError(AuthStat::RejectedCred));
    client.cred = usual;
    client.root().await;
}

#[tokio::test]
async fn a_malformed_credential_is_a_bad_credential() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    client.cred.body = Opaque::copy_of([0xFF; 16]);
    let (head, _) = client.call(nfs3::PROGRAM, 3, 1, &()).await;
    assert_eq!(head, ReplyHead::AuthError(AuthStat::BadCred));
}

#[tokio::test]
async fn arguments_that_do_not_decode_are_garbage_and_the_connection_goes_on() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    for procedure in 1..=21 {
        let (head, _) = client.call(nfs3::PROGRAM, 3, procedure, &u32::MAX).await;
        assert_eq!(head, ReplyHead::GarbageArgs, "procedure {procedure}");
    }
    client.root().await;
}

#[tokio::test]
async fn forged_handles_are_refused() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let mut forged = root.0.to_vec();
    forged[15] ^= 1;
    let forged = FileHandle::copy_of(forged);
    assert_eq!(
        client.getattr(&forged).await,
        GetattrRes::Fail(Status::BadHandle, ())
    );
    assert_eq!(
        client
            .getattr(&FileHandle::copy_of([1, 2, 3]))
            .await
            .status(),
        Status::BadHandle
    );
}

#[tokio::test]
async fn a_record_of_huge_length_closes_its_connection_only() {
    let server = Server::start().await;
    let mut bystander = Client::connect(server.address).await;
    let mut client = Client::connect(server.address).await;
    client.send_raw(&single_fragment_header(0x7FFF_FFFF)).await;
    assert_eq!(client.receive().await, None);
    bystander.root().await;
}

#[tokio::test]
async fn garbage_closes_its_connection_only() {
    let server = Server::start().await;
    let mut bystander = Client::connect(server.address).await;
    for garbage in [
        &[0xFF; 64][..],
        &[7; 5],
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    ] {
        let mut client = Client::connect(server.address).await;
        client.send(&Bytes::copy_from_slice(garbage)).await;
        assert_eq!(client.receive().await, None);
    }
    let mut client = Client::connect(server.address).await;
    client
        .send_raw(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
        .await;
    assert_eq!(client.receive().await, None);
    bystander.root().await;
}

#[tokio::test]
async fn a_client_that_leaves_inside_a_record_harms_nobody() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    client.send_raw(&single_fragment_header(1000)).await;
    client.send_raw(&[0; 10]).await;
    drop(client);
    Client::connect(server.address).await.root().await;
}

#[tokio::test]
async fn a_call_in_many_fragments_is_one_call() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let message = client.message(77, nfs3::PROGRAM, 3, 0, &());
    let (last, first) = message
        .as_ref()
        .split_last()
        .map(|(l, f)| ([*l], f))
        .expect("a message");
    for byte in first {
        client.send_raw(&1u32.to_be_bytes()).await;
        client.send_raw(&[*byte]).await;
    }
    client.send_raw(&single_fragment_header(1)).await;
    client.send_raw(&last).await;
    let (xid, head, _) = client.reply().await;
    assert_eq!((xid, head), (77, ReplyHead::Success));
}

#[tokio::test]
async fn the_other_rpc_version_is_refused() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let mut message = client.message(78, nfs3::PROGRAM, 3, 0, &()).to_vec();
    message[11] = 3;
    client.send(&message.into()).await;
    let (xid, head, _) = client.reply().await;
    assert_eq!((xid, head), (78, ReplyHead::RpcMismatch));
}

#[tokio::test]
async fn exports_and_mounts_name_the_shares() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let (_, results) = client
        .call(mount::PROGRAM, 3, mount::PROC_EXPORT, &())
        .await;
    let exports: Exports = results.last().expect("exports");
    assert_eq!(&exports.0[0].dir.0[..], b"/docs");

    assert_eq!(
        client.mount("/nothing").await,
        MntRes::Fail(MountStat::NoEnt)
    );
    assert_eq!(
        client.mount("/docs/nothing").await,
        MntRes::Fail(MountStat::NoEnt)
    );
    let root = client.root().await;
    client.mkdir(&root, "sub").await;
    let MntRes::Ok(sub, _) = client.mount("/docs/sub/").await else {
        panic!("a folder below a share can be mounted");
    };
    assert_ne!(sub, root);
    assert_eq!(
        client.mount("/docs/../../docs").await,
        MntRes::Fail(MountStat::NoEnt),
        "docs/docs"
    );
    client.new_file(&root, "file").await;
    assert_eq!(
        client.mount("/docs/file").await,
        MntRes::Fail(MountStat::NotDir)
    );
}

#[tokio::test]
async fn the_old_mount_protocol_gives_the_same_handle() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let (_, mut results) = client
        .call(
            mount::PROGRAM,
            1,
            mount::PROC_MNT,
            &mount::DirPath::copy_of("/docs"),
        )
        .await;
    assert_eq!(results.u32(), Ok(0));
    assert_eq!(results.into_rest(), root.0);
}

#[tokio::test]
async fn the_portmapper_says_that_everything_is_here() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    for (program, version, port) in [
        (nfs3::PROGRAM, 3, u32::from(server.address.port())),
        (mount::PROGRAM, 3, u32::from(server.address.port())),
        (nlm::PROGRAM, 4, u32::from(server.address.port())),
        (nfs3::PROGRAM, 4, 0),
    ] {
        let wanted = Mapping {
            program,
            version,
            protocol: IPPROTO_TCP,
            port: 0,
        };
        let (_, mut results) = client
            .call(portmap::PROGRAM, 2, portmap::PROC_GET, &wanted)
            .await;
        assert_eq!(results.u32(), Ok(port));
    }
}

#[tokio::test]
async fn a_stopping_head_answers_what_it_has_taken_and_ends() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    client.attributes(&root).await;
    server.stop().await;
    assert_eq!(client.receive().await, None);
}
