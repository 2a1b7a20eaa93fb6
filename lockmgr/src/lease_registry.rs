//! Which document each lease key is in use for (MS-SMB2 3.3.5.9.8), and by which opens and requests.
//!
//! A lease belongs to a client's connection, so every node keeps the leases of its own clients, wherever their documents
//! are decided. Users are named, so that it does no harm to say twice that one has gone.

use std::collections::HashMap;

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::cache_grant::LeaseId;
use crate::outcome::Denial;
use crate::types::{ResourceId, Ticket};

struct InUse {
    resource: ResourceId,
    /// Requests, and the opens that they became.
    by: SmallVec<[Ticket; 2]>,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct LeaseRegistry {
    /// Protects one part of the keys. Taken alone or after a shard.
    parts: [Mutex<HashMap<LeaseId, InUse>>; 16],
}

impl LeaseRegistry {
    fn part(&self, lease: LeaseId) -> &Mutex<HashMap<LeaseId, InUse>> {
        let sum = lease
            .key
            .iter()
            .chain(&lease.client_guid)
            .fold(0u8, |sum, byte| sum ^ byte);
        &self.parts[usize::from(sum) % 16]
    }

    pub(crate) fn enter(
        &self,
        lease: LeaseId,
        resource: ResourceId,
        by: Ticket,
    ) -> Result<(), Denial> {
        let mut part = self.part(lease).lock();
        let entry = part.entry(lease).or_insert_with(|| InUse {
            resource,
            by: SmallVec::new(),
        });
        if entry.resource != resource {
            return Err(Denial::LeaseKeyInUse);
        }
        if !entry.by.contains(&by) {
            entry.by.push(by);
        }
        Ok(())
    }

    pub(crate) fn leave(&self, lease: LeaseId, by: Ticket) {
        let mut part = self.part(lease).lock();
        if let Some(entry) = part.get_mut(&lease) {
            if let Some(at) = entry.by.iter().position(|b| *b == by) {
                entry.by.swap_remove(at);
            }
            if entry.by.is_empty() {
                part.remove(&lease);
            }
        }
    }

    pub(crate) fn resource(&self, lease: LeaseId) -> Option<ResourceId> {
        self.part(lease)
            .lock()
            .get(&lease)
            .map(|held| held.resource)
    }
}
