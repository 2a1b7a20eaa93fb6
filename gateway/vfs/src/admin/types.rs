//! What comes into the administration and what comes out: plain data with a JSON form.

use std::fmt;

use serde::{Deserialize, Serialize};
use sluice_repo::{CaseMode, OnConflict, RepoError, RuleProtocol, Squash, WriteRule, Writers};

use crate::error::VfsError;
use crate::identity::Protocol;

/// Why an administrative call was not carried out: one sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// What was named does not exist; nothing has changed.
    #[error("{0}")]
    NotFound(String),
    /// The name (or number) is taken.
    #[error("{0}")]
    Exists(String),
    /// A value that can't be; says which and what would be right.
    #[error("{0}")]
    Invalid(String),
    /// The repository refused or failed.
    #[error("the repository refused: {0}")]
    Repository(#[from] RepoError),
    /// The file layer refused (somebody holds the document, for example).
    #[error("{0}")]
    Refused(#[from] VfsError),
}

/// Result of an administrative call.
pub type AdminResult<T> = Result<T, AdminError>;

/// A password on its way in. Never shown, not even in debug output.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl From<String> for Password {
    fn from(password: String) -> Self {
        Password(password)
    }
}

/// A user to be made (`sluice user add`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewUser {
    /// Login name: 1 to 64 characters, no `/ \ : * ? " < > | [ ] ; = , + @` and no control characters.
    pub name: String,
    /// Password; without one the user can't log in (AUTH_SYS still knows the uid).
    pub password: Option<Password>,
    /// POSIX user id; the next free one from 100000 if `None`.
    pub uid: Option<u32>,
    /// Primary group id; that of the group `users` if `None`.
    pub gid: Option<u32>,
    /// Names of further groups; made if they don't exist.
    pub groups: Vec<String>,
    /// May administer.
    pub admin: bool,
}

/// A user as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Login name.
    pub name: String,
    /// POSIX user id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<String>,
    /// Security identifier.
    pub sid: String,
    /// May administer.
    pub admin: bool,
    /// May not log in.
    pub disabled: bool,
    /// A password is set.
    pub password_set: bool,
}

/// A group as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Name.
    pub name: String,
    /// POSIX group id.
    pub gid: u32,
    /// Security identifier.
    pub sid: String,
    /// Users whose primary or further group it is.
    pub members: Vec<String>,
}

/// Options of a share; `None` leaves as it is (`share set`) or takes the default of `docs` (`share add`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShareChange {
    /// Folder of the repository that is published, from the repository's root, `/`-separated; made if it does not exist. Default: a folder of the share's name.
    pub path: Option<String>,
    /// Remark shown in listings.
    pub comment: Option<String>,
    /// Who offers it: any of `smb`, `nfs`, `ftp`. Default: all.
    pub protocols: Option<Vec<String>>,
    /// Nobody may change anything. Default: false.
    pub read_only: Option<bool>,
    /// Not shown in listings. Default: false.
    pub hidden: Option<bool>,
    /// SMB clients must encrypt. Default: false.
    pub smb_encrypt: Option<bool>,
    /// Networks (CIDR, or single addresses) from which NFS clients may mount. Default: loopback.
    pub nfs_clients: Option<Vec<String>>,
    /// Treatment of ids from NFS clients. Default: root.
    pub squash: Option<Squash>,
    /// User id of squashed clients. Default: 65534.
    pub anonymous_uid: Option<u32>,
    /// Group id of squashed clients. Default: 65534.
    pub anonymous_gid: Option<u32>,
    /// How SMB looks names up. Default: insensitive.
    pub case: Option<CaseMode>,
    /// NFS and FTP look names up like SMB. Default: false.
    pub insensitive_everywhere: Option<bool>,
    /// Byte ranges locked over NFS stop other NFS clients too. Default: false.
    pub nfs_mandatory_locks: Option<bool>,
    /// Most bytes that the share may hold; 0 takes the limit away. Default: none.
    pub quota_bytes: Option<u64>,
    /// How many old versions of a document are kept.
    pub versions: Option<u32>,
    /// How many days an old version is kept.
    pub version_days: Option<u32>,
}

