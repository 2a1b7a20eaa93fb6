//! The SMB2/3 head: dialects 2.0.2 to 3.1.1 over TCP, each request its own task.
//!
//! Owns connections, sessions, tree connects and opens, and turns requests into calls of the file layer.
//! Must never touch storage, locks or policy except through `sluice-vfs`, and never await anything in
//! line with other requests of a connection.

pub mod auth;
pub mod conn;
pub mod crypto;
pub mod op;
pub mod open;
pub mod rpc;
pub mod server;
pub mod session;
pub mod status;

pub use server::{ListenFailed, SmbOptions, SmbServer};
