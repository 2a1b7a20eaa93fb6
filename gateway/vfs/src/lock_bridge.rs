//! Between the words of the seam and those of the lock table: actors, access, conflicts, momentary opens.
//! Decides nothing: the table decides, the policy was evaluated before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sluice_lockmgr as lm;
use sluice_repo::{CaseMode, ContentId, NodeId};

use crate::error::{Conflict, ConflictKind, HolderInfo, VfsError};
use crate::identity::{Caller, Protocol};
use crate::listing::unix_ms;
use crate::policy::{OnConflict, WritePolicy};
use crate::request::{AccessMask, ShareMode};
use crate::tree::Tree;
use crate::vfs::Inner;

impl From<Protocol> for lm::Protocol {
    fn from(protocol: Protocol) -> lm::Protocol {
        match protocol {
            Protocol::Smb => lm::Protocol::Smb,
            Protocol::Nfs3 => lm::Protocol::Nfs3,
            Protocol::Nfs4 => lm::Protocol::Nfs4,
            Protocol::Ftp => lm::Protocol::Ftp,
            Protocol::Admin => lm::Protocol::Admin,
        }
    }
}

impl From<lm::Protocol> for Protocol {
    fn from(protocol: lm::Protocol) -> Protocol {
        match protocol {
            lm::Protocol::Smb => Protocol::Smb,
            lm::Protocol::Nfs3 => Protocol::Nfs3,
            lm::Protocol::Nfs4 => Protocol::Nfs4,
            lm::Protocol::Ftp => Protocol::Ftp,
            lm::Protocol::Admin => Protocol::Admin,
        }
    }
}

/// The lock table's name of a content.
pub(crate) fn resource(content: ContentId) -> lm::ResourceId {
    lm::ResourceId {
        document: content.node.0,
        stream: content.stream,
    }
}

/// The main content of a node.
pub(crate) fn main(node: NodeId) -> ContentId {
    ContentId { node, stream: 0 }
}

/// What stands for a name that leads nowhere yet: whoever is about to make it takes this first, so that makers of one
/// name (an upload among them, which makes it only at its end) meet in the lock table. Node ids never have the top bit.
/// Names that are one name to anybody (`case` is the share's, not the protocol's) are one here.
pub(crate) fn name_resource(dir: NodeId, name: &str, case: CaseMode) -> lm::ResourceId {
    let folded = (case == CaseMode::Insensitive).then(|| sluice_repo::fold_name(name));
    let name = folded.as_deref().unwrap_or(name);
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ dir.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 29;
    lm::ResourceId::main(hash | 1 << 63)
}

/// What stands for the turn of a node among those that change one document at once.
pub(crate) fn turn_document(node: NodeId) -> u64 {
    let hash = node.0.wrapping_mul(0xd6e8_feb8_6659_fd93);
    (hash ^ hash >> 32) | 1 << 63
}

/// The part of an access mask that meets share modes.
pub(crate) fn data_access(mask: AccessMask) -> lm::Access {
    let mut access = lm::Access::NONE;
    if mask.any(AccessMask::READ_DATA | AccessMask::EXECUTE) {
        access = access.with(lm::Access::READ);
    }
    if mask.any(AccessMask::WRITE_DATA | AccessMask::APPEND_DATA) {
        access = access.with(lm::Access::WRITE);
    }
    if mask.any(AccessMask::DELETE) {
        access = access.with(lm::Access::DELETE);
    }
    access
}

/// How light an open is for cache breaks.
pub(crate) fn stat_open(mask: AccessMask) -> lm::StatOpen {
    let light =
        AccessMask::READ_ATTRIBUTES | AccessMask::WRITE_ATTRIBUTES | AccessMask::SYNCHRONIZE;
    if mask.0 & !light == 0 {
        lm::StatOpen::Attributes
    } else if mask.0 & !(light | AccessMask::READ_CONTROL) == 0 {
        lm::StatOpen::ReadControl
    } else {
        lm::StatOpen::No
    }
}

/// A share mode in the table's words.
pub(crate) fn share_mode(share: ShareMode) -> lm::ShareMode {
    let mut access = lm::Access::NONE;
    for (on, bit) in [
        (share.read, lm::Access::READ),
        (share.write, lm::Access::WRITE),
        (share.delete, lm::Access::DELETE),
    ] {
        if on {
            access = access.with(bit);
        }
    }
    lm::ShareMode::sharing(access)
}

