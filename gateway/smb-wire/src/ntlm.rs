//! NTLM messages (MS-NLMP 2.2.1), without any cryptography.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, slice_at, to_utf16le, utf16le_lossy};
use crate::error::{DecodeError, Result};

/// First eight bytes of every NTLM message.
pub const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
/// Where the MIC of an AUTHENTICATE message lies.
pub const MIC_RANGE: core::ops::Range<usize> = 72..88;

/// NegotiateFlags (MS-NLMP 2.2.2.5).
pub mod flag {
    /// Strings are UTF-16.
    pub const UNICODE: u32 = 0x0000_0001;
    /// The target name is wanted.
    pub const REQUEST_TARGET: u32 = 0x0000_0004;
    /// Messages can be signed.
    pub const SIGN: u32 = 0x0000_0010;
    /// Messages can be sealed.
    pub const SEAL: u32 = 0x0000_0020;
    /// NTLM authentication.
    pub const NTLM: u32 = 0x0000_0200;
    /// The client is anonymous.
    pub const ANONYMOUS: u32 = 0x0000_0800;
    /// A signature is always there.
    pub const ALWAYS_SIGN: u32 = 0x0000_8000;
    /// The target is a server.
    pub const TARGET_TYPE_SERVER: u32 = 0x0002_0000;
    /// NTLMv2 session security.
    pub const EXTENDED_SESSION_SECURITY: u32 = 0x0008_0000;
    /// The challenge has target information.
    pub const TARGET_INFO: u32 = 0x0080_0000;
    /// A version field is there.
    pub const VERSION: u32 = 0x0200_0000;
    /// 128-bit keys.
    pub const KEY_128: u32 = 0x2000_0000;
    /// The client sends a session key of its own choice.
    pub const KEY_EXCH: u32 = 0x4000_0000;
    /// 56-bit keys.
    pub const KEY_56: u32 = 0x8000_0000;
}

/// Ids of attribute-value pairs (MS-NLMP 2.2.2.1).
pub mod av {
    /// End of the list.
    pub const EOL: u16 = 0;
    /// NetBIOS computer name.
    pub const NB_COMPUTER: u16 = 1;
    /// NetBIOS domain name.
    pub const NB_DOMAIN: u16 = 2;
    /// DNS computer name.
    pub const DNS_COMPUTER: u16 = 3;
    /// DNS domain name.
    pub const DNS_DOMAIN: u16 = 4;
    /// Flags; bit [`FLAG_MIC`].
    pub const FLAGS: u16 = 6;
    /// FILETIME of the server.
    pub const TIMESTAMP: u16 = 7;
    /// In [`FLAGS`]: the AUTHENTICATE message carries a MIC.
    pub const FLAG_MIC: u32 = 2;
}

/// Most attribute-value pairs that are looked at.
const AV_PAIRS_MAX: usize = 64;
/// Longest user, domain or workstation name, in bytes.
const NAME_LIMIT_BYTES: usize = 1024;

/// The type of an NTLM message, or an error if `token` is none.
pub fn message_type(token: &Bytes) -> Result<u32> {
    let mut r = Reader::new(token);
    if &r.array::<8>()? != SIGNATURE {
        return Err(DecodeError::Protocol);
    }
    r.u32()
}

/// NegotiateFlags of a NEGOTIATE message.
pub fn decode_negotiate(token: &Bytes) -> Result<u32> {
    if message_type(token)? != 1 {
        return Err(DecodeError::Invalid("NTLM message type"));
    }
    Reader::at(token, 12).u32()
}

/// What the CHALLENGE message says.
#[derive(Debug, Clone, Copy)]
pub struct Challenge<'a> {
    /// Agreed flags.
    pub flags: u32,
    /// The server's random challenge.
    pub challenge: [u8; 8],
    /// Name of this server, as NetBIOS computer and domain name.
    pub netbios_name: &'a str,
    /// DNS name of this server.
    pub dns_name: &'a str,
    /// Now, as a FILETIME.
    pub timestamp: u64,
}

