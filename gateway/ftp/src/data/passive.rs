//! Ports for passive data connections.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// One client connects, so a short queue is enough; strangers in it are turned away.
const BACKLOG: i32 = 8;

/// Listens on the address of `host` (its port is not looked at), on a random free port of `ports` (or of the system's choice). The port is free again as soon as the listener is
/// dropped.
///
/// # Errors
/// Those of the system; `AddrInUse` if no port of the range is free.
pub(crate) fn bind(
    mut host: SocketAddr,
    ports: Option<&RangeInclusive<u16>>,
) -> io::Result<TcpListener> {
    let Some(ports) = ports else {
        host.set_port(0);
        return listen(host);
    };
    let (first, last) = (u32::from(*ports.start()), u32::from(*ports.end()));
    let count = (last + 1).saturating_sub(first);
    if count == 0 {
        return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
    }
    // A random start makes ports hard to guess and keeps ports that were just used for later.
    let start = getrandom::u32().map_err(|error| io::Error::other(error.to_string()))? % count;
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for step in 0..count {
        let port = first + (start + step) % count;
        host.set_port(u16::try_from(port).map_err(io::Error::other)?);
        match listen(host) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => refused = error,
            other => return other,
        }
    }
    Err(refused)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Connections of earlier transfers may still be in TIME_WAIT on the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    const HOST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[tokio::test]
    async fn a_full_range_is_told_and_a_dropped_port_is_free_at_once() -> io::Result<()> {
        let held = bind(HOST, None)?;
        let port = held.local_addr()?.port();
        let only = port..=port;
        assert_eq!(
            bind(HOST, Some(&only)).map_err(|e| e.kind()).err(),
            Some(io::ErrorKind::AddrInUse)
        );
        drop(held);
        assert_eq!(bind(HOST, Some(&only))?.local_addr()?.port(), port);
        Ok(())
    }

    #[tokio::test]
    async fn an_empty_range_is_an_error() {
        #[allow(clippy::reversed_empty_ranges, reason = "the case under test")]
        let empty = 5..=4;
        assert!(bind(HOST, Some(&empty)).is_err());
    }
}
