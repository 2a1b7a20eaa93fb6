//! NLM after a loss: clients are told and take their locks again before others get what they had, whoever lost them: a restarted
//! server, another node, or who was forced.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use sluice_lockmgr::{self as lm, LockService};
use sluice_nfs_wire::nfs3::FileHandle;
use sluice_nfs_wire::nlm::{LockArgs, NotifyArgs, Procedure, ShareArgs, Stat};
use sluice_nfs_wire::rpc::{self, Incoming, ReplyHead};
use sluice_nfs_wire::xdr::{Decoder, Encoder};
use sluice_nfs_wire::{nsm, portmap};
use sluice_repo::RepoError;
use sluice_repo_suite::Fault;
use sluice_vfs::{
    AccessMask, CacheRequest, Disposition, NewNode, NodeType, Open, OpenFlags, OpenRequest,
    RelPath, ShareMode, Target, VfsError,
};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::Instant;

use crate::client::Client;
use crate::locks::{
    answer, document_of, incoming, lock, range, restarted, share, share_args, test, two, unlock,
};
use crate::server::{GRACE, Server};

/// A client's portmapper and status monitor on one UDP port: waits until it is told that the server has lost its locks.
async fn take_notice(socket: &UdpSocket) -> NotifyArgs {
    let port = socket.local_addr().expect("address").port();
    let mut bytes = vec![0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut bytes).await.expect("a datagram");
        let mut d = Decoder::new(Bytes::copy_from_slice(&bytes[..length]));
        let Ok(Incoming::Call(xid, header)) = rpc::decode_incoming(&mut d) else {
            panic!("a call");
        };
        let mut e = Encoder::new();
        ReplyHead::Success.encode(xid, &mut e);
        if header.program == portmap::PROGRAM {
            e.u32(u32::from(port));
        }
        socket.send_to(&e.into_bytes(), from).await.expect("sent");
        if header.program == nsm::PROGRAM {
            assert_eq!(header.procedure, nsm::PROC_NOTIFY);
            return d.last().expect("the notice");
        }
    }
}

fn again(args: &LockArgs) -> LockArgs {
    LockArgs {
        reclaim: true,
        ..args.clone()
    }
}

