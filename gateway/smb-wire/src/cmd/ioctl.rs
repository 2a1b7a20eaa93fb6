//! IOCTL (MS-SMB2 2.2.31, 2.2.32) and the structures of the control codes that the server answers.

use bytes::{BufMut, Bytes, BytesMut};

use crate::codec::{Reader, slice_at};
use crate::error::{DecodeError, Result};
use crate::header::FileId;

/// FSCTL_DFS_GET_REFERRALS.
pub const DFS_GET_REFERRALS: u32 = 0x0006_0194;
/// FSCTL_DFS_GET_REFERRALS_EX.
pub const DFS_GET_REFERRALS_EX: u32 = 0x0006_01B0;
/// FSCTL_PIPE_PEEK.
pub const PIPE_PEEK: u32 = 0x0011_400C;
/// FSCTL_PIPE_WAIT.
pub const PIPE_WAIT: u32 = 0x0011_0018;
/// FSCTL_PIPE_TRANSCEIVE.
pub const PIPE_TRANSCEIVE: u32 = 0x0011_C017;
/// FSCTL_SRV_COPYCHUNK.
pub const SRV_COPYCHUNK: u32 = 0x0014_40F2;
/// FSCTL_SRV_COPYCHUNK_WRITE.
pub const SRV_COPYCHUNK_WRITE: u32 = 0x0014_80F2;
/// FSCTL_SRV_ENUMERATE_SNAPSHOTS.
pub const SRV_ENUMERATE_SNAPSHOTS: u32 = 0x0014_4064;
/// FSCTL_SRV_REQUEST_RESUME_KEY.
pub const SRV_REQUEST_RESUME_KEY: u32 = 0x0014_0078;
/// FSCTL_LMR_REQUEST_RESILIENCY.
pub const LMR_REQUEST_RESILIENCY: u32 = 0x0014_01D4;
/// FSCTL_QUERY_NETWORK_INTERFACE_INFO.
pub const QUERY_NETWORK_INTERFACE_INFO: u32 = 0x0014_01FC;
/// FSCTL_VALIDATE_NEGOTIATE_INFO.
pub const VALIDATE_NEGOTIATE_INFO: u32 = 0x0014_0204;
/// FSCTL_GET_COMPRESSION.
pub const GET_COMPRESSION: u32 = 0x0009_003C;
/// FSCTL_SET_COMPRESSION.
pub const SET_COMPRESSION: u32 = 0x0009_C040;
/// FSCTL_GET_OBJECT_ID.
pub const GET_OBJECT_ID: u32 = 0x0009_009C;
/// FSCTL_CREATE_OR_GET_OBJECT_ID.
pub const CREATE_OR_GET_OBJECT_ID: u32 = 0x0009_00C0;
/// FSCTL_SET_SPARSE.
pub const SET_SPARSE: u32 = 0x0009_00C4;
/// FSCTL_SET_ZERO_DATA.
pub const SET_ZERO_DATA: u32 = 0x0009_80C8;
/// FSCTL_QUERY_ALLOCATED_RANGES.
pub const QUERY_ALLOCATED_RANGES: u32 = 0x0009_40CF;
/// FSCTL_GET_REPARSE_POINT.
pub const GET_REPARSE_POINT: u32 = 0x0009_00A8;
/// FSCTL_SET_REPARSE_POINT.
pub const SET_REPARSE_POINT: u32 = 0x0009_00A4;
/// FSCTL_IS_PATHNAME_VALID.
pub const IS_PATHNAME_VALID: u32 = 0x0009_002C;
/// FSCTL_QUERY_FILE_REGIONS.
pub const QUERY_FILE_REGIONS: u32 = 0x0009_0284;

/// SMB2_0_IOCTL_IS_FSCTL: the only kind of request the server answers.
pub const IS_FSCTL: u32 = 0x0000_0001;

