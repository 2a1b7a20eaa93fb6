//! The lock table of one node of a cluster: it decides only about documents that it has been admitted to.
//!
//! Owns the gate: which documents are decided about here, and how a document's state comes in and goes out. The gate is
//! asked under the same mutex as the table changes, so a document that was exported is never decided about afterwards.
//! Who admits whom is the token machine's matter (`sluice-lockmgr-cluster`).
//!
//! **How to use it.** For an own call: make an [`Op`], [`GatedLocks::begin`] it. [`NotHere`] means ask the coordinator:
//! send the op with a [`Ticket`] (that of `NotHere` if it has one, else a fresh one, kept for all tries of this call) and
//! remember the op's sink under `OpenId(ticket)`: an open gets the number of its ticket, so later breaks name it. For a
//! call of another node: decode, [`Op::put_sink`], `begin` with the ticket that came with it; an answered open asked
//! again by its ticket is answered again. A wait whose document leaves ends in [`NotHere`] with its ticket: the waiter's
//! place went along in the [`DocumentState`] and is kept some seconds; asking again by the ticket takes it up, with the
//! patience that was left. Dropping a [`Waiting`] gives the call up.
//!
//! **Freezing** makes every call `NotHere` and `residence` `None`, stops timers, and keeps what the table has to say until
//! the node may act again, so that nothing is granted.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::cache_grant::{CacheSink, GrantKey, LeaseId};
use crate::document_state::{DocumentState, waiter_client};
use crate::epoch::MemberId;
use crate::listing;
use crate::obstacle::{Ask, Granted};
use crate::op::{Op, OpAnswer};
use crate::outcome::{Denial, Entry};
use crate::range::ByteRange;
use crate::request::IoKind;
use crate::service::{Clock, ListFilter, LockOptions};
use crate::shards::{Elsewhere, Shards, Started, State};
use crate::table::{IdHasher, LockTable};
use crate::types::{ClientId, Now, OpenId, OpenRef, ResourceId, Ticket, WaiterId};
use crate::wait::{Moved, Outcome, Wait};

/// What the gate asks of its owner. Held weakly.
pub trait GateHost: Send + Sync {
    /// The sink of an open that comes in: for a client of this node its own, else one that stands for it. Called before
    /// the document is locked.
    fn sink(&self, open: OpenRef, client: ClientId) -> Option<Arc<dyn CacheSink>>;
    /// An open was granted to a caller that is gone, and its document is not here: close it where it is. If that answers
    /// that something is to be deleted, say [`Op::Deleted`] without deleting: it was never used.
    fn abandoned(&self, open: OpenRef);
    /// An open of a client of another node has ended that used a lease: that node is to call
    /// [`GatedLocks::leave_lease`].
    fn lease_unused(&self, member: MemberId, lease: LeaseId, by: Ticket);
}

/// How a document is decided about here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// No other node acts on it, since this term.
    Alone(u64),
    /// For other nodes too.
    Shared,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission {
    pub residence: Residence,
    /// When it was asked for last.
    pub used: Now,
}

pub(crate) type Admitted = HashMap<u64, Admission, BuildHasherDefault<IdHasher>>;

/// The document is not decided about here. `ticket`: under this number the call waited here, and its place has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHere {
    /// See [`NotHere`].
    pub ticket: Option<Ticket>,
}

/// A call that was let through.
pub enum Begun {
    /// Here is the answer.
    Done(OpAnswer),
    /// It waits.
    Waiting(Waiting),
}

/// A call that waits; dropping it gives it up.
pub struct Waiting {
    wait: Wait,
    opens: bool,
}

impl Waiting {
    /// The number under which it stands in line.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.wait.ticket()
    }

    /// The answer, when it comes.
    ///
    /// # Errors
    /// [`NotHere`] if the document leaves first.
    pub async fn answer(self) -> Result<OpAnswer, NotHere> {
        let (ticket, opens) = (self.ticket(), self.opens);
        match self.wait.answer().await {
            Ok(outcome) => Ok(answer_of(outcome, opens)),
            Err(Moved) => Err(NotHere {
                ticket: Some(ticket),
            }),
        }
    }
}

fn answer_of(outcome: Outcome, opens: bool) -> OpAnswer {
    match outcome {
        Ok(Granted::Opened(opened)) => OpAnswer::Opened(Ok(opened)),
        Ok(Granted::Done) => OpAnswer::Done(Ok(())),
        Err(denial) if opens => OpAnswer::Opened(Err(denial)),
        Err(denial) => OpAnswer::Done(Err(denial)),
    }
}

