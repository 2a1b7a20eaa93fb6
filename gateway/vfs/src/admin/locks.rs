//! The lock table for people: lists, explanations, forced release; and who is connected.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use sluice_lockmgr as lm;
use sluice_repo::{CaseMode, ContentId, NodeId, RepoError};

use super::{
    Admin, AdminError, AdminResult, LockExplanation, LockQuery, LockRecord, SessionRecord,
};
use crate::identity::Protocol;
use crate::listing::{rfc3339, rfc3339_ms, span_words, unix_ms};
use crate::path::RelPath;
use crate::policy::{Decision, on_conflict_word};

/// Ids of names that do not exist yet have this bit; they lead nowhere in the repository.
const NAME_BIT: u64 = 1 << 63;

/// A document or folder found by share and path.
pub(super) struct Located {
    /// The node.
    pub(super) node: NodeId,
    /// Share and path, as stored.
    pub(super) path: String,
}

impl Admin {
    /// Every open, byte range, cache grant, writer's place and waiter that matches.
    pub async fn locks(&self, query: LockQuery) -> AdminResult<Vec<LockRecord>> {
        let below = match &query.path {
            Some(path) => Some(match self.locate(path).await {
                Ok(located) => located.path,
                // A name that an upload has reserved is not there yet.
                Err(AdminError::NotFound(_)) => format!("/{}", path.trim_matches('/')),
                Err(other) => return Err(other),
            }),
            None => None,
        };
        let entries = self.inner.locks.list(&lm::ListFilter::default()).await;
        let mut paths = HashMap::new();
        let mut records = Vec::new();
        for entry in &entries {
            let record = self.record(entry, &mut paths).await;
            let within = below
                .as_deref()
                .is_none_or(|top| lies_in(&record.path, top));
            if within {
                records.push(record);
            }
            if query.limit != 0 && records.len() >= query.limit {
                break;
            }
        }
        Ok(records)
    }

    /// Who holds a document (`docs/a/b.txt`, share first) and who waits for whom.
    pub async fn explain_locks(&self, path: &str) -> AdminResult<LockExplanation> {
        let (path, entries) = match self.locate(path).await {
            Ok(located) => {
                let mut paths = HashMap::new();
                let mut entries = Vec::new();
                // The list asks; the lock service's own explanation would bring the document's state together first.
                let all = self.inner.locks.list(&lm::ListFilter::default()).await;
                let document = located.node.0;
                for entry in all.iter().filter(|e| e.resource.document == document) {
                    entries.push(self.record(entry, &mut paths).await);
                }
                (located.path, entries)
            }
            Err(missing @ AdminError::NotFound(_)) => {
                let query = LockQuery {
                    path: Some(path.to_owned()),
                    limit: 0,
                };
                let entries = self.locks(query).await?;
                if entries.is_empty() {
                    return Err(missing);
                }
                (format!("/{}", path.trim_matches('/')), entries)
            }
            Err(other) => return Err(other),
        };
        let mut sentences = Vec::new();
        if entries.is_empty() {
            sentences.push(format!("Nobody has {path} open and nobody waits for it."));
        }
        sentences.extend(entries.iter().map(sentence));
        sentences.extend(self.newcomers(&path, &entries));
        Ok(LockExplanation {
            path,
            entries,
            sentences,
        })
    }

    /// Takes an open, place or range away from its holder; `why` goes to the log. Returns what was taken.
    pub async fn break_lock(&self, id: u64, why: &str) -> AdminResult<LockRecord> {
        let gone = || AdminError::NotFound(format!("there is no lock with the id {id}"));
        let entries = self.inner.locks.list(&lm::ListFilter::default()).await;
        let entry = entries
            .iter()
            .find(|entry| entry.id == id)
            .ok_or_else(gone)?;
        if entry.kind == lm::EntryKind::Waiter {
            return Err(AdminError::Invalid(format!(
                "{id} is a waiter: break what it waits for"
            )));
        }
        let record = self.record(entry, &mut HashMap::new()).await;
        if !self.inner.locks.force_release(lm::OpenId(id)).await {
            return Err(gone());
        }
        tracing::warn!(
            id,
            path = record.path,
            user = record.user,
            client = record.client,
            protocol = record.protocol,
            why,
            "lock broken by an administrator"
        );
        Ok(record)
    }

