//! Nodes over one repository, with links that can be stopped by hand.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::{OnceLock, Weak};

use sluice_lockmgr::{MemberEpoch, MemberId};
use sluice_repo::{
    AttributeChange, CaseMode, LastLink, NameRef, NewKind, NewNode, ROOT, Replace, Result,
};
use sluice_repo_sqlite::{Options, SqliteRepository};
use sluice_repo_suite::{Fault, FaultyRepository};

use super::*;

const EXACT: CaseMode = CaseMode::Sensitive;
const NOT_YET: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Seat {
    core: OnceLock<Weak<Coherent>>,
    /// A member, as the others see it.
    live: AtomicBool,
    /// Its process stands still: notes wait.
    stopped: AtomicBool,
    /// Sure of its lease.
    acts: AtomicBool,
    mail: Mutex<VecDeque<(Member, Note)>>,
}

/// The links of all nodes.
struct Town {
    seats: Vec<Seat>,
    moved: tokio::sync::Notify,
    notes: AtomicUsize,
}

struct Link(Arc<Town>, usize);

fn member(node: usize) -> Member {
    Member {
        id: MemberId(node as u32 + 1),
        epoch: MemberEpoch(1),
    }
}

impl Town {
    /// Hands over what waits, in order, if the node runs.
    fn deliver(&self, to: usize) {
        let seat = &self.seats[to];
        let mut mail = seat.mail.lock();
        while !seat.stopped.load(Ordering::SeqCst)
            && let Some((from, note)) = mail.pop_front()
        {
            let (Some(core), Note::Metadata { bytes }) =
                (seat.core.get().and_then(Weak::upgrade), note)
            else {
                continue;
            };
            core.noted(from, &bytes);
        }
        drop(mail);
        self.moved.notify_waiters();
    }

    fn live(&self, but: usize) -> Vec<usize> {
        let live = |node: &usize| *node != but && self.seats[*node].live.load(Ordering::SeqCst);
        (0..self.seats.len()).filter(live).collect()
    }

    fn tell_members(&self) {
        for (node, seat) in self.seats.iter().enumerate() {
            let others: Vec<Member> = self.live(node).into_iter().map(member).collect();
            if let Some(core) = seat.core.get().and_then(Weak::upgrade)
                && seat.live.load(Ordering::SeqCst)
            {
                core.members(&others);
            }
        }
    }

    fn join(&self, node: usize) {
        self.seats[node].live.store(true, Ordering::SeqCst);
        self.seats[node].acts.store(true, Ordering::SeqCst);
        self.tell_members();
    }

    /// The others have seen it out of the database.
    fn fence(&self, node: usize) {
        self.seats[node].live.store(false, Ordering::SeqCst);
        self.tell_members();
        self.moved.notify_waiters();
    }

    fn stop(&self, node: usize, stopped: bool) {
        self.seats[node].stopped.store(stopped, Ordering::SeqCst);
        self.deliver(node);
    }
}

#[async_trait]
impl Others for Link {
    fn may_read_copies(&self) -> bool {
        self.0.seats[self.1].acts.load(Ordering::SeqCst)
    }

    fn announce(&self, note: Note) {
        for other in self.0.live(self.1) {
            let letter = (member(self.1), note.clone());
            self.0.seats[other].mail.lock().push_back(letter);
            self.0.deliver(other);
        }
    }

    async fn announce_to_readers(&self, note: Note) {
        self.announce_all(note).await;
    }

    async fn announce_all(&self, note: Note) {
        self.0.notes.fetch_add(1, Ordering::SeqCst);
        let others = self.0.live(self.1);
        self.announce(note);
        for other in others {
            loop {
                let moved = self.0.moved.notified();
                let seat = &self.0.seats[other];
                let done = seat.mail.lock().is_empty() || !seat.live.load(Ordering::SeqCst);
                if done {
                    break;
                }
                let _ = tokio::time::timeout(Duration::from_millis(5), moved).await;
            }
        }
    }
}

struct World {
    town: Arc<Town>,
    nodes: Vec<CoherentRepository>,
    faults: Arc<FaultyRepository>,
    _folder: tempfile::TempDir,
}

