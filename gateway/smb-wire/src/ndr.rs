//! DCE/RPC protocol data units over named pipes and the NDR 2.0 transfer syntax (C706, MS-RPCE).
//!
//! Owns PDU headers, bind answers, faults, and an NDR writer and reader. Interfaces live in the head.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, pad_to, patch_u32, slice_at};
use crate::error::{DecodeError, Result};

/// Largest fragment that either side sends, in bytes.
pub const MAX_FRAGMENT: u16 = 4280;
/// PDU type request.
pub const REQUEST: u8 = 0;
/// PDU type response.
pub const RESPONSE: u8 = 2;
/// PDU type fault.
pub const FAULT: u8 = 3;
/// PDU type bind.
pub const BIND: u8 = 11;
/// PDU type bind acknowledgment.
pub const BIND_ACK: u8 = 12;
/// PDU type alter context.
pub const ALTER_CONTEXT: u8 = 14;
/// PDU type alter context response.
pub const ALTER_CONTEXT_RESP: u8 = 15;
/// nca_s_op_rng_error: no such operation.
pub const FAULT_OP_RANGE: u32 = 0x1C01_0002;
/// nca_s_unk_if: no such interface.
pub const FAULT_UNKNOWN_INTERFACE: u32 = 0x1C01_0003;
/// nca_s_fault_ndr: the arguments can't be read.
pub const FAULT_NDR: u32 = 0x0000_06F7;

/// PFC_FIRST_FRAG.
pub const FIRST_FRAG: u8 = 0x01;
/// PFC_LAST_FRAG.
pub const LAST_FRAG: u8 = 0x02;

const HEADER_LEN: usize = 16;
/// The 32-bit transfer syntax, 8a885d04-1ceb-11c9-9fe8-08002b104860 version 2.
const NDR32: [u8; 20] = [
    0x04, 0x5D, 0x88, 0x8A, 0xEB, 0x1C, 0xC9, 0x11, 0x9F, 0xE8, 0x08, 0x00, 0x2B, 0x10, 0x48, 0x60,
    2, 0, 0, 0,
];

/// The common header of a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PduHeader {
    /// PDU type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Length of this fragment in bytes.
    pub frag_len: u16,
    /// Length of the authentication trailer, which must be zero here.
    pub auth_len: u16,
    /// Call id.
    pub call_id: u32,
}

impl PduHeader {
    /// Decodes the 16 bytes at the start of a fragment; only little-endian version 5 is taken.
    pub fn decode(pdu: &Bytes) -> Result<Self> {
        let mut r = Reader::new(pdu);
        if r.u8()? != 5 {
            return Err(DecodeError::Protocol);
        }
        r.skip(1)?;
        let kind = r.u8()?;
        let flags = r.u8()?;
        if r.u32()? & 0xFF != 0x10 {
            return Err(DecodeError::Invalid("the data representation"));
        }
        let frag_len = r.u16()?;
        let auth_len = r.u16()?;
        if usize::from(frag_len) < HEADER_LEN {
            return Err(DecodeError::Invalid("the fragment length"));
        }
        Ok(Self {
            kind,
            flags,
            frag_len,
            auth_len,
            call_id: r.u32()?,
        })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&[5, 0, self.kind, self.flags, 0x10, 0, 0, 0]);
        out.put_u16_le(self.frag_len);
        out.put_u16_le(0);
        out.put_u32_le(self.call_id);
    }
}

/// One presentation context of a bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindContext {
    /// Context id.
    pub id: u16,
    /// UUID of the interface, as on the wire.
    pub interface: [u8; 16],
    /// The interface's major version.
    pub version: u16,
    /// The client offers NDR32.
    pub ndr32: bool,
}

/// Decodes the contexts of a bind or alter context PDU.
pub fn decode_bind(pdu: &Bytes) -> Result<Vec<BindContext>> {
    let mut r = Reader::at(pdu, HEADER_LEN + 8);
    let count = usize::from(r.u8()?);
    r.skip(3)?;
    let mut out = Vec::new();
    for _ in 0..count {
        let id = r.u16()?;
        let syntaxes = usize::from(r.u8()?);
        r.skip(1)?;
        let interface = r.array()?;
        let version = r.u16()?;
        r.skip(2)?;
        let mut ndr32 = false;
        for _ in 0..syntaxes {
            ndr32 |= r.array::<20>()? == NDR32;
        }
        out.push(BindContext {
            id,
            interface,
            version,
            ndr32,
        });
    }
    Ok(out)
}

