//! Rules for byte ranges: SMB arrays, NFS owners, the opens that NFS ranges count as, deadlock.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::byte_range::{HeldRange, RangeSet};
use crate::caches::{Calling, Who};
use crate::claims::{held_open, owned_claim, party, range_claim};
use crate::conflict::{Claim, RangeParty, io_conflict, lock_conflict};
use crate::document::{Document, Ranges, Step};
use crate::env::{Due, Env};
use crate::obstacle::{Granted, Need, Obstacle, Verdict};
use crate::outcome::{ConflictKind, Denial, RANGES_LIMIT};
use crate::range::ByteRange;
use crate::request::{OnConflict, OwnedRangeRequest, RangeLock, RangeRequest};
use crate::types::{Access, Actor, ClientId, Holder, OpenId};
use crate::wait_queue::{Waiter, overtaken_by_range};

impl Document {
    pub(crate) fn range_set(&self, stream: u32) -> Option<&RangeSet> {
        let ranges = self.ranges.as_ref()?;
        ranges
            .by_stream
            .iter()
            .find(|(s, _)| *s == stream)
            .map(|(_, set)| set)
    }

    pub(crate) fn ranges_mut(&mut self) -> &mut Ranges {
        self.ranges.get_or_insert_with(Box::default)
    }

    pub(crate) fn range_set_mut(&mut self, stream: u32) -> &mut RangeSet {
        let sets = &mut self.ranges_mut().by_stream;
        let at = sets
            .iter()
            .position(|(s, _)| *s == stream)
            .unwrap_or_else(|| {
                sets.push((stream, RangeSet::default()));
                sets.len() - 1
            });
        &mut sets[at].1
    }

    pub(crate) fn io_obstacle(
        &self,
        stream: u32,
        actor: RangeParty,
        range: ByteRange,
        write: bool,
        bind: bool,
    ) -> Option<Obstacle> {
        let set = self.range_set(stream).filter(|set| !set.is_empty())?;
        let mut kept = None;
        for held in set.meeting(range) {
            if !io_conflict(held.party, held.exclusive, actor, write, bind) {
                continue;
            }
            if held.party.client != ClientId::LEFT {
                return Some(range_obstacle(held));
            }
            kept = Some(held);
        }
        // Where it has a lock itself, nobody can have lost one that would stop it.
        let kept = kept.filter(|_| !set.covered_by_own(actor, range, write));
        kept.map(range_obstacle)
    }

    /// What becomes of I/O that meets a range: refused, or it waits if only those may have it who take locks again.
    pub(crate) fn io_stop(
        &self,
        stream: u32,
        actor: RangeParty,
        range: ByteRange,
        write: bool,
        bind: bool,
    ) -> Option<Verdict> {
        let obstacle = self.io_obstacle(stream, actor, range, write, bind)?;
        let kept =
            matches!(obstacle, Obstacle::Range { party, .. } if party.client == ClientId::LEFT);
        Some(if kept {
            Verdict::Break(obstacle)
        } else {
            Verdict::Blocked(obstacle)
        })
    }

    /// Whether plain I/O of this NFS client can't meet what was lost with a node: it has a lock there, or something that lets
    /// nobody deny what it does.
    pub(crate) fn passes_kept(
        &self,
        stream: u32,
        actor: RangeParty,
        range: ByteRange,
        write: bool,
    ) -> bool {
        let covered = |set: &RangeSet| set.covered_by_own(actor, range, write);
        self.range_set(stream).is_some_and(covered)
            || self.opens.iter().any(|o| {
                o.stream == stream
                    && o.claim.client == actor.client
                    && o.claim.protocol.is_nfs()
                    && o.claim.access.has(Access::WRITE)
            })
    }

    pub(crate) fn lock_obstacle(
        &self,
        stream: u32,
        party: RangeParty,
        lock: RangeLock,
        reclaims: bool,
    ) -> Option<Obstacle> {
        let held = self.range_set(stream).and_then(|set| {
            set.meeting(lock.range)
                .filter(|h| !reclaims || h.party.client != ClientId::LEFT)
                .find(|h| lock_conflict(h.party, h.exclusive, party, lock.exclusive))
        });
        if let Some(held) = held {
            return Some(range_obstacle(held));
        }
        // A transfer that writes touches every range until it ends.
        if self.opens.transfers() == 0 {
            return None;
        }
        let transfer = self.opens.iter().find(|o| {
            o.touches_ranges
                && o.stream == stream
                && o.claim.access.has(Access::WRITE)
                && Some(o.id) != party.open
        })?;
        Some(Obstacle::Open {
            id: transfer.id,
            kind: ConflictKind::HolderInTheWay,
        })
    }

