//! Change notification: what happened in a folder, told to those who watch it.
//!
//! Mutations put events into one queue, in their order; one task resolves where they happened and hands them to the watches
//! of that folder and, if somebody watches a tree, of the folders above. Costs a mutation one atomic load while nobody
//! watches, on any node. Never holds up a mutation; a watch that is not read loses its list, not the server its memory.

mod remote;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sluice_repo::{ContentId, NodeId, NodeKind};
use tokio::sync::Notify;

use crate::error::VfsError;
use crate::share::Share;
use crate::vfs::Inner;

/// What a watcher wants to hear of (bits as in MS-SMB2 2.2.35 CompletionFilter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeFilter(pub u32);

#[allow(missing_docs, reason = "the bits are named as in MS-SMB2 2.2.35")]
impl ChangeFilter {
    pub const FILE_NAME: u32 = 0x001;
    pub const DIR_NAME: u32 = 0x002;
    pub const ATTRIBUTES: u32 = 0x004;
    pub const SIZE: u32 = 0x008;
    pub const LAST_WRITE: u32 = 0x010;
    pub const LAST_ACCESS: u32 = 0x020;
    pub const CREATION: u32 = 0x040;
    pub const EA: u32 = 0x080;
    pub const SECURITY: u32 = 0x100;
    pub const STREAM_NAME: u32 = 0x200;
    pub const STREAM_SIZE: u32 = 0x400;
    pub const STREAM_WRITE: u32 = 0x800;
}

/// What happened (MS-FSCC 2.7.1, and the bits of it that a filter selects).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeAction {
    /// A name appeared.
    Added,
    /// A name went.
    Removed,
    /// Content or attributes changed.
    Modified,
    /// The old name of a rename.
    RenamedFrom,
    /// The new name of a rename, right after the old one.
    RenamedTo,
    /// A stream appeared.
    StreamAdded,
    /// A stream went.
    StreamRemoved,
    /// A stream changed.
    StreamModified,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What.
    pub action: ChangeAction,
    /// Path from the watched folder, `/`-separated; a stream's name after a `:`.
    pub path: String,
}

/// A standing watch; dropping it ends it.
pub struct Watch {
    dir: NodeId,
    hub: Arc<HubState>,
    post: Arc<Post>,
}

impl Watch {
    /// The watched folder.
    pub fn dir(&self) -> NodeId {
        self.dir
    }

    /// Waits for changes and returns all that came since the last call, in order; `Ok(None)`: so many came that the list was
    /// dropped, read the folder anew. [`crate::VfsError::DeletePending`]: the folder itself is being deleted.
    pub async fn next(&mut self) -> Result<Option<Vec<Change>>, VfsError> {
        loop {
            if let Some(result) = self.post.take() {
                return result;
            }
            // A permit is stored by a change that comes in between.
            self.post.ready.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.leave(self.dir, &self.post);
    }
}

/// Changes that a watch keeps for its reader.
const CHANGES_MAX: usize = 4096;
/// Events that wait to be told.
const EVENTS_MAX: usize = 65_536;
/// Folders whose place is remembered.
const PLACES_MAX: usize = 4096;

/// Where one watch's changes wait.
struct Post {
    filter: ChangeFilter,
    recursive: bool,
    /// Guards the letters only.
    letters: Mutex<Letters>,
    ready: Notify,
}

#[derive(Default)]
struct Letters {
    changes: Vec<Change>,
    overflow: bool,
    gone: bool,
}

impl Post {
    fn take(&self) -> Option<Result<Option<Vec<Change>>, VfsError>> {
        let mut letters = self.letters.lock();
        if letters.overflow {
            letters.overflow = false;
            return Some(Ok(None));
        }
        if !letters.changes.is_empty() {
            return Some(Ok(Some(std::mem::take(&mut letters.changes))));
        }
        letters.gone.then_some(Err(VfsError::DeletePending))
    }

    fn put(&self, bits: u32, change: Change) {
        if self.filter.0 & bits == 0 {
            return;
        }
        let mut letters = self.letters.lock();
        if letters.overflow || letters.changes.last() == Some(&change) {
            return;
        }
        if letters.changes.len() >= CHANGES_MAX {
            letters.changes.clear();
            letters.overflow = true;
        } else {
            letters.changes.push(change);
        }
        drop(letters);
        self.ready.notify_one();
    }

    fn overflow(&self) {
        let mut letters = self.letters.lock();
        letters.changes.clear();
        letters.overflow = true;
        drop(letters);
        self.ready.notify_one();
    }