impl World {
    /// Nodes of which the first `live` take part.
    async fn with(count: usize, live: usize) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let sqlite = SqliteRepository::open(Options::new(folder.path().join("meta.db")));
        let faults = Arc::new(FaultyRepository::new(Arc::new(
            sqlite.await.expect("opens"),
        )));
        let town = Arc::new(Town {
            seats: (0..count).map(|_| Seat::default()).collect(),
            moved: tokio::sync::Notify::new(),
            notes: AtomicUsize::new(0),
        });
        let mut nodes = Vec::new();
        for node in 0..count {
            let link = Arc::new(Link(town.clone(), node));
            let counts = Arc::default();
            let core = Coherent::new(faults.clone(), link, CancellationToken::new(), counts);
            let _ = town.seats[node].core.set(Arc::downgrade(&core));
            nodes.push(CoherentRepository(core));
        }
        let world = World {
            town,
            nodes,
            faults,
            _folder: folder,
        };
        for node in 0..live {
            world.town.join(node);
        }
        for node in 0..live {
            world.caching(node).await;
        }
        world
    }

    async fn caching(&self, node: usize) {
        while !self.nodes[node].0.stripes.is_open() {
            tokio::task::yield_now().await;
        }
    }

    fn hits(&self, node: usize) -> u64 {
        self.nodes[node].0.counts.hits.load(Ordering::Relaxed)
    }

    async fn make(&self, node: usize, name: &str) -> NodeId {
        let made = self.nodes[node].create(ROOT, name, EXACT, file()).await;
        made.expect("made").attributes.id
    }

    /// What a node says of a name, whether it said so from its cache.
    async fn look(&self, node: usize, name: &str) -> (Option<NodeId>, bool) {
        let before = self.hits(node);
        let found = self.nodes[node].lookup(ROOT, name, EXACT).await;
        let found = match found {
            Ok(found) => Some(found.attributes.id),
            Err(RepoError::NotFound) => None,
            Err(error) => panic!("{error}"),
        };
        (found, self.hits(node) > before)
    }

    async fn release_all(&self) {
        for node in &self.nodes {
            node.0.holds.give_up_idle(Duration::ZERO);
        }
    }
}

fn file() -> NewNode {
    sluice_repo_suite::new_node(NewKind::File { content: None })
}

fn mode(mode: u32) -> AttributeChange {
    AttributeChange {
        mode: Some(mode),
        ..AttributeChange::default()
    }
}

async fn unlink(node: &CoherentRepository, name: &str, id: Option<NodeId>) -> Result<()> {
    let entry = NameRef {
        parent: ROOT,
        name,
        node: id,
    };
    node.unlink(entry, LastLink::Delete).await.map(|_| ())
}

async fn rename(node: &CoherentRepository, from: &str, to: &str) {
    let entry = NameRef {
        parent: ROOT,
        name: from,
        node: None,
    };
    let moved = node.rename(entry, ROOT, to, EXACT, Replace::No).await;
    moved.expect("renamed");
}

#[tokio::test]
async fn what_one_node_changes_the_other_sees_at_once_although_it_had_cached_it() {
    let world = World::with(2, 2).await;
    let (a, b) = (&world.nodes[0], &world.nodes[1]);
    assert_eq!(world.look(1, "f").await, (None, false));
    assert_eq!(world.look(1, "f").await, (None, true));
    let f = world.make(0, "f").await;
    assert_eq!(world.look(1, "f").await.0, Some(f));
    world.release_all().await;
    world.look(1, "f").await;
    assert_eq!(world.look(1, "f").await, (Some(f), true));
    a.set_attributes(f, mode(0o600), None).await.expect("set");
    assert_eq!(b.get(f).await.expect("there").mode, 0o600);
    assert_eq!(b.acl(f).await.expect("none"), None);
    let acl = Arc::new(sluice_repo::Acl::default());
    let set = a.set_acl(f, Some(acl.clone()), mode(0o640)).await;
    set.expect("set");
    assert_eq!(b.acl(f).await.expect("one"), Some(acl));
    world.release_all().await;
    assert_eq!(b.path_of(f).await.expect("named").len(), 1);
    rename(a, "f", "g").await;
    assert_eq!(&*b.path_of(f).await.expect("named")[0].1, "g");
    assert_eq!(world.look(1, "f").await.0, None);
    assert_eq!(world.look(1, "g").await.0, Some(f));
    world.release_all().await;
    world.look(1, "g").await;
    unlink(a, "g", None).await.expect("gone");
    assert_eq!(world.look(1, "g").await.0, None);
    assert!(matches!(b.get(f).await, Err(RepoError::Stale(_))));
}

#[tokio::test]
async fn without_the_announcement_the_other_node_would_show_the_old_state() {
    let world = World::with(2, 2).await;
    world.nodes[0].0.reckless.store(true, Ordering::Relaxed);
    world.look(1, "f").await;
    let f = world.make(0, "f").await;
    assert_eq!(world.look(1, "f").await, (None, true));
    assert_eq!(world.look(0, "f").await.0, Some(f));
}

