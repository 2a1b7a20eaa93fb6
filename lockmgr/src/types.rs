//! The nouns of the lock table: what is locked, who locks it, with which access and share mode.
//!
//! Owns plain values only. Must never know a wire code, a socket or a clock: time comes in as [`Now`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::epoch::MemberId;

/// Monotonic time in milliseconds since the runtime's own start; the only time the table knows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Now(pub u64);

impl Now {
    /// A moment that never comes: the deadline of an unbounded wait.
    pub const NEVER: Now = Now(u64::MAX);

    /// This moment plus a duration; saturates at [`Now::NEVER`].
    #[must_use]
    pub fn after(self, wait: Duration) -> Now {
        let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Now(self.0.saturating_add(ms))
    }

    /// Time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Now) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// One stream of one document. Stream 0 is the main data; named streams have their own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceId {
    /// The repository's document id.
    pub document: u64,
    /// 0 for the main data, else the repository's number of the named stream.
    pub stream: u32,
}

impl ResourceId {
    /// The main data of a document.
    #[must_use]
    pub const fn main(document: u64) -> Self {
        Self {
            document,
            stream: 0,
        }
    }
}

/// Names one open for its life; unique within a service, never reused. `locks break` takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpenId(pub u64);

/// An open and where it is: what a head keeps and hands back with every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OpenRef {
    /// What is open.
    pub resource: ResourceId,
    /// Which open of it.
    pub id: OpenId,
}

/// A client machine or session as its head tells clients apart; equal values are one client.
///
/// The head chooses the numbers (it interns address and machine name for NFSv3, the client guid for SMB, the
/// control connection for FTP). They must be unique over all protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(pub u64);

impl ClientId {
    /// Stands for clients that are not known: those that had NFS locks through a node that is gone and may take them again.
    /// Nobody is given this number.
    pub const LEFT: ClientId = ClientId((1 << MEMBER_SHIFT) - 1);

    /// The cluster node that serves this client: the high bits of its number. 0 where there is no cluster.
    #[must_use]
    pub const fn member(self) -> MemberId {
        // 16 bits remain, so the conversion loses nothing.
        #[allow(clippy::cast_possible_truncation, reason = "the shift leaves 16 bits")]
        MemberId((self.0 >> MEMBER_SHIFT) as u32)
    }
}

/// Numbers of opens, waiters and clients are `member << 48` and a count of that member's own.
pub const MEMBER_SHIFT: u32 = 48;

/// Names a request that may wait before it is made: a waiter has the number of its request, and an open the number of the
/// request that made it. Whoever asks another node draws it first, so that it knows what it will get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket(pub u64);

/// Names one waiting request; unique within a service, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WaiterId(pub u64);

/// The door through which an owner came. Used as an owner tag only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// SMB 2 and 3.
    Smb,
    /// NFS version 3, with MOUNT and NLM.
    Nfs3,
    /// NFS version 4.1 and 4.2.
    Nfs4,
    /// FTP and FTPS.
    Ftp,
    /// The server itself: command line, repair, restore.
    Admin,
}

impl Protocol {
    /// True for both NFS versions, among which byte ranges are advisory.
    #[must_use]
    pub const fn is_nfs(self) -> bool {
        matches!(self, Protocol::Nfs3 | Protocol::Nfs4)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Smb => "SMB",
            Protocol::Nfs3 => "NFSv3",
            Protocol::Nfs4 => "NFSv4",
            Protocol::Ftp => "FTP",
            Protocol::Admin => "admin",
        })
    }
}

