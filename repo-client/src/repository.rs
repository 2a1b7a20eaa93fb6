//! The port to the metadata store: namespace, attributes, content heads, versions, administration records.
//!
//! Every mutating call returns only after its change is durable (invariant I4), except `touch` and a relaxed creation. Every read returns
//! what the last answered mutation left (I5). Calls that change several things change all or nothing.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::accounts::{Group, PolicyRule, Share, User, VersionPolicy};
use crate::call::CallId;
use crate::content::Unsettled;
use crate::error::{RepoError, Result};
use crate::manifest::{Manifest, ObjectId, ObjectRef};
use crate::types::{
    Acl, AttributeChange, Attributes, CaseMode, ContentId, Cookie, DirEntry, DosAttributes,
    ExtendedAttribute, NodeId, ShareId, StreamInfo, Timestamp, UserId, Version, VersionInfo,
};

/// Orders the writers of a document: a repository refuses a commit whose token is older than one that it has seen (I3).
/// On a single node all tokens are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub u64);

/// Names one mutation, so that a retry after a lost reply is not carried out twice. Random, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub u128);

/// Names one writing session (an open, a transfer, a writer's place): commits that follow each other in one session
/// replace each other in the history, so that flushes make no versions. Random, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WriteSession(pub u128);

/// Who changes something, for the history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// User name, empty if not known.
    pub author: Arc<str>,
    /// Protocol ("smb", "nfs3", "nfs4", "ftp", "admin").
    pub protocol: Arc<str>,
}

/// What kind of node to create, with what belongs to the kind.
#[derive(Clone, Debug)]
pub enum NewKind {
    /// A document; with content it has version 1 from the start, without it is empty at version 0.
    File {
        /// Content that is sealed already.
        content: Option<Arc<Manifest>>,
    },
    /// A folder.
    Directory,
    /// A symbolic link to a target of at most 4,096 bytes.
    Symlink {
        /// Where it points; any bytes that are UTF-8.
        target: String,
    },
    /// A pipe or socket.
    Pipe {
        /// Socket instead of FIFO.
        socket: bool,
    },
    /// A device node (stored only).
    Device {
        /// Block instead of character device.
        block: bool,
        /// Major and minor number.
        numbers: (u32, u32),
    },
}

/// Everything about a node to create.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Kind.
    pub kind: NewKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// DOS attributes.
    pub dos: DosAttributes,
    /// Content time, if not now.
    pub modified: Option<Timestamp>,
    /// Access time, if not now.
    pub accessed: Option<Timestamp>,
    /// Creation time, if not now.
    pub created: Option<Timestamp>,
    /// ACL of its own (inheritance is the caller's business).
    pub acl: Option<Arc<Acl>>,
    /// Extended attributes.
    pub eas: Vec<ExtendedAttribute>,
    /// Verifier of an NFS exclusive create (RFC 1813 3.3.8): a repeated create with the same verifier finds its node.
    pub verifier: Option<[u8; 8]>,
    /// Who creates it.
    pub origin: Origin,
    /// The creation may be answered before it is durable: [`Repository::settle`], or anything durable after it, makes it so, and the
    /// repository does by itself within some milliseconds. Its number is never given to another node, even if it is lost.
    pub relaxed: bool,
}

/// Answer to a create.
#[derive(Clone, Debug)]
pub struct Created {
    /// The node.
    pub attributes: Attributes,
    /// The repeated exclusive create found the node that its first try made.
    pub repeated: bool,
    /// The folder after the change.
    pub parent: Attributes,
    /// `change_id` of the folder before it.
    pub parent_change_before: u64,
}

/// An entry found by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name as stored (differs from the wanted one in case or composition).
    pub name: Arc<str>,
    /// Its node.
    pub attributes: Attributes,
}

/// A node that lost a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlinked {
    /// Its attributes after that; `link_count` 0 if it was the last name.
    pub attributes: Attributes,
    /// It is on the orphan list and waits for `release`.
    pub orphaned: bool,
    /// The folder after the change.
    pub parent: Attributes,
    /// `change_id` of the folder before it.
    pub parent_change_before: u64,
}

/// What becomes of a node whose last name goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// Deleted with all its content and versions.
    Delete,
    /// Kept without a name until `release` (or the next start): someone has it open.
    Orphan,
}

/// Which node an operation on a name expects to find there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRef<'a> {
    /// Folder.
    pub parent: NodeId,
    /// Name, exactly as stored.
    pub name: &'a str,
    /// If given, the call fails with `Stale` when the name leads to another node by now.
    pub node: Option<NodeId>,
}

