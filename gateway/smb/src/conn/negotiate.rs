//! NEGOTIATE (MS-SMB2 3.3.5.3, 3.3.5.4): which dialect, which algorithms, and what validation later repeats.

use bytes::{Bytes, BytesMut};
use sluice_smb_wire::NtStatus;
use sluice_smb_wire::cmd::negotiate::{
    Cipher, DIALECT_WILDCARD, Dialect, HASH_SHA512, NegotiateRequest, NegotiateResponse,
    ResponseContexts, SIGNING_ENABLED, SIGNING_REQUIRED, SigningAlgorithm, Smb1Offer, capability,
    decode_smb1,
};
use sluice_smb_wire::spnego::encode_hint;

use super::Negotiated;
use crate::crypto;
use crate::op::OpReply;
use crate::server::{SmbOptions, filetime_now};

/// Largest payload of a dialect without multi-credit requests, in bytes.
const IO_BYTES_202: u32 = 64 * 1024;

/// What this server prefers, best first.
const CIPHERS: [Cipher; 4] = [
    Cipher::Aes128Gcm,
    Cipher::Aes256Gcm,
    Cipher::Aes128Ccm,
    Cipher::Aes256Ccm,
];
const SIGNING: [SigningAlgorithm; 3] = [
    SigningAlgorithm::AesGmac,
    SigningAlgorithm::AesCmac,
    SigningAlgorithm::HmacSha256,
];

/// The answer to a NEGOTIATE, or `None` if the connection must be dropped.
pub(super) struct Outcome {
    pub reply: OpReply,
    /// Set once the reply is a success with a final dialect.
    pub negotiated: Option<Negotiated>,
}

/// Answers an SMB2 NEGOTIATE.
pub(super) fn handle(server_guid: [u8; 16], options: &SmbOptions, message: &Bytes) -> Outcome {
    let refused = |status| Outcome {
        reply: OpReply::error(status),
        negotiated: None,
    };
    let Ok(request) = NegotiateRequest::decode(message) else {
        return refused(NtStatus::INVALID_PARAMETER);
    };
    match settle(options, &request) {
        Ok((negotiated, contexts)) => {
            let reply = respond(
                server_guid,
                negotiated.dialect as u16,
                &negotiated,
                contexts,
            );
            Outcome {
                reply,
                negotiated: Some(negotiated),
            }
        }
        Err(status) => refused(status),
    }
}

/// Answers an SMB1 NEGOTIATE that offers SMB2. `None`: no dialect in common.
pub(super) fn handle_smb1(
    server_guid: [u8; 16],
    options: &SmbOptions,
    message: &Bytes,
) -> Option<Outcome> {
    let (dialect, is_final) = match decode_smb1(message).ok()? {
        Smb1Offer::Wildcard => (DIALECT_WILDCARD, false),
        Smb1Offer::Smb202 => (Dialect::Smb202 as u16, true),
        Smb1Offer::None => return None,
    };
    let negotiated = Negotiated {
        dialect: Dialect::Smb202,
        client_guid: [0; 16],
        client_capabilities: 0,
        client_security_mode: 0,
        client_dialects: vec![Dialect::Smb202 as u16],
        server_capabilities: 0,
        server_security_mode: security_mode(options),
        max_io: IO_BYTES_202,
        cipher: None,
        signing: SigningAlgorithm::HmacSha256,
    };
    Some(Outcome {
        reply: respond(server_guid, dialect, &negotiated, None),
        negotiated: is_final.then_some(negotiated),
    })
}

fn security_mode(options: &SmbOptions) -> u16 {
    SIGNING_ENABLED
        | if options.signing_required {
            SIGNING_REQUIRED
        } else {
            0
        }
}

fn settle(
    options: &SmbOptions,
    request: &NegotiateRequest,
) -> Result<(Negotiated, Option<ResponseContexts>), NtStatus> {
    let dialect = request
        .dialects
        .iter()
        .filter_map(|code| Dialect::from_code(*code))
        .max()
        .ok_or(NtStatus::NOT_SUPPORTED)?;
    let mut capabilities = 0;
    if dialect >= Dialect::Smb210 {
        capabilities |= capability::LEASING | capability::LARGE_MTU;
    }
    if dialect.is_3x() {
        capabilities |= request.capabilities & capability::MULTI_CHANNEL;
    }
    let (cipher, signing, contexts) = algorithms(dialect, request)?;
    if matches!(dialect, Dialect::Smb300 | Dialect::Smb302) && cipher.is_some() {
        capabilities |= capability::ENCRYPTION;
    }
    let negotiated = Negotiated {
        dialect,
        client_guid: request.client_guid,
        client_capabilities: request.capabilities,
        client_security_mode: request.security_mode,
        client_dialects: request.dialects.clone(),
        server_capabilities: capabilities,
        server_security_mode: security_mode(options),
        max_io: if dialect == Dialect::Smb202 {
            IO_BYTES_202
        } else {
            options.io_bytes_max
        },
        cipher,
        signing,
    };
    Ok((negotiated, contexts))
}