    /// Clients that are connected (SMB, FTP) or known (NFS).
    pub async fn sessions(&self) -> AdminResult<Vec<SessionRecord>> {
        let locks = &self.inner.locks;
        let mut sessions = Vec::new();
        for client in self.inner.clients.list() {
            let held = locks
                .list(&lm::ListFilter {
                    client: Some(lm::ClientId(client.id.0)),
                    ..lm::ListFilter::default()
                })
                .await;
            let opens = held
                .iter()
                .filter(|e| e.kind == lm::EntryKind::Open)
                .count();
            sessions.push(SessionRecord {
                id: client.id.0,
                protocol: client.protocol.name().to_owned(),
                users: client.users(),
                client: client.address.to_canonical().to_string(),
                client_name: client.name.clone(),
                node: self.inner.node.to_string(),
                since: rfc3339(client.since()),
                opens: opens as u64,
            });
        }
        Ok(sessions)
    }

    /// Finds what a path with the share first means.
    pub(super) async fn locate(&self, path: &str) -> AdminResult<Located> {
        let invalid = |why| AdminError::Invalid(format!("the path {path}: {why}"));
        let parsed = RelPath::parse(path, '/').map_err(invalid)?;
        let Some((share, rest)) = parsed.components().split_first() else {
            return Err(AdminError::Invalid(
                "the path must begin with a share: /docs/a/b.txt".to_owned(),
            ));
        };
        let directory = self.inner.records.fresh().await?;
        let Some(share) = directory.share(share) else {
            return Err(AdminError::NotFound(format!("there is no share {share}")));
        };
        let (mut node, mut told) = (share.root, format!("/{}", share.name));
        for name in rest {
            let missing = || AdminError::NotFound(format!("there is no {name} in {told}"));
            // The exact name first, whatever the share's case policy: a person may type it either way.
            let found = self
                .inner
                .repo
                .lookup(node, name, CaseMode::Insensitive)
                .await;
            let found = found.map_err(|error| match error {
                RepoError::NotFound | RepoError::NotDirectory => missing(),
                other => other.into(),
            })?;
            node = found.attributes.id;
            told = format!("{told}/{}", found.name);
        }
        Ok(Located { node, path: told })
    }

    async fn record(
        &self,
        entry: &lm::Entry,
        paths: &mut HashMap<lm::ResourceId, Option<String>>,
    ) -> LockRecord {
        let known = match paths.entry(entry.resource) {
            Slot::Occupied(known) => known.get().clone(),
            Slot::Vacant(free) => free.insert(self.path_of(entry.resource).await).clone(),
        };
        let holder = &entry.holder;
        LockRecord {
            id: entry.id,
            kind: kind_word(entry.kind).to_owned(),
            path: known.unwrap_or_else(|| holder.path.clone()),
            what: what(entry),
            protocol: Protocol::from(holder.protocol).name().to_owned(),
            user: holder.user.clone(),
            client: holder.address.clone(),
            client_name: holder.client_name.clone(),
            node: holder.node.clone(),
            since: rfc3339_ms(holder.since_unix_ms),
            age_ms: u64::try_from(unix_ms().saturating_sub(holder.since_unix_ms)).unwrap_or(0),
            rule: holder.rule.clone().unwrap_or_else(|| "default".to_owned()),
            disconnected: entry.disconnected,
            waits_for: entry
                .waits_for
                .as_ref()
                .map(|conflict| conflict.to_string()),
            ends_in_ms: entry.ends_in_ms,
            freed_by: entry.freed_by.clone(),
        }
    }

    /// Share and path of a resource; `None` if it has no name (any more) or lies in no share.
    async fn path_of(&self, resource: lm::ResourceId) -> Option<String> {
        if resource.document & NAME_BIT != 0 {
            return None;
        }
        let node = NodeId(resource.document);
        let place = self.inner.repo.path_of(node).await.ok()?;
        let directory = self.inner.records.current();
        // The folder at a place is named by the entry above it; the share whose root lies deepest says most.
        let mut ids: Vec<NodeId> = place.iter().map(|(folder, _)| *folder).collect();
        ids.push(node);
        let (depth, share) = ids.iter().enumerate().rev().find_map(|(depth, id)| {
            let share = directory.shares().iter().find(|share| share.root == *id)?;
            Some((depth, share))
        })?;
        let mut path = format!("/{}", share.name);
        for (_, name) in place.get(depth..).unwrap_or_default() {
            path = format!("{path}/{name}");
        }
        if resource.stream != 0 {
            let content = ContentId {
                node,
                stream: resource.stream,
            };
            path = format!("{path}:{}", self.stream_name(content).await?);
        }
        Some(path)
    }

