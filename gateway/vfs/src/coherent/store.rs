//! Cached values with their tickets, bounded in number. Knows nothing of what they mean or whether they still count.

use std::collections::HashMap;

use parking_lot::Mutex;

const SHARDS: usize = 16;

struct Shard<V> {
    young: HashMap<u64, V>,
    old: HashMap<u64, V>,
}

/// Values by number, in two age groups: when the young one is full it becomes the old one and the old one is forgotten.
pub(super) struct Store<V> {
    shards: Vec<Mutex<Shard<V>>>,
    shard_max: usize,
}

impl<V: Clone> Store<V> {
    /// Holds at most about `max` values.
    pub(super) fn new(max: usize) -> Store<V> {
        let shard = || Shard {
            young: HashMap::new(),
            old: HashMap::new(),
        };
        Store {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            shard_max: max / SHARDS / 2 + 1,
        }
    }

    fn shard(&self, key: u64) -> &Mutex<Shard<V>> {
        // Keys count up or are hashes: the middle bits spread both well enough. The remainder is within.
        &self.shards[(key ^ (key >> 20)) as usize % SHARDS]
    }

    pub(super) fn get(&self, key: u64) -> Option<V> {
        let mut shard = self.shard(key).lock();
        if let Some(value) = shard.young.get(&key) {
            return Some(value.clone());
        }
        let value = shard.old.remove(&key)?;
        self.insert(&mut shard, key, value.clone());
        Some(value)
    }

    pub(super) fn put(&self, key: u64, value: V) {
        self.insert(&mut self.shard(key).lock(), key, value);
    }

    fn insert(&self, shard: &mut Shard<V>, key: u64, value: V) {
        if shard.young.len() >= self.shard_max {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(key, value);
    }

    /// Forgets a value that counts no more.
    pub(super) fn forget(&self, key: u64) {
        let mut shard = self.shard(key).lock();
        shard.young.remove(&key);
        shard.old.remove(&key);
    }

    /// Values held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.lock());
        shards
            .map(|shard| shard.young.len() + shard.old.len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bound_and_keeps_what_is_used() {
        let store = Store::new(320);
        store.put(7, 7);
        for key in 1000..11_000u64 {
            store.put(key, key);
            assert_eq!(store.get(7), Some(7));
        }
        assert!(store.len() <= 400, "{}", store.len());
        store.forget(7);
        assert_eq!(store.get(7), None);
    }
}
