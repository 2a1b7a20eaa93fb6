//! The server's side of the status monitor: a client that has restarted says so, and what it held before is freed.
//!
//! Monitors nobody by itself: a client that died and does not come back keeps its locks until `sluice locks break`.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use sluice_nfs_wire::nsm::{self, NotifyArgs};
use sluice_nfs_wire::rpc::ReplyHead;

use crate::conn::IncomingCall;
use crate::dispatch::success;
use crate::server::Head;

/// Answers one call of the status monitor.
pub(crate) async fn answer(
    head: &Arc<Head>,
    address: IpAddr,
    call: IncomingCall,
) -> Result<Vec<Bytes>, ReplyHead> {
    let mut args = call.args;
    match call.header.procedure {
        nsm::PROC_NULL => {}
        nsm::PROC_NOTIFY => {
            let args: NotifyArgs = args.get().map_err(|_| ReplyHead::GarbageArgs)?;
            let name = String::from_utf8_lossy(&args.name.0).into_owned();
            // It says so again until it hears the answer; by then it may hold new locks.
            if head.locks.is_news(address, &name, args.state) {
                head.locks.free_all(&head.vfs, address, &name).await;
            }
        }
        // Hosts on this machine would ask the rest of their own monitor.
        _ => return Err(ReplyHead::ProcUnavail),
    }
    Ok(success(call.xid).into_segments())
}
