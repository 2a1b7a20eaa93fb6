//! What can go wrong in the repository: a closed set that the vfs maps to its outcomes.

use crate::types::{NodeId, Version};

/// Outcome of a repository call that was not carried out. Nothing has changed when one of these is returned,
/// except for [`RepoError::Unavailable`], where it is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepoError {
    /// No such name, node, stream, attribute, version or record.
    #[error("no such entry")]
    NotFound,
    /// The node id was valid once; the node is gone.
    #[error("node {} is gone", .0.0)]
    Stale(NodeId),
    /// The name (or record) is taken.
    #[error("the name exists already")]
    Exists,
    /// A folder was needed.
    #[error("not a folder")]
    NotDirectory,
    /// A folder was given where a document is needed.
    #[error("is a folder")]
    IsDirectory,
    /// The folder still has entries.
    #[error("the folder is not empty")]
    NotEmpty,
    /// The name is not one that the repository stores: empty, `.`, `..`, a slash or NUL in it.
    #[error("invalid name")]
    InvalidName,
    /// The name is longer than 255 bytes (or a target or value is over its limit).
    #[error("name too long")]
    NameTooLong,
    /// A folder can't move into itself.
    #[error("a folder can't be moved into itself")]
    IntoItself,
    /// The node is of a kind that can't do this (a hard link to a folder, content of a link).
    #[error("not possible for this kind of entry")]
    WrongKind,
    /// More names, streams or attributes than one node may have.
    #[error("too many links, streams or attributes")]
    TooMany,
    /// The document is larger than the repository stores.
    #[error("the document would be too large")]
    TooLarge,
    /// The base version of a commit is not the current one: someone else committed in between.
    #[error("the document is at version {} now", .0.0)]
    Conflict(Version),
    /// The change time is not the one that the caller expects.
    #[error("the entry has changed since")]
    GuardMismatch,
    /// The change was made before, on behalf of the same call of a client (see [`crate::call`]).
    #[error("the call was carried out before")]
    Repeated,
    /// The fencing token is older than one that was seen: the writer has lost its right.
    #[error("the writer's right has been superseded")]
    Fenced,
    /// No room in the content store or the database.
    #[error("no space left in the repository")]
    NoSpace,
    /// The store refuses writes (read-only folder or file system).
    #[error("the repository's storage is read-only: {0}")]
    ReadOnly(String),
    /// Stored bytes do not match their checksum, or a reference leads nowhere.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// Another process has the repository open.
    #[error("{0}")]
    InUse(String),
    /// The database or content store did not answer, or failed in a way that may pass.
    #[error("the repository is not available: {0}")]
    Unavailable(String),
}

/// Result of a repository call.
pub type Result<T> = std::result::Result<T, RepoError>;
