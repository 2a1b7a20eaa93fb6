//! The Network Lock Manager: byte-range locks and DOS share reservations of NFSv3 clients, mapped to the file layer's.
//!
//! A lock that has to wait is answered BLOCKED; when it is granted the client is told by a call of its own lock manager
//! (`callback.rs`), and it may also ask again. Owners are the client's name, its process number and its own bytes.
//!
//! Locks are gone with the node that had them. Their clients are remembered and told, and take them again (`recovery.rs`).

mod callback;
mod held;
mod notice;
mod owner;
mod recovery;
mod remembered;
mod shares;
mod waiting;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sluice_nfs_wire::nfs3::Status;
use sluice_nfs_wire::nlm::{
    Holder, LockArgs, LockForm, LockRes, NotifyArgs, Procedure, ShareArgs, ShareRes, Stat, TestRes,
};
use sluice_nfs_wire::rpc::ReplyHead;
use sluice_nfs_wire::xdr::{Decoder, Encoder, XdrError};
use sluice_vfs::{NfsLock, NfsLockAnswer, NfsLockHow, VfsError};
use tracing::Instrument;

use crate::call::{Call, Place};
use crate::conn::{Connection, IncomingCall};
use crate::dispatch::{credential, success};
use crate::server::Head;
use crate::status;

pub(crate) use held::LockManager;
pub(crate) use recovery::{Recovery, recover};

/// Answers one NLM call.
pub(crate) async fn answer(
    head: &Arc<Head>,
    connection: &Connection,
    call: IncomingCall,
) -> Result<Vec<Bytes>, ReplyHead> {
    let credential = credential(&call)?;
    let procedure = Procedure::from_u32(call.header.procedure).ok_or(ReplyHead::ProcUnavail)?;
    let version = call.header.version;
    let span = tracing::debug_span!(
        "nlm",
        node = head.vfs.node_name(),
        protocol = "nlm",
        procedure = ?procedure,
        client = %connection.address(),
        client_name = credential.machine_name,
        xid = call.xid,
    );
    let mut out = success(call.xid);
    let run = async {
        match Call::begin(head, connection, &credential).await {
            Ok(started) => run(&started, procedure, version, call.args, &mut out).await,
            Err(_) => Err(ReplyHead::SystemErr),
        }
    };
    run.instrument(span).await?;
    Ok(out.into_segments())
}

async fn run(
    call: &Call<'_>,
    procedure: Procedure,
    version: u32,
    mut args: Decoder,
    out: &mut Encoder,
) -> Result<(), ReplyHead> {
    let garbage = |_: XdrError| ReplyHead::GarbageArgs;
    let mut lock_args = |form| LockArgs::decode(&mut args, form, version).map_err(garbage);
    let mut put = |cookie, stat: Stat| {
        let stat = stat.for_version(version);
        out.put(&LockRes { cookie, stat });
    };
    match procedure {
        Procedure::Null | Procedure::GrantedRes => {}
        Procedure::Test => {
            let args = lock_args(LockForm::Test)?;
            let outcome = test(call, &args).await;
            let cookie = args.cookie;
            TestRes { cookie, outcome }.encode(out, version);
        }
        Procedure::Lock | Procedure::NmLock => {
            let args = lock_args(LockForm::Lock)?;
            let stat = lock(call, &args, version).await;
            put(args.cookie, stat);
        }
        Procedure::Cancel => {
            let args = lock_args(LockForm::Cancel)?;
            let stat = cancel(call, &args).await;
            put(args.cookie, stat);
        }
        Procedure::Unlock => {
            let args = lock_args(LockForm::Unlock)?;
            let stat = unlock(call, &args).await;
            put(args.cookie, stat);
        }
        Procedure::Share | Procedure::Unshare => {
            let args: ShareArgs = args.get().map_err(garbage)?;
            let stat = if procedure == Procedure::Share {
                shares::share(call, &args).await
            } else {
                shares::unshare(call, &args).await
            };
            out.put(&ShareRes {
                cookie: args.cookie,
                stat: stat.for_version(version),
                sequence: 0,
            });
        }
        Procedure::FreeAll => {
            let args: NotifyArgs = args.get().map_err(garbage)?;
            let name = String::from_utf8_lossy(&args.name.0).into_owned();
            call.head
                .locks
                .free_all(&call.head.vfs, call.address(), &name)
                .await;
        }
        // The asynchronous forms need a server that calls back for every answer; nobody uses them over TCP.
        Procedure::Granted
        | Procedure::TestMsg
        | Procedure::LockMsg
        | Procedure::CancelMsg
        | Procedure::UnlockMsg
        | Procedure::GrantedMsg
        | Procedure::TestRes
        | Procedure::LockRes
        | Procedure::CancelRes
        | Procedure::UnlockRes => return Err(ReplyHead::ProcUnavail),
    }
    Ok(())
}

