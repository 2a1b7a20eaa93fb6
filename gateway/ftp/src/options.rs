//! What the daemon sets for this head. Conversion from the configuration happens there.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Whether connections must, may or can't use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// No login and no data connection without TLS.
    Required,
    /// Clients choose (`AUTH TLS`).
    Offered,
    /// Not offered.
    Off,
}

/// Bounds on what clients may use. Every one has a reply of its own when it is reached.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Control connections in all.
    pub connections_max: usize,
    /// Control connections from one address.
    pub connections_per_address_max: usize,
    /// Wrong passwords on one connection before it is closed.
    pub login_attempts_max: u32,
    /// Time from connect to login.
    pub login_timeout: Duration,
    /// Time without a command and without a transfer.
    pub idle_timeout: Duration,
    /// Time that a data connection may stand still.
    pub transfer_stall_timeout: Duration,
    /// Time for a data connection to come about, its TLS handshake included.
    pub data_connect_timeout: Duration,
    /// Time to wait for a passive port when all of the range are taken: each is held only from PASV to the client's connect.
    pub passive_port_timeout: Duration,
    /// Time for a client to take a reply.
    pub reply_timeout: Duration,
    /// Time that running transfers get at a graceful stop.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 5_000,
            connections_per_address_max: 500,
            login_attempts_max: 5,
            login_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            transfer_stall_timeout: Duration::from_secs(120),
            data_connect_timeout: Duration::from_secs(30),
            passive_port_timeout: Duration::from_secs(5),
            reply_timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(10),
        }
    }
}

/// Options of the FTP head.
#[derive(Clone, Debug)]
pub struct FtpOptions {
    /// Addresses for plain connections, which may go over to TLS.
    pub listen: Vec<SocketAddr>,
    /// Addresses on which TLS starts at once (implicit FTPS, usually port 990).
    pub listen_implicit_tls: Vec<SocketAddr>,
    /// Ports for passive data connections; `None` lets the system choose.
    pub passive_ports: Option<RangeInclusive<u16>>,
    /// Address told in PASV replies instead of the control connection's own, for servers behind address translation.
    pub passive_address: Option<IpAddr>,
    /// Certificate and protocol versions; needed unless `tls_mode` is off.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether TLS is required, offered or off.
    pub tls_mode: TlsMode,
    /// Whether a TLS upload counts as whole only if its end was told by close_notify. Without it, anybody on the way can
    /// cut an upload short unnoticed.
    pub tls_uploads_need_close_notify: bool,
    /// How long the end of a plain upload is doubted. The system ends the connections of a program that dies as cleanly as
    /// those of one that is done, data before control: only the end of the control connection tells them apart, and it comes a
    /// moment later. The wait overlaps with making the bytes durable; it is longer on a busy machine. It ends at once for a program on
    /// this machine while nothing else runs here, and there is none where the client has said how long the document is (ALLO).
    pub upload_end_doubt: Duration,
    /// Load balancers whose connections, control and passive data, begin with a PROXY protocol header.
    pub proxies: sluice_proxy::Proxies,
    /// Whether PORT and EPRT are taken (to the client's own address only).
    pub active_mode: bool,
    /// First words to a client.
    pub banner: String,
    /// Bounds.
    pub limits: Limits,
}

impl Default for FtpOptions {
    fn default() -> Self {
        FtpOptions {
            listen: Vec::new(),
            listen_implicit_tls: Vec::new(),
            passive_ports: None,
            passive_address: None,
            tls: None,
            tls_mode: TlsMode::Off,
            tls_uploads_need_close_notify: true,
            upload_end_doubt: Duration::from_millis(2),
            proxies: sluice_proxy::Proxies::default(),
            active_mode: true,
            banner: "Sluice ready.".to_owned(),
            limits: Limits::default(),
        }
    }
}
