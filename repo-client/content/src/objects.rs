//! The port to whatever keeps objects: a folder here, an object service elsewhere.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sluice_repo::{ObjectId, PackCounts, Result, Unsettled};

/// Keeps immutable objects by name.
#[async_trait]
pub trait Objects: Send + Sync {
    /// Documents up to this length are cheaper in the metadata than in an object here; `alone`: no other one is on its way to its commit.
    fn inline_bytes(&self, _alone: bool) -> u64 {
        64 << 10
    }

    /// A place for a new object of this length among others, if the store has one: the object is then stored under that name. The place
    /// is the caller's for ever; one that it does not use stays empty.
    fn place(&self, _len: u64) -> Option<ObjectId> {
        None
    }

    /// What was done with packs since the start, if the store has some.
    fn packs(&self) -> Option<PackCounts> {
        None
    }

    /// Stores a new object; returns when it would survive a loss of power. After an error the object may exist, whole
    /// or in part; the name is not used again.
    async fn put(&self, id: ObjectId, parts: Vec<Bytes>) -> Result<()>;

    /// Takes a new object as [`Objects::put`] does, but may leave it to the caller to make it durable.
    async fn take(&self, id: ObjectId, parts: Vec<Bytes>) -> Result<Option<Arc<dyn Unsettled>>> {
        self.put(id, parts).await.map(|()| None)
    }

    /// Reads ranges `(offset, len)` of an object; `Corrupt` if it is missing or too short.
    async fn get(&self, id: ObjectId, ranges: Vec<(u32, u32)>) -> Result<Vec<Bytes>>;

    /// Whether reading the same again is cheap because the system keeps it in memory.
    fn kept_by_system(&self) -> bool {
        false
    }

    /// Deletes objects; one that is not there is no error.
    async fn delete(&self, ids: &[ObjectId]) -> Result<()>;

    /// Marks the store as the repository's of this identity; `InUse` if it is marked as another's already.
    async fn claim(&self, repository: &str) -> Result<()>;

    /// All objects with their length.
    async fn list(&self) -> Result<Vec<(ObjectId, u64)>>;

    /// Bytes in all and bytes free.
    fn room(&self) -> Result<(u64, u64)>;
}
