//! SMB2 SESSION_SETUP (MS-SMB2 2.2.5, 2.2.6).

use bytes::{BufMut, Bytes, BytesMut};

use crate::HEADER_LEN;
use crate::codec::{Reader, slice_at};
use crate::error::Result;

/// Request flag: bind the session to this connection as another channel.
pub const FLAG_BINDING: u8 = 1;
/// SessionFlags: every message of the session is encrypted.
pub const SESSION_FLAG_ENCRYPT_DATA: u16 = 0x0004;

/// SESSION_SETUP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSetupRequest {
    /// [`FLAG_BINDING`] or 0.
    pub flags: u8,
    /// Bit 0: signing enabled, bit 1: signing required.
    pub security_mode: u8,
    /// Client capabilities.
    pub capabilities: u32,
    /// A session of the same user that this one replaces, or 0.
    pub previous_session_id: u64,
    /// The security token.
    pub token: Bytes,
}

impl SessionSetupRequest {
    /// Decodes a SESSION_SETUP request.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 25)?;
        let flags = r.u8()?;
        let security_mode = r.u8()?;
        let capabilities = r.u32()?;
        r.skip(4)?;
        let (offset, len) = (r.u16()?, r.u16()?);
        let previous_session_id = r.u64()?;
        Ok(SessionSetupRequest {
            flags,
            security_mode,
            capabilities,
            previous_session_id,
            token: slice_at(message, offset.into(), len.into())?,
        })
    }
}

/// Appends a SESSION_SETUP response body with its security token.
pub fn encode_response(session_flags: u16, token: &[u8], out: &mut BytesMut) {
    out.put_u16_le(9);
    out.put_u16_le(session_flags);
    out.put_u16_le((HEADER_LEN + 8) as u16);
    out.put_u16_le(token.len() as u16);
    out.put_slice(token);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_request_yields_token_and_previous_session() {
        let mut m = vec![0u8; HEADER_LEN];
        m.extend([25, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 88, 0, 3, 0]);
        m.extend(0x77u64.to_le_bytes());
        m.extend(b"tok");
        let request = SessionSetupRequest::decode(&Bytes::from(m)).unwrap();
        assert_eq!(request.token, "tok");
        assert_eq!(request.previous_session_id, 0x77);
        assert_eq!(
            (request.flags, request.security_mode, request.capabilities),
            (0, 1, 1)
        );
    }

    #[test]
    fn the_response_token_starts_at_offset_72() {
        let mut out = BytesMut::new();
        encode_response(SESSION_FLAG_ENCRYPT_DATA, b"abc", &mut out);
        assert_eq!(&out[..], &[9, 0, 4, 0, 72, 0, 3, 0, b'a', b'b', b'c']);
    }

    proptest! {
        #[test]
        fn decoder_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SessionSetupRequest::decode(&Bytes::from(raw));
        }
    }
}
