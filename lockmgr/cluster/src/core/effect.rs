//! What happens to a token machine, and what it wants done.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_lockmgr::{GrantId, Member, MemberId, Now, Revoked, ShardEpoch, ShardId, ShardOwner};

use super::message::{Part, RequestId, TokenMessage};

/// What happens to a machine. Only documents and shards of this machine's own share may be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An own request that the gate did not let through.
    Request {
        /// On which document.
        document: u64,
        /// Fresh.
        request: RequestId,
    },
    /// Nobody waits for an own request any more.
    Cancel {
        /// As in `Request`.
        document: u64,
        /// As in `Request`.
        request: RequestId,
    },
    /// A message of a member.
    Message {
        /// Who says it.
        from: Member,
        /// What.
        message: TokenMessage,
    },
    /// [`Effect::Surrender`] is done: the gate is closed, changes are committed.
    Surrendered {
        /// Which document.
        document: u64,
        /// Which token.
        grant: GrantId,
        /// All entries that were behind the gate; `None` if there were none.
        state: Option<Bytes>,
    },
    /// [`Effect::Release`] is done.
    Released {
        /// Which document.
        document: u64,
        /// Which token.
        grant: GrantId,
        /// The gate is closed; false: something was held and it stays open.
        done: bool,
    },
    /// [`Effect::Look`] is done.
    Looked {
        /// Which document.
        document: u64,
        /// The nodes whose clients have or want something, in order.
        holders: Vec<MemberId>,
    },
    /// [`Effect::Return`] is done.
    Returned {
        /// Which document.
        document: u64,
        /// As in the effect.
        only: Option<MemberId>,
        /// `None`: others had something, the gate stays open. `Some`: the gate is closed, this was behind it.
        state: Option<Option<Bytes>>,
    },
    /// [`Effect::Relinquish`] is done: the gate is closed.
    Relinquished {
        /// Which document.
        document: u64,
        /// The own clients' entries.
        part: Option<Bytes>,
    },
    /// [`Effect::Evaluate`] has an answer.
    Answered {
        /// Which document.
        document: u64,
        /// Whose request.
        from: Member,
        /// Which.
        request: RequestId,
        /// The answer.
        answer: Bytes,
        /// That node's entries, if they changed since it was last told.
        part: Option<Part>,
    },
    /// [`Effect::Evaluate`] has no answer: the gate was closed meanwhile.
    Unanswered {
        /// Which document.
        document: u64,
        /// Whose request.
        from: Member,
        /// Which.
        request: RequestId,
        /// The request.
        op: Bytes,
    },
    /// The lock table has something to say to a client of another node.
    Told {
        /// On which document.
        document: u64,
        /// The node.
        to: Member,
        /// What.
        tell: Bytes,
        /// That node's entries, if they changed since it was last told.
        part: Option<Part>,
    },
    /// [`Effect::ForceFence`] is done; `None` if it failed.
    Fenced {
        /// Which document.
        document: u64,
        /// Which token.
        grant: GrantId,
        /// The fence that commits need now.
        fence: Option<u64>,
    },
    /// The registry says that tokens of this machine's documents were taken away by force. To be told before the renewal that
    /// brought it prolongs the lease, also while frozen.
    Revoked(Vec<Revoked>),
    /// Clients of a former member had NFS locks on these documents, and may take them again until then. To be told before that
    /// member's `NodeDown`, and before the `Shards` that make this node their owner.
    Left {
        /// Which incarnation.
        member: Member,
        /// Its node's name.
        node: Arc<str>,
        /// Which documents.
        documents: Vec<u64>,
        /// Until when.
        until: Now,
    },
    /// Until now nothing could be taken again for so long: what is kept for that is kept longer. To be told before
    /// [`Event::Thawed`].
    KeepLonger(Duration),
    /// Another member takes part.
    NodeUp(Member),
    /// A member is fenced or has left.
    NodeDown(Member),
    /// Owners of shards, as the registry has them. Members that were live then were told by `NodeUp` before.
    Shards(Vec<(ShardId, ShardOwner)>),
    /// The deputy that the lists of this node go to, and its turn. By now nobody can take a shard over with a list of an earlier
    /// turn, and `Shards` has told of those that were taken before.
    Deputy(Option<(Member, u64)>),
    /// Somebody does not hear from the coordinator of a shard.
    Silent {
        /// Which shard.
        shard: ShardId,
        /// Who is silent.
        of: Member,
    },
    /// [`Effect::TakeOver`] was refused: the list that it relied upon counts no more.
    NotTaken {
        /// Which shard.
        shard: ShardId,
        /// As in the effect.
        epoch: ShardEpoch,
        /// As in the effect.
        of: Member,
        /// As in the effect.
        turn: u64,
    },
    /// [`Effect::TakeOver`] is done: the registry has made this node the owner. `Shards` tells of it too.
    TookOver {
        /// Which shard.
        shard: ShardId,
        /// The new owner's epoch.
        epoch: ShardEpoch,
        /// As in the effect.
        of: Member,
        /// As in the effect.
        turn: u64,
    },
    /// Nothing may be granted.
    Frozen,
    /// Things go on as before.
    Thawed,
    /// Time went by; due at [`super::TokenMachine::next_deadline`].
    Tick,
}