    pub(crate) fn inside_own_range(&self, stream: u32, client: ClientId, bytes: ByteRange) -> bool {
        self.range_set(stream).is_some_and(|set| {
            set.meeting(bytes).any(|h| {
                h.exclusive
                    && h.party.client == client
                    && h.party.protocol.is_nfs()
                    && h.range.contains(bytes)
            })
        })
    }

    pub(crate) fn try_ranges(
        &mut self,
        env: &mut Env,
        r: &RangeRequest,
        earlier: &[Waiter],
    ) -> Step {
        let Some(open) = self.opens.get(r.open.id) else {
            return Some(Verdict::Denied(Denial::NoSuchOpen));
        };
        let (stream, client) = (open.stream, open.claim.client);
        let party = RangeParty {
            open: Some(open.id),
            client,
            protocol: open.claim.protocol,
        };
        let who = Who {
            open: Some(open.id),
            lease: open.grant,
            client,
            protocol: open.claim.protocol,
            opening: None,
        };
        let held = self.range_set(stream).map_or(0, RangeSet::len);
        if held + r.locks.len() > env.options.ranges_max {
            return Some(Verdict::Denied(Denial::Limit(RANGES_LIMIT)));
        }
        for (done, lock) in r.locks.iter().enumerate() {
            let overtaken = (!matches!(r.on_conflict, OnConflict::Reject))
                .then(|| overtaken_by_range(earlier, stream, *lock, party.open, client))
                .flatten();
            let obstacle = self
                .lock_obstacle(stream, party, *lock, false)
                .or(overtaken.map(Obstacle::Waiter));
            if let Some(obstacle) = obstacle {
                self.undo_ranges(stream, r, done);
                return Some(Verdict::Blocked(obstacle));
            }
            self.range_set_mut(stream).insert(HeldRange {
                range: lock.range,
                exclusive: lock.exclusive,
                party,
            });
        }
        let calling = Calling {
            own_level2: true,
            ..Calling::new(Need::Nothing, true)
        };
        let stop = self.stop_of_caches(env, stream, &who, calling);
        if stop.is_some() {
            self.undo_ranges(stream, r, r.locks.len());
        }
        stop.unwrap_or(Some(Verdict::Granted(Granted::Done)))
    }

    /// Gives back the first ranges of a request that could not be granted as a whole.
    fn undo_ranges(&mut self, stream: u32, r: &RangeRequest, done: usize) {
        for lock in r.locks.iter().take(done).rev() {
            self.range_set_mut(stream)
                .remove_youngest(r.open.id, lock.range);
        }
    }

    pub(crate) fn try_owned_range(
        &mut self,
        env: &mut Env,
        r: &OwnedRangeRequest,
        earlier: &[Waiter],
    ) -> Step {
        let stream = r.resource.stream;
        if self.range_set(stream).map_or(0, RangeSet::len) >= env.options.ranges_max {
            return Some(Verdict::Denied(Denial::Limit(RANGES_LIMIT)));
        }
        let own = self.range_open(r);
        let party = party(&r.actor, own);
        let who = Who {
            open: own,
            lease: None,
            client: r.actor.client,
            protocol: r.actor.protocol,
            opening: None,
        };
        let claim = owned_claim(r);
        if let Some(stop) = self.share_check(env, stream, &claim, &who, false) {
            return stop;
        }
        if let Some(obstacle) = self.lock_obstacle(stream, party, r.lock, r.reclaim) {
            let waits = !matches!(r.on_conflict, OnConflict::Reject);
            let circle = waits
                && own.is_some_and(|own| self.closes_circle(own, stream, party, r.lock, earlier));
            return Some(if circle {
                Verdict::Deadlock(obstacle)
            } else {
                Verdict::Blocked(obstacle)
            });
        }
        let in_line = !r.reclaim && !matches!(r.on_conflict, OnConflict::Reject) && own.is_none();
        if in_line
            && let Some(waiter) = overtaken_by_range(earlier, stream, r.lock, own, r.actor.client)
        {
            return Some(Verdict::Blocked(Obstacle::Waiter(waiter)));
        }
        if let Some(stop) =
            self.stop_of_caches(env, stream, &who, Calling::new(Need::Nothing, true))
        {
            return stop;
        }
        self.hold_owned_range(env, r, own);
        Some(Verdict::Granted(Granted::Done))
    }

    /// The open that an owner's ranges count as.
    pub(crate) fn range_open(&self, r: &OwnedRangeRequest) -> Option<OpenId> {
        let ranges = self.ranges.as_ref()?;
        ranges
            .owners
            .get(&(r.resource.stream, r.actor.client, r.owner))
            .copied()
    }

