//! The words of the repository: ids, times, attributes, names. Plain data without behaviour that
//! could fail at run time; everything above the repository speaks in these types.

use serde::{Deserialize, Serialize};

/// Identifies one node of the namespace (document, folder, symbolic link, special file) for ever.
/// Never reused, unique in the cluster, never zero. A document keeps its id over renames and replaced content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// A node id known to be a document's: what locks, versions and writes refer to.
pub type DocumentId = NodeId;

/// The root of the whole repository. Shares publish subtrees of it.
pub const ROOT: NodeId = NodeId(1);

/// Identifies a published subtree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShareId(pub u32);

/// Identifies a user account for ever; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserId(pub u32);

/// Position of a directory entry in the listing order of its folder: unique, stable while the entry lives,
/// growing with creation. `Cookie(0)` is before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cookie(pub u64);

/// Number of a content version of a document; the first committed content is 1, an empty new document is 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Version(pub u64);

/// Nanoseconds since 1970-01-01T00:00:00Z, negative before. The range covers the years 1678 to 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeKind {
    /// A document: content, versions, streams.
    File,
    /// A folder.
    Directory,
    /// A symbolic link; its target is stored, never followed by the repository.
    Symlink,
    /// A named pipe made over NFS.
    Fifo,
    /// A socket made over NFS.
    Socket,
    /// A character device made over NFS; stored only.
    CharDevice,
    /// A block device made over NFS; stored only.
    BlockDevice,
}

/// DOS attribute bits that are stored (MS-FSCC 2.6): READONLY, HIDDEN, SYSTEM, ARCHIVE, TEMPORARY, SPARSE, OFFLINE,
/// NOT_CONTENT_INDEXED. DIRECTORY and REPARSE_POINT are derived from the kind by those who show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DosAttributes(pub u32);

impl DosAttributes {
    /// Read-only.
    pub const READONLY: u32 = 0x1;
    /// Hidden.
    pub const HIDDEN: u32 = 0x2;
    /// System.
    pub const SYSTEM: u32 = 0x4;
    /// To be archived.
    pub const ARCHIVE: u32 = 0x20;
    /// Temporary.
    pub const TEMPORARY: u32 = 0x100;
    /// Sparse.
    pub const SPARSE: u32 = 0x200;
    /// Offline.
    pub const OFFLINE: u32 = 0x1000;
    /// Not content indexed.
    pub const NOT_INDEXED: u32 = 0x2000;
    /// All bits that are stored.
    pub const STORED: u32 = 0x3327;

    /// Whether all of `bits` are set.
    pub fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Everything that is known about a node but its names, ACL, extended attributes and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The node.
    pub id: NodeId,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, 12 bits (setuid, setgid, sticky, rwxrwxrwx).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Names that point here (folders: 2 + subfolders).
    pub link_count: u32,
    /// Length in bytes of the main content (symlink: of its target).
    pub size: u64,
    /// Bytes of storage held, at least as reported to clients (rounded up to 4096; may include a client's reservation).
    pub allocated: u64,
    /// Last read, as far as kept.
    pub accessed: Timestamp,
    /// Last content change.
    pub modified: Timestamp,
    /// Last change of anything.
    pub changed: Timestamp,
    /// Creation.
    pub created: Timestamp,
    /// Stored DOS attributes.
    pub dos: DosAttributes,
    /// Grows with every change of the node (NFSv4 change attribute); for folders also with every change of their entries.
    pub change_id: u64,
    /// Current content version (documents).
    pub version: Version,
    /// Device numbers of a device node, otherwise 0.
    pub device: (u32, u32),
    /// Whether an ACL of its own is stored; otherwise the mode bits decide.
    pub has_acl: bool,
    /// Total size in bytes of extended attributes as MS-FSCC counts it, 0 if none.
    pub ea_size: u32,
    /// A parent folder (the only one unless the document has several hard links); `None` once unlinked.
    pub parent: Option<NodeId>,
}

/// A set of changes to attributes; `None` leaves a field alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeChange {
    /// New permission bits.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New access time.
    pub accessed: Option<Timestamp>,
    /// New content time.
    pub modified: Option<Timestamp>,
    /// New change time; `None` means now (the repository sets it), as every change of attributes moves it.
    pub changed: Option<Timestamp>,
    /// New creation time.
    pub created: Option<Timestamp>,
    /// New DOS attributes.
    pub dos: Option<DosAttributes>,
}

/// A name, its node and its place in the listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// The name as its creator wrote it (UTF-8, 1 to 255 bytes, no `/`, no NUL, not `.` or `..`).
    pub name: String,
    /// Position in the listing.
    pub cookie: Cookie,
    /// The node's attributes at the time of listing.
    pub attributes: Attributes,
}

/// How a name is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CaseMode {
    /// Byte for byte.
    Sensitive,
    /// An exact match first; otherwise the oldest entry whose folded name (NFC, Unicode simple case folding) is equal.
    Insensitive,
}

/// Whether an access control entry allows or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AceKind {
    /// Grants the mask.
    Allow,
    /// Refuses the mask.
    Deny,
    /// Audit entry: stored and shown, decides nothing.
    Audit,
}

/// Whom an access control entry or an ownership names. Stored by SID so that foreign SIDs survive a round trip.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sid(pub String);

/// One entry: NFSv4-style, the mask in Windows access bits (they are the same bits in RFC 8881 6.2.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ace {
    /// Allow, deny or audit.
    pub kind: AceKind,
    /// Inheritance flags as in MS-DTYP 2.4.4.1 (0x01 object, 0x02 container, 0x04 no propagate, 0x08 inherit only, 0x10 inherited).
    pub flags: u8,
    /// Access mask.
    pub mask: u32,
    /// Trustee.
    pub sid: Sid,
}

/// An access control list with owner and group, as SMB shows it and NFS derives mode bits from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Acl {
    /// Owner SID, if it is not the owner's uid's.
    pub owner: Option<Sid>,
    /// Group SID, likewise.
    pub group: Option<Sid>,
    /// The discretionary entries in their order; `None` is a NULL DACL: everybody may do everything.
    pub dacl: Option<Vec<Ace>>,
    /// The system entries (audit), stored as given.
    pub sacl: Option<Vec<Ace>>,
    /// Control bits worth keeping (MS-DTYP 2.4.6: DACL protected, auto-inherited, ...).
    pub control: u16,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendedAttribute {
    /// Name, case-insensitive over SMB; 1 to 255 bytes.
    pub name: String,
    /// Value, at most 65,535 bytes.
    pub value: Vec<u8>,
}

/// A named stream of a document or folder (MS-FSCC 2.1.5): content beside the main content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// Name without colons.
    pub name: String,
    /// Number of the stream in its node, never 0 (0 is the main content) and never reused in the node.
    pub stream: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes of storage.
    pub allocated: u64,
}

/// What one content operation refers to: the main content of a document or one of its named streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContentId {
    /// The node.
    pub node: NodeId,
    /// 0 for the main content, otherwise `StreamInfo::stream`.
    pub stream: u32,
}

/// A content version kept for restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Its number.
    pub version: Version,
    /// Length in bytes.
    pub size: u64,
    /// When it was committed.
    pub committed: Timestamp,
    /// Who committed it (user name), empty if not known.
    pub author: String,
    /// Through which protocol ("smb", "nfs3", "ftp", ...).
    pub protocol: String,
}

/// Room in the content store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes free for the gateway.
    pub free: u64,
    /// Nodes that exist.
    pub nodes: u64,
}
