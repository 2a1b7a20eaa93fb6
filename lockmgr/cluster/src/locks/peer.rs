//! Messages to and from other nodes: sending, questions and answers, and what is not a token machine's matter.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_lockmgr::{
    CacheSink, ClientId, Entry, GateHost, LeaseId, ListFilter, Member, MemberId, Note, Op, OpenRef,
    Ticket,
};
use tokio::sync::oneshot;

use super::Inner;
use super::message::{Call, PeerMessage, Reply};
use super::pieces::{self, WHOLE_MAX_BYTES};
use super::sinks::StandIn;
use crate::core::Event;
use crate::transport::{MESSAGE_MAX_BYTES, SendError};

/// How long to wait before documents whose coordinator is not known are asked about again.
const SETTLE_AGAIN: Duration = Duration::from_millis(10);

/// How long a holder may take to commit for one that only looks, before it is asked to give the document back.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// How long a node is waited for that is to say what is locked there.
const LIST_PATIENCE: Duration = Duration::from_secs(3);

/// Entries that a node tells another for a listing; nobody reads more, and each has a few hundred bytes.
const LISTED_MAX: usize = 100_000;

/// A question on its way.
pub(super) struct Called {
    pub to: Member,
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
            Call::Settle { documents, holder } => {
                let inner = Arc::clone(self);
                self.runtime.spawn(async move {
                    let Settled { some, unknown } = if holder {
                        inner.settle_here(&documents).await
                    } else {
                        inner.settle_held(&documents).await
                    };
                    let reply = Reply::Settled { some, unknown };
                    inner.send(from, &PeerMessage::Reply(number, reply));
                });
            }
        }
    }

    /// Asks a node; `None` if it is or becomes no member.
    pub(super) async fn question(&self, to: Member, call: Call) -> Option<Reply> {
        if !self.members.lock().contains(&to) {
            return None;
        }
        let number = self.number();
        let (sender, answer) = oneshot::channel();
        let called = Called { to, answer: sender };
        self.calls.lock().insert(number, called);
        let _gone = Forget {
            inner: self,
            number,
        };
        // It may have gone since it was looked for, or this node, before there was something to drop.
        if !self.members.lock().contains(&to) || self.is_lost() {
            return None;
        }
        self.send(to, &PeerMessage::Call(number, call));
        answer.await.ok()
    }

    fn pinged(&self, from: Member, number: u64) {
        if self.ears.pinged(from, number) {
            self.send(from, &PeerMessage::Pong(number));
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
        while !settled.unknown.is_empty() && !self.is_lost() && !self.is_stopping() {
            // Their shard is being taken over.
            tokio::time::sleep(SETTLE_AGAIN).await;
            let unknown = std::mem::take(&mut settled.unknown);
            settled.add(self.settle_once(&unknown).await);
        }
        settled.some
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
                self.settle_held(&documents).await
            } else {
                let holder = false;
                self.settle_at(owner, documents, holder).await
            });
        }
        settled
    }

    /// At the coordinator: asks those who are alone on them.
    async fn settle_held(self: &Arc<Self>, documents: &[u64]) -> Settled {
        let mut settled = Settled::default();
        let mut by_holder: Vec<(Member, Vec<u64>)> = Vec::new();
        for document in documents {
            match self.machines.look(*document, |m| m.holder(*document)) {
                Ok(Some(holder)) => sort_in(&mut by_holder, holder, *document),
                Ok(None) => {}
                Err(_) => settled.unknown.push(*document),
            }
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

    /// Asks a holder to commit. One that does not say that it has done so has the documents taken away, if need be by force: whoever
    /// asks would wait for it for ever.
    async fn settle_or_take(self: &Arc<Self>, holder: Member, documents: Vec<u64>) -> Settled {
        let asked = self.settle_at(holder, documents.clone(), true);
        if let Ok(settled) = tokio::time::timeout(SETTLE_PATIENCE, asked).await {
            return settled;
        }
        tracing::warn!(%holder, documents = documents.len(), "a node does not say that it has committed; its documents are asked back");
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
            some: true,
            unknown: Vec::new(),
        }
    }

    async fn settle_at(&self, to: Member, documents: Vec<u64>, holder: bool) -> Settled {
        let call = Call::Settle {
            documents: documents.clone(),
            holder,
        };
        match self.question(to, call).await {
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
