//! The mark that says whose a content store is. Owns its text; never where it is kept.

use sluice_repo::{RepoError, Result};

/// Name of the mark beside the objects.
pub(crate) const NAME: &str = "store.json";

/// The mark of a repository.
pub(crate) fn text(repository: &str) -> String {
    format!("{{\"layout\":1,\"repository\":\"{repository}\"}}\n")
}

/// Refuses the mark of another repository; `place` is named in the refusal.
pub(crate) fn check(found: &[u8], repository: &str, place: &str) -> Result<()> {
    if found.trim_ascii() == text(repository).trim_ascii().as_bytes() {
        return Ok(());
    }
    Err(RepoError::InUse(format!(
        "{place} holds the content of another repository; give this one a place of its own, or remove {NAME} there if it is to be taken over"
    )))
}
