//! RPC authentication (RFC 5531 section 8 and appendix A): AUTH_NONE, AUTH_SYS, and refusal of the rest.

use crate::xdr::{Decoder, Encoder, Opaque, Xdr, XdrError};
use bytes::Bytes;

/// Longest credential or verifier body (RFC 5531 8.2).
pub const AUTH_BODY_MAX: u32 = 400;
/// Most supplementary groups in AUTH_SYS.
pub const AUTH_SYS_GIDS_MAX: u32 = 16;

/// Flavor number of AUTH_NONE.
pub const AUTH_NONE: u32 = 0;
/// Flavor number of AUTH_SYS.
pub const AUTH_SYS: u32 = 1;
/// Flavor number of AUTH_TLS (RFC 9289): a client asks whether TLS is offered.
pub const AUTH_TLS: u32 = 7;

xdr_struct! {
    /// A credential or verifier as it stands in a message (`opaque_auth`).
    pub struct OpaqueAuth {
        /// What kind of body follows.
        pub flavor: u32,
        /// Flavor's own content.
        pub body: Opaque<AUTH_BODY_MAX>,
    }
}

impl OpaqueAuth {
    /// The empty AUTH_NONE.
    pub fn none() -> Self {
        Self {
            flavor: AUTH_NONE,
            body: Opaque(Bytes::new()),
        }
    }
}

/// AUTH_SYS parameters (`authsys_parms`): who the client says the caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSys {
    /// Arbitrary number of the client.
    pub stamp: u32,
    /// The client machine's name.
    pub machine_name: Opaque<255>,
    /// The caller's user id.
    pub uid: u32,
    /// The caller's primary group.
    pub gid: u32,
    /// The caller's other groups, at most 16.
    pub gids: Vec<u32>,
}

impl Xdr for AuthSys {
    fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        Ok(Self {
            stamp: d.u32()?,
            machine_name: d.get()?,
            uid: d.u32()?,
            gid: d.u32()?,
            gids: d.array(AUTH_SYS_GIDS_MAX)?,
        })
    }
    fn encode(&self, e: &mut Encoder) {
        e.u32(self.stamp);
        e.put(&self.machine_name);
        e.u32(self.uid);
        e.u32(self.gid);
        e.u32(self.gids.len() as u32);
        for gid in &self.gids {
            e.u32(*gid);
        }
    }
}

xdr_enum! {
    /// Why authentication failed (`auth_stat`).
    pub enum AuthStat {
        /// Success.
        Ok = 0,
        /// The credential is malformed.
        BadCred = 1,
        /// The client must begin anew.
        RejectedCred = 2,
        /// The verifier is malformed.
        BadVerf = 3,
        /// The verifier is expired or replayed.
        RejectedVerf = 4,
        /// Rejected for security reasons.
        TooWeak = 5,
    }
}
