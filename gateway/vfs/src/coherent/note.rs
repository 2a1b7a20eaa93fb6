//! What the caches of two nodes say to each other.

use serde::{Deserialize, Serialize};
use sluice_lockmgr::Note;

use super::unit::Unit;

/// Most units of one note.
pub(super) const UNITS_MAX: usize = 4096;

/// See the module's head.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum MetaNote {
    /// The sender caches from now on: it is to be told what the others change.
    Hello,
    /// The sender is about to change these.
    Hold(Vec<Unit>),
    /// The sender has changed them.
    Release(Vec<Unit>),
    /// The sender is about to change anything.
    HoldAll,
    /// It has done so.
    ReleaseAll,
}

impl From<MetaNote> for Note {
    fn from(note: MetaNote) -> Note {
        // Numbers into memory: it can't fail. If it did, the receiver would refuse the empty note.
        let bytes = postcard::to_stdvec(&note).unwrap_or_default();
        Note::Metadata { bytes }
    }
}
