//! What may happen next, and the properties.

use stateright::{Model, Property};

use crate::Plan;
use crate::node::Step;
use crate::state::{
    Body, Budget, Call, Database, Force, LEASE, Member, Mode, NODES, Node, OWN_LEASE, Renewal,
    Role, Row, Side, State, Work,
};

/// The model with its plan.
#[derive(Clone, Copy, Debug)]
pub struct Handover(pub Plan);

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Time goes by.
    Tick,
    /// A process ends.
    Crash(usize),
    /// A process starts.
    Start(usize),
    /// A node is seen to be dead or silent for longer than its lease, and fenced.
    Fence(usize),
    /// A node reads the members and the owner of the shard.
    Look(usize),
    /// A renewal is sent,
    Renew(usize),
    /// reaches the database,
    RenewalArrives(usize),
    /// and is answered.
    Renewed(usize),
    /// A client wants to change the document.
    Want(usize),
    /// Its node asks the coordinator.
    Ask(usize),
    /// A node that may reads what it will work on.
    Read(usize),
    /// It commits.
    Write(usize),
    /// The same commit once more.
    Resend(usize),
    /// A token that was asked for goes back.
    GiveBack(usize),
    /// A message arrives; by its place.
    Deliver(usize),
    /// A statement arrives; by its place.
    Call(usize),
    /// A coordinator takes a right by force,
    Force(usize),
    /// and lets others in.
    ForceEnds(usize),
}

impl Handover {
    fn node_acts(&self, state: &State, at: usize, acts: &mut Vec<Act>) {
        let node = &state.nodes[at];
        let budget = &state.budget;
        if node.epoch == 0 {
            if budget.starts > 0 {
                acts.push(Act::Start(at));
            }
            return;
        }
        if budget.crashes > 0 {
            acts.push(Act::Crash(at));
        }
        match node.renewal {
            Renewal::Idle if node.left < OWN_LEASE => acts.push(Act::Renew(at)),
            Renewal::Idle => {}
            Renewal::Sent(_) => acts.push(Act::RenewalArrives(at)),
            Renewal::Answered(..) => acts.push(Act::Renewed(at)),
        }
        if Step::new(&self.0, state.clone()).look_would_tell(at) {
            acts.push(Act::Look(at));
        }
        if matches!(node.side, Side::Surrendering(_)) && node.work == Work::None {
            acts.push(Act::GiveBack(at));
        }
        if matches!(node.work, Work::Sent(_)) && budget.resends > 0 {
            acts.push(Act::Resend(at));
        }
        // Whoever has no lease does nothing.
        if node.left == 0 {
            return;
        }
        if node.work == Work::None && budget.asks > 0 {
            acts.push(Act::Want(at));
        }
        let away = node.side == Side::Away;
        if away
            && matches!(node.work, Work::Wanted(_))
            && node.asked < node.shard_epoch
            && !node.is_dead(node.owner)
        {
            acts.push(Act::Ask(at));
        }
        if matches!(node.work, Work::Wanted(_)) && node.side != Side::Away {
            if node.base.is_none() {
                acts.push(Act::Read(at));
            } else if Step::new(&self.0, state.clone()).is_asserted(at) {
                acts.push(Act::Write(at));
            }
        }
        if let Role::Mine {
            mode: Mode::Revoking(holder, _, force),
            ..
        } = &node.role
        {
            match force {
                Force::No if budget.forces > 0 && *holder != state.me(at) => {
                    acts.push(Act::Force(at));
                }
                Force::Waits(0) => acts.push(Act::ForceEnds(at)),
                _ => {}
            }
        }
    }

    /// A message is heard in its order, by a process that is not frozen, and not before it can be looked at.
    fn may_deliver(state: &State, at: usize) -> bool {
        let letter = &state.net[at];
        let link = |l: &crate::state::Letter| (l.from.node, l.to.node);
        if at > 0 && link(&state.net[at - 1]) == link(letter) {
            return false;
        }
        let node = &state.nodes[usize::from(letter.to.node)];
        let early = matches!(letter.body, Body::Ask | Body::Back(_) | Body::Report(_))
            && letter.epoch > node.shard_epoch;
        node.epoch == 0 || (node.left > 0 && !early) || letter.to.epoch != node.epoch
    }

    fn may_fence(state: &State, at: usize) -> bool {
        let Some(row) = &state.database.rows[at] else {
            return false;
        };
        let dead = state.nodes[at].epoch != row.epoch;
        let somebody = (0..NODES).any(|other| other != at && state.nodes[other].left > 0);
        somebody && (dead || row.expires == 0)
    }

    fn tick(state: &mut State) {
        for row in state.database.rows.iter_mut().flatten() {
            row.expires = row.expires.saturating_sub(1);
        }
        for node in &mut state.nodes {
            node.left = node.left.saturating_sub(1);
            match &mut node.renewal {
                Renewal::Idle => {}
                Renewal::Sent(age) | Renewal::Answered(age, _) => *age = (*age + 1).min(LEASE),
            }
            if let Role::Mine {
                mode: Mode::Revoking(_, _, Force::Waits(wait)),
                ..
            } = &mut node.role
            {
                *wait = wait.saturating_sub(1);
            }
        }
    }

