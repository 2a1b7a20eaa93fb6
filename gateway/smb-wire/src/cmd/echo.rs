//! SMB2 ECHO (MS-SMB2 2.2.28, 2.2.29).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::Reader;
use crate::error::Result;

/// Checks an ECHO request.
pub fn decode(message: &Bytes) -> Result<()> {
    Reader::body(message, 4)?.skip(2)
}

/// Encodes the four-byte response that ECHO, LOGOFF and TREE_DISCONNECT share.
pub fn encode_response(out: &mut BytesMut) {
    out.put_u16_le(4);
    out.put_u16_le(0);
}
