//! Puts the table's state in words: conflicts for refusals, entries for `locks list` and `locks explain` (invariant I9).

use std::sync::{Arc, LazyLock};

use crate::conflict::ClaimKind;
use crate::document::Document;
use crate::grant_set::Grant;
use crate::obstacle::Obstacle;
use crate::outcome::{Conflict, ConflictKind, Entry, EntryKind};
use crate::service::ListFilter;
use crate::shards::Shards;
use crate::share_mode::Open;
use crate::types::{Access, ClientId, Holder, Now, OpenId, Protocol};
use crate::wait_queue::{Style, Waiter};

/// What frees a document that is kept for those who take locks again.
const RECLAIM_ENDS: &str =
    "the time ends in which NFS clients may take the locks again that they lost with their node";

/// Where those are who may take again what they had: nobody knows. No client has it for an address.
const ANYWHERE: &str = "any client";

/// Who a document is kept for after `node`, through which clients had NFS locks on it, is gone.
pub(crate) fn left_holder(node: &str) -> Arc<Holder> {
    Arc::new(Holder {
        protocol: Protocol::Nfs3,
        user: String::from("unknown"),
        address: String::from(ANYWHERE),
        client_name: String::from(
            "kept for NFS clients that had locks through a node that is gone",
        ),
        node: node.to_owned(),
        path: String::new(),
        rule: None,
        since_unix_ms: 0,
    })
}

impl Holder {
    /// Whether nobody has it: it is kept for NFS clients that had locks through a node that is gone.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.protocol == Protocol::Nfs3 && self.address == ANYWHERE
    }
}

/// Stands for a holder that is gone before its name could be told.
pub(crate) fn nobody() -> Arc<Holder> {
    static NOBODY: LazyLock<Arc<Holder>> = LazyLock::new(|| {
        Arc::new(Holder {
            protocol: Protocol::Admin,
            user: String::from("unknown"),
            address: String::from("unknown"),
            client_name: String::new(),
            node: String::from("unknown"),
            path: String::new(),
            rule: None,
            since_unix_ms: 0,
        })
    });
    Arc::clone(&NOBODY)
}

/// The words for an obstacle. `queue` is the line of waiters, wherever it is kept just now.
pub(crate) fn conflict(d: &Document, obstacle: Obstacle, queue: &[Waiter]) -> Conflict {
    let mut words = Conflict {
        kind: ConflictKind::Queue,
        resource: d.resource(0),
        open: None,
        access: Access::NONE,
        denies: Access::NONE,
        range: None,
        exclusive: false,
        holder: nobody(),
    };
    match obstacle {
        Obstacle::Open { id, kind } => {
            words.kind = kind;
            name_open(&mut words, d, id);
        }
        Obstacle::Range {
            range,
            exclusive,
            party,
        } => {
            words.kind = ConflictKind::Range;
            (words.range, words.exclusive) = (Some(range), exclusive);
            if let Some(id) = party.open {
                name_open(&mut words, d, id);
            }
        }
        Obstacle::Grant { stream, key } => {
            words.kind = ConflictKind::CacheBreak;
            words.resource = d.resource(stream);
            if let Some(grant) = d.grants.find(stream, key) {
                words.holder = Arc::clone(&grant.holder);
                words.open = d
                    .opens
                    .iter()
                    .find(|o| o.stream == stream && o.grant == Some(key))
                    .map(|o| o.id);
            }
        }
        Obstacle::Waiter(id) => {
            if let Some(waiter) = queue.iter().find(|w| w.id == id) {
                words.resource = d.resource(waiter.stream);
                words.holder = Arc::clone(&waiter.holder);
                (words.access, words.denies) = waiter
                    .claim
                    .map_or_else(Default::default, |c| (c.access, c.denies));
            }
        }
    }
    words
}

fn name_open(words: &mut Conflict, d: &Document, id: OpenId) {
    words.open = Some(id);
    if let Some(open) = d.opens.get(id) {
        words.resource = d.resource(open.stream);
        (words.access, words.denies) = (open.claim.access, open.claim.denies);
        words.holder = Arc::clone(&open.holder);
    }
}

/// Everything about one document, oldest first, the waiters last in the order of their line.
pub(crate) fn entries(d: &Document, now: Now, client: Option<ClientId>) -> Vec<Entry> {
    let mine = |open: &&Open| client.is_none_or(|c| open.claim.client == c);
    let mut opens: Vec<&Open> = d.opens.iter().filter(mine).collect();
    opens.sort_by_key(|o| o.id);
    let mut entries: Vec<Entry> = opens.iter().map(|o| open_entry(d, o, now)).collect();
    let sets = d.ranges.iter().flat_map(|r| r.by_stream.iter());
    let mut sets: Vec<_> = sets.map(|(stream, set)| (stream, set)).collect();
    sets.sort_unstable_by_key(|(stream, _)| **stream);
    for (stream, set) in sets {
        let mut ranges: Vec<_> = set
            .iter()
            .filter(|h| client.is_none_or(|c| h.party.client == c))
            .collect();
        ranges.sort_by_key(|h| (h.range, h.party.open));
        for held in ranges {
            let Some(open) = held.party.open.and_then(|id| d.opens.get(id)) else {
                continue;
            };
            let mut entry = blank(EntryKind::Range, open.id.0, d, *stream, &open.holder);
            (entry.range, entry.exclusive) = (Some(held.range), held.exclusive);
            entry.freed_by = String::from(if open.claim.client == ClientId::LEFT {
                RECLAIM_ENDS
            } else {
                "the client unlocks it or closes the document"
            });
            entries.push(entry);
        }
    }
    for open in &opens {
        let grant = open.grant.and_then(|key| d.grants.find(open.stream, key));
        if let Some(grant) = grant.filter(|g| !g.state.is_empty()) {
            let entry = blank(EntryKind::Cache, open.id.0, d, open.stream, &open.holder);
            entries.push(grant_words(entry, grant, now));
        }
    }
    let alone = |g: &&Grant| g.opens == 0 && client.is_none();
    entries.extend(
        d.grants
            .iter()
            .filter(alone)
            .map(|g| grant_words(blank(EntryKind::Cache, 0, d, g.stream, &g.holder), g, now)),
    );
    let waits = |w: &&Waiter| client.is_none_or(|c| w.claim.is_some_and(|claim| claim.client == c));
    entries.extend(
        d.queue
            .iter()
            .filter(waits)
            .map(|w| waiter_entry(d, w, now)),
    );
    entries
}

