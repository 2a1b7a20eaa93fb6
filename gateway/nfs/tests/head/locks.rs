//! NLM: locks between two machines, waiting with GRANTED, share reservations, and a restarted client.

use bytes::{Bytes, BytesMut};
use sluice_nfs_wire::nfs3::{FileHandle, Stability, Status};
use sluice_nfs_wire::nlm::{
    self, Holder, Lock, LockArgs, LockForm, LockRes, NotifyArgs, Procedure, ShareArgs, ShareRes,
    Stat, TestRes,
};
use sluice_nfs_wire::record::{RecordReader, single_fragment_header};
use sluice_nfs_wire::rpc::{self, Incoming, ReplyHead};
use sluice_nfs_wire::xdr::{Decoder, Encoder, Opaque, Xdr, XdrError};
use sluice_nfs_wire::{nsm, portmap};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::client::{Client, fresh_xid};
use crate::server::Server;

const VERSION: u32 = nlm::VERSION_64;

/// Arguments in the form of one procedure.
struct Args(LockArgs, LockForm);

impl Xdr for Args {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        LockArgs::decode(d, LockForm::Lock, VERSION).map(|args| Self(args, LockForm::Lock))
    }
    fn encode(&self, e: &mut Encoder) {
        self.0.encode(e, self.1, VERSION);
    }
}

pub(crate) fn range(
    file: &FileHandle,
    machine: &str,
    offset: u64,
    len: u64,
    block: bool,
) -> LockArgs {
    LockArgs {
        cookie: Opaque::copy_of("cookie"),
        block,
        exclusive: true,
        lock: Lock {
            caller_name: Opaque::copy_of(machine),
            file: file.clone(),
            owner: Opaque::copy_of(format!("1@{machine}")),
            svid: 42,
            offset,
            len,
        },
        reclaim: false,
        state: 1,
    }
}

async fn nlm(client: &mut Client, procedure: Procedure, form: LockForm, args: &LockArgs) -> Stat {
    let args = Args(args.clone(), form);
    let (head, results) = client
        .call(nlm::PROGRAM, VERSION, procedure as u32, &args)
        .await;
    assert_eq!(head, ReplyHead::Success);
    let res: LockRes = results.last().expect("nlm4_res");
    assert_eq!(res.cookie, args.0.cookie);
    res.stat
}

pub(crate) async fn lock(client: &mut Client, args: &LockArgs) -> Stat {
    nlm(client, Procedure::Lock, LockForm::Lock, args).await
}

pub(crate) async fn unlock(client: &mut Client, args: &LockArgs) -> Stat {
    nlm(client, Procedure::Unlock, LockForm::Unlock, args).await
}

pub(crate) async fn test(client: &mut Client, args: &LockArgs) -> Result<Stat, Holder> {
    let args = Args(args.clone(), LockForm::Test);
    let (_, mut results) = client
        .call(nlm::PROGRAM, VERSION, Procedure::Test as u32, &args)
        .await;
    TestRes::decode(&mut results, VERSION)
        .expect("nlm4_testres")
        .outcome
}

/// Two machines and a file.
pub(crate) async fn two(server: &Server) -> (Client, Client, FileHandle) {
    let mut a = Client::connect_as(server.address, "client-a", 1000).await;
    let b = Client::connect_as(server.address, "client-b", 1000).await;
    let root = a.root().await;
    let file = a.new_file(&root, "locked").await;
    (a, b, file)
}

