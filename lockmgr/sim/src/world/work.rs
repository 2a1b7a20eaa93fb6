//! What clients do: lock, look at the newest version, commit on top of it or just read it, unlock.

use futures::FutureExt;
use sluice_lockmgr::{EpochRegistry, Member, Revocation};
use sluice_lockmgr_cluster::core::Event as TokenEvent;

use super::{Answer, Call, DATABASE_PATIENCE_MS, Event, World};
use crate::client::Step;
use crate::database::{Commit, Committed};
use crate::gate::{ClientId, Op};
use crate::{Mutant, invariants};

/// Pause of a client whose right is being confirmed by a new coordinator, or whose statement was not answered.
const RETRY_MS: u64 = 10;

impl World {
    /// A client begins its next operation, or goes on with this one.
    pub(super) fn client_goes_on(&mut self, member: Member, at: usize, owner: ClientId) {
        let Some(client) = self.client(member, at, owner) else {
            return;
        };
        match client.step {
            Step::Idle => self.begin(member, at),
            Step::Reading => self.read_head(member, at),
            Step::Committing { .. } => self.commit(member, at),
            // It gives up.
            Step::Waiting => self.give_up(member, at),
        }
    }

    fn client(&self, member: Member, at: usize, owner: ClientId) -> Option<&crate::client::Client> {
        self.node(member)?
            .clients
            .get(at)
            .filter(|client| client.owner == owner)
    }

    fn set_step(&mut self, member: Member, at: usize, step: Step) {
        let now = self.now;
        if let Some(client) = self.node_mut(member).and_then(|n| n.clients.get_mut(at)) {
            client.step = step;
            client.since = now;
        }
    }

    fn begin(&mut self, member: Member, at: usize) {
        let document = 1 + self.random.below(self.plan.documents);
        let exclusive = !self.random.one_in(3);
        self.next_operation += 1;
        let (now, operation) = (self.now, self.next_operation);
        let Some(node) = self.node_mut(member) else {
            return;
        };
        let owner = (member.id, member.epoch.0, node.next_owner);
        node.next_owner += 1;
        let Some(client) = node.clients.get_mut(at) else {
            return;
        };
        client.step = Step::Waiting;
        client.owner = owner;
        client.document = document;
        client.exclusive = exclusive;
        client.since = now;
        client.operation = operation;
        if self.random.one_in(25) {
            let patience = self.random.between(0, 200);
            self.after(patience, Event::Client(member, at, owner));
        }
        self.ask(member, document, Op::Lock(owner, exclusive));
        let elsewhere = 1 + self.random.below(self.plan.documents);
        self.settle_some(member, elsewhere);
    }

    fn give_up(&mut self, member: Member, at: usize) {
        let Some(client) = self.node(member).and_then(|n| n.clients.get(at)) else {
            return;
        };
        let (document, owner) = (client.document, client.owner);
        self.cancel(member, document, owner);
        self.let_go(member, document, owner);
        self.rest(member, at);
    }

    fn rest(&mut self, member: Member, at: usize) {
        let pause = match self.random.below(10) {
            0 => self.random.between(0, 400),
            _ => self.random.between(0, 4),
        };
        self.set_step(member, at, Step::Idle);
        if let Some(client) = self.node(member).and_then(|n| n.clients.get(at)) {
            let owner = client.owner;
            self.after(pause, Event::Client(member, at, owner));
        }
    }

    /// A client was told that it has the lock.
    pub(super) fn lock_granted(&mut self, member: Member, document: u64, owner: ClientId) {
        let found = self.node(member).and_then(|node| {
            let at = node.clients.iter().position(|c| c.owner == owner)?;
            (node.clients[at].step == Step::Waiting).then_some(at)
        });
        let holders = self.holders(document);
        if let Err(what) = invariants::single_writer::check(document, &holders) {
            self.violated("I1 single writer", what);
        }
        let Some(at) = found else {
            return self.let_go(member, document, owner);
        };
        let acknowledged = self
            .acknowledged
            .get(&document)
            .map_or(0, |(newest, _)| *newest);
        if let Some(client) = self.node_mut(member).and_then(|n| n.clients.get_mut(at)) {
            client.acknowledged = acknowledged;
        }
        self.set_step(member, at, Step::Reading);
        let known = self.node(member).and_then(|node| {
            let (term, version) = node.cache.get(&document)?;
            let same =
                node.residence(document) == Some(*term) || self.plan.mutant == Mutant::NoTerm;
            (same && node.may_act(self.now)).then_some(*version)
        });
        match known {
            Some(version) => self.has_version(member, at, version),
            None => self.read_head(member, at),
        }
    }

