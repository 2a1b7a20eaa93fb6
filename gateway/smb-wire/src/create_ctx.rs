//! Create contexts (MS-SMB2 2.2.13.2, 2.2.14.2) and Apple's AAPL context.
//!
//! Owns the chain and the layout of each context. Unknown contexts are skipped, as MS-SMB2 3.3.5.9 demands.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, pad_to, patch_u32, slice_at, to_utf16le};
use crate::error::{DecodeError, Result};
use crate::header::FileId;

/// More contexts than any client sends; the chain ends in an error after this many.
const MAX_CONTEXTS: usize = 32;

/// SMB2_LEASE_READ_CACHING.
pub const LEASE_READ: u32 = 0x01;
/// SMB2_LEASE_HANDLE_CACHING.
pub const LEASE_HANDLE: u32 = 0x02;
/// SMB2_LEASE_WRITE_CACHING.
pub const LEASE_WRITE: u32 = 0x04;
/// SMB2_LEASE_FLAG_BREAK_IN_PROGRESS.
pub const LEASE_FLAG_BREAKING: u32 = 0x02;
/// SMB2_LEASE_FLAG_PARENT_LEASE_KEY_SET.
pub const LEASE_FLAG_PARENT_KEY: u32 = 0x04;
/// SMB2_DHANDLE_FLAG_PERSISTENT.
pub const DURABLE_FLAG_PERSISTENT: u32 = 0x02;

/// A lease as the RqLs context carries it in both directions (2.2.13.2.8, 2.2.13.2.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseContext {
    /// LeaseKey.
    pub key: [u8; 16],
    /// LeaseState, the `LEASE_` bits.
    pub state: u32,
    /// Flags, the `LEASE_FLAG_` bits.
    pub flags: u32,
    /// What only version 2 has; `None` marks version 1.
    pub v2: Option<LeaseV2>,
}

/// The additional fields of a version 2 lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseV2 {
    /// ParentLeaseKey, meaningful with [`LEASE_FLAG_PARENT_KEY`].
    pub parent_key: [u8; 16],
    /// Epoch.
    pub epoch: u16,
}

impl LeaseContext {
    fn decode(data: &Bytes) -> Result<Self> {
        let mut r = Reader::new(data);
        let key = r.array()?;
        let state = r.u32()?;
        let flags = r.u32()?;
        r.skip(8)?;
        let v2 = match data.len() {
            0..=51 => None,
            _ => Some(LeaseV2 {
                parent_key: r.array()?,
                epoch: r.u16()?,
            }),
        };
        Ok(Self {
            key,
            state,
            flags,
            v2,
        })
    }

    fn encode(&self) -> BytesMut {
        let mut w = BytesMut::with_capacity(52);
        w.put_slice(&self.key);
        w.put_u32_le(self.state);
        w.put_u32_le(self.flags);
        w.put_u64_le(0);
        if let Some(v2) = self.v2 {
            w.put_slice(&v2.parent_key);
            w.put_u16_le(v2.epoch);
            w.put_u16_le(0);
        }
        w
    }
}

/// DH2Q: a request for a durable open, version 2 (2.2.13.2.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableV2 {
    /// Wanted timeout in milliseconds; zero leaves it to the server.
    pub timeout_ms: u32,
    /// Flags.
    pub flags: u32,
    /// CreateGuid.
    pub create_guid: [u8; 16],
}

/// DH2C: a reconnect to a durable open, version 2 (2.2.13.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectV2 {
    /// The handle of the lost connection.
    pub file_id: FileId,
    /// CreateGuid.
    pub create_guid: [u8; 16],
    /// Flags.
    pub flags: u32,
}

/// AAPL kAAPL_SERVER_QUERY: what a macOS client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AaplQuery {
    /// Bits of the wanted answers: 1 server caps, 2 volume caps, 4 model.
    pub request_bitmap: u64,
    /// The client's capabilities.
    pub client_caps: u64,
}

