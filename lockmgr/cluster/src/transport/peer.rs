//! One peer: its link, the connection that carries it at present, and the tasks that keep one coming.
//!
//! Two mutexes: `delivery` (taken first) makes hand-over of received messages one at a time and in order, also while
//! connections replace each other; `inner` protects the link and is held for moments only. Must never deliver after `close`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_lockmgr::Member;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::hello::{Purpose, Welcome};
use super::links::{LinkNote, Shared};
use super::{DialError, Duplex, PeerStream, SendError};
use crate::link::{FRAME_HEAD, FRAME_PAYLOAD_MAX, Frame, Link, Received};

/// Frames that wait are written together up to about so many bytes.
const WRITE_BATCH_BYTES: usize = 128 << 10;
/// Room for each read of a connection.
const READ_BYTES: usize = 64 << 10;
/// A connection says at least so often that it lives...
const KEEPALIVE: Duration = Duration::from_millis(250);
/// ...and is given up when the other end has said nothing for so long.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Pause between two calls of a peer that does not answer: first and longest, each twice the one before. The connections of a process
/// that has died may end before its address refuses calls.
const REDIAL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// The higher of two peers leaves the first call to the lower one for so long.
const POLITENESS: Duration = Duration::from_millis(10);

/// What carries the link now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Nothing,
    Connection,
    Relay,
}

pub(super) struct Inner {
    pub link: Link,
    pub wire: Wire,
    /// Grows with each connection; what a former one still brings is refused.
    generation: u64,
    current: CancellationToken,
    /// Counted in [`Shared::relaying`].
    pub relaying: bool,
    /// The own call has said hello and waits for the answer.
    greeting: bool,
    /// The version of the peer protocol that both ends speak, once they have met.
    protocol: Option<u32>,
}

/// Whether what comes from the peer is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// The peer is not announced yet: nothing is taken from it.
    NotYet,
    Open,
    Closed,
}

/// See the module's head.
pub(crate) struct PeerLink {
    pub(super) shared: Arc<Shared>,
    pub(super) member: Member,
    address: String,
    pub(super) inner: Mutex<Inner>,
    delivery: Mutex<Delivery>,
    /// For the writer: there is something to send.
    pub(super) wake: Notify,
    /// For the driver: the connection came or went.
    rewired: Notify,
    pub(super) closed: CancellationToken,
}