    fn read_head(&mut self, member: Member, at: usize) {
        let Some(client) = self.node(member).and_then(|n| n.clients.get(at)) else {
            return;
        };
        let call = Call::Head {
            client: at,
            owner: client.owner,
            document: client.document,
        };
        self.call(member, call);
    }

    fn has_version(&mut self, member: Member, at: usize, version: u64) {
        let Some(client) = self.node(member).and_then(|n| n.clients.get(at)) else {
            return;
        };
        let (document, exclusive, owner) = (client.document, client.exclusive, client.owner);
        let acknowledged = client.acknowledged;
        if exclusive {
            self.set_step(member, at, Step::Committing { base: version });
            return self.commit(member, at);
        }
        let reader = format!("{member}/{}", owner.2);
        let latest = self.database.head(document);
        if let Err(what) =
            invariants::coherent::check(document, &reader, acknowledged, version, latest)
        {
            self.violated("I5 coherent read", what);
        }
        self.remember(member, document, version);
        self.done(member, at);
    }

    /// What a node knows while it is alone on a document.
    fn remember(&mut self, member: Member, document: u64, version: u64) {
        if let Some(node) = self.node_mut(member)
            && let Some(term) = node.residence(document)
        {
            node.cache.insert(document, (term, version));
        }
    }

    fn done(&mut self, member: Member, at: usize) {
        self.report.operations += 1;
        let Some(client) = self.node(member).and_then(|n| n.clients.get(at)) else {
            return;
        };
        let (document, owner) = (client.document, client.owner);
        self.let_go(member, document, owner);
        self.rest(member, at);
    }

    fn commit(&mut self, member: Member, at: usize) {
        let Some(node) = self.node(member) else {
            return;
        };
        let Some(client) = node.clients.get(at) else {
            return;
        };
        let Step::Committing { base } = client.step else {
            return;
        };
        let (document, owner) = (client.document, client.owner);
        let Some(fence) = node.tokens.fence(document) else {
            return self.after(RETRY_MS, Event::Client(member, at, owner));
        };
        let commit = Commit {
            document,
            base,
            operation: client.operation,
            fence,
        };
        let call = Call::Commit {
            client: at,
            owner,
            commit,
        };
        self.call(member, call);
    }

    // ---- statements of the data ----

    /// `done`: it is carried out; `heard`: its answer reaches the node.
    pub(super) fn data_call(&mut self, member: Member, call: Call, done: bool, heard: bool) {
        let wait = match heard {
            true => self.network_delay(),
            false => DATABASE_PATIENCE_MS,
        };
        match call {
            Call::Head {
                client,
                owner,
                document,
            } => {
                let version = heard.then(|| self.database.head(document));
                let answer = Answer::Head {
                    client,
                    owner,
                    version,
                };
                self.after(wait, Event::Answer(member, answer));
            }
            Call::Commit {
                client,
                owner,
                commit,
            } => {
                let outcome = done.then(|| self.commit_arrives(member, owner, commit));
                let answer = Answer::Commit {
                    client,
                    owner,
                    outcome: outcome.filter(|_| heard),
                };
                self.after(wait, Event::Answer(member, answer));
            }
            Call::ForceFence(revocation) => {
                let Revocation {
                    document, grant, ..
                } = revocation;
                let Some(node) = self.node(member) else {
                    return;
                };
                let owned = node.tokens.owner(document);
                let fence = owned.filter(|(owner, _)| done && *owner == member);
                let fence = fence.and_then(|(_, epoch)| {
                    node.door
                        .force_fence(member, &revocation, epoch)
                        .now_or_never()
                });
                let fence = fence.and_then(Result::ok).filter(|_| heard);
                let event = TokenEvent::Fenced {
                    document,
                    grant,
                    fence,
                };
                self.after(wait, Event::Tokens(member, event));
            }
            _ => {}
        }
    }