/// All contexts of a request that the server knows.
#[derive(Clone, Debug, Default)]
pub struct CreateContexts {
    /// ExtA: an EA list for the new document.
    pub ea_list: Option<Bytes>,
    /// SecD: a security descriptor for the new document.
    pub security: Option<Bytes>,
    /// DHnQ was there.
    pub durable: bool,
    /// DHnC: the handle of the lost connection.
    pub reconnect: Option<FileId>,
    /// DH2Q.
    pub durable_v2: Option<DurableV2>,
    /// DH2C.
    pub reconnect_v2: Option<ReconnectV2>,
    /// AlSi: allocation size in bytes.
    pub allocation: Option<u64>,
    /// MxAc was there.
    pub maximal_access: bool,
    /// TWrp: the snapshot's time.
    pub timewarp: Option<u64>,
    /// QFid was there.
    pub disk_id: bool,
    /// RqLs.
    pub lease: Option<LeaseContext>,
    /// AAPL.
    pub aapl: Option<AaplQuery>,
}

impl CreateContexts {
    /// Walks the chain of a CREATE request.
    pub fn decode(chain: &Bytes) -> Result<Self> {
        let mut out = Self::default();
        if chain.is_empty() {
            return Ok(out);
        }
        let mut at = 0usize;
        for _ in 0..MAX_CONTEXTS {
            let entry = chain
                .get(at..)
                .map(|_| chain.slice(at..))
                .ok_or(DecodeError::Truncated)?;
            let mut r = Reader::new(&entry);
            let next = r.u32()? as usize;
            let (name_at, name_len) = (r.u16()?, r.u16()?);
            r.skip(2)?;
            let data_at = r.u16()?;
            let data_len = r.u32()?;
            if next != 0 && (next < 16 || !next.is_multiple_of(8)) {
                return Err(DecodeError::Invalid("Next of a create context"));
            }
            let own = if next == 0 {
                entry.clone()
            } else {
                slice_at(&entry, 0, next)?
            };
            let name = slice_at(&own, usize::from(name_at), usize::from(name_len))?;
            let data = slice_at(&own, usize::from(data_at), data_len as usize)?;
            if name.len() < 4 {
                return Err(DecodeError::Invalid("the name of a create context"));
            }
            out.take(&name, data)?;
            if next == 0 {
                return Ok(out);
            }
            at += next;
        }
        Err(DecodeError::TooLarge)
    }

    fn take(&mut self, name: &[u8], data: Bytes) -> Result<()> {
        let mut r = Reader::new(&data);
        match name {
            b"ExtA" => self.ea_list = Some(data),
            b"SecD" => self.security = Some(data),
            b"DHnQ" => {
                r.skip(16)?;
                self.durable = true;
            }
            b"DHnC" => self.reconnect = Some(FileId::decode(&mut r)?),
            b"DH2Q" => {
                let (timeout_ms, flags) = (r.u32()?, r.u32()?);
                r.skip(8)?;
                let create_guid = r.array()?;
                self.durable_v2 = Some(DurableV2 {
                    timeout_ms,
                    flags,
                    create_guid,
                });
            }
            b"DH2C" => {
                let file_id = FileId::decode(&mut r)?;
                self.reconnect_v2 = Some(ReconnectV2 {
                    file_id,
                    create_guid: r.array()?,
                    flags: r.u32()?,
                });
            }
            b"AlSi" => self.allocation = Some(r.u64()?),
            b"MxAc" => self.maximal_access = true,
            b"TWrp" => self.timewarp = Some(r.u64()?),
            b"QFid" => self.disk_id = true,
            b"RqLs" => self.lease = Some(LeaseContext::decode(&data)?),
            b"AAPL" => self.aapl = decode_aapl(&mut r),
            _ => {}
        }
        Ok(())
    }
}

/// Only the server query is answered; other AAPL commands are ignored.
fn decode_aapl(r: &mut Reader<'_>) -> Option<AaplQuery> {
    const SERVER_QUERY: u32 = 1;
    if r.u32().ok()? != SERVER_QUERY {
        return None;
    }
    r.skip(4).ok()?;
    Some(AaplQuery {
        request_bitmap: r.u64().ok()?,
        client_caps: r.u64().ok()?,
    })
}

/// Builds the chain of a CREATE response.
#[derive(Debug, Default)]
pub struct ContextWriter {
    out: BytesMut,
    last: usize,
}

impl ContextWriter {
    /// Appends one context: `name` has four bytes.
    fn push(&mut self, name: &[u8; 4], data: &[u8]) {
        pad_to(&mut self.out, 8);
        let at = self.out.len();
        if at != 0 {
            let step = (at - self.last) as u32;
            patch_u32(&mut self.out, self.last, step);
        }
        self.last = at;
        self.out.put_u32_le(0);
        self.out.put_u16_le(16);
        self.out.put_u16_le(4);
        self.out.put_u16_le(0);
        self.out.put_u16_le(if data.is_empty() { 0 } else { 24 });
        self.out.put_u32_le(data.len() as u32);
        self.out.put_slice(name);
        self.out.put_u32_le(0);
        self.out.put_slice(data);
    }

