//! From the lock table's callbacks to the head's listener. Called inside the lock service: queues or spawns, never waits.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sluice_lockmgr as lm;

use crate::listener::{CacheBreak, CacheListener};
use crate::open::{OpenId, OpenState, oplock_level};
use crate::request::{LeaseKey, LeaseState};

/// One open's end of the table's callbacks.
pub(crate) struct Sink {
    listener: Arc<Mutex<Option<Arc<dyn CacheListener>>>>,
    /// Set once the open is made; before that nothing can be revoked that a client knows.
    open: Arc<Mutex<Weak<OpenState>>>,
}

impl Sink {
    pub(crate) fn new(listener: Option<Arc<dyn CacheListener>>) -> Arc<Sink> {
        Arc::new(Sink {
            listener: Arc::new(Mutex::new(listener)),
            open: Arc::default(),
        })
    }

    pub(crate) fn listener(&self) -> Arc<Mutex<Option<Arc<dyn CacheListener>>>> {
        self.listener.clone()
    }

    pub(crate) fn bind(&self, open: &Arc<OpenState>) {
        *self.open.lock() = Arc::downgrade(open);
    }
}

/// A new sink for an open that exists (reconnect).
pub(crate) fn sink_of(open: &Arc<OpenState>) -> Arc<Sink> {
    let sink = Arc::new(Sink {
        listener: open.listener.clone(),
        open: Arc::default(),
    });
    sink.bind(open);
    sink
}

impl lm::CacheSink for Sink {
    fn on_break(&self, notice: &lm::BreakNotice) {
        if let Some(open) = self.open.lock().upgrade() {
            let protocol = open.tree.caller().client.protocol;
            open.inner.metrics.breaks.add(protocol, 1);
        }
        let told = match notice.grant {
            lm::GrantKey::Oplock(open) => CacheBreak::Oplock {
                open: OpenId(open.0),
                to: oplock_level(notice.to),
            },
            lm::GrantKey::Lease(lease) => CacheBreak::Lease {
                key: LeaseKey(lease.key),
                from: LeaseState(notice.from.bits()),
                to: LeaseState(notice.to.bits()),
                ack_required: notice.ack_required,
                epoch: notice.epoch,
            },
            lm::GrantKey::Delegation(_) => {
                let Some(open) = self.open.lock().upgrade() else {
                    return;
                };
                CacheBreak::Delegation { open: open.id }
            }
        };
        let listener = self.listener.lock().clone();
        if let Some(listener) = listener {
            listener.on_break(told);
        }
    }

    fn on_revoked(&self, open: lm::OpenRef, _reason: lm::RevokeReason, closed: lm::Closed) {
        let state = self.open.lock().upgrade();
        if let Some(state) = state {
            state.lost.store(true, Ordering::Release);
            // What it wrote was acknowledged: it is committed, the lock is gone already.
            let runtime = state.inner.runtime.clone();
            runtime.spawn(async move {
                state.inner.finish_close(open.resource, closed).await;
                state.close().await
            });
        }
        let listener = self.listener.lock().clone();
        if let Some(listener) = listener {
            listener.on_revoked(OpenId(open.id.0));
        }
    }

    fn on_cache_revoked(
        &self,
        _resource: lm::ResourceId,
        _grant: lm::GrantKey,
        _reason: lm::RevokeReason,
    ) {
        // The grant's state is asked for when it is needed (`Open::cache`): nothing is kept here.
    }
}