/// What was behind the gate of a document.
#[derive(Default)]
pub struct Exported {
    /// `None`: nobody had or wanted anything.
    pub state: Option<DocumentState>,
    /// Who is told about the opens of this node's own clients: keep them by open.
    pub sinks: Vec<(OpenRef, Arc<dyn CacheSink>)>,
}

/// See the module's head. A handle, cheap to clone.
#[derive(Clone)]
pub struct GatedLocks {
    shards: Arc<Shards>,
}

impl GatedLocks {
    /// A table of node `me` that is admitted to nothing yet. `start` tells the node's incarnations apart, so that numbers
    /// are never used twice: for example milliseconds since some day, times 64.
    #[must_use]
    pub fn new(options: LockOptions, clock: Arc<dyn Clock>, me: MemberId, start: u64) -> Self {
        let shards = Shards::new((&options).into(), clock, Some((me, start)));
        Self {
            shards: Arc::new(shards),
        }
    }

    /// Names the owner, once.
    pub fn attach(&self, host: Weak<dyn GateHost>) {
        // A second owner would be a mistake of composition; the first one stays.
        let _ = self.shards.host.set(host);
    }

    /// Runs timers until [`GatedLocks::stop`]. Spawn it once.
    pub async fn run_timers(&self) {
        while !self.shards.is_stopping() {
            self.shards.sleep_until_due().await;
            self.shards.tick();
        }
    }

    /// Carries out what is due now; for runtimes and tests that own the time.
    pub fn tick(&self) {
        self.shards.tick();
    }

    /// Ends all waits, and new ones, with [`Denial::Stopping`].
    pub fn stop(&self) {
        self.shards.stop();
    }

    /// See the module's head.
    pub fn freeze(&self, frozen: bool) {
        self.shards.set_frozen(frozen);
    }

    // ---- calls ----

    /// A number for a call on this document; see the module's head.
    #[must_use]
    pub fn ticket(&self, document: u64) -> Ticket {
        self.shards.ticket(document)
    }

    /// Begins a call. Own calls bring their sink along; see [`Op::put_sink`] for others.
    ///
    /// # Errors
    /// [`NotHere`], with the ticket of the call if it had one.
    pub fn begin(&self, op: &Op, ticket: Option<Ticket>) -> Result<Begun, NotHere> {
        let begun = match ask_of(op) {
            Some(ask) => self.start(ask, ticket),
            None => {
                let document = op.document();
                let call = |table: &mut LockTable, now| {
                    let call = |table: &mut LockTable| answer_now(table, now, op);
                    table.once(document, ticket, call, |answer| op.changes(answer))
                };
                self.shards.with_here(document, call).map(Begun::Done)
            }
        };
        begun.map_err(|Elsewhere| NotHere { ticket })
    }

    fn start(&self, ask: Ask<'_>, ticket: Option<Ticket>) -> Result<Begun, Elsewhere> {
        let opens = matches!(ask, Ask::Open(_));
        Ok(match self.shards.start(ask, ticket, None)? {
            Started::Done(outcome) => Begun::Done(answer_of(outcome, opens)),
            Started::Wait(wait) => Begun::Waiting(Waiting { wait, opens }),
        })
    }

    /// Ends the wait of a call by its number; false if it does not wait (any more). What it was granted is its caller's to
    /// give back.
    pub fn give_up(&self, document: u64, ticket: Ticket) -> bool {
        self.shards.give_up(document, WaiterId(ticket.0))
    }

    /// As [`crate::LockService::try_io`].
    ///
    /// # Errors
    /// [`NotHere`].
    pub fn try_io(
        &self,
        open: OpenRef,
        kind: IoKind,
    ) -> Result<Option<Result<(), Denial>>, NotHere> {
        let answer = self.shards.with_here(open.resource.document, |table, now| {
            table.request_no_wait(now, Ask::OpenIo { open, kind })
        });
        answer.map_err(|Elsewhere| NotHere { ticket: None })
    }

