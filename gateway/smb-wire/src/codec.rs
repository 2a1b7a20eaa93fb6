//! Little-endian reading and writing over [`Bytes`]; the only place that touches raw offsets.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::{DecodeError, Result};

/// A bounds-checked little-endian reader. Slices that it returns share the message's memory.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    message: &'a Bytes,
    pos: usize,
}

impl<'a> Reader<'a> {
    /// Reads `message` from its first byte.
    pub fn new(message: &'a Bytes) -> Self {
        Reader { message, pos: 0 }
    }

    /// Reads `message` from byte `pos`; a position past the end makes every read fail.
    pub fn at(message: &'a Bytes, pos: usize) -> Self {
        Reader { message, pos }
    }

    /// Reads a command body: `message` starts with the SMB2 header. Checks the body's StructureSize.
    pub fn body(message: &'a Bytes, structure_size: u16) -> Result<Self> {
        let mut r = Reader::at(message, crate::header::HEADER_LEN);
        if r.u16()? != structure_size {
            return Err(DecodeError::StructureSize);
        }
        Ok(r)
    }

    /// The position from the first byte of the message.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Bytes left after the position.
    pub fn remaining(&self) -> usize {
        self.message.len().saturating_sub(self.pos)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let end = self.pos.checked_add(N).ok_or(DecodeError::Truncated)?;
        let raw = self
            .message
            .get(self.pos..end)
            .ok_or(DecodeError::Truncated)?;
        self.pos = end;
        raw.try_into().map_err(|_| DecodeError::Truncated)
    }

    /// Reads one byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.take::<1>()?[0])
    }

    /// Reads a little-endian 16-bit number.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    /// Reads a little-endian 32-bit number.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    /// Reads a little-endian 64-bit number.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// Reads a fixed array, such as a GUID.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take()
    }

    /// Skips `n` bytes, which must be there.
    pub fn skip(&mut self, n: usize) -> Result<()> {
        self.bytes(n).map(drop)
    }

    /// The next `n` bytes, sharing the message's memory.
    pub fn bytes(&mut self, n: usize) -> Result<Bytes> {
        let slice = slice_at(self.message, self.pos, n)?;
        self.pos += n;
        Ok(slice)
    }
}

/// `len` bytes at `offset` of `message`, sharing its memory. An empty range may lie anywhere, because
/// clients leave the offset of an absent buffer undefined.
pub fn slice_at(message: &Bytes, offset: usize, len: usize) -> Result<Bytes> {
    if len == 0 {
        return Ok(Bytes::new());
    }
    let end = offset.checked_add(len).ok_or(DecodeError::Truncated)?;
    if end > message.len() {
        return Err(DecodeError::Truncated);
    }
    Ok(message.slice(offset..end))
}

/// Decodes UTF-16LE. Fails on an odd length; an unpaired surrogate becomes `None` inside `Ok` so that a
/// caller may answer STATUS_OBJECT_NAME_INVALID rather than STATUS_INVALID_PARAMETER.
pub fn utf16le(raw: &[u8]) -> Result<Option<String>> {
    if !raw.len().is_multiple_of(2) {
        return Err(DecodeError::Invalid("odd length of a UTF-16 string"));
    }
    let units = raw
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    Ok(char::decode_utf16(units)
        .collect::<core::result::Result<String, _>>()
        .ok())
}

/// Like [`utf16le`], with U+FFFD in the place of unpaired surrogates; for names that are only shown or
/// compared with known ones.
pub fn utf16le_lossy(raw: &[u8]) -> Result<String> {
    if !raw.len().is_multiple_of(2) {
        return Err(DecodeError::Invalid("odd length of a UTF-16 string"));
    }
    let units = raw
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    Ok(char::decode_utf16(units)
        .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect())
}

/// Appends `text` as UTF-16LE without a terminator.
pub fn put_utf16le(out: &mut BytesMut, text: &str) {
    for unit in text.encode_utf16() {
        out.put_u16_le(unit);
    }
}

/// `text` as UTF-16LE bytes.
pub fn to_utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Pads `out` with zeros until its length is a multiple of `align`, a power of two.
pub fn pad_to(out: &mut BytesMut, align: usize) {
    let padded = out.len().next_multiple_of(align);
    out.resize(padded, 0);
}

/// Overwrites four bytes at `at`, which were written before; nothing if they were not.
pub fn patch_u32(out: &mut BytesMut, at: usize, value: u32) {
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_fails_and_does_not_move() {
        let m = Bytes::from_static(&[1, 2, 3]);
        let mut r = Reader::new(&m);
        assert_eq!(r.u16(), Ok(0x0201));
        assert_eq!(r.u32(), Err(DecodeError::Truncated));
        assert_eq!(r.u8(), Ok(3));
        assert!(Reader::at(&m, usize::MAX).u64().is_err());
    }

    #[test]
    fn a_slice_shares_memory_and_never_wraps() {
        let m = Bytes::from_static(b"abcdef");
        assert_eq!(slice_at(&m, 2, 3).unwrap(), "cde");
        assert!(slice_at(&m, 2, usize::MAX).is_err());
        assert!(slice_at(&m, 6, 1).is_err());
        assert!(slice_at(&m, 9999, 0).unwrap().is_empty());
    }

    #[test]
    fn utf16_keeps_unpaired_surrogates_apart_from_odd_lengths() {
        assert_eq!(
            utf16le(&to_utf16le("a\u{e4}\u{1f600}")).unwrap().unwrap(),
            "a\u{e4}\u{1f600}"
        );
        assert_eq!(utf16le(&[0x00, 0xd8]).unwrap(), None);
        assert!(utf16le(&[0x41]).is_err());
        assert_eq!(utf16le_lossy(&[0x00, 0xd8]).unwrap(), "\u{fffd}");
    }
}
