//! The NTLMv2 acceptor (MS-NLMP 3.2.5, 3.3.2): proof checked in constant time, MIC checked whenever the proof
//! says that there is one, NTLMv1, anonymous and guest refused.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use md5::{Digest, Md5};
use rc4::{KeyInit, Rc4, StreamCipher};
use sluice_smb_wire::codec::to_utf16le;
use sluice_smb_wire::ntlm::{Authenticate, Challenge, MIC_RANGE, NtlmV2Response, av, flag};

/// HMAC-MD5 (RFC 2104) over `parts`.
pub fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..16].copy_from_slice(&Md5::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut inner = Md5::new();
    inner.update(block.map(|b| b ^ 0x36));
    parts.iter().for_each(|part| inner.update(part));
    let mut outer = Md5::new();
    outer.update(block.map(|b| b ^ 0x5c));
    outer.update(inner.finalize());
    outer.finalize().into()
}

/// RC4 over `data` from the start of the key stream.
fn rc4<const N: usize>(key: &[u8; 16], mut data: [u8; N]) -> [u8; N] {
    if let Ok(mut stream) = Rc4::new_from_slice(key) {
        stream.apply_keystream(&mut data);
    }
    data
}

/// Upper case as NTLM wants it: one character for one.
fn upper(name: &str) -> String {
    name.chars()
        .map(|c| {
            let mut mapped = c.to_uppercase();
            match (mapped.next(), mapped.next()) {
                (Some(one), None) => one,
                _ => c,
            }
        })
        .collect()
}

/// NTOWFv2 (MS-NLMP 3.3.2): user and domain as the client spells them.
pub fn ntowf_v2(nt_hash: &[u8; 16], user: &str, domain: &str) -> [u8; 16] {
    hmac_md5(nt_hash, &[&to_utf16le(&upper(user)), &to_utf16le(domain)])
}

/// The flags of the CHALLENGE: what the client asked for and this server can do, plus what it insists on.
pub fn challenge_flags(client: u32) -> u32 {
    const ECHOED: u32 = flag::SIGN
        | flag::SEAL
        | flag::KEY_128
        | flag::KEY_56
        | flag::KEY_EXCH
        | flag::REQUEST_TARGET;
    const ALWAYS: u32 = flag::UNICODE
        | flag::NTLM
        | flag::ALWAYS_SIGN
        | flag::EXTENDED_SESSION_SECURITY
        | flag::TARGET_INFO
        | flag::TARGET_TYPE_SERVER
        | flag::VERSION;
    ALWAYS | client & ECHOED
}

/// The messages of one exchange so far.
pub struct Exchange {
    /// The NEGOTIATE message as received.
    pub negotiate: Vec<u8>,
    /// The CHALLENGE message as sent.
    pub challenge_message: Vec<u8>,
    /// The challenge in it.
    pub challenge: [u8; 8],
}

impl Exchange {
    /// Answers a NEGOTIATE message.
    pub fn begin(negotiate: &[u8], challenge: &Challenge<'_>) -> Exchange {
        Exchange {
            negotiate: negotiate.to_vec(),
            challenge_message: challenge.encode(),
            challenge: challenge.challenge,
        }
    }

    /// Checks an AUTHENTICATE message (`raw` is its bytes) against the user's NT hash. Returns the exported
    /// session key; `None` says that the password is wrong or the message was tampered with.
    pub fn verify(
        &self,
        raw: &[u8],
        message: &Authenticate,
        nt_hash: &[u8; 16],
    ) -> Option<[u8; 16]> {
        let response = NtlmV2Response::decode(&message.nt_response).ok()?;
        let key = ntowf_v2(nt_hash, &message.user, &message.domain);
        let proof = hmac_md5(&key, &[&self.challenge, &response.blob]);
        verify_slices_are_equal(&proof, &response.proof).ok()?;
        let base_key = hmac_md5(&key, &[&proof]);
        let session_key = if message.flags & flag::KEY_EXCH != 0 {
            rc4(
                &base_key,
                message.encrypted_session_key[..].try_into().ok()?,
            )
        } else {
            base_key
        };
        // The flags pair lies under the proof, so nobody on the way can take the MIC away.
        if response.av_flags & av::FLAG_MIC != 0 {
            let expected = self.mic(raw, &session_key)?;
            verify_slices_are_equal(&expected, &message.mic?).ok()?;
        }
        Some(session_key)
    }

