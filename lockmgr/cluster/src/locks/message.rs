//! What the lock services of two nodes say to each other, in bytes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluice_lockmgr::{
    BreakNotice, ClientId, Closed, Entry, GrantKey, LeaseId, ListFilter, Member, Note, OpenId,
    OpenRef, ResourceId, RevokeReason, ShardEpoch, ShardId, Ticket,
};

use crate::core::TokenMessage;

/// First byte of every message. A node that does not know it ignores the message.
const FORM: u8 = 1;

/// One message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum PeerMessage {
    /// Of token machines.
    Token(TokenMessage),
    /// A question, answered by `Reply` with the same number.
    Call(u64, Call),
    /// The answer to a question.
    Reply(u64, Reply),
    /// For the file layer; no answer.
    Note(Note),
    /// A client's open that was decided about elsewhere, and used this lease, has ended.
    LeaseUnused(LeaseId, Ticket),
    /// The sender reads copies: it wants to be answered.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// Of a message that is longer than a link carries; nothing else comes in between.
    Piece { last: bool, bytes: Bytes },
    /// Does the receiver hear? It has heard all that came before.
    Probe(u64),
    /// It does.
    Probed(u64),
    /// The sender does not hear from the coordinator of these shards.
    Silent { of: Member, shards: Vec<ShardId> },
    /// A probe of the sender to this member is late.
    Late(Member),
}

/// A question to another node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    /// For the file layer; answered when it has taken note.
    Note(Note),
    /// Have what is acknowledged of these documents committed. To their coordinator, or (`holder`) to who is alone on them.
    Settle { documents: Vec<u64>, holder: bool },
    /// To the deputy: whether it has taken none of these shards over from the sender, as far as it knows by now.
    Guards {
        turn: u64,
        shards: Vec<(ShardId, ShardEpoch)>,
    },
    /// What is decided about there.
    List {
        document: Option<u64>,
        client: Option<ClientId>,
        limit: usize,
    },
    /// Take something away.
    ForceRelease(OpenId),
}

impl Call {
    pub(super) fn list(filter: &ListFilter) -> Self {
        Call::List {
            document: filter.document,
            client: filter.client,
            limit: filter.limit,
        }
    }
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// It is done; or: it was there.
    Done(bool),
    /// To `Settle`: whether there was something, and of which documents it is not known.
    Settled { some: bool, unknown: Vec<u64> },
    /// To `List`.
    Entries(Vec<Entry>),
}

/// What a lock table says to a client of another node; `at` is the open through which it hears.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Tell {
    Break {
        at: OpenId,
        notice: BreakNotice,
    },
    Revoked {
        open: OpenRef,
        reason: RevokeReason,
        closed: Closed,
    },
    CacheRevoked {
        at: OpenId,
        resource: ResourceId,
        grant: GrantKey,
        reason: RevokeReason,
    },
}

/// Bytes of a value. Values of this crate always have some; if not, the receiver refuses the empty message.
pub(super) fn encode<T: Serialize>(value: &T) -> Bytes {
    match postcard::to_stdvec(value) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => {
            tracing::error!(%error, "a message to another node can't be written");
            Bytes::new()
        }
    }
}

/// The value of bytes from another node.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Option<T> {
    match postcard::from_bytes(bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(%error, what, "a message of another node can't be read; do the nodes run the same version?");
            None
        }
    }
}

impl PeerMessage {
    pub(super) fn to_bytes(&self) -> Bytes {
        match postcard::to_extend(self, vec![FORM]) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => {
                tracing::error!(%error, "a message to another node can't be written");
                Bytes::new()
            }
        }
    }

    pub(super) fn from_bytes(bytes: &Bytes) -> Option<Self> {
        match bytes.split_first() {
            Some((&FORM, rest)) => decode(rest, "message"),
            _ => {
                tracing::error!("a message of another node has an unknown form");
                None
            }
        }
    }
}