#[tokio::test]
async fn clients_of_a_restarted_server_are_told_and_take_their_locks_again_before_others_lock() {
    let monitor = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let port = monitor.local_addr().expect("address").port();
    let mut server = Server::start_with_callbacks(port).await;
    let (mut a, _, file) = two(&server).await;
    let root = a.root().await;
    let free = [
        a.new_file(&root, "first").await,
        a.new_file(&root, "second").await,
    ];
    let of_a = range(&file, "client-a", 0, 10, false);
    let of_b = range(&file, "client-b", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    let mut state = 0;
    // Twice: what was taken again is remembered again.
    for free in &free {
        server = server.restart().await;
        let told = take_notice(&monitor).await;
        assert_eq!(&told.name.0[..], b"127.0.0.1", "as the client called it");
        assert!(told.state > state && told.state % 2 == 1, "{}", told.state);
        state = told.state;
        let mut a = Client::connect_as(server.address, "client-a", 1000).await;
        let mut b = Client::connect_as(server.address, "client-b", 1000).await;
        for block in [false, true] {
            let of_b = range(&file, "client-b", 0, 10, block);
            assert_eq!(lock(&mut b, &of_b).await, Stat::DeniedGracePeriod);
        }
        assert_eq!(test(&mut b, &of_b).await, Ok(Stat::DeniedGracePeriod));
        let reads = share_args(&file, "client-b", 0, 1);
        let answer = share(&mut b, Procedure::Share, &reads).await;
        assert_eq!(answer, Stat::DeniedGracePeriod);
        let elsewhere = range(free, "client-b", 0, 10, false);
        assert_eq!(test(&mut b, &elsewhere).await, Ok(Stat::Granted));
        assert_eq!(lock(&mut b, &elsewhere).await, Stat::Granted);
        assert_eq!(lock(&mut a, &again(&of_a)).await, Stat::Granted);
        assert_eq!(lock(&mut b, &of_b).await, Stat::Denied, "it has it again");
        let holder = test(&mut b, &of_b).await.expect_err("held");
        assert_eq!(&holder.owner.0[..], b"1@client-a");
        let beside = range(&file, "client-b", 10, 10, false);
        assert_eq!(lock(&mut b, &beside).await, Stat::DeniedGracePeriod);
    }
}

#[tokio::test]
async fn after_the_grace_what_nobody_took_again_is_free() {
    let server = Server::start().await;
    let (mut a, _, file) = two(&server).await;
    let of_a = range(&file, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    let server = server.restart().await;
    let mut b = Client::connect_as(server.address, "client-b", 1000).await;
    let of_b = range(&file, "client-b", 0, 10, false);
    let mut waited = 0;
    while lock(&mut b, &of_b).await == Stat::DeniedGracePeriod {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        waited += 1;
    }
    assert!(waited > 10, "{waited}");
    let mut a = Client::connect_as(server.address, "client-a", 1000).await;
    assert_eq!(lock(&mut a, &again(&of_a)).await, Stat::Denied, "too late");
}

/// Its clients may know it by its own address only, and could take nothing again while it was away.
#[tokio::test]
async fn through_a_node_that_comes_back_nobody_comes_before_a_lock_that_is_taken_again() {
    let server = Server::start_member().await;
    let (mut a, _, file) = two(&server).await;
    let root = a.root().await;
    let reserved = a.new_file(&root, "reserved").await;
    let free = a.new_file(&root, "free").await;
    let of_a = range(&file, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    let alone = share_args(&reserved, "client-a", 2, 2);
    assert_eq!(share(&mut a, Procedure::Share, &alone).await, Stat::Granted);
    let server = server.restart().await;
    let mut a = Client::connect_as(server.address, "client-a", 1000).await;
    let mut b = Client::connect_as(server.address, "client-b", 1000).await;
    let of_b = range(&file, "client-b", 0, 10, false);
    assert_eq!(lock(&mut b, &of_b).await, Stat::DeniedGracePeriod);
    assert_eq!(test(&mut b, &of_b).await, Ok(Stat::DeniedGracePeriod));
    let also = share_args(&reserved, "client-b", 0, 2);
    let answer = share(&mut b, Procedure::Share, &also).await;
    assert_eq!(answer, Stat::DeniedGracePeriod);
    let elsewhere = range(&free, "client-b", 0, 10, false);
    assert_eq!(lock(&mut b, &elsewhere).await, Stat::Granted, "not noted");
    assert_eq!(lock(&mut a, &again(&of_a)).await, Stat::Granted);
    assert_eq!(lock(&mut b, &of_b).await, Stat::Denied, "it has it again");
    let of_b_blocking = range(&file, "client-b", 0, 10, true);
    let answer = lock(&mut b, &of_b_blocking).await;
    assert_eq!(answer, Stat::DeniedGracePeriod, "nobody waits in line yet");
    let alone = ShareArgs {
        reclaim: true,
        ..alone
    };
    assert_eq!(share(&mut a, Procedure::Share, &alone).await, Stat::Granted);
    let mut answer = lock(&mut b, &of_b_blocking).await;
    while answer == Stat::DeniedGracePeriod {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        answer = lock(&mut b, &of_b_blocking).await;
    }
    assert_eq!(answer, Stat::Blocked, "behind who has it again");
    let answer = share(&mut b, Procedure::Share, &also).await;
    assert_ne!(answer, Stat::Granted, "it has it again");
}

#[tokio::test]
async fn the_time_in_which_a_node_that_came_back_can_not_act_does_not_count() {
    let server = Server::start_member().await;
    let (mut a, _, file) = two(&server).await;
    let of_a = range(&file, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    let server = server.restart().await;
    server.locks.freeze(true).await;
    tokio::time::sleep(GRACE).await;
    server.locks.freeze(false).await;
    let mut b = Client::connect_as(server.address, "client-b", 1000).await;
    let of_b = range(&file, "client-b", 0, 10, false);
    assert_eq!(lock(&mut b, &of_b).await, Stat::DeniedGracePeriod);
    assert_eq!(server.noted().await, 1, "should it be lost once more");
    while lock(&mut b, &of_b).await == Stat::DeniedGracePeriod {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// An SMB open for reading and writing that denies nobody.
async fn open_shared(server: &Server, name: &str) -> Result<Arc<Open>, VfsError> {
    let request = OpenRequest {
        target: Target::Path(RelPath::parse(name, '/').expect("a path")),
        stream: None,
        access: AccessMask(AccessMask::READ_DATA | AccessMask::WRITE_DATA),
        share: ShareMode {
            read: true,
            write: true,
            delete: true,
        },
        disposition: Disposition::Open,
        node_type: NodeType::NotDirectory,
        new: NewNode::default(),
        flags: OpenFlags::default(),
        cache: CacheRequest::None,
        listener: None,
    };
    Ok(server.smb().open(request).await?.open)
}

/// Opens as [`open_shared`], writes the first bytes and closes.
async fn write_shared(server: &Server, name: &str) -> Result<(), VfsError> {
    let open = open_shared(server, name).await?;
    let written = open
        .write(0, Bytes::from_static(b"x"), sluice_vfs::Stability::Unstable)
        .await;
    open.close().await?;
    written.map(drop)
}

#[tokio::test]
async fn after_a_restart_no_other_protocol_comes_before_a_lock_that_is_taken_again() {
    let server = Server::start().await;
    let (mut a, _, file) = two(&server).await;
    let root = a.root().await;
    let left = a.new_file(&root, "left").await;
    let reserved = a.new_file(&root, "reserved").await;
    a.new_file(&root, "free").await;
    let of_a = range(&file, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    let of_left = range(&left, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_left).await, Stat::Granted);
    let alone = share_args(&reserved, "client-a", 2, 2);
    assert_eq!(share(&mut a, Procedure::Share, &alone).await, Stat::Granted);
    assert_eq!(server.noted().await, 3);
    let server = server.restart().await;
    let before = Instant::now();
    for name in ["locked", "left", "reserved"] {
        let refused = write_shared(&server, name).await.expect_err(name);
        assert!(matches!(refused, VfsError::Conflict(_)), "{refused}");
    }
    write_shared(&server, "free").await.expect("nobody had it");
    let mut a = Client::connect_as(server.address, "client-a", 1000).await;
    let again = LockArgs {
        reclaim: true,
        ..of_a
    };
    assert_eq!(lock(&mut a, &again).await, Stat::Granted);
    let alone = ShareArgs {
        reclaim: true,
        ..alone
    };
    assert_eq!(share(&mut a, Procedure::Share, &alone).await, Stat::Granted);
    while write_shared(&server, "left").await.is_err() {
        assert!(before.elapsed().as_secs() < 20, "it ends");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    write_shared(&server, "locked").await.expect_err("locked");
    let denied = open_shared(&server, "reserved").await;
    assert!(denied.is_err(), "denied");
}

/// A lock of a client of the node `other`, on all of a file.
fn lock_elsewhere(file: &FileHandle) -> lm::OwnedRangeRequest {
    let holder = Arc::new(lm::Holder {
        protocol: lm::Protocol::Nfs3,
        user: String::new(),
        address: String::new(),
        client_name: String::new(),
        node: "other".to_owned(),
        path: String::new(),
        rule: None,
        since_unix_ms: 0,
    });
    lm::OwnedRangeRequest {
        resource: lm::ResourceId::main(document_of(file)),
        actor: lm::Actor {
            protocol: lm::Protocol::Nfs3,
            client: lm::ClientId(77),
            holder,
        },
        owner: lm::RangeOwner(1),
        lock: lm::RangeLock {
            range: lm::ByteRange::WHOLE,
            exclusive: true,
        },
        on_conflict: lm::OnConflict::Reject,
        reclaim: false,
    }
}

#[tokio::test]
async fn a_lock_that_is_taken_again_waits_for_who_decides_to_hear_that_it_was_lost() {
    let server = Server::start().await;
    let (mut a, _, file) = two(&server).await;
    let lost = lock_elsewhere(&file);
    let (resource, client) = (lost.resource, lost.actor.client);
    server.locks.lock_owned(lost).await.expect("held");
    let of_a = range(&file, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Denied, "no reclaim");
    let again = LockArgs {
        reclaim: true,
        ..of_a
    };
    server.keep("nfs.number_of.other", *b"7").await;
    server.keep("nfs.told_of.7", *b"99").await;
    let hear_later = async {
        server.locks.until_asked_again().await;
        let locks = &server.locks;
        locks
            .unlock_all_owned(resource, client, Some(lm::RangeOwner(1)))
            .await;
    };
    let (stat, ()) = tokio::join!(lock(&mut a, &again), hear_later);
    assert_eq!(stat, Stat::Granted);
}

#[tokio::test]
async fn a_lock_that_is_taken_again_is_denied_at_once_if_nobody_was_told_that_the_other_is_lost() {
    let server = Server::start().await;
    let (mut a, _, file) = two(&server).await;
    server
        .locks
        .lock_owned(lock_elsewhere(&file))
        .await
        .expect("held");
    server.keep("nfs.number_of.other", *b"7").await;
    server.keep("nfs.told_of.8", *b"99").await;
    let again = LockArgs {
        reclaim: true,
        ..range(&file, "client-a", 0, 10, false)
    };
    assert_eq!(lock(&mut a, &again).await, Stat::Denied);
    assert_eq!(server.locks.asked_again(), 1);
}

#[tokio::test]
async fn a_share_reservation_is_kept_from_others_until_its_node_has_ended() {
    let mut server = Server::start().await;
    let (mut a, _, file) = two(&server).await;
    let reserves = share_args(&file, "client-a", 2, 1);
    assert_eq!(
        share(&mut a, Procedure::Share, &reserves).await,
        Stat::Granted
    );
    let root = a.root().await;
    let other = a.new_file(&root, "other").await;
    let of_a = range(&other, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    drop(a);
    server.stop_head().await;
    assert!(open_shared(&server, "locked").await.is_err());
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(open_shared(&server, "locked").await.is_err(), "not closed");
    server.all_would_be_forgotten().await;
    assert_eq!(server.noted().await, 2, "for the next start");
    server.stop().await;
}

/// As nodes keep their clients that have locks.
fn lock_clients(address: &str) -> Vec<u8> {
    let mut e = Encoder::new();
    e.opaque(address.as_bytes());
    e.opaque(b"127.0.0.1");
    e.u64(1);
    e.into_bytes().to_vec()
}

#[tokio::test]
async fn clients_of_a_node_that_nobody_saw_go_are_told_and_nobody_waits_for_what_was_not_noted() {
    let monitor = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let port = monitor.local_addr().expect("address").port();
    let server = Server::start_with_callbacks(port).await;
    let (mut a, _, file) = two(&server).await;
    server
        .keep("nfs.lock_clients.9", lock_clients("127.0.0.1"))
        .await;
    let of_a = range(&file, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    // A node is often lost together with its database.
    let away = Fault::Error(RepoError::Unavailable("away".into()));
    server.repository.inject("setting", 0, away);
    server.locks.hear_of_former(9);
    let told = take_notice(&monitor).await;
    assert_eq!(&told.name.0[..], b"127.0.0.1", "as the client called it");
    let more = range(&file, "client-a", 20, 10, false);
    assert_eq!(lock(&mut a, &more).await, Stat::Granted);
    assert!(server.kept("nfs.told_of.9").await, "before they are told");
    assert_eq!(server.repository.pending(), 0);
}

#[tokio::test]
async fn clients_are_told_of_what_was_taken_from_them_by_force_and_keep_the_rest() {
    let monitor = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let port = monitor.local_addr().expect("address").port();
    let server = Server::start_with_callbacks(port).await;
    let (mut a, mut b, file) = two(&server).await;
    let root = a.root().await;
    let other = a.new_file(&root, "other").await;
    let (of_a, of_b) = (
        range(&file, "client-a", 0, 10, false),
        range(&file, "client-b", 0, 10, false),
    );
    let kept = range(&other, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    assert_eq!(lock(&mut a, &kept).await, Stat::Granted);
    let reserved = a.new_file(&root, "reserved").await;
    let alone = share_args(&reserved, "client-a", 2, 2);
    assert_eq!(share(&mut a, Procedure::Share, &alone).await, Stat::Granted);
    server.locks.take_by_force(document_of(&file)).await;
    assert_eq!(lock(&mut b, &of_b).await, Stat::Granted, "it is free");
    let told = take_notice(&monitor).await;
    assert_eq!(&told.name.0[..], b"127.0.0.1");
    server.locks.take_by_force(document_of(&reserved)).await;
    let told = take_notice(&monitor).await;
    assert_eq!(&told.name.0[..], b"127.0.0.1", "of a reservation too");
    // Told so, a client takes all its locks again.
    assert_eq!(lock(&mut a, &again(&of_a)).await, Stat::Denied);
    assert_eq!(lock(&mut a, &again(&kept)).await, Stat::Granted);
    let of_b = range(&other, "client-b", 0, 10, false);
    assert_eq!(lock(&mut b, &of_b).await, Stat::Denied);
    assert_eq!(unlock(&mut a, &kept).await, Stat::Granted);
    assert_eq!(lock(&mut b, &of_b).await, Stat::Granted, "it was one lock");
    // What was locked since is known as before: a restart of its client frees it.
    restarted(&mut b, "client-b").await;
    let of_a = range(&file, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
}

#[tokio::test]
async fn what_is_locked_while_an_unlock_is_under_way_is_freed_with_its_client() {
    let server = Server::start().await;
    let (mut a, mut b, file) = two(&server).await;
    let mut other_thread = Client::connect_as(server.address, "client-a", 1000).await;
    let of_a = range(&file, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    let all = range(&file, "client-a", 0, u64::MAX, false);
    server.locks.hold_unlocks.store(true, Ordering::SeqCst);
    let lock_meanwhile = async {
        server.locks.until_unlocked().await;
        let granted = lock(&mut other_thread, &of_a).await;
        server.locks.hold_unlocks.store(false, Ordering::SeqCst);
        granted
    };
    let (unlocked, locked) = tokio::join!(unlock(&mut a, &all), lock_meanwhile);
    assert_eq!((unlocked, locked), (Stat::Granted, Stat::Granted));
    let of_b = range(&file, "client-b", 0, 10, false);
    assert_eq!(lock(&mut b, &of_b).await, Stat::Denied);
    restarted(&mut a, "client-a").await;
    assert_eq!(lock(&mut b, &of_b).await, Stat::Granted);
}

#[tokio::test]
async fn a_client_without_a_monitor_on_udp_is_told_over_tcp() {
    let monitor = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = monitor.local_addr().expect("address").port();
    let server = Server::start_with_callbacks(port).await;
    let (mut a, _, file) = two(&server).await;
    let of_a = range(&file, "client-a", 0, 10, false);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    let _server = server.restart().await;
    loop {
        let (mut stream, _) = monitor.accept().await.expect("a call");
        let (xid, program, args) = incoming(&mut stream).await;
        let mut e = Encoder::new();
        ReplyHead::Success.encode(xid, &mut e);
        if program == portmap::PROGRAM {
            e.u32(u32::from(port));
        }
        answer(&mut stream, e.into_bytes()).await;
        if program == nsm::PROGRAM {
            let told: NotifyArgs = args.last().expect("the notice");
            assert_eq!(&told.name.0[..], b"127.0.0.1");
            return;
        }
    }
}

#[tokio::test]
async fn a_restarted_server_whose_clients_had_no_locks_lets_nobody_wait() {
    let server = Server::start().await;
    let (_, _, file) = two(&server).await;
    let server = server.restart().await;
    let mut b = Client::connect_as(server.address, "client-b", 1000).await;
    let of_b = range(&file, "client-b", 0, 10, false);
    assert_eq!(lock(&mut b, &of_b).await, Stat::Granted);
}
