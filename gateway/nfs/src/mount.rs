//! MOUNT v3, and v1 and v2 for old tools: paths to handles, and the list of exports. No list of mounts is kept: clients
//! come and go without telling, so it would be wrong; DUMP is empty and UMNT does nothing.

use std::sync::Arc;

use bytes::Bytes;
use sluice_nfs_wire::auth::AUTH_SYS;
use sluice_nfs_wire::mount::{self, DirPath, Export, Exports, MntRes, MountStat};
use sluice_nfs_wire::nfs3::{FileHandle, Status};
use sluice_nfs_wire::rpc::ReplyHead;
use sluice_nfs_wire::xdr::{Encoder, Opaque};
use sluice_vfs::{NodeKind, Protocol, RelPath};
use tracing::info;

use crate::call::Call;
use crate::conn::{Connection, IncomingCall};
use crate::dispatch::{credential, success};
use crate::server::Head;
use crate::status;

pub(crate) async fn answer(
    head: &Arc<Head>,
    connection: &Connection,
    mut call: IncomingCall,
) -> Result<Vec<Bytes>, ReplyHead> {
    let credential = credential(&call)?;
    let mut out = success(call.xid);
    match call.header.procedure {
        mount::PROC_NULL | mount::PROC_UMNT | mount::PROC_UMNTALL => {}
        mount::PROC_MNT => {
            let path: DirPath = call.args.get().map_err(|_| ReplyHead::GarbageArgs)?;
            let result = match Call::begin(head, connection, &credential).await {
                Ok(call) => mnt(&call, &path).await,
                Err(status) => Err(status),
            };
            put_result(&mut out, call.header.version, result);
        }
        mount::PROC_DUMP => out.put(&false),
        mount::PROC_EXPORT => out.put(&exports(head)),
        _ => return Err(ReplyHead::ProcUnavail),
    }
    Ok(out.into_segments())
}

/// `/SHARE` or a folder below it.
async fn mnt(call: &Call<'_>, path: &DirPath) -> Result<FileHandle, Status> {
    let path = std::str::from_utf8(&path.0).map_err(|_| Status::NoEnt)?;
    let (share_name, rest) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((path.trim_start_matches('/'), ""));
    let result = mount_at(call, share_name, rest).await;
    let client = &call.caller.client;
    match &result {
        Ok(_) => info!(client = %call.address(), client_name = client.name, path, "NFS mount"),
        Err(status) => {
            info!(client = %call.address(), client_name = client.name, path, ?status, "NFS mount refused")
        }
    }
    result
}

async fn mount_at(call: &Call<'_>, share_name: &str, rest: &str) -> Result<FileHandle, Status> {
    let to_status = |e| status::nfs(&e);
    let share = call
        .head
        .vfs
        .share(Protocol::Nfs3, share_name)
        .ok_or(Status::NoEnt)?;
    let tree = call.tree(&share).map_err(to_status)?;
    let path = RelPath::parse(rest, '/').map_err(to_status)?;
    if path.is_root() {
        return Ok(call.handle(share.id, tree.root()));
    }
    let found = tree.resolve(&path).await.map_err(to_status)?;
    if found.kind != NodeKind::Directory {
        return Err(Status::NotDir);
    }
    Ok(call.handle(share.id, found.id))
}

/// Version 3 adds the flavors (RFC 1813 5.2.1); before, the handle has a fixed length of 32 bytes, which ours has.
fn put_result(out: &mut Encoder, version: u32, result: Result<FileHandle, Status>) {
    match result {
        Ok(handle) if version < 3 => {
            out.put(&MountStat::Ok);
            out.opaque_fixed(&handle.0);
        }
        Ok(handle) => out.put(&MntRes::Ok(handle, vec![AUTH_SYS])),
        Err(status) => out.put(&MntRes::Fail(status::mount(status))),
    }
}

fn exports(head: &Head) -> Exports {
    let shares = head.vfs.shares(Protocol::Nfs3);
    Exports(
        shares
            .iter()
            .map(|share| Export {
                dir: Opaque::copy_of(format!("/{}", share.name)),
                groups: share
                    .nfs_clients
                    .iter()
                    .map(|net| Opaque::copy_of(net.to_string()))
                    .collect(),
            })
            .collect(),
    )
}