/// A share as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRecord {
    /// Name.
    pub name: String,
    /// Folder of the repository that is published, from the repository's root.
    pub path: String,
    /// Remark.
    pub comment: String,
    /// Who offers it: `smb`, `nfs`, `ftp`.
    pub protocols: Vec<String>,
    /// Nobody may change anything.
    pub read_only: bool,
    /// Not shown in listings.
    pub hidden: bool,
    /// SMB clients must encrypt.
    pub smb_encrypt: bool,
    /// Networks from which NFS clients may mount.
    pub nfs_clients: Vec<String>,
    /// Treatment of ids from NFS clients: `root`, `all`, `none`.
    pub squash: String,
    /// User id of squashed clients.
    pub anonymous_uid: u32,
    /// Group id of squashed clients.
    pub anonymous_gid: u32,
    /// How SMB looks names up: `insensitive`, `sensitive`.
    pub case: String,
    /// NFS and FTP look names up like SMB.
    pub insensitive_everywhere: bool,
    /// Byte ranges locked over NFS stop other NFS clients too.
    pub nfs_mandatory_locks: bool,
    /// Most bytes that the share may hold.
    pub quota_bytes: Option<u64>,
    /// How many old versions of a document are kept (`None`: the repository's default).
    pub versions: Option<u32>,
}

/// A rule to be added (`sluice policy add`). A condition that is `None` means any; a key that is `None` is left to less specific rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewRule {
    /// Name of the share.
    pub share: Option<String>,
    /// Glob over the path inside the share.
    pub path: Option<String>,
    /// Protocol.
    pub protocol: Option<RuleProtocol>,
    /// Name of a user.
    pub user: Option<String>,
    /// Name of a group.
    pub group: Option<String>,
    /// Client network, CIDR or a single address.
    pub client: Option<String>,
    /// May they write?
    pub write: Option<WriteRule>,
    /// How many writers.
    pub writers: Option<Writers>,
    /// What happens in conflict.
    pub on_conflict: Option<OnConflict>,
    /// Longest wait: `10s`, `500ms`, `2m`, or seconds as a number.
    pub wait: Option<String>,
}

/// A rule as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRecord {
    /// Its number, for `policy remove`.
    pub id: u64,
    /// The rule.
    #[serde(flatten)]
    pub rule: NewRule,
}

/// What `policy explain` asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyQuestion {
    /// Name of the share.
    pub share: String,
    /// Through which protocol.
    pub protocol: Protocol,
    /// As whom; nobody in particular if `None`.
    #[serde(default)]
    pub user: Option<String>,
    /// From which address; loopback if `None`.
    #[serde(default)]
    pub client: Option<std::net::IpAddr>,
    /// Path inside the share.
    pub path: String,
}

/// One rule that was considered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleVerdict {
    /// Its number.
    pub id: u64,
    /// Its name, as refusals and lock listings show it.
    pub rule: String,
    /// Whether all its conditions hold.
    pub applies: bool,
    /// Why, in one sentence.
    pub why: String,
}

/// The answer of `policy explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyExplanation {
    /// Rules in the order in which they were tried.
    pub considered: Vec<RuleVerdict>,
    /// `allow` or `deny`.
    pub write: String,
    /// `native`, `exclusive` or `shared`.
    pub writers: String,
    /// `reject`, `wait` or `fork`.
    pub on_conflict: String,
    /// Longest wait in milliseconds.
    pub wait_ms: u64,
    /// Which rule decided each key: (key, rule name or `default`).
    pub decided_by: Vec<(String, String)>,
    /// The outcome in sentences.
    pub outcome: Vec<String>,
}

/// What `policy simulate` tries: the present rules without `remove` and with `add`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simulation {
    /// Rules to add.
    pub add: Vec<NewRule>,
    /// Numbers of rules to take away.
    pub remove: Vec<u64>,
    /// Questions besides the present holders.
    pub questions: Vec<PolicyQuestion>,
}

