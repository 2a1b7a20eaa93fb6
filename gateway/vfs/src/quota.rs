//! Quotas of shares: how much the documents below a share's root hold, and whether more may come. A share without a quota costs
//! nothing here, one with a quota an addition under a lock for each write that makes a document longer.
//!
//! What counts: the current lengths of documents and streams below the share's root, as far as they are committed, and growth that is on its
//! way to a commit. Not what history keeps, nor attributes and names. The quota meets writes made through the share itself.
//!
//! The repository adds up what there is (one query over the share). In between, growth made through this node is added here at once; what
//! shrinks and what other nodes do shows at the next look: before each refusal, for a client that asks for free space, and
//! every few seconds while somebody writes, in a cluster the sooner the less room is left. So nobody is refused room that any node has made,
//! and several nodes that write at the same moment may together go beyond the quota by what they have not committed. A look that takes long is made less often, so that looks never take more than a fraction
//! of the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sluice_repo::{NodeId, ShareId};

use crate::error::VfsError;
use crate::share::Share;
use crate::vfs::Inner;

/// While somebody writes: the age at which a look is renewed in the background.
const RENEWED_AFTER: Duration = Duration::from_secs(5);
/// For a client that asks for free space, and before a refusal where no other node can have made room: the age at which it is looked again.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);
/// The bytes that other nodes may write a second: a look is relied on while they can't have filled the room that it saw.
const OTHERS_PACE: u64 = 1 << 30;
/// The age at which a look is renewed that can't be relied on.
const RELIED_ON_FOR: Duration = Duration::from_millis(1);
/// A look is not made again before so many times its own duration have passed.
const PAUSES: u32 = 4;
/// The longest such pause that a caller waits for rather than being refused.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The accounts of the shares that have a quota and were written to.
#[derive(Default)]
pub(crate) struct Quotas(Mutex<HashMap<(ShareId, NodeId), Arc<Account>>>);

/// What a share's documents hold.
#[derive(Debug)]
pub(crate) struct Account {
    root: NodeId,
    /// Held for additions only.
    sums: Mutex<Sums>,
    /// One look at a time.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Sums {
    limit: u64,
    /// What the repository had at the last look, and what was committed through this node since.
    used: u64,
    /// Growth that is not committed yet.
    pending: u64,
    /// Everything that was ever committed through this node, added up.
    booked: i64,
    look: Option<Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    took: Duration,
    /// How often something had become shorter or been deleted by then.
    shrunk: u64,
}

/// Growth that is on its way to a commit; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    account: Arc<Account>,
    bytes: u64,
}

/// Growth of a content that is not committed yet.
#[derive(Debug)]
pub(crate) struct Charge {
    reservation: Reservation,
    /// The length that is paid for.
    pub(crate) upto: u64,
}

impl Quotas {
    /// The account of a share, if it has a quota.
    pub(crate) fn account(&self, share: &Share) -> Option<Arc<Account>> {
        let limit = share.quota?;
        let mut accounts = self.0.lock();
        let account = accounts.entry((share.id, share.root)).or_insert_with(|| {
            Arc::new(Account {
                root: share.root,
                sums: Mutex::default(),
                looking: tokio::sync::Mutex::new(()),
            })
        });
        account.sums.lock().limit = limit;
        Some(account.clone())
    }
}

impl Sums {
    fn total(&self) -> u64 {
        self.used.saturating_add(self.pending)
    }

    fn book(&mut self, bytes: i64) {
        self.used = self.used.saturating_add_signed(bytes);
        self.booked = self.booked.wrapping_add(bytes);
    }

    /// Whether other nodes can have filled the room since the last look.
    fn may_be_filled(&self) -> bool {
        let left = self.limit.saturating_sub(self.total());
        self.look.is_some_and(|look| {
            let written = look.at.elapsed().as_millis() * u128::from(OTHERS_PACE / 1000);
            written >= u128::from(left)
        })
    }

    /// Whether the last look is older than `age` and long enough ago.
    fn is_old(&self, age: Duration) -> bool {
        self.look
            .is_none_or(|look| look.at.elapsed() >= age.max(look.took * PAUSES))
    }
}

