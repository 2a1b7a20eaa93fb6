//! Message encryption: AES-128/256 in GCM and CCM mode, in place (MS-SMB2 3.1.4.3, 3.3.5.2.1.1).

use std::sync::atomic::{AtomicU64, Ordering};

use aes::{Aes128, Aes256};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ccm::aead::consts::{U11, U16};
use ccm::aead::{AeadInOut, KeyInit};
use sluice_smb_wire::cmd::negotiate::Cipher;
use sluice_smb_wire::transform::{AAD_RANGE, TRANSFORM_LEN, TransformHeader};

use super::kdf::Key;
use super::signing::CryptoFailed;

type Ccm128 = ccm::Ccm<Aes128, U16, U11>;
type Ccm256 = ccm::Ccm<Aes256, U16, U11>;

const GCM_NONCE_LEN: usize = 12;
const CCM_NONCE_LEN: usize = 11;

enum Aead {
    Gcm(LessSafeKey),
    Ccm128(Box<Ccm128>),
    Ccm256(Box<Ccm256>),
}

impl Aead {
    fn new(cipher: Cipher, key: &[u8]) -> Result<Aead, CryptoFailed> {
        let gcm = |algorithm| {
            UnboundKey::new(algorithm, key)
                .map(|k| Aead::Gcm(LessSafeKey::new(k)))
                .map_err(|_| CryptoFailed)
        };
        match cipher {
            Cipher::Aes128Gcm => gcm(&AES_128_GCM),
            Cipher::Aes256Gcm => gcm(&AES_256_GCM),
            Cipher::Aes128Ccm => Ccm128::new_from_slice(key)
                .map(|k| Aead::Ccm128(Box::new(k)))
                .map_err(|_| CryptoFailed),
            Cipher::Aes256Ccm => Ccm256::new_from_slice(key)
                .map(|k| Aead::Ccm256(Box::new(k)))
                .map_err(|_| CryptoFailed),
        }
    }

    fn seal(
        &self,
        nonce: &[u8; 16],
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; 16], CryptoFailed> {
        let mut tag = [0; 16];
        match self {
            Aead::Gcm(key) => tag.copy_from_slice(
                key.seal_in_place_separate_tag(gcm_nonce(nonce), Aad::from(aad), data)
                    .map_err(|_| CryptoFailed)?
                    .as_ref(),
            ),
            Aead::Ccm128(key) => tag.copy_from_slice(&ccm_seal(&**key, nonce, aad, data)?),
            Aead::Ccm256(key) => tag.copy_from_slice(&ccm_seal(&**key, nonce, aad, data)?),
        }
        Ok(tag)
    }

    fn open(
        &self,
        nonce: &[u8; 16],
        aad: &[u8],
        tag: &[u8; 16],
        data: &mut [u8],
    ) -> Result<(), CryptoFailed> {
        match self {
            Aead::Gcm(key) => key
                .open_in_place_separate_tag(gcm_nonce(nonce), Aad::from(aad), tag, data)
                .map(drop)
                .map_err(|_| CryptoFailed),
            Aead::Ccm128(key) => ccm_open(&**key, nonce, aad, tag, data),
            Aead::Ccm256(key) => ccm_open(&**key, nonce, aad, tag, data),
        }
    }
}

fn gcm_nonce(nonce: &[u8; 16]) -> Nonce {
    let mut raw = [0; GCM_NONCE_LEN];
    raw.copy_from_slice(&nonce[..GCM_NONCE_LEN]);
    Nonce::assume_unique_for_key(raw)
}

fn ccm_nonce(nonce: &[u8; 16]) -> [u8; CCM_NONCE_LEN] {
    let mut raw = [0; CCM_NONCE_LEN];
    raw.copy_from_slice(&nonce[..CCM_NONCE_LEN]);
    raw
}

fn ccm_seal<C>(
    key: &C,
    nonce: &[u8; 16],
    aad: &[u8],
    data: &mut [u8],
) -> Result<[u8; 16], CryptoFailed>
where
    C: AeadInOut<NonceSize = U11, TagSize = U16>,
{
    key.encrypt_inout_detached(&ccm_nonce(nonce).into(), aad, data.into())
        .map(Into::into)
        .map_err(|_| CryptoFailed)
}

