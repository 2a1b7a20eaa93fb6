//! Caches over the database that never serve what an answered mutation has replaced.
//!
//! A reader that misses takes the shard's generation before it asks the database and may fill the cache only if the
//! generation is still the same; the writer removes entries and moves the generation on after its commit and before
//! it answers. So a slow reader can't put an old value back.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use parking_lot::Mutex;

const SHARDS: usize = 16;

/// A sharded cache with two age groups: when the young one is full it becomes the old one and the old one is forgotten.
pub(crate) struct Cache<K, V> {
    hasher: RandomState,
    shards: Vec<Mutex<Shard<K, V>>>,
    weight_max: usize,
}

struct Shard<K, V> {
    generation: u64,
    weight: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

/// Answer to a look into the cache: the value, or the right to fill it in.
pub(crate) enum Look<V> {
    Hit(V),
    Miss(Ticket),
}

/// State of a shard when a reader began.
#[derive(Clone, Copy)]
pub(crate) struct Ticket(u64);

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    /// Holds up to about twice `weight_max`, in units of what `fill` says; with 0 nothing.
    pub(crate) fn new(weight_max: usize) -> Self {
        let shard = || Shard {
            generation: 0,
            weight: 0,
            young: HashMap::new(),
            old: HashMap::new(),
        };
        Cache {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            weight_max: weight_max / SHARDS,
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &Mutex<Shard<K, V>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    pub(crate) fn look<Q>(&self, key: &Q) -> Look<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut shard = self.shard(key).lock();
        if let Some(value) = shard.young.get(key) {
            return Look::Hit(value.clone());
        }
        match shard.old.remove_entry(key) {
            Some((key, value)) => {
                shard.young.insert(key, value.clone());
                Look::Hit(value)
            }
            None => Look::Miss(Ticket(shard.generation)),
        }
    }

    /// The value, if it is here. For the writer, between whose changes all that is here is as the last of them has left it.
    pub(crate) fn hit<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        match self.look(key) {
            Look::Hit(found) => Some(found),
            Look::Miss(_) => None,
        }
    }

    /// Fills in what a miss has found, unless something in the shard changed meanwhile.
    pub(crate) fn fill(&self, key: K, value: V, weight: usize, ticket: Ticket) {
        let mut shard = self.shard(&key).lock();
        if shard.generation != ticket.0 || self.weight_max == 0 {
            return;
        }
        if shard.weight + weight > self.weight_max {
            shard.old = std::mem::take(&mut shard.young);
            shard.weight = 0;
        }
        shard.weight += weight;
        shard.young.insert(key, value);
    }

    /// Puts in what a change has made true. To be called by the writer alone, in the order of its changes.
    pub(crate) fn replace(&self, key: K, value: V, weight: usize) {
        let mut shard = self.shard(&key).lock();
        shard.generation += 1;
        shard.old.remove(&key);
        if let Some(old) = shard.young.get_mut(&key) {
            *old = value;
            return;
        }
        let ticket = Ticket(shard.generation);
        drop(shard);
        self.fill(key, value, weight, ticket);
    }

    pub(crate) fn remove<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut shard = self.shard(key).lock();
        shard.generation += 1;
        shard.young.remove(key);
        shard.old.remove(key);
    }

    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.generation += 1;
            shard.weight = 0;
            shard.young.clear();
            shard.old.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn miss(cache: &Cache<u32, u32>, key: u32) -> Ticket {
        match cache.look(&key) {
            Look::Miss(ticket) => ticket,
            Look::Hit(value) => panic!("{key} is cached as {value}"),
        }
    }

    #[test]
    fn a_reader_from_before_a_change_cannot_fill_in_the_old_value() {
        let cache = Cache::new(1600);
        let before = miss(&cache, 7);
        cache.remove(&7);
        cache.fill(7, 1, 1, before);
        let after = miss(&cache, 7);
        cache.fill(7, 2, 1, after);
        assert!(matches!(cache.look(&7), Look::Hit(2)));
    }

    #[test]
    fn what_was_cleared_is_read_again_and_not_filled_in_by_who_read_before() {
        let cache = Cache::new(1600);
        for key in 0..100 {
            cache.replace(key, key, 1);
        }
        let before = miss(&cache, 100);
        cache.clear();
        cache.fill(100, 1, 1, before);
        for key in 0..=100 {
            miss(&cache, key);
        }
    }

    #[test]
    fn the_cache_stays_within_twice_its_weight() {
        let cache = Cache::new(160);
        for key in 0..10_000 {
            let ticket = miss(&cache, key);
            cache.fill(key, key, 1, ticket);
        }
        let held: usize = cache
            .shards
            .iter()
            .map(|s| s.lock())
            .map(|s| s.young.len() + s.old.len())
            .sum();
        assert!(held <= 320, "{held}");
    }
}