    /// Notes that a lease of an own client is used by the call with this ticket, before its first try. The note goes
    /// with the guard, or, once that is told to keep it, with the open.
    ///
    /// # Errors
    /// [`Denial::LeaseKeyInUse`].
    pub fn enter_lease(
        &self,
        lease: LeaseId,
        resource: ResourceId,
        by: Ticket,
    ) -> Result<LeaseUse, Denial> {
        self.shards.leases.enter(lease, resource, by)?;
        Ok(LeaseUse {
            shards: Arc::clone(&self.shards),
            lease,
            by: Some(by),
        })
    }

    /// An open of an own client that was decided about elsewhere has ended; no harm if it is unknown.
    pub fn leave_lease(&self, lease: LeaseId, by: Ticket) {
        self.shards.leases.leave(lease, by);
    }

    /// As [`crate::LockService::lease_resource`].
    #[must_use]
    pub fn lease_resource(&self, lease: LeaseId) -> Option<ResourceId> {
        self.shards.leases.resource(lease)
    }

    /// Everything here that matches.
    #[must_use]
    pub fn list(&self, filter: &ListFilter) -> Vec<Entry> {
        listing::list(&self.shards, filter)
    }

    /// As [`crate::LockService::force_release`], if it is here.
    #[must_use]
    pub fn force_release(&self, id: OpenId) -> bool {
        self.shards
            .with_shard_of_id(id.0, |table, now| table.force_release(now, id.0))
    }

    // ---- the gate ----

    /// How a document is decided about here; `None` if it is not, or nothing may be.
    #[must_use]
    pub fn residence(&self, document: u64) -> Option<Residence> {
        self.shards.residence(document)
    }

    /// Opens the gate of a document, or changes how it is decided about. First puts in what is given, without checks.
    pub fn admit(&self, document: u64, residence: Residence, states: Vec<DocumentState>) {
        let sinks: HashMap<OpenRef, Arc<dyn CacheSink>> = match self.shards.host() {
            Some(host) => states
                .iter()
                .flat_map(DocumentState::heard_opens)
                .filter_map(|(open, client)| Some((open, host.sink(open, client)?)))
                .collect(),
            None => HashMap::new(),
        };
        self.shards.with_state(document, |state, now| {
            for part in states.into_iter().filter(|s| s.document() == document) {
                state
                    .table
                    .merge(now, part, &|open| sinks.get(&open).cloned());
            }
            if let Some(admitted) = &mut state.admitted {
                let used = now;
                admitted.insert(document, Admission { residence, used });
            }
        });
    }

    /// Keeps a document for those who take NFS locks again that were lost with `node`, for that long. Where its gate is closed
    /// this is to be done right before it is opened.
    pub fn keep_for_reclaim(&self, document: u64, node: &str, keep: Duration) {
        let holder = listing::left_holder(node);
        self.shards.with_state(document, |state, now| {
            state.table.keep_for_reclaim(now, document, &holder, keep);
        });
    }

    /// Keeps it longer, if it still is: for that long from now on.
    pub fn keep_longer(&self, document: u64, keep: Duration) {
        self.shards.with_state(document, |state, now| {
            state.table.keep_longer(now, document, keep);
        });
    }

    /// Closes the gate and takes everything out. `None`: it was closed.
    #[must_use]
    pub fn export(&self, document: u64) -> Option<Exported> {
        self.leave(document, |_| true)
    }

    /// Closes the gate if nothing is behind it; false if it stays open.
    #[must_use]
    pub fn close_if_idle(&self, document: u64) -> bool {
        let idle = |state: &State| state.table.document(document).is_none();
        self.leave(document, idle).is_some()
    }

    /// Closes the gate and takes everything out, if nobody waits for another and only clients of `only` have or want
    /// anything (`None`: nobody has). `None`: it stays open.
    #[must_use]
    pub fn hand_back(&self, document: u64, only: Option<MemberId>) -> Option<Exported> {
        self.leave(document, |state| {
            let Some(d) = state.table.document(document) else {
                return true;
            };
            let waits = d.queue.iter().any(|w| !w.style.is_place());
            !waits && holders(d).iter().all(|member| Some(*member) == only)
        })
    }

    /// Closes the gate and keeps what the own clients have; what others have is forgotten without a word. For a shard
    /// that is handed over: every node tells the new owner its own part.
    #[must_use]
    pub fn relinquish(&self, document: u64) -> Option<Exported> {
        let me = self.shards.me.unwrap_or_default();
        self.take(document, |_| true, &|client| client.member() == me)
    }

