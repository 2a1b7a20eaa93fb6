//! The opens of one document, and counters that answer "nobody is in the way" without looking at each.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::cache_grant::{CacheSink, GrantKey};
use crate::conflict::Claim;
use crate::types::{Access, ClientId, Holder, Now, OpenId, ShareMode};

/// From so many opens of one document on, an index finds them.
const INDEX_FROM: usize = 16;

/// One open, place or range open.
pub(crate) struct Open {
    pub id: OpenId,
    pub stream: u32,
    pub claim: Claim,
    pub share: ShareMode,
    pub holder: Arc<Holder>,
    pub sink: Option<Arc<dyn CacheSink>>,
    /// Cache grant that it takes part in.
    pub grant: Option<GrantKey>,
    /// Counts against another's sole right to cache (not a stat open).
    pub weighty: bool,
    /// A transfer that touches every range.
    pub touches_ranges: bool,
    /// A place: when it ends unless used again; a disconnected open: until when it may be reclaimed.
    pub until: Option<Now>,
    pub disconnected: bool,
}

/// How many opens of one stream do and deny what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShareCounts {
    does: [u32; 3],
    denies: [u32; 3],
    /// Opens that count against a sole right to cache.
    pub weighty: u32,
}

const BITS: [Access; 3] = [Access::READ, Access::WRITE, Access::DELETE];

impl ShareCounts {
    pub(crate) fn add(&mut self, claim: &Claim, weighty: bool) {
        for (i, bit) in BITS.into_iter().enumerate() {
            self.does[i] += u32::from(claim.access.has(bit));
            self.denies[i] += u32::from(claim.denies.has(bit));
        }
        self.weighty += u32::from(weighty);
    }

    pub(crate) fn remove(&mut self, claim: &Claim, weighty: bool) {
        for (i, bit) in BITS.into_iter().enumerate() {
            self.does[i] -= u32::from(claim.access.has(bit));
            self.denies[i] -= u32::from(claim.denies.has(bit));
        }
        self.weighty -= u32::from(weighty);
    }

    /// False if surely none of them conflicts with the claim. True: look closer, some pairs are exempt.
    pub(crate) fn may_conflict(&self, claim: &Claim) -> bool {
        BITS.into_iter().enumerate().any(|(i, bit)| {
            (self.denies[i] != 0 && claim.access.has(bit))
                || (self.does[i] != 0 && claim.denies.has(bit))
        })
    }

    /// Opens that do this.
    pub(crate) fn doing(&self, bit: Access) -> u32 {
        BITS.into_iter()
            .zip(self.does)
            .filter(|(b, _)| bit.has(*b))
            .map(|(_, n)| n)
            .sum()
    }
}

/// All opens of one document.
#[derive(Default)]
pub(crate) struct OpenSet {
    list: Vec<Open>,
    index: Option<HashMap<OpenId, usize>>,
    streams: SmallVec<[(u32, ShareCounts); 1]>,
    /// Counters over all streams: delete may be denied in any of them.
    all: ShareCounts,
    places: SmallVec<[(u32, ClientId, OpenId); 1]>,
    transfers: usize,
}

impl OpenSet {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Open> {
        self.list.iter()
    }

    pub(crate) fn get(&self, id: OpenId) -> Option<&Open> {
        self.position(id).map(|i| &self.list[i])
    }

    /// For changes that leave the claim alone; see [`OpenSet::set_claim`].
    pub(crate) fn get_mut(&mut self, id: OpenId) -> Option<&mut Open> {
        self.position(id).map(|i| &mut self.list[i])
    }

