//! The port to the content store: reading versions, writing new content, keeping house.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::manifest::{Manifest, ObjectId, ObjectRef};
use crate::packs::PackCounts;

/// Bytes that a store has taken and that are to be durable before the commit that names them is.
pub trait Unsettled: Send + Sync + std::fmt::Debug {
    /// Makes them durable, with all others that the same file has taken until now; holds up its thread.
    fn settle(&self) -> Result<()>;

    /// Whether they never will be: the content is to be sealed again.
    fn has_failed(&self) -> bool;
}

/// Content that is ready to be committed.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Where it is; goes into [`crate::Commit`] or [`crate::NewNode`].
    pub manifest: Arc<Manifest>,
    /// The state of the working content that it holds; goes into [`WorkingContent::committed`].
    pub generation: u64,
    /// What the commit has to make durable first ([`crate::Repository::commit_with`]); nothing if the content is durable already.
    pub unsettled: Option<Arc<dyn Unsettled>>,
}

/// Keeps immutable objects and hands out working contents on top of them.
#[async_trait]
pub trait ContentStore: Send + Sync {
    /// Starts a working content whose bytes are those of `base` (`Manifest::default()` for an empty one). Costs nothing
    /// until the first write; serves reads as well.
    fn working(&self, base: Arc<Manifest>) -> Arc<dyn WorkingContent>;

    /// Reads `len` bytes from `offset` of a version, fewer at its end; in as few slices as possible, checksums verified.
    async fn read(&self, manifest: &Manifest, offset: u64, len: u32) -> Result<Vec<Bytes>>;

    /// Bytes in all and bytes free in the store.
    fn room(&self) -> Result<(u64, u64)>;

    /// What the store has done with packs since it was opened; `None` if it has none.
    fn packs(&self) -> Option<PackCounts> {
        None
    }

    /// Whether the store accepts new objects; the error says why not.
    async fn probe(&self) -> Result<()>;

    /// All objects that are stored now, with their length, in no order.
    async fn list(&self) -> Result<Vec<(ObjectId, u64)>>;

    /// The member epoch under which this store makes objects; 0 without a cluster.
    fn uploader(&self) -> u64;

    /// Objects that a living working content of this node needs, uploads in flight included. An object that is stored, was made
    /// under this store's epoch, is not in here and (looked up after this call) not referenced by the repository is garbage for ever.
    fn pinned(&self) -> std::collections::HashSet<ObjectId>;

    /// Deletes objects; one that is not there is no error.
    async fn delete(&self, objects: &[ObjectId]) -> Result<()>;

    /// Makes sure that the store belongs to the repository of this identity: marks it as such at the first call, refuses afterwards
    /// if the mark says another one.
    async fn claim(&self, repository: &str) -> Result<()>;

    /// Reads a whole object past all caches and compares its checksums.
    async fn verify(&self, object: &ObjectRef) -> Result<()>;
}

/// The bytes of one content (main or stream) with changes that are not committed yet; one for each content with
/// opens, shared by all of them. All methods may be called at once from several tasks; a write is seen by every read that starts
/// after it returned.
///
/// Hold it until the commit of what it sealed is answered: the objects of a dropped working content are garbage
/// unless a commit names them.
#[async_trait]
pub trait WorkingContent: Send + Sync {
    /// Length in bytes, uncommitted changes included.
    fn len(&self) -> u64;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether something changed since the last [`Self::committed`].
    fn is_dirty(&self) -> bool;

    /// Bytes that are only in memory: what a crash would lose now.
    fn buffered(&self) -> u64;

    /// Writes at `offset`, extending the content if needed (a gap reads as zeros). Keeps `data` without copying where possible and
    /// begins to store full chunks in the background; waits while too much is in flight. An error of a background store is
    /// told here or by `seal`; the bytes stay readable and are tried again by the next `seal`.
    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;

    /// Writes at the end, wherever that is when the bytes are placed, and says where they went.
    async fn append(&self, data: Bytes) -> Result<u64>;

    /// Reads `len` bytes from `offset`, fewer at the end.
    async fn read(&self, offset: u64, len: u32) -> Result<Vec<Bytes>>;

    /// Cuts or extends (with zeros, sparse).
    async fn set_len(&self, len: u64) -> Result<()>;

    /// Makes a range read as zeros without changing the length; frees its storage where whole chunks are covered.
    async fn punch(&self, offset: u64, len: u64) -> Result<()>;

    /// Ranges within `[offset, offset + len)` that hold data (not holes), ascending.
    fn allocated_ranges(&self, offset: u64, len: u64) -> Vec<(u64, u64)>;

    /// Makes everything written before the call durable and says where it is. Writes may go on meanwhile; they are
    /// not part of it.
    async fn seal(&self) -> Result<Sealed>;

    /// The same, but it may leave it to the commit to make the content durable: one effort for all that are committed together.
    async fn seal_for_commit(&self) -> Result<Sealed> {
        self.seal().await
    }

    /// The repository has committed what `seal` returned.
    fn committed(&self, sealed: &Sealed);

    /// Somebody else has committed `base`: makes the changes that are not committed again on top of it, in their order. Bytes
    /// that were not written here are those of `base`; a length that was cut is cut again, one that grew is at least that.
    /// Not while a seal is under way.
    fn rebase(&self, base: Arc<Manifest>);

    /// Forgets all changes and goes back to `base` (an aborted transfer, a restore by someone else).
    fn reset(&self, base: Arc<Manifest>);
}
