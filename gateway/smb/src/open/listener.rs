//! Callbacks of the file layer as OPLOCK_BREAK notifications (MS-SMB2 3.3.4.6, 3.3.4.7).
//!
//! Runs inside the lock service: builds the message, queues it on a connection and returns.

use std::sync::{Arc, Weak};

use bytes::BytesMut;
use parking_lot::Mutex;
use sluice_smb_wire::FileId;
use sluice_smb_wire::cmd::oplock_break::{LeaseBreak, encode_oplock};
use sluice_vfs::{CacheBreak, CacheListener, OpenId, OplockLevel};

use crate::session::Session;

/// Oplock levels on the wire (MS-SMB2 2.2.13).
pub fn wire_level(level: OplockLevel) -> u8 {
    match level {
        OplockLevel::None => 0x00,
        OplockLevel::LevelTwo => 0x01,
        OplockLevel::Exclusive => 0x08,
        OplockLevel::Batch => 0x09,
    }
}

/// Knows which session holds an open, and tells it about breaks.
pub struct OpenListener {
    file_id: FileId,
    /// The session; changes when a durable open is reconnected. Held only to clone or replace the link.
    session: Mutex<Weak<Session>>,
}

impl OpenListener {
    /// A listener for the open that will have this handle.
    pub fn new(file_id: FileId, session: &Arc<Session>) -> Arc<Self> {
        Arc::new(Self {
            file_id,
            session: Mutex::new(Arc::downgrade(session)),
        })
    }

    /// From now on this session hears of breaks (reconnect of a durable open).
    pub fn attach(&self, session: &Arc<Session>) {
        *self.session.lock() = Arc::downgrade(session);
    }

    fn send(&self, body: BytesMut) {
        let session = self.session.lock().upgrade();
        if !session.is_some_and(|s| s.send_break(body)) {
            tracing::debug!(
                file = self.file_id.volatile,
                "no connection to send a break over; its timer ends it"
            );
        }
    }
}

impl CacheListener for OpenListener {
    fn on_break(&self, notice: CacheBreak) {
        match notice {
            CacheBreak::Oplock { to, .. } => self.send(encode_oplock(self.file_id, wire_level(to))),
            CacheBreak::Lease {
                key,
                from,
                to,
                ack_required,
                epoch,
            } => {
                let notice = LeaseBreak {
                    epoch,
                    ack_required,
                    key: key.0,
                    current: from.0,
                    new: to.0,
                };
                self.send(notice.encode());
            }
            CacheBreak::Delegation { .. } => {}
        }
    }

    fn on_revoked(&self, open: OpenId) {
        // Requests on the handle find the open lost; the client learns it from their answers.
        tracing::info!(open = open.0, "an open was revoked");
    }
}
