//! The harness of the project's tests with real clients: starts the built `sluice` in a scratch folder on free loopback
//! ports, makes users, calls clients, and stops what it started.

pub mod cluster;
pub mod history;
pub mod load;
pub mod node;
pub mod tools;
pub mod wire;

pub use sluice_clients as clients;
