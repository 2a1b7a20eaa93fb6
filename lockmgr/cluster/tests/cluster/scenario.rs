//! The scenario files of the lock table, with the parties spread over three nodes: the same answers as from one table.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluice_lockmgr::{
    Actor, BreakAck, BreakNotice, ByteRange, CacheRequest, CacheSink, Closed, Denial, GrantKey,
    IoRequest, LeftLocks, LockService, Member, MemberEpoch, MemberId, OpenRef, OpenRequest, Opened,
    OwnedRangeRequest, PlaceRequest, Protocol, RangeLock, RangeOwner, RangeRequest, ResourceId,
    RevokeReason, ShareMode, StatOpen, Writers,
};
use sluice_lockmgr_cluster::locks::ClusterLocks;
use sluice_lockmgr_cluster::membership::{ClusterEvent, ClusterHandler};

use words::{
    Args, access, byte_range, cache_request, cache_state, called_back, deletion, duration, flag,
    io_kind, on_conflict, resource, show_entry, value,
};

use crate::net::{Cluster, actor};

#[path = "../../../testdata/words.rs"]
mod words;

/// What holders and waiters were told, in order.
type Log = Arc<Mutex<Vec<String>>>;

struct Told {
    name: String,
    log: Log,
}

impl Told {
    fn say(&self, text: &str) {
        self.log.lock().push(format!("{}: {text}", self.name));
    }
}

impl CacheSink for Told {
    fn on_break(&self, notice: &BreakNotice) {
        self.say(&called_back(notice));
    }
    fn on_revoked(&self, _: OpenRef, reason: RevokeReason, closed: Closed) {
        self.say(&format!("open revoked: {reason:?}{}", deletion(closed)));
    }
    fn on_cache_revoked(&self, _: ResourceId, _: GrantKey, reason: RevokeReason) {
        self.say(&format!("cache revoked: {reason:?}"));
    }
}

type Opens = Arc<Mutex<HashMap<String, OpenRef>>>;

struct World {
    cluster: Cluster,
    /// Client, and its node.
    clients: HashMap<String, (Actor, usize)>,
    opens: Opens,
    /// On which node an open's client is.
    nodes: HashMap<String, usize>,
    log: Log,
    spread: usize,
}

fn refused(denial: &Denial) -> String {
    match denial {
        Denial::Retry(conflict) => format!("retry later: {conflict}"),
        denial => format!("denied: {denial}"),
    }
}

fn done(result: Result<(), Denial>) -> String {
    result.map_or_else(|d| refused(&d), |()| String::from("granted"))
}

fn granted(opens: &Opens, name: &str, result: Result<Opened, Denial>) -> String {
    match result {
        Ok(opened) => {
            opens.lock().insert(name.to_owned(), opened.open);
            let mut text = String::from("granted");
            if !opened.cache.state.is_empty() {
                let _ = write!(text, " with {} cache", opened.cache.state);
            }
            if opened.cache.break_in_progress {
                text.push_str(", being called back");
            }
            text
        }
        Err(denial) => refused(&denial),
    }
}

impl World {
    fn new(spread: usize) -> Self {
        Self {
            cluster: Cluster::new(3),
            clients: HashMap::new(),
            opens: Opens::default(),
            nodes: HashMap::new(),
            log: Log::default(),
            spread,
        }
    }

    fn client(&self, name: &str) -> (Actor, ClusterLocks) {
        let (actor, at) = self.clients.get(name).expect("a known client");
        (actor.clone(), self.cluster.nodes[*at].locks.clone())
    }

    fn opened(&self, name: &str) -> (OpenRef, ClusterLocks) {
        let open = *self.opens.lock().get(name).expect("a known open");
        (open, self.cluster.nodes[self.nodes[name]].locks.clone())
    }