    fn close(&self) {
        self.letters.lock().gone = true;
        self.ready.notify_one();
    }
}

/// Something happened to the entry `name` of `dir`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EntryEvent {
    action: ChangeAction,
    bits: u32,
    dir: NodeId,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Event {
    Entry(EntryEvent),
    /// Something happened to a node (or its stream), wherever it is.
    Node {
        action: ChangeAction,
        bits: u32,
        node: NodeId,
        stream: Option<String>,
    },
    /// A folder has another name now.
    FolderMoved,
    /// A folder is gone.
    FolderGone(NodeId),
}

/// The watches of this node.
#[derive(Default)]
pub(crate) struct WatchHub {
    state: Arc<HubState>,
}

#[derive(Default)]
struct HubState {
    /// Watches that stand.
    standing: AtomicUsize,
    /// Of them those of trees.
    recursive: AtomicUsize,
    /// Guards the map only; taken before a post's letters, never after.
    posts: Mutex<HashMap<NodeId, Vec<Arc<Post>>>>,
    /// Guards the queue only.
    queue: Mutex<Queue>,
    /// Other nodes where somebody watches.
    remote: remote::Elsewhere,
    /// Where folders are, while somebody watches; so an event is told rightly although its folder was removed right after.
    /// Guards the map only.
    places: Mutex<HashMap<NodeId, Place>>,
}

/// From the root down to a folder: `(parent, name)`.
type Place = Arc<Vec<(NodeId, Arc<str>)>>;

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    draining: bool,
}

impl HubState {
    fn idle(&self) -> bool {
        self.standing.load(Ordering::Acquire) == 0 && self.remote.nobody()
    }

    fn join(self: &Arc<Self>, dir: NodeId, filter: ChangeFilter, recursive: bool) -> Watch {
        let post = Arc::new(Post {
            filter,
            recursive,
            letters: Mutex::default(),
            ready: Notify::new(),
        });
        self.posts
            .lock()
            .entry(dir)
            .or_default()
            .push(Arc::clone(&post));
        self.recursive
            .fetch_add(usize::from(recursive), Ordering::AcqRel);
        if self.standing.fetch_add(1, Ordering::AcqRel) == 0 {
            // Moves were not told while nobody watched.
            self.places.lock().clear();
        }
        Watch {
            dir,
            hub: Arc::clone(self),
            post,
        }
    }

    fn leave(&self, dir: NodeId, post: &Arc<Post>) {
        let mut posts = self.posts.lock();
        if let Some(here) = posts.get_mut(&dir) {
            here.retain(|other| !Arc::ptr_eq(other, post));
            if here.is_empty() {
                posts.remove(&dir);
            }
        }
        drop(posts);
        self.recursive
            .fetch_sub(usize::from(post.recursive), Ordering::AcqRel);
        self.standing.fetch_sub(1, Ordering::AcqRel);
    }

    fn at(&self, dir: NodeId) -> Vec<Arc<Post>> {
        self.posts.lock().get(&dir).cloned().unwrap_or_default()
    }

    fn overflow_all(&self) {
        for post in self.posts.lock().values().flatten() {
            post.overflow();
        }
    }
}

