//! The byte ranges of one stream: who holds which, found by position without scanning the others.
//!
//! Ranges are kept in classes by the power of two of their length, each ordered by offset. A search looks, class by
//! class, only at ranges that start less than two class lengths before the end of the bytes searched for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::conflict::RangeParty;
use crate::range::ByteRange;
use crate::types::OpenId;

/// One held range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldRange {
    pub range: ByteRange,
    pub exclusive: bool,
    pub party: RangeParty,
}

/// Ranges of one class by (offset, age).
type ByPlace = BTreeMap<(u64, u64), HeldRange>;

/// All ranges of one stream.
#[derive(Default)]
pub(crate) struct RangeSet {
    /// Class, and its ranges.
    classes: Vec<(u32, ByPlace)>,
    /// (open, offset, age) of every range, with its class.
    owners: BTreeSet<(OpenId, u64, u64, u32)>,
    age: u64,
}

/// 0 for an empty range, else one more than the power of two of its length.
fn class_of(length: u64) -> u32 {
    u64::BITS - length.leading_zeros()
}

impl RangeSet {
    pub(crate) fn len(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Ranges that meet these bytes, in no order of age.
    pub(crate) fn meeting(&self, bytes: ByteRange) -> impl Iterator<Item = &HeldRange> {
        let last = bytes.last();
        self.classes
            .iter()
            .filter_map(move |(class, map)| {
                let last = last?;
                // The longest range of this class has 2^class - 1 bytes.
                let reach = 1u64.checked_shl(*class).map_or(u64::MAX, |n| n - 1);
                let first = bytes.offset().saturating_sub(reach);
                (first <= last).then(|| map.range((first, 0)..=(last, u64::MAX)))
            })
            .flatten()
            .map(|(_, held)| held)
            .filter(move |held| held.range.overlaps(bytes))
    }

    /// Whether whoever acts has locked all these bytes itself, in a way that lets nobody else have locked them against it.
    pub(crate) fn covered_by_own(&self, actor: RangeParty, bytes: ByteRange, write: bool) -> bool {
        self.meeting(bytes).any(|held| {
            let own = held.party.client == actor.client
                && (actor.protocol.is_nfs() || held.party.open == actor.open);
            own && (held.exclusive || !write) && held.range.contains(bytes)
        })
    }

    /// Adds a range as it is: SMB ranges neither merge nor split.
    pub(crate) fn insert(&mut self, held: HeldRange) {
        let Some(open) = held.party.open else { return };
        let class = class_of(held.range.length());
        self.age += 1;
        let key = (held.range.offset(), self.age);
        match self.classes.iter_mut().find(|(c, _)| *c == class) {
            Some((_, map)) => {
                map.insert(key, held);
            }
            None => self.classes.push((class, BTreeMap::from([(key, held)]))),
        }
        self.owners.insert((open, key.0, key.1, class));
    }

    /// Adds a range with the age that it had in another table, or the next one if that is taken.
    pub(crate) fn insert_aged(&mut self, held: HeldRange, age: u64) {
        let class = class_of(held.range.length());
        let at = (held.range.offset(), age);
        let taken = self
            .classes
            .iter()
            .any(|(c, map)| *c == class && map.contains_key(&at));
        let next = self.age.max(age);
        if !taken && age != 0 {
            self.age = age - 1;
        }
        self.insert(held);
        self.age = self.age.max(next);
    }

    /// Every range with its age.
    pub(crate) fn aged(&self) -> impl Iterator<Item = (u64, &HeldRange)> {
        let maps = self.classes.iter().flat_map(|(_, map)| map);
        maps.map(|((_, age), held)| (*age, held))
    }

    fn take(&mut self, open: OpenId, offset: u64, age: u64, class: u32) -> Option<HeldRange> {
        self.owners.remove(&(open, offset, age, class));
        let at = self.classes.iter().position(|(c, _)| *c == class)?;
        let held = self.classes[at].1.remove(&(offset, age));
        if self.classes[at].1.is_empty() {
            self.classes.swap_remove(at);
        }
        held
    }

    /// Removes one range that this open holds exactly so: an exclusive one first. False if there is none.
    pub(crate) fn remove_exact(&mut self, open: OpenId, range: ByteRange) -> bool {
        let found = self
            .exact(open, range)
            .min_by_key(|(age, exclusive)| (!exclusive, *age));
        found.is_some_and(|(age, _)| {
            self.take(open, range.offset(), age, class_of(range.length()))
                .is_some()
        })
    }

    /// Removes the range that this open locked last exactly so.
    pub(crate) fn remove_youngest(&mut self, open: OpenId, range: ByteRange) {
        if let Some(age) = self.exact(open, range).map(|(age, _)| age).max() {
            self.take(open, range.offset(), age, class_of(range.length()));
        }
    }

    /// Age and kind of the ranges that this open holds exactly so.
    fn exact(&self, open: OpenId, range: ByteRange) -> impl Iterator<Item = (u64, bool)> + '_ {
        let (class, at) = (class_of(range.length()), range.offset());
        let map = self
            .classes
            .iter()
            .find(|(c, _)| *c == class)
            .map(|(_, map)| map);
        self.owners
            .range((open, at, 0, 0)..=(open, at, u64::MAX, u32::MAX))
            .filter(move |(_, _, _, c)| *c == class)
            .filter_map(move |(_, _, age, _)| {
                map.and_then(|m| m.get(&(at, *age)))
                    .map(|held| (*age, held))
            })
            .filter(move |(_, held)| held.range == range)
            .map(|(age, held)| (age, held.exclusive))
    }

