//! Opening, as one readable function: name, permission, share and policy, lock decision, act, answer.
//! A create that loses its race starts over and then finds the winner's document.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sluice_lockmgr as lm;
use sluice_repo::{Attributes, ContentId, NodeKind};

use crate::error::VfsError;
use crate::lock_bridge::{Held, data_access, on_conflict, resource, share_mode, stat_open};
use crate::open::grant::check_kind;
use crate::open::sink::Sink;
use crate::open::{GrantedCache, Open, OpenId, OpenState, told_oplock};
use crate::policy::{OnConflict, WritePolicy};
use crate::request::{
    AccessMask, CacheRequest, CreateAction, Disposition, LeaseKey, LeaseState, NodeType,
    OpenRequest, Opened, OplockLevel, Target,
};
use crate::tree::{Spot, Tree};
use crate::working::Writer;

/// Rights that change something: refused on a read-only share and where a rule denies writing.
pub(crate) const WRITE_RIGHTS: u32 = AccessMask::WRITE_DATA
    | AccessMask::APPEND_DATA
    | AccessMask::WRITE_EA
    | AccessMask::WRITE_ATTRIBUTES
    | AccessMask::DELETE
    | AccessMask::DELETE_CHILD
    | AccessMask::WRITE_DAC
    | AccessMask::WRITE_OWNER;

/// Lost races after which an open gives up; each needs another's create and delete in between.
const RACES_MAX: usize = 16;
/// How long the maker of a document waits for somebody who found it between its creation and its first open.
const NEWBORN_WAIT: Duration = Duration::from_secs(1);

/// Names tried for a conflicted copy.
const FORK_TRIES_MAX: u32 = 100;
/// Pause before an open looks again whether a deletion that is under way is done.
const DELETION_PAUSE: Duration = Duration::from_millis(10);

/// How an attempt to open ended.
enum Attempt {
    Done(Box<Opened>),
    /// The name changed meanwhile.
    Again,
}

/// Everything decided before the lock table is asked.
struct Plan {
    granted: AccessMask,
    policy: WritePolicy,
    content: ContentId,
    kind: NodeKind,
    /// The content is emptied.
    overwrite: bool,
    on_conflict: lm::OnConflict,
    path_hint: String,
    /// The stream's name as its maker wrote it.
    stream_name: Option<String>,
}

impl Plan {
    /// Folders are not cached, because entry caches are not called back; a lease key is taken all the same, so that
    /// it can't name two nodes.
    fn cache(&self, request: &OpenRequest) -> CacheRequest {
        let folder = self.kind == NodeKind::Directory && self.content.stream == 0;
        match request.cache {
            CacheRequest::Lease {
                key,
                parent,
                epoch,
                version,
                ..
            } if folder => CacheRequest::Lease {
                key,
                state: LeaseState::NONE,
                parent,
                epoch,
                version,
            },
            CacheRequest::Oplock(_) if folder => CacheRequest::None,
            other => other,
        }
    }
}

impl Tree {
    /// Opens (and perhaps creates). May wait: for breaks always, for conflicting opens as the policy says.
    pub async fn open(&self, request: OpenRequest) -> Result<Opened, VfsError> {
        for _ in 0..RACES_MAX {
            let spot = self.spot(&request.target, request.flags.open_link).await?;
            let attempt = match &spot.node {
                Some(node) => self.open_existing(&request, &spot, node.clone()).await?,
                None => self.open_new(&request, &spot).await?,
            };
            if let Attempt::Done(opened) = attempt {
                let protocol = self.caller().client.protocol;
                self.inner().metrics.opens.add(protocol, 1);
                return Ok(*opened);
            }
        }
        Err(VfsError::Unavailable(
            "the name changes too often".to_owned(),
        ))
    }

