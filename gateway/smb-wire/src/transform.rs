//! The transform header before an encrypted message (MS-SMB2 2.2.41).

use bytes::{BufMut, BytesMut};

use crate::error::{DecodeError, Result};

/// Length of the transform header in bytes.
pub const TRANSFORM_LEN: usize = 52;
/// First four bytes of an encrypted message.
pub const TRANSFORM_ID: [u8; 4] = [0xfd, b'S', b'M', b'B'];
/// First four bytes of a compressed message; never negotiated by this server.
pub const COMPRESSION_ID: [u8; 4] = [0xfc, b'S', b'M', b'B'];
/// The associated data of the cipher: everything from the nonce to the end of the header.
pub const AAD_RANGE: core::ops::Range<usize> = 20..TRANSFORM_LEN;

/// SMB2 TRANSFORM_HEADER. The nonce field's unused tail is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransformHeader {
    /// Tag of the cipher.
    pub signature: [u8; 16],
    /// Nonce: 12 bytes for GCM, 11 for CCM.
    pub nonce: [u8; 16],
    /// Length of the message before encryption, in bytes.
    pub original_len: u32,
    /// Flags (3.1.1) or encryption algorithm (3.0.x); 1 in both means encrypted.
    pub flags: u16,
    /// Session whose keys are used.
    pub session_id: u64,
}

impl TransformHeader {
    /// Decodes the header of `frame`. The length must be what follows the header.
    pub fn decode(frame: &[u8]) -> Result<TransformHeader> {
        let raw: &[u8; TRANSFORM_LEN] = frame.first_chunk().ok_or(DecodeError::Truncated)?;
        if raw[..4] != TRANSFORM_ID {
            return Err(DecodeError::Protocol);
        }
        let half = |at: usize| {
            let mut half = [0; 16];
            half.copy_from_slice(&raw[at..at + 16]);
            half
        };
        let mut session_id = [0; 8];
        session_id.copy_from_slice(&raw[44..]);
        let header = TransformHeader {
            signature: half(4),
            nonce: half(20),
            original_len: u32::from_le_bytes([raw[36], raw[37], raw[38], raw[39]]),
            flags: u16::from_le_bytes([raw[42], raw[43]]),
            session_id: u64::from_le_bytes(session_id),
        };
        if header.original_len as usize != frame.len() - TRANSFORM_LEN {
            return Err(DecodeError::Invalid("OriginalMessageSize"));
        }
        if header.flags != 1 {
            return Err(DecodeError::Invalid("transform flags"));
        }
        Ok(header)
    }

    /// Appends the header.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&TRANSFORM_ID);
        out.put_slice(&self.signature);
        out.put_slice(&self.nonce);
        out.put_u32_le(self.original_len);
        out.put_u16_le(0);
        out.put_u16_le(self.flags);
        out.put_u64_le(self.session_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_transform_header_round_trips_and_checks_the_length() {
        let h = TransformHeader {
            signature: [1; 16],
            nonce: [2; 16],
            original_len: 5,
            flags: 1,
            session_id: 0x1122_3344_5566_7788,
        };
        let mut out = BytesMut::new();
        h.encode(&mut out);
        assert_eq!(out.len(), TRANSFORM_LEN);
        assert_eq!(&out[36..44], &[5, 0, 0, 0, 0, 0, 1, 0]);
        out.put_slice(b"hello");
        assert_eq!(TransformHeader::decode(&out), Ok(h));
        out.put_u8(0);
        assert!(TransformHeader::decode(&out).is_err());
    }

    proptest! {
        #[test]
        fn decoder_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TransformHeader::decode(&raw);
        }
    }
}
