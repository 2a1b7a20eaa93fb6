//! Direct TCP transport framing (MS-SMB2 2.1, RFC 1002 4.3.1).

/// Length of the prefix before each frame.
pub const PREFIX_LEN: usize = 4;
