//! All links of this node: opens and closes them as the membership says, lets callers in, and sends.
//!
//! Owns the table of peers and the tasks around it. Must never decide who is a member: only what [`Links::open`] named may
//! exchange messages, and nothing is delivered after [`Links::close`] returned.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sluice_lockmgr::{EpochRegistry, Member};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::hello::{Hello, Purpose, Refusal, Speaks, Welcome, read_word, write_word};
use super::peer::PeerLink;
use super::{DialError, Incoming, PeerStream, Peers, SendError, Stranger, Transport};
use crate::membership::{ClusterHandler, Held, Validity};

/// Time for the first words on an authenticated connection.
const HELLO_TIME: Duration = Duration::from_secs(2);
/// Callers in the stage of first words at once.
const CALLERS_MAX: usize = 64;
/// Strangers remembered for the administrator.
const STRANGERS_MAX: usize = 32;

/// What the links tell the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkNote {
    /// A connection to the peer stands.
    Connected(Member),
    /// It broke.
    Disconnected(Member),
    /// A call to its address was refused: nobody listens there.
    Refused(Member),
    /// The deputy does not answer: [`Peers::deputy_silent`].
    DeputySilent {
        /// Of which turn.
        turn: u64,
    },
    /// [`Peers::take_over`].
    TakeOver {
        /// From whom.
        from: Member,
        /// Under which of its turns.
        turn: u64,
        /// Which.
        shards: Vec<Held>,
    },
    /// [`Peers::complained`].
    Silent(Member),
    /// Somebody called whom we don't know as a member: the member list may be old.
    UnknownCaller,
}

/// What all links share.
pub(crate) struct Shared {
    pub me: Member,
    pub speaks: Speaks,
    pub cluster: [u8; 16],
    pub transport: Arc<dyn Transport>,
    pub registry: Arc<dyn EpochRegistry>,
    pub handler: OnceLock<Arc<dyn ClusterHandler>>,
    pub notes: mpsc::UnboundedSender<LinkNote>,
    pub stopped: CancellationToken,
    /// Peers whose messages go through the registry at present.
    pub relaying: AtomicUsize,
    /// There may be mail.
    pub mail: Notify,
}

impl Shared {
    pub(crate) fn note(&self, note: LinkNote) {
        // Nobody listens any more only while the node stops.
        let _ = self.notes.send(note);
    }

    pub(crate) fn hello(&self, to: Member, purpose: Purpose) -> Hello {
        Hello {
            speaks: self.speaks,
            cluster: self.cluster,
            from: self.me,
            to,
            purpose,
        }
    }

    /// Says hello on a stream and hears the answer.
    pub(crate) async fn greet(
        &self,
        stream: &mut PeerStream,
        hello: &Hello,
    ) -> Result<Welcome, DialError> {
        let words = async {
            write_word(stream.io.as_mut(), hello).await?;
            read_word(stream.io.as_mut()).await
        };
        match timeout(HELLO_TIME, words).await {
            Ok(Ok(Welcome::Refused(refusal))) => Err(refusal.into()),
            Ok(Ok(welcome)) => Ok(welcome),
            Ok(Err(error)) => Err(DialError::Unreachable(error.to_string())),
            Err(_) => Err(DialError::Unreachable("no answer in time".into())),
        }
    }
}

/// See the module's head.
pub(crate) struct Links {
    pub shared: Arc<Shared>,
    validity: Arc<Validity>,
    peers: RwLock<HashMap<Member, Arc<PeerLink>>>,
    strangers: Mutex<VecDeque<Stranger>>,
}

impl Links {
    pub(crate) fn new(shared: Shared, validity: Arc<Validity>) -> Arc<Self> {
        let links = Arc::new(Self {
            shared: Arc::new(shared),
            validity,
            peers: RwLock::default(),
            strangers: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&links).let_callers_in());
        links
    }

