//! The lock table: all documents of one shard. `(state, request, now) -> answer and effects`, nothing else.
//!
//! Reads no clock, does no I/O, starts no task. Every waiter is answered by a later call: by whoever gives back what it
//! waits for, or by [`LockTable::tick`] at [`LockTable::next_deadline`] (invariant I7).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::cache_grant::{CacheGranted, CacheSink, CacheState, GrantKey, RevokeReason};
use crate::caches::Turn;
use crate::claims::ask_claim;
use crate::conflict::{Claim, ClaimKind, RangeParty};
use crate::document::Document;
use crate::env::{Due, Effect, Env};
use crate::obstacle::{Ask, Granted, Obstacle, Verdict};
use crate::outcome::{
    AckError, Closed, Conflict, Denial, OpenState, Opened, RangeHolder, RangeNotLocked,
};
use crate::range::ByteRange;
use crate::request::{OnConflict, OwnedRangeRequest, RangeOwner};
use crate::types::{
    Access, Actor, ClientId, Now, OpenId, OpenRef, ResourceId, ShareMode, WaiterId,
};
use crate::wait_queue::{PollKey, Style, Waiter};

/// Limits and times; see [`crate::LockOptions`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableOptions {
    pub break_timeout: Duration,
    pub poll_lapse: Duration,
    pub waiters_max: usize,
    pub ranges_max: usize,
    pub opens_max: usize,
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
        self.env.now = self.env.now.max(now);
    }

    // ---- requests that may wait ----

    /// Any request that may wait.
    pub(crate) fn request(&mut self, now: Now, ask: Ask<'_>) -> Answer {
        self.enter(now);
        let id = ask.resource().document;
        let spare = &mut self.spare;
        let document = self.documents.entry(id).or_insert_with(|| {
            let mut document = spare.pop().unwrap_or_default();
            document.id = id;
            document
        });
        let answer = decide(document, &mut self.env, ask);
        let granted_open = matches!(&answer, Answer::Now(Ok(Granted::Opened(_))));
        if document.dirty {
            poke(document, &mut self.env);
        }
        if !granted_open {
            self.drop_idle(id);
        }
        answer
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
            for waiter in document
                .queue
                .drain(..)
                .filter(|w| !matches!(w.style, Style::Poll { .. }))
            {
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
            document.dirty = false;
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
            d.doomed.retain(|s| *s != resource.stream);
            d.told.retain(|s| *s != resource.stream);
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
        let obstacle = document.lock_obstacle(r.resource.stream, party, r.lock)?;
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
                d.holder_disconnected(env, stream, key);
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
                d.holder_is_back(stream, key, sink)
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
            });
        }
    }
}

fn open_due(d: &mut Document, env: &mut Env, id: OpenId) {
    let Some(open) = d.opens.get(id) else { return };
    let Some(until) = open.until else { return };
    if until > env.now {
        env.set_timer(until, d.id, Due::Open(id));
    } else if open.disconnected {
        d.revoke_open(env, id, RevokeReason::ReclaimTimeout);
    } else if open.claim.kind == ClaimKind::Place {
        // A place holds no deletion back.
        let _ = d.end_open(env, id);
        d.dirty = true;
    }
}

fn waiter_due(d: &mut Document, env: &mut Env, id: WaiterId) {
    let Some(at) = d.queue.iter().position(|w| w.id == id) else {
        return;
    };
    match d.queue.get(at).map(|w| w.style) {
        Some(Style::Poll { lapse }) if lapse > env.now => {
            env.set_timer(lapse, d.id, Due::Waiter(id))
        }
        Some(Style::Poll { .. }) => {
            d.queue.remove(at);
            d.dirty = true;
        }
        // Looked at once more: granted, refused, or still waiting for a cache.
        Some(Style::Hold | Style::HoldUntil(_)) => d.dirty = true,
        None => {}
    }
}

