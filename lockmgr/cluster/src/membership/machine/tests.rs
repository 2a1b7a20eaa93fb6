//! The membership machines of several nodes against one registry in memory, step by step on clocks under control.

use std::collections::VecDeque;
use std::sync::Arc;

use sluice_lockmgr::{EpochRegistry, JoinRequest, LifeLock, Member, MemberState, SHARDS};

use super::*;
use crate::registry::{Door, MemoryRegistry};

const STEP: Ms = 20;

struct Node {
    name: &'static str,
    door: Arc<Door>,
    machine: Machine,
    life: Option<Box<dyn LifeLock>>,
    life_was_lost: bool,
    valid_until: Ms,
    events: Vec<ClusterEvent>,
    others: Vec<Output>,
    inputs: VecDeque<Input>,
    hinted: Option<(u64, u64)>,
    open: Vec<Member>,
    connected: Vec<Member>,
    paused: bool,
    alive: bool,
}

impl Node {
    fn valid(&self, now: Ms) -> bool {
        self.alive && now < self.valid_until
    }

    fn heard(&self, event: &ClusterEvent) -> bool {
        self.events.contains(event)
    }

    fn lost(&self) -> bool {
        self.heard(&ClusterEvent::Lost)
    }
}

/// All nodes on one clock (differences of clocks are the registry's business), the registry on another.
struct World {
    now: Ms,
    registry: MemoryRegistry,
    nodes: Vec<Node>,
    /// Pairs of node numbers that can't connect and get a refusal.
    cut: Vec<(usize, usize)>,
}

impl World {
    fn new() -> Self {
        Self {
            now: 1_000_000,
            registry: MemoryRegistry::new(Duration::from_secs(6)),
            nodes: Vec::new(),
            cut: Vec::new(),
        }
    }

