//! The line of waiting requests of one document: first come, first served.
//!
//! Two kinds wait: those whose caller awaits an answer, and those whose client was told to retry and keeps its place.

use std::sync::Arc;

use crate::conflict::{Claim, share_conflict};
use crate::obstacle::{KeptAsk, Obstacle};
use crate::request::RangeLock;
use crate::types::{ClientId, Holder, Now, OpenId, WaiterId};

/// How a waiter hears of its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Its caller awaits.
    Hold,
    /// Its caller awaits until this moment, then its client is told to retry.
    HoldUntil(Now),
    /// It retries; its place lapses at this moment unless it does.
    Poll { lapse: Now },
    /// Its caller asks again by its number; its place lapses at this moment unless it does. So it is after a move to
    /// another table.
    Away { lapse: Now },
}

impl Style {
    /// Nobody awaits: only its place is kept.
    pub(crate) fn is_place(self) -> bool {
        matches!(self, Style::Poll { .. } | Style::Away { .. })
    }
}

/// What identifies a retry as the same request: NFS has no open to tell by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PollKey {
    pub client: ClientId,
    pub stream: u32,
    pub claim_bits: (u8, u8),
}

/// One waiting request.
pub(crate) struct Waiter {
    pub id: WaiterId,
    /// Its place among all that ever waited for the document.
    pub line: u64,
    pub ask: KeptAsk,
    pub style: Style,
    pub key: Option<PollKey>,
    /// What it will do and deny, for those behind it. `None` if it meets no share modes.
    pub claim: Option<Claim>,
    pub stream: u32,
    /// Ranges that it wants, for those behind it.
    pub range: Option<(RangeLock, Option<OpenId>)>,
    /// When the policy's patience ends; [`Now::NEVER`] for a wait without limit.
    pub deadline: Now,
    /// It stands in line by policy, not only until a cache is given back.
    pub in_line: bool,
    /// What stood in its way when last looked at.
    pub obstacle: Obstacle,
    pub holder: Arc<Holder>,
}

/// The first waiter in line before, that this claim would overtake.
pub(crate) fn overtaken_by_claim(
    earlier: &[Waiter],
    stream: u32,
    claim: &Claim,
) -> Option<WaiterId> {
    let reaches_all = !claim.access.common(crate::types::Access::DELETE).is_empty();
    earlier
        .iter()
        .filter(|w| w.in_line && (w.stream == stream || reaches_all))
        .find(|w| {
            w.claim
                .as_ref()
                .is_some_and(|held| share_conflict(held, claim, false).is_some())
        })
        .map(|w| w.id)
}

/// The first waiter in line before, that this range lock would overtake.
pub(crate) fn overtaken_by_range(
    earlier: &[Waiter],
    stream: u32,
    lock: RangeLock,
    open: Option<OpenId>,
    client: ClientId,
) -> Option<WaiterId> {
    earlier
        .iter()
        .filter(|w| w.in_line && w.stream == stream)
        .find(|w| {
            w.range.is_some_and(|(other, owner)| {
                (owner.is_none() || owner != open)
                    && (other.exclusive || lock.exclusive)
                    && other.range.overlaps(lock.range)
                    && !(open.is_none()
                        && owner.is_none()
                        && w.claim.is_some_and(|c| c.client == client))
            })
        })
        .map(|w| w.id)
}