/// A bind_ack (or alter_context_resp): for each context whether it is accepted.
pub fn encode_bind_ack(
    kind: u8,
    call_id: u32,
    group: u32,
    pipe: &str,
    accepted: &[bool],
) -> BytesMut {
    let mut out = BytesMut::with_capacity(96);
    out.put_bytes(0, HEADER_LEN);
    out.put_u16_le(MAX_FRAGMENT);
    out.put_u16_le(MAX_FRAGMENT);
    out.put_u32_le(group);
    out.put_u16_le(pipe.len() as u16 + 1);
    out.put_slice(pipe.as_bytes());
    out.put_u8(0);
    pad_to(&mut out, 4);
    out.put_u32_le(accepted.len() as u32);
    for ok in accepted {
        if *ok {
            out.put_u32_le(0);
            out.put_slice(&NDR32);
        } else {
            // Provider rejection; the proposed transfer syntaxes or the interface are not supported.
            out.put_u16_le(2);
            out.put_u16_le(1);
            out.put_bytes(0, 20);
        }
    }
    finish_pdu(out, kind, FIRST_FRAG | LAST_FRAG, call_id)
}

/// A fault PDU.
pub fn encode_fault(call_id: u32, context: u16, status: u32) -> BytesMut {
    let mut out = BytesMut::with_capacity(32);
    out.put_bytes(0, HEADER_LEN);
    out.put_u32_le(0);
    out.put_u16_le(context);
    out.put_u16_le(0);
    out.put_u32_le(status);
    out.put_u32_le(0);
    finish_pdu(out, FAULT, FIRST_FRAG | LAST_FRAG, call_id)
}

/// A response, cut into fragments of at most `max_fragment` bytes.
pub fn encode_response(call_id: u32, context: u16, stub: &[u8], max_fragment: u16) -> BytesMut {
    let room = usize::from(max_fragment).clamp(1024, usize::from(MAX_FRAGMENT)) - HEADER_LEN - 8;
    let parts: Vec<&[u8]> = if stub.is_empty() {
        vec![stub]
    } else {
        stub.chunks(room & !7).collect()
    };
    let mut all = BytesMut::with_capacity(stub.len() + parts.len() * 24);
    let mut left = stub.len();
    for (i, part) in parts.iter().enumerate() {
        let mut out = BytesMut::with_capacity(part.len() + 24);
        out.put_bytes(0, HEADER_LEN);
        out.put_u32_le(left as u32);
        out.put_u16_le(context);
        out.put_u16_le(0);
        out.put_slice(part);
        left -= part.len();
        let first = if i == 0 { FIRST_FRAG } else { 0 };
        let last = if i + 1 == parts.len() { LAST_FRAG } else { 0 };
        all.unsplit(finish_pdu(out, RESPONSE, first | last, call_id));
    }
    all
}

fn finish_pdu(mut out: BytesMut, kind: u8, flags: u8, call_id: u32) -> BytesMut {
    let header = PduHeader {
        kind,
        flags,
        frag_len: out.len() as u16,
        auth_len: 0,
        call_id,
    };
    let mut head = BytesMut::with_capacity(HEADER_LEN);
    header.encode(&mut head);
    out[..HEADER_LEN].copy_from_slice(&head);
    out
}

/// A request fragment: context, operation and its part of the arguments.
#[derive(Clone, Debug)]
pub struct RequestPdu {
    /// Presentation context.
    pub context: u16,
    /// Operation number.
    pub opnum: u16,
    /// Arguments.
    pub stub: Bytes,
}

/// Decodes a request fragment.
pub fn decode_request(pdu: &Bytes, header: &PduHeader) -> Result<RequestPdu> {
    const OBJECT_UUID: u8 = 0x80;
    let mut r = Reader::at(pdu, HEADER_LEN + 4);
    let context = r.u16()?;
    let opnum = r.u16()?;
    if header.flags & OBJECT_UUID != 0 {
        r.skip(16)?;
    }
    let trailer = if header.auth_len == 0 {
        0
    } else {
        usize::from(header.auth_len) + 8
    };
    let end = usize::from(header.frag_len)
        .checked_sub(trailer)
        .ok_or(DecodeError::Truncated)?;
    let len = end.checked_sub(r.pos()).ok_or(DecodeError::Truncated)?;
    Ok(RequestPdu {
        context,
        opnum,
        stub: slice_at(pdu, r.pos(), len)?,
    })
}

