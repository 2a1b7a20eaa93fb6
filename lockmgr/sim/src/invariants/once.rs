//! I10: a request that is asked again, because whoever had it is gone, is carried out once.

use std::fmt::Debug;

/// `twice`: a request that found its own lock there, and no answer kept for it.
///
/// # Errors
/// There is one.
pub fn check<T: Debug>(document: u64, twice: Option<T>) -> Result<(), String> {
    match twice {
        Some(request) => Err(format!(
            "{request:?} of document {document} was carried out already, and asked again as if not"
        )),
        None => Ok(()),
    }
}