/// Where the lock's file is, and the lock in the file layer's words.
fn enter(call: &Call<'_>, args: &LockArgs) -> Result<(Place, NfsLock), Stat> {
    let place = call.place(&args.lock.file).map_err(status::nlm)?;
    Ok((place, owner::to_vfs(&args.lock, args.exclusive)?))
}

fn failure(error: &VfsError) -> Stat {
    match error {
        VfsError::Conflict(_) => Stat::Denied,
        VfsError::Deadlock => Stat::Deadlock,
        VfsError::Limit(_) => Stat::DeniedNoLocks,
        error => status::nlm(status::nfs(error)),
    }
}

async fn test(call: &Call<'_>, args: &LockArgs) -> Result<Stat, Holder> {
    let (place, lock) = match enter(call, args) {
        Ok(entered) => entered,
        Err(stat) => return Ok(stat),
    };
    match place.tree.test_lock(place.node, lock).await {
        Ok(NfsLockAnswer::Free) => Ok(Stat::Granted),
        Ok(NfsLockAnswer::Held { lock, .. }) => Err(owner::holder(&lock)),
        Err(error) => match failure(&error) {
            // DENIED needs a holder; this one is nobody's.
            Stat::Denied => Ok(Stat::DeniedNoLocks),
            stat => Ok(stat),
        },
    }
}

async fn lock(call: &Call<'_>, args: &LockArgs, version: u32) -> Stat {
    let (place, lock) = match enter(call, args) {
        Ok(entered) => entered,
        Err(stat) => return stat,
    };
    let locks = &call.head.locks;
    if let Some(stat) = locks.ask_again(&call.caller, &place, &lock) {
        return stat;
    }
    let recovery = &call.head.recovery;
    // Before the client can hold something that it would have to be told of.
    if let Err(error) = recovery.remember(call).await {
        return failure(&error);
    }
    let how = match args.reclaim {
        true => NfsLockHow::Reclaim,
        false => NfsLockHow::AtOnce,
    };
    let (vfs, since) = (&call.head.vfs, Instant::now());
    let locked = loop {
        match place.tree.lock(place.node, lock.clone(), how).await {
            Err(error) if args.reclaim && recovery.once_more(vfs, &error, since).await => {}
            answer => break answer,
        }
    };
    match locked {
        Ok(note) => match locks.remember(&call.caller, &place, &lock, note) {
            Ok(()) => Stat::Granted,
            Err(stat) => {
                let _ = place
                    .tree
                    .unlock(place.node, &lock.owner, lock.offset, lock.length)
                    .await;
                stat
            }
        },
        Err(VfsError::Conflict(_)) if args.block && !vfs.is_awaited(place.node) => {
            waiting::start(call, place, lock, args, version)
        }
        // Kept for those who take locks again, maybe only through this node, where nobody would wait behind them: the client asks
        // again by itself.
        Err(VfsError::Conflict(_) | VfsError::Delay) if args.block => Stat::DeniedGracePeriod,
        Err(error) => failure(&error),
    }
}

async fn cancel(call: &Call<'_>, args: &LockArgs) -> Stat {
    let (place, lock) = match enter(call, args) {
        Ok(entered) => entered,
        Err(stat) => return stat,
    };
    match call.head.locks.withdraw(&call.caller, &place, &lock) {
        held::Withdrawn::Waiting => Stat::Granted,
        held::Withdrawn::Granted => {
            let unlocked = place
                .tree
                .unlock(place.node, &lock.owner, lock.offset, lock.length)
                .await;
            unlocked.map_or_else(|e| failure(&e), |()| Stat::Granted)
        }
        held::Withdrawn::Unknown => Stat::Denied,
    }
}

async fn unlock(call: &Call<'_>, args: &LockArgs) -> Stat {
    let (place, lock) = match enter(call, args) {
        Ok(entered) => entered,
        Err(stat) => return stat,
    };
    let locks = &call.head.locks;
    let last = locks.last_lock(&call.caller, &place, &lock);
    match place
        .tree
        .unlock(place.node, &lock.owner, lock.offset, lock.length)
        .await
    {
        Ok(()) | Err(VfsError::RangeNotLocked) => {
            locks.forget(&call.caller, &place, &lock, last);
            Stat::Granted
        }
        // What is gone holds no locks.
        Err(VfsError::Stale) => Stat::Granted,
        Err(error) => match status::nfs(&error) {
            Status::Jukebox => Stat::DeniedGracePeriod,
            status => status::nlm(status),
        },
    }
}