#[tokio::test]
async fn a_lock_keeps_other_machines_off_its_range_only() {
    let server = Server::start().await;
    let (mut a, mut b, file) = two(&server).await;
    assert_eq!(
        lock(&mut a, &range(&file, "client-a", 0, 10, false)).await,
        Stat::Granted
    );
    assert_eq!(
        lock(&mut a, &range(&file, "client-a", 0, 10, false)).await,
        Stat::Granted,
        "a retry"
    );
    assert_eq!(
        lock(&mut b, &range(&file, "client-b", 5, 10, false)).await,
        Stat::Denied
    );
    assert_eq!(
        lock(&mut b, &range(&file, "client-b", 10, 10, false)).await,
        Stat::Granted
    );
    let holder = test(&mut b, &range(&file, "client-b", 0, 0, false))
        .await
        .expect_err("held");
    assert_eq!(
        (holder.svid, holder.offset, holder.len, holder.exclusive),
        (42, 0, 10, true)
    );
    assert_eq!(&holder.owner.0[..], b"1@client-a");
    assert_eq!(
        unlock(&mut a, &range(&file, "client-a", 0, 0, false)).await,
        Stat::Granted
    );
    assert_eq!(
        test(&mut b, &range(&file, "client-b", 0, 10, false)).await,
        Ok(Stat::Granted)
    );
}

#[tokio::test]
async fn locks_outlive_their_connection() {
    let server = Server::start().await;
    let (mut a, mut b, file) = two(&server).await;
    assert_eq!(
        lock(&mut a, &range(&file, "client-a", 0, 10, false)).await,
        Stat::Granted
    );
    drop(a);
    assert_eq!(
        lock(&mut b, &range(&file, "client-b", 0, 10, false)).await,
        Stat::Denied
    );
    let mut a = Client::connect_as(server.address, "client-a", 1000).await;
    assert_eq!(
        unlock(&mut a, &range(&file, "client-a", 0, 0, false)).await,
        Stat::Granted
    );
    assert_eq!(
        lock(&mut b, &range(&file, "client-b", 0, 10, false)).await,
        Stat::Granted
    );
}

#[tokio::test]
async fn a_client_writes_in_its_own_range_beside_another_writer() {
    let server = Server::start().await;
    let (mut a, mut b, file) = two(&server).await;
    assert_eq!(
        lock(&mut a, &range(&file, "client-a", 0, 10, false)).await,
        Stat::Granted
    );
    assert_eq!(
        lock(&mut b, &range(&file, "client-b", 10, 10, false)).await,
        Stat::Granted
    );
    assert_eq!(
        a.write(&file, 0, b"aaaaaaaaaa", Stability::FileSync)
            .await
            .status(),
        Status::Ok
    );
    assert_eq!(
        b.write(&file, 10, b"bbbbbbbbbb", Stability::FileSync)
            .await
            .status(),
        Status::Ok
    );
    assert_eq!(a.read(&file, 0, 100).await.0, b"aaaaaaaaaabbbbbbbbbb");
}

/// A client's side of callbacks: portmapper and lock manager on one port. Returns the lock that it is told of.
async fn take_granted(listener: TcpListener) -> LockArgs {
    let port = listener.local_addr().expect("address").port();
    loop {
        let (mut stream, _) = listener.accept().await.expect("a callback");
        let (xid, program, mut args) = incoming(&mut stream).await;
        let mut e = Encoder::new();
        ReplyHead::Success.encode(xid, &mut e);
        if program == portmap::PROGRAM {
            e.u32(u32::from(port));
            answer(&mut stream, e.into_bytes()).await;
            continue;
        }
        assert_eq!(program, nlm::PROGRAM);
        let told = LockArgs::decode(&mut args, LockForm::Test, VERSION).expect("nlm4_testargs");
        e.put(&LockRes {
            cookie: told.cookie.clone(),
            stat: Stat::Granted,
        });
        answer(&mut stream, e.into_bytes()).await;
        return told;
    }
}

pub(crate) async fn incoming(stream: &mut TcpStream) -> (u32, u32, Decoder) {
    let mut records = RecordReader::new(4096);
    let mut input = BytesMut::new();
    let record = loop {
        if let Some(record) = records.next(&mut input).expect("a record") {
            break record;
        }
        assert_ne!(stream.read_buf(&mut input).await.expect("reads"), 0);
    };
    let mut d = Decoder::new(record);
    let Ok(Incoming::Call(xid, header)) = rpc::decode_incoming(&mut d) else {
        panic!("a call");
    };
    (xid, header.program, d)
}

pub(crate) async fn answer(stream: &mut TcpStream, message: Bytes) {
    stream
        .write_all(&single_fragment_header(message.len()))
        .await
        .expect("sends");
    stream.write_all(&message).await.expect("sends");
}