    fn happen(&self, step: &mut Step<'_>, act: &Act) {
        let state = &mut step.state;
        match *act {
            Act::Tick => {
                state.budget.ticks -= 1;
                Self::tick(state);
            }
            Act::Crash(at) => {
                state.budget.crashes -= 1;
                state.nodes[at] = Node::gone();
            }
            Act::Start(at) => {
                state.budget.starts -= 1;
                step.start(at);
            }
            Act::Fence(at) => state.database.rows[at] = None,
            Act::Look(at) => step.look(at),
            Act::Renew(at) => step.node(at).renewal = Renewal::Sent(0),
            Act::RenewalArrives(at) => step.renewal_arrives(at),
            Act::Renewed(at) => step.renewed(at),
            Act::Want(at) => {
                state.budget.asks -= 1;
                state.operations += 1;
                state.nodes[at].work = Work::Wanted(state.operations);
            }
            Act::Ask(at) => step.ask(at),
            Act::Read(at) => state.nodes[at].base = Some(state.database.version),
            Act::Write(at) => step.write(at),
            Act::Resend(at) => {
                state.budget.resends -= 1;
                if let Work::Sent(commit) = state.nodes[at].work {
                    state.calls.push(Call::Commit(commit));
                }
            }
            Act::GiveBack(at) => step.surrendered(at),
            Act::Deliver(at) => {
                let letter = state.net.remove(at);
                step.hear(letter);
            }
            Act::Call(at) => step.call_arrives(at),
            Act::Force(at) => {
                state.budget.forces -= 1;
                step.force(at);
            }
            Act::ForceEnds(at) => step.force_ends(at),
        }
    }

    /// Nothing is left that could happen.
    fn is_over(&self, state: &State) -> bool {
        let mut acts = Vec::new();
        self.actions(state, &mut acts);
        acts.is_empty()
    }
}

impl Model for Handover {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let first = Member { node: 0, epoch: 1 };
        let nodes = self.0.nodes.min(NODES);
        let mut state = State {
            database: Database {
                rows: [None, None, None],
                last_epoch: nodes as u8,
                owner: first,
                shard_epoch: 1,
                fence: (0, 0),
                version: 0,
                applied: 0,
                revoked: Vec::new(),
            },
            nodes: [Node::gone(), Node::gone(), Node::gone()],
            net: Vec::new(),
            calls: Vec::new(),
            budget: Budget::of(&self.0),
            operations: 0,
            broken: None,
            forced_and_done: false,
        };
        for at in 0..nodes {
            let epoch = at as u8 + 1;
            state.database.rows[at] = Some(Row {
                epoch,
                expires: LEASE,
            });
            let node = &mut state.nodes[at];
            (node.epoch, node.left) = (epoch, OWN_LEASE);
            (node.owner, node.shard_epoch) = (first, 1);
            node.reported = 1;
            for other in 0..NODES {
                node.dead[other] = other.min(nodes) as u8;
            }
        }
        state.nodes[0].role = Role::Mine {
            mode: Mode::Free,
            queue: Vec::new(),
        };
        vec![state]
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        if state.broken.is_some() {
            return;
        }
        for at in 0..self.0.nodes {
            self.node_acts(state, at, acts);
            if Self::may_fence(state, at) {
                acts.push(Act::Fence(at));
            }
        }
        for at in 0..state.net.len() {
            if Self::may_deliver(state, at) {
                acts.push(Act::Deliver(at));
            }
        }
        acts.extend((0..state.calls.len()).map(Act::Call));
        if state.budget.ticks > 0 {
            acts.push(Act::Tick);
        }
    }

    fn next_state(&self, state: &State, act: Act) -> Option<State> {
        let mut step = Step::new(&self.0, state.clone());
        self.happen(&mut step, &act);
        Some(step.end())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "I1 at most one acts alone, and nobody beside it",
                |_, state: &State| {
                    let alone = state.nodes.iter().filter(|node| node.acts_alone()).count();
                    let shares = state.nodes.iter().filter(|node| node.shares()).count();
                    alone == 0 || (alone == 1 && shares == 0)
                },
            ),
            Property::always(
                "I2, I3 no commit of an intruder, no lost update",
                |_, state: &State| state.broken.is_none(),
            ),
            Property::always(
                "I5 who acts alone works on the latest version",
                |_, state: &State| {
                    state.nodes.iter().all(|node| {
                        !node.acts_alone()
                            || matches!(node.work, Work::Sent(_))
                            || node.base.is_none_or(|base| base == state.database.version)
                    })
                },
            ),
            Property::always(
                "whoever asks is granted it in the end",
                |model, state: &State| {
                    // With time, an end is only the end of the budget.
                    model.0.ticks + model.0.forces > 0
                        || state.nodes.iter().all(|node| node.work == Work::None)
                        || !model.is_over(state)
                },
            ),
            Property::sometimes("a change is committed", |_, state: &State| {
                state.database.version > 0
            }),
            Property::sometimes(
                "all changes that were asked for are committed",
                |model, state: &State| state.database.version == model.0.asks,
            ),
            Property::sometimes(
                "somebody gets on after a right was taken by force",
                |model, state: &State| model.0.forces == 0 || state.forced_and_done,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_state_has_every_node_a_member_and_one_owner() {
        let state = &Handover(Plan::calm(3, 1)).init_states()[0];
        assert!(state.database.rows.iter().all(Option::is_some));
        assert_eq!(state.database.owner, state.me(0));
    }
}
