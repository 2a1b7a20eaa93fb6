//! One document: its opens, ranges, caches, waiters, and the rules for each kind of request.
//!
//! Every rule is an attempt that either changes the state and grants, or leaves the claim unmade and says what stands in
//! the way. Attempts are repeated from the start whenever something was given back, so they must be free of memory.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::answers::Answers;
use crate::byte_range::RangeSet;
use crate::cache_grant::{GrantKey, RevokeReason};
use crate::caches::{Calling, Progress, Turn, Who};
use crate::claims::{checked_claim, conflict_of, is_write, lease_key, open_claim, party};
use crate::conflict::{Claim, ClaimKind};
use crate::document_state::waiter_client;
use crate::env::{Effect, Env};
use crate::epoch::MemberId;
use crate::grant_set::GrantSet;
use crate::obstacle::{Ask, Granted, Need, Obstacle, Verdict};
use crate::outcome::{Closed, Denial, OPENS_LIMIT, Opened};
use crate::range::ByteRange;
use crate::request::{OnConflict, OpenRequest, RangeOwner, RangeRequest, StatOpen};
use crate::share_mode::{Open, OpenSet};
use crate::types::{Actor, ClientId, OpenId, OpenRef, ResourceId};
use crate::wait_queue::{Waiter, overtaken_by_claim};

/// Byte ranges of a document and the opens that NFS owners' ranges count as.
#[derive(Default)]
pub(crate) struct Ranges {
    pub by_stream: Vec<(u32, RangeSet)>,
    pub owners: HashMap<(u32, ClientId, RangeOwner), OpenId>,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Document {
    pub id: u64,
    pub opens: OpenSet,
    pub grants: GrantSet,
    pub ranges: Option<Box<Ranges>>,
    pub queue: Vec<Waiter>,
    /// Streams marked for deletion; 0 stands for the document.
    pub doomed: SmallVec<[u32; 1]>,
    /// Of those, whose deletion a client's node has been told to carry out.
    pub told: SmallVec<[(u32, ClientId); 1]>,
    /// To calls of other nodes, not sent yet.
    pub answers: Answers,
    /// Counts waiters, so that their order outlives a move to another table.
    pub next_line: u64,
    /// Something was taken away since the line was last looked at.
    pub dirty: bool,
}

/// `Some`: the attempt ends here. `None`: something was taken back meanwhile, start again.
pub(crate) type Step = Option<Verdict>;

impl Document {
    pub(crate) fn is_idle(&self) -> bool {
        self.opens.is_empty()
            && self.queue.is_empty()
            && self.grants.is_empty()
            && self.doomed.is_empty()
            && self.answers.is_empty()
    }

    /// Some client has an open; places and ranges don't count.
    pub(crate) fn is_open(&self) -> bool {
        self.opens.iter().any(|o| o.claim.kind == ClaimKind::Open)
    }

    pub(crate) fn resource(&self, stream: u32) -> ResourceId {
        ResourceId {
            document: self.id,
            stream,
        }
    }

    pub(crate) fn is_doomed(&self, stream: u32) -> bool {
        self.doomed.iter().any(|s| *s == 0 || *s == stream)
    }

    /// Tries a request. `earlier` are the waiters before it in line.
    pub(crate) fn attempt(
        &mut self,
        env: &mut Env,
        ask: Ask<'_>,
        earlier: &[Waiter],
        turn: Turn,
    ) -> Verdict {
        loop {
            let step = match ask {
                Ask::Open(r) => self.try_open(env, r, earlier, turn),
                Ask::Io(r) => self.try_io(env, r, earlier),
                Ask::OpenIo { open, kind } => self.try_open_io(env, open, kind),
                Ask::Ranges(r) => self.try_ranges(env, r, earlier),
                Ask::OwnedRange(r) => self.try_owned_range(env, r, earlier),
                Ask::Move {
                    resource,
                    actor,
                    open,
                } => self.try_move(env, resource.stream, actor, open),
            };
            if let Some(verdict) = step {
                return verdict;
            }
        }
    }

