//! Which ranges and lengths were changed since the last commit, so that the changes can be made again on top of a version
//! that somebody else has committed. Exact: a byte that nobody wrote is never in here, whatever piece it shares with
//! written ones. Knows ranges only; the bytes are in the piece map.

use std::sync::Arc;

use sluice_repo::Manifest;

use crate::piece::PieceMap;

/// More entries than this are merged where they touch.
const ENTRIES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Bytes of `[start, end)`; the document reaches at least to `end`.
    Write { start: u64, end: u64 },
    /// `[start, end)` was made zeros; the length did not change.
    Punch { start: u64, end: u64 },
    /// Everything from here on was cut off.
    Cut(u64),
    /// The document was made at least this long.
    Extend(u64),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Stamp of its first change; those of one entry were all made between two seals.
    first: u64,
    last: u64,
    kind: Kind,
}

/// Changes in the order in which they were made.
#[derive(Debug)]
pub(crate) struct Changes {
    entries: Vec<Entry>,
    /// Stamp of the last seal: what was changed before it and after it is never in one entry.
    sealed: u64,
    limit: usize,
}

impl Default for Changes {
    fn default() -> Self {
        Changes {
            entries: Vec::new(),
            sealed: 0,
            limit: ENTRIES_MAX,
        }
    }
}

impl Changes {
    pub(crate) fn write(&mut self, stamp: u64, start: u64, end: u64) {
        if let Some(entry) = self.entries.last_mut()
            && entry.first > self.sealed
            && let Kind::Write { end: so_far, .. } = &mut entry.kind
            && *so_far == start
        {
            // The usual case: a client writes from the beginning to the end.
            *so_far = end;
            entry.last = stamp;
            return;
        }
        self.push(stamp, Kind::Write { start, end });
    }

    pub(crate) fn punch(&mut self, stamp: u64, start: u64, end: u64) {
        self.push(stamp, Kind::Punch { start, end });
    }

    pub(crate) fn set_len(&mut self, stamp: u64, old: u64, new: u64) {
        let kind = if new < old {
            Kind::Cut(new)
        } else {
            Kind::Extend(new)
        };
        self.push(stamp, kind);
    }

    fn push(&mut self, stamp: u64, kind: Kind) {
        self.entries.push(Entry {
            first: stamp,
            last: stamp,
            kind,
        });
        if self.entries.len() > self.limit {
            self.merge();
            self.limit = ENTRIES_MAX.max(self.entries.len() * 2);
        }
    }

    /// A seal has taken everything up to `stamp`.
    pub(crate) fn sealed(&mut self, stamp: u64) {
        self.sealed = self.sealed.max(stamp);
    }

    /// Everything up to `stamp` is committed.
    pub(crate) fn committed(&mut self, stamp: u64) {
        self.entries.retain(|entry| entry.last > stamp);
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Writes that follow each other may be put in another order: all of them take the bytes that are there at the end.
    fn merge(&mut self) {
        let sealed = self.sealed;
        let mut merged: Vec<Entry> = Vec::with_capacity(self.entries.len() / 2);
        let together = |a: &Entry, b: &Entry| {
            let writes = matches!((a.kind, b.kind), (Kind::Write { .. }, Kind::Write { .. }));
            writes && (a.first > sealed) == (b.first > sealed) && a.first > sealed
        };
        for run in self.entries.chunk_by_mut(together) {
            run.sort_unstable_by_key(|entry| match entry.kind {
                Kind::Write { start, .. } | Kind::Punch { start, .. } => start,
                Kind::Cut(at) | Kind::Extend(at) => at,
            });
            let floor = merged.len();
            for entry in run.iter() {
                if let Kind::Write { start, end } = entry.kind
                    && merged.len() > floor
                    && let Some(last) = merged.last_mut()
                    && let Kind::Write { end: so_far, .. } = &mut last.kind
                    && start <= *so_far
                {
                    *so_far = end.max(*so_far);
                    last.first = last.first.min(entry.first);
                    last.last = last.last.max(entry.last);
                } else {
                    merged.push(*entry);
                }
            }
        }
        self.entries = merged;
    }

    /// Makes the changes again on top of `base`, whose pieces get `stamp`: bytes come from `ours`. Gives the map and the length.
    pub(crate) fn on_top_of(
        &self,
        base: &Arc<Manifest>,
        ours: &PieceMap,
        stamp: u64,
    ) -> (PieceMap, u64) {
        let mut map = PieceMap::of(base, stamp);
        let mut len = base.size;
        for entry in &self.entries {
            match entry.kind {
                Kind::Write { start, end } => {
                    map.take_over(ours, start, end);
                    len = len.max(end);
                }
                Kind::Punch { start, end } => map.take_over(ours, start, end.min(len)),
                Kind::Cut(to) if to < len => {
                    map.clear(to, len);
                    len = to;
                }
                Kind::Cut(_) => {}
                Kind::Extend(to) => len = len.max(to),
            }
        }
        (map, len)
    }
}
