//! The root of the seam: made once per node, shared by all heads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sluice_lockmgr::{
    BreakAck, CacheState, ClientId as LockClient, EntryKind, LeaseId, ListFilter, LockService,
    RECLAIM_GRACE, ResourceId,
};
use sluice_repo::call::CallId;
use sluice_repo::{
    ContentStore, LastLink, NameRef, NodeId, PackCounts, RepoError, Repository, Timestamp,
};
use tokio_util::sync::CancellationToken;

use crate::accounts::LoginGuard;
use crate::coherent::{ByLocks, Coherent, CoherentRepository};
use crate::error::VfsError;
use crate::host::Host;
use crate::identity::{Caller, Client, ClientTable, Protocol};
use crate::lock_bridge::{ActorCache, ack_error};
use crate::lock_notes::{FrozenFor, LockNotes};
use crate::memory::Peer;
use crate::metrics::Metrics;
use crate::open::OpenTable;
use crate::orphans::Orphans;
use crate::places::Places;
use crate::quota::Quotas;
use crate::request::{LeaseKey, LeaseState};
use crate::share::{Records, Share};
use crate::tree::{Forks, RangeOwners, Tree};
use crate::watch::WatchHub;
use crate::working::WorkingTable;

/// Times of the file layer.
#[derive(Clone, Copy, Debug)]
pub struct VfsTimes {
    /// How long an NFSv3 writer's place stays after the last write.
    pub place_idle: Duration,
    /// How long a document with uncommitted writes may be idle before it is committed.
    pub idle_commit: Duration,
    /// Pause between two rounds of housekeeping among the nodes.
    pub round: Duration,
    /// How long after a start documents are kept for NFS clients that had them locked before; in a cluster the nodes agree on
    /// [`RECLAIM_GRACE`] after each loss.
    pub reclaim_grace: Duration,
    /// Pause between two looks for notes on NFS locks that nobody needs.
    pub forget_notes: Duration,
}

impl Default for VfsTimes {
    fn default() -> Self {
        VfsTimes {
            place_idle: Duration::from_secs(2),
            idle_commit: Duration::from_secs(3),
            round: Duration::from_secs(5),
            reclaim_grace: RECLAIM_GRACE,
            forget_notes: Duration::from_secs(30),
        }
    }
}

/// What the file layer stands on; the daemon composes it.
pub struct VfsOptions {
    /// Metadata.
    pub repository: Arc<dyn Repository>,
    /// Content.
    pub content: Arc<dyn ContentStore>,
    /// Locks; the vfs runs its timers.
    pub locks: Arc<dyn LockService>,
    /// This node's name (`node.name`).
    pub node: String,
    /// This node's number among the members of its cluster; 0 without a cluster.
    pub member: u16,
    /// Times.
    pub times: VfsTimes,
}

pub(crate) struct Inner {
    pub(crate) repo: Arc<dyn Repository>,
    /// What stands before the repository of a cluster; `repo` leads through it.
    pub(crate) coherent: Option<Arc<Coherent>>,
    pub(crate) store: Arc<dyn ContentStore>,
    pub(crate) locks: Arc<dyn LockService>,
    pub(crate) node: Arc<str>,
    pub(crate) member: u16,
    /// The other live nodes.
    pub(crate) peers: tokio::sync::watch::Sender<Vec<Peer>>,
    /// Former nodes whose clients may take again what they had.
    pub(crate) left: tokio::sync::watch::Sender<Vec<Peer>>,
    pub(crate) options: VfsTimes,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) stopping: CancellationToken,
    /// The node was fenced: nothing that is under way means anything any more.
    abandoned: CancellationToken,
    pub(crate) working: WorkingTable,
    pub(crate) places: Places,
    pub(crate) opens: OpenTable,
    pub(crate) range_owners: RangeOwners,
    pub(crate) actors: ActorCache,
    pub(crate) forks: Forks,
    /// Makes writing sessions of clients without opens: another one after each start.
    pub(crate) session_base: u128,
    pub(crate) metrics: Metrics,
    pub(crate) records: Records,
    pub(crate) clients: ClientTable,
    pub(crate) watches: WatchHub,
    pub(crate) logins: LoginGuard,
    pub(crate) orphans: Orphans,
    pub(crate) lock_notes: LockNotes,
    /// Documents of which everything was taken away by force.
    pub(crate) rights_lost: tokio::sync::broadcast::Sender<NodeId>,
    pub(crate) quotas: Quotas,
    /// The node may not act for now; who waits for it to end waits on `thaw`.
    pub(crate) frozen: AtomicBool,
    /// For how long it may not act, and could not before.
    pub(crate) frozen_for: parking_lot::Mutex<FrozenFor>,
    pub(crate) thaw: tokio::sync::Notify,
    pub(crate) verifier: AtomicU64,
    server_guid: [u8; 16],
    handle_key: [u8; 32],
}