#[tokio::test]
async fn a_blocked_lock_is_granted_by_a_callback() {
    let callbacks = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let server =
        Server::start_with_callbacks(callbacks.local_addr().expect("address").port()).await;
    let (mut a, mut b, file) = two(&server).await;
    let (held, wanted) = (
        range(&file, "client-a", 0, 10, false),
        range(&file, "client-b", 0, 10, true),
    );
    assert_eq!(lock(&mut a, &held).await, Stat::Granted);
    assert_eq!(lock(&mut b, &wanted).await, Stat::Blocked);
    assert_eq!(
        lock(&mut b, &wanted).await,
        Stat::Blocked,
        "asking again queues nothing more"
    );
    let granted = tokio::spawn(take_granted(callbacks));
    assert_eq!(unlock(&mut a, &held).await, Stat::Granted);
    let told = granted.await.expect("told");
    assert_eq!(told.lock, wanted.lock);
    assert_eq!(lock(&mut a, &held).await, Stat::Denied, "it is held now");
}

#[tokio::test]
async fn a_blocked_lock_is_found_by_asking_again() {
    // Nobody answers callbacks.
    let server = Server::start_with_callbacks(1).await;
    let (mut a, mut b, file) = two(&server).await;
    let (held, wanted) = (
        range(&file, "client-a", 0, 10, false),
        range(&file, "client-b", 0, 10, true),
    );
    assert_eq!(lock(&mut a, &held).await, Stat::Granted);
    assert_eq!(lock(&mut b, &wanted).await, Stat::Blocked);
    assert_eq!(unlock(&mut a, &held).await, Stat::Granted);
    while lock(&mut b, &wanted).await != Stat::Granted {
        tokio::task::yield_now().await;
    }
    assert_eq!(lock(&mut a, &held).await, Stat::Denied);
}

#[tokio::test]
async fn a_cancelled_lock_is_not_granted_later() {
    let server = Server::start_with_callbacks(1).await;
    let (mut a, mut b, file) = two(&server).await;
    let (held, wanted) = (
        range(&file, "client-a", 0, 10, false),
        range(&file, "client-b", 0, 10, true),
    );
    assert_eq!(lock(&mut a, &held).await, Stat::Granted);
    assert_eq!(lock(&mut b, &wanted).await, Stat::Blocked);
    assert_eq!(
        nlm(&mut b, Procedure::Cancel, LockForm::Cancel, &wanted).await,
        Stat::Granted
    );
    assert_eq!(
        nlm(&mut b, Procedure::Cancel, LockForm::Cancel, &wanted).await,
        Stat::Denied
    );
    assert_eq!(unlock(&mut a, &held).await, Stat::Granted);
    assert_eq!(lock(&mut a, &held).await, Stat::Granted);
}

/// FREE_ALL.
pub(crate) async fn restarted(client: &mut Client, name: &str) {
    let notify = NotifyArgs {
        name: Opaque::copy_of(name),
        state: 3,
    };
    let (head, _) = client
        .call(nlm::PROGRAM, VERSION, Procedure::FreeAll as u32, &notify)
        .await;
    assert_eq!(head, ReplyHead::Success);
}

#[tokio::test]
async fn a_restarted_client_has_no_locks() {
    let server = Server::start().await;
    let (mut a, mut b, file) = two(&server).await;
    assert_eq!(
        lock(&mut a, &range(&file, "client-a", 0, 10, false)).await,
        Stat::Granted
    );
    assert_eq!(
        lock(&mut b, &range(&file, "client-b", 20, 10, false)).await,
        Stat::Granted
    );
    restarted(&mut a, "client-a").await;
    assert_eq!(
        lock(&mut b, &range(&file, "client-b", 0, 10, false)).await,
        Stat::Granted
    );
    assert_eq!(
        lock(&mut a, &range(&file, "client-a", 20, 10, false)).await,
        Stat::Denied,
        "others keep theirs"
    );
}

