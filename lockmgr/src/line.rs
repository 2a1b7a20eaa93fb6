//! What becomes of a request that can't be granted at once: refused, put in line, or told to retry; and the line's turns.
//!
//! Owns the order of waiters and their patience. Whether something stands in the way is decided in `document.rs`.

use crate::answers::keep_granted;
use crate::cache_grant::RevokeReason;
use crate::caches::Turn;
use crate::claims::ask_claim;
use crate::conflict::ClaimKind;
use crate::document::Document;
use crate::env::{Due, Effect, Env};
use crate::obstacle::{Ask, Granted, Obstacle, Verdict};
use crate::outcome::{Denial, WAITERS_LIMIT};
use crate::request::OnConflict;
use crate::table::Answer;
use crate::types::{Now, OpenId, Ticket, WaiterId};
use crate::wait_queue::{PollKey, Style, Waiter};

/// A place was idle for long enough, a disconnected open was not reclaimed, or what was kept for those who take locks again was
/// kept for long enough.
pub(crate) fn open_due(d: &mut Document, env: &mut Env, id: OpenId) {
    let Some(open) = d.opens.get(id) else { return };
    let Some(until) = open.until else { return };
    if until > env.now {
        env.set_timer(until, d.id, Due::Open(id));
    } else if open.disconnected {
        d.revoke_open(env, id, RevokeReason::ReclaimTimeout);
    } else if matches!(open.claim.kind, ClaimKind::Place | ClaimKind::RangeOpen) {
        // Neither holds a deletion back.
        let _ = d.end_open(env, id);
        d.dirty = true;
    }
}

/// A waiter's patience, its moment of being held, or its place may be over.
pub(crate) fn waiter_due(d: &mut Document, env: &mut Env, id: WaiterId) {
    let Some(at) = d.queue.iter().position(|w| w.id == id) else {
        return;
    };
    let over = d.queue.get(at).is_some_and(|w| w.deadline <= env.now);
    match d.queue.get(at).map(|w| w.style) {
        Some(Style::Poll { lapse } | Style::Away { lapse }) if lapse > env.now => {
            env.set_timer(lapse, d.id, Due::Waiter(id))
        }
        Some(Style::Poll { .. } | Style::Away { .. }) => {
            d.queue.remove(at);
            d.dirty = true;
        }
        // Looked at once more: granted, refused, or still waiting for a cache.
        Some(Style::Hold) => d.dirty |= over,
        Some(Style::HoldUntil(until)) => d.dirty |= over || until <= env.now,
        None => {}
    }
}