/// The gateway's file layer. Clones are the same one.
#[derive(Clone)]
pub struct Vfs {
    pub(crate) inner: Arc<Inner>,
}

/// Documents of which a listener may be told late.
const RIGHTS_LOST_MAX: usize = 1024;

const CLEAN_STOP: &str = "vfs.clean_stop.";

impl Vfs {
    /// Composes the file layer and starts its timers. Call it inside a runtime.
    ///
    /// # Errors
    /// The repository can't be read.
    pub async fn new(options: VfsOptions) -> Result<Vfs, VfsError> {
        let (stopping, metrics) = (CancellationToken::new(), Metrics::default());
        let (repo, coherent) = match options.member {
            0 => (options.repository, None),
            _ => {
                let others = Arc::new(ByLocks(options.locks.clone()));
                let counts = metrics.metadata.clone();
                let core = Coherent::new(options.repository, others, stopping.clone(), counts);
                let repo: Arc<dyn Repository> = Arc::new(CoherentRepository(core.clone()));
                (repo, Some(core))
            }
        };
        let server_guid = once_setting(repo.as_ref(), "vfs.server_guid").await?;
        let handle_key = once_setting(repo.as_ref(), "vfs.handle_key").await?;
        let verifier = start_verifier(repo.as_ref(), &options.node).await?;
        let records = Records::load(&repo).await?;
        let inner = Arc::new(Inner {
            repo,
            coherent,
            store: options.content,
            locks: options.locks,
            node: Arc::from(options.node),
            options: options.times,
            runtime: tokio::runtime::Handle::current(),
            stopping,
            abandoned: CancellationToken::new(),
            working: WorkingTable::default(),
            places: Places::default(),
            opens: OpenTable::default(),
            range_owners: RangeOwners::default(),
            actors: ActorCache::default(),
            forks: Forks::default(),
            session_base: random_u128(),
            metrics,
            records,
            clients: ClientTable::of_member(options.member),
            member: options.member,
            peers: tokio::sync::watch::Sender::default(),
            left: tokio::sync::watch::Sender::default(),
            watches: WatchHub::default(),
            logins: LoginGuard::default(),
            orphans: Orphans::default(),
            lock_notes: LockNotes::default(),
            rights_lost: tokio::sync::broadcast::Sender::new(RIGHTS_LOST_MAX),
            quotas: Quotas::default(),
            frozen: AtomicBool::new(false),
            frozen_for: parking_lot::Mutex::default(),
            thaw: tokio::sync::Notify::new(),
            verifier: AtomicU64::new(verifier),
            server_guid,
            handle_key,
        });
        inner.locks.attach(Arc::new(Host(Arc::downgrade(&inner))));
        let (locks, stop) = (inner.locks.clone(), inner.stopping.clone());
        inner.runtime.spawn(async move {
            tokio::select! {
                () = locks.run_timers() => {}
                () = stop.cancelled() => {}
            }
        });
        inner.runtime.spawn(inner.clone().commit_idle_contents());
        inner.runtime.spawn(inner.clone().make_rounds());
        inner.runtime.spawn(inner.clone().forget_lock_notes());
        Ok(Vfs { inner })
    }

    /// Commits everything, refuses new waits and notes a clean stop, so that the write verifier holds over the restart.
    ///
    /// # Errors
    /// [`VfsError::Io`] if something could not be committed; the next start then has a new write verifier.
    pub async fn shutdown(&self) -> Result<(), VfsError> {
        // Once while others may still be asked for their word, and once more for what came until nobody could come.
        self.inner.flush_due(Duration::ZERO).await;
        self.inner.locks.stop();
        let well = self.inner.flush_due(Duration::ZERO).await;
        self.inner.stopping.cancel();
        if !well {
            return Err(VfsError::Io);
        }
        let verifier = self.inner.verifier.load(Ordering::Acquire).to_be_bytes();
        self.inner
            .repo
            .put_setting(
                &format!("{CLEAN_STOP}{}", self.inner.node),
                Bytes::copy_from_slice(&verifier),
            )
            .await?;
        Ok(())
    }

    /// Ends without committing anything: another node has taken over what this one had, and its commits would be refused. Whoever waits
    /// hears [`VfsError::Unavailable`].
    pub fn abandon(&self) {
        self.inner.stopping.cancel();
        self.inner.locks.stop();
        self.inner.thaw.notify_waiters();
        self.inner.abandoned.cancel();
    }

    /// Waits until [`Self::abandon`]: from then on a head has nothing to finish and cuts off its clients, so that they go elsewhere.
    pub async fn abandoned(&self) {
        self.inner.abandoned.cancelled().await;
    }

