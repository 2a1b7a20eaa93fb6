//! A change on its way: the others told, the repository asked, the caches told what became of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_repo::{NodeId, RepoError, Result, call};
use smallvec::SmallVec;

use super::holds::{Grip, Wanted};
use super::stripes::{Begun, Ticket};
use super::unit::Unit;
use super::{Coherent, stopping};

/// Units that a change concerns, each once.
#[derive(Default)]
pub(super) struct Units(SmallVec<[Wanted; 8]>);

impl Units {
    fn add(mut self, unit: Unit, name_of: Option<NodeId>) -> Self {
        let wanted = Wanted { unit, name_of };
        if !self.0.contains(&wanted) {
            self.0.push(wanted);
        }
        self
    }

    /// A node's record, or anything that hangs on it.
    pub(super) fn node(self, node: NodeId) -> Self {
        self.add(Unit::node(node), None)
    }

    /// A name of a folder, and so the folder's record too.
    pub(super) fn name(self, folder: NodeId, name: &str) -> Self {
        self.node(folder)
            .add(Unit::name(folder, name), Some(folder))
    }

    /// A node that may cease to be, with the names in it.
    pub(super) fn gone(self, node: NodeId) -> Self {
        self.node(node).add(Unit::names(node), None)
    }
}

/// A change under way. Dropped without [`Under::over`] it is under way for ever: nobody knows when it ends.
pub(super) struct Under {
    core: Arc<Coherent>,
    grip: Option<Grip>,
    begun: SmallVec<[(Unit, Begun); 8]>,
    /// Before the change.
    pub(super) before: Ticket,
}

/// Tickets for what a change made true: of the units that no other change came near.
pub(super) struct Known(SmallVec<[(Unit, Option<Ticket>); 8]>);

impl Known {
    pub(super) fn node(&self, node: NodeId) -> Option<Ticket> {
        self.of(Unit::node(node))
    }

    pub(super) fn name(&self, folder: NodeId, name: &str) -> Option<Ticket> {
        self.of(Unit::name(folder, name))
    }

    fn of(&self, unit: Unit) -> Option<Ticket> {
        let found = self.0.iter().find(|(known, _)| *known == unit)?;
        found.1
    }
}

impl Coherent {
    /// Nobody uses cached values of the units any more when this returns.
    pub(super) async fn begin(self: &Arc<Self>, units: &Units) -> Result<Under> {
        let grip = if self.is_reckless() {
            None
        } else {
            self.known().await?;
            let grip = self.holds.hold(&units.0).await.ok_or_else(stopping)?;
            let counter = if grip.asked() {
                &self.counts.asked
            } else {
                &self.counts.unasked
            };
            counter.fetch_add(1, Ordering::Relaxed);
            Some(grip)
        };
        let before = self.stripes.ticket();
        let begun = units.0.iter().map(|wanted| wanted.unit);
        Ok(Under {
            begun: begun.map(|unit| (unit, self.stripes.begin(unit))).collect(),
            core: Arc::clone(self),
            grip,
            before,
        })
    }

    /// Has a change made by `run`, and its outcome noted by `learn`, even if the caller goes away.
    pub(super) async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        units: Units,
        run: impl Future<Output = Result<T>> + Send + 'static,
        learn: impl FnOnce(&Coherent, &T, Ticket, &Known) + Send + 'static,
    ) -> Result<T> {
        let core = Arc::clone(self);
        let change = async move {
            let under = core.begin(&units).await?;
            let result = run.await;
            let before = under.before;
            if let Some(known) = under.over_by(result.as_ref().err())
                && let Ok(value) = &result
            {
                learn(&core, value, before, &known);
            }
            result
        };
        let ended = self.runtime.spawn(call::carried(change)).await;
        ended.unwrap_or_else(|_| Err(RepoError::Unavailable("a change ended early".into())))
    }
}

impl Under {
    /// The change was answered. Nothing is known if it was not said whether it was, or will be, carried out.
    pub(super) fn over_by(self, error: Option<&RepoError>) -> Option<Known> {
        match error {
            Some(RepoError::Unavailable(_)) => {
                tracing::debug!("metadata is not cached any more where a change had no answer");
                None
            }
            _ => Some(self.over()),
        }
    }

    fn over(mut self) -> Known {
        let stripes = &self.core.stripes;
        let known = self
            .begun
            .iter()
            .map(|(unit, begun)| (*unit, stripes.end_knowing(*unit, *begun)))
            .collect();
        if let Some(grip) = self.grip.take() {
            self.core.holds.done(grip);
        }
        Known(known)
    }
}
