//! Messages to and from other nodes: sending, questions and answers, and what is not a token machine's matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_lockmgr::{
    CacheSink, ClientId, Entry, GateHost, LeaseId, ListFilter, Member, MemberId, Note, Op, OpenRef,
    SHARDS, ShardEpoch, ShardId, Ticket, shard_of,
};
use tokio::sync::oneshot;

use super::Inner;
use super::message::{Call, PeerMessage, Reply};
use super::pieces::{self, WHOLE_MAX_BYTES};
use super::sinks::StandIn;
use super::watch::{Awaited, Due};
use crate::core::{Event, TokenMachine};
use crate::membership::Held;
use crate::transport::{MESSAGE_MAX_BYTES, SendError};

/// How long to wait, unless they have another coordinator before that, until documents are asked about again whose coordinator is not
/// known or does not know yet.
const SETTLE_AGAIN: Duration = Duration::from_millis(5);
/// While coordinators change it is looked so often whether one of these has.
const SETTLE_LOOK: Duration = Duration::from_millis(2);
/// As `SETTLE_AGAIN`, after some times.
const SETTLE_AGAIN_MAX: Duration = Duration::from_millis(80);

/// How long a holder may take to commit for one that only looks, before it is asked to give the document back.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// How long a node is waited for that is to say what is locked there.
const LIST_PATIENCE: Duration = Duration::from_secs(3);

/// Entries that a node tells another for a listing; nobody reads more, and each has a few hundred bytes.
const LISTED_MAX: usize = 100_000;

/// A question on its way.
pub(super) struct Called {
    pub to: Member,
    /// It waits for the coordinator of these.
    shards: Vec<ShardId>,
    answer: oneshot::Sender<Reply>,
}

impl Inner {
    pub(super) fn send(&self, to: Member, message: &PeerMessage) {
        let bytes = message.to_bytes();
        if bytes.len() <= MESSAGE_MAX_BYTES {
            self.send_all(to, std::iter::once(bytes));
        } else if bytes.len() <= WHOLE_MAX_BYTES {
            tracing::debug!(%to, length = bytes.len(), "a long message goes in pieces");
            self.send_all(to, pieces::cut(&bytes));
        } else {
            tracing::error!(%to, length = bytes.len(), "a message to a node is too long, and is not sent; lower the limits of opens and ranges of a document");
            // Whoever asked must not wait for ever. A document whose state does not come is taken away by force.
            if let PeerMessage::Reply(number, _) = message {
                self.send(to, &PeerMessage::Reply(*number, Reply::Done(false)));
            }
        }
    }

    /// Sends messages with nothing in between.
    fn send_all(&self, to: Member, messages: impl Iterator<Item = Bytes>) {
        let mut late = self.late.lock();
        for bytes in messages {
            if let Some(queue) = late.get_mut(&to) {
                queue.push_back(bytes);
                continue;
            }
            match self.peers.send(to, bytes.clone()) {
                Ok(()) => {}
                Err(SendError::NotAMember) => tracing::debug!(%to, "not sent to a former member"),
                Err(error @ SendError::TooLarge) => tracing::error!(%to, %error, "not sent"),
                Err(SendError::Full) => {
                    late.entry(to).or_default().push_back(bytes);
                }
            }
        }
    }

    /// Sends what a link had no room for, in order.
    pub(super) fn send_late(&self) {
        let mut late = self.late.lock();
        late.retain(|to, queue| {
            while let Some(bytes) = queue.front() {
                match self.peers.send(*to, bytes.clone()) {
                    Err(SendError::Full) => return true,
                    Err(SendError::NotAMember) => return false,
                    Ok(()) | Err(SendError::TooLarge) => queue.pop_front(),
                };
            }
            false
        });
    }

    pub(super) fn received(self: &Arc<Self>, from: Member, bytes: &Bytes) {
        if self.is_lost() {
            return;
        }
        self.watch.heard(from);
        if let Some(message) = PeerMessage::from_bytes(bytes) {
            self.heard(from, message);
        }
    }

