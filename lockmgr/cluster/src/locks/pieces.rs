//! Messages that are longer than a link carries: cut at the sender, put together again at the receiver.
//!
//! A link keeps order, and the sender lets nothing come between the pieces of one message, so they need no numbers. What a
//! document's state can be is bounded by the limits of the lock table; [`WHOLE_MAX_BYTES`] is above that.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use sluice_lockmgr::Member;

use super::message::PeerMessage;

/// Longest message in pieces. A peer that sends more is not believed.
pub(super) const WHOLE_MAX_BYTES: usize = 1 << 30;

/// Bytes of one piece: other links' messages get a turn in between.
const PIECE_BYTES: usize = 8 << 20;

/// A message in pieces, as messages.
pub(super) fn cut(message: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    let count = message.len().div_ceil(PIECE_BYTES);
    (0..count).map(move |n| {
        let end = message.len().min((n + 1) * PIECE_BYTES);
        let piece = PeerMessage::Piece {
            last: n + 1 == count,
            bytes: message.slice(n * PIECE_BYTES..end),
        };
        piece.to_bytes()
    })
}

/// What has come of messages in pieces, by sender.
#[derive(Default)]
pub(super) struct Pieces {
    begun: Mutex<HashMap<Member, BytesMut>>,
}

impl Pieces {
    /// Takes the next piece; the message, when it is whole.
    pub(super) fn take(&self, from: Member, last: bool, piece: &[u8]) -> Option<Bytes> {
        let mut begun = self.begun.lock();
        let whole = begun.entry(from).or_default();
        if whole.len() + piece.len() > WHOLE_MAX_BYTES {
            tracing::error!(%from, "a node sends a message that never ends; it is dropped");
            begun.remove(&from);
            return None;
        }
        whole.extend_from_slice(piece);
        if !last {
            return None;
        }
        begun.remove(&from).map(BytesMut::freeze)
    }

    /// A sender is gone.
    pub(super) fn forget(&self, from: Member) {
        self.begun.lock().remove(&from);
    }
}

#[cfg(test)]
mod tests {
    use sluice_lockmgr::{MemberEpoch, MemberId};

    use super::*;

    fn member(n: u32) -> Member {
        Member {
            id: MemberId(n),
            epoch: MemberEpoch(1),
        }
    }

    fn take(pieces: &Pieces, from: Member, message: &Bytes) -> Option<Bytes> {
        match PeerMessage::from_bytes(message)? {
            PeerMessage::Piece { last, bytes } => pieces.take(from, last, &bytes),
            _ => None,
        }
    }

    #[test]
    fn a_message_comes_together_again_beside_another_nodes() {
        let message = Bytes::from_iter((0..PIECE_BYTES * 2 + 7).map(|n| (n % 251) as u8));
        let pieces = Pieces::default();
        let (one, other) = (member(1), member(2));
        let cut: Vec<Bytes> = cut(&message).collect();
        assert_eq!(cut.len(), 3);
        for piece in &cut[..2] {
            assert_eq!(take(&pieces, one, piece), None);
            assert_eq!(take(&pieces, other, piece), None);
        }
        pieces.forget(other);
        assert_eq!(take(&pieces, one, &cut[2]), Some(message));
        assert!(take(&pieces, other, &cut[2]).is_some_and(|rest| rest.len() == 7));
    }
}
