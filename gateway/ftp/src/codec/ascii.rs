//! TYPE A: line ends between the network's form (CRLF) and the stored form (LF), streaming (RFC 959 3.1.1.1).

use bytes::{BufMut, BytesMut};

/// Stored form to network form: an LF that no CR precedes gets one.
#[derive(Debug, Default)]
pub struct ToNetwork {
    last_was_cr: bool,
}

impl ToNetwork {
    /// Appends the network form of `input` to `out`.
    pub fn convert(&mut self, input: &[u8], out: &mut BytesMut) {
        out.reserve(input.len() + input.len() / 16);
        for piece in input.split_inclusive(|&byte| byte == b'\n') {
            match piece.split_last() {
                Some((b'\n', head)) => {
                    let has_cr = head.last().map_or(self.last_was_cr, |&byte| byte == b'\r');
                    out.put_slice(head);
                    out.put_slice(if has_cr { b"\n" } else { b"\r\n" });
                    self.last_was_cr = false;
                }
                Some((&last, _)) => {
                    out.put_slice(piece);
                    self.last_was_cr = last == b'\r';
                }
                None => {}
            }
        }
    }
}

/// Network form to stored form: CRLF becomes LF; a CR or LF alone stays.
#[derive(Debug, Default)]
pub struct FromNetwork {
    held_cr: bool,
}

impl FromNetwork {
    /// Appends the stored form of `input` to `out`; a CR at the very end is held until what follows is known.
    pub fn convert(&mut self, input: &[u8], out: &mut BytesMut) {
        out.reserve(input.len() + 1);
        for piece in input.split_inclusive(|&byte| byte == b'\r') {
            if self.held_cr && piece.first() != Some(&b'\n') {
                out.put_u8(b'\r');
            }
            self.held_cr = piece.last() == Some(&b'\r');
            let body = piece.strip_suffix(b"\r").unwrap_or(piece);
            out.put_slice(body);
        }
    }

    /// Ends the stream: gives back a CR that is still held.
    pub fn finish(&mut self, out: &mut BytesMut) {
        if std::mem::take(&mut self.held_cr) {
            out.put_u8(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to_network(parts: &[&[u8]]) -> Vec<u8> {
        let (mut state, mut out) = (ToNetwork::default(), BytesMut::new());
        parts.iter().for_each(|part| state.convert(part, &mut out));
        out.to_vec()
    }

    fn from_network(parts: &[&[u8]]) -> Vec<u8> {
        let (mut state, mut out) = (FromNetwork::default(), BytesMut::new());
        parts.iter().for_each(|part| state.convert(part, &mut out));
        state.finish(&mut out);
        out.to_vec()
    }

    #[test]
    fn lf_becomes_crlf_and_crlf_is_not_doubled() {
        assert_eq!(to_network(&[b"a\nb\r", b"\nc\n"]), b"a\r\nb\r\nc\r\n");
    }

    #[test]
    fn crlf_becomes_lf_even_across_reads_and_lone_crs_stay() {
        assert_eq!(
            from_network(&[b"a\r", b"\nb\rc\r\r\n", b"\r"]),
            b"a\nb\rc\r\n\r"
        );
    }

    proptest! {
        #[test]
        fn text_without_cr_survives_the_round_trip(text in "[a-z\n]{0,100}", cut in 0usize..100) {
            let wire = to_network(&[text.as_bytes()]);
            let cut = cut.min(wire.len());
            prop_assert_eq!(from_network(&[&wire[..cut], &wire[cut..]]), text.into_bytes());
        }

        #[test]
        fn cutting_the_stream_changes_nothing(bytes in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'x')], 0..40), cut in 0usize..40) {
            let cut = cut.min(bytes.len());
            prop_assert_eq!(to_network(&[&bytes]), to_network(&[&bytes[..cut], &bytes[cut..]]));
            prop_assert_eq!(from_network(&[&bytes]), from_network(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