/// Decides a new request, or a retry of one that keeps a place in line.
pub(crate) fn decide(
    d: &mut Document,
    env: &mut Env,
    ask: Ask<'_>,
    ticket: Option<Ticket>,
) -> Answer {
    let mut queue = std::mem::take(&mut d.queue);
    let moved = ticket.and_then(|ticket| moved_place(&queue, ticket));
    let at = moved.or_else(|| place_in_line(&queue, ask));
    let earlier = &queue[..at.unwrap_or(queue.len())];
    let turn = if moved.is_some() {
        Turn::Again
    } else {
        Turn::First
    };
    let answer = match d.attempt(env, ask, earlier, turn) {
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
    if let Answer::Now(Ok(_)) = &answer {
        d.dirty |= has_waiter_of(&queue, ask);
    }
    d.queue = queue;
    answer
}

/// True if the client that was granted this stands in line with something else: who holds the document does not wait
/// behind others.
fn has_waiter_of(queue: &[Waiter], granted: Ask<'_>) -> bool {
    !queue.is_empty()
        && ask_claim(granted).is_some_and(|granted| {
            let mine = |w: &Waiter| w.claim.is_some_and(|c| c.client == granted.client);
            queue.iter().any(|w| w.in_line && mine(w))
        })
}

/// The place that an earlier try of this request keeps in line.
fn place_in_line(queue: &[Waiter], ask: Ask<'_>) -> Option<usize> {
    let key = poll_key(ask)?;
    queue
        .iter()
        .position(|w| w.key == Some(key) && matches!(w.style, Style::Poll { .. }))
}

/// The place of a request that waited in another table.
fn moved_place(queue: &[Waiter], ticket: Ticket) -> Option<usize> {
    queue
        .iter()
        .position(|w| w.id.0 == ticket.0 && matches!(w.style, Style::Away { .. }))
}

/// A request that waited in another table waits on in its old place.
fn wait_on(
    d: &Document,
    env: &mut Env,
    ask: Ask<'_>,
    obstacle: Obstacle,
    waiter: &mut Waiter,
) -> Answer {
    (waiter.style, waiter.obstacle) = (Style::Hold, obstacle);
    waiter.ask = ask.keep();
    set_waiter_timer(env, d.id, waiter);
    Answer::Wait(waiter.id)
}

/// What the policy makes of an obstacle. `recall`: a cache is being given back, which is waited for under any policy.
fn stand_in_line(
    d: &mut Document,
    env: &mut Env,
    ask: Ask<'_>,
    obstacle: Obstacle,
    queue: &mut Vec<Waiter>,
    at: Option<usize>,
    recall: bool,
) -> Answer {
    let moved = at
        .and_then(|at| queue.get_mut(at))
        .filter(|w| matches!(w.style, Style::Away { .. }));
    let over = moved.as_ref().is_some_and(|w| w.deadline <= env.now);
    let waits_on = match ask.on_conflict() {
        OnConflict::Reject => recall,
        OnConflict::Wait(_) => recall || !over,
        OnConflict::Poll(_) | OnConflict::PollHeld { .. } => false,
    };
    if let Some(waiter) = moved.filter(|_| waits_on) {
        return wait_on(d, env, ask, obstacle, waiter);
    }
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
        OnConflict::Wait(_) if over => return Answer::Now(Err(Denial::Conflict(conflict()))),
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
            waiter.ask = ask.keep();
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
    d: &mut Document,
    env: &mut Env,
    ask: Ask<'_>,
    obstacle: Obstacle,
    queue: &mut Vec<Waiter>,
    (deadline, in_line, style): (Now, bool, Style),
) -> Answer {
    if queue.len() >= env.options.waiters_max {
        return Answer::Now(Err(Denial::Limit(WAITERS_LIMIT)));
    }
    let id = WaiterId(env.request_id());
    d.next_line += 1;
    let range = match ask {
        Ask::Ranges(r) => r.locks.first().map(|lock| (*lock, Some(r.open.id))),
        Ask::OwnedRange(r) => Some((r.lock, d.range_open(r))),
        _ => None,
    };
    let waiter = Waiter {
        id,
        line: d.next_line,
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

pub(crate) fn set_waiter_timer(env: &mut Env, document: u64, waiter: &Waiter) {
    let at = match waiter.style {
        Style::Hold => waiter.deadline,
        Style::HoldUntil(until) => until,
        Style::Poll { lapse } | Style::Away { lapse } => lapse,
    };
    env.set_timer(at, document, Due::Waiter(waiter.id));
}

/// Looks at the whole line again, in order, until nothing changes.
pub(crate) fn poke(d: &mut Document, env: &mut Env) {
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
            if outcome.is_ok() && queue[at].ask.as_ask().takes_ranges() {
                keep_granted(d, env, waiter);
            }
            if outcome.is_ok() && at > 0 {
                d.dirty |= has_waiter_of(&queue[..at], queue[at].ask.as_ask());
            }
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
    if waiter.style.is_place() {
        return None;
    }
    let ask = waiter.ask.as_ask();
    env.set_ticket(Some(waiter.id.0));
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
pub(crate) fn poll_key(ask: Ask<'_>) -> Option<PollKey> {
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
