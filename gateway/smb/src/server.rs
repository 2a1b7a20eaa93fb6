//! The server as a whole: options, tables that span connections, start and stop.

/// State shared by all connections.
pub struct Server {
    /// This server's GUID.
    pub guid: [u8; 16],
    /// When this server started.
    pub started: std::time::SystemTime,
}
