//! What token machines say to each other. Plain values; how they are carried is the links' matter.
//!
//! Every message names its shard and the generation of the shard's ownership that its sender knows. What a lock table
//! keeps or is asked travels as opaque bytes: the machine never looks into it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluice_lockmgr::{GrantId, Member, ShardEpoch, ShardId};

/// Names one try of one request at the node that makes it; never used twice by one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// One node's own entries of a document as its coordinator has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Grows with every change, within an epoch of the shard.
    pub version: u64,
    /// `None`: the node has nothing there (any more).
    pub state: Option<Bytes>,
}

/// What a node says that it has, to a new owner of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Of which document.
    pub document: u64,
    /// What.
    pub held: Held,
}

/// See [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// It is alone on the document and decides there by itself.
    Alone(GrantId),
    /// Its entries, which a former owner kept for it.
    Part {
        /// The ownership of the shard under which they were kept last.
        since: ShardEpoch,
        /// The entries.
        state: Bytes,
    },
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMessage {
    /// Which shard it is about.
    pub shard: ShardId,
    /// Under which ownership of the shard, as its sender knows it.
    pub epoch: ShardEpoch,
    /// What.
    pub body: Body,
}

/// What is said. First what a node says to the coordinator of a document, then what a coordinator says to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A request on a document that the sender may not decide itself.
    Ask {
        /// On what.
        document: u64,
        /// Names the try.
        request: RequestId,
        /// The token of this document that the sender brings right after this.
        coming: Option<GrantId>,
        /// The request.
        op: Bytes,
    },
    /// Nobody waits for the answer any more.
    Cancel {
        /// As in `Ask`.
        document: u64,
        /// As in `Ask`.
        request: RequestId,
    },
    /// A token comes back, asked for by `Surrender`. What its holder did is committed.
    State {
        /// Of which document.
        document: u64,
        /// Which token.
        grant: GrantId,
        /// All entries; `None` if there are none.
        state: Option<Bytes>,
    },
    /// The token will come back, but changes are still being committed.
    Busy {
        /// Of which document.
        document: u64,
        /// Which token.
        grant: GrantId,
    },
    /// Tokens come back unasked; nothing is held under them.
    GiveBack {
        /// Which.
        grants: Vec<(u64, GrantId)>,
    },
    /// What the sender has in a shard, for its new owner.
    Report {
        /// What.
        claims: Vec<Claim>,
        /// Nothing more follows.
        last: bool,
    },

    /// The receiver is alone on the document from now on.
    Grant {
        /// On which.
        document: u64,
        /// The token.
        grant: GrantId,
        /// What the receiver's clients have there.
        state: Option<Bytes>,
        /// The fence of the document, if it was raised by force in this epoch.
        fence: Option<u64>,
    },
    /// Give this token back: others want the document.
    Surrender {
        /// Which document.
        document: u64,
        /// Which token.
        grant: GrantId,
    },
    /// This token was taken away by force: what was held under it is void.
    Revoked {
        /// Which document.
        document: u64,
        /// Which token.
        grant: GrantId,
    },
    /// What the receiver has at coordinators of this document is void, unless it has it since the sender owns the shard.
    Void {
        /// Which document.
        document: u64,
    },
    /// The fence of a document was raised by force.
    Forced {
        /// Of which document.
        document: u64,
        /// The fence that commits need now.
        fence: u64,
    },
    /// The answer to `Ask`.
    Answer {
        /// As in `Ask`.
        document: u64,
        /// As in `Ask`.
        request: RequestId,
        /// The answer.
        answer: Bytes,
        /// The asking node's own entries, if they changed.
        part: Option<Part>,
    },
    /// Something for a client of the receiver: a cache is called back, an open is revoked.
    Tell {
        /// On which document.
        document: u64,
        /// What.
        tell: Bytes,
        /// The receiver's entries, if they changed.
        part: Option<Part>,
    },
    /// The sender does not coordinate the shard: `Ask` was not looked at.
    Moved {
        /// As in `Ask`.
        document: u64,
        /// As in `Ask`.
        request: RequestId,
        /// The epoch with which it was asked.
        asked: ShardEpoch,
        /// Who does, as far as the sender knows.
        owner: Option<Member>,
    },
    /// The sender owns the shard since this epoch: tell it what you have.
    ReportAsk,

    /// To the sender's deputy: the documents of the shard that the sender decides about itself. What comes later is told
    /// before it is so.
    List {
        /// Under which turn of the sender's.
        turn: u64,
        /// All of them.
        documents: Vec<u64>,
    },
    /// To the deputy: the sender is about to decide about this document itself.
    Taking {
        /// As in `List`.
        turn: u64,
        /// Which document.
        document: u64,
    },
    /// The answer to `Taking`: it is on the list.
    Taken {
        /// As in `List`.
        turn: u64,
        /// Which document.
        document: u64,
    },
    /// To the deputy: the sender does not decide about these documents any more.
    Left {
        /// As in `List`.
        turn: u64,
        /// Which.
        documents: Vec<u64>,
    },
}