fn ccm_open<C>(
    key: &C,
    nonce: &[u8; 16],
    aad: &[u8],
    tag: &[u8; 16],
    data: &mut [u8],
) -> Result<(), CryptoFailed>
where
    C: AeadInOut<NonceSize = U11, TagSize = U16>,
{
    key.decrypt_inout_detached(&ccm_nonce(nonce).into(), aad, data.into(), &(*tag).into())
        .map_err(|_| CryptoFailed)
}

/// Both directions of a session's encryption.
pub struct SessionCipher {
    outgoing: Aead,
    incoming: Aead,
    /// Counts messages; each gives one nonce. Starts at random, so that nonces tell nothing about the load.
    next_nonce: AtomicU64,
}

impl SessionCipher {
    /// Keys as from [`super::kdf::cipher_keys`].
    pub fn new(
        cipher: Cipher,
        outgoing: &Key,
        incoming: &Key,
    ) -> Result<SessionCipher, CryptoFailed> {
        Ok(SessionCipher {
            outgoing: Aead::new(cipher, outgoing.as_bytes())?,
            incoming: Aead::new(cipher, incoming.as_bytes())?,
            next_nonce: AtomicU64::new(u64::from_le_bytes(super::random())),
        })
    }

    /// Encrypts `frame[TRANSFORM_LEN..]` in place and fills the transform header before it.
    pub fn seal(&self, session_id: u64, frame: &mut [u8]) -> Result<(), CryptoFailed> {
        let (head, data) = frame
            .split_at_mut_checked(TRANSFORM_LEN)
            .ok_or(CryptoFailed)?;
        let mut nonce = [0; 16];
        let count = self.next_nonce.fetch_add(1, Ordering::Relaxed);
        nonce[..8].copy_from_slice(&count.to_le_bytes());
        let mut header = TransformHeader {
            signature: [0; 16],
            nonce,
            original_len: data.len() as u32,
            flags: 1,
            session_id,
        };
        let mut raw = bytes::BytesMut::with_capacity(TRANSFORM_LEN);
        header.encode(&mut raw);
        header.signature = self.outgoing.seal(&nonce, &raw[AAD_RANGE], data)?;
        raw.clear();
        header.encode(&mut raw);
        head.copy_from_slice(&raw);
        Ok(())
    }

    /// Checks and decrypts `frame[TRANSFORM_LEN..]` in place.
    pub fn open(&self, header: &TransformHeader, frame: &mut [u8]) -> Result<(), CryptoFailed> {
        let (head, data) = frame
            .split_at_mut_checked(TRANSFORM_LEN)
            .ok_or(CryptoFailed)?;
        self.incoming
            .open(&header.nonce, &head[AAD_RANGE], &header.signature, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::kdf;

    fn pair(cipher: Cipher) -> (SessionCipher, SessionCipher) {
        let len = if cipher as u16 >= 3 { 32 } else { 16 };
        let (a, b) = (
            kdf::derive(b"a", b"", b"", len),
            kdf::derive(b"b", b"", b"", len),
        );
        (
            SessionCipher::new(cipher, &a, &b).unwrap(),
            SessionCipher::new(cipher, &b, &a).unwrap(),
        )
    }

    #[test]
    fn every_cipher_round_trips_and_refuses_a_changed_frame() {
        use Cipher::*;
        for cipher in [Aes128Ccm, Aes128Gcm, Aes256Ccm, Aes256Gcm] {
            let (server, client) = pair(cipher);
            let mut frame = vec![0; TRANSFORM_LEN];
            frame.extend_from_slice(b"a message that nobody else may read");
            server.seal(9, &mut frame).unwrap();
            assert!(!frame.windows(6).any(|w| w == b"nobody"), "{cipher:?}");
            let header = TransformHeader::decode(&frame).unwrap();
            let mut damaged = frame.clone();
            damaged[TRANSFORM_LEN] ^= 1;
            assert!(client.open(&header, &mut damaged).is_err(), "{cipher:?}");
            client.open(&header, &mut frame).unwrap();
            assert!(frame.ends_with(b"nobody else may read"), "{cipher:?}");
        }
    }

    #[test]
    fn no_two_messages_share_a_nonce() {
        let (server, _) = pair(Cipher::Aes128Gcm);
        let nonce = || {
            let mut frame = vec![0; TRANSFORM_LEN + 1];
            server.seal(9, &mut frame).unwrap();
            frame[20..36].to_vec()
        };
        assert_ne!(nonce(), nonce());
    }
}