/// What a conflict becomes for a caller that polls or waits. A fork is tried once the refusal is known.
pub(crate) fn on_conflict(policy: &WritePolicy, poll: bool) -> lm::OnConflict {
    let held = |patience| lm::OnConflict::PollHeld {
        patience,
        hold: Tree::poll_hold(),
    };
    match (policy.on_conflict, poll) {
        (OnConflict::Wait, false) => lm::OnConflict::Wait(Some(policy.wait)),
        (OnConflict::Wait, true) => held(policy.wait),
        (OnConflict::Reject | OnConflict::Fork, false) => lm::OnConflict::Reject,
        // A cache that is called back is waited for under any policy.
        (OnConflict::Reject | OnConflict::Fork, true) => held(Duration::ZERO),
    }
}

/// A refusal of the table in the seam's words; `range` says what kind a range conflict is.
pub(crate) fn denied(denial: lm::Denial, range: ConflictKind) -> VfsError {
    match denial {
        lm::Denial::Conflict(conflict) => conflict_of(&conflict, range),
        lm::Denial::Retry(_) => VfsError::Delay,
        lm::Denial::DeletePending => VfsError::DeletePending,
        lm::Denial::Deadlock(_) => VfsError::Deadlock,
        lm::Denial::Cancelled => VfsError::Cancelled,
        lm::Denial::NoSuchOpen => VfsError::OpenLost,
        lm::Denial::LeaseKeyInUse => VfsError::Invalid("the lease key names another document"),
        lm::Denial::Limit(what) => VfsError::Limit(what),
        lm::Denial::NodeLost => {
            VfsError::Unavailable("the node is no longer a member of its cluster".to_owned())
        }
        lm::Denial::Stopping => VfsError::Unavailable("the node is stopping".to_owned()),
    }
}

fn conflict_of(conflict: &lm::Conflict, range: ConflictKind) -> VfsError {
    let kind = match conflict.kind {
        lm::ConflictKind::Range => range,
        _ => ConflictKind::Sharing,
    };
    VfsError::Conflict(Box::new(Conflict {
        kind,
        holder: holder_info(&conflict.holder, what_is_held(conflict)),
        retry_after: RETRY_AFTER,
    }))
}

fn what_is_held(conflict: &lm::Conflict) -> String {
    match (conflict.kind, conflict.range) {
        (lm::ConflictKind::Range, Some(range)) => {
            let how = if conflict.exclusive {
                "exclusive"
            } else {
                "shared"
            };
            format!("{how} lock on bytes {range}")
        }
        (lm::ConflictKind::CacheBreak, _) => "cached data that is being called back".to_owned(),
        _ if conflict.denies.is_empty() => format!("open for {}", conflict.access),
        _ => format!("open for {}, denies {}", conflict.access, conflict.denies),
    }
}

/// A refused acknowledgement in the seam's words.
pub(crate) fn ack_error(error: lm::AckError) -> VfsError {
    match error {
        lm::AckError::NoSuchGrant => VfsError::NotFound,
        lm::AckError::NotBreaking => VfsError::Invalid("no break is under way"),
        lm::AckError::TooMuch => VfsError::Invalid("more was claimed than the break leaves"),
    }
}

/// A holder as it is told to people.
pub(crate) fn holder_info(holder: &lm::Holder, what: String) -> HolderInfo {
    let since = u64::try_from(holder.since_unix_ms).unwrap_or(0);
    HolderInfo {
        protocol: holder.protocol.into(),
        user: holder.user.clone(),
        client: holder.address.clone(),
        client_name: holder.client_name.clone(),
        node: holder.node.clone(),
        since: UNIX_EPOCH + Duration::from_millis(since),
        what,
    }
}

/// The hint to whoever was refused.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Actors of clients without opens: such a client asks with every read and write, and its words hardly change.
pub(crate) struct ActorCache(Vec<Mutex<Actors>>);

/// By client and user id, with the moment at which each was made.
type Actors = HashMap<(u64, u32), (Instant, lm::Actor)>;

const ACTOR_SHARDS: usize = 16;
const ACTORS_PER_SHARD_MAX: usize = 4096;
/// How long an actor's "since" may be in the past.
const ACTOR_AGE_MAX: Duration = Duration::from_secs(1);

