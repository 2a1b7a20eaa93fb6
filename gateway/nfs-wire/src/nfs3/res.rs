//! Results of the NFSv3 procedures (RFC 1813 3.3).

use super::args::Stability;
use super::types::*;
use crate::xdr::{Decoder, Encoder, Xdr, XdrError};

/// A result: `T` after [`Status::Ok`], otherwise the status with `F`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Res<T, F> {
    /// Done.
    Ok(T),
    /// Refused or failed, never with [`Status::Ok`].
    Fail(Status, F),
}

impl<T, F> Res<T, F> {
    /// The status that stands in front.
    pub fn status(&self) -> Status {
        match self {
            Self::Ok(_) => Status::Ok,
            Self::Fail(status, _) => *status,
        }
    }
}

impl<T: Xdr, F: Xdr> Xdr for Res<T, F> {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        match d.get()? {
            Status::Ok => Ok(Self::Ok(d.get()?)),
            status => Ok(Self::Fail(status, d.get()?)),
        }
    }
    fn encode(&self, e: &mut Encoder) {
        e.put(&self.status());
        match self {
            Self::Ok(ok) => e.put(ok),
            Self::Fail(_, fail) => e.put(fail),
        }
    }
}

/// Result of GETATTR.
pub type GetattrRes = Res<Attributes, ()>;
/// Result of SETATTR, REMOVE and RMDIR.
pub type WccRes = Res<WccData, WccData>;
/// Result of LOOKUP.
pub type LookupRes = Res<LookupOk, PostOpAttr>;
/// Result of ACCESS.
pub type AccessRes = Res<AccessOk, PostOpAttr>;
/// Result of READLINK.
pub type ReadlinkRes = Res<ReadlinkOk, PostOpAttr>;
/// Result of READ.
pub type ReadRes = Res<ReadOk, PostOpAttr>;
/// Result of WRITE.
pub type WriteRes = Res<WriteOk, WccData>;
/// Result of CREATE, MKDIR, SYMLINK and MKNOD.
pub type CreateRes = Res<CreateOk, WccData>;
/// Result of RENAME.
pub type RenameRes = Res<RenameWcc, RenameWcc>;
/// Result of LINK.
pub type LinkRes = Res<LinkWcc, LinkWcc>;
/// Result of READDIR.
pub type ReaddirRes = Res<ReaddirOk, PostOpAttr>;
/// Result of READDIRPLUS.
pub type ReaddirplusRes = Res<ReaddirplusOk, PostOpAttr>;
/// Result of FSSTAT.
pub type FsstatRes = Res<FsstatOk, PostOpAttr>;
/// Result of FSINFO.
pub type FsinfoRes = Res<FsinfoOk, PostOpAttr>;
/// Result of PATHCONF.
pub type PathconfRes = Res<PathconfOk, PostOpAttr>;
/// Result of COMMIT.
pub type CommitRes = Res<CommitOk, WccData>;

xdr_struct! {
    /// LOOKUP found it.
    pub struct LookupOk {
        /// The object.
        pub object: FileHandle,
        /// Its attributes.
        pub attributes: PostOpAttr,
        /// The directory's attributes.
        pub dir_attributes: PostOpAttr,
    }
}

xdr_struct! {
    /// What ACCESS grants.
    pub struct AccessOk {
        /// The object's attributes.
        pub attributes: PostOpAttr,
        /// Granted bits.
        pub access: u32,
    }
}

xdr_struct! {
    /// What the link says.
    pub struct ReadlinkOk {
        /// The link's attributes.
        pub attributes: PostOpAttr,
        /// Its text.
        pub text: LinkText,
    }
}

xdr_struct! {
    /// Data read.
    pub struct ReadOk {
        /// The file's attributes.
        pub attributes: PostOpAttr,
        /// Bytes read.
        pub count: u32,
        /// Whether the file ends here.
        pub eof: bool,
        /// The bytes.
        pub data: Data,
    }
}

xdr_struct! {
    /// Data written.
    pub struct WriteOk {
        /// The file before and after.
        pub wcc: WccData,
        /// Bytes written.
        pub count: u32,
        /// Durability reached.
        pub committed: Stability,
        /// Changes when unstable data may have been lost.
        pub verifier: WriteVerifier,
    }
}

xdr_struct! {
    /// An object made.
    pub struct CreateOk {
        /// The object.
        pub object: PostOpHandle,
        /// Its attributes.
        pub attributes: PostOpAttr,
        /// The directory before and after.
        pub dir_wcc: WccData,
    }
}

xdr_struct! {
    /// Both directories of a RENAME.
    pub struct RenameWcc {
        /// The directory left.
        pub from: WccData,
        /// The directory entered.
        pub to: WccData,
    }
}

xdr_struct! {
    /// File and directory of a LINK.
    pub struct LinkWcc {
        /// The file's attributes.
        pub attributes: PostOpAttr,
        /// The directory before and after.
        pub dir_wcc: WccData,
    }
}

/// A list of entries as a chain of optional items, then whether the directory ends here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirList<E> {
    /// The entries.
    pub entries: Vec<E>,
    /// Whether the directory ends here.
    pub eof: bool,
}

