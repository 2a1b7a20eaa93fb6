//! The duplicate-request cache: a retried call that must not run twice gets the very reply of the first.
//!
//! A client is known by its address without port, because a retry often comes over a new connection. While the first call
//! still runs, a retry waits for it and is answered on its own connection. Bounded in number; entries expire.
//!
//! What this cache does not know because another node gave the first reply, or this one before a restart, the repository may:
//! see [`call_id`].

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::Bytes;
use parking_lot::Mutex;
use sluice_nfs_wire::nfs3::Procedure;
use sluice_vfs::CallId;
use tokio::sync::OnceCell;

/// How long a reply is kept. Clients retry within a minute; Linux's major timeout over TCP is 60 s.
const KEEP: Duration = Duration::from_secs(150);
/// Shards, so that calls seldom meet on a mutex.
const SHARDS: usize = 16;
/// Replies kept in each shard; they are some 200 bytes each.
const SHARD_REPLIES_MAX: usize = 4096;
/// Calls under way that one clean-up passes over before it leaves the rest for the next.
const RUNNING_SKIPPED_MAX: usize = 8;
/// Bytes of a call that its checksum covers: all names and attributes, and the head of a WRITE with its first data.
const CHECKSUM_BYTES: usize = 1024;

/// What makes two calls the same call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CallKey {
    address: IpAddr,
    xid: u32,
    procedure: u32,
    len: usize,
    checksum: u64,
}

type Reply = Arc<OnceCell<Vec<Bytes>>>;

/// Replies by call.
pub(crate) struct ReplyCache {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    replies: HashMap<CallKey, Reply>,
    /// Every key of `replies`, oldest first, and some that have been forgotten.
    order: VecDeque<(CallKey, Instant)>,
}

/// The name of a call that has to be carried out once in the whole cluster; the same on every node.
pub(crate) fn call_id(address: IpAddr, xid: u32, procedure: Procedure, body: &[u8]) -> CallId {
    let mut digest = digest::Context::new(&digest::SHA256);
    match address.to_canonical() {
        IpAddr::V4(address) => digest.update(&address.octets()),
        IpAddr::V6(address) => digest.update(&address.octets()),
    }
    digest.update(&xid.to_be_bytes());
    digest.update(&(procedure as u32).to_be_bytes());
    digest.update(&(body.len() as u64).to_be_bytes());
    digest.update(body.get(..CHECKSUM_BYTES).unwrap_or(body));
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(digest.finish().as_ref()) {
        *to = *from;
    }
    CallId(id)
}

/// Whether a retry of this procedure has to find its first reply: those that differ when done twice, and WRITE, whose
/// late copy could overwrite what came after it.
pub(crate) fn is_kept(procedure: Procedure) -> bool {
    procedure.is_non_idempotent() || procedure == Procedure::Write
}

impl ReplyCache {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The key of a call; `body` is its record after the transaction id.
    pub(crate) fn key(
        &self,
        address: IpAddr,
        xid: u32,
        procedure: Procedure,
        body: &[u8],
    ) -> CallKey {
        let covered = body.get(..CHECKSUM_BYTES).unwrap_or(body);
        CallKey {
            address,
            xid,
            procedure: procedure as u32,
            len: body.len(),
            checksum: self.hasher.hash_one(covered),
        }
    }

    /// The reply of the call: kept, awaited, or made by `run`. The second value tells whether `run` was used.
    pub(crate) async fn reply(
        &self,
        key: CallKey,
        now: Instant,
        run: impl Future<Output = Vec<Bytes>>,
    ) -> (Vec<Bytes>, bool) {
        let cell = self.cell(key, now);
        let mut ran = false;
        let reply = cell
            .get_or_init(|| {
                ran = true;
                run
            })
            .await
            .clone();
        (reply, ran)
    }

    /// Drops a reply, so that the same call runs again.
    pub(crate) fn forget(&self, key: &CallKey) {
        if let Some(shard) = self.shard(key) {
            // Its place in the order stays until it is reached; `expire` copes with keys without a reply.
            shard.lock().replies.remove(key);
        }
    }

    fn shard(&self, key: &CallKey) -> Option<&Mutex<Shard>> {
        self.shards.get(key.xid as usize % self.shards.len())
    }

    fn cell(&self, key: CallKey, now: Instant) -> Reply {
        let Some(shard) = self.shard(&key) else {
            return Reply::default();
        };
        let mut shard = shard.lock();
        shard.expire(now);
        if let Some(reply) = shard.replies.get(&key) {
            return reply.clone();
        }
        let reply = Reply::default();
        shard.replies.insert(key, reply.clone());
        shard.order.push_back((key, now));
        reply
    }
}