    // ---- opens ----

    fn try_open(&mut self, env: &mut Env, r: &OpenRequest, earlier: &[Waiter], turn: Turn) -> Step {
        let stream = r.resource.stream;
        if self.is_doomed(stream) {
            return Some(Verdict::Denied(Denial::DeletePending));
        }
        if self.opens.len() >= env.options.opens_max {
            return Some(Verdict::Denied(Denial::Limit(OPENS_LIMIT)));
        }
        let claim = open_claim(r);
        let checked = checked_claim(r, &claim);
        let who = Who {
            open: None,
            lease: lease_key(&r.cache),
            client: r.actor.client,
            protocol: r.actor.protocol,
            opening: Some(turn),
        };
        if let Some(stop) = self.share_check(env, stream, &checked, &who, false) {
            return stop;
        }
        if r.touches_ranges
            && let Some(obstacle) = self.io_obstacle(
                stream,
                party(&r.actor, None),
                ByteRange::WHOLE,
                is_write(&checked),
                false,
            )
        {
            return Some(Verdict::Blocked(obstacle));
        }
        if !r.reclaim
            && let Some(obstacle) =
                self.queue_obstacle(r.on_conflict, &r.actor, stream, &checked, earlier)
        {
            return Some(Verdict::Blocked(obstacle));
        }
        let need = if r.overwrite {
            Need::Nothing
        } else {
            Need::NoWrite
        };
        if self.grants.any() && (r.stat != StatOpen::Attributes || r.overwrite) {
            let calling = Calling {
                spare_leases: r.stat == StatOpen::ReadControl,
                ..Calling::new(need, is_write(&checked))
            };
            match self.call_back(env, stream, &who, calling) {
                Progress::Ready => {}
                Progress::Wait(obstacle) => return Some(Verdict::Break(obstacle)),
                Progress::Again => return None,
            }
        }
        Some(Verdict::Granted(Granted::Opened(
            self.grant_open(env, r, claim),
        )))
    }

    fn grant_open(&mut self, env: &mut Env, r: &OpenRequest, claim: Claim) -> Opened {
        let id = OpenId(env.request_id());
        let weighty = !(claim.access.is_empty() && r.stat != StatOpen::No);
        self.opens.insert(Open {
            id,
            stream: r.resource.stream,
            claim,
            share: r.share,
            holder: Arc::clone(&r.actor.holder),
            sink: r.sink.clone(),
            grant: None,
            weighty,
            touches_ranges: r.touches_ranges,
            until: None,
            disconnected: false,
        });
        let cache = self.grant_cache(r, id, weighty);
        Opened {
            open: OpenRef {
                resource: r.resource,
                id,
            },
            cache,
        }
    }

    // ---- share modes ----

