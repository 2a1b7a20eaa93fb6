//! MOUNT v3 (RFC 1813 appendix I) and its older brother v1 (RFC 1094 appendix A).

use crate::nfs3::FileHandle;
use crate::xdr::{Decoder, Encoder, Opaque, Xdr, XdrError};

/// Program number.
pub const PROGRAM: u32 = 100_005;
/// Lowest and highest versions served.
pub const VERSIONS: (u32, u32) = (1, 3);

/// Do nothing.
pub const PROC_NULL: u32 = 0;
/// Path to file handle.
pub const PROC_MNT: u32 = 1;
/// List of mounts.
pub const PROC_DUMP: u32 = 2;
/// Forget a mount.
pub const PROC_UMNT: u32 = 3;
/// Forget all mounts of the caller.
pub const PROC_UMNTALL: u32 = 4;
/// List of exports.
pub const PROC_EXPORT: u32 = 5;

/// Longest path (`MNTPATHLEN`).
pub const PATH_MAX: u32 = 1024;

/// A path on the server (`dirpath`).
pub type DirPath = Opaque<PATH_MAX>;

xdr_enum! {
    /// Outcome of MNT (`mountstat3`).
    pub enum MountStat {
        /// Success.
        Ok = 0,
        /// Not owner.
        Perm = 1,
        /// No such file or directory.
        NoEnt = 2,
        /// Server-side I/O error.
        Io = 5,
        /// Permission denied.
        Acces = 13,
        /// Not a directory.
        NotDir = 20,
        /// Invalid argument.
        Inval = 22,
        /// Name too long.
        NameTooLong = 63,
        /// Not supported.
        NotSupp = 10_004,
        /// Server failure.
        ServerFault = 10_006,
    }
}

/// Result of MNT v3 (`mountres3`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MntRes {
    /// The directory's handle and the authentication flavors accepted there.
    Ok(FileHandle, Vec<u32>),
    /// Refused.
    Fail(MountStat),
}

impl Xdr for MntRes {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        match d.get()? {
            MountStat::Ok => Ok(Self::Ok(d.get()?, d.array(64)?)),
            stat => Ok(Self::Fail(stat)),
        }
    }
    fn encode(&self, e: &mut Encoder) {
        match self {
            Self::Ok(handle, flavors) => {
                e.put(&MountStat::Ok);
                e.put(handle);
                e.u32(flavors.len() as u32);
                for flavor in flavors {
                    e.u32(*flavor);
                }
            }
            Self::Fail(stat) => e.put(stat),
        }
    }
}

/// One export and the client groups that may mount it (`exportnode`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The directory to mount.
    pub dir: DirPath,
    /// Client names or networks; empty means everybody.
    pub groups: Vec<Opaque<255>>,
}

/// Result of EXPORT (`exports`): a linked list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exports(pub Vec<Export>);

impl Xdr for Exports {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        let mut exports = Vec::new();
        while d.bool()? {
            let dir = d.get()?;
            let mut groups = Vec::new();
            while d.bool()? {
                groups.push(d.get()?);
            }
            exports.push(Export { dir, groups });
        }
        Ok(Self(exports))
    }
    fn encode(&self, e: &mut Encoder) {
        for export in &self.0 {
            e.u32(1);
            e.put(&export.dir);
            for group in &export.groups {
                e.u32(1);
                e.put(group);
            }
            e.u32(0);
        }
        e.u32(0);
    }
}
