//! What other nodes change, as they said: while they do, what is cached of it counts for nothing here.

use std::collections::{BTreeSet, HashMap, HashSet};

use sluice_lockmgr::Member;

use super::stripes::Stripes;
use super::unit::Unit;

/// See the module's head.
#[derive(Default)]
pub(super) struct Heard {
    known: BTreeSet<Member>,
    holds: HashMap<Member, HashSet<Unit>>,
    holds_all: HashSet<Member>,
    /// Reasons why nothing counts at present: nodes that don't know yet that this one caches, and such as change anything.
    closed: usize,
}

impl Heard {
    /// Nothing counts until [`Heard::open`] was called as often.
    pub(super) fn close(&mut self, stripes: &Stripes) {
        self.closed += 1;
        stripes.close();
    }

    pub(super) fn open(&mut self, stripes: &Stripes) {
        self.closed = self.closed.saturating_sub(1);
        if self.closed == 0 {
            stripes.open();
        }
    }

    /// The other live nodes: gives who is gone, and whether there is a new one. A node that has told something may not be among them
    /// yet; it is gone only once it was.
    pub(super) fn members(&mut self, others: &[Member]) -> (Vec<Member>, bool) {
        let now: BTreeSet<Member> = others.iter().copied().collect();
        let gone = self.known.difference(&now).copied().collect();
        let new = !now.is_subset(&self.known);
        self.known = now;
        (gone, new)
    }

    /// It will change nothing any more: the database has refused it since before it was gone.
    pub(super) fn gone(&mut self, member: Member, stripes: &Stripes) {
        for unit in self.holds.remove(&member).into_iter().flatten() {
            stripes.end(unit);
        }
        self.release_all(member, stripes);
    }

    pub(super) fn hold(&mut self, from: Member, units: Vec<Unit>, stripes: &Stripes) {
        let held = self.holds.entry(from).or_default();
        for unit in units {
            if held.insert(unit) {
                stripes.begin(unit);
            }
        }
    }

    pub(super) fn release(&mut self, from: Member, units: &[Unit], stripes: &Stripes) {
        let Some(held) = self.holds.get_mut(&from) else {
            return;
        };
        for unit in units {
            if held.remove(unit) {
                stripes.end(*unit);
            }
        }
    }

    pub(super) fn hold_all(&mut self, from: Member, stripes: &Stripes) {
        if self.holds_all.insert(from) {
            self.close(stripes);
        }
    }

    pub(super) fn release_all(&mut self, from: Member, stripes: &Stripes) {
        if self.holds_all.remove(&from) {
            self.open(stripes);
        }
    }
}