    /// Removes everything that an open holds. Gives how many ranges that were.
    pub(crate) fn remove_open(&mut self, open: OpenId) -> usize {
        let keys: Vec<_> = self.owned(open).collect();
        for (offset, age, class) in &keys {
            self.take(open, *offset, *age, *class);
        }
        keys.len()
    }

    fn owned(&self, open: OpenId) -> impl Iterator<Item = (u64, u64, u32)> + '_ {
        self.owners
            .range((open, 0, 0, 0)..=(open, u64::MAX, u64::MAX, u32::MAX))
            .map(|(_, o, a, c)| (*o, *a, *c))
    }

    /// The ranges of an open in order of offset.
    pub(crate) fn of_open(&self, open: OpenId) -> impl Iterator<Item = &HeldRange> {
        self.owned(open).filter_map(move |(offset, age, class)| {
            let (_, map) = self.classes.iter().find(|(c, _)| *c == class)?;
            map.get(&(offset, age))
        })
    }

    /// POSIX: frees these bytes of an owner; a range that reaches out of them is cut or split.
    pub(crate) fn free_posix(&mut self, open: OpenId, bytes: ByteRange) {
        let Some(last) = bytes.last() else { return };
        // Ranges of one POSIX owner never overlap, so only those that meet the bytes are touched.
        let met: Vec<_> = self.meeting_of(open, bytes);
        for (offset, age, class) in met {
            let Some(held) = self.take(open, offset, age, class) else {
                continue;
            };
            let Some(held_last) = held.range.last() else {
                continue;
            };
            if held.range.offset() < bytes.offset() {
                self.insert_span(held, held.range.offset(), bytes.offset() - 1);
            }
            if held_last > last {
                self.insert_span(held, last + 1, held_last);
            }
        }
    }

    fn meeting_of(&self, open: OpenId, bytes: ByteRange) -> Vec<(u64, u64, u32)> {
        let Some(last) = bytes.last() else {
            return Vec::new();
        };
        let before = self
            .owners
            .range((open, 0, 0, 0)..(open, bytes.offset(), 0, 0))
            .next_back();
        let from = before.map_or(bytes.offset(), |(_, offset, _, _)| *offset);
        self.owners
            .range((open, from, 0, 0)..=(open, last, u64::MAX, u32::MAX))
            .filter(|(_, offset, age, class)| {
                let map = self
                    .classes
                    .iter()
                    .find(|(c, _)| c == class)
                    .map(|(_, map)| map);
                map.and_then(|m| m.get(&(*offset, *age)))
                    .is_some_and(|held| held.range.overlaps(bytes))
            })
            .map(|(_, offset, age, class)| (*offset, *age, *class))
            .collect()
    }

    fn insert_span(&mut self, like: HeldRange, first: u64, last: u64) {
        // A span never covers all 2^64 bytes: the widest lock has 2^64 - 1.
        if let Some(range) = ByteRange::new(first, (last - first).saturating_add(1)) {
            self.insert(HeldRange { range, ..like });
        }
    }

    /// POSIX: lays a range over whatever the owner held there and merges it with neighbours of the same kind.
    pub(crate) fn insert_posix(&mut self, held: HeldRange) {
        let (Some(open), Some(mut last)) = (held.party.open, held.range.last()) else {
            return;
        };
        let mut first = held.range.offset();
        self.free_posix(open, held.range);
        let before = self
            .owners
            .range((open, 0, 0, 0)..(open, first, 0, 0))
            .next_back()
            .copied();
        let after = last.checked_add(1).and_then(|next| {
            self.owners
                .range((open, next, 0, 0)..=(open, next, u64::MAX, u32::MAX))
                .next()
                .copied()
        });
        for (_, offset, age, class) in [before, after].into_iter().flatten() {
            let near = self
                .classes
                .iter()
                .find(|(c, _)| *c == class)
                .and_then(|(_, m)| m.get(&(offset, age)))
                .copied();
            let Some(near) = near.filter(|n| n.exclusive == held.exclusive) else {
                continue;
            };
            let Some(near_last) = near.range.last() else {
                continue;
            };
            if near_last.checked_add(1) == Some(first) || last.checked_add(1) == Some(offset) {
                self.take(open, offset, age, class);
                first = first.min(offset);
                last = last.max(near_last);
            }
        }
        self.insert_span(held, first, last);
    }

    /// Every range, in order of class.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &HeldRange> {
        self.classes.iter().flat_map(|(_, map)| map.values())
    }
}
