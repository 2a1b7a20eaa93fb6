//! SMB2 NEGOTIATE with its 3.1.1 contexts, and the SMB1 NEGOTIATE that old clients open with
//! (MS-SMB2 2.2.3, 2.2.4; MS-CIFS 2.2.4.52).

use bytes::{BufMut, Bytes, BytesMut};

use crate::HEADER_LEN;
use crate::codec::{Reader, pad_to, slice_at};
use crate::error::{DecodeError, Result};
use crate::header::SMB1_PROTOCOL_ID;

/// SMB2 dialects that this server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub enum Dialect {
    Smb202 = 0x0202,
    Smb210 = 0x0210,
    Smb300 = 0x0300,
    Smb302 = 0x0302,
    Smb311 = 0x0311,
}

impl Dialect {
    /// The dialect with this revision number.
    pub fn from_code(code: u16) -> Option<Dialect> {
        use Dialect::*;
        [Smb202, Smb210, Smb300, Smb302, Smb311]
            .into_iter()
            .find(|d| *d as u16 == code)
    }

    /// The revision number on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// True for 3.0, 3.0.2 and 3.1.1.
    pub fn is_3x(self) -> bool {
        self >= Dialect::Smb300
    }
}

/// DialectRevision in the answer to an SMB1 NEGOTIATE with "SMB 2.???": the client negotiates again in SMB2.
pub const DIALECT_WILDCARD: u16 = 0x02ff;

/// SecurityMode: signing is enabled.
pub const SIGNING_ENABLED: u16 = 1;
/// SecurityMode: signing is required.
pub const SIGNING_REQUIRED: u16 = 2;

/// Capabilities of client and server (MS-SMB2 2.2.3).
pub mod capability {
    /// Distributed file system.
    pub const DFS: u32 = 0x01;
    /// Leases.
    pub const LEASING: u32 = 0x02;
    /// Requests of more than 64 KiB, paid with several credits.
    pub const LARGE_MTU: u32 = 0x04;
    /// Several channels a session.
    pub const MULTI_CHANNEL: u32 = 0x08;
    /// Persistent handles.
    pub const PERSISTENT_HANDLES: u32 = 0x10;
    /// Leases on directories.
    pub const DIRECTORY_LEASING: u32 = 0x20;
    /// Encryption.
    pub const ENCRYPTION: u32 = 0x40;
}

/// SHA-512, the only preauthentication hash.
pub const HASH_SHA512: u16 = 1;

/// Ciphers (MS-SMB2 2.2.3.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub enum Cipher {
    Aes128Ccm = 1,
    Aes128Gcm = 2,
    Aes256Ccm = 3,
    Aes256Gcm = 4,
}

/// Signing algorithms (MS-SMB2 2.2.3.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs, reason = "the names are the protocol's own")]
pub enum SigningAlgorithm {
    HmacSha256 = 0,
    AesCmac = 1,
    AesGmac = 2,
}

/// Most dialects that a request may list.
const DIALECTS_MAX: usize = 64;
/// Most negotiate contexts that a request may carry.
const CONTEXTS_MAX: usize = 32;

const CONTEXT_PREAUTH: u16 = 1;
const CONTEXT_ENCRYPTION: u16 = 2;
const CONTEXT_SIGNING: u16 = 8;

/// The contexts of a 3.1.1 request that matter here; lists are in the client's order of preference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NegotiateContexts {
    /// Hash algorithms of the preauthentication context.
    pub hashes: Option<Vec<u16>>,
    /// Ciphers, if the client can encrypt.
    pub ciphers: Option<Vec<u16>>,
    /// Signing algorithms, if the client can choose.
    pub signing: Option<Vec<u16>>,
}

/// NEGOTIATE request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiateRequest {
    /// Dialect revisions as sent.
    pub dialects: Vec<u16>,
    /// `SIGNING_*` bits.
    pub security_mode: u16,
    /// [`capability`] bits.
    pub capabilities: u32,
    /// The client's GUID.
    pub client_guid: [u8; 16],
    /// Contexts; empty unless 3.1.1 is among the dialects.
    pub contexts: NegotiateContexts,
}

