//! Who may grant, and since when: the members of a cluster, the owners of its shards, and the port to the one arbiter of both.
//!
//! Owns plain values and the trait [`EpochRegistry`]; a driver implements it on the cluster's database. Must never decide
//! who is alive: that is `sluice-lockmgr-cluster`'s membership machine, which calls this port.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A gateway node's number in the cluster, 1 to 65535; the same for all incarnations of a node name.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MemberId(pub u32);

/// One incarnation of a node; from one sequence of the whole cluster, so that a later one is always greater.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MemberEpoch(pub u64);

/// One incarnation of one node: what leases, links and fences are about.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Member {
    /// Which node.
    pub id: MemberId,
    /// Which incarnation of it.
    pub epoch: MemberEpoch,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id.0, self.epoch.0)
    }
}

/// Number of shards into which the documents are divided.
pub const SHARDS: u16 = 4096;

/// A group of documents with one coordinator, below [`SHARDS`].
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ShardId(pub u16);

/// Generation of a shard's ownership; grows by one with each change of the owner. 0: never owned.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ShardEpoch(pub u64);

/// The shard of a document (or pseudo document).
#[must_use]
pub const fn shard_of(document: u64) -> ShardId {
    // 12 bits remain, so the conversion loses nothing.
    #[allow(clippy::cast_possible_truncation, reason = "the shift leaves 12 bits")]
    ShardId((document.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as u16)
}

/// Bits of a fence below the shard epoch: they count the forced revocations of one document within that epoch.
pub const FENCE_FORCED_BITS: u32 = 20;

impl ShardEpoch {
    /// The fence under which a right granted in this epoch commits, unless the document's fence was raised by force
    /// within it ([`EpochRegistry::force_fence`] answers with a fence of the same form). Later fences are greater.
    #[must_use]
    pub const fn fence(self) -> u64 {
        self.0 << FENCE_FORCED_BITS
    }

    /// The epoch of a fence.
    #[must_use]
    pub const fn of_fence(fence: u64) -> ShardEpoch {
        ShardEpoch(fence >> FENCE_FORCED_BITS)
    }
}

/// Names one token (the right to decide about a document alone) for its life: never given twice, and greater under a later
/// owner of the shard.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct GrantId {
    /// Of the shard when it was given.
    pub epoch: ShardEpoch,
    /// Within that epoch.
    pub number: u64,
}

/// A token that its coordinator takes away by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Of which document.
    pub document: u64,
    /// Which token.
    pub grant: GrantId,
    /// Who has it.
    pub holder: Member,
}

/// What a member learns of a [`Revocation`] of one of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Names it at the registry.
    pub id: u64,
    /// Of which document.
    pub document: u64,
    /// Which token.
    pub grant: GrantId,
    /// The fence that commits of the document need since.
    pub fence: u64,
}

/// Who coordinates a shard's documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardOwner {
    /// Nobody yet, or an incarnation (possibly one that is gone: then somebody will take the shard over).
    pub owner: Option<Member>,
    /// Since which generation.
    pub epoch: ShardEpoch,
}

/// The owners of all shards as of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMap {
    /// Grows with every change.
    pub version: u64,
    /// Exactly [`SHARDS`] entries, by shard number.
    pub owners: Vec<ShardOwner>,
}

impl Default for ShardMap {
    fn default() -> Self {
        Self {
            version: 0,
            owners: vec![ShardOwner::default(); usize::from(SHARDS)],
        }
    }
}

impl ShardMap {
    /// The owner of a shard; nobody for a number out of range.
    #[must_use]
    pub fn owner(&self, shard: ShardId) -> ShardOwner {
        self.owners
            .get(usize::from(shard.0))
            .copied()
            .unwrap_or_default()
    }

    /// All shards with their owners.
    pub fn iter(&self) -> impl Iterator<Item = (ShardId, ShardOwner)> + '_ {
        (0..SHARDS).map(ShardId).zip(self.owners.iter().copied())
    }
}

/// Stage of a node's life as the registry keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MemberState {
    /// Has a row and a lease, but no peer has called it back yet: takes no part.
    Joining,
    /// Takes part.
    Live,
    /// Takes part, gives its shards away and is about to leave.
    Draining,
}

