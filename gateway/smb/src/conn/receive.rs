//! From bytes to requests: decryption, compound splitting, the sequence window, CANCEL (MS-SMB2 3.3.5.2).

use std::future::poll_fn;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use sluice_proxy::BusyPollReader;
use sluice_smb_wire::header::{HEADER_LEN, PROTOCOL_ID, SMB1_PROTOCOL_ID};
use sluice_smb_wire::transform::{TRANSFORM_ID, TRANSFORM_LEN, TransformHeader};
use sluice_smb_wire::{Command, Flags, Header};
use smallvec::SmallVec;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, sleep_until};

use super::Connection;
use super::chain::Chain;
use super::transport::{FrameReader, Incoming, session_response};
use crate::session::{Channel, SessionId};

/// Longest frame before anybody has logged on, in bytes.
const FRAME_BYTES_BEFORE_LOGIN: usize = 128 * 1024;
/// What a frame may be longer than the largest payload, in bytes.
const FRAME_OVERHEAD_BYTES: usize = 256 * 1024;
/// Frames up to this size are worked on at once; larger ones, if their signatures take a while, in a task.
const INLINE_BYTES: usize = 64 * 1024;
/// Most requests in one compound.
const COMPOUND_MAX: usize = 256;

/// The messages of a frame: header and place of each.
pub(super) type Parts = SmallVec<[(Header, Range<usize>); 1]>;

/// A fault after which the connection must be dropped; the text goes to the log.
pub(super) struct Fatal(pub &'static str);

/// Reads and starts requests until the peer goes, breaks the rules, or the connection is closed from inside.
pub(super) async fn read_frames(conn: &Arc<Connection>, stream: OwnedReadHalf) {
    let options = &conn.server().options;
    let mut frames = FrameReader::new(BusyPollReader::new(stream), FRAME_BYTES_BEFORE_LOGIN);
    let deadline = Instant::now() + options.login_timeout;
    let closed = conn.closed();
    tokio::pin!(closed);
    loop {
        let logged_on = conn.channel_count() > 0;
        if logged_on {
            frames.limit = options.io_bytes_max as usize + FRAME_OVERHEAD_BYTES;
        }
        let next = tokio::select! {
            () = &mut closed => return,
            () = sleep_until(deadline), if !logged_on => {
                tracing::debug!(peer = %conn.peer, "nobody logged on in time");
                return;
            }
            next = frames.next() => next,
        };
        let accepted = match next {
            Ok(Some(Incoming::Message(frame))) => accept(conn, frame).await,
            Ok(Some(Incoming::SessionRequest)) => {
                conn.send(session_response()).await;
                Ok(())
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(peer = %conn.peer, %error, "the SMB connection failed");
                return;
            }
        };
        if let Err(Fatal(why)) = accepted {
            tracing::info!(peer = %conn.peer, why, "the SMB connection is dropped");
            return;
        }
    }
}

/// Starts the requests of one frame.
async fn accept(conn: &Arc<Connection>, mut frame: BytesMut) -> Result<(), Fatal> {
    let mut encrypted = None;
    if frame.starts_with(&TRANSFORM_ID) {
        encrypted = Some(decrypt(conn, &mut frame)?);
    }
    if frame.starts_with(&SMB1_PROTOCOL_ID) {
        return super::chain::negotiate_smb1(conn, frame).await;
    }
    if !frame.starts_with(&PROTOCOL_ID) {
        return Err(Fatal("a message is not SMB2"));
    }
    let mut elements = split(&frame)?;
    let lone_cancel = elements.len() == 1 && elements[0].0.command() == Some(Command::Cancel);
    for (header, _) in &elements {
        if header.command() != Some(Command::Cancel) {
            let charge = if conn.multi_credit() {
                header.credit_charge
            } else {
                1
            };
            conn.credits
                .lock()
                .consume(header.message_id, charge)
                .map_err(|_| Fatal("a message id is outside the window"))?;
        }
    }
    if lone_cancel {
        cancel(conn, &elements[0].0, &mut frame, encrypted.is_some());
        return Ok(());
    }
    elements.retain(|(header, _)| header.command() != Some(Command::Cancel));
    let len = frame.len();
    let signed = elements.iter().any(|(h, _)| h.flags.has(Flags::SIGNED));
    let at_once = len <= INLINE_BYTES || (encrypted.is_none() && !signed);
    let permit = budget(conn, len, &elements).await?;
    let chain = Chain::new(conn.clone(), frame, elements, encrypted, permit);
    let mut running = Box::pin(guarded(conn.clone(), chain));
    if at_once && poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx).is_ready())).await {
        return Ok(());
    }
    conn.tasks.spawn(running);
    Ok(())
}