#[tokio::test]
async fn what_was_read_before_a_change_is_not_cached_after_it() {
    let world = World::with(2, 2).await;
    let core = &world.nodes[1].0;
    let ticket = core.miss();
    let read = world.faults.lookup(ROOT, "f", EXACT).await;
    assert!(matches!(read, Err(RepoError::NotFound)));
    let f = world.make(0, "f").await;
    world.release_all().await;
    // The slow reader comes in now with what it has read.
    core.keep_found(ROOT, "f", EXACT, None, ticket);
    assert_eq!(world.look(1, "f").await, (Some(f), false));
    assert_eq!(world.look(1, "f").await, (Some(f), true));
}

#[tokio::test]
async fn a_stopped_node_is_waited_for_or_fenced_and_then_reads_nothing_old() {
    let world = Arc::new(World::with(3, 3).await);
    world.look(1, "f").await;
    world.town.stop(1, true);
    let making = world.clone();
    let mut making = tokio::spawn(async move { making.make(0, "f").await });
    let early = tokio::time::timeout(NOT_YET, &mut making).await;
    assert!(
        early.is_err(),
        "nobody knows whether it still shows what it had"
    );
    assert_eq!(world.look(2, "f").await.0, None, "not changed yet");
    world.town.stop(1, false);
    let f = making.await.expect("made");
    assert_eq!(world.look(1, "f").await.0, Some(f));
    // Again; now it does not come back before it is fenced.
    world.release_all().await;
    world.look(1, "f").await;
    assert_eq!(world.look(1, "f").await, (Some(f), true));
    world.town.stop(1, true);
    let removing = world.clone();
    let mut removing = tokio::spawn(async move { unlink(&removing.nodes[0], "f", Some(f)).await });
    let early = tokio::time::timeout(NOT_YET, &mut removing).await;
    assert!(early.is_err());
    world.town.seats[1].acts.store(false, Ordering::SeqCst);
    world.town.fence(1);
    removing.await.expect("no panic").expect("removed");
    assert_eq!(
        world.look(1, "f").await,
        (None, false),
        "by its clock it is fenced"
    );
    assert_eq!(world.look(2, "f").await.0, None);
}

#[tokio::test]
async fn a_new_node_caches_only_when_the_others_know_and_hears_what_they_change() {
    let world = World::with(3, 2).await;
    let f = world.make(0, "f").await;
    // Still held: a second change goes out to nobody.
    world.town.stop(1, true);
    world.town.join(2);
    tokio::time::sleep(NOT_YET).await;
    assert!(!world.nodes[2].0.stripes.is_open());
    world.look(2, "f").await;
    assert_eq!(world.look(2, "f").await, (Some(f), false));
    world.town.stop(1, false);
    world.caching(2).await;
    world.look(2, "f").await;
    assert_eq!(
        world.look(2, "f").await,
        (Some(f), false),
        "the first holds it"
    );
    let asked = world.town.notes.load(Ordering::SeqCst);
    unlink(&world.nodes[0], "f", Some(f)).await.expect("gone");
    assert_eq!(world.look(2, "f").await.0, None);
    assert!(world.town.notes.load(Ordering::SeqCst) <= asked + 1);
}

#[tokio::test]
async fn a_new_node_tells_those_too_who_do_not_know_it_yet() {
    let world = World::with(2, 1).await;
    world.look(0, "f").await;
    assert_eq!(world.look(0, "f").await, (None, true));
    // It knows the first one; the first one has not looked at the members yet.
    for seat in [&world.town.seats[1].live, &world.town.seats[1].acts] {
        seat.store(true, Ordering::SeqCst);
    }
    world.nodes[1].0.members(&[member(0)]);
    let f = world.make(1, "f").await;
    assert_eq!(world.look(0, "f").await, (Some(f), false));
    world.town.tell_members();
    world.caching(0).await;
    unlink(&world.nodes[1], "f", Some(f)).await.expect("gone");
    assert_eq!(world.look(0, "f").await.0, None);
}

#[tokio::test]
async fn changes_of_what_is_held_cost_no_message_and_others_cache_again_after_it() {
    let world = World::with(2, 2).await;
    for name in 0..40 {
        world.make(0, &format!("n{name}")).await;
    }
    let counts = &world.nodes[0].0.counts;
    let (asked, unasked) = (
        counts.asked.load(Ordering::Relaxed),
        counts.unasked.load(Ordering::Relaxed),
    );
    assert!(asked <= 6 && asked + unasked == 40, "{asked} {unasked}");
    let other = world.nodes[1].get(ROOT).await.expect("root");
    assert_eq!(other, world.nodes[0].get(ROOT).await.expect("root"));
    assert!(world.nodes[0].0.holds.len() > 40);
    world.release_all().await;
    assert_eq!(world.nodes[0].0.holds.len(), 0);
    world.look(1, "n7").await;
    assert!(world.look(1, "n7").await.1);
}

