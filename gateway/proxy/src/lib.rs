//! PROXY protocol version 2, as load balancers speak it before a connection's own bytes: who the client really is. And what all heads
//! do for connections that stay within this machine, as a balancer's there do: sending unpaced, and busy polling.
//!
//! Owns the header's decoding and the rule whose word is taken. A header is believed, and demanded, only from the addresses that
//! the administrator named: anybody else could claim to be another client. Never touches a byte behind the header.

mod busy_poll;
mod header;
mod local;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

pub use busy_poll::BusyPollReader;
pub use header::{Announced, BadHeader};
pub use local::{are_one_machine, send_unpaced_within_machine};

/// Time for the whole header; a balancer sends it with the first packet.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The load balancers whose connections begin with a header. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Arc<[IpNet]>);

/// The two ends of a connection as the client sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// The address that it called, if the balancer told it.
    pub called: Option<SocketAddr>,
}

/// Why a balancer's connection is dropped.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It sent something else.
    #[error(
        "{0}; let the balancer send PROXY protocol version 2 or take it out of node.proxy_protocol_from"
    )]
    Header(#[from] BadHeader),
    /// The header did not come in time.
    #[error(
        "no PROXY protocol header within {HEADER_TIMEOUT:?}; let the balancer send version 2 or take it out of node.proxy_protocol_from"
    )]
    Late,
    /// The connection broke.
    #[error("the connection broke before its PROXY protocol header: {0}")]
    Io(#[from] std::io::Error),
}

impl Proxies {
    /// Believes connections from these networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Proxies(networks.into_iter().collect())
    }

    /// Whether connections from this address begin with a header.
    pub fn includes(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Who is at the other end. Takes the header off the stream if `peer` is a balancer; reads nothing otherwise.
    ///
    /// # Errors
    /// [`ProxyError`]: drop the connection.
    pub async fn ends(&self, stream: &mut TcpStream, peer: SocketAddr) -> Result<Ends, ProxyError> {
        let direct = Ends {
            client: peer,
            called: None,
        };
        if !self.includes(peer.ip()) {
            return Ok(direct);
        }
        let read = tokio::time::timeout(HEADER_TIMEOUT, read_header(stream)).await;
        Ok(match read.map_err(|_| ProxyError::Late)?? {
            Announced::Direct => direct,
            Announced::Client { client, called } => Ends {
                client,
                called: Some(called),
            },
        })
    }
}

async fn read_header(stream: &mut TcpStream) -> Result<Announced, ProxyError> {
    let mut fixed = [0; header::FIXED_LEN];
    stream.read_exact(&mut fixed).await?;
    let rest = header::rest_len(&fixed)?;
    let mut body = vec![0; rest];
    stream.read_exact(&mut body).await?;
    Ok(header::decode(&fixed, &body)?)
}

#[cfg(test)]
mod tests;