/// Decides a new request, or a retry of one that keeps a place in line.
fn decide(d: &mut Document, env: &mut Env, ask: Ask<'_>) -> Answer {
    let mut queue = std::mem::take(&mut d.queue);
    let at = place_in_line(&queue, ask);
    let earlier = &queue[..at.unwrap_or(queue.len())];
    let answer = match d.attempt(env, ask, earlier, Turn::First) {
        Verdict::Granted(granted) => Answer::Now(Ok(granted)),
        Verdict::Denied(denial) => Answer::Now(Err(denial)),
        Verdict::Deadlock(o) => Answer::Now(Err(Denial::Deadlock(Box::new(d.conflict(o, &queue))))),
        Verdict::Break(o) => stand_in_line(d, env, ask, o, &mut queue, at, true),
        Verdict::Blocked(o) => stand_in_line(d, env, ask, o, &mut queue, at, false),
    };
    if let (Some(at), Answer::Now(result)) = (at, &answer)
        && !matches!(result, Err(Denial::Retry(_)))
    {
        queue.remove(at);
        d.dirty = !queue.is_empty();
    }
    d.queue = queue;
    answer
}

/// The place that an earlier try of this request keeps in line.
fn place_in_line(queue: &[Waiter], ask: Ask<'_>) -> Option<usize> {
    let key = poll_key(ask)?;
    queue
        .iter()
        .position(|w| w.key == Some(key) && matches!(w.style, Style::Poll { .. }))
}

/// What the policy makes of an obstacle. `recall`: a cache is being given back, which is waited for under any policy.
fn stand_in_line(
    d: &Document,
    env: &mut Env,
    ask: Ask<'_>,
    obstacle: Obstacle,
    queue: &mut Vec<Waiter>,
    at: Option<usize>,
    recall: bool,
) -> Answer {
    let conflict = || Box::new(d.conflict(obstacle, queue));
    let (patience, hold) = match ask.on_conflict() {
        OnConflict::Reject if recall => {
            return enqueue(
                d,
                env,
                ask,
                obstacle,
                queue,
                (Now::NEVER, false, Style::Hold),
            );
        }
        OnConflict::Reject => return Answer::Now(Err(Denial::Conflict(conflict()))),
        OnConflict::Wait(patience) => {
            let deadline = patience.map_or(Now::NEVER, |p| env.now.after(p));
            return enqueue(d, env, ask, obstacle, queue, (deadline, true, Style::Hold));
        }
        OnConflict::Poll(patience) => (patience, None),
        OnConflict::PollHeld { patience, hold } => (patience, Some(hold)),
    };
    let known = at.and_then(|at| queue.get(at));
    let over = known.map_or(patience.is_zero(), |w| w.deadline <= env.now);
    if over && !recall {
        return Answer::Now(Err(Denial::Conflict(conflict())));
    }
    let lapse = env.now.after(env.options.poll_lapse);
    let style = hold.map_or(Style::Poll { lapse }, |h| {
        Style::HoldUntil(env.now.after(h))
    });
    if hold.is_none() && known.is_none() && recall {
        return Answer::Now(Err(Denial::Retry(conflict())));
    }
    let waiting = match at.and_then(|at| queue.get_mut(at)) {
        Some(waiter) => {
            (waiter.style, waiter.obstacle) = (style, obstacle);
            set_waiter_timer(env, d.id, waiter);
            Answer::Wait(waiter.id)
        }
        None => {
            let deadline = env.now.after(patience);
            enqueue(
                d,
                env,
                ask,
                obstacle,
                queue,
                (deadline, !patience.is_zero(), style),
            )
        }
    };
    match waiting {
        Answer::Wait(_) if hold.is_none() => {
            Answer::Now(Err(Denial::Retry(Box::new(d.conflict(obstacle, queue)))))
        }
        waiting => waiting,
    }
}

/// Puts a request at the end of the line: until when its patience lasts, whether others may not overtake it, how it
/// hears of its turn.
fn enqueue(
    d: &Document,
    env: &mut Env,
    ask: Ask<'_>,
    obstacle: Obstacle,
    queue: &mut Vec<Waiter>,
    (deadline, in_line, style): (Now, bool, Style),
) -> Answer {
    if queue.len() >= env.options.waiters_max {
        return Answer::Now(Err(Denial::Limit("waiting requests of one document")));
    }
    let id = WaiterId(env.fresh_id());
    let range = match ask {
        Ask::Ranges(r) => r.locks.first().map(|lock| (*lock, Some(r.open.id))),
        Ask::OwnedRange(r) => Some((r.lock, d.range_open(r))),
        _ => None,
    };
    let waiter = Waiter {
        id,
        ask: ask.keep(),
        style,
        key: poll_key(ask),
        claim: ask_claim(ask),
        stream: ask.resource().stream,
        range,
        deadline,
        in_line,
        obstacle,
        holder: d.holder_of(ask),
    };
    set_waiter_timer(env, d.id, &waiter);
    queue.push(waiter);
    Answer::Wait(id)
}

