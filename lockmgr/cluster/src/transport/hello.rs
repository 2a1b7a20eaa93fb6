//! The first words on a fresh connection: who calls whom, for what, in which versions of the peer protocol, and how far the link
//! between the two is.

use std::fmt;
use std::io;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sluice_lockmgr::Member;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{DialError, Duplex};

/// Versions of the peer protocol (the frames and the messages in them) that a program speaks. On each link the highest that both
/// ends speak is used, so that nodes of two releases work together while a cluster is upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speaks {
    /// The oldest.
    pub oldest: u32,
    /// The newest.
    pub newest: u32,
}

impl Speaks {
    /// This program's.
    pub const OURS: Speaks = Speaks {
        oldest: 1,
        newest: 1,
    };

    /// What two that meet speak.
    #[must_use]
    pub fn common(self, other: Speaks) -> Option<u32> {
        let highest = self.newest.min(other.newest);
        (highest >= self.oldest.max(other.oldest)).then_some(highest)
    }
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

const HELLO_MAX_BYTES: usize = 256;

/// What the caller says. These fields stay as they are in all versions; more may follow, which older ones do not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub speaks: Speaks,
    pub cluster: [u8; 16],
    pub from: Member,
    pub to: Member,
    pub purpose: Purpose,
}

/// Why it calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// To carry the link; the caller has received so many frames of it.
    Link { received: u64 },
    /// To see whether this incarnation answers at this address.
    CallBack,
}

/// What the called one answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Welcome {
    /// `protocol`: the version that both speak from now on.
    Link {
        received: u64,
        protocol: u32,
    },
    CalledBack,
    Refused(Refusal),
}

/// Why a caller that knows the secret is turned away all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the other end speaks peer protocol {0} only; upgrade the older of the two nodes")]
    Protocol(Speaks),
    #[error("the other end belongs to another cluster")]
    OtherCluster,
    #[error("another incarnation or another node answers at this address")]
    NotMe,
    #[error("the other end doesn't know this node as a member (yet, or any more)")]
    Unknown,
    #[error("the other end is calling at the same moment")]
    Busy,
}

impl From<Refusal> for DialError {
    fn from(refusal: Refusal) -> Self {
        DialError::Rejected(refusal.to_string())
    }
}

/// Writes one of the two.
pub(crate) async fn write_word<T: Serialize>(io: &mut dyn Duplex, word: &T) -> io::Result<()> {
    let body = postcard::to_stdvec(word).map_err(io::Error::other)?;
    let length = u16::try_from(body.len()).map_err(io::Error::other)?;
    let mut bytes = BytesMut::with_capacity(body.len() + 2);
    bytes.put_u16_le(length);
    bytes.put_slice(&body);
    io.write_all(&bytes).await?;
    io.flush().await
}

/// Reads one of the two.
pub(crate) async fn read_word<T: DeserializeOwned>(io: &mut dyn Duplex) -> io::Result<T> {
    let length = usize::from(io.read_u16_le().await?);
    if length > HELLO_MAX_BYTES {
        return Err(io::Error::other("the first word is too long"));
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}
