//! Basic data types of NFSv3 (RFC 1813 2.3 to 2.6).

use crate::xdr::{Decoder, Encoder, Opaque, Payload, Xdr, XdrError};

/// Longest file handle (`NFS3_FHSIZE`).
pub const HANDLE_MAX: u32 = 64;
/// Longest name or link text taken off the wire; what a file system allows is less and told as a status.
pub const TEXT_MAX: u32 = 8192;
/// Most bytes of one READ or WRITE that the codec lets through.
pub const DATA_MAX: u32 = 4 << 20;

/// A file handle as the client holds it (`nfs_fh3`).
pub type FileHandle = Opaque<HANDLE_MAX>;
/// A name in a directory (`filename3`).
pub type FileName = Opaque<TEXT_MAX>;
/// The text of a symbolic link (`nfspath3`).
pub type LinkText = Opaque<TEXT_MAX>;
/// The bytes of READ and WRITE.
pub type Data = Payload<DATA_MAX>;
/// Verifies that unstable writes survived (`writeverf3`).
pub type WriteVerifier = [u8; 8];
/// Verifies that directory cookies still hold (`cookieverf3`).
pub type CookieVerifier = [u8; 8];
/// Marks an exclusive create (`createverf3`).
pub type CreateVerifier = [u8; 8];

xdr_enum! {
    /// Result codes (`nfsstat3`, RFC 1813 2.6).
    pub enum Status {
        /// Success.
        Ok = 0,
        /// Not owner.
        Perm = 1,
        /// No such file or directory.
        NoEnt = 2,
        /// Hard I/O error.
        Io = 5,
        /// No such device.
        NxIo = 6,
        /// Permission denied.
        Acces = 13,
        /// File exists.
        Exist = 17,
        /// Hard link across devices.
        XDev = 18,
        /// No such device.
        NoDev = 19,
        /// Not a directory.
        NotDir = 20,
        /// Is a directory.
        IsDir = 21,
        /// Invalid argument.
        Inval = 22,
        /// File too large.
        FBig = 27,
        /// No space left.
        NoSpc = 28,
        /// Read-only file system.
        RoFs = 30,
        /// Too many hard links.
        MLink = 31,
        /// Name too long.
        NameTooLong = 63,
        /// Directory not empty.
        NotEmpty = 66,
        /// Quota exceeded.
        DQuot = 69,
        /// The handle's object is gone.
        Stale = 70,
        /// Too many levels of remote.
        Remote = 71,
        /// Malformed handle.
        BadHandle = 10_001,
        /// SETATTR guard mismatch.
        NotSync = 10_002,
        /// Stale READDIR cookie.
        BadCookie = 10_003,
        /// Not supported.
        NotSupp = 10_004,
        /// Buffer or request too small.
        TooSmall = 10_005,
        /// Server error that fits nothing else.
        ServerFault = 10_006,
        /// Type not supported by the server.
        BadType = 10_007,
        /// Try again later.
        Jukebox = 10_008,
    }
}

xdr_enum! {
    /// Kinds of objects (`ftype3`).
    pub enum FileType {
        /// Regular file.
        Regular = 1,
        /// Directory.
        Directory = 2,
        /// Block device.
        BlockDevice = 3,
        /// Character device.
        CharDevice = 4,
        /// Symbolic link.
        Symlink = 5,
        /// Socket.
        Socket = 6,
        /// Named pipe.
        Fifo = 7,
    }
}

xdr_struct! {
    /// A point in time (`nfstime3`).
    pub struct Time {
        /// Seconds since 1970, unsigned.
        pub seconds: u32,
        /// Nanoseconds.
        pub nanos: u32,
    }
}

xdr_struct! {
    /// Device numbers (`specdata3`).
    pub struct SpecData {
        /// Major number.
        pub major: u32,
        /// Minor number.
        pub minor: u32,
    }
}

xdr_struct! {
    /// Attributes of an object (`fattr3`).
    pub struct Attributes {
        /// Kind.
        pub file_type: FileType,
        /// Permission bits, without the kind.
        pub mode: u32,
        /// Hard links.
        pub nlink: u32,
        /// Owner.
        pub uid: u32,
        /// Group.
        pub gid: u32,
        /// Length in bytes.
        pub size: u64,
        /// Bytes of storage used.
        pub used: u64,
        /// Device numbers.
        pub rdev: SpecData,
        /// File system.
        pub fsid: u64,
        /// Number of the object in its file system.
        pub fileid: u64,
        /// Last access.
        pub atime: Time,
        /// Last change of content.
        pub mtime: Time,
        /// Last change of attributes.
        pub ctime: Time,
    }
}

/// Attributes if the server has them (`post_op_attr`).
pub type PostOpAttr = Option<Attributes>;
/// A handle if the server gives one (`post_op_fh3`).
pub type PostOpHandle = Option<FileHandle>;

xdr_struct! {
    /// What a client compares to see whether its cache is still right (`wcc_attr`).
    pub struct WccAttr {
        /// Length before.
        pub size: u64,
        /// Content change before.
        pub mtime: Time,
        /// Attribute change before.
        pub ctime: Time,
    }
}

xdr_struct! {
    /// Weak cache consistency data (`wcc_data`).
    pub struct WccData {
        /// Before the operation.
        pub before: Option<WccAttr>,
        /// After the operation.
        pub after: PostOpAttr,
    }
}

impl WccData {
    /// No attributes at hand.
    pub const fn none() -> Self {
        Self {
            before: None,
            after: None,
        }
    }
}

/// A time to set (`set_atime`, `set_mtime`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetTime {
    /// Leave it.
    #[default]
    Keep,
    /// The server's present time.
    ServerNow,
    /// This time, as seconds and nanoseconds since 1970.
    To(u32, u32),
}

impl Xdr for SetTime {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        match d.u32()? {
            0 => Ok(Self::Keep),
            1 => Ok(Self::ServerNow),
            2 => Ok(Self::To(d.u32()?, d.u32()?)),
            value => Err(XdrError::BadEnum {
                what: "time_how",
                value,
            }),
        }
    }
    fn encode(&self, e: &mut Encoder) {
        match *self {
            Self::Keep => e.u32(0),
            Self::ServerNow => e.u32(1),
            Self::To(seconds, nanos) => {
                e.u32(2);
                e.u32(seconds);
                e.u32(nanos);
            }
        }
    }
}

xdr_struct! {
    /// Attributes to set (`sattr3`).
    #[derive(Default)]
    pub struct SetAttributes {
        /// Permission bits.
        pub mode: Option<u32>,
        /// Owner.
        pub uid: Option<u32>,
        /// Group.
        pub gid: Option<u32>,
        /// Length in bytes.
        pub size: Option<u64>,
        /// Last access.
        pub atime: SetTime,
        /// Last change of content.
        pub mtime: SetTime,
    }
}
