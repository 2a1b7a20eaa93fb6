//! One TCP connection: records in, calls beside each other, replies out as they get ready.
//!
//! Requests and replies under way are bounded by one budget of bytes; when it is used up, reading stops and TCP holds the
//! client back. The budget of a call is given back only when its reply has been handed to the kernel.

mod writer;

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluice_nfs_wire::nfs3::{self, Stability};
use sluice_nfs_wire::record::RecordReader;
use sluice_nfs_wire::rpc::{self, CallHeader, Incoming};
use sluice_nfs_wire::xdr::{Decoder, Encoder};
use sluice_proxy::{BusyPollReader, Ends};
use sluice_vfs::in_own_task;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::clients::ConnectionClients;
use crate::dispatch;
use crate::server::Head;
use writer::Outbox;

/// Longest record: a WRITE of the largest size with its header.
const RECORD_BYTES_MAX: usize = crate::v3::TRANSFER_BYTES_MAX as usize + 64 * 1024;
/// Bytes of requests and replies that one connection may have under way.
const BUDGET_BYTES: usize = 32 << 20;
/// What the smallest call takes from the budget: it may be all that keeps a receive buffer. So there are at most 341 calls under way.
const CALL_BYTES_MIN: usize = READ_BYTES;
/// Room made in the receive buffer before a read.
const READ_BYTES: usize = 96 * 1024;
/// With less room than this there is made more: a WRITE of 64 KiB with its header, which would be copied if it did not fit.
const ROOM_MIN_BYTES: usize = 66 * 1024;
/// A record that has begun must go on within this time.
const RECORD_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection without any request for this long is given up; clients reconnect when they need to.
const IDLE_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// What the calls of a connection know about it.
pub(crate) struct Connection {
    /// The client's address and port.
    pub(crate) peer: SocketAddr,
    /// The port it came in on.
    pub(crate) local_port: u16,
    /// The address that the client called.
    pub(crate) called: IpAddr,
    /// The clients seen on it.
    pub(crate) clients: ConnectionClients,
}

impl Connection {
    /// The client's address; one that came as IPv4-mapped IPv6 is the IPv4 one.
    pub(crate) fn address(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }
}

/// A call as it goes to its task.
pub(crate) struct IncomingCall {
    pub(crate) xid: u32,
    pub(crate) header: CallHeader,
    /// The whole record after the transaction id, for telling retries from new calls.
    pub(crate) body: Bytes,
    pub(crate) args: Decoder,
}

/// Serves a connection until its end, its first malformed record, or `stop`.
pub(crate) async fn run(head: Arc<Head>, stream: TcpStream, ends: Ends, stop: CancellationToken) {
    let peer = ends.client;
    let local = stream.local_addr().ok();
    let local_port = local.map_or(0, |a| a.port());
    let called = ends.called.or(local).unwrap_or(peer);
    let connection = Arc::new(Connection {
        peer,
        local_port,
        called: called.ip().to_canonical(),
        clients: ConnectionClients::default(),
    });
    debug!(%peer, "NFS connection");
    let (read_half, write_half) = stream.into_split();
    let replies = Arc::new(Outbox::new(write_half));
    let finished = CancellationToken::new();
    let writer = tokio::spawn({
        let (replies, finished) = (replies.clone(), finished.clone());
        async move { replies.run(&finished).await }
    });
    let calls = TaskTracker::new();
    let ended = tokio::select! {
        () = stop.cancelled() => "stopping",
        () = replies.broken() => "the client takes no replies",
        ended = read_loop(&head, &connection, read_half, &replies, &calls) => ended,
    };
    // Calls under way are still answered.
    calls.close();
    tokio::select! {
        () = calls.wait() => {}
        // A call may wait for something that never comes; its client must not.
        () = head.vfs.abandoned() => {}
    }
    finished.cancel();
    // A writer that panicked has nothing left to send.
    let _ = writer.await;
    debug!(%peer, ended, "NFS connection ends");
}

