//! SPNEGO tokens in DER (RFC 4178 4.2, MS-SPNG 2.2.1), as far as choosing NTLM needs.

use bytes::Bytes;

use crate::codec::Reader;
use crate::error::{DecodeError, Result};
use crate::ntlm;

/// OID 1.3.6.1.5.5.2 (SPNEGO), content bytes.
const OID_SPNEGO: &[u8] = &[0x2b, 6, 1, 5, 5, 2];
/// OID 1.3.6.1.4.1.311.2.2.10 (NTLMSSP), content bytes.
const OID_NTLM: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 2, 10];
/// Most mechanisms that a client may list.
const MECHANISMS_MAX: usize = 32;

const TAG_APPLICATION_0: u8 = 0x60;
const TAG_OID: u8 = 0x06;
const TAG_OCTETS: u8 = 0x04;
const TAG_ENUMERATED: u8 = 0x0a;
const TAG_SEQUENCE: u8 = 0x30;
const TAG_GENERAL_STRING: u8 = 0x1b;

/// The context-specific constructed tag `[n]`.
const fn tag(n: u8) -> u8 {
    0xa0 | n
}

/// A security token from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientToken {
    /// The first token of an exchange.
    Init(Init),
    /// A later token.
    Response {
        /// The mechanism's token.
        token: Option<Bytes>,
        /// Checksum over the mechanism list.
        mic: Option<Bytes>,
    },
    /// An NTLM message without SPNEGO around it.
    RawNtlm(Bytes),
}

/// NegTokenInit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Init {
    /// DER of the mechanism list, which the mechListMIC covers.
    pub mechanisms: Bytes,
    /// NTLM is in the list.
    pub offers_ntlm: bool,
    /// NTLM is the first of the list, so that `token` is for it.
    pub prefers_ntlm: bool,
    /// The optimistic token of the first mechanism.
    pub token: Option<Bytes>,
}

/// Reads one element; returns its tag and content.
fn element(r: &mut Reader<'_>) -> Result<(u8, Bytes)> {
    let tag = r.u8()?;
    let first = r.u8()?;
    let len = match first {
        0..=0x7f => usize::from(first),
        0x81 => usize::from(r.u8()?),
        0x82 => usize::from(u16::from_be_bytes(r.array()?)),
        _ => return Err(DecodeError::TooLarge),
    };
    Ok((tag, r.bytes(len)?))
}

/// Reads one element that must have `want` as its tag.
fn expect(data: &Bytes, want: u8) -> Result<Bytes> {
    match element(&mut Reader::new(data))? {
        (tag, content) if tag == want => Ok(content),
        _ => Err(DecodeError::Invalid("DER tag")),
    }
}

/// Decodes a token of a SESSION_SETUP request.
pub fn decode(token: &Bytes) -> Result<ClientToken> {
    if token.starts_with(ntlm::SIGNATURE) {
        return Ok(ClientToken::RawNtlm(token.clone()));
    }
    let (outer, content) = element(&mut Reader::new(token))?;
    match outer {
        TAG_APPLICATION_0 => {
            let mut r = Reader::new(&content);
            let (oid_tag, oid) = element(&mut r)?;
            if oid_tag != TAG_OID || oid != OID_SPNEGO {
                return Err(DecodeError::Protocol);
            }
            let rest = r.bytes(r.remaining())?;
            decode_init(&expect(&rest, tag(0))?).map(ClientToken::Init)
        }
        t if t == tag(1) => decode_response(&content),
        _ => Err(DecodeError::Protocol),
    }
}

fn decode_init(data: &Bytes) -> Result<Init> {
    let fields = expect(data, TAG_SEQUENCE)?;
    let mut r = Reader::new(&fields);
    let mut mechanisms = None;
    let mut token = None;
    while r.remaining() > 0 {
        match element(&mut r)? {
            (t, content) if t == tag(0) => mechanisms = Some(content),
            (t, content) if t == tag(2) => token = Some(expect(&content, TAG_OCTETS)?),
            _ => {}
        }
    }
    let mechanisms = mechanisms.ok_or(DecodeError::Invalid("no mechanism list"))?;
    let list = expect(&mechanisms, TAG_SEQUENCE)?;
    let mut r = Reader::new(&list);
    let (mut offers_ntlm, mut prefers_ntlm, mut count) = (false, false, 0);
    while r.remaining() > 0 {
        let (t, oid) = element(&mut r)?;
        if t == TAG_OID && oid == OID_NTLM {
            offers_ntlm = true;
            prefers_ntlm |= count == 0;
        }
        count += 1;
        if count > MECHANISMS_MAX {
            return Err(DecodeError::TooLarge);
        }
    }
    Ok(Init {
        mechanisms,
        offers_ntlm,
        prefers_ntlm,
        token,
    })
}

fn decode_response(data: &Bytes) -> Result<ClientToken> {
    let fields = expect(data, TAG_SEQUENCE)?;
    let mut r = Reader::new(&fields);
    let (mut token, mut mic) = (None, None);
    while r.remaining() > 0 {
        match element(&mut r)? {
            (t, content) if t == tag(2) => token = Some(expect(&content, TAG_OCTETS)?),
            (t, content) if t == tag(3) => mic = Some(expect(&content, TAG_OCTETS)?),
            _ => {}
        }
    }
    Ok(ClientToken::Response { token, mic })
}