    async fn with_nodes(names: &[&'static str]) -> Self {
        let mut world = Self::new();
        for name in names {
            world.join(name).await;
        }
        world.run(4000).await;
        for node in &world.nodes {
            assert_eq!(node.machine.phase(), Phase::Live, "{}", node.name);
        }
        world
    }

    async fn join(&mut self, name: &'static str) -> usize {
        let door = self.registry.door();
        let request = JoinRequest {
            name: name.into(),
            advertise: name.into(),
            version: String::new(),
        };
        let joined = door.join(&request).await.unwrap();
        self.nodes.push(Node {
            name,
            machine: Machine::new(
                joined.member,
                name.into(),
                Timing::for_lease(Duration::from_secs(6)),
                self.now,
            ),
            door,
            life: Some(joined.life),
            life_was_lost: false,
            valid_until: 0,
            events: Vec::new(),
            others: Vec::new(),
            inputs: VecDeque::new(),
            hinted: None,
            open: Vec::new(),
            connected: Vec::new(),
            paused: false,
            alive: true,
        });
        self.nodes.len() - 1
    }

    fn member(&self, node: usize) -> Member {
        self.nodes[node].machine.me
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        self.nodes[node].life = None;
    }

    fn at(&self, address: &str) -> Option<usize> {
        self.nodes
            .iter()
            .rposition(|node| node.name == address && node.alive)
    }

    fn reachable(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a, b)) && !self.cut.contains(&(b, a))
    }

    async fn run(&mut self, ms: Ms) {
        for _ in 0..ms / STEP {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        self.now += STEP;
        self.registry.advance(Duration::from_millis(STEP));
        let versions = self.registry.versions();
        for node in 0..self.nodes.len() {
            if !self.nodes[node].alive || self.nodes[node].paused {
                continue;
            }
            if self.nodes[node].hinted.replace(versions) != Some(versions) {
                self.nodes[node].inputs.push_back(Input::Hint);
            }
            self.move_links(node);
            self.watch_life(node).await;
            let mut inputs = std::mem::take(&mut self.nodes[node].inputs);
            inputs.push_back(Input::Tick);
            for input in inputs {
                for output in self.nodes[node].machine.step(self.now, input) {
                    self.perform(node, output).await;
                }
            }
        }
        self.check().await;
    }

    /// Who is no member any more must not act any more; the only exception is a process without its life lock.
    async fn check(&self) {
        let list = match self.registry.door().members().await {
            Ok(list) => list,
            Err(_) => return,
        };
        for node in &self.nodes {
            let member = list.members.iter().any(|r| r.member == node.machine.me);
            if node.valid(self.now) && !node.paused && !node.life_was_lost {
                assert!(member, "{} acts although it is fenced", node.name);
            }
        }
    }

    fn move_links(&mut self, node: usize) {
        for peer in self.nodes[node].open.clone() {
            let other = self.nodes.iter().position(|n| n.machine.me == peer);
            let up = other.is_some_and(|other| {
                let other_node = &self.nodes[other];
                other_node.alive && !other_node.paused && self.reachable(node, other)
            });
            let refused =
                other.is_none_or(|other| !self.nodes[other].alive || !self.reachable(node, other));
            let this = &mut self.nodes[node];
            let was = this.connected.contains(&peer);
            let note = match (was, up) {
                (false, true) => {
                    this.connected.push(peer);
                    LinkNote::Connected(peer)
                }
                (true, false) => {
                    this.connected.retain(|m| *m != peer);
                    LinkNote::Disconnected(peer)
                }
                (false, false) if refused => LinkNote::Refused(peer),
                _ => continue,
            };
            this.inputs.push_back(Input::Link(note));
        }
    }

    async fn watch_life(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if let Some(life) = &mut node.life {
            tokio::select! {
                biased;
                () = life.lost() => {}
                () = std::future::ready(()) => return,
            }
            node.life = None;
            node.life_was_lost = true;
            node.inputs.push_back(Input::LifeLost);
        }
    }

    async fn perform(&mut self, node: usize, output: Output) {
        let (now, me) = (self.now, self.member(node));
        let door = Arc::clone(&self.nodes[node].door);
        let answer = match output {
            Output::Renew { heard } => Input::Renewed {
                sent: now,
                result: door.renew(me, &heard).await,
            },
            Output::Look { map } => Input::Looked {
                asked: now,
                result: look(&door, map).await,
            },
            Output::FenceExpired { victim, expires } => Input::FenceTried {
                victim,
                result: door.fence_expired(me, victim, expires).await,
            },
            Output::FenceDead { victim } => Input::FenceTried {
                victim,
                result: door.fence_dead(me, victim).await,
            },
            Output::Take(shards) => {
                let _ = door.take_shards(me, &shards).await;
                Input::ShardsMoved
            }
            Output::HandOver { to, shards } => {
                let _ = door.hand_over(me, to, &shards).await;
                Input::ShardsMoved
            }
            Output::SetState { member, state } => {
                let _ = door.set_state(me, member, state).await;
                Input::StateSet
            }
            Output::HoldLife => match door.hold_life(me).await {
                Ok(life) => {
                    self.nodes[node].life = Some(life);
                    self.nodes[node].life_was_lost = false;
                    Input::LifeHeld
                }
                Err(_) => Input::LifeRefused,
            },
            Output::CallBack { member, address } => Input::CalledBack {
                member,
                result: match self.at(&address) {
                    Some(other) if self.member(other) == member => Ok(()),
                    Some(_) => Err(DialError::Rejected("another".into())),
                    None => Err(DialError::Refused),
                },
            },
            other => return self.note(node, other),
        };
        self.nodes[node].inputs.push_back(answer);
    }

    fn note(&mut self, node: usize, output: Output) {
        let node = &mut self.nodes[node];
        match output {
            Output::Open { member, .. } => {
                assert!(!node.heard(&ClusterEvent::NodeUp(member)));
            }
            Output::Connect(member) => {
                assert!(node.heard(&ClusterEvent::NodeUp(member)));
                node.open.push(member);
            }
            Output::Close(member) => {
                node.open.retain(|m| *m != member);
                node.connected.retain(|m| *m != member);
            }
            Output::ValidUntil(until) => node.valid_until = until,
            Output::Tell(event) => node.events.push(event),
            other => node.others.push(other),
        }
    }

    /// Shards owned by each live node, the same on all nodes that are live.
    fn shares(&self) -> Vec<usize> {
        let live: Vec<&Node> = self
            .nodes
            .iter()
            .filter(|n| n.alive && n.machine.phase() == Phase::Live)
            .collect();
        for node in &live {
            assert!(
                node.machine.map == live[0].machine.map,
                "{} has another map",
                node.name
            );
        }
        let count = |m: Member| {
            live[0]
                .machine
                .map
                .iter()
                .filter(|(_, row)| row.owner == Some(m))
                .count()
        };
        live.iter().map(|node| count(node.machine.me)).collect()
    }

    fn assert_nobody_was_disturbed(&self) {
        for node in &self.nodes {
            assert!(
                !node.lost() && !node.heard(&ClusterEvent::Frozen),
                "{}",
                node.name
            );
        }
    }
}

