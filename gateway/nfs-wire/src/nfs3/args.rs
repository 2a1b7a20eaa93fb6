//! Arguments of the NFSv3 procedures (RFC 1813 3.3).

use super::types::*;
use crate::xdr::{Decoder, Encoder, Xdr, XdrError};

xdr_struct! {
    /// Arguments of GETATTR, READLINK, FSSTAT, FSINFO and PATHCONF: one object.
    pub struct ObjectArgs {
        /// The object.
        pub object: FileHandle,
    }
}

xdr_struct! {
    /// A name in a directory (`diropargs3`): LOOKUP, REMOVE, RMDIR, and part of others.
    pub struct DirOpArgs {
        /// The directory.
        pub dir: FileHandle,
        /// The name in it.
        pub name: FileName,
    }
}

xdr_struct! {
    /// SETATTR (3.3.2).
    pub struct SetattrArgs {
        /// The object.
        pub object: FileHandle,
        /// What to set.
        pub attributes: SetAttributes,
        /// Only if the object's ctime is still this.
        pub guard: Option<Time>,
    }
}

xdr_struct! {
    /// ACCESS (3.3.4).
    pub struct AccessArgs {
        /// The object.
        pub object: FileHandle,
        /// Bits asked for, of the `ACCESS_` constants.
        pub access: u32,
    }
}

/// Read data or list a directory.
pub const ACCESS_READ: u32 = 0x01;
/// Look up names in a directory.
pub const ACCESS_LOOKUP: u32 = 0x02;
/// Rewrite existing data or entries.
pub const ACCESS_MODIFY: u32 = 0x04;
/// Write new data or add entries.
pub const ACCESS_EXTEND: u32 = 0x08;
/// Delete an entry.
pub const ACCESS_DELETE: u32 = 0x10;
/// Execute a file.
pub const ACCESS_EXECUTE: u32 = 0x20;

xdr_struct! {
    /// READ (3.3.6).
    pub struct ReadArgs {
        /// The file.
        pub file: FileHandle,
        /// First byte.
        pub offset: u64,
        /// Bytes wanted.
        pub count: u32,
    }
}

xdr_enum! {
    /// How durable a write has to be or was made (`stable_how`).
    pub enum Stability {
        /// May be lost until COMMIT.
        Unstable = 0,
        /// Data durable, and the metadata needed to find it.
        DataSync = 1,
        /// All durable.
        FileSync = 2,
    }
}

xdr_struct! {
    /// WRITE (3.3.7).
    pub struct WriteArgs {
        /// The file.
        pub file: FileHandle,
        /// First byte.
        pub offset: u64,
        /// Bytes to write; at most as many as `data` holds.
        pub count: u32,
        /// Wanted durability.
        pub stable: Stability,
        /// The bytes.
        pub data: Data,
    }
}

impl WriteArgs {
    /// How durable the WRITE whose arguments come next is to be; leaves them in place.
    pub fn wanted_stability(args: &Decoder) -> Result<Stability, XdrError> {
        let mut ahead = args.clone();
        ahead.get::<FileHandle>()?;
        ahead.u64()?;
        ahead.u32()?;
        ahead.get()
    }
}

/// How CREATE treats an existing file (`createhow3`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CreateHow {
    /// Take an existing file.
    Unchecked(SetAttributes),
    /// Refuse an existing file.
    Guarded(SetAttributes),
    /// Refuse a file that was not made with this verifier.
    Exclusive(CreateVerifier),
}

impl Xdr for CreateHow {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        match d.u32()? {
            0 => Ok(Self::Unchecked(d.get()?)),
            1 => Ok(Self::Guarded(d.get()?)),
            2 => Ok(Self::Exclusive(d.get()?)),
            value => Err(XdrError::BadEnum {
                what: "createmode3",
                value,
            }),
        }
    }
    fn encode(&self, e: &mut Encoder) {
        match self {
            Self::Unchecked(attributes) => {
                e.u32(0);
                e.put(attributes);
            }
            Self::Guarded(attributes) => {
                e.u32(1);
                e.put(attributes);
            }
            Self::Exclusive(verifier) => {
                e.u32(2);
                e.put(verifier);
            }
        }
    }
}

