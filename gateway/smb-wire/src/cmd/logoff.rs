//! SMB2 LOGOFF (MS-SMB2 2.2.7, 2.2.8). The response is [`crate::cmd::echo::encode_response`].

use bytes::Bytes;

use crate::codec::Reader;
use crate::error::Result;

/// Checks a LOGOFF request.
pub fn decode(message: &Bytes) -> Result<()> {
    Reader::body(message, 4)?.skip(2)
}
