//! The FTP head: RFC 959 with TLS (2228, 4217), features (2389), IPv6 (2428), internationalization (2640), machine-readable listings
//! (3659), MFMT/MFCT and HASH.
//!
//! Owns the protocol from socket to reply text. Knows no storage, no locks and no cluster: everything goes through `sluice-vfs`.
//! Three layers: [`codec`] (bytes to commands, no I/O), the session (a plain state machine: command in, step out), and a thin runtime that
//! carries steps out. An upload appears whole or not at all, and its 226 is sent only after the commit.

mod admission;
mod cmd;
pub mod codec;
mod context;
mod control;
mod data;
mod options;
mod path;
mod reply;
mod server;
mod session;
mod work;

pub use options::{FtpOptions, Limits, TlsMode};
pub use server::{FtpServer, StartError};
