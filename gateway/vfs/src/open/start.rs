//! Opening, as one readable function: name, permission, share and policy, lock decision, act, answer.
//! A create that loses its race starts over and then finds the winner's document.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use sluice_lockmgr as lm;
use sluice_repo::{
    AttributeChange, Attributes, ContentId, DosAttributes, NodeKind, RepoError, Timestamp,
};

use crate::error::VfsError;
use crate::identity::Protocol;
use crate::lock_bridge::{Held, data_access, on_conflict, resource, share_mode, stat_open};
use crate::open::sink::Sink;
use crate::open::{GrantedCache, Open, OpenId, OpenState, told_oplock};
use crate::permission::map_generic;
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
            Err(conflict @ VfsError::Conflict(_))
                if plan.policy.on_conflict == OnConflict::Fork
                    && data_access(granted).has(lm::Access::WRITE)
                    && node.kind == NodeKind::File
                    && stream == 0 =>
            {
                return self.open_fork(request, spot, conflict).await;
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
        let gate = self
            .name_gate(dir.id, &spot.name, &policy, request.flags.poll)
            .await?;
        let created = self.make(dir, &spot.name, &request.new, kind, None).await;
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
            writer: Writer::new(self.caller(), self.share()),
            actor: self.inner().actor(self.caller(), &plan.path_hint, rule),
            granted,
            wrote: AtomicBool::new(false),
            keeps_times: AtomicBool::new(false),
            delete_on_close: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            closing: tokio::sync::OnceCell::new(),
            listener: sink.listener(),
        });
        sink.bind(&state);
        self.inner().opens.add(&state);
        Ok(Arc::new(Open { state }))
    }

    /// Access that the caller gets on an existing node, or the refusal (MS-FSA 2.1.5.1.2.1).
    async fn grant(
        &self,
        request: &OpenRequest,
        spot: &Spot,
        node: &Attributes,
        overwrite: bool,
    ) -> Result<AccessMask, VfsError> {
        let mut wanted = AccessMask(map_generic(request.access.0));
        if overwrite {
            check_overwrite(request, node, self.caller().client.protocol)?;
        }
        let rights = self
            .rights_at(spot, node, request.flags.backup_intent)
            .await?;
        let needs_write = overwrite && request.stream.is_none();
        if needs_write && !rights.any(AccessMask::WRITE_DATA) {
            return Err(VfsError::AccessDenied);
        }
        if wanted.any(AccessMask::MAXIMUM_ALLOWED) {
            let mut most = rights.0;
            if self.share().read_only {
                most &= !WRITE_RIGHTS;
            }
            wanted = AccessMask((wanted.0 & !AccessMask::MAXIMUM_ALLOWED) | most);
        }
        let free = AccessMask::SYNCHRONIZE;
        if wanted.0 & !(rights.0 | free) != 0 {
            return Err(VfsError::AccessDenied);
        }
        self.check_read_only_attribute(request, node, wanted)?;
        Ok(wanted)
    }

    fn check_read_only_attribute(
        &self,
        request: &OpenRequest,
        node: &Attributes,
        wanted: AccessMask,
    ) -> Result<(), VfsError> {
        if node.kind == NodeKind::Directory || !node.dos.has(DosAttributes::READONLY) {
            return Ok(());
        }
        if self.caller().client.protocol == Protocol::Smb
            && wanted.any(AccessMask::WRITE_DATA | AccessMask::APPEND_DATA)
            && !request.access.any(AccessMask::MAXIMUM_ALLOWED)
        {
            return Err(VfsError::ReadOnlyAttribute);
        }
        if request.flags.delete_on_close {
            return Err(VfsError::CannotDelete);
        }
        Ok(())
    }

    /// A new node gives its maker what he asked for, whatever its ACL says (MS-FSA 2.1.5.1.1).
    async fn grant_new(
        &self,
        request: &OpenRequest,
        node: &Attributes,
    ) -> Result<AccessMask, VfsError> {
        let wanted = AccessMask(map_generic(request.access.0));
        if !wanted.any(AccessMask::MAXIMUM_ALLOWED) {
            return Ok(wanted);
        }
        let rights = self.inner().rights(&self.caller().identity, node).await?;
        Ok(AccessMask(
            (wanted.0 & !AccessMask::MAXIMUM_ALLOWED) | rights.0,
        ))
    }

    /// What share and policy say about an open that changes something.
    fn check_policy(
        &self,
        request: &OpenRequest,
        granted: AccessMask,
        policy: &WritePolicy,
        overwrite: bool,
    ) -> Result<AccessMask, VfsError> {
        let changes = granted.any(WRITE_RIGHTS) || overwrite || request.flags.delete_on_close;
        if request.flags.delete_on_close && !granted.has(AccessMask::DELETE) {
            return Err(VfsError::AccessDenied);
        }
        if !changes {
            return Ok(granted);
        }
        match self.may_change(policy) {
            Ok(()) => Ok(granted),
            Err(_) if request.access.any(AccessMask::MAXIMUM_ALLOWED) && !overwrite => {
                let left = AccessMask(granted.0 & !WRITE_RIGHTS);
                let asked = AccessMask(map_generic(request.access.0));
                if asked.any(WRITE_RIGHTS) || request.flags.delete_on_close {
                    return self.may_change(policy).map(|()| left);
                }
                Ok(left)
            }
            Err(error) => Err(error),
        }
    }

    /// The stream that an open means: its number, and whether it was made now.
    async fn stream_of(
        &self,
        request: &OpenRequest,
        node: &Attributes,
    ) -> Result<(u32, bool, Option<String>), VfsError> {
        let Some(name) = &request.stream else {
            return Ok((0, false, None));
        };
        let wanted = sluice_repo::fold_name(name);
        let streams = self.inner().repo.streams(node.id).await?;
        let found = streams
            .iter()
            .find(|s| sluice_repo::fold_name(&s.name) == wanted);
        match (found, request.disposition) {
            (Some(_), Disposition::Create) => Err(VfsError::Exists),
            (Some(found), _) => Ok((found.stream, false, Some(found.name.clone()))),
            (None, Disposition::Open | Disposition::Overwrite) => Err(VfsError::NotFound),
            (None, _) => {
                let rights = self.inner().rights(&self.caller().identity, node).await?;
                if !rights.any(AccessMask::WRITE_DATA) {
                    return Err(VfsError::AccessDenied);
                }
                let policy = self.policy_of(node.id).await?;
                self.may_change(&policy)?;
                let made = self.make_stream(node, name).await?;
                Ok((made, true, Some(name.clone())))
            }
        }
    }

    async fn make_stream(&self, node: &Attributes, name: &str) -> Result<u32, VfsError> {
        match self.inner().repo.create_stream(node.id, name).await {
            Ok(made) => {
                let bits = crate::open::filter::STREAM_NAME;
                self.inner().notify_node(
                    crate::ChangeAction::StreamAdded,
                    node.id,
                    Some(name),
                    bits,
                );
                Ok(made.stream)
            }
            Err(RepoError::Exists) => {
                let wanted = sluice_repo::fold_name(name);
                let streams = self.inner().repo.streams(node.id).await?;
                streams
                    .iter()
                    .find(|s| sluice_repo::fold_name(&s.name) == wanted)
                    .map(|s| s.stream)
                    .ok_or(VfsError::NotFound)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn hint(&self, request: &OpenRequest, spot: &Spot) -> String {
        match &request.target {
            Target::Path(path) => path.to_string(),
            Target::Child(..) | Target::Node(_) => spot.name.clone(),
        }
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

impl OpenState {
    /// Empties the content for an open that overwrites, with the attributes that go with it (MS-FSA 2.1.5.1.2.1).
    async fn empty(&self, request: &OpenRequest, node: &Attributes) -> Result<(), VfsError> {
        let Some(working) = &self.working else {
            return Ok(());
        };
        let content = working.content()?;
        if !content.is_empty() {
            content.set_len(0).await?;
            self.wrote(working);
        }
        if self.content.stream != 0 || self.tree.caller().client.protocol != Protocol::Smb {
            return Ok(());
        }
        let dos =
            DosAttributes((request.new.dos.0 | DosAttributes::ARCHIVE) & DosAttributes::STORED);
        let now: Timestamp = crate::vfs::now();
        let change = AttributeChange {
            dos: (dos != node.dos).then_some(dos),
            modified: (node.size == 0).then_some(now),
            ..AttributeChange::default()
        };
        if change != AttributeChange::default() {
            self.inner
                .repo
                .set_attributes(node.id, change, None)
                .await?;
        }
        for stream in self.inner.repo.streams(node.id).await? {
            let stream = ContentId {
                node: node.id,
                stream: stream.stream,
            };
            // One that is open stays: its holder goes on with it.
            if self.inner.opens_of_content(stream) == 0 {
                self.inner.working.forget(stream);
                self.inner.repo.delete_stream(stream).await?;
            }
        }
        if node.ea_size != 0 {
            let mut eas = self.inner.repo.eas(node.id).await?;
            for ea in &mut eas {
                ea.value.clear();
            }
            self.inner.repo.set_eas(node.id, eas).await?;
        }
        if !request.new.eas.is_empty() {
            let eas = request.new.eas.clone();
            self.inner.repo.set_eas(node.id, eas).await?;
        }
        Ok(())
    }
}

fn check_kind(request: &OpenRequest, node: &Attributes) -> Result<(), VfsError> {
    match (request.node_type, node.kind) {
        (NodeType::NotDirectory, NodeKind::Directory) if request.stream.is_none() => {
            Err(VfsError::IsDirectory)
        }
        (NodeType::Directory, kind) if kind != NodeKind::Directory => Err(VfsError::NotDirectory),
        (_, NodeKind::Directory)
            if request.stream.is_none()
                && matches!(
                    request.disposition,
                    Disposition::Supersede | Disposition::Overwrite | Disposition::OverwriteIf
                ) =>
        {
            Err(VfsError::Exists)
        }
        _ => Ok(()),
    }
}

/// Hidden and system documents are overwritten only by who says so again (MS-FSA 2.1.5.1.2.1).
fn check_overwrite(
    request: &OpenRequest,
    node: &Attributes,
    protocol: Protocol,
) -> Result<(), VfsError> {
    if protocol != Protocol::Smb || request.stream.is_some() {
        return Ok(());
    }
    let kept = DosAttributes::HIDDEN | DosAttributes::SYSTEM;
    if node.dos.0 & kept & !request.new.dos.0 != 0 {
        return Err(VfsError::AccessDenied);
    }
    if node.dos.has(DosAttributes::READONLY) {
        return Err(VfsError::ReadOnlyAttribute);
    }
    Ok(())
}
