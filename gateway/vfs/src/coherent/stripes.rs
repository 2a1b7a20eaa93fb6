//! When a cached value counts. Units share stripes by their number; a stripe knows how many changes of its units are under way and
//! when the last one ended, counted in ends of changes. A value carries the count of before it was read: it counts while no change
//! is under way and none has ended since. No value is ever removed for correctness.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::unit::Unit;

const STRIPES: usize = 1 << 16;
/// No value is that young.
const CLOSED: u64 = u64::MAX;

/// A moment before a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

#[derive(Default)]
struct Stripe {
    /// Changes under way.
    busy: AtomicU32,
    /// When the last one ended.
    since: AtomicU64,
}

/// See the module's head.
pub(super) struct Stripes {
    ends: AtomicU64,
    /// Values from before count nowhere.
    floor: AtomicU64,
    stripes: Box<[Stripe]>,
}

impl Stripes {
    /// Closed: nothing counts until [`Stripes::open`].
    pub(super) fn new() -> Stripes {
        Stripes {
            ends: AtomicU64::new(1),
            floor: AtomicU64::new(CLOSED),
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
        }
    }

    fn stripe(&self, unit: Unit) -> &Stripe {
        // The remainder is within.
        &self.stripes[unit.number() as usize % STRIPES]
    }

    /// To be taken before a value is read from the repository.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.ends.load(Ordering::SeqCst))
    }

    /// Whether a value that was read after `ticket` is still what the repository has.
    pub(super) fn counts(&self, unit: Unit, ticket: Ticket) -> bool {
        let stripe = self.stripe(unit);
        // `busy` first: a change that began and ended in between shows in `since`.
        stripe.busy.load(Ordering::SeqCst) == 0
            && stripe.since.load(Ordering::SeqCst) <= ticket.0
            && self.floor.load(Ordering::SeqCst) <= ticket.0
    }

    pub(super) fn is_open(&self) -> bool {
        self.floor.load(Ordering::SeqCst) != CLOSED
    }

    /// A change begins; what is cached of the unit counts no more. Gives what [`Stripes::end`] wants.
    pub(super) fn begin(&self, unit: Unit) -> Begun {
        let stripe = self.stripe(unit);
        stripe.busy.fetch_add(1, Ordering::SeqCst);
        Begun(stripe.since.load(Ordering::SeqCst))
    }

    /// The change is in the repository, or will never be.
    pub(super) fn end(&self, unit: Unit) -> Ticket {
        let stripe = self.stripe(unit);
        let now = self.ends.fetch_add(1, Ordering::SeqCst) + 1;
        stripe.since.fetch_max(now, Ordering::SeqCst);
        stripe.busy.fetch_sub(1, Ordering::SeqCst);
        Ticket(now)
    }

    /// The same, for who knows what the change made true: a ticket for that value, if no other change came between.
    pub(super) fn end_knowing(&self, unit: Unit, begun: Begun) -> Option<Ticket> {
        let stripe = self.stripe(unit);
        let now = self.ends.fetch_add(1, Ordering::SeqCst) + 1;
        let sole = stripe.busy.load(Ordering::SeqCst) == 1
            && stripe
                .since
                .compare_exchange(begun.0, now, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
        if !sole {
            stripe.since.fetch_max(now, Ordering::SeqCst);
        }
        stripe.busy.fetch_sub(1, Ordering::SeqCst);
        sole.then_some(Ticket(now))
    }

    /// Nothing counts from now on.
    pub(super) fn close(&self) {
        self.floor.store(CLOSED, Ordering::SeqCst);
    }

    /// What is read from now on counts.
    pub(super) fn open(&self) {
        let now = self.ends.fetch_add(1, Ordering::SeqCst) + 1;
        self.floor.store(now, Ordering::SeqCst);
    }
}

/// How a stripe was when a change began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun(u64);

#[cfg(test)]
mod tests {
    use sluice_repo::NodeId;

    use super::*;

    fn open() -> (Stripes, Unit) {
        let stripes = Stripes::new();
        stripes.open();
        (stripes, Unit::node(NodeId(7)))
    }

    #[test]
    fn a_value_counts_until_a_change_begins_and_never_again() {
        let (stripes, unit) = open();
        let ticket = stripes.ticket();
        assert!(stripes.counts(unit, ticket));
        stripes.begin(unit);
        assert!(!stripes.counts(unit, ticket));
        stripes.end(unit);
        assert!(!stripes.counts(unit, ticket));
        assert!(stripes.counts(unit, stripes.ticket()));
    }

    #[test]
    fn a_value_read_during_a_change_does_not_count_after_it() {
        let (stripes, unit) = open();
        stripes.begin(unit);
        let during = stripes.ticket();
        assert!(!stripes.counts(unit, during));
        stripes.end(unit);
        assert!(!stripes.counts(unit, during));
    }

    #[test]
    fn nothing_counts_while_one_of_several_changes_is_under_way() {
        let (stripes, unit) = open();
        stripes.begin(unit);
        stripes.begin(unit);
        stripes.end(unit);
        assert!(!stripes.counts(unit, stripes.ticket()));
        stripes.end(unit);
        assert!(stripes.counts(unit, stripes.ticket()));
    }

    #[test]
    fn what_a_change_made_true_counts_only_if_it_was_alone() {
        let (stripes, unit) = open();
        let first = stripes.begin(unit);
        let ticket = stripes.end_knowing(unit, first).expect("alone");
        assert!(stripes.counts(unit, ticket));
        // Another one inside.
        let first = stripes.begin(unit);
        stripes.begin(unit);
        stripes.end(unit);
        assert_eq!(stripes.end_knowing(unit, first), None);
        // Another one around.
        stripes.begin(unit);
        let inner = stripes.begin(unit);
        assert_eq!(stripes.end_knowing(unit, inner), None);
        // One that began before and ended inside.
        let late = stripes.begin(unit);
        stripes.end(unit);
        assert_eq!(stripes.end_knowing(unit, late), None);
    }

    #[test]
    fn a_value_from_before_the_cache_was_opened_again_does_not_count() {
        let (stripes, unit) = open();
        let before = stripes.ticket();
        stripes.close();
        let during = stripes.ticket();
        assert!(!stripes.counts(unit, during) && !stripes.is_open());
        stripes.open();
        assert!(!stripes.counts(unit, before) && !stripes.counts(unit, during));
        assert!(stripes.counts(unit, stripes.ticket()));
    }
}
