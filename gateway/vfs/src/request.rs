//! What an open asks for, in protocol-neutral words. SMB CREATE, NFS OPEN and the transfers of FTP all become one of these.

use std::sync::Arc;

use sluice_repo::{Acl, Attributes, DosAttributes, ExtendedAttribute, NodeId, NodeKind};

use crate::listener::CacheListener;
use crate::open::{GrantedCache, Open};
use crate::path::RelPath;

/// Access bits as in MS-SMB2 2.2.13.1 (NFSv4 ACE masks use the same bits, RFC 8881 6.2.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AccessMask(pub u32);

#[allow(missing_docs, reason = "the bits are named as in MS-SMB2 2.2.13.1")]
impl AccessMask {
    pub const READ_DATA: u32 = 0x0000_0001;
    pub const WRITE_DATA: u32 = 0x0000_0002;
    pub const APPEND_DATA: u32 = 0x0000_0004;
    pub const READ_EA: u32 = 0x0000_0008;
    pub const WRITE_EA: u32 = 0x0000_0010;
    pub const EXECUTE: u32 = 0x0000_0020;
    pub const DELETE_CHILD: u32 = 0x0000_0040;
    pub const READ_ATTRIBUTES: u32 = 0x0000_0080;
    pub const WRITE_ATTRIBUTES: u32 = 0x0000_0100;
    pub const DELETE: u32 = 0x0001_0000;
    pub const READ_CONTROL: u32 = 0x0002_0000;
    pub const WRITE_DAC: u32 = 0x0004_0000;
    pub const WRITE_OWNER: u32 = 0x0008_0000;
    pub const SYNCHRONIZE: u32 = 0x0010_0000;
    pub const ACCESS_SYSTEM_SECURITY: u32 = 0x0100_0000;
    pub const MAXIMUM_ALLOWED: u32 = 0x0200_0000;
    pub const GENERIC_ALL: u32 = 0x1000_0000;
    pub const GENERIC_EXECUTE: u32 = 0x2000_0000;
    pub const GENERIC_WRITE: u32 = 0x4000_0000;
    pub const GENERIC_READ: u32 = 0x8000_0000;
    /// Every specific and standard right of a file.
    pub const FILE_ALL: u32 = 0x001f_01ff;

    /// Whether all of `bits` are set.
    pub fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }

    /// Whether any of `bits` is set.
    pub fn any(self, bits: u32) -> bool {
        self.0 & bits != 0
    }
}

/// What an open lets others do while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShareMode {
    /// Others may read.
    pub read: bool,
    /// Others may write.
    pub write: bool,
    /// Others may delete and rename.
    pub delete: bool,
}

impl ShareMode {
    /// Denies nothing.
    pub const ALL: ShareMode = ShareMode {
        read: true,
        write: true,
        delete: true,
    };
    /// Denies everything.
    pub const NONE: ShareMode = ShareMode {
        read: false,
        write: false,
        delete: false,
    };
}

/// What to do when the name exists, and when not (MS-SMB2 2.2.13 CreateDisposition).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Replace if it exists (attributes and streams too), create otherwise.
    Supersede,
    /// Open if it exists, fail otherwise.
    Open,
    /// Fail if it exists, create otherwise.
    Create,
    /// Open or create.
    OpenIf,
    /// Truncate if it exists, fail otherwise.
    Overwrite,
    /// Truncate or create.
    OverwriteIf,
}

/// What happened to the name (MS-SMB2 2.2.14 CreateAction).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CreateAction {
    /// Replaced as a whole.
    Superseded,
    /// Opened as it was.
    Opened,
    /// Made.
    Created,
    /// Truncated.
    Overwritten,
}

/// Which node an open means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By path from the share's root, in the caller's case mode; missing parents are [`crate::VfsError::PathNotFound`].
    Path(RelPath),
    /// An entry of a folder.
    Child(NodeId, String),
    /// A node known by id (NFS handles, SMB open by file id); can't create.
    Node(NodeId),
}

/// What kind of node the caller insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeType {
    /// Whatever is there; a new one becomes a document.
    Any,
    /// Not a folder ([`crate::VfsError::IsDirectory`]).
    NotDirectory,
    /// A folder ([`crate::VfsError::NotDirectory`]).
    Directory,
}

