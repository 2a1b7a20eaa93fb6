//! Statements that reach the database.

use crate::Mutant;
use crate::node::{Step, epoch_of};
use crate::state::{Broken, Call, Commit, Side, Work};

impl Step<'_> {
    pub fn call_arrives(&mut self, at: usize) {
        match self.state.calls.remove(at) {
            Call::Commit(commit) => self.commit(at, commit),
            Call::Force {
                by,
                epoch,
                holder,
                grant,
            } => {
                let database = &mut self.state.database;
                let may = epoch_of(&database.rows[usize::from(by.node)]) == by.epoch
                    && (database.owner, database.shard_epoch) == (by, epoch);
                let written = may.then(|| {
                    let forced = match database.fence {
                        (of, forced) if of == epoch => forced + 1,
                        _ => 1,
                    };
                    database.fence = (epoch, forced);
                    database.revoked.push((holder, grant));
                    forced
                });
                let node = usize::from(by.node);
                if self.state.nodes[node].epoch == by.epoch {
                    self.force_is_written(node, grant, written);
                }
            }
        }
    }

    /// Whether the rows of node, shard and document's fence let a commit pass.
    fn passes(&self, commit: &Commit) -> bool {
        let database = &self.state.database;
        epoch_of(&database.rows[usize::from(commit.by.node)]) == commit.by.epoch
            && database.shard_epoch == commit.fence.0
            && database.fence <= commit.fence
    }

    fn commit(&mut self, at: usize, mut commit: Commit) {
        let mutant = self.plan.mutant;
        let passes = commit.passed || mutant == Mutant::NoFence || self.passes(&commit);
        if passes && mutant == Mutant::PlainRead && !commit.passed {
            commit.passed = true;
            self.state.calls.insert(at, Call::Commit(commit));
            return;
        }
        let database = &mut self.state.database;
        let bit = 1_u16 << commit.operation;
        let known = database.applied & bit != 0;
        let follows = database.version == commit.base || mutant == Mutant::NoVersionCompare;
        let accepted = passes && !known && follows;
        if accepted {
            if database.version != commit.base {
                self.state.broken = Some(Broken::LostUpdate);
            }
            database.applied |= bit;
            database.version += 1;
            if self.somebody_else_acts(&commit) {
                self.state.broken = Some(Broken::Intruder);
            }
        }
        self.committed(&commit, passes, accepted || (known && passes));
    }

    fn somebody_else_acts(&self, commit: &Commit) -> bool {
        let nodes = self.state.nodes.iter().enumerate();
        nodes
            .filter(|(at, _)| self.state.me(*at) != commit.by)
            .any(|(_, node)| node.acts_alone())
    }

    /// The answer reaches whoever still waits for it.
    fn committed(&mut self, commit: &Commit, passes: bool, done: bool) {
        let at = usize::from(commit.by.node);
        let version = self.state.database.version;
        let forced = !self.state.database.revoked.is_empty();
        let node = self.node(at);
        if node.epoch != commit.by.epoch {
            return;
        }
        let Work::Sent(sent) = node.work else { return };
        // The answer to an earlier try of the same change says nothing of this one.
        if (sent.operation, sent.fence) != (commit.operation, commit.fence) {
            return;
        }
        node.work = if done {
            Work::None
        } else {
            Work::Wanted(commit.operation)
        };
        if !passes {
            node.refused = commit.fence;
        }
        node.base = match node.side {
            Side::Alone(_) | Side::Surrendering(_) if done => Some(version),
            // Refused as outdated or unfenced: it asks the database what is there now.
            _ => None,
        };
        if passes && done && forced {
            self.state.forced_and_done = true;
        }
    }
}
