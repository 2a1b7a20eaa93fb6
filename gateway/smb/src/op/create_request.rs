//! A CREATE request checked and turned into the file layer's words (MS-SMB2 3.3.5.9, MS-FSA 2.1.5.1).

use std::sync::Arc;

use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::create::{self as wire, CreateRequest};
use sluice_smb_wire::cmd::negotiate::Dialect;
use sluice_smb_wire::create_ctx::{CreateContexts, LEASE_FLAG_PARENT_KEY, LeaseContext};
use sluice_smb_wire::fscc::{ATTR_ARCHIVE, ATTR_DIRECTORY, ATTR_ENCRYPTED, ATTR_READONLY, ea};
use sluice_smb_wire::names::{PathError, SmbPath};
use sluice_smb_wire::security_descriptor::{DACL, GROUP, OWNER, SACL, SecurityDescriptor};
use sluice_vfs::{
    AccessMask, CacheRequest, Disposition, DosAttributes, LeaseKey, LeaseState, NewNode, NodeType,
    OpenFlags, OpenRequest, OplockLevel, RelPath, ShareMode, Target,
};

use super::{OpContext, security, set_info};
use crate::open::OpenListener;
use crate::status::status_of;

/// RequestedOplockLevel that announces a lease context.
const OPLOCK_LEVEL_LEASE: u8 = 0xFF;

/// The status for a path that can't name anything.
pub(super) fn path_status(error: PathError) -> NtStatus {
    match error {
        PathError::LeadingSeparator => NtStatus::INVALID_PARAMETER,
        PathError::BadName => NtStatus::OBJECT_NAME_INVALID,
        PathError::Dots => NtStatus::OBJECT_PATH_SYNTAX_BAD,
    }
}

