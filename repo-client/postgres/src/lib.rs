//! The repository's metadata in a PostgreSQL database that the nodes of a cluster share.
//!
//! Owns the tables, their versions, every statement that reads or changes them, and the registry of the cluster's nodes.
//! Never caches what another node may change, never touches content objects, never decides about locks or permissions.

mod change;
mod check;
mod commit;
mod database;
mod error;
mod facts;
mod history;
mod lane;
mod read;
mod reader;
mod registry;
mod repository;
mod row;
mod schema;
pub mod server;
mod session;
mod watch;

pub use database::Database;
pub use facts::ServerFacts;
pub use history::History;
pub use registry::{PostgresRegistry, RegistryOptions, Survey};
pub use repository::{Options, PostgresRepository, Writer};