    /// Makes a call; what it says now, or later if it waits.
    async fn say(
        &mut self,
        name: &str,
        call: impl Future<Output = String> + Send + 'static,
    ) -> String {
        let answer = Arc::new(Mutex::new(None));
        let (log, slot, name) = (Arc::clone(&self.log), Arc::clone(&answer), name.to_owned());
        let waits = Arc::new(Mutex::new(false));
        let waiting = Arc::clone(&waits);
        tokio::spawn(async move {
            let said = call.await;
            if *waiting.lock() {
                log.lock().push(format!("{name}: {said}"));
            } else {
                *slot.lock() = Some(said);
            }
        });
        self.cluster.settle().await;
        let said = answer.lock().take();
        said.unwrap_or_else(|| {
            *waits.lock() = true;
            String::from("waits")
        })
    }

    async fn run(&mut self, line: &str) -> Vec<String> {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let args: Args<'_> = words.collect();
        let mut out = Vec::new();
        match command {
            "client" => self.add_client(&args),
            "open" => out.push(self.open(&args).await),
            "io" => {
                let (open, locks) = self.opened(args[0]);
                let kind = io_kind(args[1], args.get(2));
                let call = async move { done(locks.io(open, kind).await) };
                out.push(self.say(args[0], call).await);
            }
            "read" | "write" | "truncate" | "setattr" => {
                out.push(self.plain_io(command, &args).await);
            }
            "rename" => {
                let open = value(&args, "open").map(|name| self.opened(name).0);
                let (actor, locks) = self.client(args[0]);
                let resource = self.resource(args[1]);
                let call = async move {
                    done(locks.break_caches_before_move(resource, &actor, open).await)
                };
                out.push(self.say(args[0], call).await);
            }
            "lock" => out.push(self.lock(&args).await),
            "nfs-lock" => {
                let (request, locks) = self.owned(&args);
                let call = async move { done(locks.lock_owned(request).await) };
                out.push(self.say(args[0], call).await);
            }
            "reclaim" => {
                let (open, _) = self.opened(args[0]);
                let (actor, locks) = self.client(args[1]);
                self.nodes
                    .insert(args[0].to_owned(), self.clients[args[1]].1);
                let (sink, opens) = (self.sink(args[0]), Arc::clone(&self.opens));
                let name = args[0].to_owned();
                let call = async move {
                    granted(&opens, &name, locks.reclaim(open, actor, Some(sink)).await)
                };
                out.push(self.say(args[0], call).await);
            }
            "kept" => {
                let document = self.resource(args[0]).document;
                for node in &self.cluster.nodes {
                    node.locks.event(ClusterEvent::Left(LeftLocks {
                        member: Member {
                            id: MemberId(9),
                            epoch: MemberEpoch(9),
                        },
                        node: String::from("gw9"),
                        ends_in: duration(args[1]),
                        documents: vec![document],
                    }));
                }
            }
            "after" => self.cluster.after(duration(args[0])).await,
            "show" => out.extend(self.show(args[0]).await),
            _ => out.extend(self.at_once(command, &args).await),
        }
        out.extend(self.log.lock().drain(..));
        out
    }

    /// Commands that never wait.
    async fn at_once(&mut self, command: &str, args: &Args<'_>) -> Option<String> {
        let name = args[0];
        let text = match command {
            "close" => {
                let ((open, locks), deleting) = (self.opened(name), flag(args, "deleting"));
                let call = async move {
                    let closed = if deleting {
                        locks.close_deleting(open).await
                    } else {
                        locks.close(open).await
                    };
                    format!("closed{}", deletion(closed))
                };
                self.say(name, call).await
            }
            "unlock" => {
                let ((open, locks), range) = (self.opened(name), byte_range(args[1]));
                let call = async move {
                    let result = locks.unlock(open, range).await;
                    result.map_or_else(|e| e.to_string(), |()| String::from("unlocked"))
                };
                self.say(name, call).await
            }
            "nfs-test" => {
                let (request, locks) = self.owned(args);
                let call = async move {
                    match locks.test_owned(&request).await {
                        None => String::from("free"),
                        Some(held) => format!(
                            "held by {}, bytes {}, owner {}",
                            held.holder, held.range, held.owner.0
                        ),
                    }
                };
                self.say(name, call).await
            }
            "answer" => self.answer(args).await,
            "delete-pending" => {
                let ((open, locks), pending) = (self.opened(name), !flag(args, "off"));
                let call =
                    async move { format!("{:?}", locks.set_delete_pending(open, pending).await) };
                self.say(name, call).await
            }
            "disconnect" => {
                let keep = duration(value(args, "keep").expect("keep="));
                let (open, locks) = self.opened(name);
                let call = async move { format!("{:?}", locks.disconnect(open, keep).await) };
                self.say(name, call).await
            }
            "break-lock" => {
                let (open, _) = self.opened(name);
                let locks = self.cluster.nodes[1].locks.clone();
                let call =
                    async move { format!("released: {}", locks.force_release(open.id).await) };
                self.say(name, call).await
            }
            "done-writing" => {
                let (actor, locks) = self.client(name);
                let resource = self.resource(args[1]);
                let call = async move {
                    locks.release_place(resource, actor.client).await;
                    String::new()
                };
                self.say(name, call).await;
                return None;
            }
            "nfs-unlock" => {
                self.nfs_unlock(args).await;
                return None;
            }
            "deleted" => {
                let (resource, locks) = (resource(name), self.cluster.nodes[0].locks.clone());
                let call = async move {
                    locks.deleted(resource).await;
                    String::new()
                };
                self.say(name, call).await;
                return None;
            }
            other => panic!("unknown command {other}"),
        };
        Some(text)
    }