async fn look(door: &Door, map: bool) -> Result<(Option<ShardMap>, MemberList), RegistryError> {
    let map = match map {
        true => Some(door.shard_map().await?),
        false => None,
    };
    Ok((map, door.members().await?))
}

#[tokio::test]
async fn the_first_node_calls_itself_back_and_takes_everything() {
    let mut world = World::new();
    world.join("a").await;
    world.run(300).await;
    assert_eq!(world.shares(), [usize::from(SHARDS)]);
    assert!(world.nodes[0].others.contains(&Output::Admitted));
}

#[tokio::test]
async fn nodes_that_join_are_announced_everywhere_before_the_map_and_get_their_share() {
    let world = World::with_nodes(&["a", "b", "c"]).await;
    let shares = world.shares();
    assert!(
        shares.iter().all(|share| (1365..=1366).contains(share)),
        "{shares:?}"
    );
    for node in &world.nodes {
        let mut known = vec![node.machine.me];
        for event in &node.events {
            match event {
                ClusterEvent::NodeUp(member) => known.push(*member),
                ClusterEvent::Shards(map) => {
                    for (_, row) in map.iter() {
                        assert!(row.owner.is_none_or(|owner| known.contains(&owner)));
                    }
                }
                ClusterEvent::Deputy(Some((deputy, _))) => assert!(known.contains(deputy)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(known.len(), 3);
    }
}

#[tokio::test]
async fn a_node_whose_address_cannot_be_called_is_not_admitted() {
    let mut world = World::with_nodes(&["a"]).await;
    let b = world.join("b").await;
    world.nodes[b].name = "elsewhere";
    world.run(3000).await;
    assert_eq!(world.nodes[b].machine.phase(), Phase::Joining);
    assert!(!world.nodes[0].heard(&ClusterEvent::NodeUp(world.member(b))));
    world.nodes[b].name = "b";
    world.run(2500).await;
    assert_eq!(world.nodes[b].machine.phase(), Phase::Live);
}

#[tokio::test]
async fn a_killed_process_is_fenced_at_once_and_its_shards_are_taken() {
    let mut world = World::with_nodes(&["a", "b", "c"]).await;
    let dead = world.member(1);
    world.kill(1);
    world.run(200).await;
    assert!(world.nodes[0].heard(&ClusterEvent::NodeDown(dead)));
    assert!(world.nodes[2].heard(&ClusterEvent::NodeDown(dead)));
    assert_eq!(world.shares(), [2048, 2048]);
}

#[tokio::test]
async fn a_process_whose_life_lock_is_not_free_yet_is_fenced_a_moment_later_but_not_for_ever() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    let (victim, mut now) = (world.member(1), world.now);
    let a = &mut world.nodes[0].machine;
    let dead = Output::FenceDead { victim };
    a.step(now, Input::Link(LinkNote::Disconnected(victim)));
    let mut attempts = Vec::new();
    let mut out = a.step(now, Input::Link(LinkNote::Refused(victim)));
    let refused = now;
    for _ in 0..1000 {
        if out.contains(&dead) {
            attempts.push(now - refused);
            let result = Ok(FenceOutcome::Alive);
            assert!(
                !a.step(now, Input::FenceTried { victim, result })
                    .contains(&dead)
            );
        }
        now += 1;
        out = a.step(now, Input::Tick);
    }
    assert_eq!(attempts, [0, 5, 15, 35, 75, 155]);
    // Its address refuses again: one attempt each.
    for _ in 0..3 {
        let out = a.step(now, Input::Link(LinkNote::Refused(victim)));
        assert!(out.contains(&dead));
        let result = Ok(FenceOutcome::Alive);
        a.step(now, Input::FenceTried { victim, result });
        for _ in 0..200 {
            now += 1;
            assert!(!a.step(now, Input::Tick).contains(&dead));
        }
    }
}

#[tokio::test]
async fn a_killed_node_that_comes_back_takes_part_again_under_a_new_epoch() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    let old = world.member(1);
    world.kill(1);
    let again = world.join("b").await;
    world.run(4000).await;
    let new = world.member(again);
    assert!(new.id == old.id && new.epoch > old.epoch);
    assert!(world.nodes[0].heard(&ClusterEvent::NodeDown(old)));
    assert_eq!(world.shares(), [2048, 2048]);
}

#[tokio::test]
async fn nodes_that_were_all_killed_come_back_without_waiting_for_old_leases() {
    let mut world = World::with_nodes(&["a", "b", "c"]).await;
    for node in 0..3 {
        world.kill(node);
    }
    let again = world.join("b").await;
    world.run(1000).await;
    assert_eq!(world.nodes[again].machine.phase(), Phase::Live);
    assert_eq!(world.shares(), [usize::from(SHARDS)]);
}

#[tokio::test]
async fn a_cut_between_two_living_nodes_evicts_nobody() {
    let mut world = World::with_nodes(&["a", "b", "c"]).await;
    world.cut.push((0, 1));
    world.run(20_000).await;
    world.assert_nobody_was_disturbed();
}

#[tokio::test]
async fn a_hung_node_is_fenced_within_seven_seconds_and_does_nothing_when_it_wakes_up() {
    let mut world = World::with_nodes(&["a", "b", "c"]).await;
    let hung = world.member(2);
    world.nodes[2].paused = true;
    world.run(5000).await;
    assert!(!world.nodes[0].heard(&ClusterEvent::NodeDown(hung)));
    world.run(2000).await;
    assert!(world.nodes[0].heard(&ClusterEvent::NodeDown(hung)));
    assert!(world.nodes[1].heard(&ClusterEvent::NodeDown(hung)));
    world.run(3000).await;
    assert!(!world.nodes[2].valid(world.now), "before its first step");
    world.nodes[2].paused = false;
    world.run(100).await;
    assert!(world.nodes[2].lost());
}

#[tokio::test]
async fn a_pause_shorter_than_the_lease_freezes_at_the_most_and_loses_nothing() {
    for pause in [900, 3000, 5300] {
        let mut world = World::with_nodes(&["a", "b"]).await;
        world.nodes[1].paused = true;
        world.run(pause).await;
        world.nodes[1].paused = false;
        world.run(2000).await;
        assert!(!world.nodes[1].lost());
        assert!(world.nodes[1].valid(world.now));
        let frozen = world.nodes[1].heard(&ClusterEvent::Frozen);
        assert_eq!(frozen, world.nodes[1].heard(&ClusterEvent::Thawed));
        assert_eq!(frozen, pause > 5000);
    }
}

#[tokio::test]
async fn all_nodes_losing_the_registry_freeze_and_thaw_with_everything() {
    let mut world = World::with_nodes(&["a", "b", "c"]).await;
    let map = Arc::clone(&world.nodes[0].machine.map);
    world.registry.set_down(true);
    world.run(30_000).await;
    for node in &world.nodes {
        assert!(node.heard(&ClusterEvent::Frozen) && !node.valid(world.now));
    }
    world.registry.set_down(false);
    world.run(1500).await;
    for node in &world.nodes {
        assert_eq!(node.events.last(), Some(&ClusterEvent::Thawed));
        assert!(node.valid(world.now));
        assert!(
            !node
                .events
                .iter()
                .any(|e| matches!(e, ClusterEvent::NodeDown(_)))
        );
        assert_eq!(node.machine.map, map);
    }
}

#[tokio::test]
async fn jumps_of_the_registrys_clock_fence_nobody() {
    let mut world = World::with_nodes(&["a", "b", "c"]).await;
    for hours in [1, 24] {
        world.registry.advance(Duration::from_secs(3600 * hours));
        world.run(10_000).await;
    }
    world.assert_nobody_was_disturbed();
    // Even together with a node that is slow just then: its lease by its own clock is respected.
    world.nodes[1].paused = true;
    world.registry.advance(Duration::from_secs(3600));
    world.run(4500).await;
    world.nodes[1].paused = false;
    world.run(1000).await;
    world.assert_nobody_was_disturbed();
}

#[tokio::test]
async fn a_node_cut_off_from_the_registry_freezes_before_it_is_fenced() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    let cut = world.member(1);
    world.nodes[1].door.set_cut(true, None);
    let mut frozen_first = false;
    for _ in 0..800 {
        world.step().await;
        let fenced = world.nodes[0].heard(&ClusterEvent::NodeDown(cut));
        frozen_first |= !fenced && !world.nodes[1].valid(world.now);
    }
    assert!(frozen_first);
    assert!(world.nodes[0].heard(&ClusterEvent::NodeDown(cut)));
    assert_eq!(world.shares(), [usize::from(SHARDS)]);
    world.nodes[1].door.set_cut(false, None);
    world.run(500).await;
    assert!(world.nodes[1].lost());
}

