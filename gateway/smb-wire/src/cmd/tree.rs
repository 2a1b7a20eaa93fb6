//! SMB2 TREE_CONNECT and TREE_DISCONNECT (MS-SMB2 2.2.9 to 2.2.12).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, slice_at, utf16le};
use crate::error::{DecodeError, Result};

/// ShareType of a disk share.
pub const SHARE_TYPE_DISK: u8 = 1;
/// ShareType of the named pipe share.
pub const SHARE_TYPE_PIPE: u8 = 2;

/// ShareFlags: clients may cache only what they ask for (manual caching is 0).
pub const SHAREFLAG_NO_CACHING: u32 = 0x0000_0030;
/// ShareFlags: entries that the user may not read are left out of listings.
pub const SHAREFLAG_ACCESS_BASED_ENUM: u32 = 0x0000_0800;
/// ShareFlags: every request and response on this share is encrypted.
pub const SHAREFLAG_ENCRYPT_DATA: u32 = 0x0000_8000;

/// Longest path that TREE_CONNECT may carry, in bytes.
const PATH_LIMIT_BYTES: usize = 2 * 1024;

/// TREE_CONNECT request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeConnectRequest {
    /// `\\server\share`.
    pub path: String,
}

impl TreeConnectRequest {
    /// Decodes a TREE_CONNECT request.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 9)?;
        r.skip(2)?;
        let (offset, len) = (r.u16()?, r.u16()?);
        if usize::from(len) > PATH_LIMIT_BYTES {
            return Err(DecodeError::TooLarge);
        }
        let raw = slice_at(message, offset.into(), len.into())?;
        let path = utf16le(&raw)?.ok_or(DecodeError::Invalid("share path"))?;
        Ok(TreeConnectRequest { path })
    }

    /// The share's name: what follows the last backslash.
    pub fn share(&self) -> &str {
        self.path.rsplit('\\').next().unwrap_or_default()
    }
}

/// TREE_CONNECT response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeConnectResponse {
    /// Disk or pipe.
    pub share_type: u8,
    /// `SHAREFLAG_*` bits.
    pub share_flags: u32,
    /// `SMB2_SHARE_CAP_*` bits.
    pub capabilities: u32,
    /// What the user may do at the root of the share at most.
    pub maximal_access: u32,
}

impl TreeConnectResponse {
    /// Appends the response body.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(16);
        out.put_u8(self.share_type);
        out.put_u8(0);
        out.put_u32_le(self.share_flags);
        out.put_u32_le(self.capabilities);
        out.put_u32_le(self.maximal_access);
    }
}

/// Checks a TREE_DISCONNECT request.
pub fn decode_disconnect(message: &Bytes) -> Result<()> {
    Reader::body(message, 4)?.skip(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HEADER_LEN;
    use crate::codec::to_utf16le;
    use proptest::prelude::*;

    #[test]
    fn a_tree_connect_names_the_share_after_the_last_backslash() {
        let path = to_utf16le(r"\\host\Docs");
        let mut m = vec![0u8; HEADER_LEN];
        m.extend([9, 0, 0, 0, 72, 0, path.len() as u8, 0]);
        m.extend(&path);
        let request = TreeConnectRequest::decode(&Bytes::from(m)).unwrap();
        assert_eq!(request.share(), "Docs");
    }

    #[test]
    fn the_response_has_sixteen_bytes_in_wire_order() {
        let mut out = BytesMut::new();
        TreeConnectResponse {
            share_type: SHARE_TYPE_DISK,
            share_flags: SHAREFLAG_ENCRYPT_DATA,
            capabilities: 0,
            maximal_access: 0x001f_01ff,
        }
        .encode(&mut out);
        assert_eq!(
            &out[..],
            &[16, 0, 1, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0xff, 1, 0x1f, 0]
        );
    }

    proptest! {
        #[test]
        fn decoder_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = TreeConnectRequest::decode(&Bytes::from(raw));
        }
    }
}
