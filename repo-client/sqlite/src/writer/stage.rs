//! Where changes wait for their content: it is made durable here, without the turn, before the transaction that names it is begun. Whoever may
//! be held up and finds nobody at it makes durable what all need that wait, on his own thread; what comes meanwhile is left
//! to a thread that does nothing else. Who has made content durable goes on with the transaction and the log, if nobody else is at that,
//! and only then lets the next one begin: so those that come meanwhile become one group. Two at work at once, one at the content
//! and one at the log, made groups half as large, and the processor had more to do with syncs and threads than both saved.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};
use sluice_repo::{RepoError, Result, Unsettled};

use super::{BATCH_MAX, Job, Shared, closed, held_up};

/// Changes whose content is not durable.
#[derive(Default)]
pub(super) struct Stage {
    /// Taken for moments; no call is made under it.
    state: Mutex<State>,
    /// Tells the stage's thread that there is something for it.
    filled: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<(Arc<dyn Unsettled>, Job)>,
    /// Somebody makes content durable.
    settling: bool,
    closed: bool,
}

impl State {
    fn has_work(&self) -> bool {
        !self.settling && !self.waiting.is_empty()
    }

    fn is_over(&self) -> bool {
        self.closed && !self.settling && self.waiting.is_empty()
    }
}

/// The right to make content durable; given back when it is dropped.
struct Settling<'a>(&'a Stage);

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.settling = false;
        let wanted = state.has_work() || state.closed;
        drop(state);
        if wanted {
            self.0.filled.notify_one();
        }
    }
}

/// When the stage's thread ends, even by a panic, nobody waits for it any more.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut state = self.0.stage.state.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        drop(left);
    }
}

impl Stage {
    /// Everything that waits is finished, nothing more is taken.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    fn settling(&self) -> Option<Settling<'_>> {
        let mut state = self.state.lock();
        let mine = !std::mem::replace(&mut state.settling, true);
        mine.then(|| Settling(self))
    }

    /// Waits for something to do. `None`: there will be nothing more.
    fn next(&self) -> Option<Settling<'_>> {
        let mut state = self.state.lock();
        while !state.has_work() {
            if state.is_over() {
                return None;
            }
            self.filled.wait(&mut state);
        }
        state.settling = true;
        Some(Settling(self))
    }
}

impl Shared {
    /// Starts the stage's thread.
    pub(super) fn start_stage(self: &Arc<Shared>) -> Result<JoinHandle<()>> {
        let ends = Ends(self.clone());
        std::thread::Builder::new()
            .name("repo-content".into())
            .spawn(move || {
                while let Some(settling) = ends.0.stage.next() {
                    ends.0.settle_and_carry_out(&settling);
                }
            })
            .map_err(|e| RepoError::Unavailable(format!("cannot start the content thread: {e}")))
    }

    /// Makes durable what a change needs, and carries it out: here and now if this thread may be held up and nobody else is at it.
    pub(super) fn settle_first(&self, first: Arc<dyn Unsettled>, job: Job) -> Result<()> {
        {
            let mut state = self.stage.state.lock();
            if state.closed {
                return Err(closed());
            }
            state.waiting.push((first, job));
        }
        let mine = sluice_repo::may_block().then(|| self.stage.settling());
        match mine {
            Some(Some(settling)) => held_up(|| self.settle_and_carry_out(&settling)),
            // Whoever is at it looks again when he has finished.
            Some(None) => {}
            None => {
                self.stage.filled.notify_one();
            }
        }
        Ok(())
    }

    /// Makes durable what changes need that wait now, and carries them out unless somebody has the turn, who then looks for them.
    fn settle_and_carry_out(&self, settling: &Settling<'_>) {
        self.settle_waiting(settling);
        match self.turn() {
            Some(turn) => self.make_durable(&turn),
            None => self.carry_out_ahead(),
        }
    }

    /// Makes durable what changes need that wait now; those whose need fails are refused, the others come up for the turn.
    fn settle_waiting(&self, settling: &Settling<'_>) {
        let waiting = {
            let waiting = &mut settling.0.state.lock().waiting;
            let count = waiting.len().min(BATCH_MAX);
            waiting.drain(..count).collect::<Vec<_>>()
        };
        let mut ready = Vec::with_capacity(waiting.len());
        for (first, job) in waiting {
            match first.settle() {
                Ok(()) => ready.push(job),
                Err(error) => (job.run)(Err(error))(Ok(())),
            }
        }
        let mut queue = self.queue.lock();
        // Closed: who waits is told so when his change is dropped.
        if !queue.closed {
            queue.now.append(&mut ready);
        }
        drop(queue);
        drop(ready);
    }
}