    fn resource(&mut self, text: &str) -> ResourceId {
        let resource = resource(text);
        self.cluster.give(resource.document, None);
        resource
    }

    fn add_client(&mut self, args: &Args<'_>) {
        let protocol = match args[1] {
            "smb" => Protocol::Smb,
            "nfs3" => Protocol::Nfs3,
            "nfs4" => Protocol::Nfs4,
            "ftp" => Protocol::Ftp,
            other => panic!("unknown protocol {other}"),
        };
        let count = self.clients.len();
        let at = (count + self.spread) % 3;
        let number = u64::try_from(count).expect("few clients") + 1;
        let actor = actor(at, protocol, number, args[0]);
        self.clients.insert(args[0].to_owned(), (actor, at));
    }

    async fn open(&mut self, args: &Args<'_>) -> String {
        let (name, client) = (args[0], args[1]);
        let does = access(value(args, "for").unwrap_or("read"));
        let resource = self.resource(args[2]);
        let (actor, locks) = self.client(client);
        let mut request = OpenRequest::new(resource, actor, does);
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
        self.nodes.insert(name.to_owned(), self.clients[client].1);
        let (opens, known) = (Arc::clone(&self.opens), name.to_owned());
        let call = async move { granted(&opens, &known, locks.open(request).await) };
        self.say(name, call).await
    }

    fn sink(&self, name: &str) -> Arc<dyn CacheSink> {
        Arc::new(Told {
            name: name.to_owned(),
            log: Arc::clone(&self.log),
        })
    }

    async fn plain_io(&mut self, command: &str, args: &Args<'_>) -> String {
        let resource = self.resource(args[1]);
        let (actor, locks) = self.client(args[0]);
        let request = IoRequest {
            resource,
            actor,
            kind: io_kind(command, args.get(2)),
            place: (command == "write" && !flag(args, "no-place")).then_some(PlaceRequest {
                idle: Duration::from_secs(2),
            }),
            on_conflict: on_conflict(args),
            nfs_ranges_mandatory: flag(args, "ranges-bind-nfs"),
        };
        let call = async move { done(locks.io_without_open(request).await) };
        self.say(args[0], call).await
    }

    async fn lock(&mut self, args: &Args<'_>) -> String {
        let exclusive = args[1] == "exclusive";
        let ranges = args[2].split(',').map(|r| RangeLock {
            range: byte_range(r),
            exclusive,
        });
        let (open, locks) = self.opened(args[0]);
        let request = RangeRequest {
            open,
            locks: ranges.collect(),
            on_conflict: on_conflict(args),
        };
        let call = async move { done(locks.lock(request).await) };
        self.say(args[0], call).await
    }

