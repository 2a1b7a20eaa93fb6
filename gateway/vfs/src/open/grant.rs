//! What an open is granted: kind and attributes, permissions, share and policy (MS-FSA 2.1.5.1). Decides; changes nothing.

use sluice_repo::{Attributes, DosAttributes, NodeKind};

use crate::error::VfsError;
use crate::identity::Protocol;
use crate::open::WRITE_RIGHTS;
use crate::permission::map_generic;
use crate::policy::WritePolicy;
use crate::request::{AccessMask, Disposition, NodeType, OpenRequest};
use crate::tree::{Spot, Tree};

impl Tree {
    /// Access that the caller gets on an existing node, or the refusal (MS-FSA 2.1.5.1.2.1).
    pub(super) async fn grant(
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

    pub(super) fn check_read_only_attribute(
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
    pub(super) async fn grant_new(
        &self,
        request: &OpenRequest,
        node: &Attributes,
    ) -> Result<AccessMask, VfsError> {
        let wanted = AccessMask(map_generic(request.access.0));
        if wanted.any(AccessMask::ACCESS_SYSTEM_SECURITY) && !self.caller().identity.admin {
            return Err(VfsError::AccessDenied);
        }
        if !wanted.any(AccessMask::MAXIMUM_ALLOWED) {
            return Ok(wanted);
        }
        let rights = self.inner().rights(&self.caller().identity, node).await?;
        Ok(AccessMask(
            (wanted.0 & !AccessMask::MAXIMUM_ALLOWED) | rights.0,
        ))
    }

    /// What share and policy say about an open that changes something.
    pub(super) fn check_policy(
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
}

pub(super) fn check_kind(request: &OpenRequest, node: &Attributes) -> Result<(), VfsError> {
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
pub(super) fn check_overwrite(
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
