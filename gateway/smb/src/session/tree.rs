//! TREE_CONNECT and TREE_DISCONNECT (MS-SMB2 3.3.5.7, 3.3.5.8).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::{echo, tree as wire};
use sluice_vfs::{AccessMask, Protocol, Share, VfsError};

use super::{Session, Tree, TreeId, TreeKind};
use crate::op::OpReply;
use crate::server::Server;

/// MaximalAccess of IPC$: read, write, execute and control, without delete.
const PIPE_ACCESS: u32 = 0x0012_019f;

/// Answers TREE_CONNECT. The second value is the new tree's id.
pub(crate) async fn connect(
    server: &Server,
    session: &Session,
    message: &Bytes,
) -> (OpReply, Option<TreeId>) {
    match try_connect(server, session, message).await {
        Ok(tree) => {
            let mut body = BytesMut::with_capacity(16);
            response(&tree).encode(&mut body);
            (OpReply::ok(body), Some(tree.id))
        }
        Err(status) => (OpReply::error(status), None),
    }
}

async fn try_connect(
    server: &Server,
    session: &Session,
    message: &Bytes,
) -> Result<Arc<Tree>, NtStatus> {
    let request =
        wire::TreeConnectRequest::decode(message).map_err(|_| NtStatus::INVALID_PARAMETER)?;
    let name = request.share();
    let limit = server.options.trees_per_session_max;
    let (share_name, kind, maximal_access, encrypt) = if name.eq_ignore_ascii_case("IPC$") {
        ("IPC$".to_owned(), TreeKind::Pipe, PIPE_ACCESS, false)
    } else {
        let share = server
            .vfs
            .share(Protocol::Smb, name)
            .ok_or(NtStatus::BAD_NETWORK_NAME)?;
        open_share(server, session, &share).await?
    };
    if encrypt && session.sealing.is_none() {
        return Err(NtStatus::ACCESS_DENIED);
    }
    session
        .add_tree(limit, |id| Tree {
            id,
            share_name,
            kind,
            maximal_access,
            encryption_required: encrypt,
            ended: session.ended.child_token(),
        })
        .ok_or(NtStatus::INSUFFICIENT_RESOURCES)
}

async fn open_share(
    server: &Server,
    session: &Session,
    share: &Arc<Share>,
) -> Result<(String, TreeKind, u32, bool), NtStatus> {
    let refused = |error: VfsError| match error {
        VfsError::NotFound | VfsError::Stale => NtStatus::BAD_NETWORK_NAME,
        VfsError::Unavailable(_) | VfsError::Io => NtStatus::SERVER_UNAVAILABLE,
        _ => NtStatus::ACCESS_DENIED,
    };
    let tree = server
        .vfs
        .tree(share, session.caller.clone())
        .map_err(refused)?;
    let access = tree
        .access(tree.root(), AccessMask(AccessMask::FILE_ALL))
        .await
        .map_err(refused)?;
    Ok((
        share.name.clone(),
        TreeKind::Disk(Box::new(tree)),
        access.0,
        share.smb_encrypt,
    ))
}

fn response(tree: &Tree) -> wire::TreeConnectResponse {
    let share_type = match tree.kind {
        TreeKind::Disk(_) => wire::SHARE_TYPE_DISK,
        TreeKind::Pipe => wire::SHARE_TYPE_PIPE,
    };
    wire::TreeConnectResponse {
        share_type,
        share_flags: if tree.encryption_required {
            wire::SHAREFLAG_ENCRYPT_DATA
        } else {
            0
        },
        capabilities: 0,
        maximal_access: tree.maximal_access,
    }
}

/// Answers TREE_DISCONNECT.
pub(crate) async fn disconnect(session: &Session, tree: TreeId, message: &Bytes) -> OpReply {
    if wire::decode_disconnect(message).is_err() {
        return OpReply::error(NtStatus::INVALID_PARAMETER);
    }
    if !session.end_tree(tree).await {
        return OpReply::error(NtStatus::NETWORK_NAME_DELETED);
    }
    let mut body = BytesMut::with_capacity(4);
    echo::encode_response(&mut body);
    OpReply::ok(body)
}