/// How far the negotiation is (negState).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NegState {
    /// Authentication succeeded.
    AcceptCompleted = 0,
    /// Another token is needed.
    AcceptIncomplete = 1,
    /// Another mechanism was chosen; the client must protect the list with a MIC.
    RequestMic = 3,
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        len @ 0..=0x7f => out.push(len as u8),
        len @ 0x80..=0xff => out.extend([0x81, len as u8]),
        len => {
            out.push(0x82);
            out.extend((len as u16).to_be_bytes());
        }
    }
    out.extend(content);
    out
}

/// The server's hint in the NEGOTIATE response: NegTokenInit2 that offers NTLM.
pub fn encode_hint() -> Vec<u8> {
    let mechanisms = wrap(tag(0), &wrap(TAG_SEQUENCE, &wrap(TAG_OID, OID_NTLM)));
    // The text that MS-SPNG 3.2.5.2 prescribes as hint name.
    let name = wrap(TAG_GENERAL_STRING, b"not_defined_in_RFC4178@please_ignore");
    let hints = wrap(tag(3), &wrap(TAG_SEQUENCE, &wrap(tag(0), &name)));
    let init = wrap(TAG_SEQUENCE, &[mechanisms, hints].concat());
    let mut body = wrap(TAG_OID, OID_SPNEGO);
    body.extend(wrap(tag(0), &init));
    wrap(TAG_APPLICATION_0, &body)
}

/// A NegTokenResp. `choose` states NTLM as the chosen mechanism, as the first answer must.
pub fn encode_response(
    state: NegState,
    choose: bool,
    token: Option<&[u8]>,
    mic: Option<&[u8]>,
) -> Vec<u8> {
    let mut fields = wrap(tag(0), &wrap(TAG_ENUMERATED, &[state as u8]));
    if choose {
        fields.extend(wrap(tag(1), &wrap(TAG_OID, OID_NTLM)));
    }
    if let Some(token) = token {
        fields.extend(wrap(tag(2), &wrap(TAG_OCTETS, token)));
    }
    if let Some(mic) = mic {
        fields.extend(wrap(tag(3), &wrap(TAG_OCTETS, mic)));
    }
    wrap(tag(1), &wrap(TAG_SEQUENCE, &fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client_init(oids: &[&[u8]], token: &[u8]) -> Bytes {
        let list: Vec<u8> = oids.iter().flat_map(|o| wrap(TAG_OID, o)).collect();
        let mut fields = wrap(tag(0), &wrap(TAG_SEQUENCE, &list));
        fields.extend(wrap(tag(2), &wrap(TAG_OCTETS, token)));
        let mut body = wrap(TAG_OID, OID_SPNEGO);
        body.extend(wrap(tag(0), &wrap(TAG_SEQUENCE, &fields)));
        wrap(TAG_APPLICATION_0, &body).into()
    }

    #[test]
    fn an_init_token_tells_whether_ntlm_is_offered_and_first() {
        let krb = &[0x2a, 0x86, 0x48, 0x82, 0xf7, 0x12, 1, 2, 2][..];
        let ClientToken::Init(init) = decode(&client_init(&[OID_NTLM], b"t1")).unwrap() else {
            panic!("not an init token");
        };
        assert!(init.offers_ntlm && init.prefers_ntlm);
        assert_eq!(init.token.unwrap(), "t1");
        assert_eq!(init.mechanisms[0], TAG_SEQUENCE);
        let ClientToken::Init(init) = decode(&client_init(&[krb, OID_NTLM], b"t1")).unwrap() else {
            panic!("not an init token");
        };
        assert!(init.offers_ntlm && !init.prefers_ntlm);
    }

    #[test]
    fn a_response_with_a_long_token_round_trips() {
        let long = vec![0x5a; 300];
        let der = encode_response(NegState::AcceptIncomplete, true, Some(&long), Some(b"mic"));
        let decoded = decode(&der.into()).unwrap();
        assert_eq!(
            decoded,
            ClientToken::Response {
                token: Some(long.into()),
                mic: Some(Bytes::from_static(b"mic"))
            }
        );
    }

    #[test]
    fn a_raw_ntlm_message_is_recognised() {
        let raw = Bytes::from_static(b"NTLMSSP\0\x01\0\0\0");
        assert_eq!(decode(&raw), Ok(ClientToken::RawNtlm(raw.clone())));
    }

    #[test]
    fn the_hint_is_one_der_element_that_names_ntlm() {
        let hint = Bytes::from(encode_hint());
        let mut r = Reader::new(&hint);
        element(&mut r).unwrap();
        assert_eq!(r.remaining(), 0);
        assert!(hint.windows(OID_NTLM.len()).any(|w| w == OID_NTLM));
    }

    proptest! {
        #[test]
        fn decoder_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&Bytes::from(raw));
        }

        #[test]
        fn decoder_never_panics_on_a_damaged_token(at in 0usize..70, byte: u8) {
            let mut raw = client_init(&[OID_NTLM], b"token").to_vec();
            if let Some(b) = raw.get_mut(at) {
                *b = byte;
            }
            let _ = decode(&Bytes::from(raw));
        }
    }
}
