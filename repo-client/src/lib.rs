//! The repository as the gateway sees it: namespace, attributes, versions, content references, accounts, shares.
//! Owns the words and the port (trait) for it; never a driver, a lock or a protocol.

mod types;

pub use types::*;
