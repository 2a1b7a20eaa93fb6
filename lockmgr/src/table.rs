//! The lock table: all documents of one shard. `(state, request, now) -> answer and effects`, nothing else.
//!
//! Reads no clock, does no I/O, starts no task. Every waiter is answered by a later call: by whoever gives back what it
//! waits for, or by [`LockTable::tick`] at [`LockTable::next_deadline`] (invariant I7).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::answers::keep_granted;
use crate::cache_grant::{CacheGranted, CacheSink, CacheState, GrantKey, RevokeReason};
use crate::caches::Turn;
use crate::conflict::{Claim, RangeParty};
use crate::document::Document;
use crate::document_state::DocumentState;
use crate::env::{Due, Effect, Env};
use crate::epoch::MemberId;
use crate::line::{decide, open_due, poke, waiter_due};
use crate::obstacle::{Ask, Granted, Obstacle, Verdict};
use crate::op::OpAnswer;
use crate::outcome::{
    AckError, Closed, Conflict, Denial, OpenState, Opened, RangeHolder, RangeNotLocked,
};
use crate::range::ByteRange;
use crate::request::{OwnedRangeRequest, RangeOwner};
use crate::service::LockOptions;
use crate::types::{
    Access, Actor, ClientId, Holder, Now, OpenId, OpenRef, ResourceId, ShareMode, Ticket, WaiterId,
};
use crate::wait_queue::Waiter;

/// Limits and times; see [`crate::LockOptions`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableOptions {
    pub break_timeout: Duration,
    pub poll_lapse: Duration,
    pub waiters_max: usize,
    pub ranges_max: usize,
    pub opens_max: usize,
}

impl From<&LockOptions> for TableOptions {
    fn from(options: &LockOptions) -> Self {
        Self {
            break_timeout: options.break_timeout,
            poll_lapse: options.poll_lapse,
            waiters_max: options.waiters_max,
            ranges_max: options.ranges_max,
            opens_max: options.opens_max,
        }
    }
}

/// Emptied documents kept for reuse.
const SPARE_MAX: usize = 32;

/// The answer to a request that may wait.
#[derive(Debug)]
pub(crate) enum Answer {
    Now(Result<Granted, Denial>),
    Wait(WaiterId),
}

/// Document ids come from the repository and are spread well by a multiplication.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

type ById<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;

/// See the module's head.
pub(crate) struct LockTable {
    documents: ById<Box<Document>>,
    #[allow(
        clippy::vec_box,
        reason = "boxes move between here and the map without copying documents"
    )]
    spare: Vec<Box<Document>>,
    env: Env,
}

impl LockTable {
    /// Ids that it gives are `first`, `first + stride`, ...
    pub(crate) fn new(options: TableOptions, first: u64, stride: u64) -> Self {
        Self {
            documents: HashMap::default(),
            spare: Vec::new(),
            env: Env::new(options, first, stride),
        }
    }

