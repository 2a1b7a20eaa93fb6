//! The NFS head from outside: a real server on a loopback port over a scratch repository, and a bare RPC client.

mod client;
mod data;
mod listing;
mod locks;
mod lost;
mod names;
mod protocol;
mod retries;
mod server;
mod spy;