    /// Looks for share modes in the way; calls back handle caches that keep them there. `None`: nothing is in the way.
    pub(crate) fn share_check(
        &mut self,
        env: &mut Env,
        stream: u32,
        claim: &Claim,
        who: &Who,
        bind: bool,
    ) -> Option<Step> {
        if !self.opens.may_conflict(stream, claim) {
            return None;
        }
        let mut first = None;
        let mut kept = None;
        let mut hard = false;
        let mut caches: SmallVec<[(u32, GrantKey); 4]> = SmallVec::new();
        let mut lost: SmallVec<[OpenId; 4]> = SmallVec::new();
        for open in self.opens.iter() {
            let Some(kind) = conflict_of(open, stream, claim, bind) else {
                continue;
            };
            if open.claim.client == ClientId::LEFT {
                kept = Some(Obstacle::Open { id: open.id, kind });
                continue;
            }
            first.get_or_insert(Obstacle::Open { id: open.id, kind });
            match open
                .grant
                .filter(|key| !who.owns(*key) && self.caches_handle(open.stream, *key))
            {
                _ if open.disconnected => lost.push(open.id),
                Some(key) => caches.push((open.stream, key)),
                None => {
                    hard = true;
                    first = Some(Obstacle::Open { id: open.id, kind });
                    break;
                }
            }
        }
        let obstacle = first.or(kept)?;
        if hard {
            return Some(Some(Verdict::Blocked(obstacle)));
        }
        if let Some(kept) = kept {
            // An NFS client waits until those have had their time who take locks again; so does I/O.
            let waits = claim.protocol.is_nfs() && claim.kind != ClaimKind::RangeOpen;
            return Some(Some(if waits {
                Verdict::Break(kept)
            } else {
                Verdict::Blocked(kept)
            }));
        }
        if !lost.is_empty() {
            for id in lost {
                self.revoke_open(env, id, RevokeReason::Disconnected);
            }
            return Some(None);
        }
        let mut wait = None;
        for (stream, key) in caches {
            match self.call_back_one(env, stream, key, Need::NoHandle) {
                Progress::Ready => {}
                Progress::Wait(o) => wait = Some(o),
                Progress::Again => return Some(None),
            }
        }
        Some(Some(
            wait.map_or(Verdict::Blocked(obstacle), Verdict::Break),
        ))
    }

    /// Who waits in line before and would be overtaken. Only those who wait themselves stand in line; a client that
    /// already holds the document does not wait behind others who wait for it.
    pub(crate) fn queue_obstacle(
        &self,
        on_conflict: OnConflict,
        actor: &Actor,
        stream: u32,
        claim: &Claim,
        earlier: &[Waiter],
    ) -> Option<Obstacle> {
        if earlier.is_empty() || matches!(on_conflict, OnConflict::Reject) {
            return None;
        }
        let waiter = overtaken_by_claim(earlier, stream, claim)?;
        (!self.holds_anything(actor.client)).then_some(Obstacle::Waiter(waiter))
    }

    fn holds_anything(&self, client: ClientId) -> bool {
        self.opens.iter().any(|o| o.claim.client == client)
    }

    // ---- the end of opens ----

    /// Takes an open away and tells its holder.
    pub(crate) fn revoke_open(&mut self, env: &mut Env, id: OpenId, reason: RevokeReason) -> bool {
        let Some(open) = self.opens.get(id) else {
            return false;
        };
        let (stream, sink) = (open.stream, open.sink.clone());
        let closed = self.end_open(env, id);
        self.dirty = true;
        let resource = self.resource(stream);
        if let Some(sink) = sink {
            let open = OpenRef { resource, id };
            env.effects.push(Effect::Revoked {
                sink,
                open,
                reason,
                closed,
            });
        } else if closed.delete_document || closed.delete_stream.is_some() {
            // Nobody is there to carry the deletion out: the document stays.
            self.doomed.clear();
            self.told.clear();
        }
        true
    }

    /// Ends an open because this node has lost it; its holder is told, and nothing is deleted.
    pub(crate) fn lose_open(&mut self, env: &mut Env, id: OpenId) {
        let Some(open) = self.opens.get(id) else {
            return;
        };
        let (resource, sink) = (self.resource(open.stream), open.sink.clone());
        let _ = self.end_open(env, id);
        if let Some(sink) = sink {
            env.effects.push(Effect::Revoked {
                sink,
                open: OpenRef { resource, id },
                reason: RevokeReason::NodeLost,
                closed: Closed::default(),
            });
        }
    }