    async fn open_existing(
        &self,
        request: &OpenRequest,
        spot: &Spot,
        node: Attributes,
    ) -> Result<Attempt, VfsError> {
        if request.stream.is_none() && request.disposition == Disposition::Create {
            return Err(VfsError::Exists);
        }
        check_kind(request, &node)?;
        let (stream, made_stream, stream_name) = self.stream_of(request, &node).await?;
        let content = ContentId {
            node: node.id,
            stream,
        };
        let overwrite = !made_stream
            && node.kind == NodeKind::File
            && matches!(
                request.disposition,
                Disposition::Supersede | Disposition::Overwrite | Disposition::OverwriteIf
            );
        let granted = self.grant(request, spot, &node, overwrite).await?;
        let policy = self.policy_at(spot, Some(node.id)).await?;
        let granted = self.check_policy(request, granted, &policy, overwrite)?;
        let plan = Plan {
            granted,
            on_conflict: on_conflict(&policy, request.flags.poll),
            path_hint: self.hint(request, spot),
            policy,
            content,
            kind: node.kind,
            overwrite,
            stream_name,
        };
        let sink = Sink::new(request.listener.clone());
        let locked = match self.lock_content(request, &plan, &sink).await {
            Ok(locked) => locked,
            // Who polls makes a reservation (NLM SHARE): that of a copy would reserve nothing.
            Err(conflict @ VfsError::Conflict(_))
                if plan.policy.on_conflict == OnConflict::Fork
                    && !request.flags.poll
                    && data_access(granted).has(lm::Access::WRITE)
                    && node.kind == NodeKind::File
                    && stream == 0 =>
            {
                return self.open_fork(request, spot, conflict).await;
            }
            Err(VfsError::DeletePending) if self.inner().opens_of(node.id).await == 0 => {
                // Its last open is closed: the name is going this moment, and is free then.
                tokio::time::sleep(DELETION_PAUSE).await;
                return Ok(Attempt::Again);
            }
            Err(other) => return Err(other),
        };
        let held = Held::adopt(self.inner(), locked.open);
        let Some(node) = self.still_there(spot, &node).await? else {
            held.release().await;
            return Ok(Attempt::Again);
        };
        let opened = self
            .act(request, plan, locked, held, sink, node, made_stream)
            .await?;
        Ok(Attempt::Done(Box::new(opened)))
    }

