//! The NFS head: NFSv3, MOUNT, NLM and a minimal portmapper on one TCP port.
//!
//! Owns the protocol: connections, credentials, file handles, retries, status codes. It knows neither storage nor the
//! lock table; every operation goes through [`sluice_vfs`]. Nothing here answers requests of a connection one after the other:
//! each call is a task of its own, bounded in number and bytes, and replies leave in the order in which they are ready.
//!
//! Specifications: RFC 1813 (NFSv3, MOUNT v3, NLM v4), RFC 5531 (RPC), RFC 1833 (portmapper).

mod attr;
mod call;
mod clients;
mod conn;
mod datagram;
mod dispatch;
mod drc;
mod handle;
mod mount;
mod nlm;
mod nsm;
mod portmap;
mod server;
mod status;
mod v3;

pub use server::{BindError, NfsHead, NfsOptions};
