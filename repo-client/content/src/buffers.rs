//! Memory that pages of objects are read into. It goes round: fresh memory costs more than filling it, most of all on virtual
//! machines that give free memory back to their host. Never grows what it keeps beyond a fixed size.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Buffers that are kept while nobody uses them.
const IDLE_MAX: usize = 128;

/// Buffers of one size.
#[derive(Clone)]
pub(crate) struct Buffers {
    len: usize,
    /// The one used last is the first to be used again: it is in the processor's cache.
    idle: Arc<Mutex<Vec<Box<[u8]>>>>,
}

/// A buffer in use; as [`Bytes`] it goes back when the last slice of it is dropped.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    home: Option<Buffers>,
}

impl Buffers {
    /// Buffers of `len` bytes each.
    pub(crate) fn new(len: usize) -> Buffers {
        Buffers {
            len,
            idle: Arc::default(),
        }
    }

    /// A buffer of exactly `len` bytes with anything in it. Only those of the usual size go round.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        if len != self.len {
            return Buffer {
                bytes: vec![0; len].into(),
                home: None,
            };
        }
        let idle = self.idle.lock().pop();
        Buffer {
            bytes: idle.unwrap_or_else(|| vec![0; len].into()),
            home: Some(self.clone()),
        }
    }
}

impl From<Buffer> for Bytes {
    fn from(buffer: Buffer) -> Bytes {
        Bytes::from_owner(buffer)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let bytes = std::mem::take(&mut self.bytes);
            let mut idle = home.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_round_once_its_last_slice_is_dropped() {
        let buffers = Buffers::new(4096);
        let mut first = buffers.take(4096);
        first.fill(1);
        let place = first.as_ptr();
        let bytes = Bytes::from(first);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_ne!(buffers.take(4096).as_ptr(), place);
        assert_eq!(&slice[..], &[1; 10]);
        drop(slice);
        assert_eq!(buffers.take(4096).as_ptr(), place);
    }

    #[test]
    fn another_size_and_what_is_too_much_is_not_kept() {
        let buffers = Buffers::new(16);
        assert_eq!(buffers.take(5).len(), 5);
        assert!(buffers.idle.lock().is_empty());
        let many: Vec<Buffer> = (0..IDLE_MAX + 3).map(|_| buffers.take(16)).collect();
        drop(many);
        assert_eq!(buffers.idle.lock().len(), IDLE_MAX);
    }
}
