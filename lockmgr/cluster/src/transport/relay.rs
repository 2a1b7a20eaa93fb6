//! The way round a cut network: while two members can't call each other but both reach the registry, their frames go through its
//! mailbox.
//!
//! The link makes it safe: frames are numbered, so a message put twice (outcome unknown) or fetched late does no harm. Must
//! never be used while a connection stands: it costs the database a write a batch.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, sleep};

use super::links::{LinkNote, Links};
use super::peer::{PeerLink, Wire};
use crate::link::Frame;

/// How long a connection may be missing before the relay is used: an ordinary connect is faster, also to a member that knows
/// of us a moment later than we of it.
const PATIENCE: Duration = Duration::from_millis(400);
/// The mailbox is looked at so often while it is in use...
const POLL_IN_USE: Duration = Duration::from_millis(20);
/// ...and so often otherwise, should a hint get lost.
const POLL_IDLE: Duration = Duration::from_secs(1);
/// "In use" lasts so long after the last message.
const IN_USE: Duration = Duration::from_secs(2);
/// What was put and is not acknowledged is put again after this.
const RESEND: Duration = Duration::from_secs(1);
/// Pause after a failed call of the registry.
const RETRY: Duration = Duration::from_millis(200);
const BATCH_FRAMES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
const TAKE: u32 = 256;

impl PeerLink {
    /// Carries the link through the registry; runs until it is dropped, which is when a connection stands.
    pub(super) async fn relay(self: &Arc<Self>) {
        sleep(PATIENCE).await;
        if !self.enter_relay() {
            // A connection came this moment: its arrival ends this future.
            return std::future::pending().await;
        }
        let (mut acked, mut progress) = (0, Instant::now());
        loop {
            let Some(batch) = self.relay_batch(&mut acked, &mut progress) else {
                return std::future::pending().await;
            };
            if batch.is_empty() {
                // Not `wake`: that belongs to the connection that may come at any moment.
                sleep(POLL_IN_USE).await;
                continue;
            }
            let put = self
                .shared
                .registry
                .mailbox_put(self.shared.me, self.member, batch);
            if let Err(error) = put.await {
                tracing::debug!(peer = %self.member, %error, "the relay can't put messages");
                self.inner.lock().link.rewind();
                sleep(RETRY).await;
            }
        }
    }

    fn enter_relay(&self) -> bool {
        let mut inner = self.inner.lock();
        if inner.wire != Wire::Nothing {
            return false;
        }
        inner.wire = Wire::Relay;
        inner.relaying = true;
        inner.link.rewind();
        self.shared.relaying.fetch_add(1, Ordering::Relaxed);
        tracing::info!(peer = %self.member, "a member can't be reached; messages go through the database");
        true
    }

    pub(super) fn leave_relay(&self) {
        if std::mem::take(&mut self.inner.lock().relaying) {
            self.shared.relaying.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What goes next; nothing at all once something else carries the link.
    fn relay_batch(&self, acked: &mut u64, progress: &mut Instant) -> Option<Vec<Bytes>> {
        let mut inner = self.inner.lock();
        if inner.wire != Wire::Relay {
            return None;
        }
        if inner.link.acked() != *acked || !inner.link.has_unacknowledged() {
            *acked = inner.link.acked();
            *progress = Instant::now();
        } else if progress.elapsed() > RESEND {
            *progress = Instant::now();
            inner.link.rewind();
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(frame) = inner.link.next_frame() else {
                break;
            };
            bytes += frame.encoded_len();
            batch.push(encoded(&frame));
        }
        if batch.is_empty() && inner.link.owes_ack() {
            let frame = inner.link.ack_frame();
            batch.push(encoded(&frame));
        }
        Some(batch)
    }
}

fn encoded(frame: &Frame) -> Bytes {
    let mut bytes = BytesMut::with_capacity(frame.encoded_len());
    frame.encode(&mut bytes);
    bytes.freeze()
}

impl Links {
    /// Fetches mail, on hints and at intervals, until the node stops.
    pub(crate) async fn fetch_mail(self: Arc<Self>) {
        let mut used = Instant::now();
        loop {
            let in_use = self.relay_in_use() || used.elapsed() < IN_USE;
            let interval = if in_use { POLL_IN_USE } else { POLL_IDLE };
            tokio::select! {
                () = self.shared.mail.notified() => {}
                () = sleep(interval) => {}
                () = self.shared.stopped.cancelled() => return,
            }
            if self.take_mail().await {
                used = Instant::now();
            }
        }
    }

    /// Whether there was any.
    async fn take_mail(&self) -> bool {
        let mut any = false;
        loop {
            let taken = self.shared.registry.mailbox_take(self.shared.me, TAKE);
            let mail = match taken.await {
                Ok(mail) => mail,
                Err(error) => {
                    tracing::trace!(%error, "the mailbox can't be read");
                    sleep(RETRY).await;
                    return any;
                }
            };
            let last = mail.len() < TAKE as usize;
            any |= !mail.is_empty();
            for (from, bytes) in mail {
                let Some(frame) = Frame::decode(bytes) else {
                    tracing::warn!(peer = %from, "a malformed message in the mailbox is dropped");
                    continue;
                };
                match self.peer(from) {
                    // A violation has no connection to drop here; the link has not taken the frame.
                    Some(peer) => drop(peer.receive(std::iter::once(frame), None)),
                    // Sent again by its relay, when we know it.
                    None => self.shared.note(LinkNote::UnknownCaller),
                }
            }
            if last {
                return any;
            }
        }
    }
}