/// Checks that need no look at the share, in the order in which Windows makes them.
pub(super) fn validate(
    ctx: &OpContext,
    request: &CreateRequest,
    path: &SmbPath,
) -> Result<wire::Disposition, NtStatus> {
    const OPTIONS_INVALID: u32 = 0xFF00_0000;
    const OPTIONS_UNSUPPORTED: u32 =
        wire::OPT_CREATE_TREE_CONNECTION | wire::OPT_OPEN_BY_FILE_ID | wire::OPT_RESERVE_OPFILTER;
    const ATTRIBUTES_VALID: u32 = 0x0000_3FB7 | ATTR_ENCRYPTED;
    const SHARE_VALID: u32 = 0x07;
    if request.impersonation_level > 3 {
        return Err(NtStatus::BAD_IMPERSONATION_LEVEL);
    }
    let disposition = request.disposition.ok_or(NtStatus::INVALID_PARAMETER)?;
    validate_access(ctx, request.desired_access)?;
    if request.options & OPTIONS_INVALID != 0
        || request.file_attributes & !ATTRIBUTES_VALID != 0
        || request.share_access & !SHARE_VALID != 0
    {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if request.options & OPTIONS_UNSUPPORTED != 0 {
        return Err(NtStatus::NOT_SUPPORTED);
    }
    let directory = request.has(wire::OPT_DIRECTORY_FILE);
    if directory && (request.has(wire::OPT_NON_DIRECTORY_FILE) || disposition.truncates()) {
        return Err(NtStatus::INVALID_PARAMETER);
    }
    if directory && (path.stream.is_some() || path.explicit_data) {
        return Err(NtStatus::NOT_A_DIRECTORY);
    }
    validate_delete(request, disposition)?;
    Ok(disposition)
}

/// Auditing lists are for administrators only.
fn validate_access(ctx: &OpContext, access: u32) -> Result<(), NtStatus> {
    const RESERVED: u32 = 0x0CE0_FE00;
    if access & RESERVED != 0 || access == 0 {
        return Err(NtStatus::ACCESS_DENIED);
    }
    if access & AccessMask::ACCESS_SYSTEM_SECURITY != 0 && !ctx.session.caller.identity.admin {
        return Err(NtStatus::PRIVILEGE_NOT_HELD);
    }
    Ok(())
}

fn validate_delete(
    request: &CreateRequest,
    disposition: wire::Disposition,
) -> Result<(), NtStatus> {
    if request.has(wire::OPT_DELETE_ON_CLOSE) {
        let may = AccessMask::DELETE | AccessMask::GENERIC_ALL | AccessMask::MAXIMUM_ALLOWED;
        if request.desired_access & may == 0 {
            return Err(NtStatus::INVALID_PARAMETER);
        }
        let makes = !matches!(disposition, wire::Disposition::Open);
        if makes && request.file_attributes & ATTR_READONLY != 0 {
            return Err(NtStatus::CANNOT_DELETE);
        }
    }
    Ok(())
}

/// The open that the request asks for.
pub(super) fn to_vfs(
    ctx: &OpContext,
    request: &CreateRequest,
    asked: wire::Disposition,
    path: SmbPath,
    contexts: &CreateContexts,
    listener: &Arc<OpenListener>,
) -> Result<OpenRequest, NtStatus> {
    // The audit list needs SeSecurityPrivilege, which no ACL can give.
    if request.desired_access & AccessMask::ACCESS_SYSTEM_SECURITY != 0
        && !ctx.session.caller.identity.admin
    {
        return Err(NtStatus::PRIVILEGE_NOT_HELD);
    }
    let node_type = if request.has(wire::OPT_DIRECTORY_FILE) {
        NodeType::Directory
    } else if request.has(wire::OPT_NON_DIRECTORY_FILE) || path.explicit_data {
        NodeType::NotDirectory
    } else {
        NodeType::Any
    };
    let target = RelPath::from_components(path.components).map_err(|e| status_of(&e))?;
    Ok(OpenRequest {
        target: Target::Path(target),
        stream: path.stream,
        access: AccessMask(request.desired_access),
        share: ShareMode {
            read: request.share_access & 1 != 0,
            write: request.share_access & 2 != 0,
            delete: request.share_access & 4 != 0,
        },
        disposition: disposition(asked),
        node_type,
        new: new_node(request, contexts, node_type)?,
        flags: OpenFlags {
            delete_on_close: request.has(wire::OPT_DELETE_ON_CLOSE),
            write_through: request.has(wire::OPT_WRITE_THROUGH),
            open_link: request.has(wire::OPT_OPEN_REPARSE_POINT),
            backup_intent: request.has(wire::OPT_OPEN_FOR_BACKUP_INTENT),
            poll: false,
            complete_if_oplocked: request.has(wire::OPT_COMPLETE_IF_OPLOCKED),
            reclaim: false,
        },
        cache: cache_request(ctx, request, contexts.lease),
        listener: Some(listener.clone()),
    })
}

fn disposition(wire: wire::Disposition) -> Disposition {
    match wire {
        wire::Disposition::Supersede => Disposition::Supersede,
        wire::Disposition::Open => Disposition::Open,
        wire::Disposition::Create => Disposition::Create,
        wire::Disposition::OpenIf => Disposition::OpenIf,
        wire::Disposition::Overwrite => Disposition::Overwrite,
        wire::Disposition::OverwriteIf => Disposition::OverwriteIf,
    }
}

fn new_node(
    request: &CreateRequest,
    contexts: &CreateContexts,
    node_type: NodeType,
) -> Result<NewNode, NtStatus> {
    let mut dos = request.file_attributes & DosAttributes::STORED & !DosAttributes::SPARSE;
    if node_type != NodeType::Directory && request.file_attributes & ATTR_DIRECTORY == 0 {
        // Every new or overwritten document is to be archived (MS-FSA 2.1.5.1.1).
        dos |= ATTR_ARCHIVE;
    }
    let acl = match &contexts.security {
        Some(data) => {
            let parts = present_parts(data)?;
            match parts {
                0 => None,
                parts => Some(security::decode(data, parts)?.0),
            }
        }
        None => None,
    };
    let eas = match &contexts.ea_list {
        Some(list) => {
            let list = ea::decode_full(list).map_err(|_| NtStatus::EA_LIST_INCONSISTENT)?;
            set_info::own_eas(list)?
        }
        None => Vec::new(),
    };
    Ok(NewNode {
        dos: DosAttributes(dos),
        acl,
        eas,
        allocation: contexts.allocation.unwrap_or(0),
        ..NewNode::default()
    })
}

/// Which parts a new document's descriptor states; one without a list leaves inheritance in force.
fn present_parts(data: &bytes::Bytes) -> Result<u32, NtStatus> {
    use sluice_smb_wire::security_descriptor::{DACL_PRESENT, SACL_PRESENT};
    let descriptor = SecurityDescriptor::decode(data).map_err(|_| NtStatus::INVALID_PARAMETER)?;
    if descriptor.control & DACL_PRESENT == 0 {
        return Ok(0);
    }
    let mut parts = OWNER | GROUP | DACL;
    if descriptor.control & SACL_PRESENT != 0 {
        parts |= SACL;
    }
    Ok(parts)
}

/// Oplocks for every dialect, leases from 2.1 on, their second version from 3.0 on (MS-SMB2 3.3.5.9.8, 3.3.5.9.11).
fn cache_request(
    ctx: &OpContext,
    request: &CreateRequest,
    lease: Option<LeaseContext>,
) -> CacheRequest {
    let level = match request.oplock_level {
        0x01 => OplockLevel::LevelTwo,
        0x08 => OplockLevel::Exclusive,
        0x09 => OplockLevel::Batch,
        OPLOCK_LEVEL_LEASE => {
            return match lease {
                Some(lease) if ctx.conn.dialect() >= Dialect::Smb210 => lease_request(ctx, lease),
                _ => CacheRequest::None,
            };
        }
        _ => return CacheRequest::None,
    };
    CacheRequest::Oplock(level)
}

fn lease_request(ctx: &OpContext, lease: LeaseContext) -> CacheRequest {
    const STATES: u32 = LeaseState::READ | LeaseState::HANDLE | LeaseState::WRITE;
    let state = match lease.state & STATES {
        // Handle or write caching without read caching is no lease state.
        state if state & LeaseState::READ == 0 => 0,
        state => state,
    };
    let v2 = lease.v2.filter(|_| ctx.conn.dialect() >= Dialect::Smb300);
    let parent = v2
        .filter(|_| lease.flags & LEASE_FLAG_PARENT_KEY != 0)
        .map(|v2| LeaseKey(v2.parent_key));
    CacheRequest::Lease {
        key: LeaseKey(lease.key),
        state: LeaseState(state),
        parent,
        epoch: v2.map_or(0, |v2| v2.epoch),
        version: if v2.is_some() { 2 } else { 1 },
    }
}
