//! I/O without an open (NFSv3 READ, WRITE, COMMIT): each call is checked like an open of that moment; a write takes the
//! writer's place, which the lock table keeps until the client is idle or goes on.

use std::sync::Arc;

use bytes::Bytes;
use sluice_lockmgr as lm;
use sluice_repo::{Attributes, DOCUMENT_BYTES_MAX, NodeId, NodeKind, WriteSession};

use crate::error::VfsError;
use crate::lock_bridge::{main, on_conflict};
use crate::open::{ReadData, Stability, filter};
use crate::policy::{OnConflict, WritePolicy};
use crate::request::AccessMask;
use crate::tree::{Tree, WriteReceipt};
use crate::working::{Change, Changed, Working, Writer, origin};

impl Tree {
    /// A momentary read: checked like an open of that moment (NFSv3 READ).
    pub async fn read(&self, node: NodeId, offset: u64, length: u32) -> Result<ReadData, VfsError> {
        let attributes = self.document(node).await?;
        // The owner reads what he has opened, and execute permission lets a program be read (RFC 1813 4.4).
        let identity = &self.caller().identity;
        if identity.uid != attributes.uid {
            let rights = self.inner().rights(identity, &attributes).await?;
            if !rights.any(AccessMask::READ_DATA | AccessMask::EXECUTE) {
                return Err(VfsError::AccessDenied);
            }
        }
        let policy = self.policy_of(node).await?;
        let range = lm::ByteRange::clamped(offset, u64::from(length));
        let request = self.io_request(node, lm::IoKind::Read(range), None, &policy);
        self.inner().momentary(request).await?;
        let working = self.inner().load(main(node)).await?;
        let data = self.inner().read_working(&working, offset, length).await?;
        let protocol = self.caller().client.protocol;
        self.inner().metrics.reads.add(protocol, 1);
        self.inner()
            .metrics
            .bytes_read
            .add(protocol, data.len as u64);
        Ok(data)
    }

    /// A momentary write (NFSv3 WRITE): takes or renews the caller's writer's place unless the policy or its own range lock frees it.
    /// Answers [`VfsError::Delay`] while it must wait.
    pub async fn write(
        &self,
        node: NodeId,
        offset: u64,
        data: Bytes,
        stability: Stability,
    ) -> Result<WriteReceipt, VfsError> {
        let bytes = data.len() as u64;
        let end = offset.checked_add(bytes).ok_or(VfsError::TooLarge)?;
        if end > DOCUMENT_BYTES_MAX {
            return Err(VfsError::TooLarge);
        }
        let attributes = self.document(node).await?;
        let policy = self.policy_of(node).await?;
        self.require_write(&attributes, &policy).await?;
        if let Some(copy) = self.fork_in_use(node, &policy) {
            return Box::pin(self.write(copy, offset, data, stability)).await;
        }
        let range = lm::ByteRange::clamped(offset, bytes);
        let place = (policy.writers != lm::Writers::Shared).then_some(lm::PlaceRequest {
            idle: self.inner().options.place_idle,
        });
        let request = self.io_request(node, lm::IoKind::Write(range), place, &policy);
        let resource = request.resource;
        match self.inner().momentary(request).await {
            Ok(()) => {}
            Err(VfsError::Conflict(_)) if policy.on_conflict == OnConflict::Fork => {
                let copy = self.fork_for_writes(&attributes, &policy).await?;
                return Box::pin(self.write(copy, offset, data, stability)).await;
            }
            Err(error) => return Err(error),
        }
        if place.is_some() {
            self.inner()
                .place_used(self.caller().client.id, resource)
                .await;
        }
        let working = self.inner().load(main(node)).await?;
        let change = Change::Write(offset, data);
        let changed = self.change(&working, change).await?;
        if changed.any {
            let bits = if changed.resized {
                filter::LAST_WRITE | filter::SIZE
            } else {
                filter::LAST_WRITE
            };
            self.inner().notify_content(main(node), None, bits);
        }
        let protocol = self.caller().client.protocol;
        self.inner().metrics.writes.add(protocol, 1);
        self.inner().metrics.bytes_written.add(protocol, bytes);
        if stability == Stability::Durable {
            self.flush_or_settle(&working).await?;
            self.inner()
                .places
                .committed(self.caller().client.id, resource);
        }
        Ok(WriteReceipt { stability })
    }