impl NegotiateRequest {
    /// Decodes a NEGOTIATE request.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 36)?;
        let count = usize::from(r.u16()?);
        if count == 0 {
            return Err(DecodeError::Invalid("DialectCount"));
        }
        if count > DIALECTS_MAX {
            return Err(DecodeError::TooLarge);
        }
        let security_mode = r.u16()?;
        r.skip(2)?;
        let capabilities = r.u32()?;
        let client_guid = r.array()?;
        let context_offset = r.u32()? as usize;
        let context_count = usize::from(r.u16()?);
        r.skip(2)?;
        let dialects = (0..count).map(|_| r.u16()).collect::<Result<Vec<_>>>()?;
        let contexts = if dialects.contains(&(Dialect::Smb311 as u16)) {
            decode_contexts(message, context_offset, context_count)?
        } else {
            NegotiateContexts::default()
        };
        Ok(NegotiateRequest {
            dialects,
            security_mode,
            capabilities,
            client_guid,
            contexts,
        })
    }
}

fn decode_contexts(message: &Bytes, offset: usize, count: usize) -> Result<NegotiateContexts> {
    if count > CONTEXTS_MAX {
        return Err(DecodeError::TooLarge);
    }
    let mut contexts = NegotiateContexts::default();
    let mut at = offset;
    for index in 0..count {
        if index > 0 {
            at = at.next_multiple_of(8);
        }
        let mut r = Reader::at(message, at);
        let kind = r.u16()?;
        let len = usize::from(r.u16()?);
        r.skip(4)?;
        let start = r.pos();
        let data = slice_at(message, start, len)?;
        at = start + len;
        let slot = match kind {
            CONTEXT_PREAUTH => &mut contexts.hashes,
            CONTEXT_ENCRYPTION => &mut contexts.ciphers,
            CONTEXT_SIGNING => &mut contexts.signing,
            // Compression, netname, transport, RDMA transforms and unknown ones need no answer.
            _ => continue,
        };
        if slot.is_some() {
            return Err(DecodeError::Invalid("a negotiate context twice"));
        }
        *slot = Some(decode_algorithms(&data, kind == CONTEXT_PREAUTH)?);
    }
    Ok(contexts)
}

/// A counted list of 16-bit ids; the preauthentication context has a salt length after the count.
fn decode_algorithms(data: &Bytes, salted: bool) -> Result<Vec<u16>> {
    let mut r = Reader::new(data);
    let count = usize::from(r.u16()?);
    if count == 0 {
        return Err(DecodeError::Invalid("an empty algorithm list"));
    }
    let salt_len = if salted { usize::from(r.u16()?) } else { 0 };
    if count * 2 + salt_len > r.remaining() {
        return Err(DecodeError::Truncated);
    }
    (0..count).map(|_| r.u16()).collect()
}

/// What an SMB1 NEGOTIATE offers of SMB2 (MS-SMB2 3.3.5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smb1Offer {
    /// "SMB 2.???": negotiate again with SMB2.
    Wildcard,
    /// "SMB 2.002" only.
    Smb202,
    /// No SMB2 dialect.
    None,
}

/// Reads which SMB2 dialects an SMB1 NEGOTIATE lists.
pub fn decode_smb1(message: &Bytes) -> Result<Smb1Offer> {
    const SMB1_HEADER_LEN: usize = 32;
    const SMB_COM_NEGOTIATE: u8 = 0x72;
    let mut r = Reader::new(message);
    if r.array::<4>()? != SMB1_PROTOCOL_ID || r.u8()? != SMB_COM_NEGOTIATE {
        return Err(DecodeError::Protocol);
    }
    let mut r = Reader::at(message, SMB1_HEADER_LEN);
    let words = usize::from(r.u8()?);
    r.skip(words * 2)?;
    let len = usize::from(r.u16()?);
    let list = r.bytes(len)?;
    // Each entry is a buffer format byte 2 and a zero-terminated string.
    let offers = |name: &[u8]| {
        list.split(|b| *b == 0)
            .any(|e| e.strip_prefix(b"\x02") == Some(name))
    };
    Ok(if offers(b"SMB 2.???") {
        Smb1Offer::Wildcard
    } else if offers(b"SMB 2.002") {
        Smb1Offer::Smb202
    } else {
        Smb1Offer::None
    })
}

