//! XDR (RFC 4506): a decoder over [`Bytes`] and an encoder into segments.
//!
//! The decoder never allocates from a stated length; it only slices what has arrived. The encoder copies
//! small opaques into its own buffer and keeps large ones as separate segments.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Opaque payloads from this size on are kept as their own segment, not copied.
const SEGMENT_MIN_BYTES: usize = 2048;

/// Why bytes are not the XDR that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XdrError {
    /// The data ends before the item does.
    #[error("the data ends inside an item")]
    Truncated,
    /// A variable-length item states more than its limit.
    #[error("length {len} exceeds the limit {max}")]
    TooLong {
        /// What the peer stated.
        len: u32,
        /// What is allowed.
        max: u32,
    },
    /// A value outside an enumeration.
    #[error("{value} is not a {what}")]
    BadEnum {
        /// The enumeration's name.
        what: &'static str,
        /// The value found.
        value: u32,
    },
    /// Bytes follow where the message should end.
    #[error("bytes follow the end of the message")]
    TrailingBytes,
}

/// A type with one XDR form.
pub trait Xdr: Sized {
    /// Takes one item off the decoder.
    fn decode(d: &mut Decoder) -> Result<Self, XdrError>;
    /// Appends the item.
    fn encode(&self, e: &mut Encoder);
}

/// Reads XDR items from the front of a buffer.
#[derive(Debug, Clone)]
pub struct Decoder {
    bytes: Bytes,
}

impl Decoder {
    /// A decoder at the start of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// The rest, as it is.
    pub fn into_rest(self) -> Bytes {
        self.bytes
    }

    /// One item of a type.
    pub fn get<T: Xdr>(&mut self) -> Result<T, XdrError> {
        T::decode(self)
    }

    /// One item that must be the last.
    pub fn last<T: Xdr>(mut self) -> Result<T, XdrError> {
        let item = T::decode(&mut self)?;
        if self.bytes.is_empty() {
            Ok(item)
        } else {
            Err(XdrError::TrailingBytes)
        }
    }

    /// An unsigned 32-bit integer.
    pub fn u32(&mut self) -> Result<u32, XdrError> {
        self.bytes.try_get_u32().map_err(|_| XdrError::Truncated)
    }

    /// An unsigned 64-bit integer ("unsigned hyper").
    pub fn u64(&mut self) -> Result<u64, XdrError> {
        self.bytes.try_get_u64().map_err(|_| XdrError::Truncated)
    }

    /// A boolean; any value but 0 and 1 is refused.
    pub fn bool(&mut self) -> Result<bool, XdrError> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(XdrError::BadEnum {
                what: "bool",
                value,
            }),
        }
    }

    /// Opaque data of a fixed length, padding skipped.
    pub fn opaque_fixed(&mut self, len: usize) -> Result<Bytes, XdrError> {
        let padded = len.checked_next_multiple_of(4).ok_or(XdrError::Truncated)?;
        if self.bytes.len() < padded {
            return Err(XdrError::Truncated);
        }
        let item = self.bytes.split_to(len);
        self.bytes.advance(padded - len);
        Ok(item)
    }

    /// Opaque data with a stated length of at most `max` bytes, as a slice of the input.
    pub fn opaque(&mut self, max: u32) -> Result<Bytes, XdrError> {
        let len = self.u32()?;
        if len > max {
            return Err(XdrError::TooLong { len, max });
        }
        self.opaque_fixed(len as usize)
    }

    /// A counted array of at most `max` items.
    pub fn array<T: Xdr>(&mut self, max: u32) -> Result<Vec<T>, XdrError> {
        let len = self.u32()?;
        if len > max {
            return Err(XdrError::TooLong { len, max });
        }
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(T::decode(self)?);
        }
        Ok(items)
    }
}

/// Collects an encoded message as segments: own bytes, shared payload, own bytes, ...
#[derive(Debug, Default)]
pub struct Encoder {
    done: Vec<Bytes>,
    buf: BytesMut,
    /// Bytes in `done`.
    done_len: usize,
}

impl Encoder {
    /// An empty encoder.
    pub fn new() -> Self {
        Self::with_capacity(256)
    }