    fn heard(self: &Arc<Self>, from: Member, message: PeerMessage) {
        match message {
            PeerMessage::Token(message) => {
                let at = self.machines.of_shard(message.shard);
                self.step_at(at, Event::Message { from, message });
            }
            PeerMessage::Call(number, call) => self.called(from, number, call),
            PeerMessage::Reply(number, reply) => {
                if let Some(called) = self.calls.lock().remove(&number) {
                    // Who asked may be gone.
                    let _ = called.answer.send(reply);
                }
            }
            PeerMessage::Note(note) => {
                if let Some(host) = self.host.get() {
                    host.noted(from, note);
                }
            }
            PeerMessage::Ping(number) => self.pinged(from, number),
            PeerMessage::Pong(number) => self.ears.ponged(from, number),
            PeerMessage::Probe(number) => self.send(from, &PeerMessage::Probed(number)),
            PeerMessage::Probed(number) => self.watch.answered(from, number),
            PeerMessage::Silent { of, shards } => self.complained(of, &shards),
            PeerMessage::Late(of) => self.watch.is_late(of),
            PeerMessage::LeaseUnused(lease, by) => self.locks.leave_lease(lease, by),
            PeerMessage::Piece { last, bytes } => {
                let whole = self.pieces.take(from, last, &bytes);
                match whole.and_then(|whole| PeerMessage::from_bytes(&whole)) {
                    // Nobody sends that, and it could go on for as deep as a message is long.
                    Some(PeerMessage::Piece { .. }) => {
                        tracing::error!(%from, "a node sends pieces of pieces; they are dropped");
                    }
                    Some(message) => self.heard(from, message),
                    None => {}
                }
            }
        }
    }

    fn called(self: &Arc<Self>, from: Member, number: u64, call: Call) {
        match call {
            Call::Note(note) => {
                // It may be heard before it is announced; what it is told from now on must not miss it.
                self.members.lock().insert(from);
                // In its turn among the notes; the answer when it holds.
                if let Some(host) = self.host.get() {
                    host.noted(from, note);
                }
                let inner = Arc::clone(self);
                self.runtime.spawn(async move {
                    if let Some(host) = inner.host.get() {
                        host.notes_hold().await;
                    }
                    inner.send(from, &PeerMessage::Reply(number, Reply::Done(true)));
                });
            }
            Call::List {
                document,
                client,
                limit,
            } => {
                let filter = ListFilter {
                    document,
                    client,
                    limit,
                };
                let mut entries = self.locks.list(&filter);
                entries.truncate(LISTED_MAX);
                self.send(from, &PeerMessage::Reply(number, Reply::Entries(entries)));
            }
            Call::ForceRelease(id) => {
                let done = self.locks.force_release(id);
                self.send(from, &PeerMessage::Reply(number, Reply::Done(done)));
            }
            Call::Guards { turn, shards } => {
                let guards = |(shard, epoch): &Held| {
                    let at = self.machines.of_shard(*shard);
                    let guards = |m: &TokenMachine| m.guards(*shard, from, *epoch, turn);
                    self.machines.look_at(at, guards)
                };
                let all = shards.iter().all(guards);
                self.send(from, &PeerMessage::Reply(number, Reply::Done(all)));
            }
            Call::Settle { documents, holder } => {
                let inner = Arc::clone(self);
                self.runtime.spawn(async move {
                    let Settled { some, unknown } = if holder {
                        inner.settle_here(&documents).await
                    } else {
                        // Whoever asks has not told a later owner what it has: nobody has changed anything there before.
                        inner.settle_held(&documents, false).await
                    };
                    let reply = Reply::Settled { some, unknown };
                    inner.send(from, &PeerMessage::Reply(number, reply));
                });
            }
        }
    }

    /// Asks a node; `None` if it is or becomes no member.
    pub(super) async fn question(&self, to: Member, call: Call) -> Option<Reply> {
        self.question_about(to, call, Vec::new()).await
    }

    /// The same. `shards`: those that it must be the coordinator of; if it is silent somebody else is to be.
    async fn question_about(&self, to: Member, call: Call, shards: Vec<ShardId>) -> Option<Reply> {
        if !self.members.lock().contains(&to) {
            return None;
        }
        let number = self.number();
        let (sender, answer) = oneshot::channel();
        let called = Called {
            to,
            shards: shards.clone(),
            answer: sender,
        };
        self.calls.lock().insert(number, called);
        let _gone = Forget {
            inner: self,
            number,
        };
        // It may have gone since it was looked for, or this node, before there was something to drop.
        if !self.members.lock().contains(&to) || self.is_lost() {
            return None;
        }
        for shard in shards {
            self.watch.asks(to, shard);
        }
        self.send(to, &PeerMessage::Call(number, call));
        answer.await.ok()
    }

    fn pinged(&self, from: Member, number: u64) {
        if self.ears.pinged(from, number) {
            self.send(from, &PeerMessage::Pong(number));
        }
    }

    /// Somebody does not hear from the coordinator of these shards.
    fn complained(self: &Arc<Self>, of: Member, shards: &[ShardId]) {
        self.peers.complained(of);
        for shard in shards.iter().take(usize::from(SHARDS)) {
            let silent = Event::Silent { shard: *shard, of };
            self.step_at(self.machines.of_shard(*shard), silent);
        }
    }