#[tokio::test]
async fn a_change_without_an_answer_may_come_late_so_nothing_is_cached_there_any_more() {
    let world = World::with(2, 2).await;
    let f = world.make(0, "f").await;
    world.faults.inject("set_attributes", 0, Fault::LostReply);
    let lost = world.nodes[0].set_attributes(f, mode(0o600), None).await;
    assert!(matches!(lost, Err(RepoError::Unavailable(_))));
    world.release_all().await;
    for node in [1, 0, 1, 0] {
        let before = world.hits(node);
        let seen = world.nodes[node].get(f).await.expect("there");
        assert_eq!(seen.mode, 0o600);
        assert_eq!(world.hits(node), before);
    }
}

#[tokio::test]
async fn a_document_with_changes_in_memory_is_settled_on_no_other_node() {
    let world = World::with(2, 2).await;
    let f = world.make(0, "f").await;
    world.release_all().await;
    let b = &world.nodes[1];
    b.get(f).await.expect("there");
    assert!(b.0.settled(f).is_some());
    let pin = world.nodes[0].0.pin(f).await.expect("pinned");
    let second = pin.clone();
    drop(pin);
    world.release_all().await;
    b.get(f).await.expect("there");
    assert!(b.0.settled(f).is_none());
    drop(second);
    world.release_all().await;
    b.get(f).await.expect("there");
    assert!(b.0.settled(f).is_some());
}

#[tokio::test]
async fn a_repair_makes_all_nodes_forget() {
    let world = World::with(2, 2).await;
    world.look(1, "f").await;
    world.nodes[0].check(true).await.expect("checked");
    assert_eq!(world.look(1, "f").await, (None, false));
    assert_eq!(world.look(1, "f").await, (None, true));
}

/// One name that comes and goes: what is known of its states, counted from 0 (there is none) by twos.
#[derive(Default)]
struct Story {
    /// The last state that was acknowledged, and the last one that was begun.
    acked: AtomicU64,
    begun: AtomicU64,
    /// State in which a node was made.
    made: Mutex<HashMap<NodeId, u64>>,
    /// change_id of the root after the last acknowledged change.
    root: AtomicU64,
    wrong: AtomicUsize,
}

/// Changes by one node, looks by all, at once; how many looks showed something older than acknowledged.
async fn stress(reckless: bool) -> usize {
    let world = Arc::new(World::with(3, 3).await);
    if reckless {
        world.nodes[0].0.reckless.store(true, Ordering::Relaxed);
    }
    let story = Arc::new(Story::default());
    let stop = CancellationToken::new();
    let mut readers = Vec::new();
    for node in [0, 1, 2, 1] {
        let (world, story, stop) = (world.clone(), story.clone(), stop.clone());
        readers.push(tokio::spawn(async move {
            while !stop.is_cancelled() {
                look_once(&world, &story, node).await;
                tokio::task::yield_now().await;
            }
        }));
    }
    let (faults, noise) = (world.clone(), stop.clone());
    let noise = tokio::spawn(async move {
        let mut round = 0u32;
        while !noise.is_cancelled() {
            round += 1;
            faults.release_all().await;
            faults.town.stop(1, round.is_multiple_of(3));
            tokio::time::sleep(Duration::from_micros(700)).await;
        }
        faults.town.stop(1, false);
    });
    let writer = &world.nodes[0];
    for turn in 0..400u64 {
        let state = turn + 1;
        story.begun.store(state, Ordering::SeqCst);
        if turn.is_multiple_of(2) {
            let new = writer.create(ROOT, "f", EXACT, file()).await.expect("made");
            story.made.lock().insert(new.attributes.id, state);
            story.root.fetch_max(new.parent.change_id, Ordering::SeqCst);
        } else {
            unlink(writer, "f", None).await.expect("gone");
        }
        story.acked.store(state, Ordering::SeqCst);
    }
    stop.cancel();
    for reader in readers {
        reader.await.expect("no panic");
    }
    noise.await.expect("no panic");
    story.wrong.load(Ordering::Relaxed)
}

async fn look_once(world: &World, story: &Story, node: usize) {
    let floor = story.acked.load(Ordering::SeqCst);
    let root_floor = story.root.load(Ordering::SeqCst);
    let (found, _) = world.look(node, "f").await;
    let root = world.nodes[node].get(ROOT).await.expect("root");
    let ceiling = story.begun.load(Ordering::SeqCst);
    let right = match found {
        // Made, and not acknowledged yet: newer than anything that was.
        Some(id) => story.made.lock().get(&id).is_none_or(|made| *made >= floor),
        None => floor.is_multiple_of(2) || ceiling > floor,
    };
    if !right || root.change_id < root_floor {
        story.wrong.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_look_shows_less_than_was_acknowledged_before_it() {
    assert_eq!(stress(false).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_without_announcements_is_found_out() {
    assert!(stress(true).await > 0);
}