type Algorithms = (Option<Cipher>, SigningAlgorithm, Option<ResponseContexts>);

fn algorithms(dialect: Dialect, request: &NegotiateRequest) -> Result<Algorithms, NtStatus> {
    if dialect < Dialect::Smb300 {
        return Ok((None, SigningAlgorithm::HmacSha256, None));
    }
    if dialect < Dialect::Smb311 {
        let can_encrypt = request.capabilities & capability::ENCRYPTION != 0;
        let cipher = can_encrypt.then_some(Cipher::Aes128Ccm);
        return Ok((cipher, SigningAlgorithm::AesCmac, None));
    }
    let offered = &request.contexts;
    let hashes = offered.hashes.as_ref().ok_or(NtStatus::INVALID_PARAMETER)?;
    if !hashes.contains(&HASH_SHA512) {
        return Err(NtStatus::SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP);
    }
    let cipher = offered
        .ciphers
        .as_ref()
        .map(|list| CIPHERS.into_iter().find(|c| list.contains(&(*c as u16))));
    let signing = offered
        .signing
        .as_ref()
        .and_then(|list| SIGNING.into_iter().find(|s| list.contains(&(*s as u16))));
    let contexts = ResponseContexts {
        salt: crypto::random(),
        cipher: cipher.map(|chosen| chosen.map_or(0, |c| c as u16)),
        signing,
    };
    Ok((
        cipher.flatten(),
        signing.unwrap_or(SigningAlgorithm::AesCmac),
        Some(contexts),
    ))
}

fn respond(
    server_guid: [u8; 16],
    dialect: u16,
    negotiated: &Negotiated,
    contexts: Option<ResponseContexts>,
) -> OpReply {
    let mut body = BytesMut::with_capacity(256);
    NegotiateResponse {
        security_mode: negotiated.server_security_mode,
        dialect,
        server_guid,
        capabilities: negotiated.server_capabilities,
        max_io: negotiated.max_io,
        system_time: filetime_now(),
        token: encode_hint().into(),
        contexts,
    }
    .encode(&mut body);
    OpReply::ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_smb_wire::cmd::negotiate::NegotiateContexts;

    fn request(dialects: &[u16], contexts: NegotiateContexts) -> NegotiateRequest {
        NegotiateRequest {
            dialects: dialects.to_vec(),
            security_mode: SIGNING_ENABLED,
            capabilities: capability::ENCRYPTION,
            client_guid: [1; 16],
            contexts,
        }
    }

    fn contexts(ciphers: &[u16], signing: &[u16]) -> NegotiateContexts {
        NegotiateContexts {
            hashes: Some(vec![HASH_SHA512]),
            ciphers: Some(ciphers.to_vec()),
            signing: Some(signing.to_vec()),
        }
    }

    fn settled(r: &NegotiateRequest) -> Negotiated {
        settle(&SmbOptions::default(), r).map(|(n, _)| n).unwrap()
    }

    #[test]
    fn the_newest_common_dialect_wins_and_none_is_refused() {
        let none = NegotiateContexts::default();
        assert_eq!(
            settled(&request(&[0x0302, 0x0202, 0x0300], none.clone())).dialect,
            Dialect::Smb302
        );
        assert_eq!(
            settled(&request(&[0x0202], none.clone())).max_io,
            IO_BYTES_202
        );
        let refused = settle(&SmbOptions::default(), &request(&[0x0333], none));
        assert_eq!(refused.map(drop), Err(NtStatus::NOT_SUPPORTED));
    }

    #[test]
    fn gmac_and_gcm_are_preferred_when_offered() {
        let n = settled(&request(&[0x0311], contexts(&[1, 2, 4], &[1, 2])));
        assert_eq!(
            (n.cipher, n.signing),
            (Some(Cipher::Aes128Gcm), SigningAlgorithm::AesGmac)
        );
        let n = settled(&request(&[0x0311], contexts(&[3], &[0])));
        assert_eq!(
            (n.cipher, n.signing),
            (Some(Cipher::Aes256Ccm), SigningAlgorithm::HmacSha256)
        );
    }

    #[test]
    fn no_common_cipher_is_said_so_and_no_common_hash_is_refused() {
        let (n, c) = settle(
            &SmbOptions::default(),
            &request(&[0x0311], contexts(&[77], &[99])),
        )
        .unwrap();
        assert_eq!((n.cipher, n.signing), (None, SigningAlgorithm::AesCmac));
        assert_eq!(c.map(|c| (c.cipher, c.signing)), Some((Some(0), None)));
        let mut odd = contexts(&[1], &[1]);
        odd.hashes = Some(vec![9]);
        let refused = settle(&SmbOptions::default(), &request(&[0x0311], odd));
        assert_eq!(
            refused.map(drop),
            Err(NtStatus::SMB_NO_PREAUTH_INTEGRITY_HASH_OVERLAP)
        );
        let missing = settle(
            &SmbOptions::default(),
            &request(&[0x0311], NegotiateContexts::default()),
        );
        assert_eq!(missing.map(drop), Err(NtStatus::INVALID_PARAMETER));
    }
}