/// Reads NDR arguments, aligning as the transfer syntax demands.
#[derive(Debug)]
pub struct NdrReader<'a> {
    inner: Reader<'a>,
}

impl<'a> NdrReader<'a> {
    /// Reads a request's stub.
    pub fn new(stub: &'a Bytes) -> Self {
        Self {
            inner: Reader::new(stub),
        }
    }

    fn align(&mut self, to: usize) -> Result<()> {
        let pos = self.inner.pos();
        self.inner.skip(pos.next_multiple_of(to) - pos)
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Result<u32> {
        self.align(4)?;
        self.inner.u32()
    }

    /// A conformant varying wide string.
    pub fn wide_string(&mut self) -> Result<String> {
        self.u32()?;
        let offset = self.u32()?;
        let count = self.u32()? as usize;
        if offset != 0 || count > 0x4000 {
            return Err(DecodeError::TooLarge);
        }
        let raw = self.inner.bytes(count * 2)?;
        let text = crate::codec::utf16le_lossy(&raw)?;
        Ok(text.trim_end_matches('\0').to_owned())
    }

    /// A unique pointer to a wide string.
    pub fn unique_string(&mut self) -> Result<Option<String>> {
        if self.u32()? == 0 {
            Ok(None)
        } else {
            self.wide_string().map(Some)
        }
    }
}

/// Writes NDR results; referents of pointers are appended by the caller in the order of the pointers.
#[derive(Debug, Default)]
pub struct NdrWriter {
    out: BytesMut,
    referents: u32,
}

impl NdrWriter {
    /// A 32-bit number.
    pub fn u32(&mut self, value: u32) {
        pad_to(&mut self.out, 4);
        self.out.put_u32_le(value);
    }

    /// A non-null unique pointer.
    pub fn pointer(&mut self) {
        self.referents += 1;
        let id = 0x0002_0000 + self.referents * 4;
        self.u32(id);
    }

    /// A conformant varying wide string with its terminator.
    pub fn wide_string(&mut self, text: &str) {
        let count = text.encode_utf16().count() as u32 + 1;
        self.u32(count);
        self.u32(0);
        self.u32(count);
        crate::codec::put_utf16le(&mut self.out, text);
        self.out.put_u16_le(0);
    }

    /// Position of the next byte, for [`NdrWriter::patch_u32`].
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Overwrites a number written before.
    pub fn patch_u32(&mut self, at: usize, value: u32) {
        patch_u32(&mut self.out, at, value);
    }

    /// The finished stub.
    pub fn finish(self) -> BytesMut {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_response_is_cut_into_linked_fragments() {
        let all = encode_response(9, 0, &[1; 10_000], MAX_FRAGMENT).freeze();
        let first = PduHeader::decode(&all).unwrap();
        assert_eq!(
            (first.kind, first.flags, first.call_id),
            (RESPONSE, FIRST_FRAG, 9)
        );
        let second = PduHeader::decode(&all.slice(usize::from(first.frag_len)..)).unwrap();
        assert_eq!(second.flags, 0);
    }

    #[test]
    fn strings_survive_the_round_trip() {
        let mut w = NdrWriter::default();
        w.pointer();
        w.wide_string("docs");
        w.u32(7);
        let stub = w.finish().freeze();
        let mut r = NdrReader::new(&stub);
        assert_eq!(r.unique_string().unwrap().as_deref(), Some("docs"));
        assert_eq!(r.u32().unwrap(), 7);
    }

    proptest! {
        #[test]
        fn decoders_never_panic(raw in prop::collection::vec(any::<u8>(), 0..120)) {
            let raw = Bytes::from(raw);
            if let Ok(header) = PduHeader::decode(&raw) {
                let _ = decode_request(&raw, &header);
            }
            let _ = decode_bind(&raw);
            let _ = NdrReader::new(&raw).unique_string();
        }
    }
}
