//! What becomes of NLM locks whose node is gone: their clients are told (SM_NOTIFY) and take them again by LOCK with `reclaim`.
//!
//! A node that starts tells those that it remembers from before; when a node of the cluster is lost, the first of the others
//! tells its. New locks must not overtake those that are taken again: the lock table keeps everybody off the documents concerned for
//! some time, through whichever protocol and node (`lock_notes.rs` in the file layer), and a new NLM lock that meets what is kept is
//! answered DENIED_GRACE_PERIOD, upon which clients ask again by themselves. Nobody waits elsewhere.
//!
//! Clients of this node from whom something was taken by force are told in the same way: nothing else tells an NLM client that a
//! lock is gone. They take all their locks again; those that they still have are granted as they are.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_vfs::{Peer, Protocol, Vfs, VfsError};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::notice;
use super::remembered::{LockClient, Remembered, of_node};
use crate::call::Call;
use crate::server::Head;

/// How long further losses by force are waited for before clients are told.
const LOSSES_PAUSE: Duration = Duration::from_millis(200);

/// Pauses before each attempt to tell a client; some quarter of an hour in all.
const TELL_PAUSES: [Duration; 9] = [
    Duration::ZERO,
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(240),
    Duration::from_secs(480),
];
/// Pause after a failed attempt to read whom to tell.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Pauses after attempts to note that clients are told.
const NOTE_PAUSES: [Duration; 3] = [Duration::from_secs(1); 3];
/// Clients told at a time.
const TOLD_AT_ONCE: usize = 64;
/// How long a lock that is taken again waits for who is in its way.
const AGAIN_WITHIN: Duration = Duration::from_secs(3);
/// Pause between two looks.
const AGAIN_PAUSE: Duration = Duration::from_millis(50);
/// For how long it is taken as known that a node's clients were told lately.
const TOLD_ASKED: Duration = Duration::from_secs(1);
/// For how long the loss of a node is remembered, in case the one that tells its clients is lost too.
const LOSS_REMEMBERED: Duration = Duration::from_secs(60);

/// The number of starts and losses: each makes a state of the server that clients have not heard of.
const STATE: &str = "nfs.nsm_state";

/// See the module's head.
pub(crate) struct Recovery {
    remembered: Remembered,
    /// Who had locks before this start.
    before: Vec<LockClient>,
    began: SystemTime,
    /// The latest telling of each other node's clients that was found, and when it was found.
    told: Mutex<HashMap<u16, (u64, Instant)>>,
    /// Nodes, by name, whose clients were told lately, and when that was read.
    maybe_lost: Mutex<HashMap<String, Instant>>,
}

impl Recovery {
    /// Reads whom to tell. Before the first request is served, so that no lock comes before those that are taken again.
    pub(crate) async fn begin(vfs: &Vfs) -> Self {
        let read = async |vfs: Vfs| {
            let start = vfs.next_number(STATE).await?;
            let number = Bytes::from(vfs.member().to_string());
            vfs.keep(&number_of(vfs.node_name()), number).await?;
            Ok((start, of_node(&vfs, vfs.member()).await?))
        };
        let (start, before) = insist(vfs, read).await.unwrap_or_default();
        Self {
            remembered: Remembered::new(vfs.member(), start, before.clone()),
            before,
            began: SystemTime::now(),
            told: Mutex::default(),
            maybe_lost: Mutex::default(),
        }
    }

    /// Remembers a client that is about to lock something.
    pub(super) async fn remember(&self, call: &Call<'_>) -> Result<(), VfsError> {
        let vfs = &call.head.vfs;
        self.remembered.add(vfs, call.address(), call.called).await
    }

