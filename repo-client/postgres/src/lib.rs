//! The repository's metadata in a PostgreSQL database that the nodes of a cluster share.
//!
//! Owns the tables, their versions, every statement that reads or changes them, and the registry of the cluster's nodes.
//! Never caches what another node may change, never touches content objects, never decides about locks or permissions.

mod database;
mod error;
mod history;
mod registry;
mod schema;
pub mod server;

pub use database::Database;
pub use history::History;
pub use registry::{PostgresRegistry, RegistryOptions, Survey};