impl Account {
    /// Reserves room for growth.
    pub(crate) async fn take(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        bytes: u64,
    ) -> Result<Reservation, VfsError> {
        if self.sums.lock().look.is_none() {
            self.look(inner, Duration::MAX).await?;
        }
        let alone = inner.coherent.is_none();
        if !alone && self.sums.lock().may_be_filled() {
            self.look(inner, RELIED_ON_FOR).await?;
        }
        if let Some(taken) = self.try_take(bytes) {
            if self.sums.lock().is_old(RENEWED_AFTER) && self.looking.try_lock().is_ok() {
                let (account, inner) = (self.clone(), inner.clone());
                let runtime = inner.runtime.clone();
                runtime.spawn(async move {
                    if let Err(error) = account.look(&inner, RENEWED_AFTER).await {
                        tracing::debug!(%error, "the usage of a share could not be read");
                    }
                });
            }
            return Ok(taken);
        }
        let age = if alone { DOUBTED_AFTER } else { Duration::ZERO };
        self.look(inner, age).await?;
        self.try_take(bytes).ok_or(VfsError::QuotaExceeded)
    }

    fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let mut sums = self.sums.lock();
        if sums.total().checked_add(bytes)? > sums.limit {
            return None;
        }
        sums.pending += bytes;
        Some(Reservation {
            account: self.clone(),
            bytes,
        })
    }

    /// Quota and what is left of it.
    pub(crate) async fn room(&self, inner: &Arc<Inner>) -> Result<(u64, u64), VfsError> {
        self.look(inner, DOUBTED_AFTER).await?;
        let sums = self.sums.lock();
        Ok((sums.limit, sums.limit.saturating_sub(sums.total())))
    }

    /// Asks the repository if the last look is older than `age`, or if something was deleted or cut here since. In that case, and with
    /// an age of zero, it waits for its turn, so that nobody is refused the room that he has just made.
    async fn look(&self, inner: &Arc<Inner>, age: Duration) -> Result<(), VfsError> {
        let _one = self.looking.lock().await;
        let pause = {
            let sums = self.sums.lock();
            let shrunk = inner.working.shrunk();
            let shrunk_since = sums.look.is_some_and(|look| look.shrunk != shrunk);
            let at_once = shrunk_since || age.is_zero();
            let wanted = if at_once { Duration::ZERO } else { age };
            match sums.look.filter(|_| !sums.is_old(wanted)) {
                Some(look) if at_once => Some(look),
                Some(_) => return Ok(()),
                None => None,
            }
        };
        if let Some(look) = pause {
            let left = (look.took * PAUSES).saturating_sub(look.at.elapsed());
            if left > PAUSE_MAX {
                return Ok(());
            }
            tokio::time::sleep(left).await;
        }
        let booked = self.sums.lock().booked;
        let shrunk = inner.working.shrunk();
        let at = Instant::now();
        let used = inner.repo.usage(self.root).await?;
        let mut sums = self.sums.lock();
        // Committed while the repository was adding up: perhaps counted twice until the next look, never missing.
        let since = sums.booked.wrapping_sub(booked).max(0);
        sums.used = used.saturating_add_signed(since);
        sums.look = Some(Look {
            at,
            took: at.elapsed(),
            shrunk,
        });
        Ok(())
    }
}

impl Reservation {
    /// What it reserves.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds another one of the same account; gives it back if it is of another.
    pub(crate) fn merge(&mut self, mut other: Reservation) {
        if Arc::ptr_eq(&self.account, &other.account) {
            self.bytes += std::mem::take(&mut other.bytes);
        }
    }

    /// It is committed.
    pub(crate) fn book(mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut sums = self.account.sums.lock();
        sums.pending = sums.pending.saturating_sub(bytes);
        sums.book(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut sums = self.account.sums.lock();
            sums.pending = sums.pending.saturating_sub(self.bytes);
        }
    }
}

impl Charge {
    pub(crate) fn new(reservation: Reservation, upto: u64) -> Charge {
        Charge { reservation, upto }
    }

    /// The content has grown further.
    pub(crate) fn extend(&mut self, more: Reservation, upto: u64) {
        self.reservation.merge(more);
        self.upto = self.upto.max(upto);
    }

    /// A length was committed on top of another; what is paid for beyond it stays reserved.
    pub(crate) fn commit(&mut self, before: u64, after: u64) {
        let rest = self.upto.saturating_sub(after).min(self.reservation.bytes);
        let mut sums = self.reservation.account.sums.lock();
        sums.pending = sums.pending.saturating_sub(self.reservation.bytes - rest);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        sums.book(signed(after) - signed(before));
        drop(sums);
        self.reservation.bytes = rest;
    }

    /// All of it is committed.
    pub(crate) fn book(self) {
        self.reservation.book();
    }
}

impl Inner {
    /// The account that growth made through a share is charged to. The share's record counts as it is now, however old the
    /// caller's view of it is.
    pub(crate) fn account(&self, share: &Share) -> Option<Arc<Account>> {
        let directory = self.records.current();
        self.quotas.account(directory.share_by_id(share.id)?)
    }
}
