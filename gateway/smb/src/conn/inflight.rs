//! Requests that have not been answered, so that CANCEL and teardown find them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Requests of one connection that outlived their first poll. Async ids are per connection.
pub struct Inflight {
    /// By message id; guarded for the length of one map operation.
    by_message: Mutex<HashMap<u64, Entry>>,
    next_async_id: AtomicU64,
}

struct Entry {
    cancel: CancellationToken,
    async_id: Option<u64>,
}

impl Default for Inflight {
    fn default() -> Self {
        Inflight {
            by_message: Mutex::default(),
            next_async_id: AtomicU64::new(1),
        }
    }
}

impl Inflight {
    /// Makes a request known to CANCEL until the returned guard is dropped.
    pub fn enter(&self, message_id: u64, cancel: CancellationToken) -> InflightGuard<'_> {
        let entry = Entry {
            cancel,
            async_id: None,
        };
        self.by_message.lock().insert(message_id, entry);
        InflightGuard {
            table: self,
            message_id,
        }
    }

    /// Cancels by async id if the CANCEL header has one, else by message id. Returns whether it found any.
    pub fn cancel(&self, message_id: u64, async_id: Option<u64>) -> bool {
        let table = self.by_message.lock();
        let entry = match async_id {
            // CANCEL is rare; a scan is cheaper than a second index on every pending request.
            Some(id) => table.values().find(|e| e.async_id == Some(id)),
            None => table.get(&message_id),
        };
        if let Some(entry) = entry {
            entry.cancel.cancel();
        }
        entry.is_some()
    }
}

/// Takes its request out of the table when dropped.
pub struct InflightGuard<'a> {
    table: &'a Inflight,
    message_id: u64,
}

impl InflightGuard<'_> {
    /// Gives the request an async id.
    pub fn go_async(&self) -> u64 {
        let id = self.table.next_async_id.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = self.table.by_message.lock().get_mut(&self.message_id) {
            entry.async_id = Some(id);
        }
        id
    }
}

impl Drop for InflightGuard<'_> {
    fn drop(&mut self) {
        self.table.by_message.lock().remove(&self.message_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_cancelled_by_message_id_or_async_id_until_it_ends() {
        let table = Inflight::default();
        let (a, b) = (CancellationToken::new(), CancellationToken::new());
        let first = table.enter(7, a.clone());
        let second = table.enter(8, b.clone());
        let id = second.go_async();
        assert!(table.cancel(7, None) && a.is_cancelled());
        assert!(table.cancel(999, Some(id)) && b.is_cancelled());
        assert!(!table.cancel(0, Some(id + 1)));
        drop((first, second));
        assert!(!table.cancel(7, None));
    }
}
