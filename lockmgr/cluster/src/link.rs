//! A link to one peer incarnation: reliable, ordered, exactly once, as long as both are members.
//!
//! A plain state machine: messages are cut into numbered frames, kept until the peer has acknowledged them and sent again on the
//! next transport (a new connection, or the relay) from where the peer stands. A transport may lose, repeat and reorder; the
//! receiver takes each frame once, in order. Owns no socket, clock or task; must never drop a message it took while the
//! peer is a member.
//!
//! ```text
//! send(m) -> out: [acked .. | in flight on this transport .. | not sent yet ..]      receive(f): f.seq == received + 1 ?
//!            attach(peer_received): forgets what arrived, sends the rest again       duplicates and gaps change nothing
//! ```

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::transport::{BACKLOG_MAX_BYTES, MESSAGE_MAX_BYTES, SendError};

/// Longest payload of one frame; longer messages go in several.
pub const FRAME_PAYLOAD_MAX: usize = 256 << 10;
/// Bytes of a frame's head on the wire, after the length.
pub const FRAME_HEAD: usize = 17;
/// Frames on their way without acknowledgement on one transport before the link waits for the peer.
const WINDOW_FRAMES: usize = 16_384;
/// As [`WINDOW_FRAMES`], in bytes.
const WINDOW_BYTES: usize = 32 << 20;
/// The receiver acknowledges at the latest after so many frames...
const ACK_EVERY_FRAMES: u64 = 1024;
/// ...or so many bytes.
const ACK_EVERY_BYTES: usize = 1 << 20;

const KIND_ACK: u8 = 0;
const KIND_WHOLE: u8 = 1;
const KIND_PART: u8 = 2;

/// What travels: an acknowledgement, with or without a piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Number of the last frame that the sender has received in order.
    pub ack: u64,
    /// A piece of a message, if it is not a mere acknowledgement.
    pub piece: Option<Piece>,
}

/// One numbered piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From 1, without gaps.
    pub seq: u64,
    /// Whether the message goes on in the next piece.
    pub more: bool,
    /// The bytes.
    pub payload: Bytes,
}

impl Frame {
    /// Bytes that [`Self::encode`] writes after the length.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        FRAME_HEAD + self.piece.as_ref().map_or(0, |piece| piece.payload.len())
    }

    /// Writes the frame without its length.
    pub fn encode(&self, out: &mut BytesMut) {
        let (kind, seq) = match &self.piece {
            None => (KIND_ACK, 0),
            Some(piece) if piece.more => (KIND_PART, piece.seq),
            Some(piece) => (KIND_WHOLE, piece.seq),
        };
        out.put_u8(kind);
        out.put_u64_le(self.ack);
        out.put_u64_le(seq);
        if let Some(piece) = &self.piece {
            out.put_slice(&piece.payload);
        }
    }

    /// Reads what [`Self::encode`] wrote; nothing if it is malformed.
    #[must_use]
    pub fn decode(mut bytes: Bytes) -> Option<Frame> {
        if bytes.len() < FRAME_HEAD || bytes.len() > FRAME_HEAD + FRAME_PAYLOAD_MAX {
            return None;
        }
        let kind = bytes.get_u8();
        let ack = bytes.get_u64_le();
        let seq = bytes.get_u64_le();
        let piece = match kind {
            KIND_ACK if bytes.is_empty() => None,
            KIND_WHOLE | KIND_PART => Some(Piece {
                seq,
                more: kind == KIND_PART,
                payload: bytes,
            }),
            _ => return None,
        };
        Some(Frame { ack, piece })
    }
}

/// What came of a received frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing for above: an acknowledgement, a duplicate, or a piece of something longer.
    Nothing,
    /// A whole message.
    Message(Bytes),
    /// Frames before it are missing on this transport; the sender will send them again.
    Gap,
    /// The peer breaks the rules (acknowledges what was never sent, message too long): this connection is not to be trusted.
    Violation,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Link {
    /// Frames that the peer has not acknowledged, oldest first; the first has number `acked + 1`.
    out: VecDeque<Piece>,
    out_bytes: usize,
    acked: u64,
    /// How many of `out` were sent on the present transport, and their bytes.
    in_flight: usize,
    in_flight_bytes: usize,
    attached: bool,
    received: u64,
    /// What of `received` the peer was told, and the bytes since.
    told: u64,
    untold_bytes: usize,
    partial: BytesMut,
}