impl<E: Xdr> Xdr for DirList<E> {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        let mut entries = Vec::new();
        while d.bool()? {
            entries.push(d.get()?);
        }
        Ok(Self {
            entries,
            eof: d.bool()?,
        })
    }
    fn encode(&self, e: &mut Encoder) {
        for entry in &self.entries {
            e.u32(1);
            e.put(entry);
        }
        e.u32(0);
        e.put(&self.eof);
    }
}

xdr_struct! {
    /// An entry of READDIR.
    pub struct Entry {
        /// The object's number.
        pub fileid: u64,
        /// Its name.
        pub name: FileName,
        /// Where to go on.
        pub cookie: u64,
    }
}

impl Entry {
    /// Bytes on the wire, the mark that an entry follows included.
    pub fn wire_len(name_len: usize) -> usize {
        4 + 8 + 4 + name_len.next_multiple_of(4) + 8
    }
}

xdr_struct! {
    /// A page of a directory.
    pub struct ReaddirOk {
        /// The directory's attributes.
        pub dir_attributes: PostOpAttr,
        /// To be given back with cookies.
        pub verifier: CookieVerifier,
        /// The entries.
        pub list: DirList<Entry>,
    }
}

xdr_struct! {
    /// An entry of READDIRPLUS.
    pub struct EntryPlus {
        /// The object's number.
        pub fileid: u64,
        /// Its name.
        pub name: FileName,
        /// Where to go on.
        pub cookie: u64,
        /// The object's attributes.
        pub attributes: PostOpAttr,
        /// The object's handle.
        pub handle: PostOpHandle,
    }
}

impl EntryPlus {
    /// Most bytes on the wire with attributes and handle, the mark that an entry follows included.
    pub fn wire_len(name_len: usize, handle_len: usize) -> usize {
        Entry::wire_len(name_len) + 4 + ATTRIBUTES_BYTES + 8 + handle_len.next_multiple_of(4)
    }
}

/// Bytes of [`Attributes`] on the wire.
pub const ATTRIBUTES_BYTES: usize = 84;

xdr_struct! {
    /// A page of a directory with attributes.
    pub struct ReaddirplusOk {
        /// The directory's attributes.
        pub dir_attributes: PostOpAttr,
        /// To be given back with cookies.
        pub verifier: CookieVerifier,
        /// The entries.
        pub list: DirList<EntryPlus>,
    }
}

xdr_struct! {
    /// Space and files of a file system.
    pub struct FsstatOk {
        /// The object's attributes.
        pub attributes: PostOpAttr,
        /// Bytes in all.
        pub total_bytes: u64,
        /// Bytes free.
        pub free_bytes: u64,
        /// Bytes free for the caller.
        pub available_bytes: u64,
        /// Files in all.
        pub total_files: u64,
        /// Files free.
        pub free_files: u64,
        /// Files free for the caller.
        pub available_files: u64,
        /// Seconds for which this is not expected to change.
        pub invariant_seconds: u32,
    }
}

/// The file system has hard links.
pub const FSF_LINK: u32 = 0x01;
/// The file system has symbolic links.
pub const FSF_SYMLINK: u32 = 0x02;
/// PATHCONF is the same everywhere.
pub const FSF_HOMOGENEOUS: u32 = 0x08;
/// SETATTR can set times.
pub const FSF_CANSETTIME: u32 = 0x10;

xdr_struct! {
    /// Limits and abilities of a file system.
    pub struct FsinfoOk {
        /// The object's attributes.
        pub attributes: PostOpAttr,
        /// Most bytes of a READ.
        pub read_max: u32,
        /// Best size of a READ.
        pub read_preferred: u32,
        /// Best multiple for a READ.
        pub read_multiple: u32,
        /// Most bytes of a WRITE.
        pub write_max: u32,
        /// Best size of a WRITE.
        pub write_preferred: u32,
        /// Best multiple for a WRITE.
        pub write_multiple: u32,
        /// Best size of a READDIR.
        pub readdir_preferred: u32,
        /// Largest file.
        pub file_size_max: u64,
        /// Granularity of times.
        pub time_delta: Time,
        /// `FSF_` bits.
        pub properties: u32,
    }
}

xdr_struct! {
    /// POSIX limits.
    pub struct PathconfOk {
        /// The object's attributes.
        pub attributes: PostOpAttr,
        /// Most hard links of a file.
        pub link_max: u32,
        /// Longest name.
        pub name_max: u32,
        /// Whether longer names are refused, not cut.
        pub no_trunc: bool,
        /// Whether only the superuser may change owners.
        pub chown_restricted: bool,
        /// Whether names that differ in case only are the same.
        pub case_insensitive: bool,
        /// Whether names keep their case.
        pub case_preserving: bool,
    }
}

xdr_struct! {
    /// Writes made durable.
    pub struct CommitOk {
        /// The file before and after.
        pub wcc: WccData,
        /// The verifier that covers them.
        pub verifier: WriteVerifier,
    }
}