impl Challenge<'_> {
    /// The message. Its timestamp makes clients that can compute a MIC send one (MS-NLMP 3.1.5.1.2).
    pub fn encode(&self) -> Vec<u8> {
        const FIXED_LEN: u32 = 56;
        let target = to_utf16le(self.netbios_name);
        let info = self.target_info();
        let mut out = BytesMut::with_capacity(FIXED_LEN as usize + target.len() + info.len());
        out.put_slice(SIGNATURE);
        out.put_u32_le(2);
        put_field(&mut out, target.len(), FIXED_LEN);
        out.put_u32_le(self.flags);
        out.put_slice(&self.challenge);
        out.put_u64_le(0);
        put_field(&mut out, info.len(), FIXED_LEN + target.len() as u32);
        // Version 6.1 build 0, NTLM revision 15: the field is informative.
        out.put_slice(&[6, 1, 0, 0, 0, 0, 0, 15]);
        out.put_slice(&target);
        out.put_slice(&info);
        out.to_vec()
    }

    fn target_info(&self) -> BytesMut {
        let mut out = BytesMut::new();
        let names = [
            (av::NB_DOMAIN, self.netbios_name),
            (av::NB_COMPUTER, self.netbios_name),
            (av::DNS_DOMAIN, self.dns_name),
            (av::DNS_COMPUTER, self.dns_name),
        ];
        for (id, name) in names {
            let raw = to_utf16le(name);
            out.put_u16_le(id);
            out.put_u16_le(raw.len() as u16);
            out.put_slice(&raw);
        }
        out.put_u16_le(av::TIMESTAMP);
        out.put_u16_le(8);
        out.put_u64_le(self.timestamp);
        out.put_u32_le(0);
        out
    }
}

fn put_field(out: &mut BytesMut, len: usize, offset: u32) {
    out.put_u16_le(len as u16);
    out.put_u16_le(len as u16);
    out.put_u32_le(offset);
}

/// AUTHENTICATE message. Has no `Debug`: it holds what a password guesser needs.
#[derive(Clone)]
pub struct Authenticate {
    /// NtChallengeResponse.
    pub nt_response: Bytes,
    /// Domain name as the client spells it.
    pub domain: String,
    /// User name as the client spells it.
    pub user: String,
    /// Name of the client's machine.
    pub workstation: String,
    /// The session key encrypted with the key exchange key.
    pub encrypted_session_key: Bytes,
    /// Agreed flags.
    pub flags: u32,
    /// The MIC field, if the payload leaves room for it.
    pub mic: Option<[u8; 16]>,
}

impl Authenticate {
    /// Decodes an AUTHENTICATE message.
    pub fn decode(token: &Bytes) -> Result<Self> {
        if message_type(token)? != 3 {
            return Err(DecodeError::Invalid("NTLM message type"));
        }
        let mut r = Reader::at(token, 12);
        let fields = (0..6)
            .map(|_| field(&mut r))
            .collect::<Result<Vec<(usize, usize)>>>()?;
        let flags = r.u32()?;
        let payload_start = fields
            .iter()
            .filter(|(_, len)| *len > 0)
            .map(|(offset, _)| *offset)
            .min()
            .unwrap_or(token.len());
        let mic = if payload_start >= MIC_RANGE.end && token.len() >= MIC_RANGE.end {
            Some(Reader::at(token, MIC_RANGE.start).array()?)
        } else {
            None
        };
        let part = |index: usize| -> Result<Bytes> {
            let (offset, len) = fields.get(index).copied().unwrap_or_default();
            slice_at(token, offset, len)
        };
        Ok(Authenticate {
            nt_response: part(1)?,
            domain: name(&part(2)?, flags)?,
            user: name(&part(3)?, flags)?,
            workstation: name(&part(4)?, flags)?,
            encrypted_session_key: part(5)?,
            flags,
            mic,
        })
    }
}

