//! Calls to a client's own lock manager: its portmapper is asked for the port, then NLM_GRANTED is called (RFC 1813 II.3.6).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use sluice_nfs_wire::auth::OpaqueAuth;
use sluice_nfs_wire::nlm::{self, LockArgs, LockForm, LockRes, Stat};
use sluice_nfs_wire::portmap::{self, IPPROTO_TCP, Mapping};
use sluice_nfs_wire::record::{RecordReader, single_fragment_header};
use sluice_nfs_wire::rpc::{self, CallHeader, Incoming, ReplyHead};
use sluice_nfs_wire::xdr::{Decoder, Encoder, XdrError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A client has this long for each of the two calls.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest reply that is read.
const REPLY_BYTES_MAX: usize = 4096;

/// Tells a client that the lock of this request is granted; returns what it answers.
pub(super) async fn granted(
    address: IpAddr,
    portmap_port: u16,
    args: &LockArgs,
    version: u32,
) -> io::Result<Stat> {
    let port = port_of(address, portmap_port, (nlm::PROGRAM, version)).await?;
    let header = header(nlm::PROGRAM, version, nlm::Procedure::Granted as u32);
    let mut reply = call(SocketAddr::new(address, port), header, |e| {
        args.encode(e, LockForm::Test, version)
    })
    .await?;
    let answer: LockRes = reply.get().map_err(malformed)?;
    Ok(answer.stat)
}

/// Where a client has a program on TCP.
pub(super) async fn port_of(
    address: IpAddr,
    portmap_port: u16,
    (program, version): (u32, u32),
) -> io::Result<u16> {
    let header = header(
        portmap::PROGRAM,
        portmap::PORTMAP_VERSION,
        portmap::PROC_GET,
    );
    let wanted = Mapping {
        program,
        version,
        protocol: IPPROTO_TCP,
        port: 0,
    };
    let mut reply = call(SocketAddr::new(address, portmap_port), header, |e| {
        e.put(&wanted)
    })
    .await?;
    match u16::try_from(reply.u32().map_err(malformed)?) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(io::Error::other("the client does not have that on TCP")),
    }
}

pub(super) fn header(program: u32, version: u32, procedure: u32) -> CallHeader {
    CallHeader {
        program,
        version,
        procedure,
        cred: OpaqueAuth::none(),
        verf: OpaqueAuth::none(),
    }
}

/// One call on a connection of its own; returns the results.
pub(super) async fn call(
    to: SocketAddr,
    header: CallHeader,
    args: impl FnOnce(&mut Encoder),
) -> io::Result<Decoder> {
    // One call a connection, so the transaction id may be any.
    const XID: u32 = 1;
    let mut e = Encoder::new();
    rpc::encode_call(XID, &header, &mut e);
    args(&mut e);
    let message = e.into_bytes();
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        stream
            .write_all(&single_fragment_header(message.len()))
            .await?;
        stream.write_all(&message).await?;
        let mut records = RecordReader::new(REPLY_BYTES_MAX);
        let mut input = BytesMut::new();
        loop {
            if let Some(record) = records.next(&mut input).map_err(io::Error::other)? {
                return Ok::<_, io::Error>(Decoder::new(record));
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    let mut reply = tokio::time::timeout(CALL_TIMEOUT, exchange)
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    results(&mut reply, XID)?;
    Ok(reply)
}

/// Reads a reply up to its results.
pub(super) fn results(reply: &mut Decoder, xid: u32) -> io::Result<()> {
    match rpc::decode_incoming(reply) {
        Ok(Incoming::Reply(number)) if number == xid => {}
        _ => return Err(io::Error::other("not the reply to this call")),
    }
    match ReplyHead::decode(reply).map_err(malformed)? {
        ReplyHead::Success => Ok(()),
        head => Err(io::Error::other(format!("refused: {head:?}"))),
    }
}

pub(super) fn malformed(error: XdrError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
