//! Uploads: which bytes in memory go into which new object, and the work that stores one.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use sluice_repo::{CHECK_BLOCK_BYTES, ObjectId, ObjectRef, RepoError, Result, Unsettled};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::CHUNK_BYTES;
use crate::piece::{PieceMap, Stored};
use crate::store::Shared;
use crate::working::Core;

/// From this length on an object ends where a chunk of the document ends.
const WHOLE_BYTES: u64 = 1 << 20;

/// An object on its way.
pub(crate) struct Upload {
    pub(crate) id: ObjectId,
    /// Stamp of the newest change that it holds.
    pub(crate) stamp: u64,
    /// What it holds, ascending.
    pub(crate) stored: Vec<Stored>,
    result: watch::Sender<Option<Result<ObjectRef>>>,
}

/// Content of an object to be.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) stored: Vec<Stored>,
    pub(crate) parts: Vec<Bytes>,
    pub(crate) len: u64,
}

impl Upload {
    /// Whether this upload stores the bytes of a piece as they are.
    fn covers(&self, at: u64, len: u64, stamp: u64) -> bool {
        let n = self.stored.partition_point(|s| s.start <= at);
        let range = n.checked_sub(1).and_then(|n| self.stored.get(n));
        stamp <= self.stamp && range.is_some_and(|s| at + len <= s.start + s.len)
    }

    /// Whether it holds something of a range.
    pub(crate) fn touches(&self, start: u64, end: u64) -> bool {
        let n = self.stored.partition_point(|s| s.start + s.len <= start);
        self.stored.get(n).is_some_and(|s| s.start < end)
    }

    /// Waits for the end.
    pub(crate) async fn done(&self) -> Result<ObjectRef> {
        let mut result = self.result.subscribe();
        match result.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or_else(|| Err(ended())),
            Err(_) => Err(ended()),
        }
    }
}

fn ended() -> RepoError {
    RepoError::Unavailable("an upload ended without a result".into())
}

/// Packs bytes in memory within `[start, end)` that no upload has taken into objects-to-be.
pub(crate) fn plan(map: &PieceMap, uploads: &[Arc<Upload>], start: u64, end: u64) -> Vec<Plan> {
    let chunk = u64::from(CHUNK_BYTES);
    let mut plans = Vec::new();
    let mut current = Plan::default();
    for (at, piece) in map.range(start, end) {
        if uploads.iter().any(|u| u.covers(at, piece.len, piece.stamp)) {
            continue;
        }
        let Some(bytes) = piece.bytes() else { continue };
        let new_chunk = current
            .stored
            .last()
            .is_some_and(|s| s.start / chunk != at / chunk);
        if current.len + piece.len > chunk || (new_chunk && current.len >= WHOLE_BYTES) {
            plans.push(std::mem::take(&mut current));
        }
        match current.stored.last_mut() {
            Some(last) if last.start + last.len == at => last.len += piece.len,
            _ => current.stored.push(Stored {
                start: at,
                len: piece.len,
                at: current.len as u32,
            }),
        }
        current.len += piece.len;
        current.parts.push(bytes);
    }
    if current.len > 0 {
        plans.push(current);
    }
    plans
}

/// The work of an upload. It comes to its end even if nobody waits for it any more: dropped half-way, a task goes on with it.
pub(crate) struct Work {
    runtime: Handle,
    rest: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Future for Work {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let ended = match &mut self.rest {
            Some(rest) => rest.as_mut().poll(cx),
            None => Poll::Ready(()),
        };
        if ended.is_ready() {
            self.rest = None;
        }
        ended
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.runtime.spawn(rest);
        }
    }
}

/// Makes an upload for a working content, which hears of its end, and the work that it is.
pub(crate) fn start(
    shared: &Arc<Shared>,
    core: Weak<Core>,
    plan: Plan,
    stamp: u64,
) -> (Arc<Upload>, Work) {
    let upload = Arc::new(Upload {
        id: shared.new_object(plan.len),
        stamp,
        stored: plan.stored,
        result: watch::Sender::new(None),
    });
    let runtime = shared.runtime.clone();
    let (shared, task) = (shared.clone(), upload.clone());
    let work = async move {
        let result = store(&shared, task.id, plan.parts).await;
        match core.upgrade() {
            Some(core) => core.uploaded(&task, &result),
            None => {
                // Nobody can commit it any more.
                let _ = shared.objects.delete(&[task.id]).await;
            }
        }
        task.result.send_replace(Some(result));
    };
    let rest = Some(Box::pin(work) as Pin<Box<dyn Future<Output = ()> + Send>>);
    (upload, Work { runtime, rest })
}

async fn store(shared: &Shared, id: ObjectId, parts: Vec<Bytes>) -> Result<ObjectRef> {
    // What goes into packs is short, and the more of it at once, the better.
    let _permit = match id.place() {
        Some(_) => None,
        None => Some(shared.uploads.acquire().await.map_err(|_| ended())?),
    };
    let (len, sums) = sums(&parts);
    shared.objects.put(id, parts).await?;
    Ok(ObjectRef {
        id,
        len,
        sums: sums.into(),
    })
}

/// Takes an object that will be made durable together with its commit.
pub(crate) async fn take(
    shared: &Shared,
    id: ObjectId,
    parts: Vec<Bytes>,
) -> Result<(ObjectRef, Option<Arc<dyn Unsettled>>)> {
    let (len, sums) = sums(&parts);
    let unsettled = shared.objects.take(id, parts).await?;
    let sums = sums.into();
    Ok((ObjectRef { id, len, sums }, unsettled))
}

/// Length and the checksum of each block.
fn sums(parts: &[Bytes]) -> (u32, Vec<u32>) {
    let block = CHECK_BLOCK_BYTES as usize;
    let (mut total, mut in_block) = (0, 0);
    let mut sums = Vec::new();
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        let mut rest: &[u8] = part;
        total += rest.len();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(block - in_block));
            digest.update(now);
            in_block += now.len();
            rest = later;
            if in_block == block {
                sums.push(digest.finalize() as u32);
                digest.reset();
                in_block = 0;
            }
        }
    }
    if in_block > 0 {
        sums.push(digest.finalize() as u32);
    }
    (total as u32, sums)
}
