//! Replies on their way out: compound layout, signatures, encryption, and the frame that the writer sends.

use bytes::{Bytes, BytesMut};
use sluice_smb_wire::framing::{PREFIX_LEN, Prefix};
use sluice_smb_wire::header::{HEADER_LEN, SIGNATURE_RANGE};
use sluice_smb_wire::transform::TRANSFORM_LEN;
use sluice_smb_wire::{Flags, Header};
use smallvec::SmallVec;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

use crate::crypto::encryption::SessionCipher;
use crate::crypto::signing::{CryptoFailed, Signer};

/// One finished response message.
pub struct Message {
    /// Header, credits filled in.
    pub header: Header,
    /// Body from message offset 64 on.
    pub body: BytesMut,
    /// Bulk data after the body.
    pub payload: SmallVec<[Bytes; 2]>,
    /// Signs the message; `None` leaves it unsigned.
    pub signer: Option<Arc<Signer>>,
}

impl Message {
    fn len(&self) -> usize {
        HEADER_LEN + self.body.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Bytes for the socket, prefix included, in order.
pub struct Frame {
    /// The parts.
    pub parts: SmallVec<[Bytes; 4]>,
    /// Given back when the frame is written.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl Frame {
    /// The message without the transport prefix, for the preauthentication hash.
    pub fn message_parts(&self) -> SmallVec<[&[u8]; 4]> {
        let mut skip = PREFIX_LEN;
        self.parts
            .iter()
            .map(|part| {
                let cut = skip.min(part.len());
                skip -= cut;
                &part[cut..]
            })
            .collect()
    }
}

/// How a session's frames are encrypted: id and keys.
#[derive(Clone)]
pub struct Sealing {
    /// Session id for the transform header.
    pub session_id: u64,
    /// Keys.
    pub cipher: Arc<SessionCipher>,
}

/// Lays `messages` out as one frame: eight-byte alignment between the messages of a compound, each signed on
/// its own, the whole encrypted if `sealing` is given. Bulk data stays where it is unless the algorithm
/// needs one piece.
pub fn build(messages: Vec<Message>, sealing: Option<&Sealing>) -> Result<Frame, CryptoFailed> {
    let lead = PREFIX_LEN + if sealing.is_some() { TRANSFORM_LEN } else { 0 };
    let mut out = Layout {
        head: BytesMut::zeroed(lead),
        parts: SmallVec::new(),
        total: 0,
        gather: sealing.is_some(),
    };
    let count = messages.len();
    for (index, message) in messages.into_iter().enumerate() {
        // In a compound the last message is padded too, as Windows does.
        out.push(message, index + 1 == count, count > 1)?;
    }
    out.finish(lead, sealing)
}

struct Layout {
    /// Collects what is copied: prefix, headers, small bodies.
    head: BytesMut,
    parts: SmallVec<[Bytes; 4]>,
    /// Bytes already moved to `parts`.
    total: usize,
    gather: bool,
}

impl Layout {
    fn push(&mut self, mut message: Message, last: bool, pad: bool) -> Result<(), CryptoFailed> {
        let len = message.len();
        let padding = if pad {
            len.next_multiple_of(8) - len
        } else {
            0
        };
        message.header.next_command = if last { 0 } else { (len + padding) as u32 };
        if message.signer.is_some() {
            message.header.flags.0 |= Flags::SIGNED;
        }
        let start = self.head.len();
        let gather = self.gather
            || message
                .signer
                .as_ref()
                .is_some_and(|s| s.needs_contiguous());
        let copied = if gather {
            len + padding
        } else {
            HEADER_LEN + message.body.len()
        };
        self.head.reserve(copied);
        message.header.encode(&mut self.head);
        self.head.extend_from_slice(&message.body);
        if gather {
            message
                .payload
                .iter()
                .for_each(|p| self.head.extend_from_slice(p));
            message.payload.clear();
        }
        if message.payload.is_empty() {
            self.head.resize(self.head.len() + padding, 0);
        } else if padding > 0 {
            message.payload.push(Bytes::from_static(&[0; 8][..padding]));
        }
        if let Some(signer) = &message.signer {
            let mut pieces: SmallVec<[&[u8]; 4]> = SmallVec::new();
            pieces.push(&self.head[start..]);
            pieces.extend(message.payload.iter().map(|p| &p[..]));
            let signature = signer.sign(&message.header, &pieces)?;
            drop(pieces);
            let field = start + SIGNATURE_RANGE.start..start + SIGNATURE_RANGE.end;
            self.head[field].copy_from_slice(&signature);
        }
        if !message.payload.is_empty() {
            self.flush();
            for part in message.payload {
                self.total += part.len();
                self.parts.push(part);
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        if !self.head.is_empty() {
            self.total += self.head.len();
            self.parts.push(self.head.split().freeze());
        }
    }

    fn finish(mut self, lead: usize, sealing: Option<&Sealing>) -> Result<Frame, CryptoFailed> {
        debug_assert!(lead >= PREFIX_LEN);
        let prefix = Prefix::message(self.total + self.head.len() - PREFIX_LEN);
        if self.parts.is_empty() {
            self.head[..PREFIX_LEN].copy_from_slice(&prefix);
            if let Some(sealing) = sealing {
                sealing
                    .cipher
                    .seal(sealing.session_id, &mut self.head[PREFIX_LEN..])?;
            }
            self.flush();
        } else {
            self.flush();
            // The first part was frozen before the total length was known, so the prefix goes before it.
            self.parts[0] = self.parts[0].slice(PREFIX_LEN..);
            self.parts.insert(0, Bytes::copy_from_slice(&prefix));
        }
        Ok(Frame {
            parts: self.parts,
            permit: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::kdf;
    use sluice_smb_wire::cmd::negotiate::SigningAlgorithm;

    fn message(
        id: u64,
        body: &[u8],
        payload: &'static [u8],
        signer: Option<Arc<Signer>>,
    ) -> Message {
        Message {
            header: Header {
                credit_charge: 1,
                status: 0,
                command: 8,
                credits: 1,
                flags: Flags(Flags::RESPONSE),
                next_command: 0,
                message_id: id,
                async_or_tree: 0,
                session_id: 1,
                signature: [0; 16],
            },
            body: BytesMut::from(body),
            payload: if payload.is_empty() {
                SmallVec::new()
            } else {
                SmallVec::from_elem(Bytes::from_static(payload), 1)
            },
            signer,
        }
    }

    fn flat(frame: &Frame) -> Vec<u8> {
        frame.parts.concat()
    }

    #[test]
    fn payload_is_not_copied_and_the_prefix_counts_it() {
        static DATA: [u8; 1000] = [7; 1000];
        let frame = build(vec![message(1, &[1; 16], &DATA, None)], None).unwrap();
        assert!(frame.parts.iter().any(|p| p.as_ptr() == DATA.as_ptr()));
        let raw = flat(&frame);
        assert_eq!(raw.len(), 4 + 64 + 16 + 1000);
        assert_eq!(&raw[..4], &Prefix::message(1080));
        assert_eq!(frame.message_parts().concat(), &raw[4..]);
    }

    #[test]
    fn compound_messages_are_aligned_and_linked() {
        let frame = build(
            vec![
                message(1, b"abc", b"12345", None),
                message(2, b"de", b"", None),
            ],
            None,
        )
        .unwrap();
        let raw = flat(&frame);
        let first = Header::decode(&raw[4..]).unwrap();
        assert_eq!(first.next_command, 72);
        let second = Header::decode(&raw[4 + 72..]).unwrap();
        assert_eq!((second.message_id, second.next_command), (2, 0));
        assert_eq!(raw.len(), 4 + 72 + 72);
    }

    #[test]
    fn every_signing_algorithm_signs_what_goes_out() {
        use SigningAlgorithm::*;
        for algorithm in [HmacSha256, AesCmac, AesGmac] {
            let signer =
                Arc::new(Signer::new(algorithm, &kdf::derive(b"k", b"", b"", 16)).unwrap());
            let messages = vec![
                message(1, b"abc", b"12345", Some(signer.clone())),
                message(2, b"de", b"", Some(signer.clone())),
            ];
            let mut raw = flat(&build(messages, None).unwrap()).split_off(4);
            let mut second = raw.split_off(72);
            for part in [&mut raw, &mut second] {
                let header = Header::decode(part).unwrap();
                assert!(signer.verify(&header, part), "{algorithm:?}");
            }
        }
    }
}