    /// Of which coordinators answers are awaited.
    fn awaited(&self) -> Awaited {
        let asking = self.asking.lock();
        let mut awaited: Awaited = asking.values().filter_map(|asking| asking.to).collect();
        drop(asking);
        for called in self.calls.lock().values() {
            awaited.extend(called.shards.iter().map(|shard| (called.to, *shard)));
        }
        awaited
    }

    /// Looks whether coordinators are silent.
    pub(super) fn look_for_the_silent(self: &Arc<Self>) {
        for due in self.watch.due(|| self.awaited()) {
            match due {
                Due::Probe(member, number) => self.send(member, &PeerMessage::Probe(number)),
                Due::Late(of) => {
                    for member in self.others().into_iter().filter(|member| *member != of) {
                        self.send(member, &PeerMessage::Late(of));
                    }
                }
                Due::Complain(of, shards) => self.complain(of, shards),
                Due::TakeOver(from, turn, shards) => {
                    tracing::warn!(%from, shards = shards.len(), "a coordinator is silent; its deputy takes over what it does not hold");
                    self.peers.take_over(from, turn, shards);
                }
                Due::DeputySilent(turn) => self.peers.deputy_silent(turn),
            }
        }
    }

    fn complain(self: &Arc<Self>, of: Member, shards: Vec<ShardId>) {
        let owned = |shard: &ShardId| self.machines.owner(*shard) == Some(of);
        let (shards, moved): (Vec<_>, Vec<_>) = shards.into_iter().partition(owned);
        self.watch.moved(of, &moved);
        if shards.is_empty() {
            return;
        }
        self.complained(of, &shards);
        for member in self.others().into_iter().filter(|member| *member != of) {
            let shards = shards.clone();
            self.send(member, &PeerMessage::Silent { of, shards });
        }
    }

    pub(super) fn send_pings(&self) {
        for (member, number) in self.ears.pings_due() {
            self.send(member, &PeerMessage::Ping(number));
        }
    }

    /// Tells a node something that its copies depend on; returns when it has taken note, is no member any more, or reads no
    /// copies until it has.
    pub(super) async fn tell_reader(self: &Arc<Self>, to: Member, note: Note) {
        let owed = self.ears.told(to);
        let inner = Arc::clone(self);
        // Goes on when nobody waits for it any more: the node owes the answer until it is there.
        let mut answer = self.runtime.spawn(async move {
            // A node that can't be asked is no member any more.
            let _ = inner.question(to, Call::Note(note)).await;
            if let Some(ping) = inner.ears.answered(to, owed) {
                inner.send(to, &PeerMessage::Pong(ping));
            }
        });
        while let Some(wait) = self.ears.patience(to, owed) {
            if tokio::time::timeout(wait, &mut answer).await.is_ok() {
                return;
            }
        }
        tracing::debug!(%to, "a node that does not answer is not waited for: it reads nothing that it keeps");
    }

    pub(super) fn others(&self) -> Vec<Member> {
        self.members.lock().iter().copied().collect()
    }

    /// What all nodes list.
    pub(super) async fn list_everywhere(&self, filter: &ListFilter) -> Vec<Entry> {
        let mut entries = self.locks.list(filter);
        for member in self.others() {
            let asked = self.question(member, Call::list(filter));
            match tokio::time::timeout(LIST_PATIENCE, asked).await {
                Ok(Some(Reply::Entries(more))) => entries.extend(more),
                Ok(_) => {}
                Err(_) => {
                    tracing::warn!(%member, "a node does not say what is locked there; the list is without it");
                }
            }
        }
        entries.sort_by_key(|e| e.resource.document);
        if filter.limit != 0 {
            entries.truncate(filter.limit);
        }
        entries
    }

    // ---- changes that are acknowledged and not committed ----

    /// Asks those who coordinate the documents, until each is known to have nothing uncommitted.
    pub(super) async fn settle_all(self: &Arc<Self>, documents: &[u64]) -> bool {
        let mut settled = self.settle_once(documents).await;
        let mut pause = SETTLE_AGAIN;
        while !settled.unknown.is_empty() && !self.is_lost() && !self.is_stopping() {
            let unknown = std::mem::take(&mut settled.unknown);
            // Their shard is being taken over.
            pause = match self.other_deciders(&unknown, pause).await {
                true => SETTLE_AGAIN,
                false => (pause * 2).min(SETTLE_AGAIN_MAX),
            };
            settled.add(self.settle_once(&unknown).await);
        }
        settled.some
    }