/// The contexts of a 3.1.1 response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseContexts {
    /// Salt of the preauthentication context.
    pub salt: [u8; 32],
    /// The chosen cipher; `None` leaves the context out, `Some(0)` says that none is common.
    pub cipher: Option<u16>,
    /// The chosen signing algorithm, if the client sent the context.
    pub signing: Option<SigningAlgorithm>,
}

/// NEGOTIATE response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NegotiateResponse {
    /// `SIGNING_*` bits.
    pub security_mode: u16,
    /// A dialect or [`DIALECT_WILDCARD`].
    pub dialect: u16,
    /// This server's GUID.
    pub server_guid: [u8; 16],
    /// [`capability`] bits.
    pub capabilities: u32,
    /// Largest transact, READ and WRITE in bytes.
    pub max_io: u32,
    /// Now, as a FILETIME.
    pub system_time: u64,
    /// The SPNEGO hint.
    pub token: Bytes,
    /// Contexts, for 3.1.1 only.
    pub contexts: Option<ResponseContexts>,
}

impl NegotiateResponse {
    /// Appends the response body.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        let token_offset = HEADER_LEN + 64;
        let context_offset = (token_offset + self.token.len()).next_multiple_of(8);
        let context_count = self.contexts.as_ref().map_or(0, |c| {
            1 + u16::from(c.cipher.is_some()) + u16::from(c.signing.is_some())
        });
        out.put_u16_le(65);
        out.put_u16_le(self.security_mode);
        out.put_u16_le(self.dialect);
        out.put_u16_le(context_count);
        out.put_slice(&self.server_guid);
        out.put_u32_le(self.capabilities);
        for _ in 0..3 {
            out.put_u32_le(self.max_io);
        }
        out.put_u64_le(self.system_time);
        out.put_u64_le(0);
        out.put_u16_le(token_offset as u16);
        out.put_u16_le(self.token.len() as u16);
        out.put_u32_le(if context_count > 0 {
            context_offset as u32
        } else {
            0
        });
        out.put_slice(&self.token);
        if let Some(contexts) = &self.contexts {
            out.resize(start + context_offset - HEADER_LEN, 0);
            encode_contexts(contexts, out);
        }
    }
}

