//! Carries out what the membership machine decides: one task that feeds it and starts what it asks for.
//!
//! Every call of the registry is a task of its own, bounded in time, whose answer comes back as an input. Must never decide
//! anything itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluice_lockmgr::{
    EpochRegistry, LifeLock, Member, MemberEpoch, MemberState, RegistryError, RegistryHint,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::clock::{LeaseClock, Validity};
use super::machine::{Input, Machine, Ms, Output};
use super::plan::Held;
use super::{ClusterEvent, ClusterHandler};
use crate::transport::links::{LinkNote, Links};

/// The machine looks at the time so often.
const TICK: Duration = Duration::from_millis(10);
/// A call of the registry that takes longer has failed, as far as the machine is concerned.
const CALL_TIME: Duration = Duration::from_secs(3);
/// Pause after a hint that could not be waited for, and after each one, so that a stream of them costs little.
const HINT_RETRY: Duration = Duration::from_millis(500);
const HINT_PAUSE: Duration = Duration::from_millis(5);

/// How far this node's membership is, for those who wait for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Milestones {
    pub admitted: bool,
    pub drained: bool,
    pub lost: bool,
    pub alarm: Option<String>,
}

/// See the module's head.
pub(super) struct Driver {
    pub me: Member,
    pub machine: Arc<Mutex<Machine>>,
    pub links: Arc<Links>,
    pub registry: Arc<dyn EpochRegistry>,
    pub handler: Arc<dyn ClusterHandler>,
    pub clock: Arc<dyn LeaseClock>,
    pub validity: Arc<Validity>,
    pub inputs: mpsc::UnboundedSender<Input>,
    /// Former members whose [`Input::Left`] was sent.
    pub left_known: Arc<Mutex<Vec<MemberEpoch>>>,
    pub milestones: watch::Sender<Milestones>,
}

