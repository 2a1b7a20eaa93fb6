//! The cache grants of one document, with their breaks under way.
//!
//! Owns the state of each grant. When to break, and whether to wait, is decided in `caches.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cache_grant::{BreakNotice, CacheSink, CacheState, GrantKey};
use crate::types::{Holder, Now, OpenId, ResourceId};

/// From so many grants of one document on, an index finds them.
const INDEX_FROM: usize = 16;

/// A break that the holder has been told and has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Breaking {
    /// Rights that must go after the answer, if another request came meanwhile that needs more.
    pub then: CacheState,
    pub to: CacheState,
    pub deadline: Now,
}

/// One oplock, lease or delegation.
pub(crate) struct Grant {
    pub key: GrantKey,
    pub stream: u32,
    pub state: CacheState,
    pub breaking: Option<Breaking>,
    pub epoch: u16,
    /// The holder understands epochs.
    pub v2: bool,
    /// Opens that take part; those that count against another's sole right; those whose client is connected.
    pub opens: u32,
    pub weighty: u32,
    pub connected: u32,
    /// Where breaks are told: by way of the oldest open that is still connected.
    pub sink: Arc<dyn CacheSink>,
    pub speaker: OpenId,
    pub holder: Arc<Holder>,
}

impl Grant {
    pub(crate) fn is_oplock(&self) -> bool {
        matches!(self.key, GrantKey::Oplock(_))
    }

    pub(crate) fn is_lease(&self) -> bool {
        matches!(self.key, GrantKey::Lease(_))
    }

    pub(crate) fn is_delegation(&self) -> bool {
        matches!(self.key, GrantKey::Delegation(_))
    }

    /// The next lease epoch, for changes that the client is told.
    pub(crate) fn bump_epoch(&mut self) -> u16 {
        if !self.v2 {
            return 0;
        }
        self.epoch = self.epoch.wrapping_add(1);
        self.epoch
    }

    pub(crate) fn notice(&self, document: u64, to: CacheState, ack_required: bool) -> BreakNotice {
        BreakNotice {
            resource: ResourceId {
                document,
                stream: self.stream,
            },
            grant: self.key,
            from: self.state,
            to,
            ack_required,
            epoch: if self.v2 { self.epoch } else { 0 },
        }
    }
}

/// All cache grants of one document.
#[derive(Default)]
pub(crate) struct GrantSet {
    list: Vec<Grant>,
    index: Option<HashMap<(u32, GrantKey), usize>>,
    /// Grants whose state allows anything; of those, with handle caching, with write caching.
    live: u32,
    handle: u32,
    write: u32,
    breaking: u32,
}

impl GrantSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True if some client may cache something.
    pub(crate) fn any(&self) -> bool {
        self.live != 0
    }

    /// True if some client may cache writes.
    pub(crate) fn any_write(&self) -> bool {
        self.write != 0
    }

    /// True if some client may cache handles.
    pub(crate) fn any_handle(&self) -> bool {
        self.handle != 0
    }

    /// True if some break has not been answered.
    pub(crate) fn any_breaking(&self) -> bool {
        self.breaking != 0
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Grant> {
        self.list.iter()
    }

    pub(crate) fn at(&self, at: usize) -> Option<&Grant> {
        self.list.get(at)
    }

    /// For changes that leave state, break, key and stream alone.
    pub(crate) fn at_mut(&mut self, at: usize) -> Option<&mut Grant> {
        self.list.get_mut(at)
    }

    pub(crate) fn position(&self, stream: u32, key: GrantKey) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&(stream, key)).copied(),
            None => self
                .list
                .iter()
                .position(|g| g.stream == stream && g.key == key),
        }
    }

    pub(crate) fn find(&self, stream: u32, key: GrantKey) -> Option<&Grant> {
        self.position(stream, key).and_then(|at| self.at(at))
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    fn count(&mut self, state: CacheState, add: bool) {
        let bits = [
            (&mut self.live, !state.is_empty()),
            (&mut self.handle, state.has(CacheState::H)),
            (&mut self.write, state.has(CacheState::W)),
        ];
        for (counter, set) in bits {
            *counter = if add {
                *counter + u32::from(set)
            } else {
                *counter - u32::from(set)
            };
        }
    }

    pub(crate) fn insert(&mut self, grant: Grant) -> usize {
        self.count(grant.state, true);
        let at = self.list.len();
        if let Some(index) = &mut self.index {
            index.insert((grant.stream, grant.key), at);
        } else if at >= INDEX_FROM {
            let mut index: HashMap<_, _> = self
                .list
                .iter()
                .enumerate()
                .map(|(i, g)| ((g.stream, g.key), i))
                .collect();
            index.insert((grant.stream, grant.key), at);
            self.index = Some(index);
        }
        self.list.push(grant);
        at
    }

    pub(crate) fn remove(&mut self, at: usize) -> Option<Grant> {
        if at >= self.list.len() {
            return None;
        }
        let grant = self.list.swap_remove(at);
        self.count(grant.state, false);
        self.breaking -= u32::from(grant.breaking.is_some());
        if let Some(index) = &mut self.index {
            index.remove(&(grant.stream, grant.key));
            if let Some(moved) = self.list.get(at) {
                index.insert((moved.stream, moved.key), at);
            }
        }
        if self.list.is_empty() {
            self.index = None;
        }
        Some(grant)
    }

    /// Sets the rights of a grant and ends its break.
    pub(crate) fn settle(&mut self, at: usize, state: CacheState) {
        let Some(old) = self.list.get(at).map(|g| g.state) else {
            return;
        };
        self.count(old, false);
        self.count(state, true);
        if let Some(grant) = self.list.get_mut(at) {
            grant.state = state;
            self.breaking -= u32::from(grant.breaking.take().is_some());
        }
    }

    /// A break was told that needs an answer.
    pub(crate) fn set_breaking(&mut self, at: usize, breaking: Breaking) {
        if let Some(grant) = self.list.get_mut(at) {
            self.breaking += u32::from(grant.breaking.replace(breaking).is_none());
        }
    }
}

#[cfg(test)]
impl GrantSet {
    /// The counters are those of the grants.
    pub(crate) fn check(&self) {
        let count = |keep: &dyn Fn(&Grant) -> bool| self.list.iter().filter(|g| keep(g)).count();
        assert_eq!(self.live as usize, count(&|g| !g.state.is_empty()));
        assert_eq!(self.handle as usize, count(&|g| g.state.has(CacheState::H)));
        assert_eq!(self.write as usize, count(&|g| g.state.has(CacheState::W)));
        assert_eq!(self.breaking as usize, count(&|g| g.breaking.is_some()));
        for (at, grant) in self.list.iter().enumerate() {
            assert_eq!(self.position(grant.stream, grant.key), Some(at));
        }
    }
}