    /// The MIC over the three messages, the last with its MIC field as zeros (MS-NLMP 3.1.5.1.2).
    fn mic(&self, authenticate: &[u8], session_key: &[u8; 16]) -> Option<[u8; 16]> {
        let before = authenticate.get(..MIC_RANGE.start)?;
        let after = authenticate.get(MIC_RANGE.end..)?;
        Some(hmac_md5(
            session_key,
            &[
                &self.negotiate,
                &self.challenge_message,
                before,
                &[0; 16],
                after,
            ],
        ))
    }
}

/// Which end signs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    ClientToServer,
    /// Server to client.
    ServerToClient,
}

/// GSS_GetMIC of NTLM for the first message of a direction (MS-NLMP 3.4.4.2), as SPNEGO needs it for its
/// mechanism list.
pub fn list_mic(session_key: &[u8; 16], flags: u32, direction: Direction, list: &[u8]) -> [u8; 16] {
    let (sign_magic, seal_magic): (&[u8], &[u8]) = match direction {
        Direction::ClientToServer => (
            b"session key to client-to-server signing key magic constant\0",
            b"session key to client-to-server sealing key magic constant\0",
        ),
        Direction::ServerToClient => (
            b"session key to server-to-client signing key magic constant\0",
            b"session key to server-to-client sealing key magic constant\0",
        ),
    };
    let md5 = |key: &[u8], magic: &[u8]| -> [u8; 16] {
        Md5::new()
            .chain_update(key)
            .chain_update(magic)
            .finalize()
            .into()
    };
    let sign_key = md5(session_key, sign_magic);
    let sealing_part = if flags & flag::KEY_128 != 0 {
        &session_key[..]
    } else if flags & flag::KEY_56 != 0 {
        &session_key[..7]
    } else {
        &session_key[..5]
    };
    let sequence = 0u32.to_le_bytes();
    let full = hmac_md5(&sign_key, &[&sequence, list]);
    let mut checksum = [0; 8];
    checksum.copy_from_slice(&full[..8]);
    if flags & flag::KEY_EXCH != 0 {
        checksum = rc4(&md5(sealing_part, seal_magic), checksum);
    }
    let mut mic = [0; 16];
    mic[..4].copy_from_slice(&1u32.to_le_bytes());
    mic[4..12].copy_from_slice(&checksum);
    mic
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, Bytes, BytesMut};
    use md4::Md4;

    /// The common values of MS-NLMP 4.2.1.
    const USER: &str = "User";
    const DOMAIN: &str = "Domain";
    const SERVER_CHALLENGE: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];

    fn nt_hash(password: &str) -> [u8; 16] {
        Md4::digest(to_utf16le(password)).into()
    }

    /// The client challenge structure of MS-NLMP 4.2.4.1.3: time 0, client challenge aa x 8, two names.
    fn published_blob() -> Vec<u8> {
        let mut blob = vec![1, 1, 0, 0, 0, 0, 0, 0];
        blob.extend([0; 8]);
        blob.extend([0xaa; 8]);
        blob.extend([0; 4]);
        for (id, name) in [(2u16, "Domain"), (1, "Server")] {
            blob.extend(id.to_le_bytes());
            blob.extend((name.len() as u16 * 2).to_le_bytes());
            blob.extend(to_utf16le(name));
        }
        blob.extend([0; 8]);
        blob
    }

    #[test]
    fn ntowf_v2_matches_ms_nlmp_4_2_4_1_1() {
        assert_eq!(
            ntowf_v2(&nt_hash("Password"), USER, DOMAIN),
            [
                0x0c, 0x86, 0x8a, 0x40, 0x3b, 0xfd, 0x7a, 0x93, 0xa3, 0x00, 0x1e, 0xf2, 0x2e, 0xf0,
                0x2e, 0x3f
            ]
        );
    }

    #[test]
    fn proof_and_session_base_key_match_ms_nlmp_4_2_4() {
        let key = ntowf_v2(&nt_hash("Password"), USER, DOMAIN);
        let proof = hmac_md5(&key, &[&SERVER_CHALLENGE, &published_blob()]);
        assert_eq!(
            proof,
            [
                0x68, 0xcd, 0x0a, 0xb8, 0x51, 0xe5, 0x1c, 0x96, 0xaa, 0xbc, 0x92, 0x7b, 0xeb, 0xef,
                0x6a, 0x1c
            ]
        );
        let base = hmac_md5(&key, &[&proof]);
        assert_eq!(
            base,
            [
                0x8d, 0xe4, 0x0c, 0xca, 0xdb, 0xc1, 0x4a, 0x82, 0xf1, 0x5c, 0xb0, 0xad, 0x0d, 0xe9,
                0x5c, 0xa3
            ]
        );
        // The encrypted random session key of 4.2.4.2.3 holds 55 x 16.
        let encrypted = [
            0xc5, 0xda, 0xd2, 0x54, 0x4f, 0xc9, 0x79, 0x90, 0x94, 0xce, 0x1c, 0xe9, 0x0b, 0xc9,
            0xd0, 0x3e,
        ];
        assert_eq!(rc4(&base, encrypted), [0x55; 16]);
    }

    /// A client's side of the exchange, as far as tests need it.
    fn authenticate(exchange: &Exchange, password: &str, with_mic: bool) -> Vec<u8> {
        let mut blob = vec![1, 1, 0, 0, 0, 0, 0, 0];
        blob.extend([0; 20]);
        if with_mic {
            blob.extend([6, 0, 4, 0, 2, 0, 0, 0]);
        }
        blob.extend([0; 8]);
        let key = ntowf_v2(&nt_hash(password), USER, DOMAIN);
        let proof = hmac_md5(&key, &[&exchange.challenge, &blob]);
        let base = hmac_md5(&key, &[&proof]);
        let nt = [&proof[..], &blob].concat();
        let (domain, user) = (to_utf16le(DOMAIN), to_utf16le(USER));
        let encrypted = rc4(&base, [0x77; 16]);
        let parts: [&[u8]; 6] = [&[], &nt, &domain, &user, &[], &encrypted];
        let mut out = BytesMut::new();
        out.put_slice(sluice_smb_wire::ntlm::SIGNATURE);
        out.put_u32_le(3);
        let mut offset = 88;
        for part in parts {
            out.put_u16_le(part.len() as u16);
            out.put_u16_le(part.len() as u16);
            out.put_u32_le(offset);
            offset += part.len() as u32;
        }
        out.put_u32_le(flag::UNICODE | flag::KEY_EXCH);
        out.put_slice(&[0; 8 + 16]);
        parts.iter().for_each(|part| out.put_slice(part));
        let mut raw = out.to_vec();
        if with_mic {
            let mic = exchange.mic(&raw, &[0x77; 16]).unwrap();
            raw[MIC_RANGE].copy_from_slice(&mic);
        }
        raw
    }

    fn exchange() -> Exchange {
        let challenge = Challenge {
            flags: challenge_flags(flag::KEY_EXCH),
            challenge: SERVER_CHALLENGE,
            netbios_name: "GW",
            dns_name: "gw",
            timestamp: 1,
        };
        Exchange::begin(b"NTLMSSP\0\x01\0\0\0", &challenge)
    }

    fn verify(exchange: &Exchange, raw: &[u8], password: &str) -> Option<[u8; 16]> {
        let message = Authenticate::decode(&Bytes::copy_from_slice(raw)).unwrap();
        exchange.verify(raw, &message, &nt_hash(password))
    }

    #[test]
    fn the_right_password_gives_the_clients_session_key_with_and_without_mic() {
        let exchange = exchange();
        for with_mic in [true, false] {
            let raw = authenticate(&exchange, "Password", with_mic);
            assert_eq!(verify(&exchange, &raw, "Password"), Some([0x77; 16]));
        }
    }

    #[test]
    fn a_wrong_password_is_refused_with_and_without_mic() {
        let exchange = exchange();
        for with_mic in [true, false] {
            let raw = authenticate(&exchange, "password", with_mic);
            assert_eq!(verify(&exchange, &raw, "Password"), None);
        }
    }

    #[test]
    fn a_mic_that_the_proof_announces_must_be_there_and_right() {
        let exchange = exchange();
        let mut raw = authenticate(&exchange, "Password", true);
        raw[MIC_RANGE.start] ^= 1;
        assert_eq!(verify(&exchange, &raw, "Password"), None);
        let mut changed = exchange;
        let raw = authenticate(&changed, "Password", true);
        changed.negotiate.push(0);
        assert_eq!(verify(&changed, &raw, "Password"), None);
    }

    #[test]
    fn an_ntlmv1_response_is_refused() {
        let exchange = exchange();
        let mut message =
            Authenticate::decode(&authenticate(&exchange, "Password", false).into()).unwrap();
        message.nt_response = Bytes::from_static(&[1; 24]);
        assert_eq!(exchange.verify(&[], &message, &nt_hash("Password")), None);
    }

    #[test]
    fn upper_case_maps_one_to_one() {
        assert_eq!(upper("stra\u{df}e \u{e4}"), "STRA\u{df}E \u{c4}");
    }
}
