//! The clock on which a node counts its own lease, and the moment until which it may act.
//!
//! It runs on while the machine sleeps, and is never compared with another node's or the registry's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds that never go back and count suspended time too.
pub trait LeaseClock: Send + Sync {
    /// Now.
    fn now_ms(&self) -> u64;
}

/// The system's CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl LeaseClock for BootClock {
    fn now_ms(&self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanos = u64::try_from(now.tv_nsec).unwrap_or_default();
        seconds * 1000 + nanos / 1_000_000
    }
}

/// A clock that a test moves.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl LeaseClock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Until when the own lease holds; asked on every grant, so one atomic and one look at the clock.
pub(crate) struct Validity {
    clock: Arc<dyn LeaseClock>,
    /// 0 while frozen.
    until_ms: AtomicU64,
}

impl Validity {
    pub(crate) fn new(clock: Arc<dyn LeaseClock>) -> Self {
        Self {
            clock,
            until_ms: AtomicU64::new(0),
        }
    }

    pub(crate) fn set(&self, until_ms: u64) {
        self.until_ms.store(until_ms, Ordering::SeqCst);
    }

    pub(crate) fn holds(&self) -> bool {
        self.clock.now_ms() < self.until_ms.load(Ordering::SeqCst)
    }
}
