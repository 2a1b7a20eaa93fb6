//! Connections that never leave this machine: from a balancer or a tunnel here, or a program that uses the service where it runs.

use std::net::IpAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Both ends of a connection have an address of this machine's.
pub fn are_one_machine(peer: IpAddr, local: IpAddr) -> bool {
    let (peer, local) = (peer.to_canonical(), local.to_canonical());
    peer == local || (peer.is_loopback() && local.is_loopback())
}

/// Sends without pacing if the other end is on this machine. Where the system's default is BBR, it meters out each 64 KiB by a
/// timer, which costs as much as the copy; there is no network that would need it. A socket that refuses works as before.
pub fn send_unpaced_within_machine(stream: &TcpStream) {
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    if are_one_machine(peer.ip(), local.ip()) {
        // Every Linux has Reno, and without losses all of its kind are alike.
        let _ = SockRef::from(stream).set_tcp_congestion(b"reno");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn one_machine_is_an_address_of_its_own_or_loopback_at_both_ends() {
        let one = |peer: &str, local: &str| {
            are_one_machine(peer.parse().unwrap(), local.parse().unwrap())
        };
        assert!(one("127.0.0.1", "127.0.0.2"));
        assert!(one("::ffff:127.0.0.1", "::ffff:127.0.0.1"));
        assert!(one("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!one("192.0.2.2", "192.0.2.1"));
        assert!(!one("192.0.2.1", "127.0.0.1"));
    }

    #[tokio::test]
    async fn within_the_machine_nothing_is_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(client, listener.accept());
        let (stream, _) = accepted.unwrap();
        send_unpaced_within_machine(&stream);
        let name = SockRef::from(&stream).tcp_congestion().unwrap();
        assert!(name.starts_with(b"reno"), "{name:?}");
    }
}