/// What a rename does with an entry that has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Fails with `Exists`.
    No,
    /// Replaces it in the same transaction if it is this node (a document, or an empty folder by a folder).
    Node(NodeId, LastLink),
}

/// Answer to a rename.
#[derive(Clone, Debug)]
pub struct Renamed {
    /// The node that moved.
    pub attributes: Attributes,
    /// What was replaced.
    pub replaced: Option<Unlinked>,
    /// Both names already led to the same node: nothing happened (POSIX rename).
    pub same_node: bool,
    /// Old and new folder after the change, with their `change_id` before it.
    pub old_parent: (Attributes, u64),
    /// New folder likewise.
    pub new_parent: (Attributes, u64),
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct DirPage {
    /// Entries in listing order.
    pub entries: Vec<DirEntry>,
    /// There is nothing after the last one.
    pub end: bool,
}

/// Current content of a document or stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its version.
    pub version: Version,
    /// Where it is.
    pub manifest: Arc<Manifest>,
}

/// A content version to be made the current one.
#[derive(Clone, Debug)]
pub struct Commit {
    /// What gets it.
    pub content: ContentId,
    /// The version it started from; anything else being current is `Conflict`.
    pub base: Version,
    /// The writer's right.
    pub fence: FencingToken,
    /// For retries.
    pub op: OpId,
    /// For the history.
    pub session: WriteSession,
    /// The sealed content.
    pub manifest: Arc<Manifest>,
    /// Further attributes to set with it (`modified`: content time, now if `None`).
    pub change: AttributeChange,
    /// Who.
    pub origin: Origin,
    /// History to keep, if not the repository's default.
    pub versions: Option<VersionPolicy>,
}

/// A commit that is done.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The new current version.
    pub version: Version,
    /// The node after it.
    pub attributes: Attributes,
}

/// Result of looking through the metadata for contradictions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Nodes looked at.
    pub nodes: u64,
    /// Content versions looked at.
    pub versions: u64,
    /// Contradictions, one sentence each (at most 1,000 are listed).
    pub problems: Vec<String>,
    /// How many of them were repaired.
    pub repaired: u64,
}

/// Objects that one content version refers to, for check and gc.
#[derive(Clone, Debug)]
pub struct VersionRefs {
    /// Of what.
    pub content: ContentId,
    /// Which version.
    pub version: Version,
    /// Its objects.
    pub objects: Vec<ObjectRef>,
}

/// The metadata store. `Arc<dyn Repository>` is shared by everything in the process.
#[async_trait]
pub trait Repository: Send + Sync {
    // Names

    /// Finds one entry; `NotFound` if there is none, `NotDirectory` if `parent` is no folder.
    async fn lookup(&self, parent: NodeId, name: &str, case: CaseMode) -> Result<Found>;

    /// Walks down from `start` as far as folders and names go. Fewer results than `names` mean that the next one does not exist (if the
    /// last found is a folder) or that the last found is no folder (a link is not followed).
    async fn resolve(&self, start: NodeId, names: &[&str], case: CaseMode) -> Result<Vec<Found>>;

    /// Attributes of a node; `Stale` if it is gone. Orphans are still there.
    async fn get(&self, node: NodeId) -> Result<Attributes>;

    /// At most `limit` entries after `after`, without `.` and `..`.
    async fn read_dir(&self, dir: NodeId, after: Cookie, limit: usize) -> Result<DirPage>;

    /// Folders and names from the root down to the node, its own name last: `(folder, name)`; empty for the root.
    /// A document with several names gives its oldest. `NotFound` if it has none any more.
    async fn path_of(&self, node: NodeId) -> Result<Vec<(NodeId, Arc<str>)>>;

    /// Target of a symbolic link.
    async fn read_link(&self, node: NodeId) -> Result<String>;

    /// Creates a node; `Exists` if the name is taken under `case`.
    async fn create(
        &self,
        parent: NodeId,
        name: &str,
        case: CaseMode,
        new: NewNode,
    ) -> Result<Created>;

    /// Creates a node after what its content consists of was made durable. If that fails nothing was created, and
    /// [`Unsettled::has_failed`] says so.
    async fn create_with(
        &self,
        parent: NodeId,
        name: &str,
        case: CaseMode,
        new: NewNode,
        unsettled: Arc<dyn Unsettled>,
    ) -> Result<Created> {
        unsettled.settle()?;
        self.create(parent, name, case, new).await
    }

    /// A number for all changes that were seen until now ([`Repository::settle_seen`]). Cheap.
    fn seen(&self) -> u64 {
        0
    }

