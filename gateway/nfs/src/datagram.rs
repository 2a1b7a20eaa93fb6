//! Calls in UDP datagrams: only where the status monitor is, and its notices. Clients that restart say so over UDP and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sluice_nfs_wire::rpc::{self, Incoming, ReplyHead};
use sluice_nfs_wire::xdr::{Decoder, Encoder};
use sluice_nfs_wire::{nsm, portmap};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::conn::IncomingCall;
use crate::server::Head;

/// Longest datagram that is read: a notice has some 200 bytes.
const DATAGRAM_MAX: usize = 2048;

/// Serves one socket until `stop`.
pub(crate) async fn serve(head: Arc<Head>, socket: UdpSocket, stop: CancellationToken) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An error is about a reply that an earlier client did not take.
        let Ok((length, peer)) = received else {
            continue;
        };
        let datagram = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        if let Some(reply) = answer(&head, &socket, peer, datagram).await {
            // Whoever does not hear it asks again.
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

/// The reply to a datagram; nothing if it is no call.
async fn answer(
    head: &Arc<Head>,
    socket: &UdpSocket,
    peer: SocketAddr,
    datagram: Bytes,
) -> Option<Vec<u8>> {
    let mut args = Decoder::new(datagram.clone());
    let (xid, header) = match rpc::decode_incoming(&mut args).ok()? {
        Incoming::Call(xid, header) => (xid, header),
        Incoming::WrongRpcVersion(_) | Incoming::Reply(_) => return None,
    };
    debug!(%peer, program = header.program, procedure = header.procedure, "datagram");
    let (program, version) = (header.program, header.version);
    let call = IncomingCall {
        xid,
        header,
        body: datagram.slice(4..),
        args,
    };
    let answered = match program {
        portmap::PROGRAM => {
            let port = socket.local_addr().map_or(0, |address| address.port());
            crate::portmap::answer_datagram(port, call)
        }
        nsm::PROGRAM if version == nsm::VERSION => {
            crate::nsm::answer(head, peer.ip().to_canonical(), call).await
        }
        nsm::PROGRAM => Err(ReplyHead::ProgMismatch {
            low: nsm::VERSION,
            high: nsm::VERSION,
        }),
        _ => Err(ReplyHead::ProgUnavail),
    };
    let segments = answered.unwrap_or_else(|refusal| {
        let mut e = Encoder::new();
        refusal.encode(xid, &mut e);
        e.into_segments()
    });
    Some(segments.concat())
}