fn blank(kind: EntryKind, id: u64, d: &Document, stream: u32, holder: &Arc<Holder>) -> Entry {
    Entry {
        kind,
        id,
        resource: d.resource(stream),
        holder: Arc::clone(holder),
        access: Access::NONE,
        denies: Access::NONE,
        range: None,
        exclusive: false,
        cache: None,
        breaking_to: None,
        disconnected: false,
        delete_pending: false,
        waits_for: None,
        ends_in_ms: None,
        freed_by: String::new(),
    }
}

fn ends_in(until: Now, now: Now) -> Option<u64> {
    (until != Now::NEVER).then(|| until.0.saturating_sub(now.0))
}

fn open_entry(d: &Document, open: &Open, now: Now) -> Entry {
    let place = open.claim.kind == ClaimKind::Place;
    let kind = if place {
        EntryKind::Place
    } else {
        EntryKind::Open
    };
    let mut entry = blank(kind, open.id.0, d, open.stream, &open.holder);
    (entry.access, entry.denies) = (open.claim.access, open.claim.denies);
    entry.disconnected = open.disconnected;
    entry.delete_pending = d.is_doomed(open.stream);
    entry.ends_in_ms = open.until.and_then(|until| ends_in(until, now));
    entry.freed_by = String::from(match (open.claim.kind, open.disconnected) {
        (_, true) => {
            "its client returns and closes it, its reclaim time ends, or somebody needs it"
        }
        (ClaimKind::Place, _) => "the client stops writing",
        (ClaimKind::RangeOpen, _) if open.claim.client == ClientId::LEFT => RECLAIM_ENDS,
        (ClaimKind::RangeOpen, _) => "the client unlocks its ranges",
        (ClaimKind::Open | ClaimKind::PlainIo, _) if open.touches_ranges => "the transfer ends",
        (ClaimKind::Open | ClaimKind::PlainIo, _) => "the client closes the document",
    });
    entry
}

fn grant_words(mut entry: Entry, grant: &Grant, now: Now) -> Entry {
    entry.cache = Some(grant.state);
    entry.freed_by = String::from("it is called back when another needs it");
    if let Some(breaking) = grant.breaking {
        entry.breaking_to = Some(breaking.to);
        entry.ends_in_ms = ends_in(breaking.deadline, now);
        entry.freed_by = String::from("the client answers the break, or its time ends");
    }
    entry
}

fn waiter_entry(d: &Document, waiter: &Waiter, now: Now) -> Entry {
    let mut entry = blank(
        EntryKind::Waiter,
        waiter.id.0,
        d,
        waiter.stream,
        &waiter.holder,
    );
    (entry.access, entry.denies) = waiter
        .claim
        .map_or_else(Default::default, |c| (c.access, c.denies));
    if let Some((lock, _)) = waiter.range {
        (entry.range, entry.exclusive) = (Some(lock.range), lock.exclusive);
    }
    let words = conflict(d, waiter.obstacle, &d.queue);
    entry.ends_in_ms = ends_in(waiter.deadline, now);
    entry.freed_by = match (waiter.style, stands(d, waiter.obstacle)) {
        (Style::Hold | Style::HoldUntil(_), _) => format!("granted when this ends: {words}"),
        (Style::Poll { .. }, true) => {
            format!("the client retries and is granted when this ends: {words}")
        }
        (Style::Away { .. }, _) => String::from("its node asks again after the document moved"),
        (Style::Poll { .. }, false) => String::from("its turn has come: the client has to retry"),
    };
    entry.waits_for = Some(Box::new(words));
    entry
}

/// True if what stood in a waiter's way is still there.
fn stands(d: &Document, obstacle: Obstacle) -> bool {
    match obstacle {
        Obstacle::Open { id, .. } => d.opens.get(id).is_some(),
        Obstacle::Range { party, .. } => party.open.is_some_and(|id| d.opens.get(id).is_some()),
        Obstacle::Grant { stream, key } => d
            .grants
            .find(stream, key)
            .is_some_and(|g| g.breaking.is_some()),
        Obstacle::Waiter(id) => d.queue.iter().any(|w| w.id == id),
    }
}

/// Everything that matches, in order of document and age.
pub(crate) fn list(shards: &Shards, filter: &ListFilter) -> Vec<Entry> {
    let mut found = Vec::new();
    if let Some(document) = filter.document {
        shards.with(document, |table, now| {
            let document = table.document(document).into_iter();
            found.extend(document.flat_map(|d| entries(d, now, filter.client)));
        });
    } else {
        shards.for_each(|table, now| {
            let full = filter.limit != 0 && found.len() >= filter.limit;
            if !full {
                let documents = table.documents();
                found.extend(documents.flat_map(|d| entries(d, now, filter.client)));
            }
        });
        found.sort_by_key(|e| e.resource.document);
    }
    if filter.limit != 0 {
        found.truncate(filter.limit);
    }
    found
}