    /// Effects since the last call, in order.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.env.effects)
    }

    pub(crate) fn has_effects(&self) -> bool {
        !self.env.effects.is_empty()
    }

    /// When [`LockTable::tick`] is due; [`Now::NEVER`] if nothing runs.
    pub(crate) fn next_deadline(&self) -> Now {
        self.env.next_deadline()
    }

    pub(crate) fn documents(&self) -> impl Iterator<Item = &Document> {
        self.documents.values().map(|d| &**d)
    }

    pub(crate) fn document(&self, id: u64) -> Option<&Document> {
        self.documents.get(&id).map(|d| &**d)
    }

    fn enter(&mut self, now: Now) {
        self.env.revision += 1;
        self.env.now = self.env.now.max(now);
    }

    // ---- requests that may wait ----

    /// Any request that may wait.
    ///
    /// `ticket`: the request's number, if it was drawn before. With it a request that was answered already is answered
    /// again, and one that waited in another table waits on in its old place.
    pub(crate) fn request(&mut self, now: Now, ask: Ask<'_>, ticket: Option<Ticket>) -> Answer {
        self.enter(now);
        let id = ask.resource().document;
        if let Some(opened) = ticket.and_then(|ticket| self.opened_before(ask, ticket)) {
            return Answer::Now(Ok(Granted::Opened(opened)));
        }
        if self.answered_before(id, ticket).is_some() {
            return Answer::Now(Ok(Granted::Done));
        }
        self.env.set_ticket(ticket.map(|t| t.0));
        let document = entered(&mut self.documents, || self.spare.pop(), id);
        let answer = decide(document, &mut self.env, ask, ticket);
        self.env.set_ticket(None);
        let granted_open = matches!(&answer, Answer::Now(Ok(Granted::Opened(_))));
        if let (Answer::Now(Ok(Granted::Done)), Some(ticket)) = (&answer, ticket)
            && ask.takes_ranges()
        {
            keep_granted(document, &self.env, WaiterId(ticket.0));
        }
        if document.dirty {
            poke(document, &mut self.env);
        }
        if !granted_open {
            self.drop_idle(id);
        }
        answer
    }

    /// The open that a request with this number has made.
    fn opened_before(&self, ask: Ask<'_>, ticket: Ticket) -> Option<Opened> {
        let Ask::Open(r) = ask else { return None };
        let d = self.document(r.resource.document)?;
        let id = OpenId(ticket.0);
        let held = d.opens.get(id)?;
        let cache = held
            .grant
            .map_or_else(CacheGranted::default, |key| d.cache_told(held.stream, key));
        let open = OpenRef {
            resource: r.resource,
            id,
        };
        Some(Opened { open, cache })
    }

    /// The answer that a call with this number got, here or in a table whose state came here; see [`crate::answers`]. An own
    /// call has it with this.
    fn answered_before(&mut self, document: u64, ticket: Option<Ticket>) -> Option<OpAnswer> {
        let ticket = ticket?;
        let answers = &self.documents.get(&document)?.answers;
        let answer = answers.get(ticket).cloned()?;
        if !self.env.is_foreign(ticket) {
            self.answer_sent(document, ticket);
        }
        Some(answer)
    }

    /// Carries out a call that never waits, but only once for its number. `lasts` says whether an answer tells of a change.
    pub(crate) fn once(
        &mut self,
        document: u64,
        ticket: Option<Ticket>,
        call: impl FnOnce(&mut Self) -> OpAnswer,
        lasts: impl FnOnce(&OpAnswer) -> bool,
    ) -> OpAnswer {
        if let Some(answer) = self.answered_before(document, ticket) {
            return answer;
        }
        let answer = call(self);
        if let Some(ticket) = ticket.filter(|t| self.env.is_foreign(*t))
            && lasts(&answer)
        {
            let d = entered(&mut self.documents, || self.spare.pop(), document);
            d.answers.keep(ticket, answer.clone());
        }
        answer
    }

    /// The answer to a call is on its way: nothing that is said from now on can overtake it.
    pub(crate) fn answer_sent(&mut self, document: u64, ticket: Ticket) {
        self.on_document(document, |d, _| d.answers.sent(ticket));
    }

    /// A number for a request.
    pub(crate) fn fresh_ticket(&mut self) -> Ticket {
        Ticket(self.env.fresh_id())
    }

    /// A request that must not wait: `None` if it would have to.
    pub(crate) fn request_no_wait(&mut self, now: Now, ask: Ask<'_>) -> Option<Result<(), Denial>> {
        self.enter(now);
        let decided = self.on_document(ask.resource().document, |d, env| {
            match d.attempt(env, ask, &[], Turn::First) {
                Verdict::Granted(_) => Some(Ok(())),
                Verdict::Denied(denial) => Some(Err(denial)),
                Verdict::Blocked(o) | Verdict::Deadlock(o) => {
                    Some(Err(Denial::Conflict(Box::new(d.conflict(o, &d.queue)))))
                }
                Verdict::Break(_) => None,
            }
        });
        decided.unwrap_or(Some(Err(Denial::NoSuchOpen)))
    }

    /// Ends a wait without an answer (its caller went away) or with one ("the wait was cancelled").
    pub(crate) fn cancel(
        &mut self,
        now: Now,
        document: u64,
        waiter: WaiterId,
        answer: bool,
    ) -> bool {
        self.enter(now);
        let found = self.on_document(document, |d, env| {
            let at = d.queue.iter().position(|w| w.id == waiter)?;
            d.queue.remove(at);
            if answer {
                env.effects.push(Effect::Answer {
                    waiter,
                    outcome: Err(Denial::Cancelled),
                });
            }
            d.dirty = true;
            Some(())
        });
        found.flatten().is_some()
    }

    /// Ends all waits: the node stops.
    pub(crate) fn cancel_all(&mut self) {
        for document in self.documents.values_mut() {
            for waiter in document.queue.drain(..).filter(|w| !w.style.is_place()) {
                self.env.effects.push(Effect::Answer {
                    waiter: waiter.id,
                    outcome: Err(Denial::Stopping),
                });
            }
        }
    }

    // ---- requests that are answered at once ----

    /// Works on a document if it is known, then serves its line and forgets it if nothing is left.
    fn on_document<T>(
        &mut self,
        id: u64,
        work: impl FnOnce(&mut Document, &mut Env) -> T,
    ) -> Option<T> {
        let document = self.documents.get_mut(&id)?;
        let result = work(document, &mut self.env);
        if document.dirty {
            poke(document, &mut self.env);
        }
        if document.is_idle() {
            self.drop_idle(id);
        }
        Some(result)
    }

    fn drop_idle(&mut self, id: u64) {
        if self.documents.get(&id).is_some_and(|d| d.is_idle())
            && let Some(mut document) = self.documents.remove(&id)
            && self.spare.len() < SPARE_MAX
        {
            document.ranges = None;
            document.told.clear();
            document.answers.forget_all();
            document.dirty = false;
            document.next_line = 0;
            self.spare.push(document);
        }
    }

    pub(crate) fn close(&mut self, now: Now, open: OpenRef, delete: bool) -> Closed {
        self.enter(now);
        self.on_document(open.resource.document, |d, env| {
            if d.opens.get(open.id).is_none() {
                return Closed::default();
            }
            if delete && !d.doomed.contains(&open.resource.stream) {
                d.doomed.push(open.resource.stream);
            }
            d.dirty = !d.queue.is_empty();
            d.end_open(env, open.id)
        })
        .unwrap_or_default()
    }

    /// The caller has deleted (or could not delete) what a close told it to delete.
    pub(crate) fn deleted(&mut self, now: Now, resource: ResourceId) {
        self.enter(now);
        self.on_document(resource.document, |d, _| {
            // A document goes with all its streams, also with those that were to go by themselves.
            let all = resource.stream == 0 && !d.is_open();
            d.doomed.retain(|s| !all && *s != resource.stream);
            d.told.retain(|(s, _)| !all && *s != resource.stream);
            d.dirty = true;
        });
    }

    pub(crate) fn set_delete_pending(
        &mut self,
        now: Now,
        open: OpenRef,
        pending: bool,
    ) -> Result<(), Denial> {
        self.enter(now);
        self.on_document(open.resource.document, |d, _| {
            d.opens.get(open.id)?;
            d.doomed.retain(|s| *s != open.resource.stream);
            if pending {
                d.doomed.push(open.resource.stream);
            }
            d.dirty = true;
            Some(())
        })
        .flatten()
        .ok_or(Denial::NoSuchOpen)
    }

    /// Changes what an open does and denies, if nobody is in the way.
    pub(crate) fn reshare(
        &mut self,
        now: Now,
        open: OpenRef,
        access: Access,
        share: ShareMode,
    ) -> Result<(), Denial> {
        self.enter(now);
        self.on_document(open.resource.document, |d, _| {
            let old = d
                .opens
                .get(open.id)
                .map(|o| o.claim)
                .ok_or(Denial::NoSuchOpen)?;
            let denies = if access.is_empty() {
                Access::NONE
            } else {
                share.denies()
            };
            let claim = Claim {
                access,
                denies,
                ..old
            };
            if let Some(obstacle) = d.share_obstacle_except(open, &claim) {
                return Err(Denial::Conflict(Box::new(d.conflict(obstacle, &d.queue))));
            }
            d.opens.set_claim(open.id, claim);
            if let Some(o) = d.opens.get_mut(open.id) {
                o.share = share;
            }
            d.dirty = true;
            Ok(())
        })
        .unwrap_or(Err(Denial::NoSuchOpen))
    }

    pub(crate) fn release_place(&mut self, now: Now, resource: ResourceId, client: ClientId) {
        self.enter(now);
        self.on_document(resource.document, |d, env| {
            if let Some(id) = d.opens.place(resource.stream, client) {
                // A place holds no deletion back.
                let _ = d.end_open(env, id);
                d.dirty = true;
            }
        });
    }

    pub(crate) fn unlock(
        &mut self,
        now: Now,
        open: OpenRef,
        range: ByteRange,
    ) -> Result<(), RangeNotLocked> {
        self.enter(now);
        self.on_document(open.resource.document, |d, _| {
            d.range_set(open.resource.stream)?;
            d.dirty = true;
            d.range_set_mut(open.resource.stream)
                .remove_exact(open.id, range)
                .then_some(())
        })
        .flatten()
        .ok_or(RangeNotLocked)
    }

    pub(crate) fn unlock_owned(
        &mut self,
        now: Now,
        resource: ResourceId,
        client: ClientId,
        owner: Option<RangeOwner>,
        range: ByteRange,
    ) {
        self.enter(now);
        let stream = resource.stream;
        self.on_document(resource.document, |d, _| {
            let Some(ranges) = &d.ranges else { return };
            let opens: Vec<OpenId> = match owner {
                Some(owner) => ranges
                    .owners
                    .get(&(stream, client, owner))
                    .copied()
                    .into_iter()
                    .collect(),
                None => {
                    let mine = ranges
                        .owners
                        .iter()
                        .filter(|((s, c, _), _)| *s == stream && *c == client);
                    mine.map(|(_, id)| *id).collect()
                }
            };
            for id in opens {
                d.range_set_mut(stream).free_posix(id, range);
                d.settle_range_open(stream, id);
                d.dirty = true;
            }
        });
    }

    pub(crate) fn test_owned(&self, r: &OwnedRangeRequest) -> Option<RangeHolder> {
        let document = self.documents.get(&r.resource.document)?;
        let open = document.range_open(r);
        let party = RangeParty {
            open,
            client: r.actor.client,
            protocol: r.actor.protocol,
        };
        let obstacle = document.lock_obstacle(r.resource.stream, party, r.lock, r.reclaim)?;
        let conflict = document.conflict(obstacle, &document.queue);
        let (range, exclusive, client) = match obstacle {
            Obstacle::Range {
                range,
                exclusive,
                party,
            } => (range, exclusive, party.client),
            _ => (ByteRange::WHOLE, true, r.actor.client),
        };
        let held_by = |id: &OpenId| Some(*id) == conflict.open;
        let owners = document
            .ranges
            .iter()
            .flat_map(|ranges| ranges.owners.iter());
        let owner = owners
            .into_iter()
            .find(|(_, id)| held_by(id))
            .map(|((_, _, owner), _)| *owner);
        Some(RangeHolder {
            range,
            exclusive,
            owner: owner.unwrap_or(RangeOwner(0)),
            client,
            holder: conflict.holder,
        })
    }

    pub(crate) fn acknowledge(
        &mut self,
        now: Now,
        resource: ResourceId,
        key: GrantKey,
        state: CacheState,
    ) -> Result<CacheState, AckError> {
        self.enter(now);
        self.on_document(resource.document, |d, env| {
            d.dirty = true;
            d.acknowledge(env, resource.stream, key, state)
        })
        .unwrap_or(Err(AckError::NoSuchGrant))
    }

    pub(crate) fn state(&self, open: OpenRef) -> Option<OpenState> {
        let document = self.documents.get(&open.resource.document)?;
        let held = document.opens.get(open.id)?;
        let grant = held
            .grant
            .and_then(|key| document.grants.find(held.stream, key));
        Some(OpenState {
            access: held.claim.access,
            share: held.share,
            cache: grant.map_or(CacheState::NONE, |g| g.state),
            grant: held.grant,
            delete_pending: document.is_doomed(held.stream),
            disconnected: held.disconnected,
        })
    }

    /// Keeps a whole document, as an NFS client's exclusive lock would, for those who take locks again that were lost with
    /// their node.
    pub(crate) fn keep_for_reclaim(
        &mut self,
        now: Now,
        document: u64,
        holder: &Arc<Holder>,
        keep: Duration,
    ) {
        self.enter(now);
        let d = entered(&mut self.documents, || self.spare.pop(), document);
        d.keep_for_reclaim(&mut self.env, holder, keep);
    }

    /// Keeps it longer, if it still is.
    pub(crate) fn keep_longer(&mut self, now: Now, document: u64, keep: Duration) {
        self.enter(now);
        if let Some(d) = self.documents.get_mut(&document) {
            d.keep_longer(&mut self.env, keep);
        }
    }

    // ---- moving between tables ----

    /// Takes a document out as it is. Its timers find nothing any more.
    pub(crate) fn take(&mut self, now: Now, document: u64) -> Option<Box<Document>> {
        self.enter(now);
        self.documents.remove(&document)
    }

    /// Puts in what another table had.
    pub(crate) fn merge(
        &mut self,
        now: Now,
        state: DocumentState,
        sinks: &dyn Fn(OpenRef) -> Option<Arc<dyn CacheSink>>,
    ) {
        self.enter(now);
        let id = state.document();
        let document = self.documents.entry(id).or_default();
        document.id = id;
        state.merge_into(document, &mut self.env, sinks);
        self.drop_idle(id);
    }

    /// Forgets a document and tells the clients of node `me` that what they had is lost.
    pub(crate) fn lose(&mut self, now: Now, document: u64, me: MemberId) {
        let Some(mut d) = self.take(now, document) else {
            return;
        };
        d.queue.clear();
        d.doomed.clear();
        let opens: Vec<_> = d.opens.iter().map(|o| (o.id, o.claim.client)).collect();
        for (id, client) in opens {
            if client.member() == me {
                d.lose_open(&mut self.env, id);
            } else {
                // Nobody is told, and what it asks for is nobody's to do.
                let _ = d.end_open(&mut self.env, id);
            }
        }
    }

    /// Takes away what the clients of a node that is gone have and want.
    pub(crate) fn drop_member(&mut self, now: Now, document: u64, member: MemberId) {
        self.enter(now);
        self.on_document(document, |d, env| d.drop_member(env, member));
    }

    #[cfg(test)]
    pub(crate) fn look_again(&mut self, now: Now, document: u64) {
        self.enter(now);
        self.on_document(document, |d, _| d.dirty = true);
    }

    /// A number greater than all that were asked for before.
    pub(crate) fn next_revision(&mut self) -> u64 {
        self.env.revision += 1;
        self.env.revision
    }

    // ---- disconnect and reclaim ----

    pub(crate) fn disconnect(
        &mut self,
        now: Now,
        open: OpenRef,
        keep: Duration,
    ) -> Result<(), Denial> {
        self.enter(now);
        self.on_document(open.resource.document, |d, env| {
            let held = d.opens.get_mut(open.id).filter(|o| !o.disconnected)?;
            held.disconnected = true;
            let until = env.now.after(keep);
            held.until = Some(until);
            let (stream, grant) = (held.stream, held.grant);
            env.set_timer(until, d.id, Due::Open(open.id));
            if let Some(key) = grant {
                d.holder_disconnected(env, stream, key, open.id);
            }
            d.dirty = true;
            Some(())
        })
        .flatten()
        .ok_or(Denial::NoSuchOpen)
    }

    pub(crate) fn reclaim(
        &mut self,
        now: Now,
        open: OpenRef,
        actor: Actor,
        sink: Option<Arc<dyn CacheSink>>,
    ) -> Result<Opened, Denial> {
        self.enter(now);
        self.on_document(open.resource.document, |d, _| {
            let held = d.opens.get_mut(open.id).filter(|o| o.disconnected)?;
            // Who holds the document does not wait behind others: its client may have changed.
            d.dirty = true;
            held.disconnected = false;
            held.until = None;
            held.holder = actor.holder;
            held.sink.clone_from(&sink);
            let (stream, grant, claim) = (held.stream, held.grant, held.claim);
            d.opens.set_claim(
                open.id,
                Claim {
                    client: actor.client,
                    ..claim
                },
            );
            let cache = grant.map_or_else(CacheGranted::default, |key| {
                d.holder_is_back(stream, key, open.id, sink)
            });
            Some(Opened { open, cache })
        })
        .flatten()
        .ok_or(Denial::NoSuchOpen)
    }

    /// `locks break`: takes away an open, a place or a waiter by its id.
    pub(crate) fn force_release(&mut self, now: Now, id: u64) -> bool {
        self.enter(now);
        let holds = |d: &&Document| {
            d.opens.get(OpenId(id)).is_some() || d.queue.iter().any(|w| w.id.0 == id)
        };
        let Some(document) = self.documents().find(holds).map(|d| d.id) else {
            return false;
        };
        let revoked = self.on_document(document, |d, env| {
            d.revoke_open(env, OpenId(id), RevokeReason::Admin)
        });
        revoked == Some(true) || self.cancel(now, document, WaiterId(id), true)
    }

    // ---- time ----

    /// Carries out what is due.
    pub(crate) fn tick(&mut self, now: Now) {
        self.enter(now);
        while let Some(timer) = self.env.pop_due() {
            self.on_document(timer.document, |d, env| match timer.due {
                Due::Break { stream, key } => d.dirty |= d.break_ran_out(env, stream, key),
                Due::Open(id) => open_due(d, env, id),
                Due::Waiter(id) => waiter_due(d, env, id),
                Due::Answer(ticket) => d.answers.sent(ticket),
            });
        }
    }
}

/// A document, made if it is new.
fn entered(
    documents: &mut ById<Box<Document>>,
    mut spare: impl FnMut() -> Option<Box<Document>>,
    id: u64,
) -> &mut Document {
    documents.entry(id).or_insert_with(|| {
        let mut document = spare().unwrap_or_default();
        document.id = id;
        document
    })
}

impl Document {
    /// The words for what stands in the way.
    pub(crate) fn conflict(&self, obstacle: Obstacle, queue: &[Waiter]) -> Conflict {
        crate::listing::conflict(self, obstacle, queue)
    }
}