    /// MxAc: status of the query and the access that the user could get (2.2.14.2.5).
    pub fn maximal_access(&mut self, status: u32, access: u32) {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&status.to_le_bytes());
        data[4..].copy_from_slice(&access.to_le_bytes());
        self.push(b"MxAc", &data);
    }

    /// QFid: the ids of document and volume (2.2.14.2.9).
    pub fn disk_id(&mut self, file: u64, volume: u64) {
        let mut data = [0; 32];
        data[..8].copy_from_slice(&file.to_le_bytes());
        data[8..16].copy_from_slice(&volume.to_le_bytes());
        self.push(b"QFid", &data);
    }

    /// RqLs: the granted lease, in the version that the client asked with.
    pub fn lease(&mut self, lease: &LeaseContext) {
        self.push(b"RqLs", &lease.encode());
    }

    /// DHnQ: the open is durable (2.2.14.2.3).
    pub fn durable(&mut self) {
        self.push(b"DHnQ", &[0; 8]);
    }

    /// DH2Q: the open is durable for `timeout_ms` after a disconnect (2.2.14.2.12).
    pub fn durable_v2(&mut self, timeout_ms: u32, flags: u32) {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&timeout_ms.to_le_bytes());
        data[4..].copy_from_slice(&flags.to_le_bytes());
        self.push(b"DH2Q", &data);
    }

    /// AAPL answer to a server query; `caps` and `volume_caps` go out only if asked for.
    pub fn aapl(&mut self, query: &AaplQuery, caps: u64, volume_caps: u64, model: &str) {
        let answered = query.request_bitmap & 7;
        let mut data = BytesMut::with_capacity(64);
        data.put_u32_le(1);
        data.put_u32_le(0);
        data.put_u64_le(answered);
        if answered & 1 != 0 {
            data.put_u64_le(caps);
        }
        if answered & 2 != 0 {
            data.put_u64_le(volume_caps);
        }
        if answered & 4 != 0 {
            let model = to_utf16le(model);
            data.put_u32_le(0);
            data.put_u32_le(model.len() as u32);
            data.put_slice(&model);
        }
        self.push(b"AAPL", &data);
    }

    /// The finished chain; empty if nothing was pushed.
    pub fn finish(self) -> BytesMut {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chain_that_the_server_writes_reads_back() {
        let lease = LeaseContext {
            key: [7; 16],
            state: LEASE_READ | LEASE_HANDLE,
            flags: LEASE_FLAG_PARENT_KEY,
            v2: Some(LeaseV2 {
                parent_key: [9; 16],
                epoch: 3,
            }),
        };
        let mut w = ContextWriter::default();
        w.lease(&lease);
        w.maximal_access(0, 0x1F01FF);
        let chain = w.finish().freeze();
        let back = CreateContexts::decode(&chain).unwrap();
        assert_eq!(back.lease, Some(lease));
        assert!(back.maximal_access);
    }

    #[test]
    fn a_golden_mxac_request_is_recognised() {
        let raw: &[u8] = &[
            0, 0, 0, 0, 16, 0, 4, 0, 0, 0, 24, 0, 0, 0, 0, 0, b'M', b'x', b'A', b'c', 0, 0, 0, 0,
        ];
        assert!(
            CreateContexts::decode(&Bytes::from_static(raw))
                .unwrap()
                .maximal_access
        );
    }

    #[test]
    fn a_chain_that_points_backwards_or_nowhere_is_refused() {
        let mut raw = vec![
            8, 0, 0, 0, 16, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'M', b'x', b'A', b'c', 0, 0, 0, 0,
        ];
        assert!(CreateContexts::decode(&Bytes::from(raw.clone())).is_err());
        raw[0] = 0xF8;
        assert!(CreateContexts::decode(&Bytes::from(raw)).is_err());
    }

    proptest! {
        #[test]
        fn decoder_never_panics(raw in prop::collection::vec(any::<u8>(), 0..160)) {
            let _ = CreateContexts::decode(&Bytes::from(raw));
        }
    }
}