    async fn stream_name(&self, content: ContentId) -> Option<String> {
        let streams = self.inner.repo.streams(content.node).await.ok()?;
        let stream = streams.into_iter().find(|s| s.stream == content.stream)?;
        Some(stream.name)
    }

    /// What a writer of each protocol would be told now if it came to a document that somebody holds against writers.
    fn newcomers(&self, path: &str, entries: &[LockRecord]) -> Vec<String> {
        let against = |entry: &&LockRecord| {
            entry.what.contains("denies") && entry.what.contains("write") && entry.kind != "waiter"
        };
        let Some(holder) = entries.iter().find(against) else {
            return Vec::new();
        };
        let Some((share, inside)) = path.trim_start_matches('/').split_once('/') else {
            return Vec::new();
        };
        let directory = self.inner.records.current();
        let share = directory.share(share);
        let rules = share.and_then(|share| directory.policy.of_share(share.id));
        let told = [Protocol::Smb, Protocol::Nfs3, Protocol::Ftp].map(|protocol| {
            let query = crate::policy::Query {
                protocol,
                user: "",
                groups: &[],
                client: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
                path: inside,
            };
            let decision = rules.map_or_else(
                || Decision::default_of(protocol),
                |rules| crate::policy::evaluate(&rules.rules, &query),
            );
            format!(
                "{} {}",
                protocol.name(),
                on_conflict_word(decision.on_conflict.value)
            )
        });
        vec![format!(
            "Another writer meets {} user {}; by the policy: {}.",
            holder.protocol,
            holder.user,
            told.join(", ")
        )]
    }
}

fn lies_in(path: &str, top: &str) -> bool {
    path.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':']))
}

fn kind_word(kind: lm::EntryKind) -> &'static str {
    match kind {
        lm::EntryKind::Open => "open",
        lm::EntryKind::Place => "place",
        lm::EntryKind::Range => "range",
        lm::EntryKind::Cache => "cache",
        lm::EntryKind::Waiter => "waiter",
    }
}

fn what(entry: &lm::Entry) -> String {
    let mut told = match entry.kind {
        lm::EntryKind::Range => {
            let how = if entry.exclusive {
                "exclusive"
            } else {
                "shared"
            };
            let bytes = entry.range.unwrap_or(lm::ByteRange::WHOLE);
            format!("{how} lock on bytes {bytes}")
        }
        lm::EntryKind::Cache => {
            let rights = entry.cache.unwrap_or_default();
            match entry.breaking_to {
                Some(to) => format!("caches {rights}, called back to {to}"),
                None => format!("caches {rights}"),
            }
        }
        lm::EntryKind::Open | lm::EntryKind::Place | lm::EntryKind::Waiter => {
            let verb = if entry.kind == lm::EntryKind::Waiter {
                "wants "
            } else {
                ""
            };
            let access = if entry.access.is_empty() {
                "attributes only".to_owned()
            } else {
                entry.access.to_string()
            };
            if entry.denies.is_empty() {
                format!("{verb}{access}")
            } else {
                format!("{verb}{access}, denies {}", entry.denies)
            }
        }
    };
    if entry.disconnected {
        told.push_str(", disconnected");
    }
    if entry.delete_pending {
        told.push_str(", to be deleted");
    }
    told
}

fn sentence(record: &LockRecord) -> String {
    let name = if record.client_name.is_empty() {
        String::new()
    } else {
        format!(" ({})", record.client_name)
    };
    let who = format!(
        "{} user {} from {}{name} on node {}",
        record.protocol, record.user, record.client, record.node
    );
    let rule = match record.rule.as_str() {
        "default" => "the default policy".to_owned(),
        rule => format!("rule {rule}"),
    };
    let age = span_words(record.age_ms);
    match (&record.waits_for, record.kind.as_str()) {
        (Some(conflict), _) => {
            let ends = record.ends_in_ms.map_or(String::new(), |ms| {
                format!(", for at most another {}", span_words(ms))
            });
            format!(
                "{who} has waited for {age} ({}) under {rule}{ends}, because {conflict}.",
                record.what
            )
        }
        (None, kind) => format!(
            "{kind} {}: {who}, for {age}: {}. {}",
            record.id, record.what, record.freed_by
        ),
    }
}