    /// Makes everything durable that could be seen when this number was told. Cheap when it is already.
    async fn settle_seen(&self, _seen: u64) -> Result<()> {
        Ok(())
    }

    /// Makes relaxed creations that were answered before durable. Cheap when they are already.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Adds a name to a document (hard link); `WrongKind` for a folder.
    async fn link(
        &self,
        node: NodeId,
        parent: NodeId,
        name: &str,
        case: CaseMode,
    ) -> Result<Created>;

    /// Removes a name. A folder must be empty (`NotEmpty`).
    async fn unlink(&self, entry: NameRef<'_>, last: LastLink) -> Result<Unlinked>;

    /// The last open of an orphan is closed: deletes it. No error if it is gone or has a name.
    async fn release(&self, node: NodeId) -> Result<()>;

    /// Moves an entry, replacing atomically as `replace` says. Under `CaseMode::Insensitive` an entry that differs only in case from the
    /// new name counts as having it, unless it is the moved one itself.
    async fn rename(
        &self,
        from: NameRef<'_>,
        parent: NodeId,
        name: &str,
        case: CaseMode,
        replace: Replace,
    ) -> Result<Renamed>;

    // Attributes

    /// Changes attributes and returns them. With `guard` (RFC 1813 3.3.2) the change is refused with `GuardMismatch` unless
    /// the node's change time is equal to it.
    async fn set_attributes(
        &self,
        node: NodeId,
        change: AttributeChange,
        guard: Option<Timestamp>,
    ) -> Result<Attributes>;

    /// Notes an access time; may be lost in a crash, costs nothing now.
    fn touch(&self, node: NodeId, accessed: Timestamp);

    /// The ACL that is stored, if there is one.
    async fn acl(&self, node: NodeId) -> Result<Option<Arc<Acl>>>;

    /// Stores or removes the ACL, with attributes to change along (mode bits, owner) in one step.
    async fn set_acl(
        &self,
        node: NodeId,
        acl: Option<Arc<Acl>>,
        change: AttributeChange,
    ) -> Result<Attributes>;

    /// All extended attributes, in the order of their creation.
    async fn eas(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>>;

    /// Sets each of `eas`; an empty value removes it (MS-FSCC 2.4.16). Names are equal without regard to ASCII case.
    async fn set_eas(&self, node: NodeId, eas: Vec<ExtendedAttribute>) -> Result<Attributes>;

    // Streams

    /// Named streams of a node.
    async fn streams(&self, node: NodeId) -> Result<Vec<StreamInfo>>;

    /// Makes an empty named stream; `Exists` if there is one (without regard to case).
    async fn create_stream(&self, node: NodeId, name: &str) -> Result<StreamInfo>;

    /// Renames a stream; replaces another one if `replace`.
    async fn rename_stream(&self, content: ContentId, name: &str, replace: bool) -> Result<()>;

    /// Deletes a stream with its content.
    async fn delete_stream(&self, content: ContentId) -> Result<()>;

    // Content

    /// Current version and content; version 0 and nothing for a new document.
    async fn head(&self, content: ContentId) -> Result<Head>;

    /// Makes sealed contents the current ones, each on its own: one refusal leaves the others alone. The answers are in order.
    async fn commit(&self, commits: Vec<Commit>) -> Vec<Result<Committed>>;

    /// Makes a sealed content the current one after what it consists of was made durable. If that fails nothing was committed, and
    /// [`Unsettled::has_failed`] says so.
    async fn commit_with(
        &self,
        commit: Commit,
        unsettled: Arc<dyn Unsettled>,
    ) -> Result<Committed> {
        unsettled.settle()?;
        let answer = self.commit(vec![commit]).await.pop();
        answer.unwrap_or_else(|| Err(RepoError::Unavailable("no answer to a commit".to_owned())))
    }

    /// Old versions that are kept, newest first, the current one before them.
    async fn versions(&self, document: NodeId) -> Result<Vec<VersionInfo>>;

    /// Content of a kept version.
    async fn version(&self, document: NodeId, version: Version) -> Result<Arc<Manifest>>;

    /// Makes the content of a kept version the current one again, as a new version on top of `base`.
    async fn restore(
        &self,
        document: NodeId,
        version: Version,
        base: Version,
        fence: FencingToken,
        origin: Origin,
    ) -> Result<Committed>;

    // Administration

    /// Whether changes can become durable, as far as it is known without trying; the error says why not, with the remedy. Cheap.
    fn sound(&self) -> Result<()> {
        Ok(())
    }

    /// Grows with every change of users, groups, shares or policy: who caches them compares it. Cheap.
    fn records_generation(&self) -> u64;
    /// All users, by name.
    async fn users(&self) -> Result<Vec<User>>;
    /// Adds (id 0) or replaces a user; `Exists` if name, uid or SID belong to another.
    async fn put_user(&self, user: User) -> Result<User>;
    /// Removes a user.
    async fn remove_user(&self, user: UserId) -> Result<()>;
    /// All groups, by name.
    async fn groups(&self) -> Result<Vec<Group>>;
    /// Adds or replaces the group of this name; `Exists` if gid or SID belong to another.
    async fn put_group(&self, group: Group) -> Result<()>;
    /// Removes a group.
    async fn remove_group(&self, name: &str) -> Result<()>;
    /// All shares, by name.
    async fn shares(&self) -> Result<Vec<Share>>;
    /// Adds (id 0) or replaces a share; `Exists` if the name belongs to another.
    async fn put_share(&self, share: Share) -> Result<Share>;
    /// Stops publishing; the documents stay.
    async fn remove_share(&self, share: ShareId) -> Result<()>;
    /// All policy rules, by number.
    async fn policies(&self) -> Result<Vec<PolicyRule>>;
    /// Adds (id 0) or replaces a rule.
    async fn put_policy(&self, rule: PolicyRule) -> Result<PolicyRule>;
    /// Removes a rule.
    async fn remove_policy(&self, rule: u64) -> Result<()>;

    /// A setting of the cluster (keys, machine SID, ...).
    async fn setting(&self, key: &str) -> Result<Option<Bytes>>;
    /// Stores a setting.
    async fn put_setting(&self, key: &str, value: Bytes) -> Result<()>;
    /// Stores a setting unless there is one; returns the one that holds. For keys that are made once.
    async fn setting_or(&self, key: &str, value: Bytes) -> Result<Bytes>;
    /// Adds 1 to a durable counter and returns it; the first answer is 1 (boot number, write verifier).
    async fn next_counter(&self, key: &str) -> Result<u64>;

    // Calls

    /// Whether a change was made on behalf of this call within the last minutes (see [`crate::call`]). A repository of one process
    /// need not know: the process remembers what it answered.
    async fn carried_out(&self, call: CallId) -> Result<bool>;

    // NFS locks

    /// Notes that this node's NFS clients may have locks on a document from now on, so that it is kept for them if the node is lost.
    async fn note_locked(&self, document: NodeId) -> Result<()>;
    /// They have none on these documents, nor had any in the node's former lives that they may take again.
    async fn forget_locked(&self, documents: Vec<NodeId>) -> Result<()>;
    /// What was noted and not forgotten in this life of the node and in those before it.
    async fn noted_locked(&self) -> Result<Vec<NodeId>>;

    // Housekeeping

    /// Nodes without a name that whoever unlinked them can't release any more, because it is a member of the cluster no longer.
    /// Others may have them open: release those that nobody has. A repository of one process deletes them when it is opened.
    async fn abandoned_orphans(&self) -> Result<Vec<NodeId>> {
        Ok(Vec::new())
    }
    /// Nodes that exist.
    async fn node_count(&self) -> Result<u64>;
    /// Objects that no version needs any more and that were given up at least `age_s` seconds ago.
    async fn garbage(&self, age_s: u64, limit: usize) -> Result<Vec<ObjectId>>;
    /// These objects are deleted.
    async fn forget_garbage(&self, objects: Vec<ObjectId>) -> Result<()>;
    /// Of these objects, those that were given up count as given up just now: this node still reads them. Others are left alone.
    /// A repository of one process need not do anything: the process knows what it reads.
    async fn keep_garbage(&self, objects: Vec<ObjectId>) -> Result<()>;
    /// The member epochs that may still commit, in a cluster: objects that carry one of them ([`ObjectId::uploader`]) may be named by
    /// a commit to come, and none that carries another. `None`: this process is the only one.
    async fn uploaders(&self) -> Result<Option<HashSet<u64>>>;
    /// Lengths of the current contents of all documents and streams below a folder, added up; a document with several names there
    /// counts once. What shares' quotas are compared with.
    async fn usage(&self, root: NodeId) -> Result<u64>;
    /// What the versions of the contents after `after` refer to, in order, for at most `limit` versions; an empty answer is the end.
    async fn references(
        &self,
        after: Option<(ContentId, Version)>,
        limit: usize,
    ) -> Result<Vec<VersionRefs>>;
    /// Looks for contradictions in the metadata and repairs them if asked.
    async fn check(&self, repair: bool) -> Result<CheckReport>;
    /// Writes everything out and stops accepting changes; for a planned stop.
    async fn close(&self) -> Result<()>;
}