fn set_waiter_timer(env: &mut Env, document: u64, waiter: &Waiter) {
    let at = match waiter.style {
        Style::Hold => waiter.deadline,
        Style::HoldUntil(until) => until,
        Style::Poll { lapse } => lapse,
    };
    env.set_timer(at, document, Due::Waiter(waiter.id));
}

/// Looks at the whole line again, in order, until nothing changes.
fn poke(d: &mut Document, env: &mut Env) {
    while std::mem::take(&mut d.dirty) {
        if d.queue.is_empty() {
            return;
        }
        let mut queue = std::mem::take(&mut d.queue);
        let mut at = 0;
        while at < queue.len() {
            let Some(outcome) = reconsider(d, env, &mut queue, at) else {
                at += 1;
                continue;
            };
            let waiter = queue[at].id;
            if matches!(outcome, Err(Denial::Retry(_))) && keeps_place(env, d.id, &mut queue, at) {
                at += 1;
            } else {
                queue.remove(at);
            }
            env.effects.push(Effect::Answer { waiter, outcome });
        }
        d.queue = queue;
    }
}

/// A client that is told to retry keeps its place, unless it stands in line twice or only waited for a cache.
fn keeps_place(env: &mut Env, document: u64, queue: &mut [Waiter], at: usize) -> bool {
    let twice = |w: &Waiter| w.key == queue[at].key && w.id != queue[at].id;
    if !queue[at].in_line || queue.iter().any(twice) {
        return false;
    }
    let lapse = env.now.after(env.options.poll_lapse);
    queue[at].style = Style::Poll { lapse };
    set_waiter_timer(env, document, &queue[at]);
    true
}

/// The answer to one waiter, if it has one now.
fn reconsider(
    d: &mut Document,
    env: &mut Env,
    queue: &mut [Waiter],
    at: usize,
) -> Option<Result<Granted, Denial>> {
    let (earlier, rest) = queue.split_at_mut(at);
    let waiter = rest.first_mut()?;
    if matches!(waiter.style, Style::Poll { .. }) {
        return None;
    }
    let ask = waiter.ask.as_ask();
    let (obstacle, recall) = match d.attempt(env, ask, earlier, Turn::Again) {
        Verdict::Granted(granted) => return Some(Ok(granted)),
        Verdict::Denied(denial) => return Some(Err(denial)),
        Verdict::Deadlock(o) => {
            return Some(Err(Denial::Deadlock(Box::new(d.conflict(o, queue)))));
        }
        Verdict::Break(o) => (o, true),
        Verdict::Blocked(o) => (o, false),
    };
    waiter.obstacle = obstacle;
    let rejects = matches!(ask.on_conflict(), OnConflict::Reject);
    let over = rejects || waiter.deadline <= env.now;
    let held = matches!(waiter.style, Style::HoldUntil(until) if until <= env.now);
    if over && !recall {
        Some(Err(Denial::Conflict(Box::new(d.conflict(obstacle, queue)))))
    } else if held {
        Some(Err(Denial::Retry(Box::new(d.conflict(obstacle, queue)))))
    } else {
        None
    }
}

/// What makes a retry the same request.
fn poll_key(ask: Ask<'_>) -> Option<PollKey> {
    if !matches!(
        ask.on_conflict(),
        OnConflict::Poll(_) | OnConflict::PollHeld { .. }
    ) {
        return None;
    }
    let claim = ask_claim(ask)?;
    Some(PollKey {
        client: claim.client,
        stream: ask.resource().stream,
        claim_bits: (claim.access.bits(), claim.denies.bits()),
    })
}

impl Document {
    /// The words for what stands in the way.
    pub(crate) fn conflict(&self, obstacle: Obstacle, queue: &[Waiter]) -> Conflict {
        crate::listing::conflict(self, obstacle, queue)
    }
}