impl Event {
    /// What the registry has said of shards of a silent coordinator, each for the machine of its shard.
    pub fn of_silent(
        of: Member,
        turn: u64,
        shards: Vec<(ShardId, ShardEpoch)>,
        is_taken: bool,
    ) -> impl Iterator<Item = (ShardId, Event)> {
        shards.into_iter().map(move |(shard, epoch)| {
            let event = if is_taken {
                Event::TookOver {
                    shard,
                    epoch,
                    of,
                    turn,
                }
            } else {
                Event::NotTaken {
                    shard,
                    epoch,
                    of,
                    turn,
                }
            };
            (shard, event)
        })
    }
}

/// What a machine wants done, in this order. What is to be done to the lock table is done at once and in order; what takes
/// time answers later with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send.
    Send {
        /// To whom; never to this node.
        to: Member,
        /// What.
        message: TokenMessage,
    },
    /// Send this own request to a coordinator, as [`super::Body::Ask`].
    Forward {
        /// To whom; never to this node.
        to: Member,
        /// With which shard and epoch, and which document and request; `op` is empty and is to be filled in.
        message: TokenMessage,
        /// Which request.
        request: RequestId,
    },
    /// The gate may let this own request through now: try again. The request's name is used up.
    Run {
        /// Which.
        request: RequestId,
    },
    /// The answer to an own request. The request's name is used up.
    Deliver {
        /// Which.
        request: RequestId,
        /// The answer.
        answer: Bytes,
    },
    /// An answer that nobody waits for: what it grants is to be given back.
    Undo {
        /// On which document.
        document: u64,
        /// The answer.
        answer: Bytes,
    },
    /// Keep a document for NFS clients that take locks again; its gate is open, or opens next.
    KeepForReclaim {
        /// Which.
        document: u64,
        /// The node that they had them through.
        node: Arc<str>,
        /// For how long.
        keep: Duration,
    },
    /// Keep it longer, if it still is.
    KeepLonger {
        /// Which.
        document: u64,
        /// For how long from now on.
        keep: Duration,
    },
    /// Open the gate. First put in what is given, without checks.
    Admit {
        /// For which document.
        document: u64,
        /// `Some`: this node is alone on it since that term. `None`: it decides for others too.
        term: Option<u64>,
        /// Entries.
        states: Vec<Bytes>,
    },
    /// Close the gate and take everything out; have changes committed; then [`Event::Surrendered`].
    Surrender {
        /// Which document.
        document: u64,
        /// Which token.
        grant: GrantId,
    },
    /// Close the gate if nothing is behind it; then [`Event::Released`].
    Release {
        /// Which document.
        document: u64,
        /// Which token.
        grant: GrantId,
    },
    /// Say who has something behind the gate; then [`Event::Looked`].
    Look {
        /// Which document.
        document: u64,
    },
    /// Close the gate if nobody waits there and nobody but this node's clients have something behind it; then
    /// [`Event::Returned`].
    Return {
        /// Which document.
        document: u64,
        /// `None`: only if nobody has anything.
        only: Option<MemberId>,
    },
    /// Close the gate, keep the own clients' entries and forget the others'; then [`Event::Relinquished`].
    Relinquish {
        /// Which document.
        document: u64,
    },
    /// Close the gate, forget everything behind it and tell the own clients that it is gone.
    Drop {
        /// Which document.
        document: u64,
    },
    /// Put a request of another node to the lock table; then [`Event::Answered`] or [`Event::Unanswered`].
    Evaluate {
        /// On which document.
        document: u64,
        /// Whose.
        from: Member,
        /// Which.
        request: RequestId,
        /// The request.
        op: Bytes,
    },
    /// Nobody waits for this evaluation any more.
    Abort {
        /// On which document.
        document: u64,
        /// Whose.
        from: Member,
        /// Which.
        request: RequestId,
    },
    /// Forget what the clients of a node have behind the gate: it is gone.
    DropMember {
        /// On which document.
        document: u64,
        /// Which node.
        member: Member,
    },
    /// A coordinator has something for an own client.
    Tell {
        /// On which document.
        document: u64,
        /// What.
        tell: Bytes,
    },
    /// Take the token away in the registry; then [`Event::Fenced`].
    ForceFence {
        /// Which document.
        document: u64,
        /// Who did not give its token back.
        holder: Member,
        /// Which token.
        grant: GrantId,
    },
    /// The deputy does not say that a document is on the list. Repeated until it does.
    DeputySilent {
        /// Who.
        deputy: Member,
        /// Of which turn.
        turn: u64,
    },
    /// If the coordinator of a shard is silent indeed, take the shard over in the registry; then [`Event::TookOver`].
    TakeOver {
        /// Which shard.
        shard: ShardId,
        /// Its owner's epoch.
        epoch: ShardEpoch,
        /// The owner, whose deputy this node is.
        of: Member,
        /// Of the owner's list.
        turn: u64,
    },
    /// A silent coordinator had a document that was not on its list, and lost it: a mistake, to be told to the administrator.
    Unlisted {
        /// Which document.
        document: u64,
        /// The coordinator.
        holder: Member,
    },
    /// [`super::TokenMachine::fence`] and [`super::TokenMachine::holder`] may answer otherwise for documents of this shard.
    Asserted {
        /// Which shard.
        shard: ShardId,
    },
}
