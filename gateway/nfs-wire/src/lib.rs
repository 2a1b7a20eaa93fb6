//! Wire formats of the NFS family: XDR, ONC RPC v2, portmapper, MOUNT, NFSv3, NLM and NSM.
//!
//! Owns the byte layout and nothing else: no sockets, no clock, no runtime, no file semantics. Decoders take
//! [`bytes::Bytes`] and hand out slices of it, so a WRITE payload is never copied; encoders collect segments
//! for a vectored write, so a READ payload is never copied either. Every length that a peer states is checked
//! against a limit and against the bytes that are really there before anything is allocated.
//!
//! Specifications: RFC 4506 (XDR), RFC 5531 (RPC), RFC 1833 (portmapper), RFC 1813 (NFSv3, MOUNT v3, NLM v4),
//! RFC 1094 (MOUNT v1), RFC 9289 (the TLS probe, which is recognised and refused).

#[macro_use]
mod macros;

pub mod auth;
pub mod mount;
pub mod nfs3;
pub mod nlm;
pub mod nsm;
pub mod portmap;
pub mod record;
pub mod rpc;
pub mod xdr;

pub use xdr::{Decoder, Encoder, Xdr, XdrError};
