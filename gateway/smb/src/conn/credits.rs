//! The sequence window of a connection: which message ids a client may use (MS-SMB2 3.3.1.1, 3.3.5.2.3).

/// Most ids that a client may have unused, and the widest spread of unused ids.
pub const CREDITS_MAX: u16 = 8192;

/// A message id outside the window or used before; the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id is outside the window or was used before")]
pub struct OutOfWindow;

const WORDS: usize = CREDITS_MAX as usize / 64;

/// Ids `low..high` are granted; a bit says which of them are used.
pub struct CreditWindow {
    low: u64,
    high: u64,
    unused: u16,
    used: [u64; WORDS],
}

impl Default for CreditWindow {
    /// One credit, for message id 0.
    fn default() -> Self {
        CreditWindow {
            low: 0,
            high: 1,
            unused: 1,
            used: [0; WORDS],
        }
    }
}

impl CreditWindow {
    fn bit(id: u64) -> (usize, u64) {
        let slot = (id % u64::from(CREDITS_MAX)) as usize;
        (slot / 64, 1 << (slot % 64))
    }

    fn is_used(&self, id: u64) -> bool {
        let (word, mask) = Self::bit(id);
        self.used[word] & mask != 0
    }

    /// Uses the `charge` ids from `id` on; a charge of 0 counts as 1.
    pub fn consume(&mut self, id: u64, charge: u16) -> Result<(), OutOfWindow> {
        let charge = charge.max(1);
        let end = id.checked_add(charge.into()).ok_or(OutOfWindow)?;
        if id < self.low || end > self.high || (id..end).any(|id| self.is_used(id)) {
            return Err(OutOfWindow);
        }
        for id in id..end {
            let (word, mask) = Self::bit(id);
            self.used[word] |= mask;
        }
        self.unused -= charge;
        while self.low < self.high && self.is_used(self.low) {
            let (word, mask) = Self::bit(self.low);
            self.used[word] &= !mask;
            self.low += 1;
        }
        Ok(())
    }

    /// Grants up to `requested` new ids (at least one if there is room) and returns how many.
    pub fn grant(&mut self, requested: u16, limit: u16) -> u16 {
        let limit = limit.min(CREDITS_MAX);
        let spread = (self.high - self.low).min(CREDITS_MAX.into()) as u16;
        let room = limit.saturating_sub(self.unused).min(CREDITS_MAX - spread);
        let granted = requested.max(1).min(room);
        self.high += u64::from(granted);
        self.unused += granted;
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_can_be_used_once_and_only_if_granted() {
        let mut w = CreditWindow::default();
        assert_eq!(w.consume(1, 1), Err(OutOfWindow));
        assert_eq!(w.consume(0, 1), Ok(()));
        assert_eq!(w.consume(0, 1), Err(OutOfWindow));
        assert_eq!(w.grant(3, CREDITS_MAX), 3);
        assert_eq!(w.consume(2, 2), Ok(()));
        assert_eq!(w.consume(3, 1), Err(OutOfWindow));
        assert_eq!(w.consume(1, 1), Ok(()));
        assert_eq!(w.consume(u64::MAX, 2), Err(OutOfWindow));
    }

    #[test]
    fn a_client_never_has_more_than_the_limit() {
        let mut w = CreditWindow::default();
        assert_eq!(w.grant(u16::MAX, CREDITS_MAX), CREDITS_MAX - 1);
        assert_eq!(w.grant(1, CREDITS_MAX), 0);
        assert_eq!(w.consume(0, 1), Ok(()));
        assert_eq!(w.grant(9, CREDITS_MAX), 1);
    }

    #[test]
    fn a_skipped_id_holds_the_window_back() {
        let mut w = CreditWindow::default();
        w.consume(0, 1).unwrap();
        w.grant(u16::MAX, CREDITS_MAX);
        for id in 2..=u64::from(CREDITS_MAX) {
            w.consume(id, 1).unwrap();
        }
        assert_eq!(w.grant(10, CREDITS_MAX), 0);
        w.consume(1, 1).unwrap();
        assert_eq!(w.grant(10, CREDITS_MAX), 10);
    }

    proptest! {
        #[test]
        fn the_count_of_unused_ids_is_exact(steps in proptest::collection::vec((0u64..64, 0u16..4, 0u16..9), 1..200)) {
            let mut w = CreditWindow::default();
            for (id, charge, requested) in steps {
                let _ = w.consume(w.low + id, charge);
                w.grant(requested, 64);
                let free = (w.low..w.high).filter(|id| !w.is_used(*id)).count();
                prop_assert_eq!(free, usize::from(w.unused));
                prop_assert!(w.unused <= 64);
            }
        }
    }
}