/// Who holds or waits, in words for people: refusals, `locks list` and `locks explain` print it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Through which door.
    pub protocol: Protocol,
    /// User name, as the repository knows it.
    pub user: String,
    /// Client address, for example `192.0.2.7:51812`.
    pub address: String,
    /// The client's own name: machine name, FTP client program, SMB workstation. May be empty.
    pub client_name: String,
    /// Node that serves this client.
    pub node: String,
    /// Path as the client named it; a hint, a rename does not change it.
    pub path: String,
    /// Name of the write-policy rule that applied, if any.
    pub rule: Option<String>,
    /// Wall clock at which the request was made, in milliseconds since 1970.
    pub since_unix_ms: i64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} user {} from {}",
            self.protocol, self.user, self.address
        )?;
        if !self.client_name.is_empty() {
            write!(f, " ({})", self.client_name)?;
        }
        write!(f, " on node {}", self.node)
    }
}

/// Who makes a request: owner tags for the rules, and the words for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Actor {
    /// Through which door.
    pub protocol: Protocol,
    /// Which client.
    pub client: ClientId,
    /// The same in words.
    pub holder: Arc<Holder>,
}

/// A set of data accesses: read, write, delete. Empty means attributes only, which never meets a share mode.
///
/// Heads map execute to read and append to write (MS-SMB2 2.2.13.1, MS-FSA 2.1.5.1.2.2).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(from = "u8")]
pub struct Access(u8);

impl From<u8> for Access {
    fn from(bits: u8) -> Self {
        Access::from_bits(bits)
    }
}

impl Access {
    /// Nothing: attributes only.
    pub const NONE: Access = Access(0);
    /// Read data, execute.
    pub const READ: Access = Access(1);
    /// Write, append, truncate.
    pub const WRITE: Access = Access(2);
    /// Delete, rename, be replaced.
    pub const DELETE: Access = Access(4);
    /// Read, write and delete.
    pub const ALL: Access = Access(7);

    /// Set with these bits (1 read, 2 write, 4 delete); others are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Access(bits & 7)
    }
    /// The bits: 1 read, 2 write, 4 delete.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }
    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Access) -> Self {
        Access(self.0 | other.0)
    }
    /// This set without the other.
    #[must_use]
    pub const fn without(self, other: Access) -> Self {
        Access(self.0 & !other.0)
    }
    /// What both have.
    #[must_use]
    pub const fn common(self, other: Access) -> Self {
        Access(self.0 & other.0)
    }
    /// True if all of `other` is in this set.
    #[must_use]
    pub const fn has(self, other: Access) -> bool {
        self.0 & other.0 == other.0
    }
    /// True if nothing is in this set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut sep = "";
        for (bit, word) in [
            (Access::READ, "read"),
            (Access::WRITE, "write"),
            (Access::DELETE, "delete"),
        ] {
            if self.has(bit) {
                write!(f, "{sep}{word}")?;
                sep = "+";
            }
        }
        Ok(())
    }
}

/// What an open lets others do at the same time (MS-SMB2 2.2.13 ShareAccess). What is not shared is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShareMode(Access);

impl ShareMode {
    /// Denies nobody.
    pub const ALL: ShareMode = ShareMode(Access::ALL);
    /// Denies everybody.
    pub const NONE: ShareMode = ShareMode(Access::NONE);
    /// Denies other writers, and with them deleting, replacing, moving and truncation: FTP STOR, an NFSv3 writer's
    /// place, NFSv4 OPEN with deny write.
    pub const DENY_WRITE: ShareMode = ShareMode(Access::READ);

    /// Shares exactly these accesses, as SMB says it.
    #[must_use]
    pub const fn sharing(access: Access) -> Self {
        ShareMode(access)
    }

    /// Denies these accesses as NFSv4 says it (RFC 8881 18.16.1): denying write denies delete too.
    #[must_use]
    pub const fn denying(access: Access) -> Self {
        let deny = if access.has(Access::WRITE) {
            access.with(Access::DELETE)
        } else {
            access
        };
        ShareMode(Access::ALL.without(deny))
    }

    /// What others may do.
    #[must_use]
    pub const fn shares(self) -> Access {
        self.0
    }

    /// What others may not do.
    #[must_use]
    pub const fn denies(self) -> Access {
        Access::ALL.without(self.0)
    }
}