/// Runs the requests; a handler that panics costs its connection, not the server.
async fn guarded(conn: Arc<Connection>, chain: Chain) {
    if AssertUnwindSafe(chain.run()).catch_unwind().await.is_err() {
        tracing::error!(peer = %conn.peer, "a request handler panicked; the connection is dropped");
        conn.terminate();
    }
}

/// Waits until the request and what it asks for fit the connection's memory.
async fn budget(
    conn: &Connection,
    len: usize,
    elements: &[(Header, Range<usize>)],
) -> Result<tokio::sync::OwnedSemaphorePermit, Fatal> {
    let asked: usize = elements
        .iter()
        .filter(|(h, _)| h.command() == Some(Command::Read))
        .map(|(h, _)| usize::from(h.credit_charge.max(1)) * 64 * 1024)
        .sum();
    let limit = conn.server().options.inflight_bytes_max as usize;
    let bytes = (len + asked).min(limit) as u32;
    tokio::select! {
        permit = conn.budget.clone().acquire_many_owned(bytes) => permit.map_err(|_| Fatal("the connection ends")),
        () = conn.closed() => Err(Fatal("the connection ends")),
    }
}

/// Decrypts a frame in place and cuts its transform header off.
fn decrypt(conn: &Connection, frame: &mut BytesMut) -> Result<Arc<Channel>, Fatal> {
    let header =
        TransformHeader::decode(frame).map_err(|_| Fatal("a transform header is malformed"))?;
    let channel = conn
        .channel(SessionId(header.session_id))
        .filter(|c| !c.session.ended.is_cancelled())
        .ok_or(Fatal("an encrypted message names no session"))?;
    let sealing = channel
        .session
        .sealing
        .as_ref()
        .ok_or(Fatal("an encrypted message on a session without keys"))?;
    sealing
        .cipher
        .open(&header, frame)
        .map_err(|_| Fatal("an encrypted message does not verify"))?;
    frame.advance(TRANSFORM_LEN);
    let foreign =
        Header::decode(frame).is_ok_and(|h| h.session_id != header.session_id && !h.is_related());
    if foreign {
        return Err(Fatal(
            "an encrypted message carries another session's request",
        ));
    }
    Ok(channel)
}

/// Cuts a frame into the messages of its compound.
fn split(frame: &[u8]) -> Result<Parts, Fatal> {
    let mut elements = SmallVec::new();
    let mut at = 0;
    loop {
        let rest = frame
            .get(at..)
            .ok_or(Fatal("a compound points outside its frame"))?;
        let header = Header::decode(rest).map_err(|_| Fatal("a header is malformed"))?;
        if header.flags.has(Flags::RESPONSE) {
            return Err(Fatal("a client sent a response"));
        }
        let next = header.next_command as usize;
        if next == 0 {
            elements.push((header, at..frame.len()));
            return Ok(elements);
        }
        if !next.is_multiple_of(8)
            || next < HEADER_LEN
            || next > rest.len()
            || elements.len() >= COMPOUND_MAX
        {
            return Err(Fatal("a compound is malformed"));
        }
        elements.push((header, at..at + next));
        at += next;
    }
}

/// CANCEL is never answered; one with a wrong signature is ignored.
fn cancel(conn: &Connection, header: &Header, frame: &mut BytesMut, encrypted: bool) {
    if !encrypted && header.flags.has(Flags::SIGNED) {
        let verified = conn
            .channel(SessionId(header.session_id))
            .is_some_and(|channel| channel.signer.verify(header, frame));
        if !verified {
            return;
        }
    }
    conn.inflight.cancel(header.message_id, header.async_id());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(next: u32, len: usize) -> Vec<u8> {
        let mut raw = vec![0; len];
        raw[..4].copy_from_slice(&PROTOCOL_ID);
        raw[4] = 64;
        raw[20..24].copy_from_slice(&next.to_le_bytes());
        raw
    }

    #[test]
    fn a_compound_is_cut_at_its_links() {
        let frame = [message(72, 72), message(0, 70)].concat();
        let ranges: Vec<_> = split(&frame)
            .ok()
            .unwrap()
            .into_iter()
            .map(|(_, r)| r)
            .collect();
        assert_eq!(ranges, [0..72, 72..142]);
    }

    #[test]
    fn bad_links_are_fatal() {
        for next in [8, 63, 65, 144, !7] {
            assert!(
                split(&[message(next, 72), message(0, 64)].concat()).is_err(),
                "{next}"
            );
        }
        let mut response = message(0, 64);
        response[16] = 1;
        assert!(split(&response).is_err());
    }

    proptest! {
        #[test]
        fn splitting_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..300), next in 0u32..300) {
            let _ = split(&raw);
            let _ = split(&[message(next, 72), raw].concat());
        }
    }
}
