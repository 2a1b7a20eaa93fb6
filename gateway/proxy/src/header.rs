//! The binary header of "The PROXY protocol", section 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
pub(crate) const FIXED_LEN: usize = 16;
/// Addresses take 36 bytes; what follows (TLVs) is skipped, and seldom more than some hundred bytes.
const BODY_MAX: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// The balancer speaks for itself (its health check), or does not tell.
    Direct,
    /// It passes a client on.
    Client {
        /// The client.
        client: SocketAddr,
        /// The address that the client called.
        called: SocketAddr,
    },
}

/// The bytes are no header of version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// The signature is missing.
    #[error("the connection does not begin with a PROXY protocol header")]
    Signature,
    /// Another version or an unknown command.
    #[error(
        "the PROXY protocol header has version and command {0:#04x}, not 2 with LOCAL or PROXY"
    )]
    Command(u8),
    /// Longer than any header in use.
    #[error("the PROXY protocol header is {0} bytes long, more than {BODY_MAX}")]
    TooLong(usize),
    /// Shorter than its addresses.
    #[error("the PROXY protocol header ends within its addresses")]
    TooShort,
}

/// Length of what follows the fixed part, which is checked here.
pub(crate) fn rest_len(fixed: &[u8; FIXED_LEN]) -> Result<usize, BadHeader> {
    if fixed[..12] != SIGNATURE {
        return Err(BadHeader::Signature);
    }
    if !matches!(fixed[12], 0x20 | 0x21) {
        return Err(BadHeader::Command(fixed[12]));
    }
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if rest > BODY_MAX {
        return Err(BadHeader::TooLong(rest));
    }
    Ok(rest)
}

/// Reads the addresses. Families other than IPv4 and IPv6 count as "not told", as the protocol demands.
pub(crate) fn decode(fixed: &[u8; FIXED_LEN], body: &[u8]) -> Result<Announced, BadHeader> {
    if fixed[12] == 0x20 {
        return Ok(Announced::Direct);
    }
    match fixed[13] >> 4 {
        1 => {
            let (a, b, ports) = addresses::<4>(body)?;
            Ok(client(
                Ipv4Addr::from(a).into(),
                Ipv4Addr::from(b).into(),
                ports,
            ))
        }
        2 => {
            let (a, b, ports) = addresses::<16>(body)?;
            Ok(client(
                Ipv6Addr::from(a).into(),
                Ipv6Addr::from(b).into(),
                ports,
            ))
        }
        _ => Ok(Announced::Direct),
    }
}

fn client(from: IpAddr, to: IpAddr, ports: [u16; 2]) -> Announced {
    Announced::Client {
        client: SocketAddr::new(from, ports[0]),
        called: SocketAddr::new(to, ports[1]),
    }
}

/// Two addresses of `N` bytes and their ports.
type Pair<const N: usize> = ([u8; N], [u8; N], [u16; 2]);

/// Source and destination address of `N` bytes each, and their ports.
fn addresses<const N: usize>(body: &[u8]) -> Result<Pair<N>, BadHeader> {
    let (from, rest) = body.split_first_chunk::<N>().ok_or(BadHeader::TooShort)?;
    let (to, rest) = rest.split_first_chunk::<N>().ok_or(BadHeader::TooShort)?;
    let (ports, _) = rest.split_first_chunk::<4>().ok_or(BadHeader::TooShort)?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Ok((*from, *to, [port(0), port(2)]))
}
