//! Portmapper v2 and rpcbind v3/v4 (RFC 1833): enough to tell a client that everything is on this very port.

use crate::xdr::Opaque;

/// Program number of portmapper and rpcbind.
pub const PROGRAM: u32 = 100_000;
/// The portmapper's version.
pub const PORTMAP_VERSION: u32 = 2;
/// Lowest and highest rpcbind versions.
pub const RPCBIND_VERSIONS: (u32, u32) = (3, 4);

/// Procedure that does nothing.
pub const PROC_NULL: u32 = 0;
/// Register (v2 SET, v3 SET): refused.
pub const PROC_SET: u32 = 1;
/// Unregister: refused.
pub const PROC_UNSET: u32 = 2;
/// GETPORT in v2, GETADDR in v3 and v4.
pub const PROC_GET: u32 = 3;
/// List all.
pub const PROC_DUMP: u32 = 4;

/// IP protocol number of TCP.
pub const IPPROTO_TCP: u32 = 6;
/// IP protocol number of UDP.
pub const IPPROTO_UDP: u32 = 17;

xdr_struct! {
    /// One registration of portmapper v2 (`mapping`).
    pub struct Mapping {
        /// Program number.
        pub program: u32,
        /// Program version.
        pub version: u32,
        /// IP protocol number.
        pub protocol: u32,
        /// Port.
        pub port: u32,
    }
}

xdr_struct! {
    /// One registration of rpcbind (`rpcb`).
    pub struct Rpcb {
        /// Program number.
        pub program: u32,
        /// Program version.
        pub version: u32,
        /// Transport: `tcp` or `tcp6`.
        pub netid: Opaque<64>,
        /// Universal address.
        pub address: Opaque<256>,
        /// Owner.
        pub owner: Opaque<256>,
    }
}