    fn commit_arrives(&mut self, member: Member, owner: ClientId, commit: Commit) -> Committed {
        let before = self.database.head(commit.document);
        let superseded = !self
            .database
            .registry
            .may_commit(member, commit.document, commit.fence);
        let fenced = self.plan.mutant != Mutant::NoFence;
        let outcome = self.database.commit(member, commit, fenced);
        if self.database.head(commit.document) > before {
            let writer = format!("{member}/{}", owner.2);
            let holders = self.holders(commit.document);
            if superseded {
                let what = format!(
                    "{writer} committed document {} under a right that is superseded",
                    commit.document
                );
                self.violated("I3 fenced", what);
            }
            if let Err(what) = invariants::fenced::check(commit.document, &writer, &holders) {
                self.violated("I3 fenced", what);
            }
        }
        outcome
    }

    pub(super) fn answered(&mut self, member: Member, answer: Answer) {
        match answer {
            Answer::Head {
                client,
                owner,
                version,
            } => {
                if !self.still_has(member, client, owner) {
                    return;
                }
                match version {
                    Some(version) => self.has_version(member, client, version),
                    None => self.after(RETRY_MS, Event::Client(member, client, owner)),
                }
            }
            Answer::Commit {
                client,
                owner,
                outcome,
            } => self.commit_answered(member, client, owner, outcome),
        }
    }

    /// The client is still about this operation, and its lock was not taken from it.
    fn still_has(&mut self, member: Member, at: usize, owner: ClientId) -> bool {
        let Some(client) = self.client(member, at, owner) else {
            return false;
        };
        let document = client.document;
        let has = self.node(member).is_some_and(|node| {
            node.held
                .get(&document)
                .is_some_and(|held| held.contains_key(&owner))
        });
        if !has {
            self.rest(member, at);
        }
        has
    }

    fn commit_answered(
        &mut self,
        member: Member,
        at: usize,
        owner: ClientId,
        outcome: Option<Committed>,
    ) {
        let Some(client) = self.client(member, at, owner) else {
            return;
        };
        let (document, operation) = (client.document, client.operation);
        if let Some(Committed::Version(version)) = outcome {
            let (newest, told) = self.acknowledged.entry(document).or_default();
            *newest = (*newest).max(version);
            told.push((operation, version));
            self.report.commits += 1;
        }
        if !self.still_has(member, at, owner) {
            return;
        }
        match outcome {
            Some(Committed::Version(version)) => {
                self.remember(member, document, version);
                self.done(member, at);
            }
            Some(Committed::Conflict(head)) => {
                let acts = self.node(member).is_some_and(|node| node.may_act(self.now));
                if acts {
                    let what = format!(
                        "{member}/{} had document {document} for itself, and the head became {head}",
                        owner.2
                    );
                    self.violated("I2 lineage", what);
                }
                self.after(RETRY_MS, Event::Client(member, at, owner));
            }
            Some(Committed::Fenced) => {
                self.report.fenced += 1;
                self.after(RETRY_MS, Event::Client(member, at, owner));
            }
            None => self.after(RETRY_MS, Event::Client(member, at, owner)),
        }
    }

    /// Nobody waits too long once nothing goes wrong any more.
    pub(super) fn check_patience(&mut self, member: Member) {
        if !self.faults_end || self.now < self.healed_at {
            return;
        }
        let Some(node) = self.node(member) else {
            return;
        };
        let late = node
            .clients
            .iter()
            .filter(|client| client.step != Step::Idle)
            .find_map(|client| {
                let name = format!(
                    "{member}/{} for document {}",
                    client.owner.2, client.document
                );
                invariants::liveness::check(&name, client.since, self.healed_at, self.now).err()
            });
        if let Some(what) = late {
            let what = format!("{what}\n{}", self.explain());
            self.violated("I7 liveness", what);
        }
    }
}
