//! What goes wrong, how often and for how long. Weights of zero leave a fault out.

use crate::random::Random;

/// Weights of the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// A process is killed and starts again.
    pub kill: u64,
    /// A process stands still and goes on.
    pub pause: u64,
    /// Two nodes can't reach each other.
    pub cut: u64,
    /// A node can't reach the database.
    pub database_cut: u64,
    /// Nobody can reach the database.
    pub database_down: u64,
    /// The database's clock jumps forward.
    pub clock_jump: u64,
    /// Messages take long.
    pub slow: u64,
    /// A node hears and says nothing by any way, and keeps its lease: its tokens are taken away by force.
    pub deaf: u64,
    /// Mean pause between two faults in simulated milliseconds.
    pub every_ms: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            kill: 3,
            pause: 3,
            cut: 3,
            database_cut: 2,
            database_down: 1,
            clock_jump: 1,
            slow: 1,
            deaf: 1,
            every_ms: 4_000,
        }
    }
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self {
            kill: 0,
            pause: 0,
            cut: 0,
            database_cut: 0,
            database_down: 0,
            clock_jump: 0,
            slow: 0,
            deaf: 0,
            every_ms: 1_000,
        }
    }
}

/// A fault that begins now. Nodes by their place; times in simulated milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill { node: usize, down: u64 },
    Pause { node: usize, length: u64 },
    Cut { a: usize, b: usize, length: u64 },
    DatabaseCut { node: usize, length: u64 },
    DatabaseDown { length: u64 },
    ClockJump { by: u64 },
    Slow { length: u64 },
    Deaf { node: usize, length: u64 },
}

impl Faults {
    /// Chooses the next fault; none if all weights are zero.
    pub(crate) fn choose(&self, random: &mut Random, nodes: usize) -> Option<Fault> {
        let weights = [
            self.kill,
            self.pause,
            self.cut,
            self.database_cut,
            self.database_down,
            self.clock_jump,
            self.slow,
            self.deaf,
        ];
        let total: u64 = weights.iter().sum();
        if total == 0 {
            return None;
        }
        let mut at = random.below(total);
        let kind = weights.iter().position(|weight| {
            let found = at < *weight;
            at = at.saturating_sub(*weight);
            found
        })?;
        let node = random.index(nodes);
        // Half of the times within what a lease outlives, half beyond it.
        let length = if random.one_in(2) {
            random.between(50, 3_000)
        } else {
            random.between(3_000, 14_000)
        };
        Some(match kind {
            0 => Fault::Kill {
                node,
                down: random.between(100, 8_000),
            },
            1 => Fault::Pause { node, length },
            2 => Fault::Cut {
                a: node,
                b: (node + 1 + random.index(nodes.saturating_sub(1))) % nodes,
                length,
            },
            3 => Fault::DatabaseCut { node, length },
            4 => Fault::DatabaseDown { length },
            5 => Fault::ClockJump {
                by: random.between(1_000, 30_000),
            },
            6 => Fault::Slow { length },
            _ => Fault::Deaf {
                node,
                length: random.between(14_000, 30_000),
            },
        })
    }
}