    /// Ends what the clients of a node have and want: it is gone. What was left to it to delete stays.
    pub(crate) fn drop_member(&mut self, env: &mut Env, member: MemberId) {
        let of = |client: ClientId| client.member() == member;
        let waits = |w: &Waiter| waiter_client(self, w).is_some_and(of);
        let line: Vec<bool> = self.queue.iter().map(|w| !waits(w)).collect();
        let mut keep = line.into_iter();
        self.queue.retain(|_| keep.next().unwrap_or(true));
        self.answers.forget_member(member);
        let opens = self.opens.iter().filter(|o| of(o.claim.client));
        let opens: Vec<OpenId> = opens.map(|o| o.id).collect();
        for id in opens {
            // Whoever should delete is gone: see below.
            let _ = self.end_open(env, id);
        }
        let lost: Vec<_> = self
            .grants
            .iter()
            .filter(|g| matches!(g.key, GrantKey::Delegation(client) if of(client)))
            .map(|g| (g.stream, g.key))
            .collect();
        for (stream, key) in lost {
            if let Some(at) = self.grants.position(stream, key) {
                self.grants.remove(at);
            }
        }
        let told: Vec<u32> = self
            .told
            .iter()
            .filter(|(_, client)| of(*client))
            .map(|(stream, _)| *stream)
            .collect();
        self.doomed.retain(|stream| !told.contains(stream));
        self.told.retain(|(stream, _)| !told.contains(stream));
        if self.told.is_empty() && !self.is_open() {
            self.doomed.clear();
        }
        self.dirty = true;
    }

    /// Ends an open with its ranges and its part in a cache grant.
    pub(crate) fn end_open(&mut self, env: &mut Env, id: OpenId) -> Closed {
        let Some(open) = self.opens.remove(id) else {
            return Closed::default();
        };
        if let Some(ranges) = &mut self.ranges {
            for (_, set) in ranges
                .by_stream
                .iter_mut()
                .filter(|(s, set)| *s == open.stream && !set.is_empty())
            {
                set.remove_open(id);
            }
            if open.claim.kind == ClaimKind::RangeOpen {
                ranges.owners.retain(|_, o| *o != id);
            }
        }
        self.leave_grant(env, &open);
        self.closed(open.stream, open.claim.client)
    }

    /// What the end of an open of this stream asks of the caller. The marks stay until it says that it is done.
    fn closed(&mut self, stream: u32, client: ClientId) -> Closed {
        let mut last = true;
        let mut last_of_stream = true;
        for open in self
            .opens
            .iter()
            .filter(|o| o.claim.kind == ClaimKind::Open)
        {
            last = false;
            last_of_stream &= open.stream != stream;
            if self.doomed.is_empty() || !last_of_stream {
                break;
            }
        }
        let due = |stream: u32| {
            self.doomed.contains(&stream) && !self.told.iter().any(|(s, _)| *s == stream)
        };
        let delete_document = last && due(0);
        let delete_stream =
            (last_of_stream && stream != 0 && !delete_document && due(stream)).then_some(stream);
        let told = delete_document.then_some(0).or(delete_stream);
        self.told.extend(told.map(|stream| (stream, client)));
        Closed {
            delete_document,
            delete_stream,
            last,
        }
    }
}

impl Document {
    /// Who is in the way of a claim, the asking open aside.
    pub(crate) fn share_obstacle_except(&self, open: OpenRef, claim: &Claim) -> Option<Obstacle> {
        self.opens
            .iter()
            .filter(|o| o.id != open.id)
            .find_map(|o| {
                conflict_of(o, open.resource.stream, claim, false).map(|kind| (o.id, kind))
            })
            .map(|(id, kind)| Obstacle::Open { id, kind })
    }

    /// Who makes a request, in words.
    pub(crate) fn holder_of(&self, ask: Ask<'_>) -> Arc<crate::types::Holder> {
        match &ask {
            Ask::Open(r) => Arc::clone(&r.actor.holder),
            Ask::Io(r) => Arc::clone(&r.actor.holder),
            Ask::OwnedRange(r) => Arc::clone(&r.actor.holder),
            Ask::Move { actor, .. } => Arc::clone(&actor.holder),
            Ask::Ranges(RangeRequest {
                open: OpenRef { id, .. },
                ..
            })
            | Ask::OpenIo {
                open: OpenRef { id, .. },
                ..
            } => self
                .opens
                .get(*id)
                .map_or_else(crate::listing::nobody, |o| Arc::clone(&o.holder)),
        }
    }
}
