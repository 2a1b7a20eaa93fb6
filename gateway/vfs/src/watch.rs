//! Change notification: what happened in a folder, told to those who watch it.

use sluice_repo::NodeId;

/// What a watcher wants to hear of (bits as in MS-SMB2 2.2.35 CompletionFilter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeFilter(pub u32);

/// What happened (MS-FSCC 2.7.1, and the bits of it that a filter selects).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Watch {
    /// The watched folder.
    pub fn dir(&self) -> NodeId {
        self.dir
    }

    /// Waits for changes and returns all that came since the last call, in order; `Ok(None)`: so many came that the list was
    /// dropped, read the folder anew. [`crate::VfsError::DeletePending`]: the folder itself is being deleted.
    pub async fn next(&mut self) -> Result<Option<Vec<Change>>, crate::VfsError> {
        todo!()
    }
}
