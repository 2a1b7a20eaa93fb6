//! Where the bytes of one content version are: inline, or in ranges of immutable objects. Owns the encoding that a
//! metadata store keeps; never touches an object.

use bytes::Bytes;

/// Name of an immutable object in the content store; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u128);

/// Bytes that one checksum of an object covers.
pub const CHECK_BLOCK_BYTES: u32 = 64 * 1024;

/// Largest document in bytes.
pub const DOCUMENT_BYTES_MAX: u64 = 1 << 40;

/// An object that a manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its name.
    pub id: ObjectId,
    /// Its length in bytes.
    pub len: u32,
    /// CRC-32C of each block of [`CHECK_BLOCK_BYTES`], the last one possibly shorter.
    pub sums: std::sync::Arc<[u32]>,
}

/// A range of the document that lies in an object. What no extent covers reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position in the document.
    pub offset: u64,
    /// Length in bytes, at least 1.
    pub len: u32,
    /// Index into [`Manifest::objects`].
    pub object: u32,
    /// Position in the object.
    pub object_offset: u32,
}

/// The content of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Length of the document in bytes.
    pub size: u64,
    /// All bytes of a small document; empty if `extents` tell.
    pub inline: Bytes,
    /// The objects that `extents` refer to, each once.
    pub objects: Vec<ObjectRef>,
    /// The ranges in ascending order, not overlapping.
    pub extents: Vec<Extent>,
}
