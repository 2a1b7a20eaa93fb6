//! Who is told about breaks and losses when a document is not decided about where its client is.
//!
//! Two halves: the sinks of own clients' opens, kept by open while another node decides; and stand-ins at the deciding node,
//! which send what they are told to the client's node.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use sluice_lockmgr::{
    BreakNotice, CacheSink, Closed, GrantKey, MemberId, OpenId, OpenRef, ResourceId, RevokeReason,
};

use super::Inner;
use super::message::Tell;

/// The sinks of own clients' opens that other nodes decide about.
#[derive(Default)]
pub(super) struct OwnSinks {
    by_open: Mutex<HashMap<OpenId, Arc<dyn CacheSink>>>,
}

impl OwnSinks {
    pub(super) fn keep(&self, open: OpenId, sink: Arc<dyn CacheSink>) {
        self.by_open.lock().insert(open, sink);
    }

    pub(super) fn forget(&self, open: OpenId) -> Option<Arc<dyn CacheSink>> {
        self.by_open.lock().remove(&open)
    }

    fn get(&self, open: OpenId) -> Option<Arc<dyn CacheSink>> {
        self.by_open.lock().get(&open).cloned()
    }

    /// Passes on what another node says.
    pub(super) fn tell(&self, tell: Tell) {
        match tell {
            Tell::Break { at, notice } => {
                if let Some(sink) = self.get(at) {
                    sink.on_break(&notice);
                }
            }
            Tell::Revoked {
                open,
                reason,
                closed,
            } => {
                if let Some(sink) = self.forget(open.id) {
                    sink.on_revoked(open, reason, closed);
                }
            }
            Tell::CacheRevoked {
                at,
                resource,
                grant,
                reason,
            } => {
                if let Some(sink) = self.get(at) {
                    sink.on_cache_revoked(resource, grant, reason);
                }
            }
        }
    }
}

/// Stands for the sink of another node's client.
pub(super) struct StandIn {
    pub inner: Weak<Inner>,
    pub member: MemberId,
    pub open: OpenId,
}

impl StandIn {
    fn say(&self, document: u64, tell: &Tell) {
        if let Some(inner) = self.inner.upgrade() {
            inner.told(document, self.member, tell);
        }
    }
}

impl CacheSink for StandIn {
    fn on_break(&self, notice: &BreakNotice) {
        let tell = Tell::Break {
            at: self.open,
            notice: notice.clone(),
        };
        self.say(notice.resource.document, &tell);
    }

    fn on_revoked(&self, open: OpenRef, reason: RevokeReason, closed: Closed) {
        let tell = Tell::Revoked {
            open,
            reason,
            closed,
        };
        self.say(open.resource.document, &tell);
    }

    fn on_cache_revoked(&self, resource: ResourceId, grant: GrantKey, reason: RevokeReason) {
        let tell = Tell::CacheRevoked {
            at: self.open,
            resource,
            grant,
            reason,
        };
        self.say(resource.document, &tell);
    }
}