/// A moment of the registry's own clock in microseconds. Only ever compared with another one of the same registry, and for
/// equality: a node never compares it with its own clock.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct RegistryTime(pub i64);

/// One row of the member list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Which incarnation.
    pub member: Member,
    /// The node's configured name; unique in the cluster.
    pub name: String,
    /// Where peers call it (`host:port`).
    pub advertise: String,
    /// Its software version.
    pub version: String,
    /// Stage of its life.
    pub state: MemberState,
    /// When its lease ends.
    pub expires: RegistryTime,
}

/// The members as of one version. A member whose lease has ended stays here until it is fenced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberList {
    /// Grows with every join, leave, fence and change of state (not with renewals).
    pub version: u64,
    /// By member.
    pub members: Vec<MemberRecord>,
}

/// A member that is one no more, for the administrator's eyes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastMember {
    /// Which incarnation.
    pub member: Member,
    /// Its node's name.
    pub name: String,
    /// Where peers called it.
    pub advertise: String,
    /// When it ended, on the registry's clock.
    pub at: RegistryTime,
    /// Why it ended.
    pub why: PastReason,
    /// Who ended it; itself when it left.
    pub by: MemberId,
}

/// How long documents are kept for NFS clients that had locks through a node that is gone, so that they take them again: some
/// times the 5 s after which a Linux client asks again.
pub const RECLAIM_GRACE: Duration = Duration::from_secs(20);

/// Documents on which clients of a former member may have had NFS locks, which they may take again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftLocks {
    /// Which incarnation had them.
    pub member: Member,
    /// Its node's name.
    pub node: String,
    /// How long they are kept for those clients from now on.
    pub ends_in: Duration,
    /// Which.
    pub documents: Vec<u64>,
}

/// What a look at the registry shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The owners of all shards, if they were asked for.
    pub map: Option<ShardMap>,
    /// The members.
    pub members: MemberList,
    /// What former members left behind.
    pub left: Vec<LeftLocks>,
}

/// Why a member is one no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PastReason {
    /// It left by itself.
    Left,
    /// Its lease ran out.
    Expired,
    /// Its process was seen dead.
    Dead,
    /// A later incarnation of the same node took its place.
    Replaced,
}

/// What makes a database one cluster's.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// Random, made with the cluster.
    pub id: [u8; 16],
    /// Keyed hash of the id under the cluster secret: proves the secret without telling it.
    pub secret_proof: [u8; 32],
    /// Version of the peer protocol and of the registry's tables; nodes with another one are refused.
    pub schema: u32,
}

impl fmt::Debug for ClusterIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cluster {:032x}, schema {}",
            u128::from_be_bytes(self.id),
            self.schema
        )
    }
}

/// Who wants to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The node's configured name.
    pub name: String,
    /// Where peers call it.
    pub advertise: String,
    /// Its software version.
    pub version: String,
}

/// A new member: its row is there in state [`MemberState::Joining`] and its lease runs.
pub struct Joined {
    /// The new incarnation.
    pub member: Member,
    /// Held from before the row became visible.
    pub life: Box<dyn LifeLock>,
}

/// Proof that the process lives: a lock of the registry that ends with the process. Dropping it releases it.
#[async_trait]
pub trait LifeLock: Send {
    /// Returns when the lock is lost (connection gone, registry restarted). Safe to cancel and call again.
    async fn lost(&mut self);
}

/// What a renewal brings back: the versions against which a node decides what to read again, and the tokens that it has lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// [`MemberList::version`] now.
    pub members: u64,
    /// [`ShardMap::version`] now.
    pub shards: u64,
    /// The member's tokens that were taken away by force, in this order, all that it has not named as heard.
    pub revoked: Vec<Revoked>,
}

/// Result of an attempt to fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceOutcome {
    /// It was a member and is one no more.
    Fenced,
    /// It was no member already.
    Gone,
    /// It lives: its lease was renewed, or its life lock is held.
    Alive,
}

/// What may have changed in the registry; only a hint, may be missing or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryHint {
    /// There may be mail for this member.
    Mail,
    /// Members or shard owners may have changed.
    Members,
}