    /// Who coordinates these documents, as far as is known, and whether that is this node and it knows who has them.
    fn deciders(&self, documents: &[u64]) -> Vec<(Option<Member>, bool)> {
        let decider = |document: &u64| {
            let look = |machine: &TokenMachine| {
                let owner = machine.owner(*document).map(|(owner, _)| owner);
                (owner, machine.holder(*document).is_ok())
            };
            self.machines.look(*document, look)
        };
        documents.iter().map(decider).collect()
    }

    /// Waits until that is otherwise; `false`: it took too long.
    async fn other_deciders(&self, documents: &[u64], patience: Duration) -> bool {
        let before = self.deciders(documents);
        let others = async {
            loop {
                let asserted = self.asserted.notified();
                tokio::pin!(asserted);
                // Counted among those who wait before it is looked, so that nothing is missed.
                asserted.as_mut().enable();
                if self.deciders(documents) != before {
                    return;
                }
                asserted.await;
                // Shards move by hundreds.
                tokio::time::sleep(SETTLE_LOOK).await;
            }
        };
        tokio::time::timeout(patience, others).await.is_ok()
    }

    async fn settle_once(self: &Arc<Self>, documents: &[u64]) -> Settled {
        let mut settled = Settled::default();
        let mut by_owner: Vec<(Member, Vec<u64>)> = Vec::new();
        for document in documents {
            let decided = self.machines.look(*document, |machine| {
                (machine.decides(*document), machine.owner(*document))
            });
            match decided {
                (true, _) => {}
                (false, None) => settled.unknown.push(*document),
                (false, Some((owner, _))) => sort_in(&mut by_owner, owner, *document),
            }
        }
        for (owner, documents) in by_owner {
            settled.add(if owner == self.me {
                self.settle_held(&documents, true).await
            } else {
                self.settle_at_owner(owner, documents).await
            });
        }
        settled
    }

    /// At the coordinator: asks those who are alone on them. `own`: for clients of this node.
    async fn settle_held(self: &Arc<Self>, documents: &[u64], own: bool) -> Settled {
        let mut settled = Settled::default();
        let mut by_holder: Vec<(Member, Vec<u64>)> = Vec::new();
        let mut by_deputy: BTreeMap<(Member, u64), Vec<(u64, ShardEpoch)>> = BTreeMap::new();
        for document in documents {
            let (holder, list) = self.machines.look(*document, |machine| {
                let list = machine.list_of(*document).filter(|_| own);
                (machine.holder(*document), list)
            });
            match holder {
                Ok(Some(holder)) => sort_in(&mut by_holder, holder, *document),
                Ok(None) => {
                    if let Some((deputy, turn, epoch)) = list {
                        let open = by_deputy.entry((deputy, turn)).or_default();
                        open.push((*document, epoch));
                    }
                }
                Err(_) => settled.unknown.push(*document),
            }
        }
        for (deputy, documents) in by_deputy {
            settled.add(self.settle_with_deputy(deputy, &documents).await);
        }
        for (holder, documents) in by_holder {
            settled.add(if holder == self.me {
                self.settle_here(&documents).await
            } else {
                self.settle_or_take(holder, documents).await
            });
        }
        settled
    }

    /// Nobody has these documents, as far as this node knows, which coordinates them. Its deputy may have given them out while it
    /// stood still, and says whether it has not.
    async fn settle_with_deputy(
        &self,
        (deputy, turn): (Member, u64),
        documents: &[(u64, ShardEpoch)],
    ) -> Settled {
        let shards = documents.iter().map(|(d, epoch)| (shard_of(*d), *epoch));
        let shards: BTreeSet<Held> = shards.collect();
        let shards = shards.into_iter().collect();
        let asked = self.question(deputy, Call::Guards { turn, shards });
        tokio::pin!(asked);
        let listed = |(document, epoch): &(u64, ShardEpoch)| {
            let list = |machine: &TokenMachine| machine.list_of(*document);
            self.machines.look(*document, list) == Some((deputy, turn, *epoch))
        };
        loop {
            match tokio::time::timeout(self.deputy_patience, &mut asked).await {
                Ok(Some(Reply::Done(true))) => return Settled::default(),
                Err(_) if documents.iter().all(listed) => self.watch.doubts(deputy, turn),
                _ => break,
            }
        }
        Settled {
            some: false,
            unknown: documents.iter().map(|(document, _)| *document).collect(),
        }
    }

