//! The transform header before an encrypted message (MS-SMB2 2.2.41).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::Reader;
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
    pub fn decode(frame: &Bytes) -> Result<TransformHeader> {
        let mut r = Reader::new(frame);
        if r.array::<4>()? != TRANSFORM_ID {
            return Err(DecodeError::Protocol);
        }
        let header = TransformHeader {
            signature: r.array()?,
            nonce: r.array()?,
            original_len: r.u32()?,
            flags: {
                r.skip(2)?;
                r.u16()?
            },
            session_id: r.u64()?,
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
        assert_eq!(TransformHeader::decode(&out.clone().freeze()), Ok(h));
        out.put_u8(0);
        assert!(TransformHeader::decode(&out.freeze()).is_err());
    }

    proptest! {
        #[test]
        fn decoder_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TransformHeader::decode(&Bytes::from(raw));
        }
    }
}
