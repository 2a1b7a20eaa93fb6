//! NFS version 3 (RFC 1813): data types, arguments and results of all 21 procedures.

mod args;
mod res;
mod types;

pub use args::*;
pub use res::*;
pub use types::*;

/// Program number of NFS.
pub const PROGRAM: u32 = 100_003;
/// The version of this module.
pub const VERSION: u32 = 3;

xdr_enum! {
    /// The procedures (RFC 1813 3.3).
    pub enum Procedure {
        /// 3.3.0: do nothing.
        Null = 0,
        /// 3.3.1: get attributes.
        Getattr = 1,
        /// 3.3.2: set attributes.
        Setattr = 2,
        /// 3.3.3: name to handle.
        Lookup = 3,
        /// 3.3.4: check access.
        Access = 4,
        /// 3.3.5: read a symbolic link.
        Readlink = 5,
        /// 3.3.6: read.
        Read = 6,
        /// 3.3.7: write.
        Write = 7,
        /// 3.3.8: create a file.
        Create = 8,
        /// 3.3.9: create a directory.
        Mkdir = 9,
        /// 3.3.10: create a symbolic link.
        Symlink = 10,
        /// 3.3.11: create a special file.
        Mknod = 11,
        /// 3.3.12: remove a file.
        Remove = 12,
        /// 3.3.13: remove a directory.
        Rmdir = 13,
        /// 3.3.14: rename.
        Rename = 14,
        /// 3.3.15: create a hard link.
        Link = 15,
        /// 3.3.16: list a directory.
        Readdir = 16,
        /// 3.3.17: list a directory with attributes and handles.
        Readdirplus = 17,
        /// 3.3.18: dynamic file system state.
        Fsstat = 18,
        /// 3.3.19: static file system information.
        Fsinfo = 19,
        /// 3.3.20: POSIX limits.
        Pathconf = 20,
        /// 3.3.21: make unstable writes durable.
        Commit = 21,
    }
}

impl Procedure {
    /// Whether doing it twice differs from doing it once, so that its reply must be kept for retries.
    pub fn is_non_idempotent(self) -> bool {
        matches!(
            self,
            Self::Setattr
                | Self::Create
                | Self::Mkdir
                | Self::Symlink
                | Self::Mknod
                | Self::Remove
                | Self::Rmdir
                | Self::Rename
                | Self::Link
        )
    }

    /// The name for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Getattr => "GETATTR",
            Self::Setattr => "SETATTR",
            Self::Lookup => "LOOKUP",
            Self::Access => "ACCESS",
            Self::Readlink => "READLINK",
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::Create => "CREATE",
            Self::Mkdir => "MKDIR",
            Self::Symlink => "SYMLINK",
            Self::Mknod => "MKNOD",
            Self::Remove => "REMOVE",
            Self::Rmdir => "RMDIR",
            Self::Rename => "RENAME",
            Self::Link => "LINK",
            Self::Readdir => "READDIR",
            Self::Readdirplus => "READDIRPLUS",
            Self::Fsstat => "FSSTAT",
            Self::Fsinfo => "FSINFO",
            Self::Pathconf => "PATHCONF",
            Self::Commit => "COMMIT",
        }
    }
}
