//! Attributes without an open: reading them with uncommitted writes included, changing them, the length among them.

use sluice_lockmgr as lm;
use sluice_repo::{
    Acl, AttributeChange, Attributes, ContentId, DOCUMENT_BYTES_MAX, ExtendedAttribute, NodeId,
    NodeKind, Timestamp,
};

use crate::error::VfsError;
use crate::lock_bridge::main;
use crate::open::filter;
use crate::policy::OnConflict;
use crate::request::AccessMask;
use crate::tree::Tree;
use crate::working::Change;

impl Tree {
    /// Attributes, uncommitted writes included. Fails with [`VfsError::Stale`] for a node that is gone or outside the share.
    /// Breaks nobody's cache but asks a write-caching holder to give its data back first if `exact`.
    pub async fn attributes(&self, node: NodeId, exact: bool) -> Result<Attributes, VfsError> {
        let mut attributes = self.inner().repo.get(node).await?;
        if exact && attributes.kind == NodeKind::File && !self.inner().is_untouched(node) {
            let policy = self.policy_of(node).await?;
            let nothing = lm::IoKind::Read(lm::ByteRange::clamped(0, 0));
            match self.pass_momentary(node, nothing, &policy).await {
                // Attributes meet no share mode and no range.
                Ok(()) | Err(VfsError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
            attributes = self.inner().repo.get(node).await?;
        }
        Ok(self.inner().as_now(attributes).await?)
    }

    /// Attributes of a node or, for a named stream, with the stream's length.
    pub(crate) async fn node_attributes(&self, content: ContentId) -> Result<Attributes, VfsError> {
        let mut attributes = self.inner().repo.get(content.node).await?;
        if content.stream == 0 {
            return Ok(self.inner().as_now(attributes).await?);
        }
        let working = self.inner().load(content).await?;
        let len = self.inner().length(&working).await?;
        attributes.size = len;
        attributes.allocated = len.next_multiple_of(4096);
        Ok(attributes)
    }

    /// Which bits of `wanted` the caller would be granted.
    pub async fn access(&self, node: NodeId, wanted: AccessMask) -> Result<AccessMask, VfsError> {
        let attributes = self.inner().repo.get(node).await?;
        let spot = crate::tree::Spot {
            dir: None,
            name: String::new(),
            node: None,
        };
        let mut rights = self.rights_at(&spot, &attributes, false).await?;
        let policy = self.policy_of(node).await?;
        if self.may_change(&policy).is_err() {
            rights.0 &= !crate::open::WRITE_RIGHTS;
        }
        Ok(AccessMask(rights.0 & wanted.0))
    }

    /// Changes attributes and, with `size`, the length (checked like a write). `guard`: refuse with [`VfsError::NotSame`]
    /// unless the change time is this (RFC 1813 3.3.2 sattrguard3). Returns the attributes after.
    pub async fn set_attributes(
        &self,
        node: NodeId,
        mut change: AttributeChange,
        size: Option<u64>,
        guard: Option<Timestamp>,
    ) -> Result<Attributes, VfsError> {
        let attributes = self.inner().repo.get(node).await?;
        let attributes = self.inner().as_now(attributes).await?;
        if guard.is_some_and(|guard| guard != attributes.changed) {
            return Err(VfsError::NotSame);
        }
        let policy = self.policy_of(node).await?;
        self.may_change(&policy)?;
        if change != AttributeChange::default() {
            let who = &self.caller().identity;
            let rights = self.inner().rights(who, &attributes).await?;
            self.inner()
                .check_change(who, &attributes, rights, &mut change)?;
        }
        if let Some(size) = size {
            self.set_size(&attributes, size, &policy).await?;
        }
        if change != AttributeChange::default() {
            self.pass_momentary(node, lm::IoKind::Attributes, &policy)
                .await?;
            let modified = change.modified;
            let current = self.inner().repo.get(node).await?;
            self.inner().apply_change(&current, change, None).await?;
            if let (Some(modified), Some(working)) =
                (modified, self.inner().working.peek(main(node)))
            {
                working.set_modified(modified);
            }
            self.inner()
                .notify_content(main(node), None, filter::ATTRIBUTES);
        }
        let after = self.inner().repo.get(node).await?;
        Ok(self.inner().as_now(after).await?)
    }

    async fn set_size(
        &self,
        node: &Attributes,
        size: u64,
        policy: &crate::policy::WritePolicy,
    ) -> Result<(), VfsError> {
        match node.kind {
            NodeKind::File => {}
            NodeKind::Directory => return Err(VfsError::IsDirectory),
            _ => return Err(VfsError::Invalid("not a document")),
        }
        if size > DOCUMENT_BYTES_MAX {
            return Err(VfsError::TooLarge);
        }
        self.require_write(node, policy).await?;
        if let Some(copy) = self.fork_in_use(node.id, policy) {
            return self.cut(copy, size).await;
        }
        let working = self.working_of(node.id).await?;
        let from = self.inner().length(&working).await?.min(size);
        let range = lm::ByteRange::to_end(from);
        match self
            .pass_momentary(node.id, lm::IoKind::SetSize(range), policy)
            .await
        {
            Ok(()) => self.cut(node.id, size).await,
            Err(VfsError::Conflict(_)) if policy.on_conflict == OnConflict::Fork => {
                let copy = self.fork_for_writes(node, policy).await?;
                self.cut(copy, size).await
            }
            Err(error) => Err(error),
        }
    }

    /// Changes the length; the lock table was passed.
    async fn cut(&self, node: NodeId, size: u64) -> Result<(), VfsError> {
        let working = self.working_of(node).await?;
        if self.change(&working, Change::SetLen(size)).await?.any {
            self.inner().notify_content(main(node), None, filter::SIZE);
        }
        self.inner().flush(&working).await
    }

    /// The security descriptor. Needs READ_CONTROL.
    pub async fn acl(&self, node: NodeId) -> Result<Acl, VfsError> {
        let attributes = self.inner().repo.get(node).await?;
        self.require(&attributes, AccessMask::READ_CONTROL).await?;
        self.inner().shown_acl(&attributes).await
    }

    /// Extended attributes.
    pub async fn eas(&self, node: NodeId) -> Result<Vec<ExtendedAttribute>, VfsError> {
        let attributes = self.inner().repo.get(node).await?;
        self.require(&attributes, AccessMask::READ_EA).await?;
        Ok(self.inner().repo.eas(node).await?)
    }
}