/// An IOCTL request.
#[derive(Clone, Debug)]
pub struct IoctlRequest {
    /// CtlCode.
    pub code: u32,
    /// The handle, or all ones.
    pub file_id: FileId,
    /// Input bytes.
    pub input: Bytes,
    /// Most input bytes that may come back.
    pub max_input: u32,
    /// Most output bytes that may come back.
    pub max_output: u32,
    /// Flags.
    pub flags: u32,
}

impl IoctlRequest {
    /// Decodes the request; `message` starts with its SMB2 header.
    pub fn decode(message: &Bytes) -> Result<Self> {
        let mut r = Reader::body(message, 57)?;
        r.skip(2)?;
        let code = r.u32()?;
        let file_id = FileId::decode(&mut r)?;
        let (input_at, input_len) = (r.u32()?, r.u32()?);
        let max_input = r.u32()?;
        r.skip(8)?;
        let max_output = r.u32()?;
        let flags = r.u32()?;
        Ok(Self {
            code,
            file_id,
            input: slice_at(message, input_at as usize, input_len as usize)?,
            max_input,
            max_output,
            flags,
        })
    }
}

/// The fixed part of an IOCTL response; `output_len` bytes of output follow it.
pub fn encode_response_head(code: u32, file_id: FileId, output_len: u32) -> BytesMut {
    let at = (crate::header::HEADER_LEN + 48) as u32;
    let mut w = BytesMut::with_capacity(48);
    w.put_u16_le(49);
    w.put_u16_le(0);
    w.put_u32_le(code);
    file_id.encode(&mut w);
    w.put_u32_le(at);
    w.put_u32_le(0);
    w.put_u32_le(at);
    w.put_u32_le(output_len);
    w.put_u32_le(0);
    w.put_u32_le(0);
    w
}

/// One chunk of a server-side copy (MS-SMB2 2.2.31.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyChunk {
    /// From this byte of the source.
    pub source_offset: u64,
    /// To this byte of the target.
    pub target_offset: u64,
    /// Bytes to copy.
    pub length: u32,
}

/// Length of a resume key in bytes.
pub const RESUME_KEY_LEN: usize = 24;

/// A server-side copy (MS-SMB2 2.2.31.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyChunkRequest {
    /// Names the source, as an earlier resume key request returned it.
    pub source_key: [u8; RESUME_KEY_LEN],
    /// ChunkCount as sent.
    pub chunk_count: u32,
    /// The chunks, at most `max_chunks`; empty when `chunk_count` exceeds it.
    pub chunks: Vec<CopyChunk>,
}

impl CopyChunkRequest {
    /// Decodes the input buffer; more chunks than `max_chunks` are counted but not read.
    pub fn decode(input: &Bytes, max_chunks: u32) -> Result<Self> {
        let mut r = Reader::new(input);
        let source_key = r.array()?;
        let chunk_count = r.u32()?;
        r.skip(4)?;
        let mut chunks = Vec::new();
        if chunk_count <= max_chunks {
            if (r.remaining() as u64) < u64::from(chunk_count) * 24 {
                return Err(DecodeError::Truncated);
            }
            for _ in 0..chunk_count {
                let chunk = CopyChunk {
                    source_offset: r.u64()?,
                    target_offset: r.u64()?,
                    length: r.u32()?,
                };
                r.skip(4)?;
                chunks.push(chunk);
            }
        }
        Ok(Self {
            source_key,
            chunk_count,
            chunks,
        })
    }
}

/// SRV_COPYCHUNK_RESPONSE (MS-SMB2 2.2.32.1): chunks written, bytes of a partial chunk, bytes in all.
pub fn encode_copychunk_response(chunks: u32, chunk_bytes: u32, total_bytes: u32) -> BytesMut {
    let mut w = BytesMut::with_capacity(12);
    w.put_u32_le(chunks);
    w.put_u32_le(chunk_bytes);
    w.put_u32_le(total_bytes);
    w
}

/// SRV_REQUEST_RESUME_KEY response (MS-SMB2 2.2.32.3).
pub fn encode_resume_key_response(key: &[u8; RESUME_KEY_LEN]) -> BytesMut {
    let mut w = BytesMut::with_capacity(32);
    w.put_slice(key);
    w.put_u32_le(0);
    w.put_u32_le(0);
    w
}

