//! Retried calls: the very reply of the first, on whatever connection.

use bytes::Bytes;
use sluice_nfs_wire::nfs3::{self, *};
use sluice_nfs_wire::xdr::Xdr;

use crate::client::{Client, at, fresh_xid, mkdir_args};
use crate::server::Server;

/// Sends a call with this id and returns the whole reply as bytes.
async fn exchange(client: &mut Client, xid: u32, procedure: Procedure, args: &impl Xdr) -> Bytes {
    let message = client.message(xid, nfs3::PROGRAM, 3, procedure as u32, args);
    client.send(&message).await;
    client.receive().await.expect("a reply")
}

fn status(reply: &Bytes) -> u32 {
    u32::from_be_bytes(reply[24..28].try_into().expect("four bytes"))
}

#[tokio::test]
async fn a_retry_gets_the_very_reply_even_after_a_reconnect() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let (xid, args) = (fresh_xid(), mkdir_args(&root, "once"));
    let first = exchange(&mut client, xid, Procedure::Mkdir, &args).await;
    assert_eq!(status(&first), 0);
    assert_eq!(
        exchange(&mut client, xid, Procedure::Mkdir, &args).await,
        first
    );

    drop(client);
    let mut client = Client::connect(server.address).await;
    assert_eq!(
        exchange(&mut client, xid, Procedure::Mkdir, &args).await,
        first
    );
    let anew = exchange(&mut client, fresh_xid(), Procedure::Mkdir, &args).await;
    assert_eq!(
        status(&anew),
        Status::Exist as u32,
        "a new call is no retry"
    );
}

#[tokio::test]
async fn a_retried_remove_does_not_remove_what_came_after() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    client.new_file(&root, "name").await;
    let (xid, args) = (fresh_xid(), at(&root, "name"));
    let first = exchange(&mut client, xid, Procedure::Remove, &args).await;
    assert_eq!(status(&first), 0);
    client.new_file(&root, "name").await;
    assert_eq!(
        exchange(&mut client, xid, Procedure::Remove, &args).await,
        first
    );
    assert_eq!(client.lookup(&root, "name").await.status(), Status::Ok);
}

#[tokio::test]
async fn another_machine_with_the_same_id_is_no_retry() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let (xid, args) = (fresh_xid(), mkdir_args(&root, "shared"));
    assert_eq!(
        status(&exchange(&mut client, xid, Procedure::Mkdir, &args).await),
        0
    );
    let mut other = Client::connect_as(server.address, "client-b", 1000).await;
    let reply = exchange(&mut other, xid, Procedure::Mkdir, &args).await;
    assert_eq!(status(&reply), Status::Exist as u32);
}

#[tokio::test]
async fn a_refused_call_is_tried_again_when_it_comes_again() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let root = client.root().await;
    let (xid, args) = (fresh_xid(), at(&root, "late"));
    let refused = exchange(&mut client, xid, Procedure::Remove, &args).await;
    assert_eq!(status(&refused), Status::NoEnt as u32);
    client.new_file(&root, "late").await;
    assert_eq!(
        status(&exchange(&mut client, xid, Procedure::Remove, &args).await),
        0
    );
}