    /// Messages for a member are taken from now on, but none are exchanged before [`Self::connect`]. Idempotent.
    pub(crate) fn open(&self, member: Member, address: &str) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.peers.write().entry(member) {
            entry.insert(PeerLink::new(&self.shared, member, address.to_owned()));
        }
    }

    /// The member was announced: messages go and come from now on.
    pub(crate) fn connect(&self, member: Member) {
        if let Some(peer) = self.peer(member) {
            peer.start();
        }
    }

    /// It is a member no more; nothing from it is delivered after this.
    pub(crate) fn close(&self, member: Member) {
        let peer = self.peers.write().remove(&member);
        if let Some(peer) = peer {
            peer.close();
        }
    }

    /// Ends all links.
    pub(crate) fn stop(&self) {
        self.shared.stopped.cancel();
        let peers: Vec<_> = self.peers.write().drain().collect();
        for (_, peer) in peers {
            peer.close();
        }
    }

    pub(crate) fn peer(&self, member: Member) -> Option<Arc<PeerLink>> {
        self.peers.read().get(&member).cloned()
    }

    /// The version of the peer protocol in which it was spoken last with a member.
    pub(crate) fn protocol(&self, member: Member) -> Option<u32> {
        self.peer(member)?.protocol()
    }

    pub(crate) fn is_connected(&self, member: Member) -> bool {
        self.peer(member).is_some_and(|peer| peer.is_connected())
    }

    /// Whether any peer is out of reach other than through the registry.
    pub(crate) fn relay_in_use(&self) -> bool {
        self.shared.relaying.load(Ordering::Relaxed) > 0
    }

    /// Calls an address and sees whether this very incarnation answers.
    pub(crate) async fn call_back(&self, member: Member, address: &str) -> Result<(), DialError> {
        let mut stream = self.shared.transport.dial(address).await?;
        let hello = self.shared.hello(member, Purpose::CallBack);
        match self.shared.greet(&mut stream, &hello).await? {
            Welcome::CalledBack => Ok(()),
            _ => Err(DialError::Rejected("an answer to another question".into())),
        }
    }

    pub(crate) fn strangers(&self) -> Vec<Stranger> {
        self.strangers.lock().iter().cloned().collect()
    }

    fn remember(&self, stranger: Stranger) {
        let mut strangers = self.strangers.lock();
        if strangers.contains(&stranger) {
            return;
        }
        tracing::warn!(remote = %stranger.remote, reason = %stranger.reason, "a caller at the cluster port was turned away");
        strangers.push_front(stranger);
        strangers.truncate(STRANGERS_MAX);
    }

    async fn let_callers_in(self: Arc<Self>) {
        let room = Arc::new(tokio::sync::Semaphore::new(CALLERS_MAX));
        loop {
            let incoming = tokio::select! {
                incoming = self.shared.transport.accept() => incoming,
                () = self.shared.stopped.cancelled() => return,
            };
            match incoming {
                Ok(Incoming::Peer(stream)) => {
                    let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                        continue;
                    };
                    let links = Arc::clone(&self);
                    tokio::spawn(async move {
                        if timeout(HELLO_TIME, links.answer(stream)).await.is_err() {
                            tracing::debug!("a peer called and said nothing");
                        }
                        drop(permit);
                    });
                }
                Ok(Incoming::Stranger(mut stranger)) => {
                    // The port differs with each call; one line for each host is enough.
                    if let Some((host, _)) = stranger.remote.rsplit_once(':') {
                        stranger.remote = host.to_owned();
                    }
                    self.remember(stranger);
                }
                Err(error) => {
                    tracing::error!(%error, "the cluster port is closed; peers can't call this node");
                    return;
                }
            }
        }
    }

    async fn answer(&self, mut stream: PeerStream) {
        let hello: Hello = match read_word(stream.io.as_mut()).await {
            Ok(hello) => hello,
            Err(error) => {
                tracing::debug!(remote = %stream.remote, %error, "a peer's first word can't be read");
                return;
            }
        };
        let (welcome, link) = self.decide(&hello, &stream.remote);
        if let Err(error) = write_word(stream.io.as_mut(), &welcome).await {
            tracing::debug!(remote = %stream.remote, %error, "a caller was gone before the answer");
            return;
        }
        if let Some((peer, received, protocol)) = link {
            peer.install(stream, received, protocol);
        }
    }

    fn decide(&self, hello: &Hello, remote: &str) -> (Welcome, Option<(Arc<PeerLink>, u64, u32)>) {
        let refuse = |refusal| (Welcome::Refused(refusal), None);
        let ours = self.shared.speaks;
        let Some(protocol) = ours.common(hello.speaks) else {
            let why = format!("speaks peer protocol {}, this node {ours}", hello.speaks);
            self.turned_away(hello, remote, &why);
            return refuse(Refusal::Protocol(ours));
        };
        if hello.cluster != self.shared.cluster {
            self.turned_away(hello, remote, "belongs to another cluster");
            return refuse(Refusal::OtherCluster);
        }
        if hello.to != self.shared.me {
            return refuse(Refusal::NotMe);
        }
        let received = match hello.purpose {
            Purpose::CallBack => return (Welcome::CalledBack, None),
            Purpose::Link { received } => received,
        };
        let Some(peer) = self.peer(hello.from) else {
            let newest = self.peers.read().keys().map(|m| m.epoch).max();
            if newest.is_some_and(|newest| hello.from.epoch < newest) {
                self.turned_away(hello, remote, "is fenced");
            }
            self.shared.note(LinkNote::UnknownCaller);
            return refuse(Refusal::Unknown);
        };
        match peer.may_be_called() {
            Some(ours) => {
                let welcome = Welcome::Link {
                    received: ours,
                    protocol,
                };
                (welcome, Some((peer, received, protocol)))
            }
            None => refuse(Refusal::Busy),
        }
    }

    fn turned_away(&self, hello: &Hello, remote: &str, why: &str) {
        let host = remote.rsplit_once(':').map_or(remote, |(host, _)| host);
        self.remember(Stranger {
            remote: host.to_owned(),
            reason: format!("member {} {why}", hello.from),
        });
    }
}

impl Peers for Links {
    fn me(&self) -> Member {
        self.shared.me
    }

    fn may_act(&self) -> bool {
        self.validity.holds()
    }

    fn send(&self, to: Member, message: Bytes) -> Result<(), SendError> {
        let peers = self.peers.read();
        peers.get(&to).ok_or(SendError::NotAMember)?.send(message)
    }

    fn deputy_silent(&self, turn: u64) {
        self.shared.note(LinkNote::DeputySilent { turn });
    }

    fn complained(&self, of: Member) {
        self.shared.note(LinkNote::Silent(of));
    }

    fn take_over(&self, from: Member, turn: u64, shards: Vec<Held>) {
        self.shared.note(LinkNote::TakeOver { from, turn, shards });
    }
}
