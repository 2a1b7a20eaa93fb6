//! A blocked LOCK: waits in the file layer's queue, then tells the client. A client that can't be told within a minute and
//! doesn't ask either loses the lock again, so that a dead one blocks nobody.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sluice_nfs_wire::nlm::{LockArgs, Stat};
use sluice_vfs::{Caller, NfsLock, NfsLockHow};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::callback;
use super::held::WaitKey;
use crate::call::{Call, Place};
use crate::server::Head;

/// Pauses between attempts to tell the client; their sum is the time that an unclaimed lock is kept.
const TELL_PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(10),
    Duration::from_secs(15),
    Duration::from_secs(15),
    Duration::from_secs(15),
];

/// Everything a waiting request needs after its call has been answered.
struct Waiter {
    head: Arc<Head>,
    caller: Caller,
    place: Place,
    lock: NfsLock,
    args: LockArgs,
    version: u32,
    key: WaitKey,
}

/// Enters the request among the waiting ones.
pub(super) fn start(
    call: &Call<'_>,
    place: Place,
    lock: NfsLock,
    args: &LockArgs,
    version: u32,
) -> Stat {
    let key = WaitKey::new(place.node, &lock);
    let cancel = match call.head.locks.queue(&call.caller.client, key.clone()) {
        Ok(Some(cancel)) => cancel,
        Ok(None) => return Stat::Blocked,
        Err(stat) => return stat,
    };
    let waiter = Waiter {
        head: call.head.clone(),
        caller: call.caller.clone(),
        place,
        lock,
        args: args.clone(),
        version,
        key,
    };
    tokio::spawn(waiter.run(cancel));
    Stat::Blocked
}

impl Waiter {
    async fn run(self, cancel: CancellationToken) {
        let locked = tokio::select! {
            () = cancel.cancelled() => return,
            locked = self.place.tree.lock(self.place.node, self.lock.clone(), NfsLockHow::Wait) => locked,
        };
        let locks = &self.head.locks;
        let note = match locked {
            Ok(note) => note,
            Err(error) => {
                debug!(%error, "waiting NLM lock given up");
                locks.settle(&self.caller.client, &self.key);
                return;
            }
        };
        let Some(told) = locks.granted(&self.caller.client, &self.key) else {
            return self.give_back().await;
        };
        if locks
            .remember(&self.caller, &self.place, &self.lock, note)
            .is_err()
        {
            locks.settle(&self.caller.client, &self.key);
            return self.give_back().await;
        }
        self.tell(told).await;
    }

    /// Tells the client until it knows, by answer or by asking; otherwise gives the lock back.
    async fn tell(self, told: CancellationToken) {
        for pause in TELL_PAUSES {
            let answer = tokio::select! {
                () = told.cancelled() => return,
                answer = callback::granted(self.address(), self.head.locks.client_portmap_port, &self.args, self.version) => answer,
            };
            match answer {
                Ok(Stat::Granted) => {
                    self.head.locks.settle(&self.caller.client, &self.key);
                    return;
                }
                // The client no longer waits for it.
                Ok(_) => break,
                Err(error) => debug!(client = %self.address(), %error, "NLM GRANTED not delivered"),
            }
            tokio::select! {
                () = told.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
        if self.head.locks.settle(&self.caller.client, &self.key) {
            self.give_back().await;
        }
    }

    fn address(&self) -> IpAddr {
        self.caller.client.address
    }

    async fn give_back(&self) {
        let (tree, lock) = (&self.place.tree, &self.lock);
        // A node that is gone holds no locks.
        let _ = tree
            .unlock(self.place.node, &lock.owner, lock.offset, lock.length)
            .await;
    }
}