#[tokio::test]
async fn a_node_without_its_life_lock_freezes_until_it_has_it_again() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    let member = world.member(1);
    world.nodes[1].door.lose_life(member);
    world.step().await;
    assert!(world.nodes[1].heard(&ClusterEvent::Frozen) && !world.nodes[1].valid(world.now));
    world.run(300).await;
    assert_eq!(world.nodes[1].events.last(), Some(&ClusterEvent::Thawed));
    assert!(!world.nodes[0].heard(&ClusterEvent::NodeDown(member)));
}

#[tokio::test]
async fn of_two_nodes_that_hold_each_other_dead_at_once_one_stays() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    world.cut.push((0, 1));
    for node in 0..2 {
        let member = world.member(node);
        world.nodes[node].door.lose_life(member);
    }
    world.run(10_000).await;
    let alive: Vec<bool> = world.nodes.iter().map(|n| n.valid(world.now)).collect();
    assert!(alive.contains(&true), "both fenced each other");
    for (node, alive) in world.nodes.iter().zip(alive) {
        assert_ne!(alive, node.lost());
    }
}

#[tokio::test]
async fn two_nodes_that_slept_together_fence_each_other_not() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    world.nodes[0].paused = true;
    world.nodes[1].paused = true;
    world.run(20_000).await;
    world.nodes[0].paused = false;
    world.nodes[1].paused = false;
    world.run(1500).await;
    for node in &world.nodes {
        assert_eq!(node.events.last(), Some(&ClusterEvent::Thawed));
    }
}