    /// After a refusal, whether a request that takes again what was lost, and came at `since`, is to be tried once more. Who decides
    /// about the document may hear of the loss later than the client, and has the lost lock itself until then: what an NFS client
    /// of another node, or of this one's last run, has is waited for a moment, if that node's clients were told of a loss lately.
    pub(super) async fn once_more(&self, vfs: &Vfs, refused: &VfsError, since: Instant) -> bool {
        let more = since.elapsed() < AGAIN_WITHIN && self.may_be_lost(vfs, refused).await;
        if more {
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
        more
    }

    async fn may_be_lost(&self, vfs: &Vfs, error: &VfsError) -> bool {
        let holder = match error {
            VfsError::Delay => return true,
            VfsError::Conflict(conflict) => &conflict.holder,
            _ => return false,
        };
        if !matches!(holder.protocol, Protocol::Nfs3 | Protocol::Nfs4) {
            return false;
        }
        if holder.node == vfs.node_name() {
            return holder.since < self.began;
        }
        let is_fresh = |at: &mut Instant| at.elapsed() < TOLD_ASKED;
        if self
            .maybe_lost
            .lock()
            .get_mut(&holder.node)
            .is_some_and(is_fresh)
        {
            return true;
        }
        // Nobody takes again what nobody told it was lost: a node whose clients were not told has what it seems to have.
        let lately = self.told_lately(vfs, &holder.node).await.unwrap_or(true);
        if lately {
            let mut maybe_lost = self.maybe_lost.lock();
            maybe_lost.insert(holder.node.clone(), Instant::now());
        }
        lately
    }

    /// Whether a node's clients were told lately that their locks are gone.
    async fn told_lately(&self, vfs: &Vfs, node: &str) -> Result<bool, VfsError> {
        let Some(number) = kept_number(vfs, &number_of(node)).await? else {
            return Ok(true);
        };
        let Some(told) = kept_number(vfs, &told_of(number)).await? else {
            return Ok(false);
        };
        let long_here = self.began.elapsed().is_ok_and(|e| e > LOSS_REMEMBERED);
        if long_here && told < self.remembered.start {
            return Ok(false);
        }
        let now = Instant::now();
        let mut known = self.told.lock();
        let found = known.entry(number).or_insert((told, now));
        if found.0 != told {
            *found = (told, now);
        }
        Ok(found.1.elapsed() < LOSS_REMEMBERED)
    }
}

/// Reads whom to tell; tries again while the repository is not available, for as long as a loss is remembered: a node may be lost
/// together with the database. Time in which this node can't act does not count.
async fn insist<T, R>(vfs: &Vfs, read: impl Fn(Vfs) -> R) -> Option<T>
where
    R: Future<Output = Result<T, VfsError>>,
{
    let (began, frozen) = (Instant::now(), vfs.time_frozen());
    loop {
        let error = match read(vfs.clone()).await {
            Ok(found) => return Some(found),
            Err(error) => error,
        };
        let acted = began
            .elapsed()
            .saturating_sub(vfs.time_frozen().saturating_sub(frozen));
        if acted > LOSS_REMEMBERED || !matches!(error, VfsError::Unavailable(_)) {
            warn!(%error, "it can't be read which NFS clients had locks: they are not told that these are gone");
            return None;
        }
        debug!(%error, "it is read later which NFS clients had locks");
        tokio::time::sleep(READ_PAUSE).await;
    }
}

/// Tells who is to be told, now and when nodes are lost, until `stop`.
pub(crate) async fn recover(head: Arc<Head>, stop: CancellationToken) {
    let own = async {
        let recovery = &head.recovery;
        if !recovery.before.is_empty() {
            note_told(&head.vfs, head.vfs.member(), recovery.remembered.start).await;
        }
        let told = tell_all(&head, &recovery.before, recovery.remembered.start).await;
        if let Err(error) = recovery.remembered.forget(&head.vfs, &told).await {
            debug!(%error, "clients that were told are told again after the next start");
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        _ = async { tokio::join!(own, watch_nodes(&head), tell_of_force(&head)) } => {}
    }
}

/// Tells clients of this node that locks were taken from them by force.
async fn tell_of_force(head: &Arc<Head>) {
    let mut losses = head.vfs.rights_lost();
    let mut telling = tokio::task::JoinSet::new();
    loop {
        let first = losses.recv().await;
        tokio::time::sleep(LOSSES_PAUSE).await;
        let mut lost = HashSet::new();
        let mut next = first;
        loop {
            match next {
                Ok(node) => {
                    lost.insert(node);
                }
                Err(RecvError::Lagged(missed)) => {
                    warn!(
                        missed,
                        "NFS clients are not told of all locks that they have lost"
                    );
                }
                Err(RecvError::Closed) => return,
            }
            match losses.try_recv() {
                Ok(node) => next = Ok(node),
                Err(_) => break,
            }
        }
        let concerned = head.locks.clients_of(&lost);
        let mut clients = head.recovery.remembered.all().await;
        clients.retain(|client| concerned.contains(&client.address));
        if !clients.is_empty() {
            let head = Arc::clone(head);
            telling.spawn(async move {
                let next = async |vfs: Vfs| vfs.next_number(STATE).await;
                if let Some(number) = insist(&head.vfs, next).await {
                    tell_all(&head, &clients, number).await;
                }
            });
        }
        while telling.try_join_next().is_some() {}
    }
}

/// Takes note of nodes that are lost.
async fn watch_nodes(head: &Arc<Head>) {
    let (mut peers, mut former) = (head.vfs.peers(), head.vfs.former_peers());
    let mut before: Vec<Peer> = Vec::new();
    let mut lost: Vec<(Peer, Instant)> = Vec::new();
    let mut known = HashSet::new();
    let mut telling = tokio::task::JoinSet::new();
    loop {
        let now = peers.borrow_and_update().clone();
        let at = Instant::now();
        lost.retain(|(_, since)| since.elapsed() < LOSS_REMEMBERED);
        let mut gone = before;
        // Whom nobody was there to see go.
        gone.extend(former.borrow_and_update().iter());
        gone.retain(|node| !now.contains(node) && known.insert(*node));
        lost.extend(gone.into_iter().map(|peer| (peer, at)));
        if now.iter().all(|peer| head.vfs.member() < peer.number) {
            for (peer, _) in lost.drain(..) {
                telling.spawn(tell_of_loss(Arc::clone(head), peer.number));
            }
        }
        while telling.try_join_next().is_some() {}
        before = now;
        let changed = tokio::select! {
            changed = peers.changed() => changed,
            changed = former.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Tells the clients of a lost node. It tells them once more should it come back: some know it by its own address only.
async fn tell_of_loss(head: Arc<Head>, lost: u16) {
    let read = move |vfs: Vfs| async move {
        let clients = of_node(&vfs, lost).await?;
        if clients.is_empty() {
            return Ok(None);
        }
        let number = vfs.next_number(STATE).await?;
        Ok(Some((clients, number)))
    };
    if let Some((clients, number)) = insist(&head.vfs, read).await.flatten() {
        note_told(&head.vfs, lost, number).await;
        tell_all(&head, &clients, number).await;
    }
}

/// Where it is kept which number a node has.
fn number_of(node: &str) -> String {
    format!("nfs.number_of.{node}")
}

/// Where it is kept with which number a node's clients were told last that their locks are gone with it.
fn told_of(member: u16) -> String {
    format!("nfs.told_of.{member}")
}

async fn kept_number<N: FromStr>(vfs: &Vfs, name: &str) -> Result<Option<N>, VfsError> {
    let kept = vfs.kept(name).await?;
    Ok(kept.and_then(|kept| std::str::from_utf8(&kept).ok()?.parse().ok()))
}

/// Before a node's clients are told that their locks are gone with it.
async fn note_told(vfs: &Vfs, lost: u16, number: u64) {
    let number = Bytes::from(number.to_string());
    for pause in NOTE_PAUSES {
        match vfs.keep(&told_of(lost), number.clone()).await {
            Ok(()) => return,
            Err(error) => debug!(%error, "that NFS clients are told of a loss is noted later"),
        }
        tokio::time::sleep(pause).await;
    }
    warn!(
        "locks that NFS clients take again now may be refused by nodes that hear of the loss later"
    );
}

/// Tells clients, many at a time; those that have answered.
async fn tell_all(head: &Arc<Head>, clients: &[LockClient], number: u64) -> Vec<LockClient> {
    let room = Arc::new(Semaphore::new(TOLD_AT_ONCE));
    let port = head.locks.client_portmap_port;
    let mut tasks = tokio::task::JoinSet::new();
    let mut seen = HashSet::new();
    for client in clients {
        if seen.insert((client.address, client.called)) {
            tasks.spawn(tell(*client, port, state_of(number), Arc::clone(&room)));
        }
    }
    let told = tasks.join_all().await;
    told.into_iter().flatten().collect()
}

/// A state is odd while its host is up, and grows.
fn state_of(number: u64) -> i32 {
    let odd = number.wrapping_mul(2).wrapping_add(1);
    i32::try_from(odd & 0x7fff_ffff).unwrap_or(1)
}

async fn tell(
    client: LockClient,
    portmap_port: u16,
    state: i32,
    room: Arc<Semaphore>,
) -> Option<LockClient> {
    let address = client.address;
    for pause in TELL_PAUSES {
        tokio::time::sleep(pause).await;
        let Ok(_turn) = room.acquire().await else {
            return None;
        };
        match notice::tell(&client, portmap_port, state).await {
            Ok(()) => {
                info!(client = %address, state, "an NFS client was told that its locks are gone");
                return Some(client);
            }
            Err(error) => debug!(client = %address, %error, "SM_NOTIFY not delivered"),
        }
    }
    warn!(client = %address, "an NFS client can't be told that its locks are gone");
    None
}