impl Inner {
    /// Begins a watch of a folder.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        _share: &Share,
        dir: NodeId,
        filter: ChangeFilter,
        recursive: bool,
    ) -> Result<Watch, VfsError> {
        if self.repo.get(dir).await?.kind != NodeKind::Directory {
            return Err(VfsError::NotDirectory);
        }
        let watch = self.watches.state.join(dir, filter, recursive);
        // Other nodes tell what happens there from now on.
        self.ask_for_changes().await;
        Ok(watch)
    }

    /// A name appeared or went.
    pub(crate) fn notify_entry(
        self: &Arc<Self>,
        action: ChangeAction,
        dir: NodeId,
        name: &str,
        is_dir: bool,
    ) {
        if self.watches.state.idle() {
            return;
        }
        self.publish([Event::Entry(EntryEvent {
            action,
            bits: name_bit(is_dir),
            dir,
            name: name.to_owned(),
        })]);
    }

    /// A name changed: within a folder a pair, between folders one that went and one that appeared (MS-FSA 2.1.5.15.11). A document's
    /// new name is told as modified too, as Windows does.
    pub(crate) fn notify_renamed(
        self: &Arc<Self>,
        from_dir: NodeId,
        from: &str,
        to_dir: NodeId,
        to: &str,
        is_dir: bool,
    ) {
        if self.watches.state.idle() {
            return;
        }
        let (old, new) = if from_dir == to_dir {
            (ChangeAction::RenamedFrom, ChangeAction::RenamedTo)
        } else {
            (ChangeAction::Removed, ChangeAction::Added)
        };
        let entry = |action, bits, dir, name: &str| {
            Event::Entry(EntryEvent {
                action,
                bits,
                dir,
                name: name.to_owned(),
            })
        };
        let bits = name_bit(is_dir);
        let modified = ChangeFilter::ATTRIBUTES | ChangeFilter::CREATION;
        self.publish([
            entry(old, bits, from_dir, from),
            entry(new, bits, to_dir, to),
            if is_dir {
                Event::FolderMoved
            } else {
                entry(ChangeAction::Modified, modified, to_dir, to)
            },
        ]);
    }

    /// Content, attributes or a stream of a node changed; `filter_bits` say what (MS-SMB2 2.2.35).
    pub(crate) fn notify_content(
        self: &Arc<Self>,
        content: ContentId,
        stream: Option<&str>,
        filter_bits: u32,
    ) {
        let action = match stream {
            Some(_) => ChangeAction::StreamModified,
            None => ChangeAction::Modified,
        };
        self.notify_node(action, content.node, stream, filter_bits);
    }

    /// As [`Inner::notify_content`], for a stream that appeared or went.
    pub(crate) fn notify_node(
        self: &Arc<Self>,
        action: ChangeAction,
        node: NodeId,
        stream: Option<&str>,
        bits: u32,
    ) {
        if self.watches.state.idle() {
            return;
        }
        self.publish([Event::Node {
            action,
            bits,
            node,
            stream: stream.map(str::to_owned),
        }]);
    }

    /// A folder is being deleted: its watches end.
    pub(crate) fn notify_dir_gone(self: &Arc<Self>, dir: NodeId) {
        if !self.watches.state.idle() {
            self.publish([Event::FolderGone(dir)]);
        }
    }

    fn publish<const N: usize>(self: &Arc<Self>, events: [Event; N]) {
        self.tell_elsewhere(&events);
        self.publish_here(events);
    }

    fn publish_here(self: &Arc<Self>, events: impl IntoIterator<Item = Event>) {
        if self.watches.state.standing.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut queue = self.watches.state.queue.lock();
        queue.events.extend(events);
        if queue.events.len() > EVENTS_MAX {
            queue.events.clear();
            drop(queue);
            self.watches.state.overflow_all();
            return;
        }
        if !std::mem::replace(&mut queue.draining, true) {
            self.runtime.spawn(Arc::clone(self).tell_all());
        }
    }

    /// Tells events until none is left.
    async fn tell_all(self: Arc<Self>) {
        loop {
            let event = {
                let mut queue = self.watches.state.queue.lock();
                let Some(event) = queue.events.pop_front() else {
                    queue.draining = false;
                    return;
                };
                event
            };
            self.tell(event).await;
        }
    }

    async fn tell(&self, event: Event) {
        match event {
            Event::Entry(entry) => self.tell_entry(entry).await,
            Event::FolderMoved => self.watches.state.places.lock().clear(),
            Event::FolderGone(dir) => {
                for post in self.watches.state.at(dir) {
                    post.close();
                }
            }
            Event::Node {
                action,
                bits,
                node,
                stream,
            } => {
                // A node without a name is nobody's entry any more.
                let path = self.repo.path_of(node).await.unwrap_or_default();
                if let Some((dir, name)) = path.last() {
                    let name = match stream {
                        Some(stream) => format!("{name}:{stream}"),
                        None => name.to_string(),
                    };
                    let entry = EntryEvent {
                        action,
                        bits,
                        dir: *dir,
                        name,
                    };
                    self.tell_entry(entry).await;
                }
            }
        }
    }

    async fn tell_entry(&self, event: EntryEvent) {
        let hub = &self.watches.state;
        for post in hub.at(event.dir) {
            let change = Change {
                action: event.action,
                path: event.name.clone(),
            };
            post.put(event.bits, change);
        }
        if hub.recursive.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut path = event.name;
        for (folder, name) in self.place_of(event.dir).await.iter().rev() {
            path = format!("{name}/{path}");
            for post in hub.at(*folder).iter().filter(|post| post.recursive) {
                let change = Change {
                    action: event.action,
                    path: path.clone(),
                };
                post.put(event.bits, change);
            }
        }
    }

    async fn place_of(&self, dir: NodeId) -> Place {
        if let Some(known) = self.watches.state.places.lock().get(&dir) {
            return Arc::clone(known);
        }
        let place = Arc::new(self.repo.path_of(dir).await.unwrap_or_default());
        let mut places = self.watches.state.places.lock();
        if places.len() >= PLACES_MAX {
            places.clear();
        }
        places.insert(dir, Arc::clone(&place));
        place
    }
}

fn name_bit(is_dir: bool) -> u32 {
    if is_dir {
        ChangeFilter::DIR_NAME
    } else {
        ChangeFilter::FILE_NAME
    }
}
