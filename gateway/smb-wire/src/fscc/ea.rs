//! Extended attribute lists (MS-FSCC 2.4.15, 2.4.15.1).

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, pad_to, patch_u32, slice_at};
use crate::error::{DecodeError, Result};

/// FILE_NEED_EA: a client that does not understand the attribute must not open the file.
pub const NEED_EA: u8 = 0x80;

/// Most attributes of one list.
const MAX_EAS: usize = 4096;

/// One attribute; an empty value in a SET removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ea {
    /// Flags.
    pub flags: u8,
    /// Name, 8-bit characters.
    pub name: String,
    /// Value.
    pub value: Bytes,
}

/// Decodes FILE_FULL_EA_INFORMATION.
pub fn decode_full(list: &Bytes) -> Result<Vec<Ea>> {
    let mut out = Vec::new();
    let mut at = 0usize;
    while !list.is_empty() {
        if out.len() == MAX_EAS {
            return Err(DecodeError::TooLarge);
        }
        let mut r = Reader::at(list, at);
        let next = r.u32()? as usize;
        let flags = r.u8()?;
        let name_len = usize::from(r.u8()?);
        let value_len = usize::from(r.u16()?);
        let name = text(&r.bytes(name_len)?)?;
        r.skip(1)?;
        let value = slice_at(list, r.pos(), value_len)?;
        out.push(Ea { flags, name, value });
        if next == 0 {
            break;
        }
        if next < 9 + name_len + value_len {
            return Err(DecodeError::Invalid("NextEntryOffset of an EA"));
        }
        at += next;
    }
    Ok(out)
}

/// Decodes FILE_GET_EA_INFORMATION: the names that a query asks for.
pub fn decode_names(list: &Bytes) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut at = 0usize;
    while !list.is_empty() {
        if out.len() == MAX_EAS {
            return Err(DecodeError::TooLarge);
        }
        let mut r = Reader::at(list, at);
        let next = r.u32()? as usize;
        let len = usize::from(r.u8()?);
        out.push(text(&r.bytes(len)?)?);
        if next == 0 {
            break;
        }
        if next < 5 + len {
            return Err(DecodeError::Invalid("NextEntryOffset of an EA name"));
        }
        at += next;
    }
    Ok(out)
}

fn text(raw: &[u8]) -> Result<String> {
    String::from_utf8(raw.to_vec()).map_err(|_| DecodeError::Invalid("the name of an EA"))
}

/// Length that one attribute takes in a list, in bytes, without padding.
pub fn encoded_len(name: &str, value_len: usize) -> usize {
    9 + name.len() + value_len
}

/// Encodes a list. Names are at most 255 and values at most 65535 bytes long; longer ones are left out.
pub fn encode_full<'a>(eas: impl Iterator<Item = (&'a str, &'a [u8])>) -> BytesMut {
    let mut out = BytesMut::new();
    let mut last = 0;
    for (name, value) in eas {
        let (Ok(name_len), Ok(value_len)) = (u8::try_from(name.len()), u16::try_from(value.len()))
        else {
            continue;
        };
        pad_to(&mut out, 4);
        let start = out.len();
        if start != 0 {
            patch_u32(&mut out, last, (start - last) as u32);
        }
        last = start;
        out.put_u32_le(0);
        out.put_u8(0);
        out.put_u8(name_len);
        out.put_u16_le(value_len);
        out.put_slice(name.as_bytes());
        out.put_u8(0);
        out.put_slice(value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_survives_the_round_trip() {
        let list = encode_full([("A", &b"1"[..]), ("LONGER", b""), ("C", b"xyz")].into_iter());
        let back = decode_full(&list.freeze()).unwrap();
        assert_eq!(back.len(), 3);
        assert_eq!(
            (back[2].name.as_str(), &back[2].value[..]),
            ("C", &b"xyz"[..])
        );
    }

    #[test]
    fn a_list_that_loops_is_refused() {
        let raw = Bytes::from_static(&[4, 0, 0, 0, 0, 1, 0, 0, b'A', 0, 0, 0]);
        assert!(decode_full(&raw).is_err());
    }

    proptest! {
        #[test]
        fn decoders_never_panic(raw in prop::collection::vec(any::<u8>(), 0..120)) {
            let raw = Bytes::from(raw);
            let _ = decode_full(&raw);
            let _ = decode_names(&raw);
        }
    }
}
