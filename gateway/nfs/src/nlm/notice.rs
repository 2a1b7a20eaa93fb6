//! Tells a client's status monitor that this server has lost its locks (SM_NOTIFY; X/Open XNFS, chapter 11): over UDP, as hosts
//! do, else over TCP. Its portmapper says where the monitor is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use sluice_nfs_wire::nsm::{self, NotifyArgs};
use sluice_nfs_wire::portmap::{self, IPPROTO_UDP, Mapping};
use sluice_nfs_wire::rpc::{self, CallHeader};
use sluice_nfs_wire::xdr::{Decoder, Encoder, Opaque};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::callback;
use super::remembered::LockClient;

/// How long one datagram's answer is waited for, and how many are sent.
const DATAGRAM_TIMEOUT: Duration = Duration::from_secs(1);
const DATAGRAMS: usize = 2;
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1024;

/// Tells a client once. It knows the server by the address that it called.
pub(super) async fn tell(client: &LockClient, portmap_port: u16, state: i32) -> io::Result<()> {
    let args = NotifyArgs {
        name: Opaque::copy_of(client.called.to_string()),
        state,
    };
    match by_datagram(client.address, portmap_port, &args).await {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::debug!(client = %client.address, %error, "SM_NOTIFY over UDP was not answered; trying TCP");
            by_connection(client.address, portmap_port, &args).await
        }
    }
}

fn header() -> CallHeader {
    callback::header(nsm::PROGRAM, nsm::VERSION, nsm::PROC_NOTIFY)
}

async fn by_connection(address: IpAddr, portmap_port: u16, args: &NotifyArgs) -> io::Result<()> {
    let monitor = (nsm::PROGRAM, nsm::VERSION);
    let port = callback::port_of(address, portmap_port, monitor).await?;
    let to = SocketAddr::new(address, port);
    callback::call(to, header(), |e| e.put(args)).await?;
    Ok(())
}

async fn by_datagram(address: IpAddr, portmap_port: u16, args: &NotifyArgs) -> io::Result<()> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    let wanted = Mapping {
        program: nsm::PROGRAM,
        version: nsm::VERSION,
        protocol: IPPROTO_UDP,
        port: 0,
    };
    let get = callback::header(
        portmap::PROGRAM,
        portmap::PORTMAP_VERSION,
        portmap::PROC_GET,
    );
    let portmapper = SocketAddr::new(address, portmap_port);
    let mut found = ask(&socket, portmapper, 1, &get, |e| e.put(&wanted)).await?;
    let port = match u16::try_from(found.u32().map_err(callback::malformed)?) {
        Ok(port) if port != 0 => port,
        _ => return Err(io::Error::other("the client has no status monitor on UDP")),
    };
    let monitor = SocketAddr::new(address, port);
    ask(&socket, monitor, 2, &header(), |e| e.put(args)).await?;
    Ok(())
}

/// One call in a datagram, sent again while it is not answered; its results.
async fn ask(
    socket: &UdpSocket,
    to: SocketAddr,
    xid: u32,
    header: &CallHeader,
    args: impl FnOnce(&mut Encoder),
) -> io::Result<Decoder> {
    let mut e = Encoder::new();
    rpc::encode_call(xid, header, &mut e);
    args(&mut e);
    let call = e.into_bytes();
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    // So that a host without that port says so at once.
    socket.connect(to).await?;
    for _ in 0..DATAGRAMS {
        socket.send(&call).await?;
        let heard = async {
            loop {
                let length = socket.recv(&mut answer).await?;
                let bytes = answer.get(..length).unwrap_or_default();
                let mut reply = Decoder::new(Bytes::copy_from_slice(bytes));
                // Anything else is an answer to an earlier datagram.
                if callback::results(&mut reply, xid).is_ok() {
                    return Ok(reply);
                }
            }
        };
        match timeout(DATAGRAM_TIMEOUT, heard).await {
            Ok(heard) => return heard,
            Err(_) => continue,
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
