//! A document's lock state as a value: what moves when another node is to decide about the document.
//!
//! Owns the form and the two ways: out of a table, and into one. Moments become spans, since no two nodes share a clock.
//! Putting in checks no conflict: what was granted stays granted. Must never carry anything that only one node
//! understands: sinks stay behind and are found again by the number of their open.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::byte_range::HeldRange;
use crate::cache_grant::{BreakNotice, CacheSink, CacheState, GrantKey, RevokeReason};
use crate::claims::ask_claim;
use crate::conflict::{Claim, ClaimKind};
use crate::document::Document;
use crate::env::{Due, Env};
use crate::grant_set::{Breaking, Grant};
use crate::line::{poll_key, set_waiter_timer};
use crate::obstacle::{KeptAsk, Obstacle};
use crate::op::OpAnswer;
use crate::outcome::Closed;
use crate::request::{RangeLock, RangeOwner};
use crate::share_mode::Open;
use crate::types::{
    ClientId, Holder, Now, OpenId, OpenRef, ResourceId, ShareMode, Ticket, WaiterId,
};
use crate::wait_queue::{Style, Waiter};

/// How long an answer that came from another table is kept in case it is asked for again. That happens at once or never: when
/// the state comes, the call is on its way; longer, so that no pause of this node comes in between.
const ANSWER_KEPT: Duration = Duration::from_secs(600);