/// One difference that a simulated rule set makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulatedChange {
    /// Share and path.
    pub path: String,
    /// Who: `smb user alice from 10.0.0.7`.
    pub who: String,
    /// The decision under the present rules.
    pub before: String,
    /// The decision under the simulated rules.
    pub after: String,
    /// Whether it differs.
    pub changed: bool,
}

/// What `locks list` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LockQuery {
    /// Only this document or what lies below this folder: `docs/a/b.txt`, share first.
    pub path: Option<String>,
    /// At most so many entries; 0 means no limit.
    pub limit: usize,
}

/// One open, byte range, cache grant, writer's place or waiter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// For `locks break`.
    pub id: u64,
    /// `open`, `place`, `range`, `cache` or `waiter`.
    pub kind: String,
    /// Share and path: `docs/a/b.txt`, with `:stream` for a named stream.
    pub path: String,
    /// What is held or wanted, in words: `write, denies write+delete`.
    pub what: String,
    /// Protocol: `smb`, `nfs3`, `nfs4`, `ftp`, `admin`.
    pub protocol: String,
    /// User name.
    pub user: String,
    /// Client address.
    pub client: String,
    /// What the client calls itself, may be empty.
    pub client_name: String,
    /// Node that serves it.
    pub node: String,
    /// Since when (RFC 3339, UTC).
    pub since: String,
    /// For how many milliseconds.
    pub age_ms: u64,
    /// The write policy rule that applied, `default` if none.
    pub rule: String,
    /// The client is disconnected and may come back.
    pub disconnected: bool,
    /// What stands in a waiter's way.
    pub waits_for: Option<String>,
    /// Milliseconds until it ends by itself.
    pub ends_in_ms: Option<u64>,
    /// What would free it, in one sentence.
    pub freed_by: String,
}

/// The answer of `locks explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockExplanation {
    /// Share and path.
    pub path: String,
    /// Everything held and waited for on it, waiters in their order.
    pub entries: Vec<LockRecord>,
    /// What it means, in sentences: who holds it, who waits for whom, what a newcomer of each protocol would be told.
    pub sentences: Vec<String>,
}

/// A client that is connected (SMB, FTP) or known (NFS).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Number of the client on this node.
    pub id: u64,
    /// Protocol.
    pub protocol: String,
    /// Users who work through it.
    pub users: Vec<String>,
    /// Address.
    pub client: String,
    /// What it calls itself, may be empty.
    pub client_name: String,
    /// Node that serves it.
    pub node: String,
    /// Since when (RFC 3339, UTC).
    pub since: String,
    /// Opens that it holds.
    pub opens: u64,
}

/// A kept version of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its number, for `version restore`.
    pub version: u64,
    /// Length in bytes.
    pub size: u64,
    /// When it was committed (RFC 3339, UTC).
    pub committed: String,
    /// Who committed it.
    pub author: String,
    /// Through which protocol.
    pub protocol: String,
    /// It is the present content.
    pub current: bool,
}

/// The answer of `sluice check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRecord {
    /// Nodes looked at.
    pub nodes: u64,
    /// Content versions looked at.
    pub versions: u64,
    /// Contradictions, one sentence each (at most 1,000 are listed).
    pub problems: Vec<String>,
    /// How many of them were repaired.
    pub repaired: u64,
}

/// The answer of `sluice gc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRecord {
    /// Objects deleted that no version needs any more.
    pub given_up: u64,
    /// Objects deleted that no version ever named.
    pub unreferenced: u64,
    /// Their bytes.
    pub unreferenced_bytes: u64,
    /// Objects that are in use.
    pub kept: u64,
}

/// What the first start on an empty repository made. Shown once, never stored in clear.
#[derive(Clone)]
pub struct FirstStart {
    /// Name of the administrator: `admin`.
    pub user: String,
    /// The generated password.
    pub password: String,
    /// Name of the share: `docs`.
    pub share: String,
}
