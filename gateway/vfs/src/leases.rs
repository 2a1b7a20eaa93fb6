//! Which content each SMB lease belongs to: an acknowledgement names only the client and the key.

use std::collections::HashMap;

use parking_lot::Mutex;
use sluice_lockmgr as lm;

use crate::error::VfsError;
use crate::request::LeaseState;
use crate::vfs::Inner;

/// Leases with at least one open, and how many.
#[derive(Default)]
pub(crate) struct LeaseTable(Mutex<HashMap<lm::LeaseId, (lm::ResourceId, usize)>>);

impl LeaseTable {
    pub(crate) fn add(&self, lease: lm::LeaseId, resource: lm::ResourceId) {
        let mut table = self.0.lock();
        let entry = table.entry(lease).or_insert((resource, 0));
        entry.0 = resource;
        entry.1 += 1;
    }

    pub(crate) fn remove(&self, lease: lm::LeaseId) {
        let mut table = self.0.lock();
        if let Some(entry) = table.get_mut(&lease) {
            entry.1 -= 1;
            if entry.1 == 0 {
                table.remove(&lease);
            }
        }
    }

    fn resource(&self, lease: lm::LeaseId) -> Option<lm::ResourceId> {
        self.0.lock().get(&lease).map(|(resource, _)| *resource)
    }
}

impl Inner {
    pub(crate) fn acknowledge_lease(
        &self,
        lease: lm::LeaseId,
        state: LeaseState,
    ) -> Result<LeaseState, VfsError> {
        let resource = self.leases.resource(lease).ok_or(VfsError::NotFound)?;
        let kept = self
            .locks
            .acknowledge_break(lm::BreakAck::Lease {
                lease,
                resource,
                state: lm::CacheState::from_bits(state.0),
            })
            .map_err(ack_error)?;
        Ok(LeaseState(kept.bits()))
    }
}

/// A refused acknowledgement in the seam's words.
pub(crate) fn ack_error(error: lm::AckError) -> VfsError {
    match error {
        lm::AckError::NoSuchGrant => VfsError::NotFound,
        lm::AckError::NotBreaking => VfsError::Invalid("no break is under way"),
        lm::AckError::TooMuch => VfsError::Invalid("more was claimed than the break leaves"),
    }
}
