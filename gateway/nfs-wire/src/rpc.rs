//! ONC RPC version 2 messages (RFC 5531 section 9): calls in, replies out, and the reverse for callbacks.

use crate::auth::{AuthStat, OpaqueAuth};
use crate::xdr::{Decoder, Encoder, Xdr, XdrError};

const CALL: u32 = 0;
const REPLY: u32 = 1;
/// The only RPC version there is.
const RPC_VERSION: u32 = 2;
const MSG_ACCEPTED: u32 = 0;
const MSG_DENIED: u32 = 1;
const RPC_MISMATCH: u32 = 0;
const AUTH_ERROR: u32 = 1;

xdr_struct! {
    /// What a call asks for, up to its arguments (`call_body`).
    pub struct CallHeader {
        /// Program number.
        pub program: u32,
        /// Program version.
        pub version: u32,
        /// Procedure number.
        pub procedure: u32,
        /// Who calls.
        pub cred: OpaqueAuth,
        /// Proof of who calls.
        pub verf: OpaqueAuth,
    }
}

/// A record that starts as an RPC call does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A call of RPC version 2; its arguments remain in the decoder.
    Call(u32, CallHeader),
    /// A call of some other RPC version, with its transaction id.
    WrongRpcVersion(u32),
    /// A reply (to a callback) with its transaction id; its body remains in the decoder.
    Reply(u32),
}

/// Reads the head of a record.
pub fn decode_incoming(d: &mut Decoder) -> Result<Incoming, XdrError> {
    let xid = d.u32()?;
    match d.u32()? {
        CALL => {
            if d.u32()? != RPC_VERSION {
                return Ok(Incoming::WrongRpcVersion(xid));
            }
            Ok(Incoming::Call(xid, d.get()?))
        }
        REPLY => Ok(Incoming::Reply(xid)),
        value => Err(XdrError::BadEnum {
            what: "msg_type",
            value,
        }),
    }
}

/// The head of a reply, up to the results (`accept_stat`, `reject_stat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHead {
    /// The results follow.
    Success,
    /// No such program here.
    ProgUnavail,
    /// The program is here in these versions only.
    ProgMismatch {
        /// Lowest version served.
        low: u32,
        /// Highest version served.
        high: u32,
    },
    /// No such procedure.
    ProcUnavail,
    /// The arguments can't be decoded.
    GarbageArgs,
    /// The server can't answer (out of memory, stopping).
    SystemErr,
    /// RPC version other than 2.
    RpcMismatch,
    /// The credential was refused.
    AuthError(AuthStat),
}

impl ReplyHead {
    /// Appends a reply's head for this transaction; after [`ReplyHead::Success`] the results follow.
    pub fn encode(self, xid: u32, e: &mut Encoder) {
        e.u32(xid);
        e.u32(REPLY);
        match self {
            Self::RpcMismatch => {
                e.u32(MSG_DENIED);
                e.u32(RPC_MISMATCH);
                e.u32(RPC_VERSION);
                e.u32(RPC_VERSION);
                return;
            }
            Self::AuthError(stat) => {
                e.u32(MSG_DENIED);
                e.u32(AUTH_ERROR);
                e.put(&stat);
                return;
            }
            _ => {}
        }
        e.u32(MSG_ACCEPTED);
        e.put(&OpaqueAuth::none());
        match self {
            Self::Success => e.u32(0),
            Self::ProgUnavail => e.u32(1),
            Self::ProgMismatch { low, high } => {
                e.u32(2);
                e.u32(low);
                e.u32(high);
            }
            Self::ProcUnavail => e.u32(3),
            Self::GarbageArgs => e.u32(4),
            Self::SystemErr | Self::RpcMismatch | Self::AuthError(_) => e.u32(5),
        }
    }

    /// Reads a reply's head after its transaction id and message type (as [`Incoming::Reply`] leaves it).
    pub fn decode(d: &mut Decoder) -> Result<Self, XdrError> {
        match d.u32()? {
            MSG_ACCEPTED => {}
            MSG_DENIED => return Self::decode_denied(d),
            value => {
                return Err(XdrError::BadEnum {
                    what: "reply_stat",
                    value,
                });
            }
        }
        let _verf: OpaqueAuth = d.get()?;
        match d.u32()? {
            0 => Ok(Self::Success),
            1 => Ok(Self::ProgUnavail),
            2 => Ok(Self::ProgMismatch {
                low: d.u32()?,
                high: d.u32()?,
            }),
            3 => Ok(Self::ProcUnavail),
            4 => Ok(Self::GarbageArgs),
            5 => Ok(Self::SystemErr),
            value => Err(XdrError::BadEnum {
                what: "accept_stat",
                value,
            }),
        }
    }

    fn decode_denied(d: &mut Decoder) -> Result<Self, XdrError> {
        match d.u32()? {
            RPC_MISMATCH => {
                let (_low, _high) = (d.u32()?, d.u32()?);
                Ok(Self::RpcMismatch)
            }
            AUTH_ERROR => Ok(Self::AuthError(d.get()?)),
            value => Err(XdrError::BadEnum {
                what: "reject_stat",
                value,
            }),
        }
    }
}

/// Appends a call's head; the arguments follow.
pub fn encode_call(xid: u32, header: &CallHeader, e: &mut Encoder) {
    e.u32(xid);
    e.u32(CALL);
    e.u32(RPC_VERSION);
    header.encode(e);
}