impl Driver {
    /// Runs until the node is stopped or lost.
    pub(super) async fn run(
        self,
        life: Box<dyn LifeLock>,
        mut heard: mpsc::UnboundedReceiver<Input>,
        mut notes: mpsc::UnboundedReceiver<LinkNote>,
    ) {
        let stopped = self.links.shared.stopped.clone();
        self.watch_life(life);
        self.follow_hints();
        tokio::spawn(Arc::clone(&self.links).fetch_mail());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                Some(input) = heard.recv() => input,
                Some(note) = notes.recv() => Input::Link(note),
                _ = ticks.tick() => Input::Tick,
                () = stopped.cancelled() => return,
            };
            let outputs = self.machine.lock().step(self.clock.now_ms(), input);
            for output in outputs {
                self.perform(output);
            }
            if self.milestones.borrow().lost {
                self.links.stop();
                return;
            }
        }
    }

    /// Starts a call whose answer is an input.
    fn ask(&self, call: impl Future<Output = Input> + Send + 'static) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            // Nobody waits for the answer any more once the driver has ended.
            let _ = inputs.send(call.await);
        });
    }

    fn perform(&self, output: Output) {
        let (me, registry) = (self.me, Arc::clone(&self.registry));
        match output {
            Output::Renew { heard } => {
                // The lease counts from before the renewal is sent.
                let sent = self.clock.now_ms();
                self.ask(async move {
                    let result = bounded(registry.renew(me, &heard)).await;
                    Input::Renewed { sent, result }
                });
            }
            Output::Look { map } => {
                let asked = self.clock.now_ms();
                let (inputs, known) = (self.inputs.clone(), Arc::clone(&self.left_known));
                self.ask(async move { look(registry, asked, map, (inputs, known)).await });
            }
            Output::FenceExpired { victim, expires } => self.ask(async move {
                let result = bounded(registry.fence_expired(me, victim, expires)).await;
                Input::FenceTried { victim, result }
            }),
            Output::FenceDead { victim } => self.ask(async move {
                let result = bounded(registry.fence_dead(me, victim)).await;
                Input::FenceTried { victim, result }
            }),
            Output::Take(shards) => self.ask(async move {
                note_moved(
                    "taken over",
                    bounded(registry.take_shards(me, &shards)).await,
                );
                Input::ShardsMoved
            }),
            Output::DrawTurn { turn } => self.ask(async move {
                let result = bounded(registry.draw_turn(me, turn)).await;
                Input::TurnDrawn(result)
            }),
            Output::TakeSilent { from, turn, shards } => self.ask(async move {
                let result = bounded(registry.take_silent(me, from, turn, &shards)).await;
                note_moved("taken over from a silent member", result.clone());
                Input::TookSilent { from, turn, result }
            }),
            Output::HandOver { to, shards } => self.ask(async move {
                note_moved(
                    "handed over",
                    bounded(registry.hand_over(me, to, &shards)).await,
                );
                Input::ShardsMoved
            }),
            Output::SetState { member, state } => self.set_state(member, state),
            Output::CallBack { member, address } => {
                let links = Arc::clone(&self.links);
                self.ask(async move {
                    let result = links.call_back(member, &address).await;
                    Input::CalledBack { member, result }
                });
            }
            Output::HoldLife => self.hold_life(),
            Output::Open { member, address } => {
                tracing::info!(peer = %member, %address, "a member takes part");
                self.links.open(member, &address);
            }
            Output::Connect(member) => self.links.connect(member),
            Output::Close(member) => self.links.close(member),
            Output::ValidUntil(until) => self.validity.set(until),
            Output::Tell(event) => self.tell(event),
            Output::Admitted => self.reach(|m| m.admitted = true),
            Output::Drained => self.reach(|m| m.drained = true),
            Output::Alarm(why) => {
                tracing::error!(%why, "this node stays frozen: the cluster database lost commits that were acknowledged; restore the right server, or restart all nodes");
                self.reach(|m| m.alarm = Some(why));
            }
        }
    }

    fn tell(&self, event: ClusterEvent) {
        match &event {
            ClusterEvent::NodeDown(peer) => tracing::warn!(%peer, "a member is gone"),
            ClusterEvent::Frozen => {
                tracing::warn!(
                    "this node can't prove its lease at the database: frozen until it can"
                );
            }
            ClusterEvent::Thawed => {
                tracing::warn!("this node's lease holds again: thawed with everything");
            }
            ClusterEvent::Lost => {
                tracing::error!("this node was fenced: what it held is gone");
            }
            ClusterEvent::Revoked(tokens) => {
                tracing::warn!(
                    documents = tokens.len(),
                    "this node's right on documents was taken away by force, as it did not give them back in time"
                );
            }
            ClusterEvent::Left(left) if !left.documents.is_empty() => {
                tracing::info!(node = %left.node, documents = left.documents.len(), "documents are kept for the NFS clients of a node that is gone: they may take their locks again");
            }
            ClusterEvent::Deputy(None) => {
                tracing::debug!("no other node knows what this one decides about");
            }
            ClusterEvent::Left(_)
            | ClusterEvent::NodeUp(_)
            | ClusterEvent::Shards(_)
            | ClusterEvent::Deputy(_)
            | ClusterEvent::TookOver { .. }
            | ClusterEvent::NotTaken { .. } => {}
        }
        let lost = event == ClusterEvent::Lost;
        self.handler.event(event);
        if lost {
            self.reach(|m| m.lost = true);
        }
    }

    fn reach(&self, milestone: impl FnOnce(&mut Milestones)) {
        self.milestones.send_modify(milestone);
    }

    fn set_state(&self, member: Member, state: MemberState) {
        let (me, registry) = (self.me, Arc::clone(&self.registry));
        self.ask(async move {
            if let Err(error) = bounded(registry.set_state(me, member, state)).await {
                tracing::warn!(%member, ?state, %error, "a member's state can't be set");
            }
            Input::StateSet
        });
    }

    fn hold_life(&self) {
        let (me, registry) = (self.me, Arc::clone(&self.registry));
        let inputs = self.inputs.clone();
        let stopped = self.links.shared.stopped.clone();
        tokio::spawn(async move {
            let held = tokio::select! {
                held = bounded(registry.hold_life(me)) => held,
                () = stopped.cancelled() => return,
            };
            match held {
                Ok(life) => {
                    let _ = inputs.send(Input::LifeHeld);
                    hold_until_lost(life, inputs, stopped).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "the life lock can't be taken");
                    let _ = inputs.send(Input::LifeRefused);
                }
            }
        });
    }

    fn watch_life(&self, life: Box<dyn LifeLock>) {
        let stopped = self.links.shared.stopped.clone();
        tokio::spawn(hold_until_lost(life, self.inputs.clone(), stopped));
    }

    fn follow_hints(&self) {
        let (me, registry) = (self.me, Arc::clone(&self.registry));
        let (inputs, shared) = (self.inputs.clone(), Arc::clone(&self.links.shared));
        tokio::spawn(async move {
            loop {
                let hint = tokio::select! {
                    hint = registry.hint(me) => hint,
                    () = shared.stopped.cancelled() => return,
                };
                match hint {
                    Ok(RegistryHint::Mail) => shared.mail.notify_one(),
                    Ok(RegistryHint::Members) => {
                        let _ = inputs.send(Input::Hint);
                    }
                    Err(_) => sleep(HINT_RETRY).await,
                }
                sleep(HINT_PAUSE).await;
            }
        });
    }
}

async fn hold_until_lost(
    mut life: Box<dyn LifeLock>,
    inputs: mpsc::UnboundedSender<Input>,
    stopped: tokio_util::sync::CancellationToken,
) {
    tokio::select! {
        () = life.lost() => {}
        () = stopped.cancelled() => return,
    }
    // Released before the machine asks for it again.
    drop(life);
    let _ = inputs.send(Input::LifeLost);
}

fn note_moved(how: &str, moved: Result<Vec<Held>, RegistryError>) {
    match moved {
        Ok(shards) => tracing::info!(shards = shards.len(), "shards {how}"),
        Err(error) => tracing::warn!(%error, "shards could not be {how}"),
    }
}

pub(super) async fn bounded<T>(
    call: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    match timeout(CALL_TIME, call).await {
        Ok(result) => result,
        Err(_) => Err(RegistryError::Unavailable("no answer in time".into())),
    }
}

/// What the gone left behind is told first. Whoever owns or was given something by the map that was read is in the member list, or
/// gone.
async fn look(
    registry: Arc<dyn EpochRegistry>,
    asked: Ms,
    map: bool,
    (inputs, known): (mpsc::UnboundedSender<Input>, Arc<Mutex<Vec<MemberEpoch>>>),
) -> Input {
    let heard = known.lock().clone();
    let result = bounded(registry.look(map, &heard)).await.map(|sight| {
        for left in sight.left {
            known.lock().push(left.member.epoch);
            // Nobody waits for it any more once the driver has ended.
            let _ = inputs.send(Input::Left(left));
        }
        (sight.map, sight.members)
    });
    Input::Looked { asked, result }
}