impl Default for ActorCache {
    fn default() -> Self {
        ActorCache((0..ACTOR_SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Inner {
    /// As [`Inner::actor`] for I/O without an open, mostly without making one.
    pub(crate) fn momentary_actor(&self, caller: &Caller, rule: Option<&str>) -> lm::Actor {
        let client = caller.client.id.0;
        let shard = usize::try_from(client).unwrap_or(0) % ACTOR_SHARDS;
        let (None, Some(shard)) = (rule, self.actors.0.get(shard)) else {
            return self.actor(caller, "", rule);
        };
        let mut shard = shard.lock();
        let key = (client, caller.identity.uid);
        if let Some((made, actor)) = shard.get(&key)
            && made.elapsed() < ACTOR_AGE_MAX
            && actor.holder.user == caller.identity.name
        {
            return actor.clone();
        }
        if shard.len() >= ACTORS_PER_SHARD_MAX {
            shard.clear();
        }
        let actor = self.actor(caller, "", None);
        shard.insert(key, (Instant::now(), actor.clone()));
        actor
    }

    /// The caller as an owner of locks.
    pub(crate) fn actor(&self, caller: &Caller, path: &str, rule: Option<&str>) -> lm::Actor {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let protocol = caller.client.protocol.into();
        lm::Actor {
            protocol,
            client: lm::ClientId(caller.client.id.0),
            holder: Arc::new(lm::Holder {
                protocol,
                user: caller.identity.name.clone(),
                address: caller.client.address.to_string(),
                client_name: caller.client.name.clone(),
                node: self.node.to_string(),
                path: path.to_owned(),
                rule: rule.map(str::to_owned),
                since_unix_ms: since,
            }),
        }
    }

    /// The node itself, where it takes a right for what it does among the nodes.
    pub(crate) fn own_actor(&self) -> lm::Actor {
        lm::Actor {
            protocol: lm::Protocol::Admin,
            client: lm::ClientId(u64::from(self.member) << 48),
            holder: Arc::new(lm::Holder {
                protocol: lm::Protocol::Admin,
                user: String::new(),
                address: String::new(),
                client_name: String::new(),
                node: self.node.to_string(),
                path: String::new(),
                rule: None,
                since_unix_ms: unix_ms(),
            }),
        }
    }

    /// Counts a refusal and passes it on.
    pub(crate) fn refused(&self, protocol: Protocol, error: VfsError) -> VfsError {
        match &error {
            VfsError::Conflict(_) => self.metrics.conflicts.add(protocol, 1),
            VfsError::Delay => self.metrics.delays.add(protocol, 1),
            _ => {}
        }
        error
    }

    /// Asks the table for an open.
    pub(crate) async fn lock_open(&self, request: lm::OpenRequest) -> Result<lm::Opened, VfsError> {
        let protocol = request.actor.protocol.into();
        let answer = self.locks.open(request).await;
        answer.map_err(|denial| self.refused(protocol, denied(denial, ConflictKind::Sharing)))
    }

    /// An open of the table that ends with the value.
    pub(crate) async fn hold(self: &Arc<Self>, request: lm::OpenRequest) -> Result<Held, VfsError> {
        let opened = self.lock_open(request).await?;
        Ok(Held {
            inner: self.clone(),
            open: Some(opened.open),
        })
    }

    /// I/O without an open.
    pub(crate) async fn momentary(&self, request: lm::IoRequest) -> Result<(), VfsError> {
        let protocol = request.actor.protocol.into();
        let answer = self.locks.io_without_open(request).await;
        answer.map_err(|denial| self.refused(protocol, denied(denial, ConflictKind::RangeIo)))
    }
}

/// An open in the lock table without a client's handle: for one operation, or for a transfer. Closed with the value.
pub(crate) struct Held {
    inner: Arc<Inner>,
    open: Option<lm::OpenRef>,
}

impl Held {
    /// Adopts an open that was granted.
    pub(crate) fn adopt(inner: &Arc<Inner>, open: lm::OpenRef) -> Held {
        Held {
            inner: inner.clone(),
            open: Some(open),
        }
    }

    /// The open, for further calls.
    pub(crate) fn open(&self) -> Option<lm::OpenRef> {
        self.open
    }

    /// Hands the open over: it outlives the value.
    pub(crate) fn into_open(mut self) -> Option<lm::OpenRef> {
        self.open.take()
    }

    /// Closes and does what the last close asks for.
    pub(crate) async fn release(mut self) {
        if let Some(open) = self.open.take() {
            let closed = self.inner.locks.close(open).await;
            self.inner.finish_close(open.resource, closed).await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let closed = self.inner.locks.try_close(open);
            let done =
                closed.is_some_and(|closed| !self.inner.close_needs_work(open.resource, &closed));
            if !done {
                let inner = self.inner.clone();
                self.inner.runtime.spawn(async move {
                    let closed = match closed {
                        Some(closed) => closed,
                        None => inner.locks.close(open).await,
                    };
                    inner.finish_close(open.resource, closed).await;
                });
            }
        }
    }
}
