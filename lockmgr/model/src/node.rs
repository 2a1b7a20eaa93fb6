//! A node: what it hears, its lease, and what it asks for.

use std::collections::VecDeque;

use crate::state::{
    Body, Budget, Call, Commit, Grant, Held, LEASE, Letter, Member, NODES, Node, OWN_LEASE,
    Renewal, Role, Row, Side, State, Work,
};
use crate::{Mutant, Plan};

/// One step under way: what a node says to itself is heard within it.
pub(crate) struct Step<'a> {
    pub plan: &'a Plan,
    pub state: State,
    own: VecDeque<Letter>,
}

impl<'a> Step<'a> {
    pub fn new(plan: &'a Plan, state: State) -> Self {
        Self {
            plan,
            state,
            own: VecDeque::new(),
        }
    }

    pub fn end(mut self) -> State {
        while let Some(letter) = self.own.pop_front() {
            self.hear(letter);
        }
        self.state
    }

    pub fn node(&mut self, at: usize) -> &mut Node {
        &mut self.state.nodes[at]
    }

    pub fn say(&mut self, from: usize, to: Member, body: Body) {
        let epoch = self.state.nodes[from].shard_epoch;
        self.say_under(from, to, epoch, body);
    }

    fn say_under(&mut self, from: usize, to: Member, epoch: u8, body: Body) {
        let letter = Letter {
            from: self.state.me(from),
            to,
            epoch,
            body,
        };
        if to == letter.from {
            self.own.push_back(letter);
        } else if !self.state.nodes[from].is_dead(to) {
            self.state.post(letter);
        }
    }

    // ---- processes and leases ----

    pub fn start(&mut self, at: usize) {
        let database = &mut self.state.database;
        database.last_epoch += 1;
        let epoch = database.last_epoch;
        database.rows[at] = Some(Row {
            epoch,
            expires: LEASE,
        });
        let (owner, shard_epoch) = (database.owner, database.shard_epoch);
        let mut node = Node::gone();
        (node.epoch, node.left) = (epoch, OWN_LEASE);
        (node.owner, node.shard_epoch) = (owner, shard_epoch);
        self.state.nodes[at] = node;
        self.look(at);
    }

    /// Reads who is a member and who owns the shard, and takes the shard if its owner is gone.
    pub fn look(&mut self, at: usize) {
        let rows: Vec<u8> = self.state.database.rows.iter().map(epoch_of).collect();
        for (other, epoch) in rows.iter().enumerate().take(self.plan.nodes) {
            let last = &mut self.state.nodes[at].dead[other];
            // Lives end in order: all before the present one are over; without one, all that there were.
            let over = match epoch {
                0 => self.state.database.last_epoch,
                epoch => epoch - 1,
            };
            if *last < over {
                *last = over;
                self.members_down(at);
            }
        }
        let (owner, epoch) = (self.state.database.owner, self.state.database.shard_epoch);
        let gone = rows[usize::from(owner.node)] != owner.epoch;
        if gone && self.state.nodes[at].left > 0 {
            let me = self.state.me(at);
            let database = &mut self.state.database;
            (database.owner, database.shard_epoch) = (me, epoch + 1);
            return self.learn(at, me, epoch + 1);
        }
        self.learn(at, owner, epoch);
    }

    pub fn look_would_tell(&self, at: usize) -> bool {
        let (state, node) = (&self.state, &self.state.nodes[at]);
        let rows = state.database.rows.iter().enumerate().take(self.plan.nodes);
        let news = rows.into_iter().any(|(other, row)| {
            let over = match epoch_of(row) {
                0 => state.database.last_epoch,
                epoch => epoch - 1,
            };
            node.dead[other] < over
        });
        news || node.shard_epoch < state.database.shard_epoch
            || (node.left > 0 && node.is_dead(state.database.owner))
    }

    pub fn renewal_arrives(&mut self, at: usize) {
        let me = self.state.me(at);
        let Renewal::Sent(age) = self.state.nodes[at].renewal else {
            return;
        };
        let database = &mut self.state.database;
        let answer = match &mut database.rows[at] {
            Some(row) if row.epoch == me.epoch => {
                row.expires = LEASE;
                let taken = database.revoked.iter().filter(|(from, _)| *from == me);
                Some(taken.map(|(_, grant)| *grant).collect())
            }
            _ => None,
        };
        self.node(at).renewal = Renewal::Answered(age, answer);
    }

    pub fn renewed(&mut self, at: usize) {
        let unasked = self.plan.mutant == Mutant::ThawUnasked;
        let node = self.node(at);
        let Renewal::Answered(age, answer) = std::mem::replace(&mut node.renewal, Renewal::Idle)
        else {
            return;
        };
        let Some(taken) = answer else {
            *node = Node::gone();
            return;
        };
        // What was taken from it is gone before it may act any longer.
        if !unasked {
            for grant in taken {
                self.drop_token(at, grant);
            }
        }
        let node = self.node(at);
        node.left = node.left.max(OWN_LEASE.saturating_sub(age));
    }

    // ---- what a client wants ----

    /// Asks the coordinator, once under each ownership.
    pub fn ask(&mut self, at: usize) {
        let node = self.node(at);
        node.asked = node.shard_epoch;
        let owner = node.owner;
        self.say(at, owner, Body::Ask);
    }

    pub fn write(&mut self, at: usize) {
        let node = &self.state.nodes[at];
        let (Some(base), Work::Wanted(operation)) = (node.base, node.work) else {
            return;
        };
        let commit = Commit {
            by: self.state.me(at),
            operation,
            fence: (node.shard_epoch, node.forced),
            base,
            passed: false,
        };
        self.node(at).work = Work::Sent(commit);
        self.state.calls.push(Call::Commit(commit));
    }