    /// An empty encoder with room for `capacity` own bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            done: Vec::new(),
            buf: BytesMut::with_capacity(capacity),
            done_len: 0,
        }
    }

    /// Bytes encoded so far.
    pub fn len(&self) -> usize {
        self.done_len + self.buf.len()
    }

    /// Whether nothing has been encoded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends one item of a type.
    pub fn put<T: Xdr>(&mut self, item: &T) {
        item.encode(self);
    }

    /// An unsigned 32-bit integer.
    pub fn u32(&mut self, value: u32) {
        self.buf.put_u32(value);
    }

    /// An unsigned 64-bit integer.
    pub fn u64(&mut self, value: u64) {
        self.buf.put_u64(value);
    }

    /// Opaque data of a fixed length, padded.
    pub fn opaque_fixed(&mut self, data: &[u8]) {
        self.buf.put_slice(data);
        self.pad(data.len());
    }

    /// Opaque data with its length.
    pub fn opaque(&mut self, data: &[u8]) {
        self.u32(data.len() as u32);
        self.opaque_fixed(data);
    }

    /// Opaque data given in pieces; large pieces become segments of their own.
    pub fn payload(&mut self, pieces: &[Bytes]) {
        let len: usize = pieces.iter().map(Bytes::len).sum();
        self.u32(len as u32);
        for piece in pieces {
            if piece.len() < SEGMENT_MIN_BYTES {
                self.buf.put_slice(piece);
            } else {
                self.flush_buf();
                self.done_len += piece.len();
                self.done.push(piece.clone());
            }
        }
        self.pad(len);
    }

    /// Appends bytes that are XDR already.
    pub fn raw(&mut self, data: &[u8]) {
        self.buf.put_slice(data);
    }

    /// The message as segments, to be written one after the other.
    pub fn into_segments(mut self) -> Vec<Bytes> {
        self.flush_buf();
        self.done
    }

    /// The message as one piece; copies unless it is one segment.
    pub fn into_bytes(self) -> Bytes {
        let len = self.len();
        let mut segments = self.into_segments();
        if segments.len() == 1 {
            return segments.swap_remove(0);
        }
        let mut all = BytesMut::with_capacity(len);
        for segment in segments {
            all.put_slice(&segment);
        }
        all.freeze()
    }

    fn flush_buf(&mut self) {
        if !self.buf.is_empty() {
            self.done_len += self.buf.len();
            self.done.push(self.buf.split().freeze());
        }
    }

    fn pad(&mut self, len: usize) {
        self.buf.put_bytes(0, len.next_multiple_of(4) - len);
    }
}

impl Xdr for u32 {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        d.u32()
    }
    fn encode(&self, e: &mut Encoder) {
        e.u32(*self);
    }
}

impl Xdr for i32 {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        d.u32().map(u32::cast_signed)
    }
    fn encode(&self, e: &mut Encoder) {
        e.u32(self.cast_unsigned());
    }
}

impl Xdr for u64 {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        d.u64()
    }
    fn encode(&self, e: &mut Encoder) {
        e.u64(*self);
    }
}

impl Xdr for bool {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        d.bool()
    }
    fn encode(&self, e: &mut Encoder) {
        e.u32(u32::from(*self));
    }
}

impl Xdr for () {
    fn decode(_: &mut Decoder) -> Result<Self, XdrError> {
        Ok(())
    }
    fn encode(&self, _: &mut Encoder) {}
}

/// Optional data (RFC 4506 4.19); also the form of unions on a boolean with an empty FALSE arm.
impl<T: Xdr> Xdr for Option<T> {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        if d.bool()? {
            T::decode(d).map(Some)
        } else {
            Ok(None)
        }
    }
    fn encode(&self, e: &mut Encoder) {
        e.u32(u32::from(self.is_some()));
        if let Some(item) = self {
            item.encode(e);
        }
    }
}

/// Eight opaque bytes: verifiers and cookies' verifiers.
impl Xdr for [u8; 8] {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        d.u64().map(u64::to_be_bytes)
    }
    fn encode(&self, e: &mut Encoder) {
        e.opaque_fixed(self);
    }
}

/// A string or opaque of at most `MAX` bytes, kept as a slice of the input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Opaque<const MAX: u32>(pub Bytes);

impl<const MAX: u32> Opaque<MAX> {
    /// A copy of some bytes; the caller keeps to the limit.
    pub fn copy_of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Bytes::copy_from_slice(bytes.as_ref()))
    }
}

impl<const MAX: u32> Xdr for Opaque<MAX> {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        d.opaque(MAX).map(Self)
    }
    fn encode(&self, e: &mut Encoder) {
        e.opaque(&self.0);
    }
}

/// Bulk data of READ and WRITE: at most `MAX` bytes, in pieces when sent, one slice when received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload<const MAX: u32>(pub Vec<Bytes>);

impl<const MAX: u32> Payload<MAX> {
    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The only piece of received data.
    pub fn into_received(mut self) -> Bytes {
        self.0.pop().unwrap_or_default()
    }
}

impl<const MAX: u32> Xdr for Payload<MAX> {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        d.opaque(MAX).map(|data| Self(vec![data]))
    }
    fn encode(&self, e: &mut Encoder) {
        e.payload(&self.0);
    }
}