    /// Whether both stores answer, the content store by taking new objects.
    ///
    /// # Errors
    /// The store's own words.
    pub async fn probe(&self) -> Result<(), VfsError> {
        // Something that is never answered from a cache.
        self.inner.repo.setting("vfs.server_guid").await?;
        self.inner.store.probe().await?;
        Ok(())
    }

    /// Whether changes can become durable, as far as it is known without trying; the error says why not, with the remedy.
    pub fn sound(&self) -> Result<(), VfsError> {
        Ok(self.inner.repo.sound()?)
    }

    /// This node's name (`node.name`).
    pub fn node_name(&self) -> &str {
        &self.inner.node
    }

    /// 16 bytes that name this server for ever (SMB ServerGuid; handed out by the repository).
    pub fn server_guid(&self) -> [u8; 16] {
        self.inner.server_guid
    }

    /// A secret of the cluster, for keyed checksums in NFS handles; the same after a restart and on every node.
    pub fn handle_key(&self) -> [u8; 32] {
        self.inner.handle_key
    }

    /// Changes if and only if acknowledged unstable writes could have been lost (RFC 1813 3.3.7 writeverf3).
    pub fn write_verifier(&self) -> [u8; 8] {
        self.inner.verifier.load(Ordering::Acquire).to_be_bytes()
    }

    /// What was done since the start.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// What the content store has done with packs since the start, if it has some.
    pub fn packs(&self) -> Option<PackCounts> {
        self.inner.store.packs()
    }

    /// Whether a change was made on behalf of a client's call before, by any node of the cluster (see [`crate::within_call`]). False if
    /// that can't be found out.
    pub async fn carried_out(&self, call: CallId) -> bool {
        match self.inner.repo.carried_out(call).await {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "it can't be found out whether a call was carried out before");
                false
            }
        }
    }

    /// The caller's view of a share. For NFS the client's network is checked ([`VfsError::AccessDenied`]) and the identity squashed.
    ///
    /// # Errors
    /// [`VfsError::NotFound`] if the share is gone or not offered, [`VfsError::AccessDenied`] if this caller may not come in.
    pub fn tree(&self, share: &Arc<Share>, caller: Caller) -> Result<Tree, VfsError> {
        let caller = self.inner.enter(share, caller)?;
        caller.client.used_by(&caller.identity);
        Ok(Tree::new(self.inner.clone(), share.clone(), caller))
    }

    /// A client's answer to a lease break: it keeps `state`. Returns what the lease has now.
    /// [`VfsError::NotFound`]: no such lease; [`VfsError::Invalid`]: no break under way or more than offered.
    pub async fn acknowledge_lease_break(
        &self,
        client_guid: [u8; 16],
        key: LeaseKey,
        state: LeaseState,
    ) -> Result<LeaseState, VfsError> {
        let lease = LeaseId {
            client_guid,
            key: key.0,
        };
        let locks = &self.inner.locks;
        let resource = locks.lease_resource(lease).ok_or(VfsError::NotFound)?;
        let state = CacheState::from_bits(state.0);
        let kept = locks
            .acknowledge_break(BreakAck::Lease {
                lease,
                resource,
                state,
            })
            .await
            .map_err(ack_error)?;
        Ok(LeaseState(kept.bits()))
    }

    /// Everything that a client's loss ends, in one ordered step per document: its waiters and momentary places. Its opens are closed or disconnected by the head.
    pub async fn client_gone(&self, client: &Client) {
        // Waiters go with the futures of their requests; what is left are the places.
        self.inner.drop_places(client.id).await;
    }
}

impl Inner {
    /// Whether a close leaves work to do in the repository.
    pub(crate) fn close_needs_work(
        &self,
        resource: ResourceId,
        closed: &sluice_lockmgr::Closed,
    ) -> bool {
        closed.delete_document
            || closed.delete_stream.is_some()
            || (closed.last && self.orphans.contains(NodeId(resource.document)))
    }

    /// Carries out what a close asks for: deletes what was marked for it, releases a nameless document.
    /// Returns whether the document is gone.
    pub(crate) async fn finish_close(
        self: &Arc<Self>,
        resource: ResourceId,
        closed: sluice_lockmgr::Closed,
    ) -> bool {
        let node = NodeId(resource.document);
        if let Some(stream) = closed.delete_stream {
            let content = sluice_repo::ContentId { node, stream };
            self.working.forget(content);
            if let Err(error) = self.repo.delete_stream(content).await {
                tracing::warn!(node = node.0, %error, "a stream marked for deletion stayed");
            }
            self.working.note_shrunk();
            self.locks
                .deleted(crate::lock_bridge::resource(content))
                .await;
        }
        let mut gone = false;
        if closed.delete_document {
            match self.delete_marked(node).await {
                Ok(deleted) => gone = deleted,
                Err(error) => {
                    tracing::warn!(node = node.0, %error, "a document marked for deletion stayed");
                }
            }
            self.locks.deleted(ResourceId::main(node.0)).await;
        }
        if closed.last && self.release_orphan(node).await {
            gone = true;
        }
        gone
    }