    /// Closes the gate, forgets everything behind it and tells the own clients that it is lost. Waits end in
    /// [`NotHere`].
    pub fn forget(&self, document: u64) {
        let me = self.shards.me.unwrap_or_default();
        self.shards.with_state(document, |state, now| {
            if let Some(admitted) = &mut state.admitted {
                admitted.remove(&document);
            }
            send_away(state, document);
            state.table.lose(now, document, me);
        });
    }

    /// Takes away everything that clients of a node have or want, in all documents: it is gone. Others' waits look
    /// again. Deletions that were left to it are not carried out.
    pub fn drop_member(&self, member: MemberId) {
        self.shards.each_state(|state, now| {
            let documents: Vec<u64> = state.table.documents().map(|d| d.id).collect();
            for document in documents {
                state.table.drop_member(now, document, member);
            }
        });
    }

    /// The same in one document.
    pub fn drop_member_of(&self, document: u64, member: MemberId) {
        self.shards.with_state(document, |state, now| {
            state.table.drop_member(now, document, member);
        });
    }

    /// The nodes whose clients have or want something, in order.
    #[must_use]
    pub fn holders(&self, document: u64) -> Vec<MemberId> {
        self.shards.with_state(document, |state, _| {
            let document = state.table.document(document);
            document.map_or_else(Vec::new, holders)
        })
    }

    /// What one node's clients have and want, with a version that is greater for what was asked for later. `None`: the
    /// document is not decided about here. `answered`: the call whose answer goes with it; answers to the node's other calls
    /// that are not on their way yet are part of it, see [`GatedLocks::answer_sent`].
    #[must_use]
    pub fn part_of(
        &self,
        document: u64,
        member: MemberId,
        answered: Option<Ticket>,
    ) -> Option<(u64, Option<DocumentState>)> {
        self.shards.with_state(document, |state, now| {
            if !state.admitted.as_ref()?.contains_key(&document) {
                return None;
            }
            let of = |client: ClientId| client.member() == member;
            let part = state.table.document(document);
            let part = part.and_then(|d| DocumentState::of(d, now, &of));
            let part = part.and_then(|part| part.without_answer(answered));
            Some((state.table.next_revision(), part))
        })
    }

    /// The answer to a call of another node that [changed](Op::changes) something is on its way, before anything else that
    /// tells of the change; or nobody waits for it. Until then it is part of what that node has, so that whoever is asked
    /// again after this node has gone does not carry the call out twice.
    pub fn answer_sent(&self, document: u64, ticket: Ticket) {
        self.shards.with_state(document, |state, _| {
            state.table.answer_sent(document, ticket);
        });
    }

    /// Documents that nobody has asked for during this time and that have nothing behind their gate, at most `limit`.
    #[must_use]
    pub fn idle_documents(&self, unused_for: Duration, limit: usize) -> Vec<u64> {
        let mut idle = Vec::new();
        self.shards.each_state(|state, now| {
            let entries = state.admitted.iter().flatten();
            let unused = entries.filter(|(document, entry)| {
                now.since(entry.used) >= unused_for && state.table.document(**document).is_none()
            });
            let room = limit.saturating_sub(idle.len());
            idle.extend(unused.map(|(document, _)| *document).take(room));
        });
        idle
    }

    fn leave(&self, document: u64, may: impl FnOnce(&State) -> bool) -> Option<Exported> {
        self.take(document, may, &|_| true)
    }

    /// Closes the gate if it is open and may be closed, and takes out what these clients have.
    fn take(
        &self,
        document: u64,
        may: impl FnOnce(&State) -> bool,
        keep: &dyn Fn(ClientId) -> bool,
    ) -> Option<Exported> {
        let me = self.shards.me.unwrap_or_default();
        self.shards.with_state(document, |state, now| {
            if !state.admitted.as_ref()?.contains_key(&document) || !may(state) {
                return None;
            }
            state.admitted.as_mut()?.remove(&document);
            send_away(state, document);
            let Some(d) = state.table.take(now, document) else {
                return Some(Exported::default());
            };
            let own = d.opens.iter().filter(|o| o.claim.client.member() == me);
            let sinks = own.filter_map(|o| {
                let open = OpenRef {
                    resource: d.resource(o.stream),
                    id: o.id,
                };
                Some((open, o.sink.clone()?))
            });
            Some(Exported {
                sinks: sinks.collect(),
                state: DocumentState::of(&d, now, keep),
            })
        })
    }
}