#[tokio::test]
async fn a_registry_that_lost_commits_keeps_everybody_frozen_with_an_alarm() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    world.registry.lose_history();
    world.run(10_000).await;
    for node in &world.nodes {
        assert_eq!(node.machine.phase(), Phase::Frozen);
        assert!(!node.valid(world.now));
        let alarms = node.others.iter().filter(|o| matches!(o, Output::Alarm(_)));
        assert_eq!(alarms.count(), 1);
    }
}

#[tokio::test]
async fn a_draining_node_gives_all_its_shards_away_and_says_so() {
    let mut world = World::with_nodes(&["a", "b", "c"]).await;
    let now = world.now;
    for output in world.nodes[0].machine.step(now, Input::Drain) {
        world.perform(0, output).await;
    }
    world.run(500).await;
    assert_eq!(world.shares(), [0, 2048, 2048]);
    assert!(world.nodes[0].others.contains(&Output::Drained));
    assert!(world.nodes[0].machine.is_draining() && world.nodes[0].valid(world.now));
}

#[tokio::test]
async fn nodes_that_all_drain_at_once_wait_for_nobody() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    let now = world.now;
    for node in 0..2 {
        for output in world.nodes[node].machine.step(now, Input::Drain) {
            world.perform(node, output).await;
        }
    }
    world.run(500).await;
    for node in &world.nodes {
        assert!(node.others.contains(&Output::Drained));
    }
}

fn taken(out: &[Output]) -> Vec<Vec<Held>> {
    let shards = out.iter().filter_map(|output| match output {
        Output::TakeSilent { shards, .. } => Some(shards.clone()),
        _ => None,
    });
    shards.collect()
}

#[tokio::test]
async fn shards_are_taken_from_a_silent_member_in_one_attempt_at_a_time() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    let (from, now) = (world.member(0), world.now);
    let held = |n| (ShardId(n), ShardEpoch(1));
    let take = |n| {
        let (turn, shards) = (0, vec![held(n)]);
        Input::Link(LinkNote::TakeOver { from, turn, shards })
    };
    let b = &mut world.nodes[1].machine;
    assert_eq!(taken(&b.step(now, take(1))), [vec![held(1)]]);
    assert!(taken(&b.step(now, take(2))).is_empty());
    assert!(taken(&b.step(now, take(3))).is_empty());
    let (turn, result) = (0, Ok(Vec::new()));
    let out = b.step(now, Input::TookSilent { from, turn, result });
    let shards = vec![held(1)];
    let refused = ClusterEvent::NotTaken { from, turn, shards };
    assert!(out.contains(&Output::Tell(refused)));
    assert_eq!(taken(&out), [vec![held(2), held(3)]]);
}