    /// Makes all momentary writes to `node` durable (NFSv3 COMMIT).
    pub async fn commit(&self, node: NodeId) -> Result<(), VfsError> {
        let copy = self.inner().forks.get(self.caller().client.id, node);
        for node in copy.into_iter().chain([node]) {
            if let Some(working) = self.inner().working.peek(main(node)) {
                self.flush_or_settle(&working).await?;
            } else {
                self.document(node).await?;
                self.inner().repo.settle().await?;
            }
        }
        let resource = lm::ResourceId::main(node.0);
        self.inner()
            .places
            .committed(self.caller().client.id, resource);
        Ok(())
    }

    /// Makes a document durable: a commit of its bytes brings everything before it along, without one its creation is asked for.
    async fn flush_or_settle(&self, working: &Arc<Working>) -> Result<(), VfsError> {
        if working.is_dirty() {
            self.inner().flush(working).await
        } else {
            Ok(self.inner().repo.settle().await?)
        }
    }

    /// Changes the bytes of a document without an open; the lock table was passed.
    pub(crate) async fn change(
        &self,
        working: &Arc<Working>,
        change: Change,
    ) -> Result<Changed, VfsError> {
        let writer = self.momentary_writer();
        let changed = self.inner().change(working, &writer, true, change).await?;
        if changed.shared {
            self.inner().expose(working.id.node).await;
        }
        Ok(changed)
    }

    /// A document known by id.
    pub(crate) async fn document(&self, node: NodeId) -> Result<Attributes, VfsError> {
        let attributes = self.inner().repo.get(node).await?;
        match attributes.kind {
            NodeKind::File => Ok(attributes),
            NodeKind::Directory => Err(VfsError::IsDirectory),
            _ => Err(VfsError::Invalid("not a document")),
        }
    }

    /// The owner of a document writes whatever its mode says: over NFS the check was made at the client's open
    /// (RFC 1813 4.4).
    pub(crate) async fn require_write(
        &self,
        node: &Attributes,
        policy: &WritePolicy,
    ) -> Result<(), VfsError> {
        let identity = &self.caller().identity;
        if identity.uid != node.uid || !self.polls() {
            self.require(node, AccessMask::WRITE_DATA).await?;
        }
        self.may_change(policy)
    }

    pub(crate) fn io_request(
        &self,
        node: NodeId,
        kind: lm::IoKind,
        place: Option<lm::PlaceRequest>,
        policy: &WritePolicy,
    ) -> lm::IoRequest {
        lm::IoRequest {
            resource: lm::ResourceId::main(node.0),
            actor: self
                .inner()
                .momentary_actor(self.caller(), policy.rule.as_deref()),
            kind,
            place,
            on_conflict: on_conflict(policy, self.polls()),
            nfs_ranges_mandatory: self.share().mandatory_nfs_ranges,
        }
    }

    /// The writing session of a client without opens; the working content ends it when the client has been idle.
    pub(crate) fn momentary_writer(&self) -> Writer {
        let client = u128::from(self.caller().client.id.0);
        Writer {
            session: WriteSession(self.inner().session_base ^ client),
            origin: origin(self.caller()),
            versions: self.share().versions,
            account: self.inner().account(self.share()),
            momentary: true,
        }
    }

    /// Shared by the calls that change a document's bytes or attributes without an open.
    pub(crate) async fn pass_momentary(
        &self,
        node: NodeId,
        kind: lm::IoKind,
        policy: &WritePolicy,
    ) -> Result<(), VfsError> {
        let request = self.io_request(node, kind, None, policy);
        self.inner().momentary(request).await
    }

    /// The shared working content of a document.
    pub(crate) async fn working_of(&self, node: NodeId) -> Result<Arc<Working>, VfsError> {
        self.inner().load(main(node)).await
    }
}