/// Callers that wait for a document ask again elsewhere.
fn send_away(state: &mut State, document: u64) {
    let Some(d) = state.table.document(document) else {
        return;
    };
    for waiter in &d.queue {
        if let Some(caller) = state.waiting.remove(&waiter.id) {
            state.moved.push(caller);
        }
    }
}

fn holders(d: &crate::document::Document) -> Vec<MemberId> {
    let mut members: BTreeSet<MemberId> = BTreeSet::new();
    members.extend(d.opens.iter().map(|o| o.claim.client.member()));
    members.extend(d.told.iter().map(|(_, client)| client.member()));
    members.extend(d.grants.iter().filter_map(|g| match g.key {
        GrantKey::Delegation(client) => Some(client.member()),
        GrantKey::Oplock(_) | GrantKey::Lease(_) => None,
    }));
    let waiters = d.queue.iter().filter_map(|w| waiter_client(d, w));
    members.extend(waiters.map(ClientId::member));
    members.into_iter().collect()
}

/// The request behind a call that may wait.
fn ask_of(op: &Op) -> Option<Ask<'_>> {
    Some(match op {
        Op::Open { request, .. } => Ask::Open(request),
        Op::Io { open, kind } => Ask::OpenIo {
            open: *open,
            kind: *kind,
        },
        Op::IoWithoutOpen(request) => Ask::Io(request),
        Op::BreakCachesBeforeMove {
            resource,
            actor,
            open,
        } => Ask::Move {
            resource: *resource,
            actor,
            open: open.map(|o| o.id),
        },
        Op::Lock(request) => Ask::Ranges(request),
        Op::LockOwned(request) => Ask::OwnedRange(request),
        _ => return None,
    })
}

/// Carries out a call that never waits.
fn answer_now(table: &mut LockTable, now: Now, op: &Op) -> OpAnswer {
    match op {
        Op::Close { open, deleting } => OpAnswer::Closed(table.close(now, *open, *deleting)),
        Op::Deleted(resource) => {
            table.deleted(now, *resource);
            OpAnswer::Done(Ok(()))
        }
        Op::Reshare {
            open,
            access,
            share,
        } => OpAnswer::Done(table.reshare(now, *open, *access, *share)),
        Op::SetDeletePending { open, pending } => {
            OpAnswer::Done(table.set_delete_pending(now, *open, *pending))
        }
        Op::State(open) => OpAnswer::State(table.state(*open)),
        Op::Disconnect { open, keep } => OpAnswer::Done(table.disconnect(now, *open, *keep)),
        Op::Reclaim {
            open, actor, sink, ..
        } => OpAnswer::Opened(table.reclaim(now, *open, actor.clone(), sink.clone())),
        Op::ReleasePlace { resource, client } => {
            table.release_place(now, *resource, *client);
            OpAnswer::Done(Ok(()))
        }
        Op::Unlock { open, range } => OpAnswer::Unlocked(table.unlock(now, *open, *range)),
        Op::UnlockOwned {
            resource,
            client,
            owner,
            range,
        } => {
            let range = owner.map_or(ByteRange::WHOLE, |_| *range);
            table.unlock_owned(now, *resource, *client, *owner, range);
            OpAnswer::Done(Ok(()))
        }
        Op::TestOwned(request) => OpAnswer::Tested(table.test_owned(request)),
        Op::AcknowledgeBreak(ack) => {
            let (resource, key, state) = ack.parts();
            OpAnswer::Acknowledged(table.acknowledge(now, resource, key, state))
        }
        Op::Explain(document) => {
            let document = table.document(*document);
            let entries = document.map(|d| listing::entries(d, now, None));
            OpAnswer::Entries(entries.unwrap_or_default())
        }
        Op::Open { .. }
        | Op::Io { .. }
        | Op::IoWithoutOpen(_)
        | Op::BreakCachesBeforeMove { .. }
        | Op::Lock(_)
        | Op::LockOwned(_) => op.lost(),
    }
}

/// See [`GatedLocks::enter_lease`].
pub struct LeaseUse {
    shards: Arc<Shards>,
    lease: LeaseId,
    by: Option<Ticket>,
}

impl LeaseUse {
    /// The call became an open: the note goes with that.
    pub fn keep(mut self) {
        self.by = None;
    }
}

impl Drop for LeaseUse {
    fn drop(&mut self) {
        if let Some(by) = self.by {
            self.shards.leases.leave(self.lease, by);
        }
    }
}
