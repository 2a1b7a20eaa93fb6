//! The closed set of outcomes that are not a success. Each head maps every one of them in its `status.rs`, exhaustively.

use std::time::{Duration, SystemTime};

use crate::identity::Protocol;

/// Who stands in the way: enough to tell a person whom to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderInfo {
    /// Through which protocol the holder works.
    pub protocol: Protocol,
    /// User name, empty if unknown.
    pub user: String,
    /// Client address without port.
    pub client: String,
    /// What the client calls itself, may be empty.
    pub client_name: String,
    /// Node that serves the holder.
    pub node: String,
    /// Since when.
    pub since: SystemTime,
    /// What is held, in words ("open for write, denies writers").
    pub what: String,
}

/// Which kind of right was in conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictKind {
    /// Access against share mode, either way; a writer's place; an upload.
    Sharing,
    /// An I/O request met a byte range locked by another.
    RangeIo,
    /// A byte-range lock request met another's lock.
    RangeLock,
}

/// A refusal because of what somebody else holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What kind.
    pub kind: ConflictKind,
    /// The first holder found in the way.
    pub holder: HolderInfo,
    /// How long a retry should wait, a hint.
    pub retry_after: Duration,
}

/// Why a request was not carried out. Expected contention is an outcome here, not an error to log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VfsError {
    /// The last component (or the node, or the stream) does not exist.
    #[error("no such file or directory")]
    NotFound,
    /// A component before the last does not exist.
    #[error("a parent folder does not exist")]
    PathNotFound,
    /// The name exists already.
    #[error("the name exists already")]
    Exists,
    /// A folder was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A document was needed.
    #[error("is a directory")]
    IsDirectory,
    /// A symbolic link stood where it can't be followed; carries its target.
    #[error("is a symbolic link")]
    IsSymlink(String),
    /// The folder has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// Permissions (ACL or mode bits) refuse.
    #[error("permission denied")]
    AccessDenied,
    /// Only the owner or an administrator may do this.
    #[error("only the owner may do this")]
    NotOwner,
    /// The document's read-only attribute refuses writing (SMB: the attribute, not permissions).
    #[error("the document is read-only")]
    ReadOnlyAttribute,
    /// The document's read-only attribute refuses deletion.
    #[error("the document is read-only and can't be deleted")]
    CannotDelete,
    /// Somebody else's open, range, place or upload is in the way.
    #[error("in use by {user} over {protocol}", user = .0.holder.user, protocol = .0.holder.protocol.name())]
    Conflict(Box<Conflict>),
    /// As [`VfsError::Conflict`], but the rule says to wait: the client is to ask again later (only for callers that poll, NFS).
    #[error("in use; try again")]
    Delay,
    /// A write policy rule denies writing here through this protocol; carries the rule's name.
    #[error("writing is denied by rule {0}")]
    PolicyDenied(String),
    /// The share is read-only.
    #[error("the share is read-only")]
    ReadOnlyShare,
    /// Marked for deletion; goes when its last open closes.
    #[error("the document is being deleted")]
    DeletePending,
    /// The open was closed, revoked by an administrator or lost.
    #[error("the open was closed or revoked")]
    OpenLost,
    /// The name can't exist (empty, `.`, `..`, contains `/` or NUL).
    #[error("the name is not valid")]
    NameInvalid,
    /// A component is over 255 bytes or the path over the limit.
    #[error("the name is too long")]
    NameTooLong,
    /// The content store is full.
    #[error("no space left in the content store")]
    NoSpace,
    /// The share's quota is used up.
    #[error("the share's quota is used up")]
    QuotaExceeded,
    /// Offset or size beyond what a document can have.
    #[error("too large")]
    TooLarge,
    /// The node no longer exists (a handle outlived it) or lies outside the share.
    #[error("the node no longer exists")]
    Stale,
    /// A request that makes no sense, whatever the state.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// Not offered for this node or share.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// Source and destination lie in different shares.
    #[error("source and destination lie in different shares")]
    CrossShare,
    /// A directory would be moved into itself.
    #[error("a directory can't be moved into itself")]
    IntoItself,
    /// Too many hard links or entries.
    #[error("too many links")]
    TooManyLinks,
    /// An unlock named a range that this owner has not locked.
    #[error("the range is not locked")]
    RangeNotLocked,
    /// A range end beyond 2^64 - 1.
    #[error("the range is not valid")]
    RangeInvalid,
    /// Waiting in a circle; this request would never be granted.
    #[error("deadlock between lock owners")]
    Deadlock,
    /// A setattr guard or exclusive-create verifier did not match.
    #[error("changed meanwhile")]
    NotSame,
    /// The request was cancelled by its client.
    #[error("cancelled")]
    Cancelled,
    /// Stored content does not match its checksum; nothing false is returned.
    #[error("stored content is damaged")]
    Corrupt,
    /// The stores can't be reached or this node may not act at the moment.
    #[error("the repository is not available: {0}")]
    Unavailable(String),
    /// Any other failure of the stores, already logged where it happened.
    #[error("input/output error")]
    Io,
    /// A limit of this server (opens, locks, waiters) is reached.
    #[error("a server limit is reached: {0}")]
    Limit(&'static str),
}

impl From<sluice_repo::RepoError> for VfsError {
    fn from(error: sluice_repo::RepoError) -> VfsError {
        use sluice_repo::RepoError as R;
        match error {
            R::NotFound => VfsError::NotFound,
            R::Stale(_) => VfsError::Stale,
            R::Exists => VfsError::Exists,
            R::NotDirectory => VfsError::NotDirectory,
            R::IsDirectory => VfsError::IsDirectory,
            R::NotEmpty => VfsError::NotEmpty,
            R::InvalidName => VfsError::NameInvalid,
            R::NameTooLong => VfsError::NameTooLong,
            R::IntoItself => VfsError::IntoItself,
            R::WrongKind => VfsError::NotSupported("not possible for this kind of node"),
            R::TooMany => VfsError::TooManyLinks,
            R::TooLarge => VfsError::TooLarge,
            R::GuardMismatch => VfsError::NotSame,
            // The head that named the call asks what became of it and does not tell this.
            R::Repeated => VfsError::Exists,
            R::NoSpace => VfsError::NoSpace,
            R::ReadOnly(why) => {
                tracing::error!(why, "the repository's storage refuses writes");
                VfsError::ReadOnlyShare
            }
            R::Corrupt(what) => {
                tracing::error!(what, "stored content is damaged");
                VfsError::Corrupt
            }
            R::Conflict(version) => {
                tracing::error!(version = version.0, "a commit met a newer version");
                VfsError::Io
            }
            R::Fenced => VfsError::Unavailable(
                "this node has lost its right to write the document".to_owned(),
            ),
            R::InUse(why) | R::Unavailable(why) => VfsError::Unavailable(why),
        }
    }
}