#[tokio::test]
async fn a_take_over_whose_answer_was_lost_is_asked_for_again_once_the_map_tells_of_it() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    let (from, me, now) = (world.member(0), world.member(1), world.now);
    let owned = world.nodes[1].machine.map().iter();
    let owned = owned.filter(|(_, row)| row.owner == Some(from));
    let held: Vec<Held> = owned
        .map(|(shard, row)| (shard, row.epoch))
        .take(2)
        .collect();
    let (turn, shards) = (0, held.clone());
    let take = Input::Link(LinkNote::TakeOver {
        from,
        turn,
        shards: shards.clone(),
    });
    let out = world.nodes[1].machine.step(now, take);
    assert_eq!(taken(&out), [shards]);
    // One of them was taken.
    let door = Arc::clone(&world.nodes[1].door);
    door.take_silent(me, from, turn, &held[..1]).await.unwrap();
    let result = Err(RegistryError::Unavailable("no answer".into()));
    let input = Input::TookSilent { from, turn, result };
    for output in world.nodes[1].machine.step(now, input) {
        world.perform(1, output).await;
    }
    world.run(200).await;
    assert_eq!(taken(&world.nodes[1].others), [held[..1].to_vec()]);
}

#[tokio::test]
async fn a_member_that_others_complain_about_gets_no_shards_for_balance() {
    let mut world = World::with_nodes(&["a", "b"]).await;
    let late = world.join("c").await;
    let member = world.member(late);
    let knows = |world: &World, node: usize| {
        let mut up = world.nodes[node].machine.members_up();
        up.any(|other| other == member)
    };
    while !(knows(&world, 0) && knows(&world, 1)) {
        world.step().await;
    }
    for node in &mut world.nodes[..2] {
        node.inputs.push_back(Input::Link(LinkNote::Silent(member)));
    }
    let owned = |world: &World| {
        let map = world.nodes[0].machine.map();
        map.iter()
            .filter(|(_, row)| row.owner == Some(member))
            .count()
    };
    world.run(2_500).await;
    assert_eq!(owned(&world), 0);
    world.run(10_000).await;
    assert!(owned(&world) > 1_000, "{}", owned(&world));
}

#[tokio::test]
async fn under_random_faults_nobody_acts_fenced_and_the_survivors_share_everything() {
    for seed in 1..=6_u64 {
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |sides: u64| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % sides
        };
        let mut world = World::with_nodes(&["a", "b", "c"]).await;
        for _ in 0..30 {
            let node = usize::try_from(roll(world.nodes.len() as u64)).unwrap();
            let other = usize::try_from(roll(world.nodes.len() as u64)).unwrap();
            let member = world.member(node);
            match roll(9) {
                0 => world.nodes[node].paused = true,
                1 | 2 => world.nodes[node].paused = false,
                3 => world.nodes[node].door.set_cut(true, Some(member)),
                4 => world.nodes[node].door.set_cut(false, None),
                5 => world.registry.advance(Duration::from_millis(roll(20_000))),
                6 => world.cut.push((node, other)),
                7 => world.cut.clear(),
                _ => {
                    world.registry.set_down(true);
                    world.run(roll(8000)).await;
                    world.registry.set_down(false);
                }
            }
            let pause = roll(4000);
            world.run(pause).await;
        }
        world.cut.clear();
        for node in 0..world.nodes.len() {
            world.nodes[node].paused = false;
            world.nodes[node].door.set_cut(false, None);
        }
        world.run(15_000).await;
        let live = world.nodes.iter().filter(|n| n.valid(world.now)).count();
        let lost = world.nodes.iter().filter(|n| n.lost()).count();
        assert_eq!(live + lost, world.nodes.len(), "seed {seed}");
        if live > 0 {
            assert_eq!(world.shares().iter().sum::<usize>(), usize::from(SHARDS));
        }
        let list = world.registry.door().members().await.unwrap();
        assert!(list.members.iter().all(|r| r.state == MemberState::Live));
        assert_eq!(list.members.len(), live, "seed {seed}");
    }
}
