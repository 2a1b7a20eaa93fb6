//! A registry in memory for tests and the simulation: same rules as the real one, with a clock and failures under control.
//!
//! [`MemoryRegistry`] is "the database"; each node goes through a [`Door`] of its own that can be cut. Must never be used
//! by a daemon: it arbitrates within one process only.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sluice_lockmgr::{
    ClusterIdentity, EpochRegistry, FenceOutcome, Heartbeat, JoinRequest, Joined, LeftLocks,
    LifeLock, Member, MemberEpoch, MemberId, MemberList, MemberRecord, MemberState, PastMember,
    PastReason, RECLAIM_GRACE, RegistryError, RegistryHint, RegistryTime, Revocation, Revoked,
    ShardEpoch, ShardId, ShardMap, shard_of,
};
use tokio::sync::{Notify, watch};

/// What the doors share: the tables of "the database" and its switches.
#[derive(Clone)]
pub struct MemoryRegistry(Arc<Database>);

struct Database {
    ttl: Duration,
    down: AtomicBool,
    lost_history: AtomicBool,
    changed: Notify,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    now: RegistryTime,
    identity: Option<ClusterIdentity>,
    ids: HashMap<String, MemberId>,
    last_epoch: u64,
    members: BTreeMap<Member, MemberRecord>,
    past: VecDeque<PastMember>,
    /// Until when that is kept which a former member left behind.
    kept_until: HashMap<MemberEpoch, RegistryTime>,
    /// Documents with NFS locks of a member's clients.
    nfs_locked: Vec<(MemberEpoch, u64)>,
    version: u64,
    map: ShardMap,
    mail: HashMap<Member, VecDeque<(Member, Bytes)>>,
    fences: HashMap<u64, u64>,
    /// Tokens that were taken away and whose holders have not said that they heard of it.
    revoked: Vec<(Member, Revoked)>,
    last_revoked: u64,
    /// The turns that members have drawn.
    turns: HashMap<Member, u64>,
    /// Sending half of each held life lock; true means lost.
    life: HashMap<Member, watch::Sender<bool>>,
}

