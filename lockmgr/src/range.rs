//! A byte range with SMB's corner cases: zero length, and an end up to 2^64 - 1.
//!
//! MS-FSA 2.1.4.10 and 2.1.5.7. NFS ranges (RFC 8881 18.10: length of all ones means to the end) map onto it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `length` bytes from `offset`. Always valid: the last byte does not pass 2^64 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

/// A range as it arrives.
#[derive(Deserialize)]
struct Unchecked {
    offset: u64,
    length: u64,
}

impl TryFrom<Unchecked> for ByteRange {
    type Error = &'static str;
    fn try_from(range: Unchecked) -> Result<Self, Self::Error> {
        ByteRange::new(range.offset, range.length).ok_or("a range passes the last byte")
    }
}

impl ByteRange {
    /// Every byte of a document.
    pub const WHOLE: ByteRange = ByteRange {
        offset: 0,
        length: u64::MAX,
    };

    /// A range, or `None` if its last byte would pass 2^64 - 1 (SMB: STATUS_INVALID_LOCK_RANGE).
    #[must_use]
    pub const fn new(offset: u64, length: u64) -> Option<Self> {
        if length != 0 && length - 1 > u64::MAX - offset {
            return None;
        }
        Some(Self { offset, length })
    }

    /// The bytes of a read or write; what would pass 2^64 - 1 is cut off.
    #[must_use]
    pub const fn clamped(offset: u64, length: u64) -> Self {
        let room = u64::MAX - offset;
        let length = if length > room { room } else { length };
        Self { offset, length }
    }

    /// From `offset` to the end of everything (NFS: length 0 in NLM, all ones in NFSv4).
    #[must_use]
    pub const fn to_end(offset: u64) -> Self {
        if offset == 0 {
            Self::WHOLE
        } else {
            Self {
                offset,
                length: u64::MAX - offset + 1,
            }
        }
    }

    /// First byte.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Number of bytes; may be zero.
    #[must_use]
    pub const fn length(self) -> u64 {
        self.length
    }

    /// Last byte; for a zero-length range the one before `offset`. `None` for zero length at offset 0.
    #[must_use]
    pub const fn last(self) -> Option<u64> {
        if self.length == 0 {
            self.offset.checked_sub(1)
        } else {
            Some(self.offset + (self.length - 1))
        }
    }

    /// True if the two meet. A zero-length range meets only a range that lies around its offset on both sides.
    #[must_use]
    pub const fn overlaps(self, other: ByteRange) -> bool {
        match (self.last(), other.last()) {
            (Some(a), Some(b)) => self.offset <= b && other.offset <= a,
            _ => false,
        }
    }

    /// True if all of `inner` lies in this range.
    #[must_use]
    pub const fn contains(self, inner: ByteRange) -> bool {
        match (self.last(), inner.last()) {
            (Some(a), Some(b)) => self.offset <= inner.offset && b <= a,
            _ => false,
        }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.offset, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).expect("valid range")
    }

    #[test]
    fn a_range_may_end_at_the_last_byte_but_not_pass_it() {
        assert!(ByteRange::new(u64::MAX, 1).is_some());
        assert!(ByteRange::new(u64::MAX, 0).is_some());
        assert!(ByteRange::new(1, u64::MAX).is_some());
        assert!(ByteRange::new(u64::MAX, 2).is_none());
        assert!(ByteRange::new(2, u64::MAX).is_none());
    }

    #[test]
    fn a_zero_length_range_meets_only_what_lies_around_it() {
        assert!(range(5, 0).overlaps(range(4, 2)));
        assert!(!range(5, 0).overlaps(range(5, 2)));
        assert!(!range(5, 0).overlaps(range(3, 2)));
        assert!(!range(5, 0).overlaps(range(5, 0)));
        assert!(!range(0, 0).overlaps(ByteRange::WHOLE));
    }
}
