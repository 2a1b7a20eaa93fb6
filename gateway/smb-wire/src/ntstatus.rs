//! NTSTATUS values that a file server answers with (MS-ERREF 2.3.1).

/// A status of a response. Prints as its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NtStatus(pub u32);

impl NtStatus {
    /// True for error severity: the response body is an ERROR response unless the command says otherwise.
    pub fn is_error(self) -> bool {
        self.0 >> 30 == 3
    }
}

impl core::fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => write!(f, "STATUS_{name}"),
            None => write!(f, "0x{:08x}", self.0),
        }
    }
}

impl core::fmt::Display for NtStatus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, f)
    }
}

/// Declares the constants and the name of each from one list.
macro_rules! statuses {
    ($($name:ident = $code:literal, $doc:literal;)*) => {
        impl NtStatus {
            $(#[doc = $doc] pub const $name: NtStatus = NtStatus($code);)*

            /// The name without its `STATUS_` prefix, if the code is one of the list.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0x0000_0000, "The operation succeeded.";
    PENDING = 0x0000_0103, "The operation goes on; the final response comes later.";
    NOTIFY_CLEANUP = 0x0000_010b, "The watched directory handle was closed.";
    NOTIFY_ENUM_DIR = 0x0000_010c, "Changes were lost; the client must list again.";
    SOME_NOT_MAPPED = 0x0000_0107, "Some names were not translated.";
    BUFFER_OVERFLOW = 0x8000_0005, "The data was cut to the buffer.";
    NO_MORE_FILES = 0x8000_0006, "The listing has ended.";
    STOPPED_ON_SYMLINK = 0x8000_002d, "The path met a symbolic link.";
    NO_MORE_EAS = 0x8000_0012, "No more extended attributes.";
    EA_LIST_INCONSISTENT = 0x8000_0014, "The extended attribute list is malformed.";
    INVALID_EA_NAME = 0x8000_0013, "The extended attribute name is invalid.";
    UNSUCCESSFUL = 0xc000_0001, "The operation failed.";
    NOT_IMPLEMENTED = 0xc000_0002, "The request is not implemented.";
    INVALID_INFO_CLASS = 0xc000_0003, "The information class is unknown.";
    INFO_LENGTH_MISMATCH = 0xc000_0004, "The length does not fit the information class.";
    INVALID_HANDLE = 0xc000_0008, "The handle is invalid.";
    INVALID_PARAMETER = 0xc000_000d, "A field of the request is invalid.";
    NO_SUCH_DEVICE = 0xc000_000e, "There is no such device.";
    NO_SUCH_FILE = 0xc000_000f, "The file does not exist.";
    INVALID_DEVICE_REQUEST = 0xc000_0010, "The request does not apply to the object.";
    END_OF_FILE = 0xc000_0011, "The read begins past the end of the file.";
    MORE_PROCESSING_REQUIRED = 0xc000_0016, "The exchange needs another message.";
    NO_MEMORY = 0xc000_0017, "There is no memory left.";
    ACCESS_DENIED = 0xc000_0022, "Access is denied.";
    BUFFER_TOO_SMALL = 0xc000_0023, "The buffer is too small.";
    OBJECT_TYPE_MISMATCH = 0xc000_0024, "The object has another type.";
    OBJECT_NAME_INVALID = 0xc000_0033, "The name is not valid.";
    OBJECT_NAME_NOT_FOUND = 0xc000_0034, "The name does not exist.";
    OBJECT_NAME_COLLISION = 0xc000_0035, "The name exists.";
    OBJECT_PATH_INVALID = 0xc000_0039, "The path is not valid.";
    OBJECT_PATH_NOT_FOUND = 0xc000_003a, "A directory of the path does not exist.";
    OBJECT_PATH_SYNTAX_BAD = 0xc000_003b, "The path is malformed.";
    DATA_ERROR = 0xc000_003e, "Stored data is damaged.";
    SHARING_VIOLATION = 0xc000_0043, "Another open denies the access.";
    EAS_NOT_SUPPORTED = 0xc000_004f, "Extended attributes are not supported.";
    EA_TOO_LARGE = 0xc000_0050, "The extended attribute is too large.";
    NONEXISTENT_EA_ENTRY = 0xc000_0051, "The extended attribute does not exist.";
    FILE_LOCK_CONFLICT = 0xc000_0054, "A byte-range lock of another denies the access.";
    LOCK_NOT_GRANTED = 0xc000_0055, "The lock is not granted.";
    DELETE_PENDING = 0xc000_0056, "The file is about to be deleted.";
    PRIVILEGE_NOT_HELD = 0xc000_0061, "The user lacks a privilege.";
    WRONG_PASSWORD = 0xc000_006a, "The password is wrong.";
    LOGON_FAILURE = 0xc000_006d, "The user name or password is wrong.";
    ACCOUNT_DISABLED = 0xc000_0072, "The account is disabled.";
    NONE_MAPPED = 0xc000_0073, "No name was translated.";
    RANGE_NOT_LOCKED = 0xc000_007e, "The range is not locked.";
    DISK_FULL = 0xc000_007f, "The storage is full.";
    INVALID_LOCK_RANGE = 0xc000_01a1, "The range of the lock is invalid.";
    INSUFFICIENT_RESOURCES = 0xc000_009a, "A limit of the server is reached.";
    MEDIA_WRITE_PROTECTED = 0xc000_00a2, "The storage is read-only.";
    DEVICE_NOT_READY = 0xc000_00a3, "The storage is not ready.";
    INSTANCE_NOT_AVAILABLE = 0xc000_00ab, "No pipe instance is available.";
    PIPE_NOT_AVAILABLE = 0xc000_00ac, "The pipe is not available.";
    INVALID_PIPE_STATE = 0xc000_00ad, "The pipe is in a wrong state.";
    PIPE_BUSY = 0xc000_00ae, "The pipe is busy.";
    PIPE_DISCONNECTED = 0xc000_00b0, "The pipe is disconnected.";
    PIPE_CLOSING = 0xc000_00b1, "The pipe is closing.";
    PIPE_EMPTY = 0xc000_00d9, "The pipe has no data.";
    IO_TIMEOUT = 0xc000_00b5, "The operation took too long.";
    FILE_IS_A_DIRECTORY = 0xc000_00ba, "The object is a directory.";
    NOT_SUPPORTED = 0xc000_00bb, "The request is not supported.";
    BAD_DEVICE_TYPE = 0xc000_00cb, "The share has another type.";
    BAD_NETWORK_NAME = 0xc000_00cc, "There is no such share.";
    NETWORK_NAME_DELETED = 0xc000_00c9, "The tree connect is gone.";
    REQUEST_NOT_ACCEPTED = 0xc000_00d0, "The server takes no more connections.";
    NOT_SAME_DEVICE = 0xc000_00d4, "The names lie on different volumes.";
    FILE_RENAMED = 0xc000_00d5, "The file was renamed.";
    INVALID_OPLOCK_PROTOCOL = 0xc000_00e3, "The oplock acknowledgment does not fit.";
    INTERNAL_ERROR = 0xc000_00e5, "The server failed.";
    UNEXPECTED_IO_ERROR = 0xc000_00e9, "The storage failed.";
    DIRECTORY_NOT_EMPTY = 0xc000_0101, "The directory is not empty.";
    NOT_A_DIRECTORY = 0xc000_0103, "The object is not a directory.";
    CANCELLED = 0xc000_0120, "The request was cancelled.";
    CANNOT_DELETE = 0xc000_0121, "The file cannot be deleted.";
    FILE_DELETED = 0xc000_0123, "The file was deleted.";
    FILE_CLOSED = 0xc000_0128, "The file is closed.";
    FS_DRIVER_REQUIRED = 0xc000_019c, "The path leads to a DFS link.";
    REQUEST_ABORTED = 0xc000_0240, "The request was given up.";
    PATH_NOT_COVERED = 0xc000_0257, "The path is not on this server.";
    NOT_FOUND = 0xc000_0225, "The object was not found.";
    USER_SESSION_DELETED = 0xc000_0203, "The session is gone.";
    NETWORK_SESSION_EXPIRED = 0xc000_035c, "The session has expired.";
    INVALID_NETWORK_RESPONSE = 0xc000_00c3, "The network response is invalid.";
    DUPLICATE_OBJECTID = 0xc000_022a, "The identifier is taken.";
    VOLUME_DISMOUNTED = 0xc000_026e, "The volume is gone.";
    INVALID_DEVICE_STATE = 0xc000_0184, "The object is in a state that forbids the request.";
    IO_DEVICE_ERROR = 0xc000_0185, "The storage reported an error.";
    NOT_A_REPARSE_POINT = 0xc000_0275, "The file is no reparse point.";
    TOO_MANY_OPENED_FILES = 0xc000_011f, "Too many files are open.";
    TOO_MANY_LINKS = 0xc000_0265, "The file has too many links.";
    INVALID_SIGNATURE = 0xc000_a000, "The signature is wrong.";
    HASH_NOT_SUPPORTED = 0xc000_a100, "The hash is not supported.";
    SERVER_UNAVAILABLE = 0xc000_0466, "The server cannot take the request now.";
    FILE_NOT_AVAILABLE = 0xc000_0467, "The file is temporarily not available.";
    SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP = 0xc05d_0000, "No common preauthentication hash.";
    SMB_BAD_CLUSTER_DIALECT = 0xc05d_0001, "The dialect does not fit the cluster.";
    INVALID_SECURITY_DESCR = 0xc000_0079, "The security descriptor is invalid.";
    INVALID_OWNER = 0xc000_005a, "The owner is not allowed.";
    INVALID_ACL = 0xc000_0077, "The access list is invalid.";
    NAME_TOO_LONG = 0xc000_0106, "The name is too long.";
    LOGON_TYPE_NOT_GRANTED = 0xc000_015b, "The user may not log on this way.";
    FILE_SYSTEM_LIMITATION = 0xc000_0427, "A limit of the storage is reached.";
    QUOTA_EXCEEDED = 0xc000_0044, "The quota is exceeded.";
    REVISION_MISMATCH = 0xc000_0059, "The revision does not match.";
    OPLOCK_NOT_GRANTED = 0xc000_00e2, "The oplock is not granted.";
    OPLOCK_BREAK_IN_PROGRESS = 0x0000_0108, "An oplock break is going on.";
    LOGON_SESSION_COLLISION = 0xc000_0105, "The logon session exists.";
    NO_SUCH_LOGON_SESSION = 0xc000_005f, "There is no such logon session.";
    BAD_IMPERSONATION_LEVEL = 0xc000_00a5, "The impersonation level is invalid.";
    NO_EAS_ON_FILE = 0xc000_0052, "The file has no extended attributes.";
    INVALID_VIEW_SIZE = 0xc000_001f, "The range lies outside the source.";
    REQUEST_OUT_OF_SEQUENCE = 0xc000_042a, "The request does not fit the state of the session.";
    OFFSET_ALIGNMENT = 0xc000_0474, "The offset is not aligned.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_prints_its_name_and_knows_its_severity() {
        assert_eq!(NtStatus::ACCESS_DENIED.to_string(), "STATUS_ACCESS_DENIED");
        assert_eq!(NtStatus(0xc123_4567).to_string(), "0xc1234567");
        assert!(NtStatus::ACCESS_DENIED.is_error());
        assert!(!NtStatus::BUFFER_OVERFLOW.is_error());
        assert!(!NtStatus::PENDING.is_error());
    }
}
