//! The repository's metadata in one SQLite file: the embedded default.
//!
//! Reads are made in line on a stock of connections, behind caches; changes go through one writer thread with group
//! commit. Owns the file and its schema; never touches content objects, never decides about locks or permissions.

mod cache;
mod checkpoint;
mod error;
mod guard;
mod log_room;
mod name_filter;
mod op;
mod pool;
mod read;
mod repository;
mod row;
mod schema;
mod writer;

pub use repository::{Options, SqliteRepository};