/// One call in a datagram; its results.
async fn datagram(
    server: &Server,
    client: &Client,
    (program, version, procedure): (u32, u32, u32),
    args: &impl Xdr,
) -> Decoder {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let message = client.message(fresh_xid(), program, version, procedure, args);
    socket
        .send_to(&message, server.address)
        .await
        .expect("sent");
    let mut reply = vec![0; 2048];
    let length = socket.recv(&mut reply).await.expect("a reply");
    reply.truncate(length);
    // xid, REPLY, accepted, an empty verifier, SUCCESS.
    assert_eq!(
        reply[4..24],
        [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    Decoder::new(Bytes::from(reply).slice(24..))
}

#[tokio::test]
async fn a_client_that_says_over_udp_that_it_has_restarted_has_no_locks_of_before() {
    let server = Server::start().await;
    let (mut a, mut b, file) = two(&server).await;
    let (of_a, of_b) = (
        range(&file, "client-a", 0, 10, false),
        range(&file, "client-b", 0, 10, false),
    );
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    let wanted = portmap::Mapping {
        program: nsm::PROGRAM,
        version: nsm::VERSION,
        protocol: 17,
        port: 0,
    };
    let get = (
        portmap::PROGRAM,
        portmap::PORTMAP_VERSION,
        portmap::PROC_GET,
    );
    let mut port = datagram(&server, &a, get, &wanted).await;
    assert_eq!(
        port.u32().expect("a port"),
        u32::from(server.address.port())
    );
    let notice = NotifyArgs {
        name: Opaque::copy_of("client-a.example.org"),
        state: 3,
    };
    let notify = (nsm::PROGRAM, nsm::VERSION, nsm::PROC_NOTIFY);
    datagram(&server, &a, notify, &notice).await;
    assert_eq!(lock(&mut b, &of_b).await, Stat::Granted);
    assert_eq!(unlock(&mut b, &of_b).await, Stat::Granted);
    assert_eq!(lock(&mut a, &of_a).await, Stat::Granted);
    datagram(&server, &a, notify, &notice).await;
    assert_eq!(
        lock(&mut b, &of_b).await,
        Stat::Denied,
        "the same notice again frees nothing"
    );
}

pub(crate) fn share_args(file: &FileHandle, machine: &str, mode: u32, access: u32) -> ShareArgs {
    ShareArgs {
        cookie: Opaque::copy_of("c"),
        caller_name: Opaque::copy_of(machine),
        file: file.clone(),
        owner: Opaque::copy_of(machine),
        mode,
        access,
        reclaim: false,
    }
}

pub(crate) async fn share(client: &mut Client, procedure: Procedure, args: &ShareArgs) -> Stat {
    let (_, results) = client
        .call(nlm::PROGRAM, VERSION, procedure as u32, args)
        .await;
    results.last::<ShareRes>().expect("nlm4_shareres").stat
}

pub(crate) fn document_of(file: &FileHandle) -> u64 {
    let document = file.0.get(8..16).expect("a handle names its document");
    u64::from_be_bytes(document.try_into().expect("eight bytes"))
}

#[tokio::test]
async fn a_share_reservation_denies_what_it_says() {
    let server = Server::start().await;
    let (mut a, mut b, file) = two(&server).await;
    let reads_alone = share_args(&file, "client-a", 2, 1);
    let writes = share_args(&file, "client-b", 0, 2);
    assert_eq!(
        share(&mut a, Procedure::Share, &reads_alone).await,
        Stat::Granted
    );
    assert_ne!(
        share(&mut b, Procedure::Share, &writes).await,
        Stat::Granted
    );
    assert_eq!(
        share(&mut a, Procedure::Unshare, &reads_alone).await,
        Stat::Granted
    );
    assert_eq!(
        share(&mut b, Procedure::Share, &writes).await,
        Stat::Granted
    );
}

#[tokio::test]
async fn a_lock_on_a_forged_handle_is_stale() {
    let server = Server::start().await;
    let mut a = Client::connect(server.address).await;
    let forged = FileHandle::copy_of([1; 32]);
    assert_eq!(
        lock(&mut a, &range(&forged, "client-a", 0, 10, false)).await,
        Stat::StaleFh
    );
}
