//! File layer outcomes as NTSTATUS: one exhaustive match.
//!
//! Commands whose specification wants another code for an outcome say so where they handle it.

use sluice_smb_wire::NtStatus;
use sluice_vfs::{ConflictKind, VfsError};

/// The status that tells a client about `error`.
pub fn status_of(error: &VfsError) -> NtStatus {
    match error {
        VfsError::NotFound => NtStatus::OBJECT_NAME_NOT_FOUND,
        VfsError::PathNotFound => NtStatus::OBJECT_PATH_NOT_FOUND,
        VfsError::Exists => NtStatus::OBJECT_NAME_COLLISION,
        VfsError::NotDirectory => NtStatus::NOT_A_DIRECTORY,
        VfsError::IsDirectory => NtStatus::FILE_IS_A_DIRECTORY,
        VfsError::IsSymlink(_) => NtStatus::STOPPED_ON_SYMLINK,
        VfsError::NotEmpty => NtStatus::DIRECTORY_NOT_EMPTY,
        VfsError::AccessDenied
        | VfsError::NotOwner
        | VfsError::ReadOnlyAttribute
        | VfsError::PolicyDenied(_) => NtStatus::ACCESS_DENIED,
        VfsError::CannotDelete => NtStatus::CANNOT_DELETE,
        VfsError::Conflict(conflict) => match conflict.kind {
            ConflictKind::Sharing => NtStatus::SHARING_VIOLATION,
            ConflictKind::RangeIo => NtStatus::FILE_LOCK_CONFLICT,
            ConflictKind::RangeLock => NtStatus::LOCK_NOT_GRANTED,
        },
        VfsError::Delay => NtStatus::SHARING_VIOLATION,
        VfsError::ReadOnlyShare => NtStatus::MEDIA_WRITE_PROTECTED,
        VfsError::DeletePending => NtStatus::DELETE_PENDING,
        VfsError::OpenLost | VfsError::Stale => NtStatus::FILE_CLOSED,
        VfsError::NameInvalid | VfsError::NameTooLong => NtStatus::OBJECT_NAME_INVALID,
        VfsError::NoSpace | VfsError::QuotaExceeded => NtStatus::DISK_FULL,
        VfsError::TooLarge | VfsError::Invalid(_) | VfsError::IntoItself => {
            NtStatus::INVALID_PARAMETER
        }
        VfsError::NotSupported(_) => NtStatus::NOT_SUPPORTED,
        VfsError::CrossShare => NtStatus::NOT_SAME_DEVICE,
        VfsError::TooManyLinks => NtStatus::TOO_MANY_LINKS,
        VfsError::RangeNotLocked => NtStatus::RANGE_NOT_LOCKED,
        VfsError::RangeInvalid => NtStatus::INVALID_LOCK_RANGE,
        VfsError::Deadlock => NtStatus::LOCK_NOT_GRANTED,
        VfsError::NotSame => NtStatus::OBJECT_NAME_COLLISION,
        VfsError::Cancelled => NtStatus::CANCELLED,
        VfsError::Corrupt => NtStatus::DATA_ERROR,
        VfsError::Unavailable(_) => NtStatus::FILE_NOT_AVAILABLE,
        VfsError::Io => NtStatus::UNEXPECTED_IO_ERROR,
        VfsError::Limit(_) => NtStatus::INSUFFICIENT_RESOURCES,
    }
}