    /// Asks a holder to commit. One that does not say that it has done so has the documents taken away, if need be by force: whoever
    /// asks would wait for it for ever.
    async fn settle_or_take(self: &Arc<Self>, holder: Member, documents: Vec<u64>) -> Settled {
        let asked = self.settle_at(holder, documents.clone(), true);
        if let Ok(settled) = tokio::time::timeout(SETTLE_PATIENCE, asked).await {
            return settled;
        }
        tracing::warn!(%holder, documents = documents.len(), "a node does not say that it has committed; its documents are asked back");
        self.take_all(documents).await
    }

    /// Has documents decided about here, or by their coordinator for all: by then whoever else had them has committed.
    async fn take_all(self: &Arc<Self>, documents: Vec<u64>) -> Settled {
        let some = !documents.is_empty();
        let taken = documents.into_iter().map(|document| {
            let inner = Arc::clone(self);
            self.runtime.spawn(async move {
                // Any call will do: it is decided here once the document is.
                inner.call(Op::Explain(document)).await;
            })
        });
        for task in taken.collect::<Vec<_>>() {
            let _ = task.await;
        }
        Settled {
            some,
            unknown: Vec::new(),
        }
    }

    /// Asks a coordinator, for as long as it is that: one that is silent is complained about as with any request.
    async fn settle_at_owner(&self, owner: Member, documents: Vec<u64>) -> Settled {
        let asked = self.settle_at(owner, documents.clone(), false);
        tokio::pin!(asked);
        loop {
            let moved = self.asserted.notified();
            tokio::pin!(moved);
            // Counted among those who wait before it is looked, so that nothing is missed.
            moved.as_mut().enable();
            let owned = |document: &u64| self.machines.owner(shard_of(*document)) == Some(owner);
            if !documents.iter().all(owned) {
                return Settled {
                    some: false,
                    unknown: documents,
                };
            }
            tokio::select! {
                settled = &mut asked => return settled,
                () = moved => {}
            }
        }
    }

    async fn settle_at(&self, to: Member, documents: Vec<u64>, holder: bool) -> Settled {
        // Who holds a document is waited for as long as it is a member.
        let mut shards: Vec<ShardId> = match holder {
            true => Vec::new(),
            false => documents.iter().map(|d| shard_of(*d)).collect(),
        };
        shards.sort_unstable();
        shards.dedup();
        let call = Call::Settle {
            documents: documents.clone(),
            holder,
        };
        match self.question_about(to, call, shards).await {
            Some(Reply::Settled { some, unknown }) => Settled { some, unknown },
            _ => Settled {
                some: false,
                unknown: documents,
            },
        }
    }

    async fn settle_here(&self, documents: &[u64]) -> Settled {
        let mut settled = Settled::default();
        if let Some(host) = self.host.get() {
            for document in documents {
                let alone = self.machines.look(*document, |m| m.is_alone(*document));
                if !(alone && self.peers.may_act()) {
                    // Somebody else may have it by now.
                    settled.unknown.push(*document);
                    continue;
                }
                // What it has just committed counts too: whoever asks may have read before that.
                settled.some |= host.settle(*document).await;
            }
        }
        settled
    }
}

/// What became of documents that were to be settled.
#[derive(Default)]
struct Settled {
    some: bool,
    unknown: Vec<u64>,
}

impl Settled {
    fn add(&mut self, more: Settled) {
        self.some |= more.some;
        self.unknown.extend(more.unknown);
    }
}

fn sort_in(by: &mut Vec<(Member, Vec<u64>)>, member: Member, document: u64) {
    match by.iter_mut().find(|(m, _)| *m == member) {
        Some((_, documents)) => documents.push(document),
        None => by.push((member, vec![document])),
    }
}

/// Forgets a question that nobody asks any more.
struct Forget<'a> {
    inner: &'a Inner,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.inner.calls.lock().remove(&self.number);
    }
}

/// What the lock table asks: through a handle that does not keep the service alive.
impl GateHost for Inner {
    fn sink(&self, open: OpenRef, client: ClientId) -> Option<Arc<dyn CacheSink>> {
        if client.member() == self.me.id {
            // The table has it from now on.
            return self.own_sinks.forget(open.id);
        }
        Some(Arc::new(StandIn {
            inner: self.this.clone(),
            member: client.member(),
            open: open.id,
        }))
    }

    fn abandoned(&self, open: OpenRef) {
        if let Some(inner) = self.this.upgrade() {
            inner.abandon(open);
        }
    }

    fn lease_unused(&self, member: MemberId, lease: LeaseId, by: Ticket) {
        if let Some(to) = self.live(member) {
            self.send(to, &PeerMessage::LeaseUnused(lease, by));
        }
    }
}