    fn owned(&mut self, args: &Args<'_>) -> (OwnedRangeRequest, ClusterLocks) {
        let (client, owner) = args[0].split_once('/').expect("client/owner");
        let resource = self.resource(args[1]);
        let (actor, locks) = self.client(client);
        let request = OwnedRangeRequest {
            resource,
            actor,
            owner: RangeOwner(owner.parse().expect("an owner number")),
            lock: RangeLock {
                range: byte_range(args[3]),
                exclusive: args[2] == "exclusive",
            },
            on_conflict: on_conflict(args),
            reclaim: flag(args, "reclaim"),
        };
        (request, locks)
    }

    async fn nfs_unlock(&mut self, args: &Args<'_>) {
        let (client, owner) = args[0].split_once('/').expect("client/owner");
        let owner = owner.parse().ok().map(RangeOwner);
        let range = args.get(2).map_or(ByteRange::WHOLE, |r| byte_range(r));
        let resource = self.resource(args[1]);
        let (actor, locks) = self.client(client);
        let call = async move {
            match owner {
                Some(owner) => {
                    locks
                        .unlock_owned(resource, actor.client, owner, range)
                        .await
                }
                None => locks.unlock_all_owned(resource, actor.client, None).await,
            }
            String::new()
        };
        self.say(args[0], call).await;
    }

    async fn answer(&mut self, args: &Args<'_>) -> String {
        let (open, locks) = self.opened(args[0]);
        let at = self.nodes[args[0]];
        let clients = self.clients.values();
        let delegate = clients.filter(|(_, n)| *n == at).map(|(a, _)| a.client);
        let delegates: Vec<_> = delegate.collect();
        let state = cache_state(args[1]);
        let call = async move {
            let Some(key) = locks.state(open).await.and_then(|s| s.grant) else {
                return String::from("no cache");
            };
            let resource = open.resource;
            let ack = match key {
                GrantKey::Oplock(_) => BreakAck::Oplock { open, state },
                GrantKey::Lease(lease) => BreakAck::Lease {
                    lease,
                    resource,
                    state,
                },
                GrantKey::Delegation(client) => {
                    assert!(delegates.contains(&client));
                    BreakAck::Delegation { client, resource }
                }
            };
            let result = locks.acknowledge_break(ack).await;
            result.map_or_else(|e| e.to_string(), |state| format!("keeps {state}"))
        };
        self.say(args[0], call).await
    }

    async fn show(&mut self, document: &str) -> Vec<String> {
        let id = self.resource(document).document;
        let locks = self.cluster.nodes[2].locks.clone();
        let entries = self.cluster.run(async move {
            locks
                .list(&sluice_lockmgr::ListFilter {
                    document: Some(id),
                    ..Default::default()
                })
                .await
        });
        let entries = entries.await.expect("an answer");
        if entries.is_empty() {
            return vec![String::from("nothing")];
        }
        entries.iter().map(show_entry).collect()
    }
}

/// What one command says: the answer first, then what others are told in any order.
fn in_order(mut said: Vec<String>) -> Vec<String> {
    if said.len() > 1 && !said[0].contains(": ") {
        said[1..].sort();
    } else {
        said.sort();
    }
    said
}

async fn replay(file: &str, text: &str, spread: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut world = World::new(spread);
    let lines: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let number = at + 1;
        at += 1;
        if line == "---" {
            world = World::new(spread);
        }
        if line == "---" || line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut expected = Vec::new();
        while let Some(said) = lines.get(at).and_then(|l| l.strip_prefix("> ")) {
            expected.push(said.to_owned());
            at += 1;
        }
        let said = in_order(world.run(line).await);
        let expected = in_order(expected);
        if said != expected {
            wrong.push(format!(
                "{file}:{number}: {line}\n  one table: {expected:?}\n  cluster:   {said:?}"
            ));
            // What follows is of another story now.
            while at < lines.len() && lines[at] != "---" {
                at += 1;
            }
        }
    }
    wrong
}

#[tokio::test]
async fn scenario_files_hold_with_the_parties_on_three_nodes() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("testdata")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 8, "scenario files are missing");
    let mut wrong = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("scenario file");
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        for spread in 0..3 {
            wrong.extend(replay(&name, &text, spread).await);
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differences:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