    fn hold_owned_range(&mut self, env: &mut Env, r: &OwnedRangeRequest, own: Option<OpenId>) {
        let stream = r.resource.stream;
        let claim = range_claim(&r.actor, r.lock.exclusive);
        // What the owner held there is replaced, perhaps by less.
        self.dirty |= own.is_some();
        let id = own.unwrap_or_else(|| {
            let id = OpenId(env.fresh_id());
            self.opens
                .insert(held_open(id, stream, claim, &r.actor, None));
            self.ranges_mut()
                .owners
                .insert((stream, r.actor.client, r.owner), id);
            id
        });
        let held = HeldRange {
            range: r.lock.range,
            exclusive: r.lock.exclusive,
            party: party(&r.actor, Some(id)),
        };
        self.range_set_mut(stream).insert_posix(held);
        self.settle_range_open(stream, id);
    }

    /// Keeps the main data for those who take locks again, for that long: an exclusive range over all of it, and the open that it
    /// counts as, of clients that nobody knows. It may have been any lock or share reservation, so it meets whatever one of them
    /// could; but for reading, which a reservation seldom denies. What is held already is not asked.
    pub(crate) fn keep_for_reclaim(&mut self, env: &mut Env, holder: &Arc<Holder>, keep: Duration) {
        if self.keep_longer(env, keep) {
            return;
        }
        let until = env.now.after(keep);
        let id = OpenId(env.fresh_id());
        let actor = Actor {
            protocol: holder.protocol,
            client: ClientId::LEFT,
            holder: Arc::clone(holder),
        };
        let claim = Claim {
            access: Access::READ.with(Access::WRITE),
            denies: Access::WRITE.with(Access::DELETE),
            ..range_claim(&actor, true)
        };
        self.opens
            .insert(held_open(id, 0, claim, &actor, Some(until)));
        self.range_set_mut(0).insert(HeldRange {
            range: ByteRange::WHOLE,
            exclusive: true,
            party: party(&actor, Some(id)),
        });
        env.set_timer(until, self.id, Due::Open(id));
    }

    /// Keeps the main data at least for that long, if it is kept; false if it is not.
    pub(crate) fn keep_longer(&mut self, env: &mut Env, keep: Duration) -> bool {
        let kept = self.opens.iter().find(|o| o.claim.client == ClientId::LEFT);
        let Some(id) = kept.map(|open| open.id) else {
            return false;
        };
        let until = env.now.after(keep);
        if let Some(open) = self.opens.get_mut(id) {
            open.until = open.until.max(Some(until));
        }
        env.set_timer(until, self.id, Due::Open(id));
        true
    }

    /// Makes the open of an owner's ranges do what the ranges need; ends it with the last of them. True if it ended.
    pub(crate) fn settle_range_open(&mut self, stream: u32, id: OpenId) -> bool {
        let mut access = Access::NONE;
        for held in self
            .range_set(stream)
            .into_iter()
            .flat_map(|set| set.of_open(id))
        {
            access = access.with(if held.exclusive {
                Access::WRITE
            } else {
                Access::READ
            });
            if access == Access::READ.with(Access::WRITE) {
                break;
            }
        }
        if access.is_empty() {
            self.opens.remove(id);
            if let Some(ranges) = &mut self.ranges {
                ranges.owners.retain(|_, open| *open != id);
            }
            return true;
        }
        if let Some(claim) = self.opens.get(id).map(|o| Claim { access, ..o.claim }) {
            self.opens.set_claim(id, claim);
        }
        false
    }

    /// Would waiting close a circle? Follows owners that hold, from waiter to waiter, back to the asking owner.
    fn closes_circle(
        &self,
        own: OpenId,
        stream: u32,
        party: RangeParty,
        lock: RangeLock,
        earlier: &[Waiter],
    ) -> bool {
        let Some(set) = self.range_set(stream) else {
            return false;
        };
        let blockers = |party: RangeParty, lock: RangeLock| -> SmallVec<[OpenId; 8]> {
            set.meeting(lock.range)
                .filter(|h| lock_conflict(h.party, h.exclusive, party, lock.exclusive))
                .filter_map(|h| h.party.open)
                .collect()
        };
        let mut seen: SmallVec<[OpenId; 8]> = SmallVec::new();
        let mut next = blockers(party, lock);
        while let Some(open) = next.pop() {
            if open == own {
                return true;
            }
            if seen.contains(&open) {
                continue;
            }
            seen.push(open);
            for waiter in earlier.iter().filter(|w| w.stream == stream) {
                if let Some((wanted, Some(waiting))) = waiter.range
                    && waiting == open
                    && let Some(held) = self.opens.get(open)
                {
                    let party = RangeParty {
                        open: Some(open),
                        client: held.claim.client,
                        protocol: held.claim.protocol,
                    };
                    next.extend(blockers(party, wanted));
                }
            }
        }
        false
    }
}

fn range_obstacle(held: &HeldRange) -> Obstacle {
    Obstacle::Range {
        range: held.range,
        exclusive: held.exclusive,
        party: held.party,
    }
}
