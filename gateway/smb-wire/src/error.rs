//! Why bytes of a peer are not a message.

/// The reason that a structure could not be decoded. Carries no peer data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The buffer ends before the structure does, or an offset points outside it.
    #[error("the message ends before the structure does")]
    Truncated,
    /// The `StructureSize` field is not the one that the command requires.
    #[error("the structure size field is wrong")]
    StructureSize,
    /// A count or length exceeds the limit that this server sets.
    #[error("a length or count exceeds the limit")]
    TooLarge,
    /// A signature or protocol id is wrong.
    #[error("the protocol identifier is wrong")]
    Protocol,
    /// A field holds a value that the specification forbids; the text names it.
    #[error("invalid field: {0}")]
    Invalid(&'static str),
}

/// Result of a decoder.
pub type Result<T> = core::result::Result<T, DecodeError>;
