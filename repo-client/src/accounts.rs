//! Records of the administration: users, groups, shares, write policy rules. Plain data that a repository keeps and the
//! vfs evaluates; secrets have no readable `Debug`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::{CaseMode, NodeId, ShareId, Sid, UserId};

/// MD4 of the password in UTF-16LE (MS-NLMP 3.3.1): as good as the password itself. Never shown.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NtHash(pub [u8; 16]);

impl fmt::Debug for NtHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NtHash(..)")
    }
}

/// A salted, slow password hash in PHC string form (argon2id). Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordVerifier(pub String);

impl fmt::Debug for PasswordVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordVerifier(..)")
    }
}

/// A user of all protocols.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Number for ever; `put_user` gives one if it is 0.
    pub id: UserId,
    /// Login name, unique without regard to case.
    pub name: String,
    /// POSIX user id, unique.
    pub uid: u32,
    /// Primary POSIX group.
    pub gid: u32,
    /// Names of the further groups.
    pub groups: Vec<String>,
    /// Security identifier (S-1-5-21-machine-rid).
    pub sid: Sid,
    /// May administer.
    pub admin: bool,
    /// May not log in.
    pub disabled: bool,
    /// For NTLMv2; `None` until a password is set.
    pub nt_hash: Option<NtHash>,
    /// For FTP and the admin login; `None` until a password is set.
    pub verifier: Option<PasswordVerifier>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Name, unique without regard to case.
    pub name: String,
    /// POSIX group id, unique.
    pub gid: u32,
    /// Security identifier.
    pub sid: Sid,
}

/// What becomes of the ids that an NFS client states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Squash {
    /// uid and gid 0 become the anonymous user.
    Root,
    /// Everybody becomes the anonymous user.
    All,
    /// Ids are taken as stated.
    None,
}

/// Which protocols offer a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareProtocols {
    /// SMB.
    pub smb: bool,
    /// NFS, all versions.
    pub nfs: bool,
    /// FTP.
    pub ftp: bool,
}

/// A published subtree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Number for ever; `put_share` gives one if it is 0.
    pub id: ShareId,
    /// Name, unique without regard to case.
    pub name: String,
    /// Shown in share listings.
    pub comment: String,
    /// The folder that is published.
    pub root: NodeId,
    /// Who offers it.
    pub protocols: ShareProtocols,
    /// Nobody may change anything.
    pub read_only: bool,
    /// Not shown in listings.
    pub hidden: bool,
    /// SMB clients must encrypt.
    pub smb_encrypt: bool,
    /// How names are looked up over SMB (NFS and FTP look up exactly unless `insensitive_everywhere`).
    pub case: CaseMode,
    /// NFS and FTP look up like SMB does.
    pub insensitive_everywhere: bool,
    /// Networks in CIDR form from which NFS clients may mount; empty is nobody.
    pub nfs_clients: Vec<String>,
    /// Treatment of ids from NFS clients.
    pub squash: Squash,
    /// Anonymous user id for squashing.
    pub anonymous_uid: u32,
    /// Anonymous group id for squashing.
    pub anonymous_gid: u32,
    /// Byte ranges locked over NFS also stop other NFS clients.
    pub nfs_mandatory_locks: bool,
    /// Most bytes that the share may hold, if limited.
    pub quota_bytes: Option<u64>,
    /// How many versions are kept; `None` is the repository's default.
    pub versions: Option<VersionPolicy>,
}

/// How much history a document keeps beside its current version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionPolicy {
    /// Most old versions.
    pub count: u32,
    /// Oldest age in seconds.
    pub age_s: u64,
}

impl Default for VersionPolicy {
    fn default() -> Self {
        VersionPolicy {
            count: 10,
            age_s: 30 * 24 * 3600,
        }
    }
}

/// Protocols that a policy rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleProtocol {
    /// SMB.
    Smb,
    /// NFS of both versions.
    Nfs,
    /// NFSv3.
    Nfs3,
    /// NFSv4.
    Nfs4,
    /// FTP.
    Ftp,
}

/// Whether a rule lets write at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteRule {
    /// Writing is allowed.
    Allow,
    /// Read-only for those whom the rule means.
    Deny,
}

/// How many writers a document may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writers {
    /// The protocols' own share modes decide.
    Native,
    /// One, whatever share modes say.
    Exclusive,
    /// NFSv3 writes take no writer's place.
    Shared,
}

/// What happens to a writer that comes second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// Refused at once.
    Reject,
    /// Waits for its turn.
    Wait,
    /// Its content becomes a sibling.
    Fork,
}

/// One rule of the write policy (INTERFACE: write policy). `None` in a condition means any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Number, unique; `put_policy` gives one if it is 0.
    pub id: u64,
    /// Name of the share; `None` is every share.
    pub share: Option<String>,
    /// Glob over the path inside the share.
    pub path: Option<String>,
    /// Protocol.
    pub protocol: Option<RuleProtocol>,
    /// Name of a user.
    pub user: Option<String>,
    /// Name of a group.
    pub group: Option<String>,
    /// Client network, CIDR.
    pub client: Option<String>,
    /// May they write?
    pub write: Option<WriteRule>,
    /// How many writers.
    pub writers: Option<Writers>,
    /// What happens in conflict.
    pub on_conflict: Option<OnConflict>,
    /// Longest wait in milliseconds.
    pub wait_ms: Option<u64>,
}