fn encode_contexts(contexts: &ResponseContexts, out: &mut BytesMut) {
    let mut tail = BytesMut::new();
    tail.put_u16_le(CONTEXT_PREAUTH);
    tail.put_u16_le(6 + contexts.salt.len() as u16);
    tail.put_u32_le(0);
    tail.put_u16_le(1);
    tail.put_u16_le(contexts.salt.len() as u16);
    tail.put_u16_le(HASH_SHA512);
    tail.put_slice(&contexts.salt);
    let single = [
        (CONTEXT_ENCRYPTION, contexts.cipher),
        (CONTEXT_SIGNING, contexts.signing.map(|s| s as u16)),
    ];
    for (kind, value) in single {
        let Some(value) = value else { continue };
        pad_to(&mut tail, 8);
        tail.put_u16_le(kind);
        tail.put_u16_le(4);
        tail.put_u32_le(0);
        tail.put_u16_le(1);
        tail.put_u16_le(value);
    }
    out.put_slice(&tail);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request_311(contexts: &[(u16, &[u8])]) -> Bytes {
        let mut m = BytesMut::zeroed(HEADER_LEN);
        m.put_u16_le(36);
        m.put_u16_le(2);
        m.put_u16_le(SIGNING_ENABLED);
        m.put_u16_le(0);
        m.put_u32_le(capability::LEASING);
        m.put_slice(&[7; 16]);
        m.put_u32_le(104);
        m.put_u16_le(contexts.len() as u16);
        m.put_u16_le(0);
        m.put_u16_le(0x0302);
        m.put_u16_le(0x0311);
        for (kind, data) in contexts {
            pad_to(&mut m, 8);
            m.put_u16_le(*kind);
            m.put_u16_le(data.len() as u16);
            m.put_u32_le(0);
            m.put_slice(data);
        }
        m.freeze()
    }

    #[test]
    fn contexts_are_read_in_any_order_and_unknown_ones_skipped() {
        let m = request_311(&[
            (5, b"h\0o\0s\0t\0"),
            (8, &[2, 0, 2, 0, 1, 0]),
            (1, &[1, 0, 2, 0, 1, 0, 9, 9]),
            (2, &[1, 0, 2, 0]),
        ]);
        let request = NegotiateRequest::decode(&m).unwrap();
        assert_eq!(request.contexts.hashes, Some(vec![1]));
        assert_eq!(request.contexts.signing, Some(vec![2, 1]));
        assert_eq!(request.contexts.ciphers, Some(vec![2]));
        assert_eq!(request.client_guid, [7; 16]);
    }

    #[test]
    fn a_repeated_context_and_an_empty_list_are_refused() {
        let twice = request_311(&[(2, &[1, 0, 2, 0]), (2, &[1, 0, 1, 0])]);
        assert!(NegotiateRequest::decode(&twice).is_err());
        assert!(NegotiateRequest::decode(&request_311(&[(2, &[0, 0])])).is_err());
        assert!(NegotiateRequest::decode(&request_311(&[(1, &[1, 0, 0xff, 0xff, 1, 0])])).is_err());
    }

    #[test]
    fn an_smb1_negotiate_offers_what_its_strings_say() {
        let smb1 = |names: &[&str]| {
            let mut m = BytesMut::new();
            m.put_slice(&SMB1_PROTOCOL_ID);
            m.put_u8(0x72);
            m.resize(32, 0);
            m.put_u8(0);
            let list: Vec<u8> = names
                .iter()
                .flat_map(|n| [&[2u8][..], n.as_bytes(), &[0]].concat())
                .collect();
            m.put_u16_le(list.len() as u16);
            m.put_slice(&list);
            decode_smb1(&m.freeze())
        };
        assert_eq!(
            smb1(&["NT LM 0.12", "SMB 2.002", "SMB 2.???"]),
            Ok(Smb1Offer::Wildcard)
        );
        assert_eq!(smb1(&["NT LM 0.12", "SMB 2.002"]), Ok(Smb1Offer::Smb202));
        assert_eq!(smb1(&["NT LM 0.12"]), Ok(Smb1Offer::None));
    }

    #[test]
    fn response_contexts_are_aligned_to_eight_bytes() {
        let mut out = BytesMut::new();
        NegotiateResponse {
            security_mode: SIGNING_ENABLED,
            dialect: 0x0311,
            server_guid: [1; 16],
            capabilities: capability::LARGE_MTU,
            max_io: 8 << 20,
            system_time: 5,
            token: Bytes::from_static(b"tok"),
            contexts: Some(ResponseContexts {
                salt: [3; 32],
                cipher: Some(Cipher::Aes128Gcm as u16),
                signing: Some(SigningAlgorithm::AesGmac),
            }),
        }
        .encode(&mut out);
        assert_eq!(&out[..8], &[65, 0, 1, 0, 0x11, 3, 3, 0]);
        assert_eq!(&out[56..64], &[128, 0, 3, 0, 136, 0, 0, 0]);
        assert_eq!(&out[72..76], &[1, 0, 38, 0]);
        assert_eq!(&out[120..132], &[2, 0, 4, 0, 0, 0, 0, 0, 1, 0, 2, 0]);
        assert_eq!(&out[136..148], &[8, 0, 4, 0, 0, 0, 0, 0, 1, 0, 2, 0]);
        assert_eq!(out.len(), 148);
    }

    proptest! {
        #[test]
        fn decoders_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            let m = Bytes::from(raw);
            let _ = NegotiateRequest::decode(&m);
            let _ = decode_smb1(&m);
        }

        #[test]
        fn context_decoder_never_panics(data in proptest::collection::vec(any::<u8>(), 0..60), kind in 0u16..9) {
            let _ = NegotiateRequest::decode(&request_311(&[(kind, &data)]));
        }
    }
}