/// Attributes of a node that is about to be made. Owner and group come from the caller's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewNode {
    /// Kind; `None` means document (or what the call implies).
    pub kind: Option<NodeKind>,
    /// Mode bits; `None` means inherited from the folder's ACL, else 0644 or 0755.
    pub mode: Option<u32>,
    /// DOS attributes (applied also on overwrite, MS-FSA 2.1.5.1.2.1).
    pub dos: DosAttributes,
    /// Security descriptor from the client; `None` means inherited.
    pub acl: Option<Acl>,
    /// Extended attributes.
    pub eas: Vec<ExtendedAttribute>,
    /// Reservation in bytes.
    pub allocation: u64,
    /// Target of a symbolic link.
    pub link_target: Option<String>,
    /// Numbers of a device.
    pub device: (u32, u32),
}

/// An oplock level (MS-SMB2 2.2.13 RequestedOplockLevel).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OplockLevel {
    /// None.
    None,
    /// Read caching.
    LevelTwo,
    /// Read and write caching.
    Exclusive,
    /// Read, write and handle caching.
    Batch,
}

/// An SMB lease key (MS-SMB2 2.2.13.2.8); with the client's guid it names the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey(pub [u8; 16]);

/// Lease state bits: read 1, handle 2, write 4 (MS-SMB2 2.2.13.2.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeaseState(pub u32);

#[allow(missing_docs, reason = "the bits are named as in MS-SMB2 2.2.13.2.8")]
impl LeaseState {
    pub const NONE: LeaseState = LeaseState(0);
    pub const READ: u32 = 1;
    pub const HANDLE: u32 = 2;
    pub const WRITE: u32 = 4;
}

/// The caching right that an open asks for; it may get less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheRequest {
    /// None.
    #[default]
    None,
    /// An oplock.
    Oplock(OplockLevel),
    /// A lease. `version` is 1 or 2; `epoch` and `parent` are of version 2.
    Lease {
        /// Its key.
        key: LeaseKey,
        /// What is wanted.
        state: LeaseState,
        /// Key of the lease on the parent folder, for directory leases.
        parent: Option<LeaseKey>,
        /// The client's epoch.
        epoch: u16,
        /// 1 or 2.
        version: u8,
    },
}

/// Switches of an open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// Delete the node when the last open closes (needs DELETE access).
    pub delete_on_close: bool,
    /// Every write is durable before it is answered.
    pub write_through: bool,
    /// Open a symbolic link itself instead of failing with [`crate::VfsError::IsSymlink`].
    pub open_link: bool,
    /// Backup intent: an administrator's open passes permission checks for reading.
    pub backup_intent: bool,
    /// The client polls: answer [`crate::VfsError::Delay`] instead of waiting (NFS).
    pub poll: bool,
    /// Fail at once if granting would need a break (FILE_COMPLETE_IF_OPLOCKED).
    pub complete_if_oplocked: bool,
    /// The client takes again what it had before its node was lost (NLM SHARE): passes what is kept for such.
    pub reclaim: bool,
}

/// One open as a head states it.
#[derive(Clone)]
pub struct OpenRequest {
    /// Which node.
    pub target: Target,
    /// A named stream of it, `None` for the main content.
    pub stream: Option<String>,
    /// Desired access, generic bits and MAXIMUM_ALLOWED included; zero data bits make an attribute-only open that meets no share mode.
    pub access: AccessMask,
    /// What others may do meanwhile.
    pub share: ShareMode,
    /// Existing and missing names.
    pub disposition: Disposition,
    /// Document or folder.
    pub node_type: NodeType,
    /// Attributes if it is made.
    pub new: NewNode,
    /// Switches.
    pub flags: OpenFlags,
    /// Wanted caching right.
    pub cache: CacheRequest,
    /// Where its callbacks go; needed if `cache` asks for anything.
    pub listener: Option<Arc<dyn CacheListener>>,
}

/// A granted open.
pub struct Opened {
    /// The open. Closing it explicitly tells about failures; dropping the last `Arc` closes it in the background.
    pub open: Arc<Open>,
    /// What happened to the name.
    pub action: CreateAction,
    /// The caching right it got.
    pub cache: GrantedCache,
    /// The node after the open.
    pub attributes: Attributes,
}
