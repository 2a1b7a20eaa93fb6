//! Key derivation: SP800-108 in counter mode with HMAC-SHA256 (MS-SMB2 3.1.4.2).

use aws_lc_rs::hmac;
use sluice_smb_wire::cmd::negotiate::{Cipher, Dialect};

use super::preauth::PreauthHash;

/// A derived key of 16 or 32 bytes.
pub struct Key {
    bytes: [u8; 32],
    len: usize,
}

impl Key {
    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Derives `len_bytes` (16 or 32) bytes from `key`; label and context include their terminating zeros.
pub fn derive(key: &[u8], label: &[u8], context: &[u8], len_bytes: usize) -> Key {
    let len = len_bytes.min(32);
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    mac.update(&1u32.to_be_bytes());
    mac.update(label);
    mac.update(&[0]);
    mac.update(context);
    mac.update(&(len as u32 * 8).to_be_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(mac.sign().as_ref());
    Key { bytes, len }
}

/// Label and context of a key: fixed strings in 3.0 and 3.0.2, the preauthentication hash in 3.1.1.
struct Purpose {
    label_30: &'static [u8],
    context_30: &'static [u8],
    label_311: &'static [u8],
}

const SIGNING: Purpose = Purpose {
    label_30: b"SMB2AESCMAC\0",
    context_30: b"SmbSign\0",
    label_311: b"SMBSigningKey\0",
};
const SERVER_OUT: Purpose = Purpose {
    label_30: b"SMB2AESCCM\0",
    context_30: b"ServerOut\0",
    label_311: b"SMBS2CCipherKey\0",
};
const SERVER_IN: Purpose = Purpose {
    label_30: b"SMB2AESCCM\0",
    context_30: b"ServerIn \0",
    label_311: b"SMBC2SCipherKey\0",
};

fn derive_for(
    purpose: &Purpose,
    dialect: Dialect,
    key: &[u8],
    hash: &PreauthHash,
    len: usize,
) -> Key {
    if dialect == Dialect::Smb311 {
        derive(key, purpose.label_311, hash.as_bytes(), len)
    } else {
        derive(key, purpose.label_30, purpose.context_30, len)
    }
}

/// The signing key of a session or channel. Dialects 2.x sign with the session key itself.
pub fn signing_key(dialect: Dialect, session_key: &[u8; 16], hash: &PreauthHash) -> Key {
    if dialect.is_3x() {
        return derive_for(&SIGNING, dialect, session_key, hash, 16);
    }
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(session_key);
    Key { bytes, len: 16 }
}

/// The keys with which this server encrypts and decrypts, in this order.
pub fn cipher_keys(
    dialect: Dialect,
    cipher: Cipher,
    session_key: &[u8; 16],
    hash: &PreauthHash,
) -> (Key, Key) {
    let len = match cipher {
        Cipher::Aes128Ccm | Cipher::Aes128Gcm => 16,
        Cipher::Aes256Ccm | Cipher::Aes256Gcm => 32,
    };
    (
        derive_for(&SERVER_OUT, dialect, session_key, hash, len),
        derive_for(&SERVER_IN, dialect, session_key, hash, len),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    /// Session key and derived keys published by Microsoft for SMB 3.0 ("SMB 2 and SMB 3 security in Windows
    /// 10: the anatomy of signing and cryptographic keys").
    #[test]
    fn keys_of_dialect_30_match_the_published_example() {
        let session: [u8; 16] = unhex("7CD451825D0450D235424E44BA6E78CC")
            .try_into()
            .unwrap();
        let hash = PreauthHash::default();
        let signing = signing_key(Dialect::Smb300, &session, &hash);
        assert_eq!(
            signing.as_bytes(),
            unhex("0B7E9C5CAC36C0F6EA9AB275298CEDCE")
        );
        let (out, into) = cipher_keys(Dialect::Smb300, Cipher::Aes128Ccm, &session, &hash);
        assert_ne!(out.as_bytes(), into.as_bytes());
    }

    #[test]
    fn two_x_signs_with_the_session_key_itself() {
        let key = signing_key(Dialect::Smb210, &[7; 16], &PreauthHash::default());
        assert_eq!(key.as_bytes(), [7; 16]);
    }

    #[test]
    fn keys_of_dialect_311_depend_on_the_preauthentication_hash() {
        let mut other = PreauthHash::default();
        other.update(&[b"message"]);
        let a = signing_key(Dialect::Smb311, &[7; 16], &PreauthHash::default());
        let b = signing_key(Dialect::Smb311, &[7; 16], &other);
        assert_ne!(a.as_bytes(), b.as_bytes());
        let (c, _) = cipher_keys(Dialect::Smb311, Cipher::Aes256Gcm, &[7; 16], &other);
        assert_eq!(c.as_bytes().len(), 32);
    }
}