/// Why the registry did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Not reached, or it failed; nothing is known about the outcome. Try again.
    #[error("the cluster database can't be reached or failed: {0}; it is tried again")]
    Unavailable(String),
    /// The asking member is no member any more (or its lease has run out, where that is a condition).
    #[error("this node's epoch is fenced; it joins again with a new one")]
    Fenced,
    /// The database belongs to another cluster, or to a cluster with another secret or schema.
    #[error("wrong cluster: {0}; check [cluster] secret_file and the database address")]
    WrongCluster(String),
    /// A live node has the same name.
    #[error("a live node at {advertise} has the same name; give each node its own [node] name")]
    NameTaken {
        /// Where that node is.
        advertise: String,
    },
    /// The database has lost commits that a node had seen (a standby without them was promoted): nothing that this node
    /// remembers can be trusted to fit it.
    #[error(
        "the cluster database lost acknowledged commits: {0}; restore the right server, or restart all nodes"
    )]
    HistoryLost(String),
    /// The registry has no such row or refused the values.
    #[error("the cluster database refused: {0}")]
    Refused(String),
}

/// The one arbiter of membership and shard ownership.
///
/// All calls are atomic. Whoever asks names itself; a call from a member that is no member any more fails with
/// [`RegistryError::Fenced`] and changes nothing, checked in the same statement that changes. Where two rows of members
/// are locked, the lower member first, so that two nodes that fence each other at once don't deadlock: one wins.
/// Every call may fail with [`RegistryError::Unavailable`] and must do so within a bounded time (2 s); its effect may
/// nevertheless have happened. An implementation remembers how far the history has come that it has seen (its own
/// answers and the repository's commits) and fails every call with [`RegistryError::HistoryLost`] once the registry is behind.
#[async_trait]
pub trait EpochRegistry: Send + Sync {
    /// How long a lease lasts from a renewal on.
    fn lease_time(&self) -> Duration {
        Duration::from_secs(6)
    }

    /// The cluster's identity; if the registry has none yet, writes this one first. The caller compares.
    async fn identity(&self, propose: &ClusterIdentity) -> Result<ClusterIdentity, RegistryError>;

    /// Makes a new incarnation: a new epoch, its life lock, then its row with a fresh lease. Older incarnations of the
    /// same name are fenced in the same transaction if their lease has run out or their life lock is free, else
    /// [`RegistryError::NameTaken`].
    async fn join(&self, request: &JoinRequest) -> Result<Joined, RegistryError>;

    /// Takes the life lock again after it was lost; `Refused` while somebody else has it.
    async fn hold_life(&self, me: Member) -> Result<Box<dyn LifeLock>, RegistryError>;

    /// Prolongs the lease (also one that has run out, as long as the row is there). `heard`: the [`Revoked::id`]s of the last
    /// answer, which are forgotten. What is revoked is read at the moment of the prolongation: a node that goes by this
    /// lease knows of every [`EpochRegistry::force_fence`] that came before it.
    async fn renew(&self, me: Member, heard: &[u64]) -> Result<Heartbeat, RegistryError>;

    /// All members.
    async fn members(&self) -> Result<MemberList, RegistryError>;

    /// The latest former members, newest first.
    async fn past_members(&self, limit: u32) -> Result<Vec<PastMember>, RegistryError>;

    /// What members left behind that ended less than [`RECLAIM_GRACE`] ago, but for those in `known`. Whoever is missing in an
    /// answer of [`EpochRegistry::members`] that came before is in it if it ended so lately; nothing that it left is missing.
    ///
    /// That time counts only while some member can act: it begins anew when a node joins where no other member can, and when a
    /// member renews a lease that had run out. Once it is over what they left is forgotten.
    async fn left_locks(&self, known: &[MemberEpoch]) -> Result<Vec<LeftLocks>, RegistryError>;

