//! Record marking over byte streams (RFC 5531 section 11): fragments to records, bounded.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bit 31 of a fragment header: the record ends with this fragment.
const LAST_FRAGMENT: u32 = 1 << 31;

/// Most fragments of one record; real clients send one.
const FRAGMENTS_MAX: u32 = 4096;

/// A stream that can't be records; the connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record is longer than allowed.
    #[error("a record of {len} bytes exceeds the limit of {max}")]
    TooLong {
        /// Bytes stated so far.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// More fragments than a sane client sends.
    #[error("a record in too many fragments")]
    TooManyFragments,
}

/// Puts records together from what a stream delivers.
#[derive(Debug)]
pub struct RecordReader {
    max_bytes: usize,
    /// Earlier fragments of the current record; empty for the usual single fragment.
    earlier: BytesMut,
    fragments: u32,
}

impl RecordReader {
    /// A reader that refuses records over `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            earlier: BytesMut::new(),
            fragments: 0,
        }
    }

    /// Whether `input`, from which all whole records have been taken, ends exactly between two records.
    pub fn is_between(&self, input: &BytesMut) -> bool {
        input.is_empty() && self.fragments == 0
    }

    /// Takes the next whole record off the front of `input`; `None` when more bytes are needed. Room for
    /// the rest of the current fragment is then reserved in `input`, so that it arrives in one piece.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, RecordError> {
        loop {
            let Some(header) = input.first_chunk::<4>() else {
                return Ok(None);
            };
            let header = u32::from_be_bytes(*header);
            let len = (header & !LAST_FRAGMENT) as usize;
            let total = self.earlier.len() + len;
            if total > self.max_bytes {
                return Err(RecordError::TooLong {
                    len: total,
                    max: self.max_bytes,
                });
            }
            if self.fragments >= FRAGMENTS_MAX {
                return Err(RecordError::TooManyFragments);
            }
            if input.len() < 4 + len {
                input.reserve(4 + len - input.len());
                return Ok(None);
            }
            input.advance(4);
            let fragment = input.split_to(len);
            let last = header & LAST_FRAGMENT != 0;
            if last && self.fragments == 0 {
                return Ok(Some(fragment.freeze()));
            }
            self.earlier.put_slice(&fragment);
            self.fragments += 1;
            if last {
                self.fragments = 0;
                return Ok(Some(std::mem::take(&mut self.earlier).freeze()));
            }
        }
    }
}

/// The header of a record sent as one fragment. Records stay far below the 2^31 that a header can state.
pub fn single_fragment_header(len: usize) -> [u8; 4] {
    (LAST_FRAGMENT | (len as u32 & !LAST_FRAGMENT)).to_be_bytes()
}
