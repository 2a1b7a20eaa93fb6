//! Durable opens, version 1 and 2 (MS-SMB2 3.3.5.9.6, 3.3.5.9.7, 3.3.5.9.10, 3.3.5.9.12).
//!
//! Owns the opens whose client is gone but may come back. An open that stands in somebody's way is taken
//! away by the file layer; a reconnect then finds it lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sluice_smb_wire::FileId;
use sluice_smb_wire::cmd::create::OPT_DELETE_ON_CLOSE;
use sluice_vfs::UserId;
use tokio::time::Instant;

use super::SmbOpen;

/// How long a version 1 durable open waits, and a version 2 one that left it to the server.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest wait that a client may ask for.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// What makes an open durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableState {
    /// CreateGuid of version 2; `None` is version 1.
    pub create_guid: Option<[u8; 16]>,
    /// How long it waits for its client.
    pub timeout: Duration,
    /// The account that opened it.
    pub user: Option<UserId>,
    /// The client's GUID.
    pub client_guid: [u8; 16],
}

struct Kept {
    open: Arc<SmbOpen>,
    until: Instant,
}

/// Opens that wait for their client, by the persistent half of their handle.
#[derive(Default)]
pub struct DurableTable {
    /// Held only to look up or change the map.
    kept: Mutex<HashMap<u64, Kept>>,
}

impl DurableTable {
    /// Keeps a durable open for its client; false if it isn't durable.
    pub async fn keep(&self, open: &Arc<SmbOpen>) -> bool {
        let Some(disk) = open.disk() else {
            return false;
        };
        let Some(state) = *disk.durable.lock() else {
            return false;
        };
        let mode = disk.mode.load(std::sync::atomic::Ordering::Relaxed);
        if disk.open.delete_pending().await || mode & OPT_DELETE_ON_CLOSE != 0 {
            return false;
        }
        disk.open.disconnect(state.timeout).await;
        let now = Instant::now();
        let mut kept = self.kept.lock();
        kept.retain(|_, k| k.until > now);
        kept.insert(
            open.id.persistent,
            Kept {
                open: Arc::clone(open),
                until: now + state.timeout,
            },
        );
        true
    }

    /// The waiting open with this handle, still waiting.
    pub fn find(&self, id: FileId) -> Option<Arc<SmbOpen>> {
        let kept = self.kept.lock();
        let k = kept.get(&id.persistent)?;
        (k.until > Instant::now()).then(|| Arc::clone(&k.open))
    }

    /// Takes it out: the first of two reconnects wins.
    pub fn take(&self, id: FileId) -> Option<Arc<SmbOpen>> {
        self.kept.lock().remove(&id.persistent).map(|k| k.open)
    }

    /// Takes out all.
    pub fn drain(&self) -> Vec<Arc<SmbOpen>> {
        let kept = std::mem::take(&mut *self.kept.lock());
        kept.into_values().map(|k| k.open).collect()
    }
}
