//! Content in a folder or a bucket: immutable objects under never-reused names, working contents on top of them.
//!
//! Owns the bytes of documents between a client's write and the commit that makes them visible. Never knows names,
//! locks or versions; never changes an object that is stored.

mod buffers;
mod changes;
mod fetch;
mod folder;
mod mark;
mod objects;
mod pack;
mod piece;
#[cfg(feature = "s3")]
mod s3;
mod store;
mod upload;
mod working;

pub use folder::Folder;
pub use objects::Objects;
#[cfg(feature = "s3")]
pub use s3::{S3, S3Options};
pub use store::{Options, Store};

/// Largest object, and the grid on which documents are cut into objects.
pub const CHUNK_BYTES: u32 = 4 << 20;
