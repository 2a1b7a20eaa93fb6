//! One TCP connection: framing, credits, signing, encryption, compounds, async ids.

use std::net::SocketAddr;

use sluice_smb_wire::cmd::negotiate::Dialect;
use tokio_util::sync::CancellationToken;

/// What negotiation settled for a connection (MS-SMB2 3.3.1.7).
#[derive(Debug, Clone)]
pub struct Negotiated {
    /// The dialect of all further messages.
    pub dialect: Dialect,
    /// The client's GUID; zero for dialect 2.0.2.
    pub client_guid: [u8; 16],
    /// Capabilities that the client sent.
    pub client_capabilities: u32,
    /// Security mode that the client sent.
    pub client_security_mode: u16,
    /// Capabilities that this server answered with.
    pub server_capabilities: u32,
    /// Security mode that this server answered with.
    pub server_security_mode: u16,
    /// Largest READ, WRITE and transact buffer in bytes.
    pub max_io: u32,
}

/// One client connection.
pub struct Connection {
    /// Where the client is.
    pub peer: SocketAddr,
    /// This server's end of the connection.
    pub local: SocketAddr,
    negotiated: std::sync::OnceLock<Negotiated>,
    closed: CancellationToken,
}

impl Connection {
    /// What was negotiated; `None` before.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.get()
    }

    /// The dialect; before negotiation the oldest one.
    pub fn dialect(&self) -> Dialect {
        self.negotiated().map_or(Dialect::Smb202, |n| n.dialect)
    }

    /// The client's GUID; zero before negotiation.
    pub fn client_guid(&self) -> [u8; 16] {
        self.negotiated().map_or([0; 16], |n| n.client_guid)
    }

    /// Whether requests pay with several credits for large payloads (2.1 and later).
    pub fn multi_credit(&self) -> bool {
        self.dialect() > Dialect::Smb202
    }

    /// Drops the connection at once, as the specification demands after some faults.
    pub fn terminate(&self) {
        self.closed.cancel();
    }
}