impl Shard {
    /// Drops what is too old or too much; a call that still runs stays, so that it can't run twice.
    fn expire(&mut self, now: Instant) {
        let mut running = 0usize;
        while let Some((key, since)) = self.order.front().copied() {
            let expired = now.saturating_duration_since(since) > KEEP;
            if (!expired && self.order.len() < SHARD_REPLIES_MAX) || running > RUNNING_SKIPPED_MAX {
                return;
            }
            self.order.pop_front();
            match self.replies.get(&key) {
                Some(reply) if reply.initialized() => {
                    self.replies.remove(&key);
                }
                Some(_) => {
                    running += 1;
                    self.order.push_back((key, now));
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn reply(text: &'static str) -> Vec<Bytes> {
        vec![Bytes::from_static(text.as_bytes())]
    }

    #[tokio::test]
    async fn a_retry_gets_the_first_reply_and_does_not_run() {
        let cache = ReplyCache::new();
        let now = Instant::now();
        let key = cache.key(CLIENT, 7, Procedure::Mkdir, b"args");
        assert_eq!(
            cache.reply(key, now, async { reply("first") }).await,
            (reply("first"), true)
        );
        assert_eq!(
            cache.reply(key, now, async { reply("second") }).await,
            (reply("first"), false)
        );
    }

    #[tokio::test]
    async fn other_arguments_procedures_and_clients_are_other_calls() {
        let cache = ReplyCache::new();
        let key = cache.key(CLIENT, 7, Procedure::Mkdir, b"args");
        assert_ne!(key, cache.key(CLIENT, 7, Procedure::Mkdir, b"argz"));
        assert_ne!(key, cache.key(CLIENT, 7, Procedure::Rmdir, b"args"));
        assert_ne!(key, cache.key(CLIENT, 8, Procedure::Mkdir, b"args"));
        assert_ne!(
            key,
            cache.key(
                "10.0.0.9".parse().expect("address"),
                7,
                Procedure::Mkdir,
                b"args"
            )
        );
    }

    #[tokio::test]
    async fn a_retry_during_the_first_run_waits_for_its_reply() {
        let cache = Arc::new(ReplyCache::new());
        let now = Instant::now();
        let key = cache.key(CLIENT, 7, Procedure::Remove, b"args");
        let runs = Arc::new(AtomicU32::new(0));
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let first = {
            let (cache, runs) = (cache.clone(), runs.clone());
            tokio::spawn(async move {
                cache
                    .reply(key, now, async {
                        runs.fetch_add(1, Ordering::SeqCst);
                        let _ = released.await;
                        reply("first")
                    })
                    .await
            })
        };
        while runs.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let second = {
            let cache = cache.clone();
            tokio::spawn(async move { cache.reply(key, now, async { reply("second") }).await })
        };
        tokio::task::yield_now().await;
        release.send(()).expect("the first call waits");
        assert_eq!(first.await.expect("first").0, reply("first"));
        assert_eq!(second.await.expect("second"), (reply("first"), false));
    }

    #[tokio::test]
    async fn a_forgotten_reply_lets_the_call_run_again() {
        let cache = ReplyCache::new();
        let now = Instant::now();
        let key = cache.key(CLIENT, 7, Procedure::Mkdir, b"args");
        cache.reply(key, now, async { reply("later") }).await;
        cache.forget(&key);
        assert_eq!(
            cache.reply(key, now, async { reply("done") }).await,
            (reply("done"), true)
        );
    }

    #[tokio::test]
    async fn replies_expire_and_are_bounded() {
        let cache = ReplyCache::new();
        let start = Instant::now();
        let key = cache.key(CLIENT, 16, Procedure::Mkdir, b"args");
        cache.reply(key, start, async { reply("first") }).await;
        let later = start + KEEP + Duration::from_secs(1);
        assert!(
            cache.reply(key, later, async { reply("second") }).await.1,
            "expired"
        );

        for i in 0..2 * SHARD_REPLIES_MAX {
            let key = cache.key(CLIENT, 16, Procedure::Mkdir, &i.to_be_bytes());
            cache.reply(key, later, async { reply("x") }).await;
        }
        let shard = cache.shards[0].lock();
        assert!(shard.replies.len() <= SHARD_REPLIES_MAX);
        assert_eq!(shard.replies.len(), shard.order.len());
    }
}