/// See the module's head. Opaque, but for what a runtime needs to route it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentState {
    document: u64,
    opens: Vec<OpenPart>,
    ranges: Vec<RangePart>,
    owners: Vec<(u32, ClientId, RangeOwner, OpenId)>,
    grants: Vec<GrantPart>,
    doomed: Vec<u32>,
    told: Vec<(u32, ClientId)>,
    line: Vec<WaiterPart>,
    next_line: u64,
    /// Given to calls of other nodes, perhaps not heard there.
    answers: Vec<(Ticket, OpAnswer)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct OpenPart {
    id: OpenId,
    stream: u32,
    claim: Claim,
    share: ShareMode,
    holder: Arc<Holder>,
    has_sink: bool,
    grant: Option<GrantKey>,
    weighty: bool,
    touches_ranges: bool,
    ends_in: Option<Duration>,
    disconnected: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RangePart {
    stream: u32,
    held: HeldRange,
    age: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct GrantPart {
    key: GrantKey,
    stream: u32,
    state: CacheState,
    breaking: Option<BreakPart>,
    epoch: u16,
    v2: bool,
    speaker: OpenId,
    holder: Arc<Holder>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct BreakPart {
    then: CacheState,
    to: CacheState,
    ends_in: Duration,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct WaiterPart {
    id: WaiterId,
    line: u64,
    ask: KeptAsk,
    /// A retrying client's place: how long it still lasts.
    poll: Option<Duration>,
    stream: u32,
    range: Option<(RangeLock, Option<OpenId>)>,
    /// Patience left; `None`: without limit.
    patience: Option<Duration>,
    in_line: bool,
    obstacle: Obstacle,
    holder: Arc<Holder>,
}

/// A waiter's request never changes, so its number stands for it.
impl PartialEq for WaiterPart {
    fn eq(&self, other: &Self) -> bool {
        (self.id, self.line, self.poll, self.patience)
            == (other.id, other.line, other.poll, other.patience)
            && (self.in_line, self.obstacle) == (other.in_line, other.obstacle)
    }
}

fn left(until: Now, now: Now) -> Option<Duration> {
    (until != Now::NEVER).then(|| until.since(now))
}

fn until(left: Option<Duration>, now: Now) -> Now {
    left.map_or(Now::NEVER, |left| now.after(left))
}

/// Whose request a waiter is. `None` if its open is gone.
pub(crate) fn waiter_client(d: &Document, waiter: &Waiter) -> Option<ClientId> {
    match &waiter.ask {
        KeptAsk::Open(r) => Some(r.actor.client),
        KeptAsk::Io(r) => Some(r.actor.client),
        KeptAsk::OwnedRange(r) => Some(r.actor.client),
        KeptAsk::Move { actor, .. } => Some(actor.client),
        KeptAsk::Ranges(r) => d.opens.get(r.open.id).map(|o| o.claim.client),
        KeptAsk::OpenIo { open, .. } => d.opens.get(open.id).map(|o| o.claim.client),
    }
}

impl DocumentState {
    /// Which document.
    #[must_use]
    pub fn document(&self) -> u64 {
        self.document
    }

    /// Nobody has or wants anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.opens.is_empty()
            && self.grants.is_empty()
            && self.line.is_empty()
            && self.doomed.is_empty()
            && self.answers.is_empty()
    }

    /// The same but for this answer; `None` if nothing is left.
    pub(crate) fn without_answer(mut self, ticket: Option<Ticket>) -> Option<DocumentState> {
        self.answers.retain(|(number, _)| Some(*number) != ticket);
        (!self.is_empty()).then_some(self)
    }

    /// The opens whose holders are told of breaks and losses, with their clients.
    pub fn heard_opens(&self) -> impl Iterator<Item = (OpenRef, ClientId)> + '_ {
        let heard = self.opens.iter().filter(|o| o.has_sink);
        heard.map(|o| (self.open_ref(o.stream, o.id), o.claim.client))
    }

    /// True if the two say the same but for the time that is left of something.
    #[must_use]
    pub fn same_but_for_time(&self, other: &DocumentState) -> bool {
        self.timeless() == other.timeless()
    }

    fn timeless(&self) -> DocumentState {
        let mut state = self.clone();
        for open in &mut state.opens {
            open.ends_in = open.ends_in.map(|_| Duration::ZERO);
        }
        for breaking in state.grants.iter_mut().filter_map(|g| g.breaking.as_mut()) {
            breaking.ends_in = Duration::ZERO;
        }
        for waiter in &mut state.line {
            waiter.patience = waiter.patience.map(|_| Duration::ZERO);
            waiter.poll = waiter.poll.map(|_| Duration::ZERO);
        }
        state
    }

    fn open_ref(&self, stream: u32, id: OpenId) -> OpenRef {
        OpenRef {
            resource: ResourceId {
                document: self.document,
                stream,
            },
            id,
        }
    }

    /// What these clients have and want; `None` if nothing.
    pub(crate) fn of(
        d: &Document,
        now: Now,
        keep: &dyn Fn(ClientId) -> bool,
    ) -> Option<DocumentState> {
        let opens: Vec<OpenPart> = d
            .opens
            .iter()
            .filter(|o| keep(o.claim.client))
            .map(|o| open_part(o, now))
            .collect();
        let mut state = DocumentState {
            document: d.id,
            ranges: range_parts(d, keep),
            owners: owner_parts(d, keep),
            grants: grant_parts(d, now, &opens, keep),
            doomed: Vec::new(),
            told: d.told.iter().copied().filter(|(_, c)| keep(*c)).collect(),
            line: waiter_parts(d, now, keep),
            next_line: d.next_line,
            answers: d.answers.of(keep),
            opens,
        };
        let told_by_others = |stream: u32| d.told.iter().any(|(s, c)| *s == stream && !keep(*c));
        let may_keep = |stream: u32| {
            let has = |o: &OpenPart| {
                o.claim.kind == ClaimKind::Open && (stream == 0 || o.stream == stream)
            };
            state.told.iter().any(|(s, _)| *s == stream) || state.opens.iter().any(has)
        };
        let doomed = d.doomed.iter().copied();
        state.doomed = doomed
            .filter(|s| !told_by_others(*s) && may_keep(*s))
            .collect();
        (!state.is_empty()).then_some(state)
    }

    /// Puts everything into a document, without checks; what is there already stays as it is.
    pub(crate) fn merge_into(
        self,
        d: &mut Document,
        env: &mut Env,
        sinks: &dyn Fn(OpenRef) -> Option<Arc<dyn CacheSink>>,
    ) {
        let known: Vec<OpenId> = d.opens.iter().map(|o| o.id).collect();
        let (document, now) = (d.id, env.now);
        let sink_of = |stream, id| {
            let resource = ResourceId { document, stream };
            sinks(OpenRef { resource, id })
        };
        for part in self.opens {
            if known.contains(&part.id) {
                continue;
            }
            let sink = part
                .has_sink
                .then(|| sink_of(part.stream, part.id))
                .flatten();
            if let Some(left) = part.ends_in {
                env.set_timer(now.after(left), document, Due::Open(part.id));
            }
            d.opens.insert(part.into_open(now, sink));
        }
        for part in self.ranges {
            let Some(open) = part.held.party.open else {
                continue;
            };
            if !known.contains(&open) && d.opens.get(open).is_some() {
                d.range_set_mut(part.stream)
                    .insert_aged(part.held, part.age);
            }
        }
        for (stream, client, owner, open) in self.owners {
            if d.opens.get(open).is_some() {
                d.ranges_mut().owners.insert((stream, client, owner), open);
            }
        }
        for part in self.grants {
            merge_grant(d, env, part, &sink_of);
        }
        for stream in self.doomed {
            if !d.doomed.contains(&stream) {
                d.doomed.push(stream);
            }
        }
        for told in self.told {
            if !d.told.contains(&told) {
                d.told.push(told);
            }
        }
        for part in self.line {
            if !d.queue.iter().any(|w| w.id == part.id) {
                let waiter = part.into_waiter(env);
                set_waiter_timer(env, document, &waiter);
                d.queue.push(waiter);
            }
        }
        for (ticket, answer) in self.answers {
            d.answers.keep(ticket, answer);
            env.set_timer(now.after(ANSWER_KEPT), document, Due::Answer(ticket));
        }
        d.queue.sort_by_key(|w| (w.line, w.id));
        d.next_line = d.next_line.max(self.next_line);
    }
}

fn open_part(open: &Open, now: Now) -> OpenPart {
    OpenPart {
        id: open.id,
        stream: open.stream,
        claim: open.claim,
        share: open.share,
        holder: Arc::clone(&open.holder),
        has_sink: open.sink.is_some(),
        grant: open.grant,
        weighty: open.weighty,
        touches_ranges: open.touches_ranges,
        ends_in: open.until.map(|until| until.since(now)),
        disconnected: open.disconnected,
    }
}

impl OpenPart {
    fn into_open(self, now: Now, sink: Option<Arc<dyn CacheSink>>) -> Open {
        Open {
            id: self.id,
            stream: self.stream,
            claim: self.claim,
            share: self.share,
            holder: self.holder,
            sink,
            grant: self.grant,
            weighty: self.weighty,
            touches_ranges: self.touches_ranges,
            until: self.ends_in.map(|left| now.after(left)),
            disconnected: self.disconnected,
        }
    }
}

fn range_parts(d: &Document, keep: &dyn Fn(ClientId) -> bool) -> Vec<RangePart> {
    let sets = d.ranges.iter().flat_map(|r| r.by_stream.iter());
    let parts = sets.flat_map(|(stream, set)| {
        // By its open, which may have got another client since.
        let kept = set.aged().filter(|(_, held)| {
            let open = held.party.open.and_then(|id| d.opens.get(id));
            open.is_some_and(|o| keep(o.claim.client))
        });
        kept.map(|(age, held)| RangePart {
            stream: *stream,
            held: *held,
            age,
        })
    });
    parts.collect()
}

fn owner_parts(
    d: &Document,
    keep: &dyn Fn(ClientId) -> bool,
) -> Vec<(u32, ClientId, RangeOwner, OpenId)> {
    let owners = d.ranges.iter().flat_map(|r| r.owners.iter());
    let mut parts: Vec<_> = owners
        .filter(|((_, client, _), _)| keep(*client))
        .map(|((stream, client, owner), open)| (*stream, *client, *owner, *open))
        .collect();
    parts.sort_unstable();
    parts
}

fn grant_parts(
    d: &Document,
    now: Now,
    opens: &[OpenPart],
    keep: &dyn Fn(ClientId) -> bool,
) -> Vec<GrantPart> {
    let kept = |g: &&Grant| match g.key {
        GrantKey::Delegation(client) => keep(client),
        _ => opens
            .iter()
            .any(|o| o.stream == g.stream && o.grant == Some(g.key)),
    };
    let parts = d.grants.iter().filter(kept).map(|g| GrantPart {
        key: g.key,
        stream: g.stream,
        state: g.state,
        breaking: g.breaking.map(|b| BreakPart {
            then: b.then,
            to: b.to,
            ends_in: b.deadline.since(now),
        }),
        epoch: g.epoch,
        v2: g.v2,
        speaker: g.speaker,
        holder: Arc::clone(&g.holder),
    });
    parts.collect()
}

/// Puts a grant in, or, if parts of one lease come from several nodes, the rights that all of them know.
fn merge_grant(
    d: &mut Document,
    env: &mut Env,
    part: GrantPart,
    sink_of: &dyn Fn(u32, OpenId) -> Option<Arc<dyn CacheSink>>,
) {
    let (stream, key) = (part.stream, part.key);
    let members = || {
        let opens = d.opens.iter();
        opens.filter(move |o| o.stream == stream && o.grant == Some(key))
    };
    let (mut opens, mut weighty, mut connected) = (0, 0, 0);
    for open in members() {
        opens += 1;
        weighty += u32::from(open.weighty);
        connected += u32::from(!open.disconnected);
    }
    if opens == 0 && !matches!(key, GrantKey::Delegation(_)) {
        return;
    }
    let speaker = members()
        .filter(|o| !o.disconnected)
        .find(|o| o.id == part.speaker)
        .or_else(|| members().filter(|o| !o.disconnected).min_by_key(|o| o.id))
        .map_or(part.speaker, |o| o.id);
    let sink = members()
        .find(|o| o.id == speaker)
        .and_then(|o| o.sink.clone())
        .or_else(|| sink_of(stream, speaker))
        .unwrap_or_else(|| Arc::new(Nobody));
    let at = match d.grants.position(stream, key) {
        Some(at) => {
            if let Some(state) = d.grants.at(at).map(|g| g.state)
                && state != part.state
            {
                d.grants.settle(at, state.common(part.state).valid());
            }
            at
        }
        None => d.grants.insert(Grant {
            key,
            stream,
            state: part.state,
            breaking: None,
            epoch: part.epoch,
            v2: part.v2,
            opens: 0,
            weighty: 0,
            connected: 0,
            sink: Arc::clone(&sink),
            speaker,
            holder: part.holder,
        }),
    };
    if let Some(grant) = d.grants.at_mut(at) {
        (grant.opens, grant.weighty, grant.connected) = (opens, weighty, connected);
        (grant.speaker, grant.sink) = (speaker, sink);
    }
    if let Some(breaking) = part.breaking {
        let deadline = env.now.after(breaking.ends_in);
        let (then, to) = (breaking.then, breaking.to);
        d.grants.set_breaking(at, Breaking { then, to, deadline });
        env.set_timer(deadline, d.id, Due::Break { stream, key });
    }
}

fn waiter_parts(d: &Document, now: Now, keep: &dyn Fn(ClientId) -> bool) -> Vec<WaiterPart> {
    let kept = d
        .queue
        .iter()
        .filter(|w| waiter_client(d, w).is_some_and(keep));
    let parts = kept.map(|w| WaiterPart {
        id: w.id,
        line: w.line,
        ask: w.ask.clone(),
        poll: match w.style {
            Style::Poll { lapse } => Some(lapse.since(now)),
            Style::Hold | Style::HoldUntil(_) | Style::Away { .. } => None,
        },
        stream: w.stream,
        range: w.range,
        patience: left(w.deadline, now),
        in_line: w.in_line,
        obstacle: w.obstacle,
        holder: Arc::clone(&w.holder),
    });
    parts.collect()
}

impl WaiterPart {
    fn into_waiter(self, env: &Env) -> Waiter {
        let ask = self.ask.as_ask();
        let style = match self.poll {
            Some(left) => Style::Poll {
                lapse: env.now.after(left),
            },
            None => Style::Away {
                lapse: env.now.after(env.options.poll_lapse),
            },
        };
        Waiter {
            id: self.id,
            line: self.line,
            style,
            key: poll_key(ask),
            claim: ask_claim(ask),
            stream: self.stream,
            range: self.range,
            deadline: until(self.patience, env.now),
            in_line: self.in_line,
            obstacle: self.obstacle,
            holder: self.holder,
            ask: self.ask,
        }
    }
}

/// Hears for a grant whose holder's node has not said who does.
struct Nobody;

impl CacheSink for Nobody {
    fn on_break(&self, _: &BreakNotice) {}
    fn on_revoked(&self, _: OpenRef, _: RevokeReason, _: Closed) {}
    fn on_cache_revoked(&self, _: ResourceId, _: GrantKey, _: RevokeReason) {}
}