    /// With the lock: empties what is to be emptied, and makes the open.
    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of one open, each named"
    )]
    async fn act(
        &self,
        request: &OpenRequest,
        plan: Plan,
        locked: lm::Opened,
        held: Held,
        sink: Arc<Sink>,
        node: Attributes,
        made_stream: bool,
    ) -> Result<Opened, VfsError> {
        let action = match (request.disposition, plan.overwrite, made_stream) {
            (_, _, true) => CreateAction::Created,
            (Disposition::Supersede, true, _) => CreateAction::Superseded,
            (_, true, _) => CreateAction::Overwritten,
            _ => CreateAction::Opened,
        };
        let overwrite = plan.overwrite;
        self.inner().opened(&node);
        let open = self.make_open(request, plan, locked, held, sink).await?;
        if overwrite {
            open.state.empty(request, &node).await?;
        }
        if request.flags.delete_on_close {
            open.state.mark_on_close();
        }
        Ok(Opened {
            attributes: self.node_attributes(open.state.content).await?,
            cache: open.state.granted,
            open,
            action,
        })
    }

    async fn open_new(&self, request: &OpenRequest, spot: &Spot) -> Result<Attempt, VfsError> {
        if matches!(
            request.disposition,
            Disposition::Open | Disposition::Overwrite
        ) {
            return Err(VfsError::NotFound);
        }
        let Some(dir) = &spot.dir else {
            return Err(VfsError::NotFound);
        };
        let directory = request.node_type == NodeType::Directory;
        let kind = if directory {
            NodeKind::Directory
        } else {
            NodeKind::File
        };
        let policy = self.policy_at(spot, None).await?;
        self.check_create(dir, directory, &policy).await?;
        let gate = match self
            .name_gate(dir.id, &spot.name, &policy, request.flags.poll)
            .await
        {
            Ok(gate) => gate,
            Err(conflict @ VfsError::Conflict(_))
                if policy.on_conflict == OnConflict::Fork && !directory =>
            {
                return self
                    .open_fork_of_name(request, dir, &spot.name, conflict)
                    .await;
            }
            Err(error) => return Err(error),
        };
        // A flush or the close makes it durable, with the first content if that comes soon.
        let relaxed = !request.flags.write_through;
        let created = if relaxed {
            self.make_relaxed(dir, &spot.name, &request.new, kind).await
        } else {
            self.make(dir, &spot.name, &request.new, kind, None).await
        };
        let node = match created {
            Ok(created) => created.attributes,
            Err(VfsError::Exists) => {
                gate.release().await;
                // Somebody made it first: the open goes on with his document.
                return if request.disposition == Disposition::Create {
                    Err(VfsError::Exists)
                } else {
                    Ok(Attempt::Again)
                };
            }
            Err(error) => return Err(error),
        };
        let stream = match &request.stream {
            Some(name) => self.make_stream(&node, name).await?,
            None => 0,
        };
        let granted = self.grant_new(request, &node).await?;
        let plan = Plan {
            granted,
            on_conflict: lm::OnConflict::Wait(Some(NEWBORN_WAIT)),
            path_hint: self.hint(request, spot),
            policy,
            content: ContentId {
                node: node.id,
                stream,
            },
            kind,
            overwrite: false,
            stream_name: request.stream.clone(),
        };
        let sink = Sink::new(request.listener.clone());
        let locked = self.lock_content(request, &plan, &sink).await?;
        let held = Held::adopt(self.inner(), locked.open);
        gate.release().await;
        let open = self.make_open(request, plan, locked, held, sink).await?;
        let seen = self.inner().repo.seen();
        open.state.seen.store(seen, Ordering::Release);
        if request.flags.delete_on_close {
            open.state.mark_on_close();
        }
        Ok(Attempt::Done(Box::new(Opened {
            cache: open.state.granted,
            open,
            action: CreateAction::Created,
            attributes: node,
        })))
    }

    /// The lock decision. The only place where an open's words become the table's.
    async fn lock_content(
        &self,
        request: &OpenRequest,
        plan: &Plan,
        sink: &Arc<Sink>,
    ) -> Result<lm::Opened, VfsError> {
        let access = data_access(plan.granted);
        if request.flags.complete_if_oplocked {
            tracing::debug!("an open that may not wait for a break was asked for; it waits");
        }
        let rule = plan.policy.rule.as_deref();
        let asked = lm::OpenRequest {
            resource: resource(plan.content),
            actor: self.inner().actor(self.caller(), &plan.path_hint, rule),
            access,
            share: share_mode(request.share),
            stat: if access.is_empty() && !plan.overwrite {
                stat_open(plan.granted)
            } else {
                lm::StatOpen::No
            },
            overwrite: plan.overwrite,
            touches_ranges: false,
            writers: plan.policy.writers,
            on_conflict: plan.on_conflict,
            reclaim: request.flags.reclaim,
            cache: self.cache_wanted(plan.cache(request)),
            sink: Some(sink.clone()),
        };
        self.inner().lock_open(asked).await
    }

    fn cache_wanted(&self, cache: CacheRequest) -> lm::CacheRequest {
        match cache {
            CacheRequest::None | CacheRequest::Oplock(OplockLevel::None) => lm::CacheRequest::None,
            CacheRequest::Oplock(OplockLevel::LevelTwo) => {
                lm::CacheRequest::Oplock(lm::OplockLevel::II)
            }
            CacheRequest::Oplock(OplockLevel::Exclusive) => {
                lm::CacheRequest::Oplock(lm::OplockLevel::Exclusive)
            }
            CacheRequest::Oplock(OplockLevel::Batch) => {
                lm::CacheRequest::Oplock(lm::OplockLevel::Batch)
            }
            CacheRequest::Lease {
                key,
                state,
                parent,
                epoch,
                version,
            } => lm::CacheRequest::Lease {
                lease: self.lease_id(key),
                want: lm::CacheState::from_bits(state.0),
                v2: version >= 2,
                epoch,
                parent: parent.map(|p| p.0),
            },
        }
    }

    fn lease_id(&self, key: LeaseKey) -> lm::LeaseId {
        lm::LeaseId {
            client_guid: self.caller().client.guid,
            key: key.0,
        }
    }

    /// The open itself, registered before anybody is told.
    async fn make_open(
        &self,
        request: &OpenRequest,
        plan: Plan,
        locked: lm::Opened,
        held: Held,
        sink: Arc<Sink>,
    ) -> Result<Arc<Open>, VfsError> {
        let data = plan.granted.any(
            AccessMask::READ_DATA
                | AccessMask::EXECUTE
                | AccessMask::WRITE_DATA
                | AccessMask::APPEND_DATA,
        ) || plan.overwrite;
        let bytes = plan.kind == NodeKind::File || plan.content.stream != 0;
        let working = if data && bytes {
            Some(self.inner().load(plan.content).await?)
        } else {
            None
        };
        let folder = plan.kind == NodeKind::Directory && plan.content.stream == 0;
        let granted = match plan.cache(request) {
            CacheRequest::Lease { .. } if folder => GrantedCache::None,
            CacheRequest::Lease { key, .. } => GrantedCache::Lease {
                key,
                state: LeaseState(locked.cache.state.bits()),
                epoch: locked.cache.epoch,
                breaking: locked.cache.break_in_progress,
            },
            _ => told_oplock(locked.cache.state),
        };
        // A lease that allows no writes yet may be raised by another open of the client.
        let may_keep = match granted {
            GrantedCache::Lease { .. } => bytes,
            _ => locked.cache.state.has(lm::CacheState::W),
        };
        let pin = match may_keep {
            true => self.inner().pin(plan.content.node).await?,
            false => None,
        };
        let seen = match plan
            .granted
            .any(WRITE_RIGHTS | AccessMask::WRITE_ATTRIBUTES)
        {
            true => self.inner().repo.seen(),
            false => 0,
        };
        let rule = plan.policy.rule.as_deref();
        let lock = held.into_open().ok_or(VfsError::OpenLost)?;
        let state = Arc::new(OpenState {
            inner: self.inner().clone(),
            tree: self.clone(),
            id: OpenId(lock.id.0),
            lock,
            content: plan.content,
            kind: plan.kind,
            access: plan.granted,
            share_mode: request.share,
            write_through: request.flags.write_through,
            stream: Mutex::new(plan.stream_name),
            working,
            writer: Writer::new(self.inner(), self.caller(), self.share()),
            actor: self.inner().actor(self.caller(), &plan.path_hint, rule),
            granted,
            wrote: AtomicBool::new(false),
            seen: AtomicU64::new(seen),
            keeps_times: AtomicBool::new(false),
            ends_with_node: AtomicBool::new(false),
            delete_on_close: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            closing: tokio::sync::OnceCell::new(),
            listener: sink.listener(),
            pin: Mutex::new(pin),
        });
        sink.bind(&state);
        self.inner().opens.add(&state);
        Ok(Arc::new(Open { state }))
    }

    fn hint(&self, request: &OpenRequest, spot: &Spot) -> String {
        match &request.target {
            Target::Path(path) => path.to_string(),
            Target::Child(..) | Target::Node(_) => spot.name.clone(),
        }
    }

    /// The policy says `fork` and an upload holds the name: the open makes a document of a name beside it.
    async fn open_fork_of_name(
        &self,
        request: &OpenRequest,
        dir: &Attributes,
        name: &str,
        conflict: VfsError,
    ) -> Result<Attempt, VfsError> {
        for attempt in 0..FORK_TRIES_MAX {
            let mut forked = request.clone();
            forked.target = Target::Child(dir.id, self.fork_name(name, attempt));
            forked.disposition = Disposition::Create;
            match Box::pin(self.open(forked)).await {
                Err(VfsError::Exists) => {}
                opened => return Ok(Attempt::Done(Box::new(opened?))),
            }
        }
        Err(conflict)
    }

    /// The policy says `fork`: the open goes to a conflicted copy beside the document.
    async fn open_fork(
        &self,
        request: &OpenRequest,
        spot: &Spot,
        conflict: VfsError,
    ) -> Result<Attempt, VfsError> {
        let (Some(dir), Some(node)) = (&spot.dir, &spot.node) else {
            return Err(conflict);
        };
        let copy = self.fork_copy(dir, &spot.name, node).await?;
        let mut forked = request.clone();
        forked.target = Target::Child(dir.id, copy);
        if request.disposition == Disposition::Create {
            forked.disposition = Disposition::Open;
        }
        let opened = Box::pin(self.open(forked)).await?;
        Ok(Attempt::Done(Box::new(opened)))
    }
}
