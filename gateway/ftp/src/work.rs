//! What a session asks of the file layer, in FTP's words, and what comes back. Pure data: carried out in `cmd`.

use sluice_vfs::{Timestamp, UploadMode};

use crate::codec::command::{HashAlgorithm, Secret, TransferType};
use crate::codec::facts::FactSet;
use crate::path::VirtualPath;
use crate::reply::Reply;
use crate::session::Change;

/// The form of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListStyle {
    /// LIST: `ls -l`.
    Long,
    /// NLST: names; those of a named folder with its name before them (RFC 1123 4.1.2.7).
    Names,
    /// MLSD: facts.
    Facts(FactSet),
}

/// One listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListRequest {
    pub(crate) path: VirtualPath,
    /// The argument as given, without options: what NLST puts before the names.
    pub(crate) given: String,
    pub(crate) style: ListStyle,
    /// `-a`: `.` and `..` too.
    pub(crate) dots: bool,
    /// `-d`: the folder itself, not its entries.
    pub(crate) itself: bool,
}

/// One download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetrieveRequest {
    pub(crate) path: VirtualPath,
    pub(crate) transfer_type: TransferType,
    /// First byte, from REST or RANG.
    pub(crate) start: u64,
    /// First byte not wanted any more, from RANG.
    pub(crate) end: u64,
}

/// One upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreRequest {
    pub(crate) path: VirtualPath,
    pub(crate) transfer_type: TransferType,
    pub(crate) mode: UploadMode,
    /// STOU: `path` is a beginning to which a free name is found.
    pub(crate) unique: bool,
    /// Bytes that the client has said it would send (ALLO).
    pub(crate) announced: Option<u64>,
}

/// How a hash is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HashStyle {
    /// HASH: 213 with algorithm and range.
    Hash,
    /// XCRC, XMD5 and the like: 250 with the digest alone.
    Bare,
}

/// One request to the file layer.
pub(crate) enum Work {
    Login {
        user: String,
        password: Secret,
    },
    ChangeDirectory(VirtualPath),
    MakeDirectory(VirtualPath),
    RemoveDirectory(VirtualPath),
    Delete(VirtualPath),
    RenameFrom(VirtualPath),
    Rename {
        from: VirtualPath,
        to: VirtualPath,
    },
    Size(VirtualPath),
    ModifiedTime(VirtualPath),
    SetModified {
        path: VirtualPath,
        modified: Timestamp,
        told_as_fact: bool,
    },
    SetCreated {
        path: VirtualPath,
        created: Timestamp,
    },
    SetMode {
        path: VirtualPath,
        mode: u32,
    },
    Hash {
        path: VirtualPath,
        algorithm: HashAlgorithm,
        range: Option<(u64, u64)>,
        style: HashStyle,
    },
    Facts {
        path: VirtualPath,
        facts: FactSet,
    },
    StatPath(ListRequest),
    List(ListRequest),
    Retrieve(RetrieveRequest),
    Store(StoreRequest),
}

impl Work {
    /// Whether it moves bytes over a data connection.
    pub(crate) fn needs_data(&self) -> bool {
        matches!(self, Work::List(_) | Work::Retrieve(_) | Work::Store(_))
    }
}

/// How a work ended.
pub(crate) struct Done {
    pub(crate) reply: Reply,
    pub(crate) change: Option<Change>,
}

impl From<Reply> for Done {
    fn from(reply: Reply) -> Done {
        Done {
            reply,
            change: None,
        }
    }
}
