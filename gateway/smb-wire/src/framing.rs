//! Frames on a stream: direct TCP and NetBIOS session service (MS-SMB2 2.1, RFC 1002 4.3).

use crate::error::{DecodeError, Result};

/// Length of the prefix before each frame.
pub const PREFIX_LEN: usize = 4;

/// Answer to a NetBIOS session request: positive session response.
pub const POSITIVE_SESSION_RESPONSE: [u8; 4] = [0x82, 0, 0, 0];

/// What a prefix announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// An SMB message of this many bytes.
    Message(usize),
    /// A NetBIOS session request of this many bytes, to be skipped and answered.
    SessionRequest(usize),
    /// A NetBIOS keep-alive, without content.
    KeepAlive,
}

impl Prefix {
    /// Decodes a prefix; a message longer than `limit_bytes` is refused.
    pub fn decode(raw: [u8; PREFIX_LEN], limit_bytes: usize) -> Result<Prefix> {
        let len = u32::from_be_bytes([0, raw[1], raw[2], raw[3]]) as usize;
        match raw[0] {
            0x00 if len > limit_bytes => Err(DecodeError::TooLarge),
            0x00 => Ok(Prefix::Message(len)),
            0x81 if len <= 1024 => Ok(Prefix::SessionRequest(len)),
            0x85 if len == 0 => Ok(Prefix::KeepAlive),
            _ => Err(DecodeError::Protocol),
        }
    }

    /// The prefix of a message of `len` bytes, which fits 24 bits because replies are bounded far below.
    pub fn message(len: usize) -> [u8; PREFIX_LEN] {
        let be = (len as u32).to_be_bytes();
        [0, be[1], be[2], be[3]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_prefix_is_a_24_bit_length_within_the_limit() {
        assert_eq!(
            Prefix::decode([0, 1, 2, 3], 1 << 24),
            Ok(Prefix::Message(0x010203))
        );
        assert_eq!(Prefix::message(0x010203), [0, 1, 2, 3]);
        assert_eq!(
            Prefix::decode([0, 1, 0, 0], 65_535),
            Err(DecodeError::TooLarge)
        );
    }

    #[test]
    fn netbios_control_frames_are_told_apart_and_bounded() {
        assert_eq!(Prefix::decode([0x85, 0, 0, 0], 9), Ok(Prefix::KeepAlive));
        assert_eq!(
            Prefix::decode([0x81, 0, 0, 68], 9),
            Ok(Prefix::SessionRequest(68))
        );
        assert!(Prefix::decode([0x81, 0xff, 0, 68], 9).is_err());
        assert!(Prefix::decode(*b"GET ", 1 << 24).is_err());
    }
}