impl PeerLink {
    pub(super) fn new(shared: &Arc<Shared>, member: Member, address: String) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            member,
            address,
            inner: Mutex::new(Inner {
                link: Link::default(),
                wire: Wire::Nothing,
                generation: 0,
                current: CancellationToken::new(),
                relaying: false,
                greeting: false,
                protocol: None,
            }),
            delivery: Mutex::new(Delivery::NotYet),
            wake: Notify::new(),
            rewired: Notify::new(),
            closed: shared.stopped.child_token(),
        })
    }

    /// The peer is announced: calls it and is called by it from now on. Idempotent.
    pub(super) fn start(self: &Arc<Self>) {
        {
            let mut delivery = self.delivery.lock();
            if *delivery != Delivery::NotYet {
                return;
            }
            *delivery = Delivery::Open;
        }
        let driver = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = driver.keep_connected() => {}
                () = driver.closed.cancelled() => {}
            }
        });
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
        *self.delivery.lock() = Delivery::Closed;
        self.inner.lock().current.cancel();
        self.leave_relay();
    }

    pub(super) fn send(&self, message: Bytes) -> Result<(), SendError> {
        self.inner.lock().link.send(message)?;
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.inner.lock().wire == Wire::Connection
    }

    /// The version of the peer protocol that both ends speak.
    pub(super) fn protocol(&self) -> Option<u32> {
        self.inner.lock().protocol
    }

    /// How far the link is, for a caller; nothing while the own call goes first: of two that call each other the lower wins.
    pub(super) fn may_be_called(&self) -> Option<u64> {
        if *self.delivery.lock() != Delivery::Open {
            return None;
        }
        let inner = self.inner.lock();
        let busy = inner.greeting && self.shared.me < self.member;
        (!busy).then(|| inner.link.received())
    }

    /// A connection stands and both ends know how far the other is; it replaces an earlier one.
    pub(super) fn install(self: &Arc<Self>, stream: PeerStream, peer_received: u64, protocol: u32) {
        let current = self.closed.child_token();
        let generation = {
            let mut inner = self.inner.lock();
            if !inner.link.attach(peer_received) {
                tracing::error!(peer = %self.member, "a peer claims to have what it was never sent; its connection is dropped");
                return;
            }
            inner.current.cancel();
            inner.current = current.clone();
            inner.wire = Wire::Connection;
            inner.protocol = Some(protocol);
            inner.generation += 1;
            inner.generation
        };
        tracing::debug!(peer = %self.member, remote = %stream.remote, "connected");
        self.rewired.notify_one();
        self.shared.note(LinkNote::Connected(self.member));
        let peer = Arc::clone(self);
        tokio::spawn(async move {
            let (read, write) = tokio::io::split(stream.io);
            let ended = tokio::select! {
                ended = peer.read_frames(read, generation) => ended,
                ended = peer.write_frames(write, generation) => ended,
                () = current.cancelled() => Ok(()),
            };
            peer.disconnected(generation, ended.err());
        });
    }

    fn disconnected(&self, generation: u64, error: Option<io::Error>) {
        {
            let mut inner = self.inner.lock();
            if inner.generation != generation {
                return;
            }
            inner.wire = Wire::Nothing;
            inner.link.detach();
        }
        if let Some(error) = error {
            tracing::debug!(peer = %self.member, %error, "disconnected");
        }
        self.rewired.notify_one();
        self.shared.note(LinkNote::Disconnected(self.member));
    }

    /// Takes frames from a connection (with its generation) or from the relay, and delivers the messages that they complete.
    pub(super) fn receive(
        &self,
        frames: impl Iterator<Item = Frame>,
        generation: Option<u64>,
    ) -> io::Result<()> {
        let delivery = self.delivery.lock();
        if *delivery != Delivery::Open {
            return Ok(());
        }
        let mut messages = Vec::new();
        let mut outcome = Ok(());
        {
            let mut inner = self.inner.lock();
            if generation.is_some_and(|generation| generation != inner.generation) {
                return Err(io::Error::other("replaced"));
            }
            for frame in frames {
                match inner.link.receive(frame) {
                    Received::Message(message) => messages.push(message),
                    Received::Nothing => {}
                    // A connection keeps order; a gap in the mail fills when the peer sends again.
                    Received::Gap if generation.is_none() => {}
                    Received::Gap => outcome = Err(io::Error::other("frames are missing")),
                    Received::Violation => {
                        outcome = Err(io::Error::other("the peer breaks the rules of the link"));
                        break;
                    }
                }
            }
            if inner.link.wants_to_send() || inner.link.ack_is_urgent() {
                self.wake.notify_one();
            }
        }
        if let Some(handler) = self.shared.handler.get() {
            for message in messages {
                handler.received(self.member, message);
            }
        }
        outcome
    }

    async fn read_frames(
        &self,
        mut read: ReadHalf<Box<dyn Duplex>>,
        generation: u64,
    ) -> io::Result<()> {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        loop {
            let more = timeout(SILENCE_MAX, read.read_buf(&mut buffer)).await;
            match more {
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
            let mut malformed = false;
            let frames = std::iter::from_fn(|| match next_frame(&mut buffer) {
                Ok(frame) => frame,
                Err(()) => {
                    malformed = true;
                    None
                }
            });
            self.receive(frames, Some(generation))?;
            if malformed {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // Grows to the one frame that is half there, whose length was checked, and no further.
            buffer.reserve(READ_BYTES);
        }
    }

    async fn write_frames(
        &self,
        mut write: WriteHalf<Box<dyn Duplex>>,
        generation: u64,
    ) -> io::Result<()> {
        let mut batch = BytesMut::with_capacity(WRITE_BATCH_BYTES);
        let mut last = Instant::now();
        loop {
            self.fill(&mut batch, generation, last.elapsed() >= KEEPALIVE)?;
            if batch.is_empty() {
                // A missed wake-up is impossible (the permit is kept); the time-out is the keepalive.
                let _ = timeout(KEEPALIVE, self.wake.notified()).await;
                continue;
            }
            write.write_all(&batch).await?;
            write.flush().await?;
            batch.clear();
            last = Instant::now();
        }
    }

    /// Everything that may go out now, up to a batch.
    fn fill(&self, batch: &mut BytesMut, generation: u64, keepalive: bool) -> io::Result<()> {
        let mut inner = self.inner.lock();
        if inner.generation != generation {
            return Err(io::Error::other("replaced"));
        }
        while batch.len() < WRITE_BATCH_BYTES {
            match inner.link.next_frame() {
                Some(frame) => put_frame(batch, &frame),
                None => break,
            }
        }
        if batch.is_empty() && (keepalive || inner.link.ack_is_urgent()) {
            let frame = inner.link.ack_frame();
            put_frame(batch, &frame);
        }
        Ok(())
    }

    /// Calls the peer whenever no connection stands; while that lasts, the relay carries the link.
    async fn keep_connected(self: &Arc<Self>) {
        loop {
            while self.is_connected() {
                self.rewired.notified().await;
            }
            tokio::select! {
                () = self.call_until_connected() => {}
                () = self.relay() => {}
            }
            self.leave_relay();
        }
    }

    async fn call_until_connected(self: &Arc<Self>) {
        let mut pause = match self.shared.me < self.member {
            true => Duration::ZERO,
            false => POLITENESS,
        };
        loop {
            // Whoever called us meanwhile ends the wait.
            let _ = timeout(jitter(pause), self.rewired.notified()).await;
            if self.is_connected() {
                return;
            }
            match self.call().await {
                Ok(()) => {}
                Err(DialError::Refused) => self.shared.note(LinkNote::Refused(self.member)),
                Err(error) => tracing::trace!(peer = %self.member, %error, "a call failed"),
            }
            pause = (pause * 2).clamp(REDIAL.0, REDIAL.1);
        }
    }

    async fn call(self: &Arc<Self>) -> Result<(), DialError> {
        let mut stream = self.shared.transport.dial(&self.address).await?;
        let hello = {
            let mut inner = self.inner.lock();
            if inner.wire == Wire::Connection {
                return Ok(());
            }
            inner.greeting = true;
            let received = inner.link.received();
            self.shared.hello(self.member, Purpose::Link { received })
        };
        let _greeting = Greeting(self);
        match self.shared.greet(&mut stream, &hello).await? {
            Welcome::Link { received, protocol } => {
                self.install(stream, received, protocol);
                Ok(())
            }
            _ => Err(DialError::Rejected("an answer to another question".into())),
        }
    }
}

/// Ends the state "greeting" also when the call is given up half way.
struct Greeting<'a>(&'a PeerLink);

impl Drop for Greeting<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().greeting = false;
    }
}

/// Spreads calls, so that two peers that hit each other once don't go on so.
fn jitter(pause: Duration) -> Duration {
    let mut byte = [0; 1];
    // Without randomness the pause is as given, which only costs a collision.
    let _ = getrandom::fill(&mut byte);
    pause + pause * u32::from(byte[0]) / 512
}

fn put_frame(batch: &mut BytesMut, frame: &Frame) {
    // A frame is at most FRAME_HEAD + FRAME_PAYLOAD_MAX long.
    batch.put_u32_le(u32::try_from(frame.encoded_len()).unwrap_or(u32::MAX));
    frame.encode(batch);
}

/// Cuts the next whole frame off the buffer; nothing if it isn't all there yet.
fn next_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, ()> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if !(FRAME_HEAD..=FRAME_HEAD + FRAME_PAYLOAD_MAX).contains(&length) {
        return Err(());
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(4);
    let frame = buffer.split_to(length).freeze();
    Frame::decode(frame).map(Some).ok_or(())
}
