//! Replays the scenario files in `testdata/`: every line is a command, what follows as `> ` is what the table must say.
//!
//! Set `SLUICE_SCENARIOS=write` to write what the table says into the files; then read the difference.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use words::{
    Args, access, byte_range, cache_request, cache_state, called_back, deletion, duration, flag,
    io_kind, on_conflict, resource, show_entry, value,
};

use crate::cache_grant::{BreakNotice, CacheRequest, CacheSink, GrantKey, RevokeReason};
use crate::env::Effect;
use crate::obstacle::{Ask, Granted};
use crate::outcome::{Closed, Denial};
use crate::range::ByteRange;
use crate::request::{
    IoRequest, OpenRequest, OwnedRangeRequest, PlaceRequest, RangeLock, RangeOwner, RangeRequest,
    StatOpen, Writers,
};
use crate::table::{Answer, LockTable};
use crate::types::{Actor, Now, OpenRef, Protocol, ResourceId, ShareMode, WaiterId};

#[path = "../../testdata/words.rs"]
mod words;

/// What the holders were told, in order.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl CacheSink for Told {
    fn on_break(&self, notice: &BreakNotice) {
        self.0.lock().push(called_back(notice));
    }
    fn on_revoked(&self, _: OpenRef, reason: RevokeReason, closed: Closed) {
        self.0
            .lock()
            .push(format!("open revoked: {reason:?}{}", deletion(closed)));
    }
    fn on_cache_revoked(&self, _: ResourceId, _: GrantKey, reason: RevokeReason) {
        self.0.lock().push(format!("cache revoked: {reason:?}"));
    }
}