fn field(r: &mut Reader<'_>) -> Result<(usize, usize)> {
    let len = usize::from(r.u16()?);
    r.skip(2)?;
    Ok((r.u32()? as usize, len))
}

fn name(raw: &[u8], flags: u32) -> Result<String> {
    if raw.len() > NAME_LIMIT_BYTES {
        return Err(DecodeError::TooLarge);
    }
    if flags & flag::UNICODE == 0 {
        return Ok(String::from_utf8_lossy(raw).into_owned());
    }
    utf16le_lossy(raw)
}

/// The parts of an NTLMv2 response (MS-NLMP 2.2.2.7, 2.2.2.8). Has no `Debug`.
#[derive(Clone)]
pub struct NtlmV2Response {
    /// NTProofStr.
    pub proof: [u8; 16],
    /// The client challenge structure, which the proof covers.
    pub blob: Bytes,
    /// Flags pair of the client's target information, 0 if absent.
    pub av_flags: u32,
}

impl NtlmV2Response {
    /// Decodes an NT response. A 24-byte response is NTLMv1 and refused with the rest that is too short.
    pub fn decode(response: &Bytes) -> Result<Self> {
        const BLOB_FIXED_LEN: usize = 28;
        let mut r = Reader::new(response);
        let proof = r.array()?;
        let blob = r.bytes(r.remaining())?;
        let mut r = Reader::new(&blob);
        if r.u8()? != 1 || r.u8()? != 1 {
            return Err(DecodeError::Invalid("NTLMv2 response version"));
        }
        let mut r = Reader::at(&blob, BLOB_FIXED_LEN);
        let mut av_flags = 0;
        for _ in 0..AV_PAIRS_MAX {
            let id = r.u16()?;
            let value = {
                let len = usize::from(r.u16()?);
                r.bytes(len)?
            };
            match id {
                av::EOL => break,
                av::FLAGS => av_flags = Reader::new(&value).u32()?,
                _ => {}
            }
        }
        Ok(NtlmV2Response {
            proof,
            blob,
            av_flags,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_challenge_states_names_and_time_in_its_target_info() {
        let raw = Challenge {
            flags: flag::UNICODE | flag::TARGET_INFO,
            challenge: *b"\x01\x23\x45\x67\x89\xab\xcd\xef",
            netbios_name: "GW",
            dns_name: "gw.example",
            timestamp: 0x1122_3344,
        }
        .encode();
        let raw = Bytes::from(raw);
        assert_eq!(message_type(&raw), Ok(2));
        assert_eq!(&raw[12..20], &[4, 0, 4, 0, 56, 0, 0, 0]);
        assert_eq!(&raw[56..60], b"G\0W\0");
        assert_eq!(&raw[60..68], &[2, 0, 4, 0, b'G', 0, b'W', 0]);
        assert_eq!(
            &raw[raw.len() - 16..],
            &[7, 0, 8, 0, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn an_authenticate_without_room_for_a_mic_has_none() {
        let mut out = BytesMut::new();
        out.put_slice(SIGNATURE);
        out.put_u32_le(3);
        for index in 0..6 {
            put_field(&mut out, if index == 3 { 2 } else { 0 }, 64);
        }
        out.put_u32_le(flag::UNICODE);
        out.put_slice(b"U\0");
        let m = Authenticate::decode(&out.freeze()).unwrap();
        assert_eq!(m.user, "U");
        assert!(m.mic.is_none() && m.nt_response.is_empty());
    }

    #[test]
    fn an_ntlmv1_response_is_no_v2_response() {
        assert!(NtlmV2Response::decode(&Bytes::from_static(&[0x55; 24])).is_err());
    }

    proptest! {
        #[test]
        fn decoders_never_panic(kind in 0u8..4, raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let token = Bytes::from([&SIGNATURE[..], &[kind, 0, 0, 0], &raw].concat());
            let _ = decode_negotiate(&token);
            let _ = Authenticate::decode(&token).map(drop);
            let _ = NtlmV2Response::decode(&Bytes::from(raw)).map(drop);
        }
    }
}