    /// The right is confirmed under the ownership that is known: a commit made now carries its fence.
    pub fn is_asserted(&self, at: usize) -> bool {
        let node = &self.state.nodes[at];
        let since = match node.side {
            Side::Alone(grant) | Side::Surrendering(grant) => grant.epoch,
            Side::Shared(epoch) => epoch,
            Side::Away => return false,
        };
        since.max(node.reported) >= node.shard_epoch
            && !node.is_dead(node.owner)
            && node.refused < (node.shard_epoch, node.forced)
    }

    /// Everything is committed: the token goes back.
    pub fn surrendered(&mut self, at: usize) {
        if let Side::Surrendering(grant) = self.state.nodes[at].side {
            let shared = self.plan.shared;
            let node = self.node(at);
            (node.side, node.base, node.asked) = (Side::Away, None, 0);
            if shared {
                // What it has there stays, and is kept as a copy until the coordinator tells.
                node.side = Side::Shared(node.shard_epoch);
            }
            let owner = node.owner;
            self.say(at, owner, Body::Back(grant));
        }
    }

    /// A token counts for nothing any more, whether it is here or still on its way.
    fn drop_token(&mut self, at: usize, grant: Grant) {
        let remembers = self.plan.mutant != Mutant::TakesRevoked;
        let node = self.node(at);
        if node.side.grant() != Some(grant) {
            if remembers && !node.void.contains(&grant) {
                node.void.push(grant);
            }
            return;
        }
        (node.side, node.base, node.asked) = (Side::Away, None, 0);
        if matches!(node.work, Work::Sent(_)) {
            // Its client is told that it failed.
            node.work = Work::None;
        }
        // Nobody need wait for the end of this node's lease.
        let owner = node.owner;
        self.say(at, owner, Body::Back(grant));
    }

    // ---- messages ----

    pub fn hear(&mut self, letter: Letter) {
        let at = usize::from(letter.to.node);
        let node = &self.state.nodes[at];
        let blind = self.plan.mutant == Mutant::NoEpoch;
        if node.epoch == 0
            || (!blind && (letter.to.epoch != node.epoch || node.is_dead(letter.from)))
        {
            return;
        }
        match letter.body {
            Body::Ask | Body::Back(_) | Body::Report(_) => {
                let current = letter.epoch == node.shard_epoch;
                if current || blind {
                    self.coordinate(at, letter.from, letter.body);
                }
            }
            Body::ReportAsk => self.report_asked(at, letter.from, letter.epoch),
            _ if !blind && letter.epoch < node.reported => {}
            Body::Give(grant, _) if node.void.contains(&grant) => {
                // Who gave it forgot what was asked.
                self.node(at).asked = 0;
            }
            Body::Give(grant, forced) => {
                self.learn(at, letter.from, letter.epoch);
                let node = self.node(at);
                (node.side, node.base) = (Side::Alone(grant), None);
                node.forced = node.forced.max(forced);
            }
            Body::Share(forced) => {
                self.learn(at, letter.from, letter.epoch);
                let node = self.node(at);
                (node.side, node.base) = (Side::Shared(letter.epoch), None);
                node.forced = node.forced.max(forced);
            }
            Body::Surrender(grant) => match self.state.nodes[at].side {
                Side::Alone(held) if held == grant => {
                    self.node(at).side = Side::Surrendering(grant);
                }
                Side::Surrendering(held) if held == grant => {}
                _ => {
                    let owner = self.state.nodes[at].owner;
                    self.say(at, owner, Body::Back(grant));
                }
            },
            Body::Revoked(grant) => self.drop_token(at, grant),
        }
    }

    /// A newer owner is known.
    pub fn learn(&mut self, at: usize, owner: Member, epoch: u8) {
        let me = self.state.me(at);
        let node = self.node(at);
        if epoch <= node.shard_epoch {
            return;
        }
        (node.owner, node.shard_epoch, node.forced) = (owner, epoch, 0);
        node.role = Role::Other;
        if owner != me {
            return;
        }
        let mut silent = [0; NODES];
        for (life, row) in silent.iter_mut().zip(&self.state.database.rows) {
            *life = epoch_of(row);
        }
        self.node(at).role = Role::Rebuilding {
            silent,
            claims: Vec::new(),
            early: Vec::new(),
        };
        for (node, epoch) in (0..).zip(silent) {
            if epoch > 0 {
                self.say(at, Member { node, epoch }, Body::ReportAsk);
            }
        }
    }

    fn report_asked(&mut self, at: usize, from: Member, epoch: u8) {
        self.learn(at, from, epoch);
        let node = self.node(at);
        if epoch < node.shard_epoch || epoch <= node.reported {
            return;
        }
        node.reported = epoch;
        let held = match node.side {
            Side::Alone(grant) | Side::Surrendering(grant) => Held::Alone(grant),
            Side::Shared(_) => Held::Shared,
            Side::Away => Held::Nothing,
        };
        self.say_under(at, from, epoch, Body::Report(held));
    }
}

pub(crate) fn epoch_of(row: &Option<Row>) -> u8 {
    row.as_ref().map_or(0, |row| row.epoch)
}

impl Budget {
    pub fn of(plan: &Plan) -> Self {
        Self {
            asks: plan.asks,
            crashes: plan.crashes,
            starts: plan.starts,
            ticks: plan.ticks,
            forces: plan.forces,
            resends: plan.resends,
        }
    }
}