xdr_struct! {
    /// CREATE (3.3.8).
    pub struct CreateArgs {
        /// Where.
        pub target: DirOpArgs,
        /// How.
        pub how: CreateHow,
    }
}

xdr_struct! {
    /// MKDIR (3.3.9).
    pub struct MkdirArgs {
        /// Where.
        pub target: DirOpArgs,
        /// First attributes.
        pub attributes: SetAttributes,
    }
}

xdr_struct! {
    /// SYMLINK (3.3.10).
    pub struct SymlinkArgs {
        /// Where.
        pub target: DirOpArgs,
        /// First attributes.
        pub attributes: SetAttributes,
        /// What the link says.
        pub text: LinkText,
    }
}

/// What MKNOD makes (`mknoddata3`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MknodWhat {
    /// A character device.
    CharDevice(SetAttributes, SpecData),
    /// A block device.
    BlockDevice(SetAttributes, SpecData),
    /// A socket.
    Socket(SetAttributes),
    /// A named pipe.
    Fifo(SetAttributes),
    /// A kind that MKNOD doesn't make.
    Other(FileType),
}

impl Xdr for MknodWhat {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        Ok(match d.get()? {
            FileType::CharDevice => Self::CharDevice(d.get()?, d.get()?),
            FileType::BlockDevice => Self::BlockDevice(d.get()?, d.get()?),
            FileType::Socket => Self::Socket(d.get()?),
            FileType::Fifo => Self::Fifo(d.get()?),
            other => Self::Other(other),
        })
    }
    fn encode(&self, e: &mut Encoder) {
        match self {
            Self::CharDevice(attributes, device) => {
                e.put(&FileType::CharDevice);
                e.put(attributes);
                e.put(device);
            }
            Self::BlockDevice(attributes, device) => {
                e.put(&FileType::BlockDevice);
                e.put(attributes);
                e.put(device);
            }
            Self::Socket(attributes) => {
                e.put(&FileType::Socket);
                e.put(attributes);
            }
            Self::Fifo(attributes) => {
                e.put(&FileType::Fifo);
                e.put(attributes);
            }
            Self::Other(kind) => e.put(kind),
        }
    }
}

xdr_struct! {
    /// MKNOD (3.3.11).
    pub struct MknodArgs {
        /// Where.
        pub target: DirOpArgs,
        /// What.
        pub what: MknodWhat,
    }
}

xdr_struct! {
    /// RENAME (3.3.14).
    pub struct RenameArgs {
        /// The present name.
        pub from: DirOpArgs,
        /// The new name.
        pub to: DirOpArgs,
    }
}

xdr_struct! {
    /// LINK (3.3.15).
    pub struct LinkArgs {
        /// The object.
        pub file: FileHandle,
        /// Its further name.
        pub target: DirOpArgs,
    }
}

xdr_struct! {
    /// READDIR (3.3.16).
    pub struct ReaddirArgs {
        /// The directory.
        pub dir: FileHandle,
        /// Go on after this entry; 0 from the start.
        pub cookie: u64,
        /// Given with the cookie.
        pub verifier: CookieVerifier,
        /// Most bytes of the result.
        pub count: u32,
    }
}

xdr_struct! {
    /// READDIRPLUS (3.3.17).
    pub struct ReaddirplusArgs {
        /// The directory.
        pub dir: FileHandle,
        /// Go on after this entry; 0 from the start.
        pub cookie: u64,
        /// Given with the cookie.
        pub verifier: CookieVerifier,
        /// Most bytes of names, numbers and cookies.
        pub dircount: u32,
        /// Most bytes of the result.
        pub maxcount: u32,
    }
}

xdr_struct! {
    /// COMMIT (3.3.21).
    pub struct CommitArgs {
        /// The file.
        pub file: FileHandle,
        /// First byte.
        pub offset: u64,
        /// Bytes; 0 means to the end.
        pub count: u32,
    }
}