    fn position(&self, id: OpenId) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&id).copied(),
            None => self.list.iter().position(|o| o.id == id),
        }
    }

    pub(crate) fn insert(&mut self, open: Open) {
        self.counts_mut(open.stream).add(&open.claim, open.weighty);
        self.all.add(&open.claim, open.weighty);
        self.transfers += usize::from(open.touches_ranges);
        if open.claim.kind == crate::conflict::ClaimKind::Place {
            self.places.push((open.stream, open.claim.client, open.id));
        }
        if let Some(index) = &mut self.index {
            index.insert(open.id, self.list.len());
        } else if self.list.len() >= INDEX_FROM {
            let mut index: HashMap<_, _> = self
                .list
                .iter()
                .enumerate()
                .map(|(i, o)| (o.id, i))
                .collect();
            index.insert(open.id, self.list.len());
            self.index = Some(index);
        }
        self.list.push(open);
    }

    pub(crate) fn remove(&mut self, id: OpenId) -> Option<Open> {
        let at = self.position(id)?;
        let open = self.list.swap_remove(at);
        if let Some(index) = &mut self.index {
            index.remove(&id);
            if let Some(moved) = self.list.get(at) {
                index.insert(moved.id, at);
            }
        }
        if self.list.is_empty() {
            self.index = None;
        }
        self.counts_mut(open.stream)
            .remove(&open.claim, open.weighty);
        self.all.remove(&open.claim, open.weighty);
        self.transfers -= usize::from(open.touches_ranges);
        self.places.retain(|(_, _, p)| *p != id);
        if self.list.is_empty() {
            self.streams.clear();
        }
        Some(open)
    }

    /// Changes what an open does and denies.
    pub(crate) fn set_claim(&mut self, id: OpenId, claim: Claim) {
        let Some(at) = self.position(id) else { return };
        let (stream, old, weighty) = (
            self.list[at].stream,
            self.list[at].claim,
            self.list[at].weighty,
        );
        self.counts_mut(stream).remove(&old, weighty);
        self.counts_mut(stream).add(&claim, weighty);
        self.all.remove(&old, weighty);
        self.all.add(&claim, weighty);
        self.list[at].claim = claim;
    }

    /// From now on this open counts against another's sole right to cache.
    pub(crate) fn make_weighty(&mut self, id: OpenId) {
        let Some(at) = self.position(id).filter(|at| !self.list[*at].weighty) else {
            return;
        };
        self.list[at].weighty = true;
        let stream = self.list[at].stream;
        self.counts_mut(stream).weighty += 1;
        self.all.weighty += 1;
    }

    pub(crate) fn counts(&self, stream: u32) -> ShareCounts {
        self.streams
            .iter()
            .find(|(s, _)| *s == stream)
            .map(|(_, c)| *c)
            .unwrap_or_default()
    }

    fn counts_mut(&mut self, stream: u32) -> &mut ShareCounts {
        let at = match self.streams.iter().position(|(s, _)| *s == stream) {
            Some(at) => at,
            None => {
                self.streams.push((stream, ShareCounts::default()));
                self.streams.len() - 1
            }
        };
        &mut self.streams[at].1
    }

    /// False if surely no open conflicts with this claim on this stream.
    pub(crate) fn may_conflict(&self, stream: u32, claim: &Claim) -> bool {
        if self.counts(stream).may_conflict(claim) {
            return true;
        }
        stream == 0 && claim.access.has(Access::DELETE) && self.all.denies[2] != 0
    }

    /// Transfers that touch every range.
    pub(crate) fn transfers(&self) -> usize {
        self.transfers
    }

    /// The place of a client on a stream.
    pub(crate) fn place(&self, stream: u32, client: ClientId) -> Option<OpenId> {
        self.places
            .iter()
            .find(|(s, c, _)| *s == stream && *c == client)
            .map(|(_, _, id)| *id)
    }
}

#[cfg(test)]
impl OpenSet {
    /// The counters are those of the opens.
    pub(crate) fn check(&self) {
        let mut all = ShareCounts::default();
        for (stream, counts) in &self.streams {
            let mut real = ShareCounts::default();
            for open in self.list.iter().filter(|o| o.stream == *stream) {
                real.add(&open.claim, open.weighty);
                all.add(&open.claim, open.weighty);
            }
            assert_eq!(*counts, real);
        }
        assert_eq!(self.all, all);
        assert_eq!(
            self.transfers,
            self.list.iter().filter(|o| o.touches_ranges).count()
        );
        for (at, open) in self.list.iter().enumerate() {
            assert_eq!(self.position(open.id), Some(at));
        }
    }
}
