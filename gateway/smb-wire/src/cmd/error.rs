//! The ERROR response (MS-SMB2 2.2.2).

use bytes::{BufMut, BytesMut};

/// Encodes an ERROR response body. With `contexts` (dialect 3.1.1) non-empty data is wrapped in one error
/// context of the default kind (MS-SMB2 2.2.2.1).
pub fn encode(data: &[u8], contexts: bool, out: &mut BytesMut) {
    let wrap = contexts && !data.is_empty();
    let len = data.len() + if wrap { 8 } else { 0 };
    out.put_u16_le(9);
    out.put_u8(u8::from(wrap));
    out.put_u8(0);
    out.put_u32_le(len as u32);
    if wrap {
        out.put_u32_le(data.len() as u32);
        out.put_u32_le(0);
    }
    if data.is_empty() {
        // The structure has at least one byte of ErrorData.
        out.put_u8(0);
    }
    out.put_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_error_has_one_byte_of_data_and_length_zero() {
        let mut out = BytesMut::new();
        encode(&[], true, &mut out);
        assert_eq!(&out[..], &[9, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn dialect_311_wraps_the_data_in_a_context() {
        let mut out = BytesMut::new();
        encode(&[0xaa, 0xbb, 0, 0], true, &mut out);
        assert_eq!(
            &out[..],
            &[
                9, 0, 1, 0, 12, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0xbb, 0, 0
            ]
        );
        out.clear();
        encode(&[0xaa, 0xbb, 0, 0], false, &mut out);
        assert_eq!(&out[..], &[9, 0, 0, 0, 4, 0, 0, 0, 0xaa, 0xbb, 0, 0]);
    }
}