/// FILE_ZERO_DATA_INFORMATION (MS-FSCC 2.3.73): first byte and the byte after the last.
pub fn decode_zero_data(input: &Bytes) -> Result<(u64, u64)> {
    let mut r = Reader::new(input);
    let (from, to) = ((r.u64()? as i64), (r.u64()? as i64));
    if from < 0 || to < from {
        return Err(DecodeError::Invalid("the zero range"));
    }
    Ok((from as u64, to as u64))
}

/// FILE_ALLOCATED_RANGE_BUFFER (MS-FSCC 2.3.52): first byte and length.
pub fn decode_allocated_range(input: &Bytes) -> Result<(u64, u64)> {
    let mut r = Reader::new(input);
    let (from, len) = ((r.u64()? as i64), (r.u64()? as i64));
    if from < 0 || len < 0 || from.checked_add(len).is_none() {
        return Err(DecodeError::Invalid("the allocated range"));
    }
    Ok((from as u64, len as u64))
}

/// FSCTL_VALIDATE_NEGOTIATE_INFO request (MS-SMB2 2.2.31.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidateNegotiate {
    /// Client capabilities.
    pub capabilities: u32,
    /// Client GUID.
    pub client_guid: [u8; 16],
    /// Client security mode.
    pub security_mode: u16,
    /// The dialects that the client offered.
    pub dialects: Vec<u16>,
}

impl ValidateNegotiate {
    /// Decodes the input buffer.
    pub fn decode(input: &Bytes) -> Result<Self> {
        let mut r = Reader::new(input);
        let capabilities = r.u32()?;
        let client_guid = r.array()?;
        let security_mode = r.u16()?;
        let count = usize::from(r.u16()?);
        if r.remaining() < count * 2 {
            return Err(DecodeError::Truncated);
        }
        let dialects = (0..count).map(|_| r.u16()).collect::<Result<_>>()?;
        Ok(Self {
            capabilities,
            client_guid,
            security_mode,
            dialects,
        })
    }
}

/// FSCTL_VALIDATE_NEGOTIATE_INFO response (MS-SMB2 2.2.32.6).
pub fn encode_validate_negotiate(
    capabilities: u32,
    server_guid: &[u8; 16],
    security_mode: u16,
    dialect: u16,
) -> BytesMut {
    let mut w = BytesMut::with_capacity(24);
    w.put_u32_le(capabilities);
    w.put_slice(server_guid);
    w.put_u16_le(security_mode);
    w.put_u16_le(dialect);
    w
}

/// One entry of FSCTL_QUERY_NETWORK_INTERFACE_INFO (MS-SMB2 2.2.32.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    /// Interface index.
    pub index: u32,
    /// Bits a second.
    pub link_speed: u64,
    /// Its address.
    pub address: std::net::IpAddr,
}

/// Encodes the interface list.
pub fn encode_network_interfaces(interfaces: &[NetworkInterface]) -> BytesMut {
    const ENTRY_LEN: usize = 152;
    let mut w = BytesMut::with_capacity(interfaces.len() * ENTRY_LEN);
    for (i, itf) in interfaces.iter().enumerate() {
        let start = w.len();
        let next = if i + 1 == interfaces.len() {
            0
        } else {
            ENTRY_LEN as u32
        };
        w.put_u32_le(next);
        w.put_u32_le(itf.index);
        w.put_u32_le(0);
        w.put_u32_le(0);
        w.put_u64_le(itf.link_speed);
        match itf.address {
            std::net::IpAddr::V4(a) => {
                w.put_u32_le(2);
                w.put_slice(&a.octets());
            }
            std::net::IpAddr::V6(a) => {
                w.put_u32_le(23);
                w.put_u32_le(0);
                w.put_slice(&a.octets());
            }
        }
        w.resize(start + ENTRY_LEN, 0);
    }
    w
}