impl Link {
    /// Takes a message for the peer.
    pub fn send(&mut self, message: Bytes) -> Result<(), SendError> {
        if message.len() > MESSAGE_MAX_BYTES {
            return Err(SendError::TooLarge);
        }
        if self.out_bytes + message.len() > BACKLOG_MAX_BYTES {
            return Err(SendError::Full);
        }
        let mut rest = message;
        loop {
            let payload = rest.split_to(rest.len().min(FRAME_PAYLOAD_MAX));
            let seq = self.acked + 1 + self.out.len() as u64;
            let more = !rest.is_empty();
            self.out_bytes += payload.len();
            self.out.push_back(Piece { seq, more, payload });
            if !more {
                return Ok(());
            }
        }
    }

    /// A new transport is there and the peer said how much it has: everything after that is sent on it. `false` if the peer
    /// claims to have what was never sent.
    pub fn attach(&mut self, peer_received: u64) -> bool {
        if !self.acknowledge(peer_received) {
            return false;
        }
        self.rewind();
        self.told = 0;
        true
    }

    /// Sends everything that is not acknowledged once more, on a transport that may have lost it.
    pub fn rewind(&mut self) {
        self.attached = true;
        self.in_flight = 0;
        self.in_flight_bytes = 0;
    }

    /// The transport is gone; nothing is sent until the next [`Self::attach`].
    pub fn detach(&mut self) {
        self.attached = false;
    }

    /// The next frame for the present transport, if there is one and the window allows it.
    pub fn next_frame(&mut self) -> Option<Frame> {
        if !self.attached || self.in_flight >= WINDOW_FRAMES || self.in_flight_bytes >= WINDOW_BYTES
        {
            return None;
        }
        let piece = self.out.get(self.in_flight)?.clone();
        self.in_flight += 1;
        self.in_flight_bytes += piece.payload.len();
        self.mark_told();
        Some(Frame {
            ack: self.received,
            piece: Some(piece),
        })
    }

    /// A mere acknowledgement; also says "I am here".
    pub fn ack_frame(&mut self) -> Frame {
        self.mark_told();
        Frame {
            ack: self.received,
            piece: None,
        }
    }

    fn mark_told(&mut self) {
        self.told = self.received;
        self.untold_bytes = 0;
    }

    /// Whether the peer should hear of what arrived now, not at the next tick.
    #[must_use]
    pub fn ack_is_urgent(&self) -> bool {
        self.received - self.told.min(self.received) >= ACK_EVERY_FRAMES
            || self.untold_bytes >= ACK_EVERY_BYTES
    }

    /// Whether something arrived of which the peer was not told.
    #[must_use]
    pub fn owes_ack(&self) -> bool {
        self.received > self.told
    }

    /// Number of the last frame received in order.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Number of the last frame that the peer has acknowledged.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Whether something waits for the peer's acknowledgement.
    #[must_use]
    pub fn has_unacknowledged(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether something could be sent on the present transport now.
    #[must_use]
    pub fn wants_to_send(&self) -> bool {
        self.attached
            && self.in_flight < self.out.len()
            && self.in_flight < WINDOW_FRAMES
            && self.in_flight_bytes < WINDOW_BYTES
    }

    fn acknowledge(&mut self, ack: u64) -> bool {
        if ack > self.acked + self.out.len() as u64 {
            return false;
        }
        while self.acked < ack {
            let Some(piece) = self.out.pop_front() else {
                return false;
            };
            self.acked += 1;
            self.out_bytes -= piece.payload.len();
            if self.in_flight > 0 {
                self.in_flight -= 1;
                self.in_flight_bytes -= piece.payload.len();
            }
        }
        true
    }

    /// Takes a frame from any transport.
    pub fn receive(&mut self, frame: Frame) -> Received {
        // An old acknowledgement (reordered, or from a transport before) changes nothing.
        if frame.ack > self.acked && !self.acknowledge(frame.ack) {
            return Received::Violation;
        }
        let Some(piece) = frame.piece else {
            return Received::Nothing;
        };
        if piece.seq <= self.received {
            // Sent again although we have it: the acknowledgement got lost, so tell it again.
            self.told = self.told.min(piece.seq.saturating_sub(1));
            return Received::Nothing;
        }
        if piece.seq != self.received + 1 {
            return Received::Gap;
        }
        if self.partial.len() + piece.payload.len() > MESSAGE_MAX_BYTES {
            return Received::Violation;
        }
        self.received = piece.seq;
        self.untold_bytes += piece.payload.len();
        if !piece.more && self.partial.is_empty() {
            return Received::Message(piece.payload);
        }
        self.partial.put(piece.payload);
        if piece.more {
            Received::Nothing
        } else {
            Received::Message(self.partial.split().freeze())
        }
    }
}

#[cfg(test)]
mod tests;
