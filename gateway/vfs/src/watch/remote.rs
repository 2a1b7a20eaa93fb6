//! Changes told from node to node. A node where somebody watches says so to all others, again and again; they send it what
//! happens until it has been silent for a while. A node where nobody watches elsewhere sends nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sluice_lockmgr::Note;

use super::Event;
use crate::vfs::Inner;

/// A node that has not said for this long that somebody watches there is sent nothing any more. Three rounds.
const SILENCE: Duration = Duration::from_secs(16);
/// Events that wait to be sent.
const UNSENT_MAX: usize = 4096;
/// Events of one note.
const NOTE_MAX: usize = 512;

#[derive(Serialize, Deserialize)]
enum WatchNote {
    /// Somebody watches on this node.
    Watching(String),
    /// What happened, in its order.
    Events(Vec<Event>),
    /// So much happened that the list was dropped.
    TooMany,
}

/// Nodes where somebody watches, and what is to be told to them.
#[derive(Default)]
pub(super) struct Elsewhere {
    count: AtomicUsize,
    /// Guards the map only.
    nodes: Mutex<HashMap<String, Instant>>,
    /// Guards the list only.
    unsent: Mutex<Unsent>,
}

#[derive(Default)]
struct Unsent {
    events: Vec<Event>,
    overflow: bool,
    sending: bool,
}

impl Elsewhere {
    pub(super) fn nobody(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn heard(&self, node: String) {
        let mut nodes = self.nodes.lock();
        nodes.insert(node, Instant::now());
        self.count.store(nodes.len(), Ordering::Release);
    }

    fn forget_silent(&self) {
        let mut nodes = self.nodes.lock();
        nodes.retain(|_, heard| heard.elapsed() < SILENCE);
        self.count.store(nodes.len(), Ordering::Release);
    }

    fn take(&self) -> Option<WatchNote> {
        let mut unsent = self.unsent.lock();
        if std::mem::take(&mut unsent.overflow) {
            return Some(WatchNote::TooMany);
        }
        if unsent.events.is_empty() {
            unsent.sending = false;
            return None;
        }
        let many = unsent.events.len().min(NOTE_MAX);
        Some(WatchNote::Events(unsent.events.drain(..many).collect()))
    }
}

impl Inner {
    /// Queues events for the nodes where somebody watches.
    pub(super) fn tell_elsewhere(self: &Arc<Self>, events: &[Event]) {
        let elsewhere = &self.watches.state.remote;
        if elsewhere.nobody() {
            return;
        }
        let mut unsent = elsewhere.unsent.lock();
        if unsent.events.len() + events.len() > UNSENT_MAX {
            unsent.events.clear();
            unsent.overflow = true;
        } else {
            for event in events {
                // A document that is written to again and again is told once.
                if unsent.events.last() != Some(event) {
                    unsent.events.push(event.clone());
                }
            }
        }
        if !std::mem::replace(&mut unsent.sending, true) {
            let inner = self.clone();
            self.runtime.spawn(async move {
                while let Some(note) = inner.watches.state.remote.take() {
                    inner.announce_watch(&note);
                    tokio::task::yield_now().await;
                }
            });
        }
    }

    fn announce_watch(&self, note: &WatchNote) {
        if let Ok(bytes) = postcard::to_stdvec(note) {
            self.locks.announce(Note::Changed { bytes });
        }
    }

    /// Tells all nodes that somebody watches here, and waits until they know.
    pub(super) async fn ask_for_changes(&self) {
        let note = WatchNote::Watching(self.node.to_string());
        if let Ok(bytes) = postcard::to_stdvec(&note) {
            self.locks.announce_all(Note::Changed { bytes }).await;
        }
    }

    /// Says again that somebody watches here, and forgets nodes that have not said so.
    pub(crate) fn renew_watches(&self) {
        let hub = &self.watches.state;
        hub.remote.forget_silent();
        if hub.standing.load(Ordering::Acquire) > 0 {
            self.announce_watch(&WatchNote::Watching(self.node.to_string()));
        }
    }

    /// Another node tells of changes or asks for them.
    pub(crate) fn noted_changes(self: &Arc<Self>, bytes: &[u8]) {
        match postcard::from_bytes::<WatchNote>(bytes) {
            Ok(WatchNote::Watching(node)) => self.watches.state.remote.heard(node),
            Ok(WatchNote::Events(events)) => self.publish_here(events),
            Ok(WatchNote::TooMany) => self.watches.state.overflow_all(),
            Err(error) => tracing::warn!(%error, "a note of another node can't be read"),
        }
    }
}
