//! Documents that NFS clients of a lost node had locked: kept for those clients, who take their locks again through other nodes.
//!
//! Every node knows all of them before it knows of the loss, so that whoever coordinates one then, or within that time, keeps it
//! before deciding anything. A kept document is central, and what keeps it is an entry of the lock table like any other; it is put
//! in once under each ownership of the shard, so that an administrator who breaks it need not do so again.

use std::sync::Arc;
use std::time::Duration;

use sluice_lockmgr::{Member, Now, RECLAIM_GRACE, ShardEpoch, shard_of};

use super::coordinator::Mode;
use super::effect::Effect;
use super::machine::TokenMachine;
use super::shard::Role;

/// One such document.
pub(super) struct Left {
    /// The node that was lost.
    node: Arc<str>,
    pub until: Now,
    /// The ownership of the shard under which it was put into the lock table.
    put_in: Option<ShardEpoch>,
}

impl TokenMachine {
    pub(super) fn left(&mut self, member: Member, node: &Arc<str>, documents: &[u64], until: Now) {
        self.purge_left();
        for document in documents.iter().copied() {
            let shard = self.shard_mut(shard_of(document));
            let mine = matches!(shard.role, Role::Mine);
            let coordination = shard.docs.get(&document);
            let mode = coordination.and_then(|doc| Some(&doc.coordination.as_ref()?.mode));
            let (alone, central) = match mode.filter(|_| mine) {
                Some(Mode::Alone { holder, .. }) => (*holder != member, false),
                Some(Mode::Central { .. }) => (false, true),
                _ => (false, false),
            };
            if alone {
                // The one who is alone on it has all there is: the former member had given its locks back.
                continue;
            }
            let earlier = shard.left.get(&document).map(|left| left.until);
            let left = Left {
                node: Arc::clone(node),
                until: until.max(earlier.unwrap_or(until)),
                put_in: None,
            };
            shard.left.insert(document, left);
            if central {
                self.keep_left(document);
            }
        }
    }

    /// Forgets what was over before this node was last able to act.
    fn purge_left(&mut self) {
        let acted = self.frozen_since.unwrap_or(self.now);
        for shard in self.shards.values_mut() {
            shard.left.retain(|_, left| left.until > acted);
        }
    }

    /// For so long until now this node could not act: its clients could not take anything again.
    pub(super) fn keep_left_longer(&mut self, by: Duration) {
        let (now, longest) = (self.now, self.now.after(RECLAIM_GRACE));
        for shard in self.shards.values_mut() {
            for (document, left) in &mut shard.left {
                let until = left.until.after(by).min(longest);
                if until <= left.until.max(now) {
                    continue;
                }
                left.until = until;
                if left.put_in == Some(shard.epoch) {
                    let (document, keep) = (*document, until.since(now));
                    self.effects.push(Effect::KeepLonger { document, keep });
                }
            }
        }
    }

    /// True if a document is to be kept and is not yet.
    pub(super) fn is_left(&self, document: u64) -> bool {
        self.shards.get(&shard_of(document)).is_some_and(|shard| {
            let left = shard.left.get(&document);
            // The time in which this node can't act does not count.
            let acted = self.frozen_since.unwrap_or(self.now);
            left.is_some_and(|left| left.until > acted && left.put_in != Some(shard.epoch))
        })
    }

    /// Keeps a document that is decided about here, if that is to be.
    pub(super) fn keep_left(&mut self, document: u64) {
        if !self.is_left(document) {
            return;
        }
        let now = self.now;
        let shard = self.shard_mut(shard_of(document));
        let epoch = shard.epoch;
        if let Some(left) = shard.left.get_mut(&document) {
            left.put_in = Some(epoch);
            let keep = Effect::KeepForReclaim {
                document,
                node: Arc::clone(&left.node),
                keep: left.until.since(now),
            };
            self.effects.push(keep);
        }
    }
}
