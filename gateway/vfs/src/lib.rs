//! The seam between the protocol heads and everything below: identity, permission check, write policy, lock decision,
//! data, change notification. Outcomes are protocol-neutral; no protocol's status codes, wire structures or sockets appear here.
//!
//! A head authenticates somebody ([`Accounts`]), names the client machine ([`Vfs::client`]), asks for a [`Tree`] (that caller's
//! view of one share) and works through it. Bytes can be read or written only through a value that proves a lock
//! decision: an [`Open`], an [`Upload`], or the momentary calls of a [`Tree`], which take one inside.

mod accounts;
mod admin;
mod carry;
mod coherent;
mod error;
mod fence;
mod host;
mod identity;
mod listener;
mod listing;
mod lock_bridge;
mod lock_notes;
mod memory;
mod metrics;
mod open;
mod orphans;
mod path;
mod permission;
mod places;
mod policy;
mod quota;
mod records;
mod request;
mod share;
mod tree;
mod upload;
mod vfs;
mod watch;
mod working;

pub use accounts::{Accounts, LoginRefused};
pub use admin::{
    Admin, AdminError, AdminResult, CheckRecord, FirstStart, GcRecord, GroupRecord,
    LockExplanation, LockQuery, LockRecord, NewRule, NewUser, Password, PolicyExplanation,
    PolicyQuestion, RuleRecord, RuleVerdict, SessionRecord, ShareChange, ShareRecord,
    SimulatedChange, Simulation, UserRecord, VersionRecord,
};
pub use coherent::MetadataCounts;
pub use error::{Conflict, ConflictKind, HolderInfo, VfsError};
pub use identity::{Caller, Client, ClientId, Identity, Protocol};
pub use listener::{CacheBreak, CacheListener};
pub use listing::{TableRow, render_table, rfc3339};
pub use lock_notes::LockNote;
pub use memory::Peer;
pub use metrics::{ByProtocol, Metrics};
pub use open::{GrantedCache, Open, OpenId, RangeLock, ReadData, Stability};
pub use path::RelPath;
pub use request::{
    AccessMask, CacheRequest, CreateAction, Disposition, LeaseKey, LeaseState, NewNode, NodeType,
    OpenFlags, OpenRequest, Opened, OplockLevel, ShareMode, Target,
};
pub use share::{Share, Squash};
pub use sluice_repo::call::{CallId, within as within_call};
pub use sluice_repo::{
    Ace, AceKind, Acl, AttributeChange, Attributes, CaseMode, ContentId, Cookie, DirEntry,
    DosAttributes, ExtendedAttribute, NodeId, NodeKind, PackCounts, ShareId, Sid, Space,
    StreamInfo, Timestamp, UserId, Version, in_own_task,
};
pub use tree::{
    CreateMode, DirPage, NfsLock, NfsLockAnswer, NfsLockHow, RemoveKind, Tree, WriteReceipt,
};
pub use upload::{Download, Upload, UploadMode, UploadReceipt};
pub use vfs::{Vfs, VfsOptions, VfsTimes};
pub use watch::{Change, ChangeAction, ChangeFilter, Watch};