    /// All three at one moment, or one after the other: [`EpochRegistry::shard_map`] (if `map`), [`EpochRegistry::members`],
    /// [`EpochRegistry::left_locks`].
    async fn look(&self, map: bool, known: &[MemberEpoch]) -> Result<Sight, RegistryError> {
        let map = match map {
            true => Some(self.shard_map().await?),
            false => None,
        };
        let members = self.members().await?;
        let left = self.left_locks(known).await?;
        Ok(Sight { map, members, left })
    }

    /// Fences `victim` if its lease ends at `expires` still and has run out on the registry's clock. `me` must hold an
    /// unexpired lease.
    async fn fence_expired(
        &self,
        me: Member,
        victim: Member,
        expires: RegistryTime,
    ) -> Result<FenceOutcome, RegistryError>;

    /// Fences `victim` if its life lock can be had at once. `me` must hold an unexpired lease.
    async fn fence_dead(&self, me: Member, victim: Member) -> Result<FenceOutcome, RegistryError>;

    /// Ends the own membership; idempotent.
    async fn leave(&self, me: Member) -> Result<(), RegistryError>;

    /// Moves a member (itself or another) to another stage.
    async fn set_state(
        &self,
        me: Member,
        member: Member,
        state: MemberState,
    ) -> Result<(), RegistryError>;

    /// The owners of all shards.
    async fn shard_map(&self) -> Result<ShardMap, RegistryError>;

    /// Makes `me` the owner of those of the shards that still have the given epoch **and** whose owner is no member. Answers
    /// with those taken and their new epochs.
    async fn take_shards(
        &self,
        me: Member,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>, RegistryError>;

    /// Draws the own turn `turn`, which is greater than all before: no [`EpochRegistry::take_silent`] under an earlier one comes
    /// after this. Answers with [`ShardMap::version`] after that; who knows this map knows all that were taken.
    async fn draw_turn(&self, me: Member, turn: u64) -> Result<u64, RegistryError>;

    /// Makes `me` the owner of those of the shards that still have the given epoch **and** whose owner is `from`, if that is a
    /// member still and has drawn `turn` last (0: none). Answers with those taken and their new epochs, also with those that are
    /// `me`'s under the next epoch already, if the turn is still the same: who did not hear the answer asks again.
    async fn take_silent(
        &self,
        me: Member,
        from: Member,
        turn: u64,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>, RegistryError>;

    /// Gives own shards that still have the given epoch to another member. Answers with those given and their new epochs; none
    /// if `to` is no member.
    async fn hand_over(
        &self,
        me: Member,
        to: Member,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>, RegistryError>;

    /// Puts messages into a member's mailbox, in this order; dropped silently if it is no member.
    async fn mailbox_put(
        &self,
        me: Member,
        to: Member,
        messages: Vec<Bytes>,
    ) -> Result<(), RegistryError>;

    /// Takes up to `limit` messages out of the own mailbox, in the order in which each sender put them.
    async fn mailbox_take(
        &self,
        me: Member,
        limit: u32,
    ) -> Result<Vec<(Member, Bytes)>, RegistryError>;

    /// Waits for a hint that something changed. Safe to cancel. On `Unavailable` the caller waits before it asks again.
    async fn hint(&self, me: Member) -> Result<RegistryHint, RegistryError>;

    /// Takes a token away: raises the document's fence, so that commits under an older one are refused from now on, and keeps
    /// the revocation for its holder's next renewal. One [`EpochRegistry::lease_time`] after the answer the holder has heard
    /// of it, or has no lease that it could go by. `me` must own the document's shard under `epoch`. Answers with the new
    /// fence, of the form of [`ShardEpoch::fence`]; also for a document that is not there (any more), which nobody can commit.
    async fn force_fence(
        &self,
        me: Member,
        revocation: &Revocation,
        epoch: ShardEpoch,
    ) -> Result<u64, RegistryError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_has_a_shard_below_the_number_of_shards_and_they_spread() {
        let mut count = vec![0_u32; usize::from(SHARDS)];
        for document in 0..40_960_u64 {
            let shard = shard_of(document);
            assert!(shard.0 < SHARDS);
            count[usize::from(shard.0)] += 1;
        }
        assert!(count.iter().all(|n| (1..=40).contains(n)));
        assert_eq!(
            shard_of(u64::MAX).0,
            (u64::MAX.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as u16
        );
    }
}
