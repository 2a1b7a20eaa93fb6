//! SMB2 CANCEL (MS-SMB2 2.2.30): names its target by header only and is never answered.

use bytes::Bytes;

use crate::codec::Reader;
use crate::error::Result;

/// Checks a CANCEL request.
pub fn decode(message: &Bytes) -> Result<()> {
    Reader::body(message, 4)?.skip(2)
}
