//! Message signatures: HMAC-SHA256, AES-128-CMAC, AES-128-GMAC (MS-SMB2 3.1.4.1).

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{cmac, hmac};
use sluice_smb_wire::cmd::negotiate::SigningAlgorithm;
use sluice_smb_wire::header::SIGNATURE_RANGE;
use sluice_smb_wire::{Command, Flags, Header};

use super::kdf::Key;

/// A signature could not be computed because the cryptographic library failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed")]
pub struct CryptoFailed;

/// Signs and verifies the messages of one channel.
pub struct Signer {
    mac: Mac,
}

enum Mac {
    Hmac(Box<hmac::Key>),
    Cmac(cmac::Key),
    Gmac(LessSafeKey),
}

impl Signer {
    /// A signer with a 16-byte key.
    pub fn new(algorithm: SigningAlgorithm, key: &Key) -> Result<Signer, CryptoFailed> {
        let key = key.as_bytes();
        let mac = match algorithm {
            SigningAlgorithm::HmacSha256 => {
                Mac::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
            }
            SigningAlgorithm::AesCmac => {
                Mac::Cmac(cmac::Key::new(cmac::AES_128, key).map_err(|_| CryptoFailed)?)
            }
            SigningAlgorithm::AesGmac => Mac::Gmac(LessSafeKey::new(
                UnboundKey::new(&AES_128_GCM, key).map_err(|_| CryptoFailed)?,
            )),
        };
        Ok(Signer { mac })
    }

    /// True if a message must be one piece of memory to be signed.
    pub fn needs_contiguous(&self) -> bool {
        matches!(self.mac, Mac::Gmac(_))
    }

    /// The signature of a message whose signature field is zero. With [`Signer::needs_contiguous`] only the
    /// first part may have content.
    pub fn sign(&self, header: &Header, parts: &[&[u8]]) -> Result<[u8; 16], CryptoFailed> {
        let mut signature = [0; 16];
        match &self.mac {
            Mac::Hmac(key) => {
                let mut context = hmac::Context::with_key(key);
                parts.iter().for_each(|part| context.update(part));
                signature.copy_from_slice(&context.sign().as_ref()[..16]);
            }
            Mac::Cmac(key) => {
                let mut context = cmac::Context::with_key(key);
                for part in parts {
                    context.update(part).map_err(|_| CryptoFailed)?;
                }
                signature.copy_from_slice(context.sign().map_err(|_| CryptoFailed)?.as_ref());
            }
            Mac::Gmac(key) => {
                let message = parts.first().copied().unwrap_or_default();
                if parts.iter().skip(1).any(|part| !part.is_empty()) {
                    return Err(CryptoFailed);
                }
                let tag = key
                    .seal_in_place_separate_tag(nonce(header), Aad::from(message), &mut [])
                    .map_err(|_| CryptoFailed)?;
                signature.copy_from_slice(tag.as_ref());
            }
        }
        Ok(signature)
    }

    /// Checks a received message, one piece whose signature field holds `header.signature`. The field is zero
    /// meanwhile and as before afterwards: the preauthentication hash covers it.
    pub fn verify(&self, header: &Header, message: &mut [u8]) -> bool {
        match message.get_mut(SIGNATURE_RANGE) {
            Some(field) => field.fill(0),
            None => return false,
        }
        let expected = self.sign(header, &[message]);
        message[SIGNATURE_RANGE].copy_from_slice(&header.signature);
        expected.is_ok_and(|expected| verify_slices_are_equal(&expected, &header.signature).is_ok())
    }
}

/// GMAC nonce: the message id, then bit 0 for messages of the server, bit 1 for CANCEL
/// (MS-SMB2 3.1.4.1). A nonce must sign one message only; hence interim responses, which share the id with
/// their final response, are never signed.
fn nonce(header: &Header) -> Nonce {
    let mut raw = [0; 12];
    raw[..8].copy_from_slice(&header.message_id.to_le_bytes());
    let server = u8::from(header.flags.has(Flags::RESPONSE));
    let cancel = u8::from(header.command() == Some(Command::Cancel)) << 1;
    raw[8] = server | cancel;
    Nonce::assume_unique_for_key(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::kdf;
    use bytes::BytesMut;

    fn message(response: bool) -> (Header, Vec<u8>) {
        let header = Header {
            credit_charge: 1,
            status: 0,
            command: 9,
            credits: 1,
            flags: Flags(Flags::SIGNED | u32::from(response)),
            next_command: 0,
            message_id: 77,
            async_or_tree: 0,
            session_id: 5,
            signature: [0; 16],
        };
        let mut raw = BytesMut::new();
        header.encode(&mut raw);
        raw.extend_from_slice(b"a body of some bytes");
        (header, raw.to_vec())
    }

    #[test]
    fn every_algorithm_accepts_its_own_and_refuses_a_changed_message() {
        use SigningAlgorithm::*;
        for algorithm in [HmacSha256, AesCmac, AesGmac] {
            let key = kdf::derive(b"key", b"l\0", b"c\0", 16);
            let signer = Signer::new(algorithm, &key).unwrap();
            let (mut header, mut raw) = message(false);
            header.signature = signer.sign(&header, &[&raw]).unwrap();
            raw[SIGNATURE_RANGE].copy_from_slice(&header.signature);
            let received = raw.clone();
            assert!(signer.verify(&header, &mut raw), "{algorithm:?}");
            assert_eq!(raw, received, "{algorithm:?}");
            raw[70] ^= 1;
            assert!(!signer.verify(&header, &mut raw), "{algorithm:?}");
        }
    }

    #[test]
    fn parts_sign_like_the_whole() {
        let key = kdf::derive(b"key", b"l\0", b"c\0", 16);
        let signer = Signer::new(SigningAlgorithm::AesCmac, &key).unwrap();
        let (header, raw) = message(true);
        let whole = signer.sign(&header, &[&raw]).unwrap();
        assert_eq!(
            signer.sign(&header, &[&raw[..71], &raw[71..]]).unwrap(),
            whole
        );
    }

    #[test]
    fn a_gmac_differs_by_direction() {
        let key = kdf::derive(b"key", b"l\0", b"c\0", 16);
        let signer = Signer::new(SigningAlgorithm::AesGmac, &key).unwrap();
        let ((request, raw), (response, _)) = (message(false), message(true));
        assert_ne!(
            signer.sign(&request, &[&raw]).unwrap(),
            signer.sign(&response, &[&raw]).unwrap()
        );
    }
}