    /// Removes the name of a document whose last open asked for it. The lock table lets nobody open it until that is done.
    async fn delete_marked(self: &Arc<Self>, node: NodeId) -> Result<bool, VfsError> {
        let path = match self.repo.path_of(node).await {
            Ok(path) => path,
            Err(RepoError::NotFound | RepoError::Stale(_)) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let Some((dir, name)) = path.last() else {
            return Ok(false);
        };
        let entry = NameRef {
            parent: *dir,
            name,
            node: Some(node),
        };
        let unlinked = match self.repo.unlink(entry, LastLink::Delete).await {
            Ok(unlinked) => unlinked,
            Err(RepoError::NotFound | RepoError::Stale(_)) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let is_dir = unlinked.attributes.kind == sluice_repo::NodeKind::Directory;
        self.unlinked(node, &unlinked).await;
        self.notify_entry(crate::ChangeAction::Removed, *dir, name, is_dir);
        Ok(unlinked.attributes.link_count == 0 || is_dir)
    }

    /// What becomes of a document whose last name goes while `own` opens of it are the caller's own.
    pub(crate) async fn last_link(&self, node: NodeId, own: usize) -> LastLink {
        if self.opens_of(node).await > own {
            LastLink::Orphan
        } else {
            LastLink::Delete
        }
    }

    /// Opens that keep a nameless document alive. NFSv3 places and ranges don't: such a client holds nothing open.
    pub(crate) async fn opens_of(&self, node: NodeId) -> usize {
        let entries = self.locks.explain(node.0).await;
        entries.iter().filter(|e| e.kind == EntryKind::Open).count()
    }

    /// Documents and folders that are open through a protocol on other nodes, each once.
    pub(crate) async fn open_elsewhere(&self, protocol: Protocol) -> Vec<NodeId> {
        if self.member == 0 {
            return Vec::new();
        }
        let mut entries = self.locks.list(&ListFilter::default()).await;
        entries.retain(|e| {
            e.kind == EntryKind::Open
                && Protocol::from(e.holder.protocol) == protocol
                && *e.holder.node != *self.node
                && e.resource.document >> 63 == 0
        });
        let mut nodes: Vec<NodeId> = entries
            .iter()
            .map(|e| NodeId(e.resource.document))
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Opens of one content of a node.
    pub(crate) async fn opens_of_content(&self, content: sluice_repo::ContentId) -> usize {
        let resource = crate::lock_bridge::resource(content);
        let entries = self.locks.explain(content.node.0).await;
        entries
            .iter()
            .filter(|e| e.kind == EntryKind::Open && e.resource == resource)
            .count()
    }

    /// The lock table's number of a client.
    pub(crate) fn lock_client(caller: &Caller) -> LockClient {
        LockClient(caller.client.id.0)
    }
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)))
}

/// A number that is never used again.
pub(crate) fn random_u128() -> u128 {
    let mut bytes = [0u8; 16];
    fill_random(&mut bytes);
    u128::from_le_bytes(bytes)
}

/// Without the system's random numbers nothing of this server is safe: then it stops.
#[allow(
    clippy::expect_used,
    reason = "no key or operation id can be made without random numbers"
)]
fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system gives random numbers");
}

async fn once_setting<const N: usize>(
    repo: &dyn Repository,
    key: &str,
) -> Result<[u8; N], VfsError> {
    let mut fresh = [0u8; N];
    fill_random(&mut fresh);
    let stored = repo.setting_or(key, Bytes::copy_from_slice(&fresh)).await?;
    <[u8; N]>::try_from(stored.as_ref()).map_err(|_| {
        tracing::error!(key, "a setting of the repository has the wrong length");
        VfsError::Corrupt
    })
}

/// The last verifier after a clean stop, a new one otherwise.
async fn start_verifier(repo: &dyn Repository, node: &str) -> Result<u64, VfsError> {
    let key = format!("{CLEAN_STOP}{node}");
    let stored = repo.setting(&key).await?;
    if let Some(kept) = stored
        .as_ref()
        .and_then(|s| <[u8; 8]>::try_from(s.as_ref()).ok())
    {
        // From now on only a clean stop makes it valid again.
        repo.put_setting(&key, Bytes::new()).await?;
        return Ok(u64::from_be_bytes(kept));
    }
    let mut fresh = [0u8; 8];
    fill_random(&mut fresh);
    Ok(u64::from_be_bytes(fresh))
}