/// Returns why the connection has to end.
async fn read_loop(
    head: &Arc<Head>,
    connection: &Arc<Connection>,
    read_half: OwnedReadHalf,
    replies: &Arc<Outbox>,
    calls: &TaskTracker,
) -> &'static str {
    let budget = Arc::new(Semaphore::new(BUDGET_BYTES));
    let mut stream = BusyPollReader::new(read_half);
    let mut records = RecordReader::new(RECORD_BYTES_MAX);
    let mut input = BytesMut::new();
    loop {
        loop {
            let record = match records.next(&mut input) {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(error) => {
                    debug!(peer = %connection.peer, %error, "NFS record refused");
                    return "malformed record";
                }
            };
            if !start(head, connection, &budget, replies, calls, record).await {
                return "malformed RPC message";
            }
        }
        let room = input.capacity() - input.len();
        // A record that has begun has its room already; more would copy it.
        if room == 0 || (input.is_empty() && room < ROOM_MIN_BYTES) {
            input.reserve(READ_BYTES);
        }
        let limit = if records.is_between(&input) {
            IDLE_TIMEOUT
        } else {
            RECORD_TIMEOUT
        };
        match tokio::time::timeout(limit, stream.read_buf(&mut input)).await {
            Ok(Ok(0)) => return "closed by the client",
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return "connection lost",
            Err(_) => return "nothing came for too long",
        }
    }
}

/// Starts one call, once the budget allows it. One that will commit something gets a task at once, in which it may be held up by the
/// disk; any other gets one if it has to wait. False if the record is no RPC message.
async fn start(
    head: &Arc<Head>,
    connection: &Arc<Connection>,
    budget: &Arc<Semaphore>,
    replies: &Arc<Outbox>,
    calls: &TaskTracker,
    record: Bytes,
) -> bool {
    let cost = cost(&record);
    let mut args = Decoder::new(record.clone());
    let call = match rpc::decode_incoming(&mut args) {
        Ok(Incoming::Call(xid, header)) => Ok(IncomingCall {
            xid,
            header,
            body: record.slice(4..),
            args,
        }),
        Ok(Incoming::WrongRpcVersion(xid)) => Err(xid),
        Ok(Incoming::Reply(_)) => return true,
        Err(_) => return false,
    };
    let Ok(permit) = budget.clone().acquire_many_owned(cost).await else {
        return false;
    };
    let (head, connection, replies) = (head.clone(), connection.clone(), replies.clone());
    let commits = call.as_ref().is_ok_and(commits);
    let running = async move {
        let segments = match call {
            Ok(call) => dispatch::answer(&head, &connection, call).await,
            Err(xid) => {
                let mut e = Encoder::new();
                rpc::ReplyHead::RpcMismatch.encode(xid, &mut e);
                e.into_segments()
            }
        };
        // If the connection has gone, the reply cache keeps what a retry needs.
        replies.send(segments, permit);
    };
    if commits {
        calls.spawn(in_own_task(running));
        return true;
    }
    let mut running = Box::pin(running);
    if poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx).is_pending())).await {
        calls.spawn(running);
    }
    true
}

/// Whether a call is answered only after something of it is in the repository.
fn commits(call: &IncomingCall) -> bool {
    if call.header.program != nfs3::PROGRAM {
        return false;
    }
    match nfs3::Procedure::from_u32(call.header.procedure) {
        Some(nfs3::Procedure::Commit) => true,
        Some(nfs3::Procedure::Write) => {
            nfs3::WriteArgs::wanted_stability(&call.args).is_ok_and(|s| s != Stability::Unstable)
        }
        Some(procedure) => procedure.is_non_idempotent(),
        None => false,
    }
}

/// What a call takes from the budget: its own length or that of the largest reply that it can ask for.
fn cost(record: &Bytes) -> u32 {
    let word = |at: usize| {
        record
            .get(at..at + 4)
            .and_then(|w| w.try_into().ok())
            .map(u32::from_be_bytes)
    };
    let is_nfs = word(12) == Some(nfs3::PROGRAM);
    let reply =
        match word(20).and_then(nfs3::Procedure::from_u32) {
            // The count wanted is the last argument of these.
            Some(
                nfs3::Procedure::Read | nfs3::Procedure::Readdir | nfs3::Procedure::Readdirplus,
            ) if is_nfs => record.len().checked_sub(4).and_then(word).unwrap_or(0),
            _ => 0,
        };
    let reply = reply.min(crate::v3::TRANSFER_BYTES_MAX);
    (record.len().max(CALL_BYTES_MIN) as u32).max(reply)
}
