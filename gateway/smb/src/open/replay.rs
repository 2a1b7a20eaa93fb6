//! CREATE requests by their CreateGuid: replays and duplicates (MS-SMB2 3.3.5.9.10).
//!
//! Owns which guid of which client is being opened or open. An entry lives as long as its request or its
//! handle does.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::SmbOpen;

/// Client GUID and CreateGuid.
type Key = ([u8; 16], [u8; 16]);

enum Slot {
    Pending,
    Open(Weak<SmbOpen>),
}

/// Guids in use.
#[derive(Default)]
pub struct ReplayTable {
    /// Held only for single map operations.
    slots: Mutex<HashMap<Key, Slot>>,
}

/// A guid in use; its drop frees the guid.
pub struct ReplayEntry {
    table: Arc<ReplayTable>,
    key: Key,
}

/// What a guid already stands for.
pub enum Found {
    /// A CREATE that is still waiting.
    Pending,
    /// An open.
    Open(Arc<SmbOpen>),
}

impl ReplayTable {
    /// Takes the guid for a CREATE, or says what it stands for.
    pub fn begin(self: &Arc<Self>, client: [u8; 16], guid: [u8; 16]) -> Result<ReplayEntry, Found> {
        let key = (client, guid);
        let mut slots = self.slots.lock();
        match slots.get(&key) {
            Some(Slot::Pending) => return Err(Found::Pending),
            Some(Slot::Open(open)) => {
                if let Some(open) = open.upgrade() {
                    return Err(Found::Open(open));
                }
            }
            None => {}
        }
        slots.insert(key, Slot::Pending);
        Ok(ReplayEntry {
            table: Arc::clone(self),
            key,
        })
    }
}

impl ReplayEntry {
    /// The CREATE has succeeded.
    pub fn opened(&self, open: &Arc<SmbOpen>) {
        let slot = Slot::Open(Arc::downgrade(open));
        self.table.slots.lock().insert(self.key, slot);
    }
}

impl Drop for ReplayEntry {
    fn drop(&mut self) {
        self.table.slots.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_taken_until_its_entry_goes() {
        let table = Arc::new(ReplayTable::default());
        let entry = table.begin([1; 16], [2; 16]).ok().unwrap();
        assert!(matches!(table.begin([1; 16], [2; 16]), Err(Found::Pending)));
        assert!(table.begin([3; 16], [2; 16]).is_ok());
        drop(entry);
        assert!(table.begin([1; 16], [2; 16]).is_ok());
    }
}