impl MemoryRegistry {
    /// An empty database whose leases last `ttl` on its own clock, which stands still until [`Self::advance`].
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self(Arc::new(Database {
            ttl,
            down: AtomicBool::new(false),
            lost_history: AtomicBool::new(false),
            changed: Notify::new(),
            tables: Mutex::default(),
        }))
    }

    /// Moves the database's clock.
    pub fn advance(&self, by: Duration) {
        self.0.tables.lock().now.0 += micros(by);
    }

    /// Makes every call fail as unavailable, or work again; going down loses all life locks, as a restart does.
    pub fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
        if down {
            for (_, life) in self.0.tables.lock().life.drain() {
                life.send_replace(true);
            }
        }
    }

    /// Acts as a promoted standby that lacks commits that every node has seen.
    pub fn lose_history(&self) {
        self.0.lost_history.store(true, Ordering::SeqCst);
    }

    /// A node's own connection.
    #[must_use]
    pub fn door(&self) -> Arc<Door> {
        Arc::new(Door {
            database: Arc::clone(&self.0),
            cut: AtomicBool::new(false),
            seen: AtomicU64::new(0),
        })
    }

    /// The versions of the member list and of the shard map.
    #[must_use]
    pub fn versions(&self) -> (u64, u64) {
        let tables = self.0.tables.lock();
        (tables.version, tables.map.version)
    }

    /// Whether the repository's commit statement would accept this fence of this member for a document now.
    #[must_use]
    pub fn may_commit(&self, member: Member, document: u64, fence: u64) -> bool {
        let tables = self.0.tables.lock();
        let epoch = tables.map.owner(shard_of(document)).epoch;
        let forced = tables.fences.get(&document).copied().unwrap_or_default();
        tables.members.contains_key(&member)
            && ShardEpoch::of_fence(fence) == epoch
            && fence >= forced
    }

    /// Notes that clients of a member may have NFS locks on a document, as its repository does.
    pub fn note_locked(&self, member: Member, document: u64) {
        let mut tables = self.0.tables.lock();
        tables.nfs_locked.push((member.epoch, document));
    }

    /// The turn that a member has drawn last.
    #[must_use]
    pub fn turn(&self, member: Member) -> u64 {
        let tables = self.0.tables.lock();
        tables.turns.get(&member).copied().unwrap_or_default()
    }

    /// A document's fence; 0 if it was never forced.
    #[must_use]
    pub fn document_fence(&self, document: u64) -> u64 {
        let tables = self.0.tables.lock();
        tables.fences.get(&document).copied().unwrap_or_default()
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// One node's way to the database.
pub struct Door {
    database: Arc<Database>,
    cut: AtomicBool,
    /// Sum of the versions at the last hint.
    seen: AtomicU64,
}

impl Door {
    /// Cuts this node off from the database, or connects it again. A cut loses its life lock.
    pub fn set_cut(&self, cut: bool, member: Option<Member>) {
        self.cut.store(cut, Ordering::SeqCst);
        if cut && let Some(member) = member {
            self.lose_life(member);
        }
    }

    /// The connection that holds a member's life lock breaks.
    pub fn lose_life(&self, member: Member) {
        if let Some(life) = self.database.tables.lock().life.remove(&member) {
            life.send_replace(true);
        }
    }

    fn check(&self) -> Result<(), RegistryError> {
        if self.cut.load(Ordering::SeqCst) || self.database.down.load(Ordering::SeqCst) {
            return Err(RegistryError::Unavailable("cut off by the test".into()));
        }
        if self.database.lost_history.load(Ordering::SeqCst) {
            return Err(RegistryError::HistoryLost("set by the test".into()));
        }
        Ok(())
    }

    /// One transaction; tells the waiters for hints afterwards.
    fn apply<T>(
        &self,
        work: impl FnOnce(&mut Tables, Duration) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        self.check()?;
        let answer = work(&mut self.database.tables.lock(), self.database.ttl);
        self.database.changed.notify_waiters();
        answer
    }

    fn hold(&self, tables: &mut Tables, member: Member) -> Box<dyn LifeLock> {
        let (held, lost) = watch::channel(false);
        tables.life.insert(member, held.clone());
        Box::new(MemoryLife {
            member,
            held,
            lost,
            database: Arc::clone(&self.database),
        })
    }
}

struct MemoryLife {
    member: Member,
    held: watch::Sender<bool>,
    lost: watch::Receiver<bool>,
    database: Arc<Database>,
}

#[async_trait]
impl LifeLock for MemoryLife {
    async fn lost(&mut self) {
        // The sender lives in this value, so the wait can't fail.
        let _ = self.lost.wait_for(|lost| *lost).await;
    }
}

impl Drop for MemoryLife {
    fn drop(&mut self) {
        let mut tables = self.database.tables.lock();
        if tables
            .life
            .get(&self.member)
            .is_some_and(|held| held.same_channel(&self.held))
        {
            tables.life.remove(&self.member);
        }
    }
}

impl Tables {
    fn is_member(&self, member: Member) -> Result<(), RegistryError> {
        match self.members.contains_key(&member) {
            true => Ok(()),
            false => Err(RegistryError::Fenced),
        }
    }

    fn holds_lease(&self, member: Member) -> Result<(), RegistryError> {
        match self.members.get(&member) {
            Some(record) if record.expires > self.now => Ok(()),
            _ => Err(RegistryError::Fenced),
        }
    }

    fn end(&mut self, member: Member, why: PastReason, by: MemberId) {
        if let Some(record) = self.members.remove(&member) {
            self.version += 1;
            self.mail.remove(&member);
            self.turns.remove(&member);
            self.revoked.retain(|(holder, _)| *holder != member);
            let until = RegistryTime(self.now.0 + micros(RECLAIM_GRACE));
            self.kept_until.insert(member.epoch, until);
            self.past.push_front(PastMember {
                member,
                name: record.name,
                advertise: record.advertise,
                at: self.now,
                why,
                by,
            });
            self.past.truncate(100);
        }
    }

    /// Keeps what former members left anew.
    fn keep_anew(&mut self, which: impl Fn(RegistryTime) -> bool) {
        let until = RegistryTime(self.now.0 + micros(RECLAIM_GRACE));
        let kept = self.kept_until.values_mut().filter(|kept| which(**kept));
        kept.for_each(|kept| *kept = until);
    }

    /// Moves the shards that still have the given epoch and pass `may`.
    fn move_shards(
        &mut self,
        to: Member,
        shards: &[(ShardId, ShardEpoch)],
        may: impl Fn(&Self, Option<Member>) -> bool,
    ) -> Vec<(ShardId, ShardEpoch)> {
        let mut moved = Vec::new();
        for (shard, epoch) in shards {
            let now = self.map.owner(*shard);
            if now.epoch != *epoch || !may(self, now.owner) {
                continue;
            }
            if let Some(row) = self.map.owners.get_mut(usize::from(shard.0)) {
                row.owner = Some(to);
                row.epoch.0 += 1;
                moved.push((*shard, row.epoch));
            }
        }
        if !moved.is_empty() {
            self.map.version += 1;
        }
        moved
    }
}

#[async_trait]
impl EpochRegistry for Door {
    fn lease_time(&self) -> Duration {
        self.database.ttl
    }

    async fn identity(&self, propose: &ClusterIdentity) -> Result<ClusterIdentity, RegistryError> {
        self.apply(|tables, _| {
            Ok(tables
                .identity
                .get_or_insert_with(|| propose.clone())
                .clone())
        })
    }

    async fn join(&self, request: &JoinRequest) -> Result<Joined, RegistryError> {
        self.apply(|tables, ttl| {
            let next = MemberId(u32::try_from(tables.ids.len()).unwrap_or(u32::MAX) + 1);
            let id = *tables.ids.entry(request.name.clone()).or_insert(next);
            let older: Vec<MemberRecord> = tables
                .members
                .values()
                .filter(|record| record.member.id == id)
                .cloned()
                .collect();
            for record in older {
                if record.expires > tables.now && tables.life.contains_key(&record.member) {
                    return Err(RegistryError::NameTaken {
                        advertise: record.advertise,
                    });
                }
                tables.end(record.member, PastReason::Replaced, id);
            }
            let can_act = |record: &MemberRecord| {
                let here = record.expires > tables.now && tables.life.contains_key(&record.member);
                here && record.state != MemberState::Joining
            };
            if !tables.members.values().any(can_act) {
                tables.keep_anew(|_| true);
            }
            tables.last_epoch += 1;
            let member = Member {
                id,
                epoch: MemberEpoch(tables.last_epoch),
            };
            let life = self.hold(tables, member);
            tables.members.insert(
                member,
                MemberRecord {
                    member,
                    name: request.name.clone(),
                    advertise: request.advertise.clone(),
                    version: request.version.clone(),
                    state: MemberState::Joining,
                    expires: RegistryTime(tables.now.0 + micros(ttl)),
                },
            );
            tables.version += 1;
            Ok(Joined { member, life })
        })
    }

    async fn hold_life(&self, me: Member) -> Result<Box<dyn LifeLock>, RegistryError> {
        self.apply(|tables, _| {
            tables.is_member(me)?;
            if tables.life.contains_key(&me) {
                return Err(RegistryError::Refused("the life lock is held".into()));
            }
            Ok(self.hold(tables, me))
        })
    }

    async fn renew(&self, me: Member, heard: &[u64]) -> Result<Heartbeat, RegistryError> {
        self.check()?;
        let mut guard = self.database.tables.lock();
        let tables = &mut *guard;
        let expires = RegistryTime(tables.now.0 + micros(self.database.ttl));
        let record = tables.members.get_mut(&me).ok_or(RegistryError::Fenced)?;
        let before = std::mem::replace(&mut record.expires, expires);
        if before < tables.now {
            let froze = before.0 - micros(self.database.ttl);
            tables.keep_anew(|until| until.0 > froze);
        }
        let of_me =
            |(holder, token): &(Member, Revoked)| *holder == me && heard.contains(&token.id);
        tables.revoked.retain(|entry| !of_me(entry));
        let revoked = tables.revoked.iter().filter(|(holder, _)| *holder == me);
        Ok(Heartbeat {
            members: tables.version,
            shards: tables.map.version,
            revoked: revoked.map(|(_, token)| *token).collect(),
        })
    }

    async fn members(&self) -> Result<MemberList, RegistryError> {
        self.check()?;
        let tables = self.database.tables.lock();
        Ok(MemberList {
            version: tables.version,
            members: tables.members.values().cloned().collect(),
        })
    }

    async fn past_members(&self, limit: u32) -> Result<Vec<PastMember>, RegistryError> {
        self.check()?;
        let tables = self.database.tables.lock();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(tables.past.iter().take(limit).cloned().collect())
    }

    async fn left_locks(&self, known: &[MemberEpoch]) -> Result<Vec<LeftLocks>, RegistryError> {
        self.apply(|tables, _| {
            let now = tables.now;
            let can_act = |m: &MemberRecord| m.expires > now && m.state != MemberState::Joining;
            if tables.members.values().any(can_act) {
                let over = now.0 - micros(RECLAIM_GRACE);
                tables.kept_until.retain(|_, until| until.0 >= over);
            }
            let left = tables.past.iter().filter_map(|past| {
                let epoch = past.member.epoch;
                let until = *tables
                    .kept_until
                    .get(&epoch)
                    .filter(|until| **until > now)?;
                let ends_in = Duration::from_micros(u64::try_from(until.0 - now.0).ok()?);
                let of_it = tables.nfs_locked.iter().filter(|(of, _)| *of == epoch);
                (!known.contains(&epoch)).then(|| LeftLocks {
                    member: past.member,
                    node: past.name.clone(),
                    ends_in,
                    documents: of_it.map(|(_, document)| *document).collect(),
                })
            });
            Ok(left.collect())
        })
    }

    async fn fence_expired(
        &self,
        me: Member,
        victim: Member,
        expires: RegistryTime,
    ) -> Result<FenceOutcome, RegistryError> {
        self.apply(|tables, _| {
            tables.holds_lease(me)?;
            match tables.members.get(&victim) {
                None => Ok(FenceOutcome::Gone),
                Some(record) if record.expires == expires && expires < tables.now => {
                    tables.end(victim, PastReason::Expired, me.id);
                    Ok(FenceOutcome::Fenced)
                }
                Some(_) => Ok(FenceOutcome::Alive),
            }
        })
    }

    async fn fence_dead(&self, me: Member, victim: Member) -> Result<FenceOutcome, RegistryError> {
        self.apply(|tables, _| {
            tables.holds_lease(me)?;
            if tables.is_member(victim).is_err() {
                return Ok(FenceOutcome::Gone);
            }
            if tables.life.contains_key(&victim) {
                return Ok(FenceOutcome::Alive);
            }
            tables.end(victim, PastReason::Dead, me.id);
            Ok(FenceOutcome::Fenced)
        })
    }

    async fn leave(&self, me: Member) -> Result<(), RegistryError> {
        self.apply(|tables, _| {
            tables.end(me, PastReason::Left, me.id);
            Ok(())
        })
    }

    async fn set_state(
        &self,
        me: Member,
        member: Member,
        state: MemberState,
    ) -> Result<(), RegistryError> {
        self.apply(|tables, _| {
            tables.is_member(me)?;
            let record = tables
                .members
                .get_mut(&member)
                .ok_or_else(|| RegistryError::Refused(format!("{member} is no member")))?;
            record.state = state;
            tables.version += 1;
            Ok(())
        })
    }

    async fn shard_map(&self) -> Result<ShardMap, RegistryError> {
        self.check()?;
        Ok(self.database.tables.lock().map.clone())
    }

    async fn take_shards(
        &self,
        me: Member,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>, RegistryError> {
        self.apply(|tables, _| {
            tables.is_member(me)?;
            Ok(tables.move_shards(me, shards, |tables, owner| {
                owner.is_none_or(|owner| !tables.members.contains_key(&owner))
            }))
        })
    }

    async fn draw_turn(&self, me: Member, turn: u64) -> Result<u64, RegistryError> {
        self.apply(|tables, _| {
            tables.is_member(me)?;
            let last = tables.turns.entry(me).or_default();
            *last = turn.max(*last);
            Ok(tables.map.version)
        })
    }

    async fn take_silent(
        &self,
        me: Member,
        from: Member,
        turn: u64,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>, RegistryError> {
        self.apply(|tables, _| {
            tables.is_member(me)?;
            let drawn = tables.turns.get(&from).copied().unwrap_or_default();
            if tables.is_member(from).is_err() || drawn != turn {
                return Ok(Vec::new());
            }
            // Those whose answer was lost.
            let next = |(shard, epoch): &(ShardId, ShardEpoch)| (*shard, ShardEpoch(epoch.0 + 1));
            let mut taken: Vec<_> = shards.iter().map(next).collect();
            taken.retain(|(shard, epoch)| {
                let now = tables.map.owner(*shard);
                (now.owner, now.epoch) == (Some(me), *epoch)
            });
            taken.extend(tables.move_shards(me, shards, |_, owner| owner == Some(from)));
            Ok(taken)
        })
    }

    async fn hand_over(
        &self,
        me: Member,
        to: Member,
        shards: &[(ShardId, ShardEpoch)],
    ) -> Result<Vec<(ShardId, ShardEpoch)>, RegistryError> {
        self.apply(|tables, _| {
            tables.is_member(me)?;
            if !tables.members.contains_key(&to) {
                return Ok(Vec::new());
            }
            Ok(tables.move_shards(to, shards, |_, owner| owner == Some(me)))
        })
    }

    async fn mailbox_put(
        &self,
        me: Member,
        to: Member,
        messages: Vec<Bytes>,
    ) -> Result<(), RegistryError> {
        self.apply(|tables, _| {
            tables.is_member(me)?;
            if tables.members.contains_key(&to) {
                let mail = tables.mail.entry(to).or_default();
                mail.extend(messages.into_iter().map(|message| (me, message)));
            }
            Ok(())
        })
    }

    async fn mailbox_take(
        &self,
        me: Member,
        limit: u32,
    ) -> Result<Vec<(Member, Bytes)>, RegistryError> {
        self.check()?;
        let mut tables = self.database.tables.lock();
        tables.is_member(me)?;
        let Some(mail) = tables.mail.get_mut(&me) else {
            return Ok(Vec::new());
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(mail.drain(..mail.len().min(limit)).collect())
    }

    async fn hint(&self, me: Member) -> Result<RegistryHint, RegistryError> {
        loop {
            let changed = self.database.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.check()?;
            {
                let tables = self.database.tables.lock();
                if tables.mail.get(&me).is_some_and(|mail| !mail.is_empty()) {
                    return Ok(RegistryHint::Mail);
                }
                let versions = tables.version + tables.map.version;
                if self.seen.swap(versions, Ordering::SeqCst) != versions {
                    return Ok(RegistryHint::Members);
                }
            }
            changed.await;
        }
    }

    async fn force_fence(
        &self,
        me: Member,
        revocation: &Revocation,
        epoch: ShardEpoch,
    ) -> Result<u64, RegistryError> {
        let Revocation {
            document,
            grant,
            holder,
        } = *revocation;
        self.apply(|tables, _| {
            tables.is_member(me)?;
            let owner = tables.map.owner(shard_of(document));
            if owner.owner != Some(me) || owner.epoch != epoch {
                return Err(RegistryError::Refused(
                    "the document's shard has another owner".into(),
                ));
            }
            let fence = tables.fences.entry(document).or_default();
            *fence = epoch.fence().max(*fence) + 1;
            tables.last_revoked += 1;
            let token = Revoked {
                id: tables.last_revoked,
                document,
                grant,
                fence: *fence,
            };
            tables.revoked.push((holder, token));
            Ok(token.fence)
        })
    }
}

#[cfg(test)]
mod tests {
    use sluice_lockmgr::GrantId;

    use super::*;

    fn request(name: &str) -> JoinRequest {
        JoinRequest {
            name: name.into(),
            advertise: format!("{name}:1"),
            version: "1".into(),
        }
    }

    #[tokio::test]
    async fn a_second_node_of_a_live_name_is_refused_and_a_dead_one_replaced() {
        let registry = MemoryRegistry::new(Duration::from_secs(6));
        let door = registry.door();
        let first = door.join(&request("a")).await.unwrap();
        assert!(matches!(
            door.join(&request("a")).await,
            Err(RegistryError::NameTaken { .. })
        ));
        drop(first.life);
        let second = door.join(&request("a")).await.unwrap();
        assert_eq!(second.member.id, first.member.id);
        assert!(second.member.epoch > first.member.epoch);
        assert_eq!(
            door.renew(first.member, &[]).await,
            Err(RegistryError::Fenced)
        );
    }

    #[tokio::test]
    async fn a_lease_is_fenced_only_unchanged_and_run_out_and_a_process_only_without_its_life_lock()
    {
        let registry = MemoryRegistry::new(Duration::from_secs(6));
        let door = registry.door();
        let a = door.join(&request("a")).await.unwrap();
        let b = door.join(&request("b")).await.unwrap();
        assert_eq!(
            door.fence_dead(a.member, b.member).await,
            Ok(FenceOutcome::Alive)
        );
        let seen = door.members().await.unwrap().members[1].expires;
        registry.advance(Duration::from_secs(7));
        door.renew(a.member, &[]).await.unwrap();
        assert_eq!(
            door.fence_expired(b.member, a.member, seen).await,
            Err(RegistryError::Fenced),
            "who has no lease fences nobody"
        );
        assert_eq!(
            door.fence_expired(a.member, b.member, seen).await,
            Ok(FenceOutcome::Fenced)
        );
        assert_eq!(door.past_members(9).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_is_kept_for_nfs_clients_is_kept_anew_where_no_member_could_act() {
        let registry = MemoryRegistry::new(Duration::from_secs(6));
        let door = registry.door();
        let a = door.join(&request("a")).await.unwrap();
        let b = door.join(&request("b")).await.unwrap();
        registry.note_locked(a.member, 7);
        door.leave(a.member).await.unwrap();
        let ends_in = async || {
            let left = door.left_locks(&[]).await.unwrap();
            left.first().map(|left| left.ends_in)
        };
        registry.advance(Duration::from_secs(5));
        door.renew(b.member, &[]).await.unwrap();
        assert_eq!(ends_in().await, Some(Duration::from_secs(15)));
        registry.advance(Duration::from_secs(60));
        assert_eq!(ends_in().await, None);
        door.renew(b.member, &[]).await.unwrap();
        assert_eq!(ends_in().await, Some(RECLAIM_GRACE));
        door.leave(b.member).await.unwrap();
        registry.advance(Duration::from_secs(60));
        let joined = door.join(&request("c")).await.unwrap();
        let c = joined.member;
        assert_eq!(ends_in().await, Some(RECLAIM_GRACE));
        registry.advance(Duration::from_secs(1));
        door.set_state(c, c, MemberState::Live).await.unwrap();
        let _d = door.join(&request("d")).await.unwrap();
        assert_eq!(ends_in().await, Some(Duration::from_secs(19)));
    }

    #[tokio::test]
    async fn shards_of_a_member_are_not_taken_and_those_of_a_former_one_once() {
        let registry = MemoryRegistry::new(Duration::from_secs(6));
        let door = registry.door();
        let a = door.join(&request("a")).await.unwrap();
        let b = door.join(&request("b")).await.unwrap();
        let wanted = [(ShardId(7), ShardEpoch(0))];
        let taken = door.take_shards(a.member, &wanted).await.unwrap();
        assert_eq!(taken, [(ShardId(7), ShardEpoch(1))]);
        assert!(door.take_shards(b.member, &taken).await.unwrap().is_empty());
        let silent = door.take_silent(b.member, a.member, 0, &taken).await;
        let taken = silent.unwrap();
        assert_eq!(taken, [(ShardId(7), ShardEpoch(2))]);
        let lost = [(ShardId(7), ShardEpoch(1))];
        let again = door.take_silent(b.member, a.member, 0, &lost).await;
        assert_eq!(again.unwrap(), taken, "the answer may have been lost");
        let back = door.hand_over(b.member, a.member, &taken).await.unwrap();
        assert_eq!(back, [(ShardId(7), ShardEpoch(3))]);
        let version = door.shard_map().await.unwrap().version;
        assert_eq!(door.draw_turn(a.member, 1).await, Ok(version));
        let late = door.take_silent(b.member, a.member, 0, &back).await;
        assert!(late.unwrap().is_empty(), "its turn is over");
        let taken = back;
        door.leave(a.member).await.unwrap();
        assert_eq!(door.take_shards(b.member, &taken).await.unwrap().len(), 1);
        let of_a = Revocation {
            document: 0,
            grant: GrantId::default(),
            holder: a.member,
        };
        assert!(
            door.force_fence(b.member, &of_a, ShardEpoch(9))
                .await
                .is_err()
        );
    }
}
