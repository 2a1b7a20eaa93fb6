//! Bytes to be sent as the store holds them: several slices, written in one vectored call, never copied together.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use sluice_vfs::ReadData;

/// A queue of slices.
#[derive(Debug, Default)]
pub(crate) struct Parts(VecDeque<Bytes>);

impl From<ReadData> for Parts {
    fn from(read: ReadData) -> Parts {
        Parts(
            read.parts
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect(),
        )
    }
}

impl From<Bytes> for Parts {
    fn from(data: Bytes) -> Parts {
        Parts(
            Some(data)
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect(),
        )
    }
}

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |part| part)
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.0.front_mut() {
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.0.pop_front();
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, part) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(part);
            filled += 1;
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advancing_crosses_slices() {
        let mut parts = Parts(
            [b"abc".as_slice(), b"de", b"f"]
                .map(Bytes::from_static)
                .into(),
        );
        parts.advance(4);
        assert_eq!((parts.remaining(), parts.chunk()), (2, b"e".as_slice()));
        parts.advance(2);
        assert!(!parts.has_remaining());
    }
}
