//! From an RPC call to its program: versions, credentials, retries; and back to the bytes of the reply.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sluice_nfs_wire::nfs3::{self, Procedure};
use sluice_nfs_wire::rpc::ReplyHead;
use sluice_nfs_wire::xdr::{Encoder, XdrError};
use sluice_nfs_wire::{mount, nlm, nsm, portmap};
use sluice_vfs::within_call;
use tracing::Instrument;

use crate::call::{Call, Credential};
use crate::conn::{Connection, IncomingCall};
use crate::server::Head;
use crate::{drc, v3};

/// Answers one call; the segments are the reply without record mark.
pub(crate) async fn answer(
    head: &Arc<Head>,
    connection: &Connection,
    call: IncomingCall,
) -> Vec<Bytes> {
    let xid = call.xid;
    match route(head, connection, call).await {
        Ok(segments) => segments,
        Err(refusal) => {
            let mut e = Encoder::new();
            refusal.encode(xid, &mut e);
            e.into_segments()
        }
    }
}

/// An encoder that already holds the head of a successful reply.
pub(crate) fn success(xid: u32) -> Encoder {
    let mut e = Encoder::new();
    ReplyHead::Success.encode(xid, &mut e);
    e
}

/// What is rare has memory of its own, so that the others need not make room for it.
async fn route(
    head: &Arc<Head>,
    connection: &Connection,
    call: IncomingCall,
) -> Result<Vec<Bytes>, ReplyHead> {
    let version = call.header.version;
    match call.header.program {
        nfs3::PROGRAM => {
            check_version(version, nfs3::VERSION, nfs3::VERSION)?;
            nfs(head, connection, call).await
        }
        mount::PROGRAM => {
            check_version(version, mount::VERSIONS.0, mount::VERSIONS.1)?;
            Box::pin(crate::mount::answer(head, connection, call)).await
        }
        nlm::PROGRAM => {
            check_version(version, nlm::VERSIONS.0, nlm::VERSIONS.1)?;
            Box::pin(crate::nlm::answer(head, connection, call)).await
        }
        nsm::PROGRAM => {
            check_version(version, nsm::VERSION, nsm::VERSION)?;
            Box::pin(crate::nsm::answer(head, connection.address(), call)).await
        }
        portmap::PROGRAM => {
            check_version(
                version,
                portmap::PORTMAP_VERSION,
                portmap::RPCBIND_VERSIONS.1,
            )?;
            crate::portmap::answer(head, connection, call)
        }
        _ => Err(ReplyHead::ProgUnavail),
    }
}

fn check_version(version: u32, low: u32, high: u32) -> Result<(), ReplyHead> {
    if (low..=high).contains(&version) {
        Ok(())
    } else {
        Err(ReplyHead::ProgMismatch { low, high })
    }
}

/// Checks the credential of a call, except for procedure 0: pings need none, but a probe for TLS must be refused.
pub(crate) fn credential(call: &IncomingCall) -> Result<Credential, ReplyHead> {
    Credential::decode(&call.header.cred).map_err(ReplyHead::AuthError)
}

/// The reply with what `result` appends to its head.
async fn encoded(
    xid: u32,
    result: impl AsyncFnOnce(&mut Encoder) -> Result<(), XdrError>,
) -> Vec<Bytes> {
    let mut out = success(xid);
    if result(&mut out).await.is_err() {
        out = Encoder::new();
        ReplyHead::GarbageArgs.encode(xid, &mut out);
    }
    out.into_segments()
}

async fn nfs(
    head: &Arc<Head>,
    connection: &Connection,
    call: IncomingCall,
) -> Result<Vec<Bytes>, ReplyHead> {
    let credential = credential(&call)?;
    let procedure = Procedure::from_u32(call.header.procedure).ok_or(ReplyHead::ProcUnavail)?;
    if procedure == Procedure::Null {
        return Ok(success(call.xid).into_segments());
    }
    let span = tracing::debug_span!(
        "nfs3",
        node = head.vfs.node_name(),
        protocol = "nfs3",
        procedure = procedure.name(),
        client = %connection.address(),
        client_name = credential.machine_name,
        xid = call.xid,
    );
    let xid = call.xid;
    let (body, args) = (call.body, call.args);
    let run = async {
        let call = Call::begin(head, connection, &credential).await;
        let once = procedure.is_non_idempotent().then(|| {
            let id = drc::call_id(connection.address(), xid, procedure, &body);
            (id, args.clone())
        });
        let work = encoded(xid, async |out| match &call {
            Ok(call) => v3::run(call, procedure, args, out).await,
            Err(status) => v3::refuse(procedure, *status, out),
        });
        let Some((id, args)) = once else {
            return work.await;
        };
        let reply = within_call(id, work).await;
        match &call {
            // Refused, perhaps because another node has carried it out already, whose reply was lost.
            Ok(call) if !v3::is_done(&reply) && head.vfs.carried_out(id).await => {
                let again = encoded(xid, async |out| {
                    v3::repeated(call, procedure, args, out).await
                });
                Box::pin(again).await
            }
            _ => reply,
        }
    };
    // In memory of its own: every layer from here to the task would move it, some more than once.
    let run = Box::pin(run.instrument(span));
    if !drc::is_kept(procedure) {
        return Ok(run.await);
    }
    let key = head
        .replies
        .key(connection.address(), xid, procedure, &body);
    let (reply, ran) = head.replies.reply(key, Instant::now(), run).await;
    if ran && !v3::is_done(&reply) {
        // Nothing was done: running it once more is as good as running it late.
        head.replies.forget(&key);
    }
    Ok(reply)
}
