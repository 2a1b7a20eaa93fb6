//! Structures of SMB2/3 on the wire: encode and decode, nothing else.
//!
//! Owns the byte layouts of MS-SMB2, MS-FSCC, MS-DTYP, MS-NLMP and the little of SPNEGO and DCE/RPC
//! that a file server needs. Must never do I/O, read a clock, keep state between messages, or trust a
//! length: every count and offset of a peer is bounded before it is used, and a payload is a slice
//! ([`bytes::Bytes`]) of the received frame, never a copy.
//!
//! Conventions: a request decodes from the *message*, that is the bytes from its SMB2 header on, because
//! offsets in SMB2 bodies count from there. A response body encodes into a buffer whose first byte is
//! message offset 64 ([`header::HEADER_LEN`]).

pub mod cmd;
pub mod codec;
pub mod create_ctx;
pub mod error;
pub mod framing;
pub mod fscc;
pub mod header;
pub mod names;
pub mod ndr;
pub mod ntlm;
pub mod ntstatus;
pub mod security_descriptor;
pub mod spnego;
pub mod transform;

pub use error::{DecodeError, Result};
pub use header::{Command, FileId, Flags, HEADER_LEN, Header};
pub use ntstatus::NtStatus;