pub(super) struct World {
    table: LockTable,
    now: Now,
    clients: HashMap<String, Actor>,
    opens: HashMap<String, OpenRef>,
    /// Who waits, and under which name an open that it gets is known.
    waiters: HashMap<WaiterId, String>,
    sinks: Vec<(String, Arc<Told>)>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            table: LockTable::new(super::options(), 1, 1),
            now: Now(0),
            clients: HashMap::new(),
            opens: HashMap::new(),
            waiters: HashMap::new(),
            sinks: Vec::new(),
        }
    }

    fn client(&self, name: &str) -> Actor {
        self.clients
            .get(name)
            .unwrap_or_else(|| panic!("unknown client {name}"))
            .clone()
    }

    fn opened(&self, name: &str) -> OpenRef {
        *self
            .opens
            .get(name)
            .unwrap_or_else(|| panic!("no open {name}"))
    }

    /// One command; gives what it and its effects say.
    pub(super) fn run(&mut self, line: &str) -> Vec<String> {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let args: Args<'_> = words.collect();
        let mut out = Vec::new();
        match command {
            "client" => self.add_client(&args),
            "open" => out.push(self.open(&args)),
            "close" => out.push(self.close(&args)),
            "io" => out.push(self.open_io(&args)),
            "read" | "write" | "truncate" | "setattr" => out.push(self.plain_io(command, &args)),
            "done-writing" => {
                let client = self.client(args[0]).client;
                self.table
                    .release_place(self.now, resource(args[1]), client);
            }
            "rename" => out.push(self.rename(&args)),
            "lock" => out.push(self.lock(&args)),
            "unlock" => out.push(self.unlock(&args)),
            "nfs-lock" => out.push(self.nfs_lock(&args)),
            "nfs-unlock" => self.nfs_unlock(&args),
            "nfs-test" => out.push(self.nfs_test(&args)),
            "answer" => out.push(self.answer(&args)),
            "delete-pending" => {
                let set = self.table.set_delete_pending(
                    self.now,
                    self.opened(args[0]),
                    !flag(&args, "off"),
                );
                out.push(format!("{set:?}"));
            }
            "deleted" => self.table.deleted(self.now, resource(args[0])),
            "disconnect" => {
                let keep = duration(value(&args, "keep").expect("keep="));
                out.push(format!(
                    "{:?}",
                    self.table.disconnect(self.now, self.opened(args[0]), keep)
                ));
            }
            "kept" => {
                let holder = crate::listing::left_holder("gw9");
                let (document, keep) = (resource(args[0]).document, duration(args[1]));
                self.table
                    .keep_for_reclaim(self.now, document, &holder, keep);
            }
            "reclaim" => out.push(self.reclaim(&args)),
            "break-lock" => {
                out.push(format!(
                    "released: {}",
                    self.table
                        .force_release(self.now, self.opened(args[0]).id.0)
                ));
            }
            "after" => {
                self.now = self.now.after(duration(args[0]));
                self.table.tick(self.now);
            }
            "show" => out.extend(self.show(args[0])),
            other => panic!("unknown command {other}"),
        }
        out.extend(self.effects());
        out
    }

    fn add_client(&mut self, args: &Args<'_>) {
        let protocol = match args[1] {
            "smb" => Protocol::Smb,
            "nfs3" => Protocol::Nfs3,
            "nfs4" => Protocol::Nfs4,
            "ftp" => Protocol::Ftp,
            other => panic!("unknown protocol {other}"),
        };
        let number = u64::try_from(self.clients.len()).expect("few clients") + 1;
        self.clients
            .insert(args[0].to_owned(), super::actor(protocol, number, args[0]));
    }

    fn open(&mut self, args: &Args<'_>) -> String {
        let (name, client) = (args[0], args[1]);
        let does = access(value(args, "for").unwrap_or("read"));
        let mut request = OpenRequest::new(resource(args[2]), self.client(client), does);
        request.share = ShareMode::sharing(access(value(args, "sharing").unwrap_or("all")));
        request.on_conflict = on_conflict(args);
        request.overwrite = flag(args, "overwrite");
        request.touches_ranges = flag(args, "transfer");
        request.stat = match value(args, "stat") {
            Some("attributes") => StatOpen::Attributes,
            Some("security") => StatOpen::ReadControl,
            _ => StatOpen::No,
        };
        request.writers = match value(args, "writers") {
            Some("exclusive") => Writers::Exclusive,
            Some("shared") => Writers::Shared,
            _ => Writers::Native,
        };
        request.cache = cache_request(client, args);
        request.sink = (request.cache != CacheRequest::None).then(|| self.sink(name));
        let answer = self.table.request(self.now, Ask::Open(&request), None);
        self.say(name, answer)
    }

    fn sink(&mut self, name: &str) -> Arc<dyn CacheSink> {
        let told = Arc::new(Told::default());
        self.sinks.push((name.to_owned(), Arc::clone(&told)));
        told
    }

    fn say(&mut self, name: &str, answer: Answer) -> String {
        match answer {
            Answer::Wait(waiter) => {
                self.waiters.insert(waiter, name.to_owned());
                String::from("waits")
            }
            Answer::Now(outcome) => self.outcome(name, outcome),
        }
    }

    fn outcome(&mut self, name: &str, outcome: Result<Granted, Denial>) -> String {
        match outcome {
            Ok(Granted::Opened(opened)) => {
                self.opens.insert(name.to_owned(), opened.open);
                let mut text = String::from("granted");
                if !opened.cache.state.is_empty() {
                    let _ = write!(text, " with {} cache", opened.cache.state);
                }
                if opened.cache.break_in_progress {
                    text.push_str(", being called back");
                }
                text
            }
            Ok(Granted::Done) => String::from("granted"),
            Err(Denial::Retry(conflict)) => format!("retry later: {conflict}"),
            Err(denial) => format!("denied: {denial}"),
        }
    }

    fn close(&mut self, args: &Args<'_>) -> String {
        let open = self.opened(args[0]);
        let closed = self.table.close(self.now, open, flag(args, "deleting"));
        format!("closed{}", deletion(closed))
    }

    fn open_io(&mut self, args: &Args<'_>) -> String {
        let ask = Ask::OpenIo {
            open: self.opened(args[0]),
            kind: io_kind(args[1], args.get(2)),
        };
        let answer = self.table.request(self.now, ask, None);
        self.say(args[0], answer)
    }

    fn plain_io(&mut self, command: &str, args: &Args<'_>) -> String {
        let request = IoRequest {
            resource: resource(args[1]),
            actor: self.client(args[0]),
            kind: io_kind(command, args.get(2)),
            place: (command == "write" && !flag(args, "no-place")).then_some(PlaceRequest {
                idle: Duration::from_secs(2),
            }),
            on_conflict: on_conflict(args),
            nfs_ranges_mandatory: flag(args, "ranges-bind-nfs"),
        };
        let answer = self.table.request(self.now, Ask::Io(&request), None);
        self.say(args[0], answer)
    }

    fn rename(&mut self, args: &Args<'_>) -> String {
        let open = value(args, "open").map(|name| self.opened(name).id);
        let actor = self.client(args[0]);
        let answer = self.table.request(
            self.now,
            Ask::Move {
                resource: resource(args[1]),
                actor: &actor,
                open,
            },
            None,
        );
        self.say(args[0], answer)
    }

    fn lock(&mut self, args: &Args<'_>) -> String {
        let exclusive = args[1] == "exclusive";
        let ranges = args[2].split(',').map(|r| RangeLock {
            range: byte_range(r),
            exclusive,
        });
        let request = RangeRequest {
            open: self.opened(args[0]),
            locks: ranges.collect(),
            on_conflict: on_conflict(args),
        };
        let answer = self.table.request(self.now, Ask::Ranges(&request), None);
        self.say(args[0], answer)
    }

    fn unlock(&mut self, args: &Args<'_>) -> String {
        match self
            .table
            .unlock(self.now, self.opened(args[0]), byte_range(args[1]))
        {
            Ok(()) => String::from("unlocked"),
            Err(error) => error.to_string(),
        }
    }

    fn owned(&self, args: &Args<'_>) -> OwnedRangeRequest {
        let (client, owner) = args[0].split_once('/').expect("client/owner");
        OwnedRangeRequest {
            resource: resource(args[1]),
            actor: self.client(client),
            owner: RangeOwner(owner.parse().expect("an owner number")),
            lock: RangeLock {
                range: byte_range(args[3]),
                exclusive: args[2] == "exclusive",
            },
            on_conflict: on_conflict(args),
            reclaim: flag(args, "reclaim"),
        }
    }

    fn nfs_lock(&mut self, args: &Args<'_>) -> String {
        let request = self.owned(args);
        let answer = self
            .table
            .request(self.now, Ask::OwnedRange(&request), None);
        self.say(args[0], answer)
    }

    fn nfs_unlock(&mut self, args: &Args<'_>) {
        let (client, owner) = args[0].split_once('/').expect("client/owner");
        let owner = owner.parse().ok().map(RangeOwner);
        let range = args.get(2).map_or(ByteRange::WHOLE, |r| byte_range(r));
        let client = self.client(client).client;
        self.table
            .unlock_owned(self.now, resource(args[1]), client, owner, range);
    }

    fn nfs_test(&mut self, args: &Args<'_>) -> String {
        match self.table.test_owned(&self.owned(args)) {
            None => String::from("free"),
            Some(held) => format!(
                "held by {}, bytes {}, owner {}",
                held.holder, held.range, held.owner.0
            ),
        }
    }

    fn answer(&mut self, args: &Args<'_>) -> String {
        let open = self.opened(args[0]);
        let state = self.table.state(open);
        let Some(key) = state.and_then(|s| s.grant) else {
            return String::from("no cache");
        };
        match self
            .table
            .acknowledge(self.now, open.resource, key, cache_state(args[1]))
        {
            Ok(state) => format!("keeps {state}"),
            Err(error) => error.to_string(),
        }
    }

    fn reclaim(&mut self, args: &Args<'_>) -> String {
        let actor = self.client(args[1]);
        let sink = self.sink(args[0]);
        let reclaimed = self
            .table
            .reclaim(self.now, self.opened(args[0]), actor, Some(sink));
        self.outcome(args[0], reclaimed.map(Granted::Opened))
    }

    fn effects(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        for effect in self.table.take_effects() {
            match effect {
                Effect::Answer { waiter, outcome } => {
                    let name = self.waiters.remove(&waiter).expect("a known waiter");
                    let text = self.outcome(&name, outcome);
                    out.push(format!("{name}: {text}"));
                }
                Effect::Break { sink, notice } => sink.on_break(&notice),
                Effect::Revoked {
                    sink,
                    open,
                    reason,
                    closed,
                } => sink.on_revoked(open, reason, closed),
                Effect::CacheRevoked {
                    sink,
                    resource,
                    grant,
                    reason,
                } => {
                    sink.on_cache_revoked(resource, grant, reason);
                }
                Effect::LeaseUnused { .. } => {}
            }
            for (name, told) in &self.sinks {
                out.extend(
                    told.0
                        .lock()
                        .drain(..)
                        .map(|text| format!("{name}: {text}")),
                );
            }
        }
        out
    }

    fn show(&self, document: &str) -> Vec<String> {
        let id = resource(document).document;
        let Some(d) = self.table.document(id) else {
            return vec![String::from("nothing")];
        };
        let entries = crate::listing::entries(d, self.now, None);
        entries.iter().map(show_entry).collect()
    }
}

/// Runs one file; gives the file as the table would write it.
fn replay(text: &str) -> String {
    let mut world = World::new();
    let mut out = String::new();
    for line in text.lines() {
        if line.starts_with("> ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if line == "---" {
            world = World::new();
        } else if !line.is_empty() && !line.starts_with('#') {
            for said in world.run(line) {
                let _ = writeln!(out, "> {said}");
            }
        }
    }
    out
}

#[test]
fn scenario_files_hold() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("testdata")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 8, "scenario files are missing");
    let write = std::env::var("SLUICE_SCENARIOS").is_ok_and(|v| v == "write");
    for path in files {
        let expected = std::fs::read_to_string(&path).expect("scenario file");
        let said = replay(&expected);
        if write {
            std::fs::write(&path, &said).expect("scenario file written");
        } else {
            for (number, (said, expected)) in said.lines().zip(expected.lines()).enumerate() {
                assert_eq!(said, expected, "{}:{}", path.display(), number + 1);
            }
            assert_eq!(
                said.lines().count(),
                expected.lines().count(),
                "{}",
                path.display()
            );
        }
    }
}
