//! What was done with packs, for whoever watches. Relaxed counters; never a decision.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sluice_repo::{PackCounts, PackPlace, PacksHeld};

use super::room;

/// Counts since the folder was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    appended: AtomicU64,
    appended_bytes: AtomicU64,
    syncs: AtomicU64,
    deleted: AtomicU64,
    punched_bytes: AtomicU64,
    /// What was found at the last look through all packs, and the counts then.
    looked: Mutex<Option<(PacksHeld, PackCounts)>>,
}

impl Counts {
    pub(super) fn appended(&self, place: PackPlace) {
        self.appended.fetch_add(1, Ordering::Relaxed);
        self.appended_bytes
            .fetch_add(room(place), Ordering::Relaxed);
    }

    pub(super) fn synced(&self) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn deleted(&self, place: PackPlace) {
        self.deleted.fetch_add(1, Ordering::Relaxed);
        self.punched_bytes.fetch_add(room(place), Ordering::Relaxed);
    }

    /// All packs were looked through; `before` is what was counted when that began.
    pub(super) fn found(&self, held: PacksHeld, before: PackCounts) {
        *self.looked.lock() = Some((held, before));
    }

    pub(crate) fn now(&self) -> PackCounts {
        let counts = PackCounts {
            appended: self.appended.load(Ordering::Relaxed),
            appended_bytes: self.appended_bytes.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            deleted: self.deleted.load(Ordering::Relaxed),
            punched_bytes: self.punched_bytes.load(Ordering::Relaxed),
            held: None,
        };
        let since = |found: u64, now: (u64, u64), then: (u64, u64)| {
            (found + (now.0 - then.0)).saturating_sub(now.1 - then.1)
        };
        let held = self.looked.lock().map(|(found, then)| PacksHeld {
            objects: since(
                found.objects,
                (counts.appended, counts.deleted),
                (then.appended, then.deleted),
            ),
            bytes: since(
                found.bytes,
                (counts.appended_bytes, counts.punched_bytes),
                (then.appended_bytes, then.punched_bytes),
            ),
            dead_bytes: found.dead_bytes,
        });
        PackCounts { held, ..counts }
    }
}
